"""The answers, in SQLite: the one place that speaks SQL.

`AnswerStore` is the database, with one method for each thing that is done to it. `StoreQueue` runs these methods for
many participants at once: what waits goes into one transaction together, and nobody hears of success before that is on
the disk. So an answer that was acknowledged survives a crash, and two hundred answers cost little more than one.
"""

import asyncio
import hashlib
import math
import queue
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from koala.core.errors import UserError
from koala.study.trials import AttentionCheck

Result = TypeVar("Result")

_VERSION = 1
_SCHEMA = """
CREATE TABLE participant (
    id INTEGER PRIMARY KEY,
    session BLOB NOT NULL UNIQUE,    -- SHA-256 of the cookie, so that the database lets nobody in
    language TEXT NOT NULL,
    started_at REAL NOT NULL,        -- seconds since 1970, like all times
    seen_at REAL NOT NULL,
    asked_at REAL,                   -- when the questions about them were answered
    practised_at REAL
) STRICT;
CREATE TABLE reply (
    participant INTEGER NOT NULL REFERENCES participant,
    question TEXT NOT NULL,
    reply TEXT NOT NULL,
    PRIMARY KEY (participant, question)
) STRICT, WITHOUT ROWID;
CREATE TABLE trial (
    participant INTEGER NOT NULL REFERENCES participant,
    position INTEGER NOT NULL,       -- from 1
    picture TEXT,                    -- NULL in a check
    expected TEXT,                   -- in a check, the answer that is asked for
    shown_at REAL,
    answered_at REAL,
    answer TEXT CHECK (answer IN ('real', 'fake', 'none')),
    time_ms INTEGER,                 -- from picture to answer, as the participant's browser measured it
    PRIMARY KEY (participant, position)
) STRICT, WITHOUT ROWID;
"""
_BUSY_S = 5.0  # so long is waited for another program that has the right to write
_WAIT_S = 1800.0  # who has been away longer is not waited for
_COUNT_S = 60.0  # so old may a count of all answers be, kept up with who came since
_TOGETHER = 512  # jobs in a transaction at most


@dataclass(frozen=True)
class Participant:
    """Where a participant is.

    Attributes:
        id: number.
        language: code.
        asked: whether the questions about them are answered.
        practised: whether the practice is over.
        total: trials in all.
        answered: trials answered.
    """

    id: int
    language: str
    asked: bool
    practised: bool
    total: int
    answered: int

    @property
    def position(self) -> int:
        """Of the trial that is next, from 1; one beyond the last when all are answered."""
        return self.answered + 1

    @property
    def finished(self) -> bool:
        """Whether all is answered."""
        return self.answered == self.total


class StudyDatabase:
    """The file of a study's database, and transactions in it.

    Args:
        path: of the file; it is made when it is absent.

    Raises:
        UserError: it is no such database, cannot be written, or another program keeps it to itself.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, _BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if not version:
                self._db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {_VERSION};COMMIT;")
        except sqlite3.DatabaseError as error:
            self._db.close()
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise UserError(f"{path} is kept by another program; close it there and try again") from None
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY:  # the low byte says which; the rest, why
                raise UserError(f"{path} cannot be written; see who may write there, or copy the study") from None
            raise UserError(f"{path} cannot be used as a database ({error}); move it away or copy it again") from None
        if version not in (0, _VERSION):
            self._db.close()
            raise UserError(f"{path} was made by another koala (version {version} of its tables); use that one")
        self._path, self._inode = path, path.stat().st_ino

    def close(self) -> None:
        """Put everything into the one file, and let go of it."""
        self._db.close()

    @contextmanager
    def transaction(self, writes: bool = True) -> Iterator[None]:
        """All or nothing; on the disk when it ends.

        Args:
            writes: wait for the right to write before anything is read, which later would not be waited for; without,
                all is read as it is at one time, beside whoever writes.

        Raises:
            sqlite3.OperationalError: another program keeps that right for 5 s, or the file has been taken away.
        """
        if not self._is_in_place():
            raise sqlite3.OperationalError("the file is not where it was: what is written would be lost")
        self._db.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _is_in_place(self) -> bool:
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A part of a transaction that can fail alone."""
        self._db.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK TO part")
            raise
        finally:
            self._db.execute("RELEASE part")


class AnswerStore(StudyDatabase):
    """Participants and answers of a study. Methods are called by one thread at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._counts: Counter[str] = Counter()
        self._counted_at = -math.inf

    # ------------------------------------------------------------ participants

    def add_participant(
        self,
        session: str,
        language: str,
        trials: Callable[[int, Mapping[str, int]], Sequence[str | AttentionCheck]],
        now: float,
    ) -> None:
        """Let a participant in; one who is in already stays as they are.

        Args:
            session: their cookie.
            language: code.
            trials: given the participant's number and `picture_counts`, what they are shown.
            now: the time.
        """
        row = self._db.execute(
            "INSERT INTO participant (session, language, started_at, seen_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (session) DO NOTHING RETURNING id",
            (_hashed(session), language, now, now),
        ).fetchone()
        if row is None:
            return
        shown = trials(row[0], self.picture_counts(now))
        self._counts.update(trial for trial in shown if isinstance(trial, str))
        self._db.executemany(
            "INSERT INTO trial (participant, position, picture, expected) VALUES (?, ?, ?, ?)",
            [
                (row[0], position, None, trial.expected)
                if isinstance(trial, AttentionCheck)
                else (row[0], position, trial, None)
                for position, trial in enumerate(shown, 1)
            ],
        )

    def participant(self, session: str) -> Participant | None:
        """Who holds a cookie."""
        row = self._db.execute(
            "SELECT id, language, asked_at IS NOT NULL, practised_at IS NOT NULL, count(*), count(answer)"
            " FROM participant JOIN trial ON trial.participant = id WHERE session = ? GROUP BY id",
            (_hashed(session),),
        ).fetchone()
        return Participant(row[0], row[1], bool(row[2]), bool(row[3]), row[4], row[5]) if row else None

    def save_replies(self, participant: int, replies: Mapping[str, str], now: float) -> None:
        """Keep what a participant says about themselves; the first time counts."""
        asked = self._db.execute(
            "UPDATE participant SET asked_at = ?, seen_at = ? WHERE id = ? AND asked_at IS NULL",
            (now, now, participant),
        )
        if asked.rowcount:
            self._db.executemany(
                "INSERT INTO reply VALUES (?, ?, ?)",
                [(participant, question, reply) for question, reply in replies.items()],
            )

    def mark_practised(self, participant: int, now: float) -> None:
        """Note that the practice is over."""
        self._db.execute(
            "UPDATE participant SET practised_at = coalesce(practised_at, ?), seen_at = ? WHERE id = ?",
            (now, now, participant),
        )

    # ------------------------------------------------------------ trials

    def trial(self, participant: int, position: int) -> str | AttentionCheck | None:
        """What is judged at a position: a picture's name or a check."""
        row = self._db.execute(
            "SELECT picture, expected FROM trial WHERE participant = ? AND position = ?", (participant, position)
        ).fetchone()
        return None if row is None else row[0] or AttentionCheck(row[1])

    def mark_shown(self, participant: int, position: int, now: float) -> None:
        """Note when a trial was shown first."""
        self._db.execute(
            "UPDATE trial SET shown_at = ? WHERE participant = ? AND position = ? AND shown_at IS NULL",
            (now, participant, position),
        )

    def save_answer(self, participant: int, position: int, answer: str, time_ms: int | None, now: float) -> bool:
        """Keep an answer, if it is the one that is awaited, to what was shown; any other changes nothing.

        Args:
            participant: number.
            position: of the trial.
            answer: "real", "fake", or "none" when the time was over.
            time_ms: how long it took, if the browser says so.
            now: the time.

        Returns:
            Whether it was kept.
        """
        kept = self._db.execute(
            "UPDATE trial SET answer = ?, time_ms = ?, answered_at = ? WHERE participant = ? AND position = ?"
            " AND shown_at IS NOT NULL AND position = (SELECT 1 + count(answer) FROM trial WHERE participant = ?)",
            (answer, time_ms, now, participant, position, participant),
        )
        self._db.execute("UPDATE participant SET seen_at = ? WHERE id = ?", (now, participant))
        return kept.rowcount == 1

    def judgements(self, participant: int) -> list[tuple[str, str]]:
        """Picture and answer of all that a participant judged, without checks."""
        return self._db.execute(
            "SELECT picture, answer FROM trial WHERE participant = ? AND picture IS NOT NULL AND answer IS NOT NULL"
            " ORDER BY position",
            (participant,),
        ).fetchall()

    # ------------------------------------------------------------ all of it

    def check_writable(self) -> None:
        """Write nothing, but ask for the right to.

        Raises:
            sqlite3.Error: nothing can be written.
        """
        self._db.execute("UPDATE participant SET id = id WHERE 0")

    def picture_counts(self, now: float) -> Mapping[str, int]:
        """Answers to each picture, with those that are awaited from participants who were seen lately."""
        if now - self._counted_at > _COUNT_S:
            self._counts = Counter(
                dict(
                    self._db.execute(
                        "SELECT picture, count(*) FROM trial JOIN participant ON participant.id = trial.participant"
                        " WHERE picture IS NOT NULL AND (answer IS NOT NULL OR seen_at > ?) GROUP BY picture",
                        (now - _WAIT_S,),
                    ).fetchall()
                )
            )
            self._counted_at = now
        return self._counts

    def participants(self) -> list[dict[str, Any]]:
        """Everybody, with their replies as "reply NAME" and how many trials they answered."""
        people = self._rows(
            "SELECT id AS participant, language, started_at, asked_at, practised_at, seen_at, count(*) AS trials,"
            " count(answer) AS answered, sum(expected IS NOT NULL AND answer IS NOT NULL AND answer <> expected)"
            " AS failed_checks FROM participant JOIN trial ON trial.participant = id GROUP BY id ORDER BY id"
        )
        of_participant = {row["participant"]: row for row in people}
        for row in self._rows("SELECT * FROM reply"):
            of_participant[row["participant"]][f"reply {row['question']}"] = row["reply"]
        return people

    def answers(self) -> list[dict[str, Any]]:
        """Every answer that was given, checks among them, in the order of participants and positions."""
        return self._rows("SELECT * FROM trial WHERE answer IS NOT NULL ORDER BY participant, position")

    def to_bytes(self) -> bytes:
        """The database as it is now, as one file."""
        with closing(sqlite3.connect(":memory:")) as memory:
            self._db.backup(memory)
            memory.execute("PRAGMA journal_mode = DELETE")
            return memory.serialize()

    def _rows(self, query: str) -> list[dict[str, Any]]:
        cursor = self._db.execute(query)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]


# ---------------------------------------------------------------- many at once


@dataclass
class _Job(Generic[Result]):
    work: Callable[[AnswerStore], Result]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Result]"
    result: Any = None
    error: Exception | None = None

    def run(self, store: AnswerStore) -> None:
        """Do it as a part of a transaction; what it says is told later."""
        try:
            with store.savepoint():
                self.result = self.work(store)
        except Exception as error:
            self.error = error

    def tell(self) -> None:
        """Tell who waits, in their own thread."""
        if self.future.cancelled():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class StoreQueue:
    """Runs what is to be done with the store in a thread of its own, in transactions of all that waits.

    Args:
        store: closed at the end.
    """

    def __init__(self, store: AnswerStore) -> None:
        self._store = store
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[AnswerStore], Result]) -> Result:
        """Do something with the store.

        Returns:
            What `work` returns, once it is on the disk.

        Raises:
            Exception: what `work` raises; or that it could not be written, and then nothing of it was.
        """
        loop = asyncio.get_running_loop()
        job = _Job(work, loop, loop.create_future())
        self._jobs.put(job)
        return await job.future

    def close(self) -> None:
        """Do what waits, and close the store."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        open_ = True
        while open_:
            jobs = [self._jobs.get()]
            while len(jobs) < _TOGETHER and not self._jobs.empty():
                jobs.append(self._jobs.get())
            open_ = None not in jobs
            self._commit([job for job in jobs if job is not None])
        self._store.close()

    def _commit(self, jobs: list[_Job]) -> None:
        try:
            with self._store.transaction():
                for job in jobs:
                    job.run(self._store)
        except Exception as error:  # a full disk, or whatever it is: nothing was kept, and who waits must hear of it
            for job in jobs:
                job.error = error
        for job in jobs:
            job.loop.call_soon_threadsafe(job.tell)


def _hashed(session: str) -> bytes:
    return hashlib.sha256(session.encode()).digest()

"""The answers: kept once, kept for good, and only when they are awaited."""

import asyncio
import sqlite3
import threading
from contextlib import closing

import pytest

from koala.core.errors import UserError
from koala.study import store as store_module
from koala.study.store import AnswerStore, StoreQueue
from koala.study.trials import AttentionCheck

TRIALS = ["a", AttentionCheck("fake"), "b"]


@pytest.fixture
def store(tmp_path) -> AnswerStore:
    opened = AnswerStore(tmp_path / "answers.sqlite")
    opened.add_participant("me", "en", lambda *_: TRIALS, 0.0)
    yield opened
    opened.close()


def test_a_participant_goes_from_trial_to_trial(store):
    me = store.participant("me")
    assert (me.position, me.total, me.finished, me.asked, me.practised) == (1, 3, False, False, False)
    assert [store.trial(me.id, position) for position in range(5)] == [None, "a", AttentionCheck("fake"), "b", None]
    for position, answer in enumerate(("real", "fake", "none"), 1):
        store.mark_shown(me.id, position, 0.5)
        assert store.save_answer(me.id, position, answer, 900, 1.0)
    assert store.participant("me").finished
    assert store.judgements(me.id) == [("a", "real"), ("b", "none")]
    assert [row["answer"] for row in store.answers()] == ["real", "fake", "none"]


def test_an_answer_counts_once_and_in_its_turn(store):
    me = store.participant("me").id
    assert not store.save_answer(me, 1, "real", None, 1.0), "never shown"
    store.mark_shown(me, 1, 0.5)
    store.mark_shown(me, 2, 0.5)
    assert not store.save_answer(me, 2, "real", None, 1.0), "not yet"
    assert not store.save_answer(me, 9, "real", None, 1.0), "never"
    assert store.save_answer(me, 1, "real", 700, 1.0)
    assert not store.save_answer(me, 1, "fake", 800, 2.0), "again"
    (row,) = store.answers()
    assert (row["answer"], row["time_ms"], row["answered_at"]) == ("real", 700, 1.0)


def test_agreeing_twice_makes_one_participant(store):
    store.add_participant("me", "nl", lambda *_: ["c"], 1.0)
    assert store.participant("me").language == "en"
    assert len(store.participants()) == 1
    assert store.participant("you") is None


def test_replies_count_once(store):
    me = store.participant("me").id
    store.save_replies(me, {"expert": "no", "age": "30"}, 1.0)
    store.save_replies(me, {"expert": "yes"}, 2.0)
    (row,) = store.participants()
    assert (row["reply expert"], row["reply age"], row["asked_at"]) == ("no", "30", 1.0)


def test_pictures_are_counted_with_those_that_are_awaited(tmp_path):
    store = AnswerStore(tmp_path / "answers.sqlite")
    store.add_participant("early", "en", lambda *_: ["a", "b"], 0.0)
    store.mark_shown(store.participant("early").id, 1, 5.0)
    store.save_answer(store.participant("early").id, 1, "real", None, 10.0)
    seen = []
    store.add_participant("now", "en", lambda _, counts: seen.append(dict(counts)) or ["b", "c"], 20.0)
    store.add_participant("next", "en", lambda _, counts: seen.append(dict(counts)) or ["a"], 30.0)
    assert seen == [{"a": 1, "b": 1}, {"a": 1, "b": 2, "c": 1}]
    late = AnswerStore(tmp_path / "answers.sqlite")
    assert dict(late.picture_counts(4000.0)) == {"a": 1}, "who has gone is not waited for"
    late.close()
    store.close()


def test_failed_checks_are_counted(store):
    me = store.participant("me").id
    for position, answer in enumerate(("real", "real", "real"), 1):
        store.mark_shown(me, position, 0.5)
        store.save_answer(me, position, answer, None, 1.0)
    assert store.participants()[0]["failed_checks"] == 1


def test_the_cookie_does_not_stand_in_the_database(store, tmp_path):
    store.add_participant("a very secret cookie", "en", lambda *_: TRIALS, 0.0)
    assert b"a very secret cookie" not in store.to_bytes()
    assert b"a very secret cookie" not in (tmp_path / "answers.sqlite-wal").read_bytes()


def test_a_copy_holds_everything(store, tmp_path):
    store.mark_shown(store.participant("me").id, 1, 0.5)
    store.save_answer(store.participant("me").id, 1, "real", None, 1.0)
    (tmp_path / "copy.sqlite").write_bytes(store.to_bytes())
    copy = AnswerStore(tmp_path / "copy.sqlite")
    assert copy.answers() == store.answers()
    copy.close()


def test_every_commit_waits_for_the_disk(store):
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be one" * 50, None])
def test_what_is_no_database_of_ours_is_refused(tmp_path, content):
    path = tmp_path / "answers.sqlite"
    if content:
        path.write_bytes(content)
    else:
        database = sqlite3.connect(path)
        database.execute("PRAGMA user_version = 99")
        database.close()
    with pytest.raises(UserError, match=r"cannot be used as a database|made by another koala"):
        AnswerStore(path)


def test_what_cannot_be_written_is_said(tmp_path, monkeypatch):
    def read_only(path, *args, **kwargs):  # root may write everywhere
        return connect(f"file:{path}?mode=ro", *args, uri=True, **kwargs)

    AnswerStore(tmp_path / "answers.sqlite").close()
    database, connect = sqlite3.connect(tmp_path / "answers.sqlite"), sqlite3.connect
    database.execute("PRAGMA journal_mode = DELETE")  # as a copy has it, so that opening must write
    database.close()
    monkeypatch.setattr(sqlite3, "connect", read_only)
    with pytest.raises(UserError, match=r"answers\.sqlite cannot be written; see who may write there"):
        AnswerStore(tmp_path / "answers.sqlite")


# ---------------------------------------------------------------- many at once


class Counting(AnswerStore):
    """Counts transactions, and fails to commit when it is told to."""

    commits, full = 0, False

    def transaction(self, writes=True):
        self.commits += 1
        if self.full:
            raise sqlite3.OperationalError("database or disk is full")
        return super().transaction(writes)


@pytest.fixture
def queue(tmp_path):
    store = Counting(tmp_path / "answers.sqlite")
    opened = StoreQueue(store)
    yield opened
    opened.close()


def test_what_waits_is_written_together(queue):
    async def crowd():
        await asyncio.gather(
            *(queue.run(lambda s, n=n: s.add_participant(f"p{n}", "en", lambda *_: TRIALS, 0.0)) for n in range(300))
        )
        return await queue.run(lambda store: len(store.participants()))

    assert asyncio.run(crowd()) == 300
    assert queue._store.commits < 100


def test_one_that_fails_takes_nobody_with_it(queue):
    def half(store):
        store.add_participant("half", "en", lambda *_: TRIALS, 0.0)
        raise LookupError("in the middle")

    async def both():
        works = [lambda s: s.add_participant("one", "en", lambda *_: TRIALS, 0.0), half]
        return await asyncio.gather(*map(queue.run, works), return_exceptions=True)

    assert [type(result) for result in asyncio.run(both())] == [type(None), LookupError]
    found = asyncio.run(queue.run(lambda store: (store.participant("one"), store.participant("half"))))
    assert found[0] is not None
    assert found[1] is None


def test_a_database_that_another_program_keeps_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_BUSY_S", 0.1)
    path = tmp_path / "answers.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(
            UserError, match=r"answers\.sqlite is kept by another program; close it there and try again"
        ):
            AnswerStore(path)
    AnswerStore(path).close()


def test_whatever_happens_nobody_waits_for_ever(queue, monkeypatch):
    """The thread that writes goes on, and who waits hears of it."""
    with monkeypatch.context() as patch:
        patch.setattr(type(queue._store), "transaction", lambda _: (_ for _ in ()).throw(OSError("stale file handle")))
        with pytest.raises(OSError, match="stale"):
            asyncio.run(queue.run(lambda store: store.check_writable()))
    asyncio.run(queue.run(lambda store: store.check_writable()))


def test_who_writes_waits_for_another_program(queue, tmp_path):
    """First reading and then writing would be refused at once where somebody else is writing."""
    with closing(sqlite3.connect(tmp_path / "answers.sqlite", isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(0.3, other.execute, ["COMMIT"]).start()

        def come(store):
            assert store.participant("one") is None
            store.add_participant("one", "en", lambda *_: TRIALS, 0.0)
            return store.participant("one")

        assert asyncio.run(queue.run(come)).total == 3


def test_reading_waits_for_nobody(queue, tmp_path):
    with closing(sqlite3.connect(tmp_path / "answers.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store = AnswerStore(tmp_path / "answers.sqlite")
        with store.transaction(writes=False):
            assert store.participants() == []
        store.close()


def test_a_database_that_was_taken_away_takes_no_answer(queue, tmp_path):
    """What is written to a file without a name is lost when the server ends."""
    path = tmp_path / "answers.sqlite"
    path.rename(tmp_path / "elsewhere")
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError, match="not where it was"):
            asyncio.run(queue.run(lambda store: store.check_writable()))
        path.write_bytes(b"another one")
    path.unlink()
    (tmp_path / "elsewhere").rename(path)
    asyncio.run(queue.run(lambda store: store.add_participant("one", "en", lambda *_: TRIALS, 0.0)))


def test_nothing_is_acknowledged_that_is_not_written(queue):
    queue._store.full = True
    with pytest.raises(sqlite3.OperationalError, match="full"):
        asyncio.run(queue.run(lambda s: s.add_participant("one", "en", lambda *_: TRIALS, 0.0)))
    queue._store.full = False
    assert asyncio.run(queue.run(lambda store: store.participant("one"))) is None

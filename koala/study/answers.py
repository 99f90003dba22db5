"""What was answered, as tables: from a study's database, or from a file that a Google form collected."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from koala.config.study import ReportStudy
from koala.core.errors import UserError
from koala.core.wording import counted
from koala.study.folder import StudyFolder
from koala.study.statistics import AnswerTable
from koala.study.store import AnswerStore

_GRACE_S = 0.5  # a time limit is measured by browsers
_WORDS = {"real": 1.0, "fake": 0.0}


@dataclass(frozen=True)
class StudyAnswers:
    """Everything that was answered.

    Attributes:
        versions: "original", then the models.
        answers: a row for each picture that somebody judged: participant, position, scene, version, picture, label,
            real (1, 0, or NaN where there was no answer in time), seconds.
        people: a row for each participant: participant, trials, answered, failed_checks, started_at, seen_at, and their
            replies as "reply NAME".
    """

    versions: tuple[str, ...]
    answers: pd.DataFrame
    people: pd.DataFrame

    def table(self) -> AnswerTable:
        """Participants and scenes, for the statistics."""
        given = self.answers.dropna(subset="real")
        versions = pd.Categorical(given["version"], categories=self.versions).codes
        return AnswerTable.of(given["participant"], given["scene"], versions, given["real"] == 1)

    def of(self, participants: pd.Series) -> "StudyAnswers":
        """Of some participants only."""
        answers = self.answers[self.answers["participant"].isin(participants)]
        return replace(self, answers=answers, people=self.people[self.people["participant"].isin(participants)])

    @property
    def questions(self) -> list[str]:
        """What participants were asked about themselves."""
        return [column.removeprefix("reply ") for column in self.people if column.startswith("reply ")]


def read_study(study: StudyFolder) -> StudyAnswers:
    """Read a study's database, also while it is served.

    Raises:
        UserError: there is none.
    """
    if not study.answers_path.exists():
        raise UserError(f"{study.path} holds no answers yet; koala study serve collects them")
    store = AnswerStore(study.answers_path)
    with store.transaction(writes=False):
        rows, people = store.answers(), store.participants()
    store.close()
    manifest = study.manifest
    answers = pd.DataFrame(
        [
            {
                "participant": row["participant"],
                "position": row["position"],
                "scene": (picture := manifest.find_picture(row["picture"])).scene,
                "version": picture.version,
                "picture": picture.name,
                "label": picture.label,
                "real": _WORDS.get(row["answer"], np.nan),
                "seconds": _seconds(row),
            }
            for row in rows
            if row["picture"] is not None
        ],
        columns=["participant", "position", "scene", "version", "picture", "label", "real", "seconds"],
    )
    if study.settings.time_limit_s:
        answers.loc[answers["seconds"] > study.settings.time_limit_s + _GRACE_S, "real"] = np.nan
    columns = ["participant", "trials", "answered", "failed_checks", "started_at", "seen_at"]
    return StudyAnswers(manifest.versions, answers, pd.DataFrame(people, columns=None if people else columns))


def read_form_csv(path: Path, originals: str) -> StudyAnswers:
    """Read the file of a Google form: a row a participant, a column a picture, "Real" or "Fake" in it.

    Args:
        path: a CSV.
        originals: columns of the original pictures, separated by commas; the other pictures are coloured ones.

    Raises:
        UserError: it is no such file, or has no such columns.
    """
    try:
        read = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name the CSV that Google Forms gives") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path} is not a CSV ({error}); name the CSV that Google Forms gives") from None
    words = read.apply(lambda column: column.str.strip().str.lower())
    pictures = [name for name in read if set(words[name]) <= {*_WORDS, ""} and set(words[name]) & _WORDS.keys()]
    if not pictures:
        raise UserError(f'{path} has no column with "Real" and "Fake" in it; name the CSV that Google Forms gives')
    real_pictures = [name.strip() for name in originals.split(",") if name.strip()]
    for name in real_pictures:
        if name not in pictures:
            near = get_close_matches(name, pictures, n=1)
            raise UserError(
                f"{path} has no picture {name}; "
                + (f"did you mean {near[0]}?" if near else f"known: {', '.join(pictures)}")
            )
    answers = words[pictures].rename_axis("participant").reset_index().melt("participant", var_name="scene")
    answers["version"] = np.where(answers["scene"].isin(real_pictures), "original", "recoloured")
    answers["picture"], answers["label"], answers["position"], answers["seconds"] = answers["scene"], "", 0, np.nan
    answers["real"] = answers["value"].map(_WORDS)
    others = [name for name in read.columns[1:] if name not in pictures]
    people = read[others].rename(columns=lambda name: f"reply {name}")
    people = people.assign(participant=read.index, failed_checks=0, trials=len(pictures))
    people["answered"] = (
        people["participant"].map(answers.dropna(subset="real").groupby("participant").size()).fillna(0)
    )
    return StudyAnswers(("original", "recoloured"), answers.drop(columns="value"), people)


def exclude_participants(collected: StudyAnswers, settings: ReportStudy) -> tuple[StudyAnswers, list[str]]:
    """Leave out those whose answers do not count.

    Returns:
        What is left, and in words who was left out.

    Raises:
        UserError: an exclusion names a question that was not asked.
    """
    people, said = collected.people, []
    out = people["failed_checks"] > settings.failed_checks
    if out.any():
        most = settings.failed_checks
        failed = f"more than {counted(most, 'attention check')}" if most else "an attention check"
        said.append(f"{counted(out.sum(), 'participant')} failed {failed}")
    for words in settings.exclude:
        question, _, reply = words.partition("=")
        if question not in collected.questions:
            known = ", ".join(collected.questions) or "none"
            raise UserError(f"--exclude {words}: participants were not asked {question}; known: {known}")
        these = (people[f"reply {question}"] == reply) & ~out
        said.append(f"{counted(these.sum(), 'participant')} answered {reply} to {question}")
        out |= these
    left = collected.of(people["participant"][~out])
    if late := int(left.answers["real"].isna().sum()):
        said.append(f"{counted(late, 'picture')} {'was' if late == 1 else 'were'} not answered, or not in time")
    return left, said


def _seconds(row: Mapping[str, Any]) -> float:
    """How long an answer took, as the browser measured it or else the server; NaN where neither did."""
    if row["time_ms"] is not None:
        return row["time_ms"] / 1e3
    times = row["shown_at"], row["answered_at"]  # older servers took answers to pictures that were never shown
    return np.nan if None in times else times[1] - times[0]

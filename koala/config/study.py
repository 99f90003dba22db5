"""Settings of the realness study."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import OmitArgPrefixes, Positional, Suppress, UseAppendAction, arg

from koala.config.fields import Count, Strict


@dataclass(frozen=True)
class Question(Strict):
    """Something that participants are asked about themselves; its words stand in the study's language files."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    """What it is called in the answers and in the language files."""
    choices: tuple[str, ...] = ()
    """Names of the answers to choose from; without any, the answer is free text."""
    required: bool = True
    """Whether it must be answered."""


_QUESTIONS = (
    Question("expert", ("no", "hobby", "profession")),
    Question("color_vision", ("good", "limited", "unknown")),
)


@dataclass(frozen=True)
class StudySettings(Strict):
    """What participants of a realness study meet: the study.toml in its folder, for editing."""

    shown: Count = 24
    """Pictures that each participant judges."""
    original_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of originals among them."""
    checks: Annotated[int, Field(ge=0, le=20)] = 2
    """Attention checks for each participant."""
    time_limit_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds for each picture; 0 sets no limit."""
    practice: bool = True
    """Begin with a picture that does not count."""
    show_score: bool = True
    """Tell participants at the end how many they judged rightly."""
    language: str = "en"
    """Language for those whose browser asks for none that there is."""
    questions: Annotated[tuple[Question, ...], Suppress] = _QUESTIONS
    """What participants are asked about themselves."""


@dataclass(frozen=True)
class BuildStudy(Strict):
    """Make the folder of a realness study: the same scenes by several hands, which only colour tells apart."""

    dir: Positional[Path]
    """Folder to make."""
    originals: Path
    """Photographs as they were: a folder, a list of files, a tar or a zip."""
    pictures: Annotated[tuple[str, ...], UseAppendAction] = ()
    """NAME=DIR: what a model made of them; files of the same name, but for the suffix, show the same scene."""
    scenes: Count = 48
    """Scenes to take; one more is taken to practise with."""
    select: Literal["random", "curated"] = "random"
    """random draws scenes, evenly over the labels when these are known; curated takes the first of --list."""
    list: Path | None = None
    """File with one name a line, the best first."""
    side: Count = 512
    """Long side of the pictures, in pixels; smaller where one version of a scene is smaller."""
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    """JPEG quality, always in 4:4:4."""
    lightness: Literal["own", "shared"] = "own"
    """shared gives every version of a scene the lightness (L*) of the original."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the draw of scenes."""
    study: OmitArgPrefixes[StudySettings] = field(default_factory=StudySettings)


@dataclass(frozen=True)
class ServeStudy(Strict):
    """Serve a realness study to participants' browsers."""

    dir: Positional[Path]
    """Folder of the study."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 is all."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen at."""
    url: str = ""
    """Address that participants open, if it is another, with its sub-path: https://example.org/colours/."""
    proxy: str = ""
    """Address of the proxy in front, whose word is taken for the participants' addresses."""


@dataclass(frozen=True)
class ReportStudy(Strict):
    """Analyse a realness study."""

    dir: Annotated[Path | None, Positional, arg(metavar="DIR")] = None
    """Folder of the study."""
    out: Path = Path("report")
    """Folder for the report."""
    csv: Path | None = None
    """Instead of a folder: answers that a Google form collected, one column a picture."""
    originals: str = ""
    """With --csv: columns of the original pictures, separated by commas."""
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Differences in realness smaller than this count as none, in the test of equality."""
    failed_checks: Annotated[int, Field(ge=0)] = 0
    """Attention checks that a participant may fail and still count."""
    exclude: Annotated[tuple[str, ...], UseAppendAction] = ()
    """QUESTION=ANSWER: leave out participants who answered so."""
    draws: Annotated[int, Field(ge=199)] = 4999
    """Draws of the bootstrap."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the bootstrap."""


@dataclass(frozen=True)
class PowerStudy(Strict):
    """How many participants and scenes a realness study needs, by simulation."""

    difference: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Difference in realness to be found between two models on the same scenes, or between one model and --realness."""
    realness: Annotated[float, Field(gt=0, lt=1)] = 0.45
    """Realness of the model that is compared with."""
    models: Annotated[int, Field(ge=1, le=10)] = 2
    """Models in the study; with 1 it is compared with a realness that is known."""
    participants: tuple[Count, ...] = (30, 60, 120, 240)
    """Numbers of participants to try."""
    scenes: tuple[Count, ...] = (24, 48, 96)
    """Numbers of scenes to try."""
    shown: Count = 24
    """Pictures that each participant judges."""
    original_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of originals among them."""
    simulations: Annotated[int, Field(ge=20)] = 400
    """Studies that are simulated for each combination."""
    participants_sd: Annotated[float, Field(ge=0)] = 0.6
    """How readily people answer "Real": standard deviation in logits."""
    scenes_sd: Annotated[float, Field(ge=0)] = 0.5
    """How real a scene looks in any version, in logits."""
    pictures_sd: Annotated[float, Field(ge=0)] = 0.6
    """How real one version of a scene looks, in logits."""
    tastes_sd: Annotated[float, Field(ge=0)] = 0.3
    """How people differ in what they hold of one model, in logits."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the simulation."""

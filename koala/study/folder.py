"""What a study's folder holds.

    study.toml           what participants meet; for editing
    consent.en.md ..     what they agree to, in each language; for editing
    languages/en.toml .. all other words; for editing
    manifest.json        which picture is which
    pictures/            under random names
    answers.sqlite       what was answered
    admin-token.txt      the password of the researcher's page

None of it is served as a file: a participant's pages know pictures by names that are theirs alone.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from koala.config.load import load_toml
from koala.config.study import StudySettings
from koala.core.atomic_io import write_atomic
from koala.core.errors import UserError
from koala.core.readers import parse_json
from koala.core.wording import counted
from koala.study.trials import ORIGINAL


@dataclass(frozen=True)
class StudyPicture:
    """A picture of the study.

    Attributes:
        name: of its file, without the suffix; says nothing.
        scene: name that its versions have in common.
        version: "original", or the model that coloured it.
        label: of the scene; "" where none is known.
        width: in pixels.
        height: in pixels.
    """

    name: str
    scene: str
    version: str
    label: str
    width: int
    height: int


@dataclass(frozen=True)
class StudyManifest:
    """Which picture is which.

    Attributes:
        versions: "original", then the models.
        pictures: every version of every scene.
        practice: a picture of another scene to begin with, if one is wanted.
        made: how they were made.
    """

    versions: tuple[str, ...]
    pictures: tuple[StudyPicture, ...]
    practice: StudyPicture | None
    made: dict[str, Any]

    @cached_property
    def scenes(self) -> tuple[str, ...]:
        """The scenes, sorted."""
        return tuple(sorted({picture.scene for picture in self.pictures}))

    @cached_property
    def by_name(self) -> dict[str, StudyPicture]:
        """Pictures by the names of their files; also the one to practise with."""
        practice = [self.practice] if self.practice else []
        return {picture.name: picture for picture in (*self.pictures, *practice)}

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Scene and version of each picture, as numbers."""
        scenes = {scene: number for number, scene in enumerate(self.scenes)}
        return {p.name: (scenes[p.scene], self.versions.index(p.version)) for p in self.pictures}

    @cached_property
    def _names(self) -> dict[tuple[int, int], str]:
        return {place: name for name, place in self._places.items()}

    def picture_name(self, scene: int, version: int) -> str:
        """The picture that shows a version of a scene."""
        return self._names[scene, version]

    def count_table(self, of_pictures: Mapping[str, int]) -> NDArray[np.int64]:
        """Counts by picture as a table of scenes and versions."""
        table = np.zeros((len(self.scenes), len(self.versions)), np.int64)
        for name, count in of_pictures.items():
            self.find_picture(name)
            table[self._places[name]] = count
        return table

    def find_picture(self, name: str) -> StudyPicture:
        """The picture of a name that stands in the answers.

        Raises:
            UserError: there is none.
        """
        if name not in self.by_name:
            raise UserError("the answers are about pictures of another study; put answers.sqlite back where it belongs")
        return self.by_name[name]

    def is_original(self, name: str) -> bool:
        """Whether a picture is an original."""
        return self._places[name][1] == ORIGINAL

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_atomic(path, (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode())


@dataclass(frozen=True)
class StudyFolder:
    """A study that `build` made."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "StudyFolder":
        """Look at a study.

        Raises:
            UserError: there is none.
        """
        if not (path / "manifest.json").is_file():
            raise UserError(f"{path} holds no manifest.json; make a study there with koala study build")
        return cls(path)

    @cached_property
    def manifest(self) -> StudyManifest:
        """Which picture is which.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path / "manifest.json"
        return parse_json(StudyManifest, path.read_bytes(), path, "copy it again from where the study was built")

    @cached_property
    def settings(self) -> StudySettings:
        """What participants meet.

        Raises:
            UserError: it cannot be shown.
        """
        path, scenes = self.path / "study.toml", len(self.manifest.scenes)
        study = load_toml(StudySettings, path)
        if study.shown > scenes:
            raise UserError(
                f"{path}: shown = {study.shown}, but the study has {counted(scenes, 'scene')}, and nobody sees one "
                f"twice; choose at most {scenes}"
            )
        return study

    @property
    def answers_path(self) -> Path:
        """The database."""
        return self.path / "answers.sqlite"

    def read_picture(self, name: str) -> bytes:
        """A picture's bytes.

        Raises:
            UserError: the file is absent or cannot be read.
        """
        path = self.path / "pictures" / f"{name}.jpg"
        try:
            return path.read_bytes()
        except OSError as error:
            why = "is absent" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            raise UserError(f"{path} {why}; copy the study's whole folder from where it was built") from None

"""Where images come from: folders, lists of files, and tar and zip archives that need not be unpacked.

A source lists its images once, in the process that plans; any other process reads an image by its `SourceItem`. What is
known of an image's class is found by its name, in ImageNet's own layout (ILSVRC as Kaggle packs it).
"""

import csv
import io
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from koala.core.errors import UserError
from koala.core.progress import Counter

_WNID = re.compile(r"n\d{8}")
_VAL_SOLUTION, _SYNSETS = "LOC_val_solution.csv", "LOC_synset_mapping.txt"
_SIDE_FILES = {".cls", ".json"}  # what lies beside an image in a webdataset


@dataclass(frozen=True, order=True)
class SourceItem:
    """An image in a source.

    Attributes:
        name: below the source, with "/" between folders.
        place: file, offset and length in bytes, for an image in a tar.
        repeated: an image of this name came before.
        beside: in a webdataset, where the sample's "cls" or "json" lies, which may hold its class.
    """

    name: str
    place: tuple[str, int, int] | None = None
    repeated: bool = False
    beside: tuple[tuple[str, int, int], ...] = ()


class Source(Protocol):
    """Something that holds images; small, so that it can be sent to other processes."""

    def items(self) -> list[SourceItem]:
        """The images, sorted by name."""
        ...

    def read(self, item: SourceItem) -> bytes:
        """An image's bytes."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """A folder, searched to any depth; what begins with a dot is passed over."""

    root: Path

    def items(self) -> list[SourceItem]:
        """The files, sorted by name."""
        return sorted(_counted(SourceItem(name) for name in _walk(self.root)))

    def read(self, item: SourceItem) -> bytes:
        """A file's bytes."""
        return (self.root / item.name).read_bytes()


@dataclass(frozen=True)
class ListSource:
    """A text file with one name a line, or a CSV whose first column names images, relative to its own folder."""

    path: Path

    def items(self) -> list[SourceItem]:
        """The names, sorted; a header line of a CSV is passed over when no such file exists."""
        try:
            lines = self.path.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            raise UserError(
                f"{self.path} is no text and no archive; name a folder of images, a list of files, a tar or a zip"
            ) from None
        if self.path.suffix.lower() == ".csv":
            lines = [row[0] for row in csv.reader(lines) if row]
            if lines and not (self.path.parent / lines[0]).exists():
                del lines[0]
        return sorted(SourceItem(line) for line in lines if line.strip())

    def read(self, item: SourceItem) -> bytes:
        """A file's bytes."""
        return (self.path.parent / item.name).read_bytes()


@dataclass(frozen=True)
class TarSource:
    """Tar archives, uncompressed: one, or the tars of a webdataset; read where they lie."""

    paths: tuple[Path, ...]

    def items(self) -> list[SourceItem]:
        """The archives' files, sorted; with several archives, below the archive's name."""
        return sorted(_counted(item for path in self.paths for item in self._items_of(path)))

    def _items_of(self, path: Path) -> Iterator[SourceItem]:
        prefix = f"{path.stem}/" if len(self.paths) > 1 else ""
        images: list[tuple[str, tuple[str, int, int]]] = []
        beside: dict[str, list[tuple[str, int, int]]] = {}
        try:
            with tarfile.open(path, "r:") as tar:
                for member in (member for member in tar if member.isfile()):
                    place = (str(path), member.offset_data, member.size)
                    if PurePosixPath(member.name).suffix.lower() in _SIDE_FILES:
                        beside.setdefault(_key(member.name), []).append(place)
                    else:
                        images.append((member.name, place))
        except tarfile.TarError as error:
            raise UserError(f"{path} is no uncompressed tar ({error}); unpack it, or gunzip it first") from None
        for name, place in images:
            yield SourceItem(prefix + name.removeprefix("./"), place, beside=tuple(beside.get(_key(name), ())))

    def read(self, item: SourceItem) -> bytes:
        """A member's bytes."""
        assert item.place is not None
        path, offset, length = item.place
        return os.pread(_descriptor(path), length, offset)


@dataclass(frozen=True)
class ZipSource:
    """A zip archive, read where it lies."""

    path: Path

    def items(self) -> list[SourceItem]:
        """The archive's files, sorted."""
        return sorted(SourceItem(info.filename) for info in _zip(self.path).infolist() if not info.is_dir())

    def read(self, item: SourceItem) -> bytes:
        """A member's bytes; a damaged member is an OSError."""
        try:
            return _zip(self.path).read(item.name)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise OSError(str(error)) from None


def open_source(path: Path) -> Source:
    """Find out what kind of source lies at `path`.

    Raises:
        UserError: there is nothing.
    """
    if path.is_dir():
        tars = tuple(sorted(path.glob("*.tar")))
        return TarSource(tars) if tars else FolderSource(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; name a folder of images, a list of files, a tar or a zip")
    if tarfile.is_tarfile(path):
        return TarSource((path,))
    return ZipSource(path) if zipfile.is_zipfile(path) else ListSource(path)


def list_items(source: Source) -> list[SourceItem]:
    """The images of a source; where a name comes twice, the later ones are marked.

    Raises:
        UserError: there is none.
    """
    items = source.items()
    if not items:
        raise UserError("the source holds no file; name a folder of images, a list of files, a tar or a zip")
    return [items[0], *(replace(b, repeated=True) if a.name == b.name else b for a, b in pairwise(items))]


def _walk(folder: Path) -> Iterator[str]:
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(path, folder)
        for name in files:
            if not name.startswith("."):
                yield name if below == "." else f"{below}/{name}"


def _counted(items: Iterable[SourceItem]) -> Iterator[SourceItem]:
    """Show that a long listing goes on."""
    with Counter("listing", "files") as counter:
        for item in items:
            counter.advance(1)
            yield item


def _key(name: str) -> str:
    """What the members of a webdataset's sample have in common: the name up to the first dot of its last part."""
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.partition('.')[0]}"


@cache
def _descriptor(path: str) -> int:
    """An archive that this process reads from, opened once."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


@cache
def _zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


# ---------------------------------------------------------------- classes


@dataclass(frozen=True)
class ClassLabel:
    """An image's class: WordNet id and index among ImageNet's classes."""

    wnid: str
    class_index: int


@dataclass(frozen=True)
class ClassLabels:
    """The classes of a source's images, as far as they are known.

    Attributes:
        wnids: all classes, in ImageNet's order.
        validation: class of each validation image, by its ImageId.
    """

    wnids: tuple[str, ...] = ()
    validation: tuple[tuple[str, str], ...] = ()

    @cached_property
    def _index(self) -> dict[str, int]:
        return {wnid: index for index, wnid in enumerate(self.wnids)}

    @cached_property
    def _validation(self) -> dict[str, str]:
        return dict(self.validation)

    def of(self, name: str) -> ClassLabel | None:
        """The class of an image: of its folder, or of its line in ImageNet's list of validation images."""
        path = PurePosixPath(name)
        folder = path.parent.name
        wnid = self._validation.get(path.stem) or (folder if _WNID.fullmatch(folder) else "")
        return ClassLabel(wnid, self._index[wnid]) if wnid in self._index else None


def class_of(source: Source, item: SourceItem, labels: ClassLabels) -> dict[str, Any]:
    """What is known of an image's class, as its JSON holds it: "wnid" and "class_index", or what lies beside it."""
    label = labels.of(item.name)
    if label is not None:
        return asdict(label)
    known: dict[str, Any] = {}
    for place in item.beside:
        try:
            value = json.loads(source.read(replace(item, place=place)))
        except ValueError:
            continue
        found = value if isinstance(value, dict) else {"class_index": value}
        known |= {name: found[name] for name in ("wnid", "class_index") if isinstance(found.get(name), str | int)}
    return known


def find_labels(source: Source, items: Iterable[SourceItem]) -> ClassLabels:
    """Learn the classes from folders' names and from ImageNet's own lists, in the source or above it."""
    items = list(items)
    validation = tuple(_read_validation(_find(source, items, _VAL_SOLUTION)))
    listed = [line.split(" ")[0] for line in _find(source, items, _SYNSETS).splitlines() if line]
    found = {folder for item in items if _WNID.fullmatch(folder := PurePosixPath(item.name).parent.name)}
    return ClassLabels(tuple(listed) or tuple(sorted(found | {wnid for _, wnid in validation})), validation)


def _find(source: Source, items: list[SourceItem], name: str) -> str:
    """The text of one of ImageNet's lists, "" where there is none: in the source, or in a folder above it."""
    for item in items:
        if item.name == name or item.name.endswith(f"/{name}"):
            return source.read(item).decode()
    if not isinstance(source, FolderSource):
        return ""
    above = [source.root.resolve(), *source.root.resolve().parents][:5]
    return next((path.read_text("utf-8") for folder in above if (path := folder / name).is_file()), "")


def _read_validation(text: str) -> Iterator[tuple[str, str]]:
    """ImageId and class of each line; the class is the first word of PredictionString."""
    for row in csv.DictReader(io.StringIO(text)):
        words = (row.get("PredictionString") or "").split()
        if words:
            yield row["ImageId"], words[0]

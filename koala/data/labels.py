"""The classes of images: by their folders, by ImageNet's own lists, or by what lies beside them."""

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from koala.core.errors import UserError, first_line, warn
from koala.core.readers import decode_text, parse_csv
from koala.data.places import SourceItem, is_file, read_file

_WNID = re.compile(r"n\d{8}")
_SOLUTION, _SYNSETS = "LOC_val_solution.csv", "LOC_synset_mapping.txt"  # as Kaggle has ImageNet
_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"  # as image-net.org has it,
_DEVKIT, _DEVKIT_DATA = "ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12/data"  # in this, packed or unpacked
LISTS = (_SOLUTION, _SYNSETS, _TRUTH, _META, _DEVKIT)
"""Files that tell the classes of ImageNet's images, and are no images."""

_ABOVE = 5  # folders above the source in which they are looked for
_MOST_BYTES = 2**26  # of one of them


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
        return self._known(self._validation.get(PurePosixPath(name).stem) or _class_folder(name))

    def describe(self, item: SourceItem) -> dict[str, Any]:
        """What is known of an image's class, as its JSON holds it: "wnid" and "class_index", or one of them."""
        label = self.of(item.name) or self._known(item.label)
        if label is not None:
            return asdict(label)
        if item.label:
            return {"class_index": int(item.label)} if item.label.isdecimal() else {"wnid": item.label}
        return _class_beside(item)

    def _known(self, wnid: str) -> ClassLabel | None:
        return ClassLabel(wnid, self._index[wnid]) if wnid in self._index else None


def _class_folder(name: str) -> str:
    """The nearest folder of an image that bears a class's name, as in n01440764/images/1.JPEG; "" where none does."""
    return next((folder.name for folder in PurePosixPath(name).parents if _WNID.fullmatch(folder.name)), "")


def _class_beside(item: SourceItem) -> dict[str, Any]:
    """What the files of a webdataset's sample say, where they say something."""
    known: dict[str, Any] = {}
    for place in item.beside:
        try:
            value = json.loads(place.read(item.name, _MOST_BYTES))
        except (OSError, ValueError, RecursionError):
            continue
        found = value if isinstance(value, dict) else {"class_index": value}
        known |= {name: found[name] for name in ("wnid", "class_index") if isinstance(found.get(name), str | int)}
    return known


def find_labels(path: Path, images: Iterable[SourceItem], lists: Mapping[str, SourceItem]) -> ClassLabels:
    """Learn the classes from folders' names, lists' labels, and ImageNet's own lists.

    Args:
        path: the source.
        images: that it holds.
        lists: those of `LISTS` that lie in it; others are looked for beside and above it.

    Raises:
        UserError: one of them is damaged.
    """
    files = _Lists(path, lists)
    validation = tuple(_validation(files))
    listed = [line.split()[0] for line in files.text(_SYNSETS).splitlines() if line.strip()]
    found = {name for item in images for name in (_class_folder(item.name), item.label) if _WNID.fullmatch(name)}
    return ClassLabels(tuple(listed) or tuple(sorted(found | {wnid for _, wnid in validation})), validation)


@dataclass(frozen=True)
class _Lists:
    """ImageNet's lists: in a source, in the folders above it, or in a development kit that lies in one of these."""

    path: Path
    inside: Mapping[str, SourceItem]

    def text(self, name: str) -> str:
        """A list's text, "" where there is none."""
        return decode_text(self.data(name), self.named(name))

    def named(self, name: str) -> str:
        """A list, for errors."""
        return f"{name} in or above {self.path}"

    def data(self, name: str) -> bytes:
        """A list's bytes, b"" where there is none."""
        try:
            return self._beside(name) or self._packed(name)
        except OSError as error:
            raise UserError(
                f"{self.named(name)} cannot be read ({error.strerror or error}); correct or remove it"
            ) from None

    def _beside(self, name: str) -> bytes:
        if name in self.inside:
            return self.inside[name].read(_MOST_BYTES)
        source = self.path.resolve()
        folders = [folder for folder in (source, *source.parents) if folder.is_dir()][:_ABOVE]
        places = (folder / where / name for folder in folders for where in ("", _DEVKIT_DATA))
        return next((read_file(path, _MOST_BYTES) for path in places if is_file(path)), b"")

    def _packed(self, name: str) -> bytes:
        """The same from a development kit that is not unpacked."""
        kit = self._beside(_DEVKIT) if name in (_TRUTH, _META) else b""
        if not kit:
            return b""
        try:
            with tarfile.open(fileobj=io.BytesIO(kit)) as members:
                found = next((member for member in members if member.name.endswith(f"/data/{name}")), None)
                file = members.extractfile(found) if found else None
                return file.read(_MOST_BYTES) if file else b""
        except Exception as error:  # of gzip, of zlib, of tarfile
            raise UserError(f"{_DEVKIT} is damaged ({first_line(error)}); fetch it again") from None


def _validation(files: _Lists) -> Iterator[tuple[str, str]]:
    """ImageId and class of each validation image, by Kaggle's list or image-net.org's."""
    if solution := files.text(_SOLUTION):
        for row in parse_csv(solution, files.named(_SOLUTION), ("ImageId", "PredictionString")):
            if words := row["PredictionString"].split():
                yield row["ImageId"], words[0]
        return
    truth = files.text(_TRUTH).split()
    wnids = _wnids(files.data(_META)) if truth else {}
    if truth and not wnids and not _WNID.fullmatch(truth[0]):
        warn(f"{_TRUTH} has numbers of classes; to know the classes put {_META} or {_DEVKIT} beside it")
    for number, word in enumerate(truth, 1):
        if _WNID.fullmatch(wnid := wnids.get(word, word)):
            yield f"ILSVRC2012_val_{number:08d}", wnid


def _wnids(meta: bytes) -> dict[str, str]:
    """WordNet ids by the numbers that image-net.org gave them, from the development kit."""
    if not meta:
        return {}
    from scipy.io import loadmat

    try:
        synsets = np.atleast_1d(loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"])
        return {str(int(synset["ILSVRC2012_ID"])): str(synset["WNID"]) for synset in synsets}
    except Exception as error:  # scipy has many kinds
        raise UserError(f"{_META} is damaged ({first_line(error)}); fetch {_DEVKIT} again") from None

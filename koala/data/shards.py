"""What a folder of shards is: records, manifest, reading samples back, verifying.

A folder of shards holds, for each shard, `train-000000.tar` (webdataset: KEY.jpg and KEY.json side by side),
`train-000000.idx` (the index of DALI's own reader) and the record `train-000000.json`, which is written last and
so is the mark that the shard is whole. `manifest.json` lists the shards. The format is described in
shards/README.md; `koala.data.shard_writer` writes it.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import SkipValidation, TypeAdapter, ValidationError

from koala.config.data import ResizeRule, ShardRecipe, VerifyShards
from koala.config.fields import SplitName
from koala.config.load import validate
from koala.core.errors import UserError
from koala.core.progress import Progress
from koala.imaging.jpeg_intake import UnreadableImageError, validate_or_transcode

FORMAT = "koala-shards/1"
SPLITS: tuple[SplitName, ...] = ("train", "val")
BLOCK = 512  # bytes; tar headers and data begin at multiples of it


def padded_length(length: int) -> int:
    """Length of a tar member's data with its padding."""
    return -(-length // BLOCK) * BLOCK


@dataclass(frozen=True)
class ShardRecord:
    """What is known of one shard; the columns have one entry per sample, in the order of the tar.

    Attributes:
        shard: the tar's file name.
        samples: how many samples it holds.
        plan: sha256 of the recipe and the names that the shard was to hold.
        bytes: the tar's length.
        sha256: of the tar.
        offset: where each sample's JPEG begins, in bytes.
        size: each JPEG's length in bytes.
        height: in pixels.
        width: in pixels.
        quarantined: names that were set aside, each with the reason.
    """

    shard: str
    samples: int
    plan: str
    bytes: int
    sha256: str
    offset: list[int]
    size: list[int]
    height: list[int]
    width: list[int]
    quarantined: list[tuple[SkipValidation[str], str]]  # a file's name may be no text


@dataclass(frozen=True)
class ShardEntry:
    """A shard in the manifest: the tar's name, length in bytes and sha256, and how many samples it holds."""

    shard: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardManifest:
    """What a folder of shards holds.

    Attributes:
        format: `FORMAT`.
        recipe: the settings it was written with.
        read: images that were looked at.
        written: images that became samples.
        quarantined: images that were set aside; read = written + quarantined.
        splits: the shards of "train" and "val", in order.
    """

    format: str
    recipe: dict[str, Any]
    read: int
    written: int
    quarantined: int
    splits: dict[str, list[ShardEntry]]

    def samples(self, split: str) -> int:
        """How many samples a split holds; 0 where there is no such split."""
        return sum(entry.samples for entry in self.splits.get(split, []))


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class SampleInfo:
    """What is known of a sample.

    Attributes:
        shard: file name of its tar.
        key: its name in the tar.
        source: the image's name below the source folder.
    """

    shard: str
    key: str
    source: str


class Shards:
    """One split of a folder of shards, read by sample number.

    Reading is safe from several threads and costs one `pread`: the records say where each JPEG lies.

    Attributes:
        shard_sizes: samples in each shard.
        numbers: `(N,)` int64, what number each sample has when none is left out.
        height: `(N,)` int64 in pixels.
        width: `(N,)` int64 in pixels.
    """

    def __init__(self, folder: Path, records: Iterable[ShardRecord], keep: NDArray[np.bool_] | None = None) -> None:
        self._folder = folder
        self._tars: list[tuple[str, int]] = []  # names and lengths
        columns: list[list[NDArray]] = []
        for record in records:  # one at a time: a million samples are small as arrays and large as lists
            self._tars.append((record.shard, record.bytes))
            lists = (record.offset, record.size, record.height, record.width)
            columns.append([np.array(items, np.int64 if items is record.offset else np.int32) for items in lists])
        ends = np.cumsum([len(size) for _, size, _, _ in columns], dtype=np.int64)
        if keep is None:
            keep = np.ones(ends[-1] if len(ends) else 0, np.bool_)
        self.numbers = np.flatnonzero(keep)
        self._starts_of_all = np.concatenate([[0], ends])
        self.shard_sizes = tuple(int(part.sum()) for part in np.split(keep, ends)[:-1])
        self._ends = np.cumsum(self.shard_sizes)
        empty = [np.zeros(0, np.int32)] * 4
        self._offset, self._size, self.height, self.width = (
            np.concatenate(column)[keep] for column in zip(*(columns or [empty]), strict=True)
        )
        self._open = lru_cache(maxsize=64)(self._open_shard)

    @classmethod
    def open(cls, folder: Path, split: str, keep: NDArray[np.bool_] | None = None) -> "Shards":
        """Read the manifest and the records.

        Args:
            folder: of shards.
            split: "train" or "val".
            keep: `(N,)` bool, which of the split's N samples there are, numbered anew; None keeps all.

        Raises:
            UserError: there is no manifest, another format, or no sample in the split.
        """
        manifest = read_manifest(folder)
        if not manifest.samples(split):
            raise UserError(f'{folder} holds no "{split}" samples; write it with a recipe whose split makes some')
        return cls(folder, (read_record(record_path(folder, entry.shard)) for entry in manifest.splits[split]), keep)

    def __len__(self) -> int:
        return len(self._size)

    def read(self, sample: int) -> NDArray[np.uint8]:
        """A sample's JPEG bytes, `(N,)` uint8.

        Raises:
            UserError: the shard is absent, or not as its record says.
        """
        shard = self._open(self._shard_of(sample))
        return np.frombuffer(shard.read(int(self._offset[sample]), int(self._size[sample])), np.uint8)

    def read_many(self, samples: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """Several samples' JPEG bytes; see `read`."""
        shards = np.searchsorted(self._ends, samples, side="right").tolist()
        places = zip(shards, self._offset[samples].tolist(), self._size[samples].tolist(), strict=True)
        return [np.frombuffer(self._open(shard).read(offset, size), np.uint8) for shard, offset, size in places]

    def describe(self, sample: int) -> SampleInfo:
        """What is known of a sample, read from its tar headers and its JSON."""
        shard = self._open(self._shard_of(sample))
        key = _tar_header(shard.read(int(self._offset[sample]) - BLOCK, BLOCK)).name.removesuffix(".jpg")
        return SampleInfo(shard.path.name, key, self._source(sample))

    def sources(self) -> list[str]:
        """Where each sample comes from: its path below the source folder."""
        return [self._source(sample) for sample in range(len(self))]

    def _source(self, sample: int) -> str:
        shard = self._open(self._shard_of(sample))
        json_header = int(self._offset[sample]) + padded_length(int(self._size[sample]))
        length = _tar_header(shard.read(json_header, BLOCK)).size
        return json.loads(shard.read(json_header + BLOCK, length))["source"]

    @property
    def selection(self) -> str:
        """sha256 of which samples there are."""
        return hashlib.sha256(self.numbers.astype("<i8").tobytes()).hexdigest()

    def place(self, sample: int) -> tuple[int, int]:
        """Where a sample lies: the number of its shard in the split, and its number within the tar."""
        shard = self._shard_of(sample)
        return shard, int(self.numbers[sample] - self._starts_of_all[shard])

    def _shard_of(self, sample: int) -> int:
        return int(np.searchsorted(self._ends, sample, side="right"))

    def _open_shard(self, number: int) -> "_OpenShard":
        name, length = self._tars[number]
        return _OpenShard(self._folder / name, length)


class _OpenShard:
    """An open tar; closed when nobody holds it any more, so that no thread can lose it in mid-read."""

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; check the folder with koala shards verify") from None
        found = os.fstat(self._descriptor).st_size
        if found != length:
            raise UserError(f"{path} is {found} bytes long, its record says {length}; check with koala shards verify")

    def read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._descriptor, length, offset)
        if len(data) != length:
            raise UserError(f"{self.path} ends before byte {offset + length}; check it with koala shards verify")
        return data

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def _tar_header(block: bytes) -> tarfile.TarInfo:
    return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")


def read_manifest(folder: Path) -> ShardManifest:
    """Read a folder's manifest.

    Raises:
        UserError: it is absent, damaged or of another format.
    """
    path = folder / "manifest.json"
    try:
        data = path.read_bytes()
        found = TypeAdapter(dict[str, Any]).validate_json(data).get("format")
        if found != FORMAT:
            raise UserError(f"{folder} has format {found!r}, this koala reads {FORMAT!r}; write it again")
        return TypeAdapter(ShardManifest).validate_json(data)
    except OSError:
        raise UserError(
            f"{folder} holds no manifest.json; make shards with koala shards write, or let it finish"
        ) from None
    except ValidationError:
        raise UserError(f"{path} is damaged; run the koala shards write command again") from None


@dataclass(frozen=True)
class ShardPlan:
    """What a folder of shards is to hold, before it does.

    Attributes:
        format: `FORMAT`.
        recipe: the settings.
        shards: for each shard's name, the hash that its record will have as `plan`, and how many images go in.
    """

    format: str
    recipe: dict[str, Any]
    shards: dict[str, tuple[str, int]]

    def as_recipe(self) -> ShardRecipe:
        """The recipe as settings."""
        return validate(ShardRecipe, self.recipe, "plan.json")


def read_plan(folder: Path) -> ShardPlan:
    """Read a folder's plan.

    Raises:
        UserError: it is absent or damaged.
    """
    path = folder / "plan.json"
    try:
        return TypeAdapter(ShardPlan).validate_json(path.read_bytes())
    except OSError:
        raise UserError(f"{folder} holds no plan.json; begin with koala shards write") from None
    except ValidationError:
        raise UserError(f"{path} is damaged; delete it and run the koala shards write command again") from None


def read_record(path: Path) -> ShardRecord:
    """Read a shard's record.

    Raises:
        UserError: it is absent or damaged.
    """
    try:
        return TypeAdapter(ShardRecord).validate_python(json.loads(path.read_bytes()))
    except OSError:
        raise UserError(f"{path} is missing; run the koala shards write command again") from None
    except ValueError:  # of JSON or of the record
        raise UserError(f"{path} is damaged; delete it and run the koala shards write command again") from None


def record_path(folder: Path, shard: str) -> Path:
    """Where a shard's record lies."""
    return (folder / shard).with_suffix(".json")


# ---------------------------------------------------------------- verifying


def verify_shards(folder: Path, quick: bool = False, workers: int = 1, show: bool = True) -> list[str]:
    """Check every byte against the manifest and decode every image.

    Args:
        folder: of shards.
        quick: look at records and sizes only.
        workers: processes.
        show: say how far it is.

    Returns:
        The faults, each naming its shard, and where it is one image's, its key; empty when all is well.
    """
    faults = _verify_all(folder, read_manifest(folder), quick, workers, show)
    return [fault for shard in faults.values() for fault in shard]


def faulty_shards(folder: Path, manifest: ShardManifest, workers: int = 1) -> set[str]:
    """The shards in which `verify_shards` finds a fault."""
    return {shard for shard, faults in _verify_all(folder, manifest, False, workers).items() if faults}


def _verify_all(
    folder: Path, manifest: ShardManifest, quick: bool, workers: int, show: bool = True
) -> dict[str, list[str]]:
    """The faults of each shard."""
    entries = [entry for split in manifest.splits.values() for entry in split]
    check = partial(_verify_shard, folder, quick=quick)
    with (
        Progress(sum(entry.samples for entry in entries), "verifying", show=show) as progress,
        ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else nullcontext() as pool,
    ):
        found = {}
        for entry, faults in zip(entries, (pool.map if pool else map)(check, entries), strict=True):
            found[entry.shard] = faults
            progress.advance(entry.samples)
    return found


def _verify_shard(folder: Path, entry: ShardEntry, quick: bool) -> list[str]:
    tar = folder / entry.shard
    try:
        record = read_record(record_path(folder, entry.shard))
        if (record.sha256, record.bytes, record.samples) != (entry.sha256, entry.bytes, entry.samples):
            return [f"{entry.shard}: its record differs from manifest.json"]
        if quick:
            found = tar.stat().st_size
            return [f"{entry.shard} is {found} bytes long, its record says {entry.bytes}"] * (found != entry.bytes)
        with tar.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except UserError as error:
        return [str(error)]
    except OSError as error:
        return [f"{entry.shard}: {error.strerror}"]
    if sha256 != entry.sha256:
        return [f"{entry.shard}: sha256 differs from manifest.json", *_faulty_samples(folder, record)]
    return [*_faulty_samples(folder, record), *_faulty_index(tar, record)]


def _faulty_samples(folder: Path, record: ShardRecord) -> Iterator[str]:
    """The samples that are not what the record says, each with its key where that can still be read."""
    shards = Shards(folder, [record])
    for sample in range(record.samples):
        try:
            image = validate_or_transcode(shards.read(sample).tobytes(), ResizeRule())
        except UserError as error:
            yield str(error)
            return
        except UnreadableImageError as reason:
            yield f"{record.shard}: {_name(shards, sample)} does not decode: {reason}"
        else:
            if image.changes or (image.height, image.width) != (shards.height[sample], shards.width[sample]):
                yield f"{record.shard}: {_name(shards, sample)} is not the image that its record describes"


def _name(shards: Shards, sample: int) -> str:
    try:
        found = shards.describe(sample)
    except (UserError, ValueError, KeyError, tarfile.TarError):
        return f"sample {sample}"
    return f"{found.key} ({found.source})"


def _faulty_index(tar: Path, record: ShardRecord) -> list[str]:
    """Whether DALI's reader would be led astray, which garbage in silence would tell it."""
    with tarfile.open(tar) as file:
        members = [(member.name.rpartition("."), member.offset_data, member.size) for member in file]
    lines = [f"v1.2 {record.samples}\n"]
    for jpg, description in zip(members[::2], members[1::2], strict=True):
        parts = (f"{kind} {offset} {size} {key}.{kind}" for (key, _, kind), offset, size in (jpg, description))
        lines.append(" ".join(parts) + "\n")
    index = tar.with_suffix(".idx")
    if not index.exists() or index.read_text("utf-8") != "".join(lines):
        return [f"{index.name}: does not describe {tar.name}; run koala shards repair"]
    return []


def verify_command(settings: VerifyShards) -> int:
    """`koala shards verify`: 0 when all is well, 1 with a line for each fault."""
    faults = verify_shards(settings.shards, settings.quick, settings.workers)
    for fault in faults:
        print(fault)
    print(f"{settings.shards}: {len(faults)} faults" if faults else f"{settings.shards}: all is well")
    return 1 if faults else 0

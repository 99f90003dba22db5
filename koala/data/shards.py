"""What a folder of shards is: records, manifest, plan, and reading samples back.

A folder of shards holds, for each shard, `train-000000.tar` (webdataset: KEY.jpg and KEY.json side by side),
`train-000000.idx` (the index of DALI's own reader) and the record `train-000000.json`, which is written last and
so is the mark that the shard is whole. `manifest.json` lists the shards. The format is described in
docs/reference/shard-format.md; `koala.data.shard_writer` writes it, `koala.data.verification` checks it.
"""

import hashlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, SkipValidation

from koala.config.data import ShardRecipe
from koala.config.fields import Location, SplitName
from koala.config.load import validate
from koala.core.errors import UserError
from koala.core.readers import parse_json
from koala.data import range_cache
from koala.data.mirror import local_folder
from koala.data.sampler import SHARDS_PER_BLOCK, SamplePositions
from koala.data.tars import BLOCK, Blocks, OpenTar, StoredTar, check_room, padded_length, tars_in

FORMAT = "koala-shards/1"
SPLITS: tuple[SplitName, ...] = ("train", "val")

Listed = TypeVar("Listed")
Int32 = Annotated[int, Field(gt=0, lt=2**31)]
TarName = Annotated[str, Field(pattern=r"^(train|val)-\d{6,9}\.tar$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SetAside = tuple[SkipValidation[str], str]  # a file's name may be no text


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

    shard: TarName
    samples: NonNegativeInt
    plan: Sha256
    bytes: PositiveInt
    sha256: Sha256
    offset: list[PositiveInt]
    size: list[Int32]
    height: list[Int32]
    width: list[Int32]
    quarantined: list[SetAside]

    def __post_init__(self) -> None:
        for name in ("offset", "size", "height", "width"):
            if len(getattr(self, name)) != self.samples:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {self.samples} samples")
        for offset, size in zip(self.offset, self.size, strict=True):
            if offset < BLOCK or offset + size > self.bytes:
                raise ValueError(f"bytes {offset} to {offset + size} are not in a tar of {self.bytes}")

    def is_of(self, planned: tuple[str, int] | None) -> bool:
        """Whether this is the record of a planned shard: its hash, and how many images were to go in."""
        return (self.plan, self.samples + len(self.quarantined)) == planned

    def is_listed_as(self, entry: "ShardEntry") -> bool:
        """Whether a manifest's entry says the same."""
        return (self.sha256, self.bytes, self.samples) == (entry.sha256, entry.bytes, entry.samples)


@dataclass(frozen=True)
class ShardEntry:
    """A shard in the manifest: the tar's name, length in bytes and sha256, and how many samples it holds."""

    shard: TarName
    samples: NonNegativeInt
    bytes: PositiveInt
    sha256: Sha256


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
        passed_over: how many files of the source were neither read nor set aside, by what they are.
    """

    format: str
    recipe: dict[str, Any]
    read: NonNegativeInt
    written: NonNegativeInt
    quarantined: NonNegativeInt
    splits: dict[str, list[ShardEntry]]
    passed_over: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        held = sum(entry.samples for entry in self.entries)
        if held != self.written:
            raise ValueError(f"written is {self.written}, but the shards hold {held} samples")
        if self.read != self.written + self.quarantined:
            raise ValueError(f"read is {self.read}, but {self.written} written and {self.quarantined} set aside")
        if len({entry.shard for entry in self.entries}) != len(self.entries):
            raise ValueError("a shard is listed twice")

    @property
    def entries(self) -> list[ShardEntry]:
        """The shards of all splits."""
        return [entry for split in self.splits.values() for entry in split]

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
        self._folder = tars_in(folder)
        self._tars: list[tuple[str, int, str]] = []  # names, lengths and sha256
        columns: list[list[NDArray]] = []
        for record in records:  # one at a time: a million samples are small as arrays and large as lists
            self._tars.append((record.shard, record.bytes, record.sha256))
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
    def open(cls, folder: Location, split: str, keep: NDArray[np.bool_] | None = None) -> "Shards":
        """Read the manifest and the records.

        Args:
            folder: of shards, here or in a store.
            split: "train" or "val".
            keep: `(N,)` bool, which of the split's N samples there are, numbered anew; None keeps all.

        Raises:
            UserError: there is no manifest, another format, no sample in the split, or a record that is not the
                manifest's.
        """
        manifest, here = read_manifest(folder), local_folder(folder)
        if not manifest.samples(split):
            raise UserError(f'{folder} holds no "{split}" samples; write it with a recipe whose split makes some')
        entries = manifest.splits[split]
        shards = cls(here, (_record_of(here, entry) for entry in entries), keep)
        check_room(shards._folder, [entry.bytes for entry in entries], SHARDS_PER_BLOCK)
        return shards

    def __len__(self) -> int:
        return len(self._size)

    def read(self, sample: int) -> NDArray[np.uint8]:
        """A sample's JPEG bytes, `(N,)` uint8.

        Raises:
            UserError: the shard is absent, or not as its record says.
        """
        shard = self._open(self._shard_of(sample))
        return np.frombuffer(shard.member(int(self._offset[sample]), int(self._size[sample])), np.uint8, offset=BLOCK)

    def read_many(self, samples: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """Several samples' JPEG bytes; see `read`."""
        shards = np.searchsorted(self._ends, samples, side="right").tolist()
        places = zip(shards, self._offset[samples].tolist(), self._size[samples].tolist(), strict=True)
        members = (self._open(shard).member(offset, size) for shard, offset, size in places)
        return [np.frombuffer(member, np.uint8, offset=BLOCK) for member in members]

    def describe(self, sample: int) -> SampleInfo:
        """What is known of a sample, read from its tar headers and its JSON.

        Raises:
            UserError: the shard is absent, or not as its record says.
        """
        shard = self._open(self._shard_of(sample))
        key = shard.header(int(self._offset[sample]) - BLOCK).name.removesuffix(".jpg")
        return SampleInfo(shard.path.name, key, self._source(sample))

    def sources(self) -> list[str]:
        """Where each sample comes from: its path below the source folder."""
        return [self._source(sample) for sample in range(len(self))]

    def _source(self, sample: int) -> str:
        return str(self.description(sample)["source"])

    def description(self, sample: int) -> dict[str, Any]:
        """What a sample's JSON holds: "source", and "wnid" and "class_index" where its class is known."""
        shard = self._open(self._shard_of(sample))
        return shard.description(int(self._offset[sample]) + padded_length(int(self._size[sample])))

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

    def _open_shard(self, number: int) -> OpenTar:
        return self._folder.open(*self._tars[number])

    # ------------------------------------------------------------ tars that lie far away

    def coming(self, places: Iterable[SamplePositions]) -> AbstractContextManager[Iterable[SamplePositions]]:
        """The same places; of shards in a store, what they need is fetched ahead while the block runs."""
        return self._folder.ahead(places, Blocks(self._blocks, self._prefetch))

    def _blocks(self, samples: NDArray[np.int64]) -> Iterable[tuple[int, int]]:
        """The blocks of the cache in which samples lie, each once, in the order of need."""
        shards = np.searchsorted(self._ends, samples, side="right").tolist()
        begin = (self._offset[samples] - BLOCK) // range_cache.BLOCK
        last = (self._offset[samples] + self._size[samples] - 1) // range_cache.BLOCK
        spans = zip(shards, begin.tolist(), last.tolist(), strict=True)
        return dict.fromkeys((shard, number) for shard, first, end in spans for number in range(first, end + 1))

    def _prefetch(self, block: tuple[int, int]) -> None:
        shard, number = block
        tar = self._open(shard)
        if isinstance(tar, StoredTar):
            tar.prefetch(number)


def read_manifest(folder: Location) -> ShardManifest:
    """Read a folder's manifest.

    Raises:
        UserError: it is absent, damaged or of another format.
    """
    path = local_folder(folder) / "manifest.json"
    return _read(
        ShardManifest,
        path,
        absent=f"{folder} holds no manifest.json; make shards with koala shards write, or let it finish"
        if path.parent.exists()
        else f"{folder} does not exist; make shards there with koala shards write, or correct the path",
        damaged=f"write it anew with koala shards finish {folder}",
    )


@dataclass(frozen=True)
class ShardPlan:
    """What a folder of shards is to hold, before it does.

    Attributes:
        format: `FORMAT`.
        recipe: the settings.
        shards: for each shard's name, the hash that its record will have as `plan`, and how many images go in.
        set_aside: names of what is in no shard because it was known beforehand to be no image, each with the reason.
        passed_over: see `ShardManifest`.
    """

    format: str
    recipe: dict[str, Any]
    shards: dict[Annotated[str, Field(pattern=r"^(train|val)-\d{6,9}$")], tuple[Sha256, PositiveInt]]
    set_aside: list[SetAside] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.shards:
            raise ValueError("it plans no shards")

    def as_recipe(self) -> ShardRecipe:
        """The recipe as settings."""
        return validate(ShardRecipe, self.recipe, "plan.json")

    def is_of(self, other: "ShardPlan") -> bool:
        """Whether two plans are for the same shards."""
        return self.shards == other.shards and self.as_recipe() == other.as_recipe()


def read_plan(folder: Path) -> ShardPlan:
    """Read a folder's plan.

    Raises:
        UserError: it is absent, damaged or of another format.
    """
    path = folder / "plan.json"
    return _read(
        ShardPlan,
        path,
        absent=f"{folder} holds no plan.json; begin with koala shards write",
        damaged="delete it and run the koala shards write command again, or koala shards repair",
    )


def _read(shape: type[Listed], path: Path, absent: str, damaged: str) -> Listed:
    """A manifest or plan of this format."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(absent) from None
    found = parse_json(dict[str, Any], data, path, damaged).get("format")
    if found != FORMAT:
        named = "names no format" if found is None else f"has format {found!r}"
        raise UserError(f"{path} {named}, this koala reads {FORMAT!r}; write the shards again")
    return parse_json(shape, data, path, damaged)


def read_record(path: Path) -> ShardRecord:
    """Read a shard's record.

    Raises:
        UserError: it is absent or damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the koala shards write command again") from None
    remedy = "delete it and run the koala shards write command again, or koala shards repair"
    record = parse_json(ShardRecord, data, path, remedy)
    if record.shard != path.with_suffix(".tar").name:
        raise UserError(f"{path} is damaged (it is the record of {record.shard}); {remedy}")
    return record


def _record_of(folder: Path, entry: ShardEntry) -> ShardRecord:
    record = read_record(record_path(folder, entry.shard))
    if not record.is_listed_as(entry):
        raise UserError(
            f"{folder / entry.shard}: its record differs from manifest.json; check with koala shards verify"
        )
    return record


def record_path(folder: Path, shard: str) -> Path:
    """Where a shard's record lies."""
    return (folder / shard).with_suffix(".json")

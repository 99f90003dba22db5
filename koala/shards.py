"""A folder of images -> tar shards, their records and a manifest; reading samples back; verifying.

A folder of shards holds, for each shard, `train-000000.tar` (webdataset: KEY.jpg and KEY.json side by side),
`train-000000.idx` (the index of DALI's own reader) and the record `train-000000.json`, which is written last and
so is the mark that the shard is whole. `manifest.json` lists the shards. The format is described in
shards/README.md.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from koala.config import Recipe, Resize, Split, SplitName, VerifyShards, WriteShards, dump
from koala.errors import UserError
from koala.intake import UnusableError, admit
from koala.order import shuffled
from koala.progress import Progress

FORMAT = "koala-shards/1"
SPLITS: tuple[SplitName, ...] = ("train", "val")
_BLOCK = 512  # bytes; tar headers and data begin at multiples of it


@dataclass(frozen=True)
class Record:
    """What is known of one shard; the columns have one entry per sample, in the order of the tar.

    Attributes:
        shard: the tar's file name.
        plan: sha256 of the recipe and the names that the shard was to hold.
        bytes: the tar's length.
        sha256: of the tar.
        offset: where each sample's JPEG begins, in bytes.
        size: each JPEG's length in bytes.
        height: in pixels.
        width: in pixels.
        quarantined: names that were set aside, with the reason.
    """

    shard: str
    plan: str
    bytes: int
    sha256: str
    offset: list[int]
    size: list[int]
    height: list[int]
    width: list[int]
    quarantined: dict[str, str]


@dataclass(frozen=True)
class PlannedShard:
    """Which images a shard is to hold: their numbers in the shuffled data set, and their names."""

    split: str
    name: str
    numbers: tuple[int, ...]
    sources: tuple[str, ...]

    def digest(self, recipe: Recipe) -> str:
        """sha256 of all that decides the shard's content, but the images' own bytes."""
        plan = [FORMAT, dump(recipe), self.split, self.numbers, self.sources]
        return hashlib.sha256(json.dumps(plan).encode()).hexdigest()


# ---------------------------------------------------------------- which images go where


def list_sources(source: Path) -> tuple[Path, list[str]]:
    """Find the images: a folder and the sorted names of the files in it.

    Args:
        source: a folder, searched to any depth, or a text file with one name a line, relative to its own folder.

    Raises:
        UserError: there is nothing of the kind, or it is empty.
    """
    if source.is_dir():
        root, names = source, sorted(_walk(source))
    elif source.is_file():
        root = source.parent
        names = [line for line in source.read_text("utf-8").splitlines() if line.strip()]
    else:
        raise UserError(f"{source} does not exist; name a folder of images or a text file that lists them")
    if not names:
        raise UserError(f"{source} holds no file; name a folder of images")
    return root, names


def _walk(folder: Path) -> Iterator[str]:
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield (Path(path) / name).relative_to(folder).as_posix()


def plan_shards(names: Sequence[str], recipe: Recipe) -> list[PlannedShard]:
    """Shuffle the names over the whole set, split them and cut them into shards: pure."""
    drawn = [names[i] for i in shuffled(len(names), recipe.seed)]
    numbered = list(enumerate(drawn[: recipe.limit or None]))
    plan = []
    for split, members in zip(SPLITS, _divide(numbered, recipe.split), strict=True):
        for index, start in enumerate(range(0, len(members), recipe.samples_per_shard)):
            numbers, sources = zip(*members[start : start + recipe.samples_per_shard], strict=True)
            plan.append(PlannedShard(split, f"{split}-{index:06d}", numbers, sources))
    return plan


_Numbered = list[tuple[int, str]]


def _divide(numbered: _Numbered, split: Split) -> tuple[_Numbered, _Numbered]:
    """Training and validation images."""
    if split.train_folder or split.val_folder:
        return _below(numbered, split.train_folder), _below(numbered, split.val_folder)
    count = split.val_count or round(split.val_share * len(numbered))
    if count > len(numbered):
        raise UserError(f"{count} validation images are asked for, but there are {len(numbered)}; lower val_count")
    return numbered[count:], numbered[:count]


def _below(numbered: _Numbered, folder: str) -> _Numbered:
    if not folder:
        return []
    found = [(number, name) for number, name in numbered if name.startswith(folder.rstrip("/") + "/")]
    if not found:
        raise UserError(f'no image lies below "{folder}"; correct the split of the recipe, or --source')
    return found


# ---------------------------------------------------------------- writing


def write(settings: WriteShards) -> dict[str, Any]:
    """Write the shards that are not there yet, then the manifest.

    Returns:
        The manifest.

    Raises:
        UserError: the source is absent or empty, or `out` holds shards of another recipe or source.
    """
    root, names = list_sources(settings.source)
    plan = plan_shards(names, settings.recipe)
    settings.out.mkdir(parents=True, exist_ok=True)
    records = []
    with Progress(sum(len(shard.sources) for shard in plan), "writing shards") as progress:
        for shard in plan:
            record = _committed(settings.out, shard, settings.recipe)
            if record is None:
                record = _write_shard(settings.out, root, shard, settings.recipe, progress)
            else:
                progress.advance(len(shard.sources))
            records.append(record)
    manifest = _manifest(settings.recipe, plan, records)
    _put(settings.out / "manifest.json", _json(manifest, indent=1))
    return manifest


def _committed(out: Path, shard: PlannedShard, recipe: Recipe) -> Record | None:
    """The record of a shard that an earlier run finished."""
    path = out / f"{shard.name}.json"
    if not path.exists():
        return None
    record = read_record(path)
    if record.plan != shard.digest(recipe):
        raise UserError(f"{path} belongs to another recipe or source; choose another --out, or empty this one")
    return record


@dataclass(frozen=True)
class _Sample:
    """Where a sample lies in its tar."""

    key: str
    offset: int
    size: int
    height: int
    width: int
    json_size: int

    def index_line(self) -> str:
        json_offset = self.offset + _blocks(self.size) + _BLOCK
        return f"jpg {self.offset} {self.size} {self.key}.jpg json {json_offset} {self.json_size} {self.key}.json\n"


def _write_shard(out: Path, root: Path, shard: PlannedShard, recipe: Recipe, progress: Progress) -> Record:
    """Write one shard: tar and index under other names first, the record last."""
    from webdataset.writer import TarWriter

    quarantined: dict[str, str] = {}
    tar = out / f"{shard.name}.tar"
    part = tar.with_suffix(".tar.part")
    with part.open("wb") as file:
        stream = _Hashing(file)
        with TarWriter(stream, mtime=0, user="koala", group="koala", encoder=False) as writer:
            samples = list(_fill(writer, root, shard, recipe, progress=progress, quarantined=quarantined))
        _sync(file)
    part.replace(tar)
    index = "".join(sample.index_line() for sample in samples)
    _put(tar.with_suffix(".idx"), f"v1.2 {len(samples)}\n{index}".encode())
    record = Record(
        shard=tar.name,
        plan=shard.digest(recipe),
        bytes=stream.count,
        sha256=stream.sha256.hexdigest(),
        offset=[sample.offset for sample in samples],
        size=[sample.size for sample in samples],
        height=[sample.height for sample in samples],
        width=[sample.width for sample in samples],
        quarantined=quarantined,
    )
    _put(out / f"{shard.name}.json", _json(asdict(record)))
    return record


def _fill(
    writer: Any, root: Path, shard: PlannedShard, recipe: Recipe, *, progress: Progress, quarantined: dict[str, str]
) -> Iterator[_Sample]:
    """Write a shard's images to its tar; those that cannot be used go to `quarantined`, with the reason."""
    for number, source in zip(shard.numbers, shard.sources, strict=True):
        progress.advance(1)
        try:
            image = admit((root / source).read_bytes(), recipe.resize)
        except (UnusableError, OSError) as reason:
            quarantined[source] = getattr(reason, "strerror", None) or str(reason)
            progress.say(f"set aside {source}: {quarantined[source]}")
            continue
        description = _json(
            {
                "source": source,
                "source_height": image.source_height,
                "source_width": image.source_width,
                "changes": image.changes,
            }
        )
        key = f"{number:08d}"
        offset = writer.tarstream.offset + _BLOCK
        writer.write({"__key__": key, "jpg": image.jpeg, "json": description})
        yield _Sample(key, offset, len(image.jpeg), image.height, image.width, len(description))


def _manifest(recipe: Recipe, plan: Sequence[PlannedShard], records: Sequence[Record]) -> dict[str, Any]:
    splits: dict[str, list[dict[str, Any]]] = {}
    for shard, record in zip(plan, records, strict=True):
        entry = {
            "shard": record.shard,
            "samples": len(record.size),
            "bytes": record.bytes,
            "sha256": record.sha256,
        }
        splits.setdefault(shard.split, []).append(entry)
    written = sum(len(record.size) for record in records)
    quarantined = sum(len(record.quarantined) for record in records)
    return {
        "format": FORMAT,
        "recipe": dump(recipe),
        "read": sum(len(shard.sources) for shard in plan),
        "written": written,
        "quarantined": quarantined,
        "splits": splits,
    }


class _Hashing(io.RawIOBase):
    """A stream that hashes and counts what is written through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.count = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.count += len(data)
        return self._file.write(data)


def _blocks(length: int) -> int:
    """Length of a tar member's data with its padding."""
    return -(-length // _BLOCK) * _BLOCK


def _json(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(value, indent=indent, ensure_ascii=False).encode()


def _put(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        _sync(file)
    part.replace(path)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Description:
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
    """

    def __init__(self, folder: Path, records: Sequence[Record]) -> None:
        self._folder = folder
        self._records = records
        self.shard_sizes = tuple(len(record.size) for record in records)
        self._ends = np.cumsum(self.shard_sizes)
        self._offset = _column(record.offset for record in records)
        self._size = _column(record.size for record in records)
        self.height = _column(record.height for record in records)
        self.width = _column(record.width for record in records)
        self._open = lru_cache(maxsize=64)(self._open_shard)

    @classmethod
    def open(cls, folder: Path, split: str) -> "Shards":
        """Read the manifest and the records.

        Raises:
            UserError: there is no manifest, another format, or no such split.
        """
        manifest = read_manifest(folder)
        if split not in manifest["splits"]:
            raise UserError(f'{folder} holds no "{split}" shards; write them with a recipe whose split makes some')
        entries = manifest["splits"][split]
        return cls(folder, [read_record((folder / entry["shard"]).with_suffix(".json")) for entry in entries])

    def __len__(self) -> int:
        return len(self._size)

    def read(self, sample: int) -> NDArray[np.uint8]:
        """A sample's JPEG bytes, `(N,)` uint8.

        Raises:
            UserError: the shard is absent, or not as its record says.
        """
        shard = self._open(self._shard_of(sample))
        return np.frombuffer(shard.read(int(self._offset[sample]), int(self._size[sample])), np.uint8)

    def describe(self, sample: int) -> Description:
        """What is known of a sample, read from its tar headers and its JSON."""
        shard = self._open(self._shard_of(sample))
        offset, size = int(self._offset[sample]), int(self._size[sample])
        key = _tar_header(shard.read(offset - _BLOCK, _BLOCK)).name.removesuffix(".jpg")
        json_header = offset + _blocks(size)
        length = _tar_header(shard.read(json_header, _BLOCK)).size
        description = json.loads(shard.read(json_header + _BLOCK, length))
        return Description(shard.path.name, key, description["source"])

    def _shard_of(self, sample: int) -> int:
        return int(np.searchsorted(self._ends, sample, side="right"))

    def _open_shard(self, number: int) -> "_OpenShard":
        record = self._records[number]
        return _OpenShard(self._folder / record.shard, record.bytes)


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


def _column(lists: Iterable[list[int]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *(np.array(items, np.int64) for items in lists)])


def _tar_header(block: bytes) -> tarfile.TarInfo:
    return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a folder's manifest.

    Raises:
        UserError: it is absent or of another format.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no manifest.json; make shards with koala shards write, or let that command finish"
        ) from None
    except ValueError:
        raise UserError(f"{folder}/manifest.json is damaged; run the koala shards write command again") from None
    if manifest.get("format") != FORMAT:
        raise UserError(f"{folder} has format {manifest.get('format')!r}, this koala reads {FORMAT!r}; write it again")
    return manifest


def read_record(path: Path) -> Record:
    """Read a shard's record.

    Raises:
        UserError: it is absent or damaged.
    """
    try:
        return Record(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the koala shards write command again") from None
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged; delete it and run the koala shards write command again") from None


# ---------------------------------------------------------------- verifying


def verify(folder: Path) -> list[str]:
    """Check every byte against the manifest and decode every image.

    Returns:
        The faults, each naming its shard, and where it is one image's, its key; empty when all is well.
    """
    manifest = read_manifest(folder)
    entries = [entry for split in manifest["splits"].values() for entry in split]
    faults = []
    with Progress(sum(entry["samples"] for entry in entries), "verifying") as progress:
        for entry in entries:
            faults += _verify_shard(folder, entry)
            progress.advance(entry["samples"])
    return faults


def _verify_shard(folder: Path, entry: dict[str, Any]) -> list[str]:
    path = folder / entry["shard"]
    try:
        record = read_record(path.with_suffix(".json"))
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except (UserError, OSError) as error:
        return [str(error)]
    faults = []
    if (record.sha256, record.bytes, len(record.size)) != (entry["sha256"], entry["bytes"], entry["samples"]):
        faults.append(f"{path.with_suffix('.json').name}: differs from manifest.json")
    if sha256 != entry["sha256"]:
        faults.append(f"{path.name}: sha256 differs from manifest.json")
    return faults + list(_undecodable(Shards(folder, [record]), record))


def _undecodable(shards: Shards, record: Record) -> Iterator[str]:
    for sample in range(len(shards)):
        try:
            image = admit(shards.read(sample).tobytes(), Resize())
        except UserError as error:
            yield str(error)
            return
        except UnusableError as reason:
            yield f"{record.shard}: sample {sample} does not decode: {reason}"
            continue
        if image.changes or (image.height, image.width) != (shards.height[sample], shards.width[sample]):
            yield f"{record.shard}: sample {sample} is not the image that its record describes"


# ---------------------------------------------------------------- the commands


def write_command(settings: WriteShards) -> int:
    """`koala shards write`: write, and say what became of every image."""
    manifest = write(settings)
    counts = ", ".join(
        f"{sum(entry['samples'] for entry in entries)} {split} in {len(entries)} shards"
        for split, entries in manifest["splits"].items()
    )
    print(f"{manifest['read']} read = {manifest['written']} written + {manifest['quarantined']} set aside")
    print(f"{settings.out}: {counts}")
    return 0


def verify_command(settings: VerifyShards) -> int:
    """`koala shards verify`: 0 when all is well, 1 with a line for each fault."""
    faults = verify(settings.shards)
    for fault in faults:
        print(fault)
    print(f"{settings.shards}: {len(faults)} faults" if faults else f"{settings.shards}: all is well")
    return 1 if faults else 0

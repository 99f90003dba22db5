"""A folder of images -> tar shards, their records and a manifest (see `koala.shards` for what these are)."""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from koala.config import Recipe, Split, WriteShards, dump
from koala.errors import UserError
from koala.intake import UnusableError, admit
from koala.order import shuffled
from koala.progress import Progress
from koala.shards import BLOCK, FORMAT, SPLITS, Entry, Manifest, Record, padded, read_record


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
        names = _lines(source)
    else:
        raise UserError(f"{source} does not exist; name a folder of images or a text file that lists them")
    if not names:
        raise UserError(f"{source} holds no file; name a folder of images")
    return root, names


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text; name a folder of images or a text file that lists them") from None


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
        train, val = (_below(numbered, folder) for folder in (split.train_folder, split.val_folder))
        return train or _without(numbered, val), val or _without(numbered, train)
    count = split.val_count or round(split.val_share * len(numbered))
    if count > len(numbered):
        raise UserError(f"{count} validation images are asked for, but there are {len(numbered)}; lower val_count")
    return numbered[count:], numbered[:count]


def _without(numbered: _Numbered, others: _Numbered) -> _Numbered:
    taken = set(others)
    return [image for image in numbered if image not in taken]


def _below(numbered: _Numbered, folder: str) -> _Numbered:
    if not folder:
        return []
    found = [(number, name) for number, name in numbered if name.startswith(folder.rstrip("/") + "/")]
    if not found:
        raise UserError(f'no image lies below "{folder}"; correct the split of the recipe, or --source')
    return found


# ---------------------------------------------------------------- writing


def write(settings: WriteShards) -> Manifest:
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
    _put(settings.out / "manifest.json", _json(asdict(manifest), indent=1))
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
        json_offset = self.offset + padded(self.size) + BLOCK
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
        samples=len(samples),
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
        offset = writer.tarstream.offset + BLOCK
        writer.write({"__key__": key, "jpg": image.jpeg, "json": description})
        yield _Sample(key, offset, len(image.jpeg), image.height, image.width, len(description))


def _manifest(recipe: Recipe, plan: Sequence[PlannedShard], records: Sequence[Record]) -> Manifest:
    splits: dict[str, list[Entry]] = {}
    for shard, record in zip(plan, records, strict=True):
        entry = Entry(record.shard, record.samples, record.bytes, record.sha256)
        splits.setdefault(shard.split, []).append(entry)
    return Manifest(
        format=FORMAT,
        recipe=dump(recipe),
        read=sum(len(shard.sources) for shard in plan),
        written=sum(record.samples for record in records),
        quarantined=sum(len(record.quarantined) for record in records),
        splits=splits,
    )


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


def _json(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(value, indent=indent).encode()  # in ASCII, which holds any file's name


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


# ---------------------------------------------------------------- the command


def write_command(settings: WriteShards) -> int:
    """`koala shards write`: write, and say what became of every image."""
    manifest = write(settings)
    counts = ", ".join(
        f"{manifest.samples(split)} {split} in {len(entries)} shards" for split, entries in manifest.splits.items()
    )
    print(f"{manifest.read} read = {manifest.written} written + {manifest.quarantined} set aside")
    print(f"{settings.out}: {counts}")
    return 0

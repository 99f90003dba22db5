"""A source of images -> tar shards, their records and a manifest (see `koala.data.shards` for what these are).

Which image goes into which shard follows from the source's names and the recipe alone. So shards can be written by any
number of processes and nodes, in any order, killed and written again: the bytes are the same.
"""

import hashlib
import io
import json
import os
import select
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO

from koala.config.data import FinishShards, RepairShards, ShardRecipe, SplitRule, WriteShards
from koala.config.fields import part_numbers
from koala.config.load import to_dict
from koala.core.atomic_io import fsync, write_atomic
from koala.core.errors import UserError
from koala.core.progress import Progress
from koala.data.sampler import seeded_permutation
from koala.data.shards import (
    BLOCK,
    FORMAT,
    SPLITS,
    ShardEntry,
    ShardManifest,
    ShardPlan,
    ShardRecord,
    faulty_shards,
    padded_length,
    read_manifest,
    read_plan,
    read_record,
    record_path,
)
from koala.data.sources import ClassLabels, Source, SourceItem, class_of, find_labels, list_items, open_source
from koala.imaging.jpeg_intake import IntakeResult, UnreadableImageError, validate_or_transcode


@dataclass(frozen=True)
class PlannedShard:
    """Which images a shard is to hold: their numbers in the shuffled data set, and themselves."""

    split: str
    name: str
    numbers: tuple[int, ...]
    items: tuple[SourceItem, ...]

    def digest(self, recipe: ShardRecipe) -> str:
        """sha256 of all that decides the shard's content, but the images' own bytes."""
        plan = [FORMAT, to_dict(recipe), self.split, self.numbers, [item.name for item in self.items]]
        return hashlib.sha256(json.dumps(plan).encode()).hexdigest()


@dataclass(frozen=True)
class WriteJob:
    """All that a process needs to write shards."""

    out: Path
    source: Source
    labels: ClassLabels
    recipe: ShardRecipe


# ---------------------------------------------------------------- which images go where


def plan_shards(items: Sequence[SourceItem], recipe: ShardRecipe) -> list[PlannedShard]:
    """Shuffle the images over the whole set, split them and cut them into shards: pure."""
    drawn = [items[i] for i in seeded_permutation(len(items), recipe.seed)]
    numbered = list(enumerate(drawn[: recipe.limit or None]))
    plan = []
    for split, members in zip(SPLITS, _divide(numbered, recipe.split), strict=True):
        for index, start in enumerate(range(0, len(members), recipe.samples_per_shard)):
            numbers, images = zip(*members[start : start + recipe.samples_per_shard], strict=True)
            plan.append(PlannedShard(split, f"{split}-{index:06d}", numbers, images))
    return plan


_Numbered = list[tuple[int, SourceItem]]


def _divide(numbered: _Numbered, split: SplitRule) -> tuple[_Numbered, _Numbered]:
    """Training and validation images."""
    if split.train_folder or split.val_folder:
        train, val = (_below(numbered, folder) for folder in (split.train_folder, split.val_folder))
        return train or _without(numbered, val), val or _without(numbered, train)
    count = split.val_count or round(split.val_share * len(numbered))
    if count > len(numbered):
        raise UserError(f"{count} validation images are asked for, but there are {len(numbered)}; lower val_count")
    return numbered[count:], numbered[:count]


def _without(numbered: _Numbered, others: _Numbered) -> _Numbered:
    taken = {number for number, _ in others}
    return [image for image in numbered if image[0] not in taken]


def _below(numbered: _Numbered, folder: str) -> _Numbered:
    if not folder:
        return []
    found = [image for image in numbered if image[1].name.startswith(folder.rstrip("/") + "/")]
    if not found:
        raise UserError(f'no image lies below "{folder}"; correct the split of the recipe, or --source')
    return found


# ---------------------------------------------------------------- all of it


def write_shards(settings: WriteShards) -> ShardManifest | None:
    """Write the shards of this part that are not there yet and, when there is but one part, the manifest.

    Returns:
        The manifest, or none where other parts are still to come.

    Raises:
        UserError: the source is absent or empty, or `out` holds shards of another recipe or source.
    """
    job, plan = _prepare(settings.source, settings.out, settings.recipe)
    part, parts = part_numbers(settings.part)
    _write_missing(job, plan[part - 1 :: parts], settings.workers)
    return finish_shards(settings.out) if parts == 1 else None


def _prepare(path: Path, out: Path, recipe: ShardRecipe) -> tuple[WriteJob, list[PlannedShard]]:
    """List the source and plan; the plan is left in `out` for `finish_shards`, and must be the one that is there."""
    source = open_source(path)
    items = list_items(source)
    plan = plan_shards(items, recipe)
    written = ShardPlan(
        FORMAT, to_dict(recipe), {shard.name: (shard.digest(recipe), len(shard.items)) for shard in plan}
    )
    out.mkdir(parents=True, exist_ok=True)
    if (out / "plan.json").exists():
        if read_plan(out) != written:
            raise UserError(f"{out} holds shards of another recipe or source; choose another --out, or empty this one")
    else:
        write_atomic(out / "plan.json", _json(asdict(written), indent=1))
    return WriteJob(out, source, find_labels(source, items), recipe), plan


def _write_missing(job: WriteJob, plan: Sequence[PlannedShard], workers: int) -> None:
    """Write what is not committed, in `workers` processes."""
    with Progress(sum(len(shard.items) for shard in plan), "writing shards") as progress:
        missing = []
        for shard in plan:
            if _committed(job, shard):
                progress.advance(len(shard.items))
            else:
                missing.append(shard)
        for record in _write_all(job, missing, workers, progress):
            for name, reason in record.quarantined:
                progress.say(f"set aside {name}: {reason}")


def _write_all(job: WriteJob, plan: Sequence[PlannedShard], workers: int, progress: Progress) -> Iterator[ShardRecord]:
    """Write shards and give their records as they are done."""
    if workers == 1 or len(plan) < 2:
        for shard in plan:
            yield write_shard(job, shard, progress)
        return
    context = get_context("forkserver")  # DALI does not survive a plain fork
    context.set_forkserver_preload(["koala.data.shard_writer", "webdataset.writer"])
    with ProcessPoolExecutor(min(workers, len(plan)), context, _begin_worker, (job, os.getpid())) as pool:
        try:
            running = [pool.submit(_write_in_worker, shard) for shard in plan]
            sizes = dict(zip(running, (len(shard.items) for shard in plan), strict=True))
            for done in as_completed(running):
                record = done.result()
                progress.advance(sizes[done])
                yield record
        except BrokenProcessPool:
            raise UserError("a worker process was killed, for lack of memory perhaps; run the command again") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # those under way end with their shard
            raise


_worker_job: WriteJob


def _begin_worker(job: WriteJob, writer: int) -> None:
    """Leave Ctrl-C to the process that writes, and end with it however it ends."""
    global _worker_job  # noqa: PLW0603  (sent once to each process, not with each shard)
    _worker_job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_of_writer = os.pidfd_open(writer)

    def watch() -> None:
        select.select([end_of_writer], [], [])
        os.kill(os.getppid(), signal.SIGTERM)  # the fork server, which does not look
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_in_worker(shard: PlannedShard) -> ShardRecord:
    return write_shard(_worker_job, shard)


def _committed(job: WriteJob, shard: PlannedShard) -> bool:
    """Whether an earlier run finished a shard."""
    path = record_path(job.out, f"{shard.name}.tar")
    return path.exists() and read_record(path).plan == shard.digest(job.recipe)


def finish_shards(out: Path) -> ShardManifest:
    """Check that all planned shards are there, and write the manifest and the list of what was set aside.

    Raises:
        UserError: shards are missing, or belong to another plan.
    """
    plan = read_plan(out)
    records, missing = {}, []
    for name, (digest, _) in plan.shards.items():
        path = record_path(out, f"{name}.tar")
        record = read_record(path) if path.exists() else None
        if record is None or record.plan != digest:
            missing.append(name)
        else:
            records[name] = record
    if missing:
        some = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise UserError(f"{out} lacks {some} of {len(plan.shards)} shards; run the koala shards write commands again")
    splits: dict[str, list[ShardEntry]] = {}
    quarantine = []
    for name, record in records.items():
        split = name.partition("-")[0]
        splits.setdefault(split, []).append(ShardEntry(record.shard, record.samples, record.bytes, record.sha256))
        quarantine += [
            {"source": source, "reason": reason, "split": split, "shard": record.shard}
            for source, reason in record.quarantined
        ]
    manifest = ShardManifest(
        format=FORMAT,
        recipe=plan.recipe,
        read=sum(count for _, count in plan.shards.values()),
        written=sum(record.samples for record in records.values()),
        quarantined=len(quarantine),
        splits=splits,
    )
    assert manifest.read == manifest.written + manifest.quarantined
    _remove_parts(out)
    write_atomic(out / "quarantine.jsonl", b"".join(_json(line) + b"\n" for line in quarantine))
    write_atomic(out / "manifest.json", _json(asdict(manifest), indent=1))
    return manifest


def repair_shards(settings: RepairShards) -> list[str]:
    """Write the shards that are not what the manifest says once more, from the source.

    Returns:
        The shards that were written again.

    Raises:
        UserError: the source or the recipe is another, or the images have changed since.
    """
    manifest = read_manifest(settings.shards)
    bad = faulty_shards(settings.shards, manifest, settings.workers)
    recipe = read_plan(settings.shards).as_recipe()
    job, plan = _prepare(settings.source, settings.shards, recipe)
    entries = {entry.shard: entry for split in manifest.splits.values() for entry in split}
    with Progress(len(bad), "repairing", unit="shards") as progress:
        for shard in (shard for shard in plan if f"{shard.name}.tar" in bad):
            record = write_shard(job, shard)
            if record.sha256 != entries[record.shard].sha256:
                raise UserError(
                    f"{record.shard} was written again with other bytes than manifest.json says: images in "
                    f"{settings.source} have changed; write all shards to another --out"
                )
            progress.advance(1)
    return sorted(bad)


# ---------------------------------------------------------------- one shard


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
        json_offset = self.offset + padded_length(self.size) + BLOCK
        return f"jpg {self.offset} {self.size} {self.key}.jpg json {json_offset} {self.json_size} {self.key}.json\n"


def write_shard(job: WriteJob, shard: PlannedShard, progress: Progress | None = None) -> ShardRecord:
    """Write one shard: tar and index under other names first, the record last."""
    from webdataset.writer import TarWriter

    quarantined: list[tuple[str, str]] = []
    tar = job.out / f"{shard.name}.tar"
    _remove_parts(job.out, shard.name)
    part = tar.with_suffix(f".tar.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            stream = _Hashing(file)
            with TarWriter(stream, mtime=0, user="koala", group="koala", encoder=False) as writer:
                samples = list(_fill(writer, job, shard, quarantined, progress))
            fsync(file)
    except OSError:
        part.unlink(missing_ok=True)  # on a full disk, half a shard is in the way
        raise
    part.replace(tar)
    index = "".join(sample.index_line() for sample in samples)
    write_atomic(tar.with_suffix(".idx"), f"v1.2 {len(samples)}\n{index}".encode())
    record = ShardRecord(
        shard=tar.name,
        samples=len(samples),
        plan=shard.digest(job.recipe),
        bytes=stream.count,
        sha256=stream.sha256.hexdigest(),
        offset=[sample.offset for sample in samples],
        size=[sample.size for sample in samples],
        height=[sample.height for sample in samples],
        width=[sample.width for sample in samples],
        quarantined=quarantined,
    )
    write_atomic(record_path(job.out, tar.name), _json(asdict(record)))
    return record


def _fill(
    writer: Any, job: WriteJob, shard: PlannedShard, quarantined: list[tuple[str, str]], progress: Progress | None
) -> Iterator[_Sample]:
    """Write a shard's images to its tar; those that cannot be used go to `quarantined`, with the reason."""
    for number, item in zip(shard.numbers, shard.items, strict=True):
        if progress is not None:
            progress.advance(1)
        try:
            if item.repeated:
                raise UnreadableImageError("another image has this name")
            image = validate_or_transcode(job.source.read(item), job.recipe.resize)
        except (UnreadableImageError, OSError) as reason:
            quarantined.append((item.name, getattr(reason, "strerror", None) or str(reason)))
            continue
        description = _json(_describe(job, item, image))
        key = f"{number:08d}"
        offset = writer.tarstream.offset + BLOCK
        writer.write({"__key__": key, "jpg": image.jpeg, "json": description})
        yield _Sample(key, offset, len(image.jpeg), image.height, image.width, len(description))


def _describe(job: WriteJob, item: SourceItem, image: IntakeResult) -> dict[str, Any]:
    """A sample's JSON."""
    return {
        "source": item.name,
        "source_height": image.source_height,
        "source_width": image.source_width,
        "changes": image.changes,
        **class_of(job.source, item, job.labels),
    }


def _remove_parts(out: Path, name: str = "") -> None:
    """Remove what a process left that was killed while it wrote."""
    for left in out.glob(f"{name}*.part"):
        left.unlink(missing_ok=True)


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


# ---------------------------------------------------------------- the commands


def write_command(settings: WriteShards) -> int:
    """`koala shards write`: write, and say what became of every image."""
    manifest = write_shards(settings)
    if manifest is None:
        print(f"{settings.out}: part {settings.part} is written; when all are, koala shards finish {settings.out}")
    else:
        _say(settings.out, manifest)
    return 0


def finish_command(settings: FinishShards) -> int:
    """`koala shards finish`: the manifest of shards that were written in parts."""
    _say(settings.shards, finish_shards(settings.shards))
    return 0


def repair_command(settings: RepairShards) -> int:
    """`koala shards repair`: write bad shards again from the source."""
    again = repair_shards(settings)
    print(f"{settings.shards}: " + (f"written again: {', '.join(again)}" if again else "all is well"))
    return 0


def _say(out: Path, manifest: ShardManifest) -> None:
    counts = ", ".join(
        f"{manifest.samples(split)} {split} in {len(entries)} shards" for split, entries in manifest.splits.items()
    )
    print(f"{manifest.read} read = {manifest.written} written + {manifest.quarantined} set aside")
    print(f"{out}: {counts}" + ("; quarantine.jsonl says why" if manifest.quarantined else ""))

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
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO

from koala.config.data import FinishShards, RepairShards, ShardRecipe, WriteShards
from koala.config.fields import Location, part_numbers
from koala.config.imaging import PictureLimits
from koala.config.load import validate
from koala.core.atomic_io import fsync, sha256
from koala.core.errors import UserError
from koala.core.folder_lock import lock_folder
from koala.core.progress import Progress
from koala.data.labels import ClassLabels, find_labels
from koala.data.manifest import assemble_manifest
from koala.data.mirror import local_folder, name_tar, shown, write_file
from koala.data.places import SourceItem
from koala.data.shard_plan import PlannedShard, describe_plan, plan_shards
from koala.data.shards import (
    ShardEntry,
    ShardManifest,
    ShardPlan,
    ShardRecord,
    read_manifest,
    read_plan,
    read_record,
    record_path,
)
from koala.data.sources import commonest_reasons, list_source
from koala.data.tars import BLOCK, padded_length
from koala.data.verification import check_shards
from koala.imaging.errors import UnreadableImageError
from koala.imaging.jpeg_intake import IntakeResult, validate_or_transcode


@dataclass(frozen=True)
class WriteJob:
    """All that a process needs to write shards."""

    out: Path
    labels: ClassLabels
    recipe: ShardRecipe


# ---------------------------------------------------------------- all of it


def write_shards(settings: WriteShards) -> ShardManifest | None:
    """Write the shards of this part that are not there yet and, when there is but one part, the manifest.

    Returns:
        The manifest, or none where other parts are still to come.

    Raises:
        UserError: the source is absent or empty, or `out` holds shards of another recipe or source.
    """
    out = local_folder(settings.out)
    job, plan, written = _prepare(settings.source, out, settings.recipe)
    part, parts = part_numbers(settings.part)
    with lock_folder(out, "koala shards write", part, parts):
        _leave_plan(out, written)
        _write_missing(job, plan[part - 1 :: parts], settings.workers)
        return finish_shards(out) if parts == 1 else None


def _prepare(path: Path, out: Path, recipe: ShardRecipe) -> tuple[WriteJob, list[PlannedShard], ShardPlan]:
    """List the source, and plan.

    Raises:
        UserError: there is nothing in the source, or shards would be written into it.
    """
    if path.is_dir() and out.exists() and path.samefile(out):
        raise UserError(f"{out} is the source itself; choose another folder for the shards")
    listing = list_source(path, leave_out=out)
    shards = plan_shards(listing, recipe)
    labels = find_labels(path, listing.images, listing.lists)
    return WriteJob(out, labels, recipe), shards, describe_plan(listing, shards, recipe)


def _leave_plan(out: Path, plan: ShardPlan) -> None:
    """Leave the plan for `finish_shards`; where there is one, it must be for the same shards."""
    path = out / "plan.json"
    before = read_plan(out) if path.exists() else None
    if before is not None and not before.is_of(plan):
        raise UserError(
            f"{shown(out)} holds shards of another recipe or source; choose another --out, or empty this one"
        )
    if before != plan:
        write_file(path, _json(asdict(plan), indent=1))
        with Progress(len(plan.set_aside), "listing") as progress:
            for name, reason in plan.set_aside:
                progress.say(f"set aside {name}: {reason}")


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
    try:
        record = read_record(record_path(job.out, f"{shard.name}.tar"))
    except UserError:  # absent, or damaged
        return False
    return record.is_of((shard.digest(job.recipe), len(shard.items)))


def finish_shards(out: Path) -> ShardManifest:
    """Check that all planned shards are there, and write the manifest and the list of what was set aside.

    Raises:
        UserError: shards are missing, or belong to another plan.
    """
    manifest, quarantine = assemble_manifest(out, read_plan(out))
    _remove_parts(out)
    write_file(out / "quarantine.jsonl", quarantine)
    write_file(out / "manifest.json", _json(asdict(manifest), indent=1))
    return manifest


def repair_shards(settings: RepairShards) -> list[str]:
    """Write once more what is not as the manifest says: shards from the source, and the lists beside them.

    Returns:
        What was written again.

    Raises:
        UserError: the source or the recipe is another, or the images have changed since.
    """
    out = local_folder(settings.shards)
    manifest = read_manifest(out)
    entries = {entry.shard: entry for entry in manifest.entries}
    job, shards, plan = _prepare(settings.source, out, validate(ShardRecipe, manifest.recipe, "manifest.json"))
    with lock_folder(out, "koala shards repair"):
        faults = check_shards(out, manifest.entries, workers=settings.workers)
        bad = {shard for shard, found in faults.items() if found}
        bad |= _of_other_plan(out, plan, entries, bad)
        before = {name: _digest(out / name) for name in ("plan.json", "quarantine.jsonl", "manifest.json")}
        write_file(out / "plan.json", _json(asdict(plan), indent=1))
        with Progress(len(bad), "repairing", unit="shards") as progress:
            for shard in (shard for shard in shards if f"{shard.name}.tar" in bad):
                _write_again(job, shard, entries[f"{shard.name}.tar"], settings.source)
                progress.advance(1)
        finish_shards(out)
        return sorted(bad) + [name for name, digest in before.items() if _digest(out / name) != digest]


def _of_other_plan(out: Path, plan: ShardPlan, listed: Collection[str], bad: Collection[str]) -> set[str]:
    """Those of the whole shards whose records are damaged so that they belong to another plan.

    Raises:
        UserError: plan.json says so too, or other shards are planned: the source is another.
    """
    planned = {f"{name}.tar": wanted for name, wanted in plan.shards.items()}
    whole = (shard for shard in listed if shard not in bad)
    others = {shard for shard in whole if not read_record(record_path(out, shard)).is_of(planned.get(shard))}
    if planned.keys() != set(listed) or (others and not _agrees(out, plan)):
        raise UserError(
            f"{shown(out)} holds shards of another recipe or source; name the source that they were written from"
        )
    return others


def _agrees(out: Path, plan: ShardPlan) -> bool:
    try:
        return read_plan(out).is_of(plan)
    except UserError:  # absent, or damaged
        return False


def _write_again(job: WriteJob, shard: PlannedShard, entry: ShardEntry, source: Path) -> None:
    """Write a shard that must become what it was."""
    known = {entry.sha256}
    with suppress(UserError):
        known.add(read_record(record_path(job.out, entry.shard)).sha256)  # the manifest may be what is wrong
    if write_shard(job, shard).sha256 not in known:
        raise UserError(
            f"{entry.shard} was written again with other bytes than manifest.json says: images in {source} have "
            "changed; write all shards to another --out"
        )


def _digest(path: Path) -> str:
    return sha256(path) if path.exists() else ""


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
        with part.open("wb", buffering=1 << 20) as file:
            stream = _Hashing(file)
            with TarWriter(stream, mtime=0, user="koala", group="koala", encoder=False) as writer:
                samples = list(_fill(writer, job, shard, quarantined, progress))
            fsync(file)
        name_tar(part, tar)
    except (OSError, UserError):
        part.unlink(missing_ok=True)  # on a full disk, half a shard is in the way
        raise
    index = "".join(sample.index_line() for sample in samples)
    write_file(tar.with_suffix(".idx"), f"v1.2 {len(samples)}\n{index}".encode())
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
    write_file(record_path(job.out, tar.name), _json(asdict(record)))
    return record


def _fill(
    writer: Any, job: WriteJob, shard: PlannedShard, quarantined: list[tuple[str, str]], progress: Progress | None
) -> Iterator[_Sample]:
    """Write a shard's images to its tar; those that cannot be used go to `quarantined`, with the reason."""
    recipe = job.recipe
    limits = PictureLimits(recipe.max_pixels, recipe.max_bytes)
    for number, item in zip(shard.numbers, shard.items, strict=True):
        if progress is not None:
            progress.advance(1)
        try:
            image = validate_or_transcode(item.read(recipe.max_bytes), recipe.resize, limits)
        except (UnreadableImageError, OSError, MemoryError) as reason:
            quarantined.append((item.name, getattr(reason, "strerror", None) or str(reason) or "no memory for it"))
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
        **job.labels.describe(item),
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
    """`koala shards write`: write, and say what became of every image.

    Returns:
        0, or 1 where none or less than half of the images could be used.
    """
    manifest = write_shards(settings)
    if manifest is not None:
        return _report(settings.out, manifest)
    print(f"{settings.out}: part {settings.part} is written; when all are, koala shards finish {settings.out}")
    return 0


def finish_command(settings: FinishShards) -> int:
    """`koala shards finish`: the manifest of shards that were written in parts."""
    out = local_folder(settings.shards)
    with lock_folder(out, "koala shards finish"):
        return _report(settings.shards, finish_shards(out))


def repair_command(settings: RepairShards) -> int:
    """`koala shards repair`: write bad shards again from the source."""
    again = repair_shards(settings)
    print(f"{settings.shards}: " + (f"written again: {', '.join(again)}" if again else "all is well"))
    return 0


def _report(out: Location, manifest: ShardManifest) -> int:
    counts = ", ".join(
        f"{manifest.samples(split)} {split} in {len(entries)} shard{'s' * (len(entries) > 1)}"
        for split, entries in manifest.splits.items()
    )
    print(f"{manifest.read} read = {manifest.written} written + {manifest.quarantined} set aside")
    if manifest.passed_over:
        print("passed over: " + ", ".join(f"{count} {what}" for what, count in manifest.passed_over.items()))
    print(f"{out}: {counts}" + ("; quarantine.jsonl says why" if manifest.quarantined else ""))
    if 2 * manifest.quarantined <= manifest.read:
        return 0
    with (local_folder(out) / "quarantine.jsonl").open(encoding="ascii") as lines:
        why = commonest_reasons(json.loads(line)["reason"] for line in lines)
    print(
        f"{manifest.quarantined} of {manifest.read} could not be used: {why}; mend the source, empty {out}, and run "
        "the command again"
    )
    return 1

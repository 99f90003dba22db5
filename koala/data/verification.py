"""Whether a folder of shards is what its manifest says, byte by byte and picture by picture."""

import errno
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from koala.config.data import ResizeRule, VerifyShards
from koala.config.fields import Location
from koala.config.imaging import MAX_PIXELS, PictureLimits
from koala.core import atomic_io
from koala.core.errors import UserError, first_line
from koala.core.progress import Progress
from koala.data.manifest import assemble_manifest
from koala.data.mirror import local_folder, shown, tar_lengths, tar_names, whole_tar
from koala.data.shards import (
    SPLITS,
    ShardEntry,
    ShardManifest,
    ShardRecord,
    Shards,
    read_manifest,
    read_plan,
    read_record,
    record_path,
)
from koala.imaging.errors import UnreadableImageError
from koala.imaging.jpeg_intake import validate_or_transcode


def verify_shards(folder: Location, quick: bool = False, workers: int = 1, show: bool = True) -> list[str]:
    """Check every byte against the manifest and decode every image.

    Args:
        folder: of shards.
        quick: look at records and sizes only.
        workers: processes.
        show: say how far it is.

    Returns:
        The faults, each naming its file, and where it is one image's, its key; empty when all is well.

    Raises:
        UserError: there is no manifest, or it is damaged.
    """
    manifest = read_manifest(folder)
    here = local_folder(folder)
    of_shards = check_shards(here, manifest.entries, quick, workers, show)
    faults = [*_faults_of_folder(here, manifest), *(fault for faults in of_shards.values() for fault in faults)]
    return list(dict.fromkeys(faults))  # a damaged record is both the folder's and its shard's


def check_shards(
    folder: Path, entries: Sequence[ShardEntry], quick: bool = False, workers: int = 1, show: bool = True
) -> dict[str, list[str]]:
    """The faults of each shard, by its name."""
    check = partial(_check_shard, folder, quick=quick)
    lengths = tar_lengths(folder, [entry.shard for entry in entries]) if quick else [None] * len(entries)
    with (
        Progress(sum(entry.samples for entry in entries), "verifying", show=show) as progress,
        ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else nullcontext() as pool,
    ):
        found = {}
        for entry, faults in zip(entries, (pool.map if pool else map)(check, entries, lengths), strict=True):
            found[entry.shard] = faults
            progress.advance(entry.samples)
    return found


# ---------------------------------------------------------------- the folder


def _faults_of_folder(folder: Path, manifest: ShardManifest) -> Iterator[str]:
    if not manifest.written:
        yield f"{shown(folder)} holds no sample"
    listed = {entry.shard for entry in manifest.entries}
    there = {name for split in SPLITS for name in tar_names(folder, split)}
    yield from (f"{name}: manifest.json does not list it" for name in sorted(there - listed))
    try:
        expected, quarantine = assemble_manifest(folder, read_plan(folder))
        if manifest != expected:
            yield "manifest.json is not what plan.json and the records make; run koala shards repair, or finish"
        if (folder / "quarantine.jsonl").read_bytes() != quarantine:
            yield "quarantine.jsonl does not name what was set aside; run koala shards finish"
    except UserError as error:
        yield str(error)
    except FileNotFoundError:
        yield "quarantine.jsonl is missing; run koala shards finish"


# ---------------------------------------------------------------- a shard


def _check_shard(folder: Path, entry: ShardEntry, length: int | None, quick: bool) -> list[str]:
    found: list[str] = []
    try:
        for fault in _faults_of_shard(folder, entry, length, quick):
            found.append(fault)  # not list(): those before an error count
    except UserError as error:
        found.append(str(error))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # this machine's fault, not the shard's
            raise
        found.append(f"{entry.shard}: {error.strerror}")
    except Exception as error:  # whatever the damage, it is this shard's, and the others are looked at, too
        found.append(f"{entry.shard} cannot be checked: {first_line(error) or type(error).__name__}")
    return found


def _faults_of_shard(folder: Path, entry: ShardEntry, length: int | None, quick: bool) -> Iterator[str]:
    record = read_record(record_path(folder, entry.shard))
    if not record.is_listed_as(entry):
        yield f"{entry.shard}: its record differs from manifest.json"
    elif quick:
        if length is None:
            yield f"{entry.shard}: No such file or directory"
        elif length != entry.bytes:
            yield f"{entry.shard} is {length} bytes long, its record says {entry.bytes}"
    else:
        with whole_tar(folder, entry.shard, entry.bytes) as here:
            yield from _faults_inside(here, entry, record)


def _faults_inside(folder: Path, entry: ShardEntry, record: ShardRecord) -> Iterator[str]:
    tar = folder / entry.shard
    same = atomic_io.sha256(tar) == entry.sha256
    if not same:
        yield f"{entry.shard}: sha256 differs from manifest.json"
    yield from _faulty_samples(folder, record)
    if same:
        yield from _faulty_index(tar, record)


def _faulty_samples(folder: Path, record: ShardRecord) -> Iterator[str]:
    """The samples that are not what the record says, each with its key where that can still be read."""
    shards = Shards(folder, [record])
    pixels = np.multiply(record.height, record.width, dtype=np.int64).max(initial=MAX_PIXELS)
    for sample in range(record.samples):
        try:
            image = validate_or_transcode(shards.read(sample).tobytes(), ResizeRule(), PictureLimits(int(pixels)))
        except UnreadableImageError as reason:
            yield f"{record.shard}: {_name(shards, sample)} does not decode: {reason}"
        else:
            if image.changes or (image.height, image.width) != (shards.height[sample], shards.width[sample]):
                yield f"{record.shard}: {_name(shards, sample)} is not the image that its record describes"


def _name(shards: Shards, sample: int) -> str:
    try:
        found = shards.describe(sample)
    except UserError:
        return f"sample {sample}"
    return f"{found.key} ({found.source})"


def _faulty_index(tar: Path, record: ShardRecord) -> Iterator[str]:
    """Whether DALI's reader would be led astray, which garbage in silence would tell it."""
    with tarfile.open(tar, "r:") as file:
        members = [(member.name.rpartition("."), member.offset_data, member.size) for member in file]
    lines = [f"v1.2 {record.samples}\n"]
    for jpg, description in zip(members[::2], members[1::2], strict=True):
        parts = (f"{kind} {offset} {size} {key}.{kind}" for (key, _, kind), offset, size in (jpg, description))
        lines.append(" ".join(parts) + "\n")
    index, text = tar.with_suffix(".idx"), "".join(lines).encode()
    if not index.exists() or index.stat().st_size != len(text) or index.read_bytes() != text:
        yield f"{index.name}: does not describe {tar.name}; run koala shards repair"


# ---------------------------------------------------------------- the command


def verify_command(settings: VerifyShards) -> int:
    """`koala shards verify`: 0 when all is well, 1 with a line for each fault."""
    faults = verify_shards(settings.shards, settings.quick, settings.workers)
    for fault in faults:
        print(fault)
    print(f"{settings.shards}: {len(faults)} faults" if faults else f"{settings.shards}: all is well")
    return 1 if faults else 0

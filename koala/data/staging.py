"""`koala shards stage`: shards from a store or a shared folder to a node's own disk, in the order of need.

A shard's record is written last, as everywhere; the manifest when all shards are there.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from koala.config.data import StageShards
from koala.config.fields import Location
from koala.core.atomic_io import open_atomic, write_atomic
from koala.core.errors import UserError
from koala.core.folder_lock import lock_folder
from koala.core.object_store import ObjectStore, open_folder, stop_waiting
from koala.core.progress import Progress
from koala.core.wording import counted
from koala.data.mirror import bring, local_folder, store_of
from koala.data.sampler import shard_order
from koala.data.shards import ShardEntry, ShardManifest, read_manifest, read_record, record_path


def stage_command(settings: StageShards) -> int:
    """Copy what is not there yet.

    Returns:
        0.

    Raises:
        UserError: there are no shards, they are not what their manifest says, or the copy's folder holds others.
    """
    stop_waiting(False)
    manifest = read_manifest(settings.shards)
    with lock_folder(settings.to, "koala shards stage"):
        _check_folder(settings, manifest)
        source = _open_source(settings.shards)
        for left in settings.to.rglob("*.part"):  # of a command that was killed
            left.unlink()
        copied = _copy_shards(source, settings.to, in_order(manifest, settings.seed), settings.workers)
        _copy_others(source, settings.to)
    print(f"{settings.to}: {counted(copied, 'shard')} copied, {len(manifest.entries) - copied} were there")
    return 0


def in_order(manifest: ShardManifest, seed: int) -> list[ShardEntry]:
    """The shards in the order in which a training needs them: those to train on, then those to validate on."""
    train, val = (manifest.splits.get(split, []) for split in ("train", "val"))
    return [*(train[number] for number in shard_order(len(train), seed)), *val]


def _check_folder(settings: StageShards, manifest: ShardManifest) -> None:
    """Refuse to copy shards over themselves, or over others."""
    if isinstance(settings.shards, Path) and settings.to.samefile(settings.shards):
        raise UserError(f"{settings.to} is what is to be copied; choose another folder with --to")
    if _holds_others(settings.to, manifest):
        raise UserError(f"{settings.to} holds other shards; choose another folder with --to, or empty it")


def _holds_others(to: Path, manifest: ShardManifest) -> bool:
    """Whether a folder holds shards of another manifest, be they finished or not."""
    if (to / "manifest.json").exists():
        return read_manifest(to).entries != manifest.entries
    listed = {record_path(to, entry.shard): entry for entry in manifest.entries}
    records = (path for path in to.glob("*-" + "[0-9]" * 6 + ".json") if _is_record(path.name))
    return any(path not in listed or not _is_listed(path, listed[path]) for path in records)


def _is_listed(record: Path, entry: ShardEntry) -> bool:
    """Whether a record is of a shard that a manifest lists; a damaged one is, too, and is copied again."""
    with suppress(UserError):
        return read_record(record).is_listed_as(entry)
    return True


# ---------------------------------------------------------------- where they come from


@dataclass(frozen=True)
class _Source:
    """A folder of shards that is copied, and the names in it."""

    store: ObjectStore
    names: Sequence[str]


def _open_source(location: Location) -> _Source:
    """A folder to copy from; of a store that cannot list, the names are those that a folder of shards has."""
    here = local_folder(location)
    store = store_of(here) or open_folder(here)
    if store.can_list:
        names = list(store.list())
    else:
        bring(here, "*.csv")
        names = [path.relative_to(here).as_posix() for path in here.iterdir() if not path.name.startswith("store.")]
        names += [f"{Path(name).stem}.idx" for name in names if _is_record(name)]
    return _Source(store, [name for name in names if not name.startswith(".") and not name.endswith(".part")])


def _is_record(name: str) -> bool:
    return name.startswith(("train-", "val-")) and name.endswith(".json")


# ---------------------------------------------------------------- copying


def _copy_shards(source: _Source, to: Path, entries: Sequence[ShardEntry], workers: int) -> int:
    """Copy shards that are not there, and say how many they were."""
    beside: dict[str, list[str]] = {}
    for name in source.names:
        beside.setdefault(name.partition(".")[0], []).append(name)
    missing = [entry for entry in entries if not _is_there(to, entry)]
    total, left = (sum(entry.samples for entry in some) for some in (entries, missing))
    with Progress(total, "staging", start=total - left) as progress, ThreadPoolExecutor(workers) as pool:
        try:
            for entry in pool.map(lambda entry: _copy_shard(source.store, to, entry, beside), missing):
                progress.advance(entry.samples)
        except BaseException:
            stop_waiting()
            pool.shutdown(wait=False, cancel_futures=True)  # those under way end with their shard
            raise
    return len(missing)


def _is_there(to: Path, entry: ShardEntry) -> bool:
    with suppress(UserError, FileNotFoundError):
        return (
            read_record(record_path(to, entry.shard)).is_listed_as(entry)
            and (to / entry.shard).stat().st_size == entry.bytes
        )
    return False


def _copy_shard(store: ObjectStore, to: Path, entry: ShardEntry, beside: Mapping[str, Sequence[str]]) -> ShardEntry:
    """Copy a tar and what lies beside it, the record last."""
    sha256 = hashlib.sha256()
    with open_atomic(to / entry.shard) as file:
        for piece in _pieces(store, entry):
            sha256.update(piece)
            file.write(piece)
        if sha256.hexdigest() != entry.sha256:
            raise UserError(
                f"{entry.shard}: sha256 differs from manifest.json; check it with koala shards verify {store.url}"
            )
    stem = entry.shard.removesuffix(".tar")
    for name in sorted(beside.get(stem, []), key=_is_record):
        if name != entry.shard:
            _copy(store, to, name)
    return entry


def _pieces(store: ObjectStore, entry: ShardEntry) -> Iterator[bytes]:
    try:
        yield from store.pieces(entry.shard, entry.bytes)
    except FileNotFoundError:
        raise UserError(f"{entry.shard} is not there; check the folder with koala shards verify {store.url}") from None


def _copy(store: ObjectStore, to: Path, name: str) -> None:
    path = to / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, store.read(name))


def _copy_others(source: _Source, to: Path) -> None:
    """Copy what belongs to no shard: plan, prior, embeddings; the manifest last."""
    others = [name for name in source.names if not name.startswith(("train-", "val-"))]
    with Progress(len(others), "staging", unit="other files") as progress:
        for name in sorted(others, key=lambda name: name == "manifest.json"):
            if not name.startswith("embeddings/") or not (to / name).exists():  # they are large
                _copy(source.store, to, name)
            progress.advance(1)

"""A folder of shards in a store, as it is seen on this machine.

    CACHE/stores/NAME-HASH/     a mirror: the folder's small files, as the store has them
        store.url               which folder in which store it is of
        train-000000.json ...   records, manifest, plan, audits, embeddings; no tars
    CACHE/blocks/               what was read of the tars (`koala.data.range_cache`)

CACHE is `KOALA_CACHE`, by default ~/.cache/koala. All that reads and writes a folder of shards works on the mirror as
on any folder; what it writes goes to the store first, so that a file of the mirror is never more than the store has.
Only the tars' bytes, which are many, are asked of the store.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from koala.config.fields import Location, StoreUrl
from koala.core.atomic_io import open_atomic, write_atomic
from koala.core.folder_lock import wait_for_lock
from koala.core.object_store import ObjectStore, StoredFile, open_store
from koala.core.progress import Progress

TABLES = ("*.json", "*.jsonl", "prior.csv")  # what every command looks at
_OF_PLAIN_FOLDER = ("manifest.json", "plan.json", "quarantine.jsonl", "prior.csv")  # where a store cannot list
_URL, _VERSIONS, _LOCK = "store.url", "store.versions", ".store.lock"
_WHOLE = ".whole-"  # begins the names of folders that hold a tar while it is checked
_STALE_S = 24 * 3600.0  # one that is older was left by a process that was killed
_AT_ONCE = 16  # files that are fetched at the same time


def cache_folder() -> Path:
    """Where this machine keeps what it has from stores."""
    named = os.environ.get("KOALA_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "koala"


def local_folder(location: Location) -> Path:
    """A folder of shards on this machine: the folder itself, or its mirror with the tables that the store has now.

    Raises:
        UserError: the store is away, refuses, or is not to be opened.
    """
    return _mirror(location) if isinstance(location, StoreUrl) else location


@lru_cache(maxsize=64)
def _mirror(url: StoreUrl) -> Path:
    """Make a folder's mirror, or bring it up to date; once in a process."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", url)[-60:].strip("-.")
    folder = cache_folder() / "stores" / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    _opened(url)  # refuses what is no address of a store
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / _URL).exists():
        write_atomic(folder / _URL, url.encode())
    _remove_left(folder)
    bring(folder, *TABLES)
    return folder


def _remove_left(folder: Path) -> None:
    """Remove tars that a process left which was killed while it checked them."""
    for left in folder.glob(f"{_WHOLE}*"):
        with suppress(FileNotFoundError):  # another process has done with it
            if time.time() - left.stat().st_mtime > _STALE_S:
                shutil.rmtree(left, ignore_errors=True)


def store_of(folder: Path) -> ObjectStore | None:
    """The store that a folder is a mirror of; none of a plain folder."""
    try:
        return _opened((folder / _URL).read_text("utf-8"))
    except FileNotFoundError:
        return None


_opened = lru_cache(maxsize=64)(open_store)


def shown(folder: Path) -> str:
    """What users call a folder."""
    store = store_of(folder)
    return store.url if store is not None else str(folder)


# ---------------------------------------------------------------- from the store


def bring(folder: Path, *patterns: str) -> None:
    """Make files of a mirror what they are at its store: those that fit a pattern; nothing is done in a plain folder.

    Args:
        folder: a mirror.
        patterns: of names below it, as in "*.audit.csv" or "embeddings/*/key.json".

    Raises:
        UserError: the store is away or refuses.
    """
    store = store_of(folder)
    if store is None:
        return
    with wait_for_lock(folder / _LOCK):  # the first process of a node fetches, the others find
        known = _versions(folder)
        there = _listed(store, folder, patterns)
        here = (path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern))
        for gone in [name for name in here if name not in there]:
            (folder / gone).unlink()
        wanted = [
            name
            for name, found in there.items()
            if not found.version or known.get(name) != found.version or not (folder / name).exists()
        ]
        try:
            _fetch_all(store, folder, wanted, there, known)
        finally:
            write_atomic(folder / _VERSIONS, json.dumps(known).encode(), durable=False)


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name fits a pattern, part by part."""
    return any(
        name.count("/") == pattern.count("/") and fnmatchcase(name, pattern) and not name.endswith(".tar")
        for pattern in patterns
    )


def _versions(folder: Path) -> dict[str, str]:
    """Which version of each file the mirror holds."""
    with suppress(FileNotFoundError, ValueError):
        return json.loads((folder / _VERSIONS).read_bytes())
    return {}


def _listed(store: ObjectStore, folder: Path, patterns: tuple[str, ...]) -> dict[str, StoredFile]:
    """The store's files that fit a pattern; of a store that cannot list, those that a folder of shards has."""
    if store.can_list:
        return {name: found for name, found in store.list().items() if _fits(name, patterns)}
    names = [name for name in _OF_PLAIN_FOLDER if _fits(name, patterns)]
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        manifest = json.loads(store.read("manifest.json"))
        stems = [entry["shard"].removesuffix(".tar") for split in manifest["splits"].values() for entry in split]
        ends = [end for end in (".json", ".audit.csv", ".bins.csv") if _fits(f"train-000000{end}", patterns)]
        names += [f"{stem}{end}" for stem in stems for end in ends]

    def found(name: str) -> StoredFile | None:
        with suppress(FileNotFoundError):
            return store.stat(name)
        return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return {name: file for name, file in zip(names, pool.map(found, names), strict=True) if file is not None}


def _fetch_all(
    store: ObjectStore, folder: Path, names: list[str], there: dict[str, StoredFile], known: dict[str, str]
) -> None:
    """Fetch files into a mirror, some at a time."""

    def fetch(name: str) -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, store.read(name), durable=False)
        return name

    what = f"fetching tables of {store.url}"
    with Progress(len(names), what, "files") as progress, ThreadPoolExecutor(_AT_ONCE) as pool:
        for name in pool.map(fetch, names):
            known[name] = there[name].version
            progress.advance(1)


# ---------------------------------------------------------------- to the store


def write_file(path: Path, data: bytes) -> None:
    """Write a file of a folder of shards, whole or not at all; of a mirror, to its store first.

    Raises:
        UserError: the store is away or refuses.
    """
    _write(path, data, lambda: write_atomic(path, data))


def send(path: Path) -> None:
    """Send a file of a mirror to its store; nothing is done in a plain folder.

    Raises:
        UserError: the store is away or refuses.
    """
    _write(path, path, lambda: None)


def _write(path: Path, data: bytes | Path, write_here: Callable[[], None]) -> None:
    """Write a file of a mirror to its store and then here, and note that both have the same version of it."""
    found = _root_of(path)
    if found is None:
        write_here()
        return
    folder, store = found
    name = path.relative_to(folder).as_posix()
    version = store.write(name, data)
    with wait_for_lock(folder / _LOCK):
        write_here()
        write_atomic(folder / _VERSIONS, json.dumps(_versions(folder) | {name: version}).encode(), durable=False)


def name_tar(part: Path, tar: Path) -> None:
    """Give a tar that is whole its name: here, or at the store, which alone keeps it then.

    Raises:
        UserError: the store is away or refuses.
    """
    found = _root_of(tar)
    if found is None:
        part.replace(tar)
    else:
        found[1].write(tar.name, part)
        part.unlink()


def remove_file(path: Path) -> None:
    """Remove a file of a folder of shards, and of its store."""
    found = _root_of(path)
    if found is not None:
        found[1].delete(path.relative_to(found[0]).as_posix())
    path.unlink(missing_ok=True)


def _root_of(path: Path) -> tuple[Path, ObjectStore] | None:
    """The mirror in which a file lies, at most two folders up, and its store."""
    for folder in list(path.parents)[:3]:
        if (store := store_of(folder)) is not None:
            return folder, store
    return None


# ---------------------------------------------------------------- tars


def tar_names(folder: Path, split: str) -> list[str]:
    """The tars of a split, in order."""
    store = store_of(folder)
    if store is None:
        return sorted(path.name for path in folder.glob(f"{split}-*.tar"))
    if not store.can_list:
        return sorted(path.with_suffix(".tar").name for path in folder.glob(f"{split}-" + "[0-9]" * 6 + "*.json"))
    return sorted(name for name in store.list() if fnmatchcase(name, f"{split}-*.tar") and "/" not in name)


def tar_lengths(folder: Path, shards: Sequence[str]) -> list[int | None]:
    """How long tars are, in bytes; None for those that are not there."""
    store = store_of(folder)
    if store is not None and store.can_list:
        there = store.list()
        return [there[shard].size if shard in there else None for shard in shards]

    def length(shard: str) -> int | None:
        with suppress(FileNotFoundError):
            return (folder / shard).stat().st_size if store is None else store.stat(shard).size
        return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(length, shards))


@contextmanager
def whole_tar(folder: Path, shard: str, size: int) -> Iterator[Path]:
    """A folder that holds a tar, its index and its record: the folder itself, or one that is gone afterwards.

    Args:
        folder: of shards, or a mirror.
        shard: the tar's name.
        size: its length in bytes, as its record says.
    """
    store = store_of(folder)
    if store is None:
        yield folder
        return
    with TemporaryDirectory(dir=folder, prefix=_WHOLE) as name:
        here = Path(name)
        with open_atomic(here / shard, durable=False) as file:
            for piece in store.pieces(shard, size):
                file.write(piece)
        for beside in (Path(shard).with_suffix(end).name for end in (".idx", ".json")):
            with suppress(FileNotFoundError):
                write_atomic(here / beside, store.read(beside), durable=False)
        yield here


def holds_shards(location: Location) -> bool:
    """Whether there are shards: a manifest.

    Raises:
        UserError: the store is away or refuses.
    """
    return (local_folder(location) / "manifest.json").exists()

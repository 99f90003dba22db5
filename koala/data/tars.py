"""Reading the members of a tar by their places: of a file, or of one that lies in a store."""

import json
import os
import tarfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from koala.core.errors import UserError, warn
from koala.core.object_store import ObjectStore, number_from
from koala.data import range_cache
from koala.data.mirror import cache_folder, store_of
from koala.data.range_cache import RangeCache
from koala.data.read_ahead import fetched_ahead
from koala.data.sampler import SamplePositions

_CACHE_GIB = 64.0  # of a node's disk
_FEWEST_BLOCKS = 16  # that a cache must hold, so that what is read does not throw itself out
BLOCK = 512  # bytes; tar headers and data begin at multiples of it


def padded_length(length: int) -> int:
    """Length of a tar member's data with its padding."""
    return -(-length // BLOCK) * BLOCK


class OpenTar:
    """An open tar; closed when nobody holds it any more, so that no thread can lose it in mid-read.

    Args:
        path: of the tar.
        length: in bytes, as its record says.
    """

    def __init__(self, path: Path, length: int) -> None:
        self.path, self._length, self._shown = path, length, str(path)
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; check the folder with koala shards verify") from None
        found = os.fstat(self._descriptor).st_size
        if found != length:
            raise UserError(f"{path} is {found} bytes long, its record says {length}; check with koala shards verify")

    def member(self, offset: int, size: int) -> bytes:
        """The header and the data of the member whose data lie at `offset`."""
        member = self._read(offset - BLOCK, BLOCK + size)
        if member[124:135] != b"%011o" % size:  # the size, as the header says it
            raise self._replaced()
        return member

    def header(self, begin: int) -> tarfile.TarInfo:
        """The header that begins at a byte."""
        try:
            return tarfile.TarInfo.frombuf(self._read(begin, BLOCK), "utf-8", "surrogateescape")
        except tarfile.TarError:
            raise self._replaced() from None

    def description(self, begin: int) -> dict[str, Any]:
        """What the JSON holds whose header begins at a byte, with "source" among it."""
        try:
            description = json.loads(self._read(begin + BLOCK, self.header(begin).size))
        except (ValueError, RecursionError):
            raise self._replaced() from None
        if not isinstance(description, dict) or "source" not in description:
            raise self._replaced()
        return description

    def _read(self, begin: int, length: int) -> bytes:
        data = b"" if begin + length > self._length else self._bytes(begin, length)
        if len(data) != length:
            raise UserError(f"{self._shown} ends before byte {begin + length}; check it with koala shards verify")
        return data

    def _bytes(self, begin: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, begin)

    def _replaced(self) -> UserError:
        return UserError(
            f"{self._shown} does not hold what its record says: it is damaged, or another file took its place; check "
            "it with koala shards verify"
        )

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class StoredTar(OpenTar):
    """A tar in a store, of which blocks are kept on this machine.

    Args:
        store: the folder in which it lies.
        name: of the tar.
        length: in bytes, as its record says.
        sha256: as its record says.
        cache: of blocks.
    """

    def __init__(self, store: ObjectStore, name: str, length: int, sha256: str, cache: RangeCache) -> None:
        self.path, self._length, self._shown = Path(name), length, f"{store.url}/{name}"
        self._store, self._sha256, self._cache = store, sha256, cache

    def prefetch(self, block: int) -> None:
        """Fetch a block, unless it is there."""
        self._cache.prefetch(self._sha256, block, self._length, self._fetch)

    def _bytes(self, begin: int, length: int) -> bytes:
        return self._cache.read(self._sha256, begin, begin + length, self._length, self._fetch)

    def _fetch(self, begin: int, end: int) -> bytes:
        try:
            return self._store.read_range(self.path.name, begin, end, self._length)
        except FileNotFoundError:
            raise UserError(f"{self._shown} is not there; check the folder with koala shards verify") from None


# ---------------------------------------------------------------- a folder of them


@dataclass(frozen=True)
class LocalTars:
    """The tars of a folder on this machine."""

    folder: Path

    def open(self, name: str, length: int, sha256: str) -> OpenTar:
        """One of them, as its record describes it."""
        return OpenTar(self.folder / name, length)

    @staticmethod
    def ahead(places: Iterable[SamplePositions], _: "Blocks") -> AbstractContextManager[Iterable[SamplePositions]]:
        """The same places: nothing has to be fetched."""
        return nullcontext(places)


@dataclass(frozen=True)
class StoredTars:
    """The tars of a folder in a store."""

    store: ObjectStore
    cache: RangeCache

    def open(self, name: str, length: int, sha256: str) -> StoredTar:
        """One of them, as its record describes it."""
        return StoredTar(self.store, name, length, sha256, self.cache)

    def ahead(
        self, places: Iterable[SamplePositions], blocks: "Blocks"
    ) -> AbstractContextManager[Iterable[SamplePositions]]:
        """The same places; what they need is fetched while those before them are at work."""
        return closing(fetched_ahead(places, blocks.of, blocks.fetch, self.cache.bound // range_cache.BLOCK // 2))


@dataclass(frozen=True)
class Blocks:
    """Which blocks of the cache samples need.

    Attributes:
        of: `(N,)` samples to the blocks in which they lie: number of the shard, number of the block.
        fetch: fetches such a block.
    """

    of: Callable[[Any], Iterable[tuple[int, int]]]
    fetch: Callable[[tuple[int, int]], None]


def tars_in(folder: Path) -> LocalTars | StoredTars:
    """The tars of a folder of shards, or of a mirror of one.

    Raises:
        UserError: a variable of the cache is no number, or too small.
    """
    store = store_of(folder)
    return LocalTars(folder) if store is None else StoredTars(store, node_cache())


@lru_cache(maxsize=1)
def _cache(folder: Path, bound: int) -> RangeCache:
    return RangeCache(folder, bound)


def node_cache() -> RangeCache:
    """The cache that all processes of this node share.

    Raises:
        UserError: KOALA_CACHE_GIB is no number, or too small.
    """
    gib = number_from("KOALA_CACHE_GIB", _CACHE_GIB)
    least = _FEWEST_BLOCKS * range_cache.BLOCK / 2**30
    if not gib >= least:
        raise UserError(f"KOALA_CACHE_GIB = {gib:g} is too small a cache; give it at least {least:g}")
    return _cache(cache_folder() / "blocks", int(gib * 2**30))


def check_room(tars: LocalTars | StoredTars, lengths: Sequence[int], together: int) -> None:
    """Warn of a cache that does not hold the tars which are shuffled together."""
    needed = sum(sorted(lengths)[-together:])
    if isinstance(tars, StoredTars) and tars.cache.bound < needed:
        warn(
            f"a cache of {tars.cache.bound / 2**30:.1f} GiB does not hold the shards that are shuffled together, and "
            f"bytes are fetched several times; set KOALA_CACHE_GIB to more than {needed / 2**30:.1f}"
        )

"""A bounded cache on the node's own disk, of blocks of files that lie in a store.

    FOLDER/ab/KEY-000012      block 12 of a file, and the CRC-32 of each page of it; KEY is the file's sha256
    FOLDER/locks/ab           whoever fetches a block holds the lock of its first two letters
    FOLDER/bytes              how many bytes all blocks take together, at most

All processes of a node share it. A block is fetched once, written under another name and renamed; a process that is
killed leaves at worst a part, which counts, and is thrown out with what has not been used for longest. A file with
other bytes has another key, so nothing is read that is out of date.
"""

import errno
import fcntl
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock

from koala.core.errors import UserError

BLOCK = 2**22  # bytes
_PAGE = 2**14  # bytes; what is read of a block is checked page by page, and the rest of it is not looked at
_SUM = 4  # bytes of a CRC-32
_OPEN = 256  # blocks that a process holds open
_STALE_S = 3600.0  # a part that is older was left by a process that was killed
_ROOM = 0.9  # share of the bound that is left when blocks have been thrown out


class RangeCache:
    """Blocks of files.

    Args:
        folder: where they are kept.
        bound: bytes that they may take.
    """

    def __init__(self, folder: Path, bound: int) -> None:
        self.bound = bound
        self._folder = folder
        self._guard = Lock()
        held = max(1, min(_OPEN, bound // (4 * BLOCK)))  # what is held open keeps its room on the disk
        self._open = lru_cache(maxsize=held)(self._find)

    def read(self, key: str, begin: int, end: int, size: int, fetch: Callable[[int, int], bytes]) -> bytes:
        """Bytes `begin` to `end` of a file.

        Args:
            key: sha256 of the file.
            begin: of the range.
            end: of the range.
            size: of the file.
            fetch: gives bytes of the file from the store.

        Raises:
            UserError: the disk is full, or as `fetch`.
        """
        parts = []
        for number in range(begin // BLOCK, -(-end // BLOCK)):
            first = number * BLOCK
            span = max(begin - first, 0), min(end - first, BLOCK)
            parts.append(self._read(self._path(key, number), span, first, min(BLOCK, size - first), fetch))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def prefetch(self, key: str, number: int, size: int, fetch: Callable[[int, int], bytes]) -> None:
        """Fetch a block of a file that is `size` bytes long, unless it is there or on its way."""
        path, length = self._path(key, number), min(BLOCK, size - number * BLOCK)
        if path.exists():
            return
        with self._locked(path, wait=False) as mine:
            if mine and not path.exists():
                self._fetch(path, number * BLOCK, length, fetch)

    # ------------------------------------------------------------ one block

    def _read(
        self, path: Path, span: tuple[int, int], first: int, length: int, fetch: Callable[[int, int], bytes]
    ) -> bytes:
        """A span of a block, which is fetched where it is not there or damaged."""
        with suppress(FileNotFoundError), self._forgetting_damaged():
            return self._open(path, length).read(*span)
        with self._locked(path):
            with suppress(FileNotFoundError), self._forgetting_damaged():  # another process fetched it meanwhile
                return self._open(path, length).read(*span)
            return self._fetch(path, first, length, fetch)[slice(*span)]

    @contextmanager
    def _forgetting_damaged(self) -> Iterator[None]:
        """Hold damaged blocks open no longer."""
        try:
            yield
        except _DamagedError:
            self._open.cache_clear()

    @staticmethod
    def _find(path: Path, length: int) -> "_Block":
        block = _Block(path, length)
        with suppress(OSError):  # thrown out since
            os.utime(path)  # it is in use
        return block

    def _fetch(self, path: Path, begin: int, length: int, fetch: Callable[[int, int], bytes]) -> bytes:
        data = fetch(begin, begin + length)
        sums = _sums(data)
        self._make_room(length + len(sums))
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(".part")  # whoever writes it holds the lock
        try:
            part.write_bytes(data + sums)
        except OSError as error:
            part.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"{self._folder}: the disk is full before the cache takes its {self.bound / 2**30:.3g} GiB; make room, "
                "or set KOALA_CACHE_GIB to less"
            ) from None
        part.replace(path)
        return data

    def _path(self, key: str, number: int) -> Path:
        return self._folder / key[:2] / f"{key}-{number:06d}"

    @contextmanager
    def _locked(self, path: Path, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of a block, which is shared with few others; whether it is held."""
        name = f"{zlib.crc32(path.name.encode()) & 0xFF:02x}"
        locks = self._folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)  # each time: a cache may be deleted while it is in use
        with (locks / name).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True

    # ------------------------------------------------------------ the bound

    def _make_room(self, count: int) -> None:
        """Count bytes that are about to be written, and throw out what has not been used for longest."""
        counter = self._folder / "bytes"
        with self._guard, counter.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            total = int(text) if text.isdecimal() else self.bound  # unknown: all is counted
            if total + count > self.bound:
                total = self._throw_out(int(self.bound * _ROOM) - count)
            file.truncate(0)
            file.write(str(total + count))

    def _throw_out(self, wanted: int) -> int:
        """Remove blocks until they take no more than the bytes that are wanted, and say how many they take."""
        found, now = [], time.time()
        for path in self._folder.glob("??/*"):
            with suppress(FileNotFoundError):  # renamed, or removed
                stat = path.stat()
                if path.suffix != ".part" or now - stat.st_mtime > _STALE_S:
                    found.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= max(wanted, 0):
                break
            path.unlink(missing_ok=True)
            total -= size
        return total


class _DamagedError(Exception):
    """A block is not as it was written."""


class _Block:
    """An open block; who has it open reads on when it is thrown out."""

    def __init__(self, path: Path, length: int) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._length = length
        expected = length + -(-length // _PAGE) * _SUM
        if os.fstat(self._descriptor).st_size != expected:
            raise _DamagedError
        self._sums = os.pread(self._descriptor, expected - length, length)

    def read(self, begin: int, end: int) -> bytes:
        first, last = begin // _PAGE, -(-end // _PAGE)
        data = os.pread(self._descriptor, min(last * _PAGE, self._length) - first * _PAGE, first * _PAGE)
        if _sums(data) != self._sums[first * _SUM : last * _SUM]:
            raise _DamagedError
        return data[begin - first * _PAGE : end - first * _PAGE]

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def _sums(data: bytes) -> bytes:
    """The CRC-32 of each page."""
    pages = memoryview(data)
    return b"".join(
        zlib.crc32(pages[begin : begin + _PAGE]).to_bytes(_SUM, "little") for begin in range(0, len(data), _PAGE)
    )

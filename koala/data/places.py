"""Where an image's bytes lie, and reading them: whole, and never more than is allowed."""

import bz2
import lzma
import os
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from koala.core.errors import first_line

MAX_BYTES = 2**28  # of a file that holds one image, unless a recipe says otherwise


class Place(Protocol):
    """Where bytes lie; small, so that it can be sent to other processes."""

    def read(self, name: str, max_bytes: int) -> bytes:
        """The bytes of the item with this name.

        Raises:
            OSError: they cannot be read, or are more than `max_bytes`.
        """
        ...


@dataclass(frozen=True, slots=True)
class SourceItem:
    """An image in a source, or what stands where one might be.

    Attributes:
        name: below the source, with "/" between folders.
        place: where its bytes lie.
        fault: why it cannot be read, where that is known beforehand.
        label: its class, as a list or a table says it: an index, or a WordNet id.
        beside: the files of the same sample that may hold its class.
    """

    name: str
    place: Place
    fault: str = ""
    label: str = ""
    beside: tuple[Place, ...] = ()

    def read(self, max_bytes: int = MAX_BYTES) -> bytes:
        """The image's bytes.

        Raises:
            OSError: they cannot be read, or are more than `max_bytes`.
        """
        return self.place.read(self.name, max_bytes)


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """Files in a folder: an item's name is its path below it."""

    root: Path

    def read(self, name: str, max_bytes: int) -> bytes:
        """A file's bytes; what is no file (a pipe, a device) is not opened."""
        return read_file(self.root / name, max_bytes)


@dataclass(frozen=True, slots=True)
class FileRange:
    """A part of a file, such as a tar's member."""

    path: Path
    offset: int
    size: int

    def read(self, name: str, max_bytes: int) -> bytes:
        """The part's bytes."""
        check_size(self.size, max_bytes)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise OSError(f"{self.path} has become shorter since it was listed")
        return data


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A member of a zip, with what the archive's directory says of it, which so need not be read again.

    Attributes:
        path: the zip.
        offset: of the member's own header.
        packed: its length in the zip, in bytes.
        size: its length unpacked.
        method: of compression.
        checksum: CRC-32 of what is unpacked.
    """

    path: Path
    offset: int
    packed: int
    size: int
    method: int
    checksum: int

    def read(self, name: str, max_bytes: int) -> bytes:
        """The member's bytes, unpacked; no more than its declared size is ever unpacked."""
        check_size(max(self.size, self.packed), max_bytes)
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                magic, names, extras = struct.unpack("<4s22xHH", file.read(30))
                file.seek(names + extras, os.SEEK_CUR)
                data = _unpack(self.method, file.read(self.packed), self.size)
            if magic != b"PK\3\4" or len(data) != self.size or zlib.crc32(data) != self.checksum:
                raise zipfile.BadZipFile("it is damaged")
        except Exception as error:  # of any of the decompressors, and whatever damage makes of a header
            raise OSError(f"it cannot be unpacked: {first_line(error) or type(error).__name__}") from None
        return data


def _unpack(method: int, packed: bytes, size: int) -> bytes:
    """A zip's member, unpacked: `size` bytes, or one more where it holds more; zipfile knows no such limit."""
    match method:
        case zipfile.ZIP_STORED:
            return packed
        case zipfile.ZIP_DEFLATED:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
        case zipfile.ZIP_BZIP2:
            return bz2.BZ2Decompressor().decompress(packed, size + 1)
        case zipfile.ZIP_LZMA:  # after four bytes of zip's own it is an .lzma file that does not know its length
            alone = packed[4:9] + b"\xff" * 8 + packed[9:]
            return lzma.LZMADecompressor(lzma.FORMAT_ALONE, MAX_BYTES).decompress(alone, size + 1)
    raise zipfile.BadZipFile(f"it is packed by method {method}, which is not known here")


def check_size(size: int, max_bytes: int) -> None:
    """Refuse to read more than is allowed.

    Raises:
        OSError: it is more.
    """
    if size > max_bytes:
        raise OSError(f"{size} bytes are more than the {max_bytes} that are allowed (max_bytes)")


def read_file(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """A file's bytes; what is no file is not opened, for a pipe would be waited for and a device have no end.

    Raises:
        OSError: it is no file, cannot be read, or is larger than `max_bytes`.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(kind_of(found.st_mode))
    check_size(found.st_size, max_bytes)
    with path.open("rb") as file:
        return file.read(found.st_size)


def is_file(path: Path) -> bool:
    """Whether a file is there; False too where that cannot be found out."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def kind_of(mode: int) -> str:
    """What lies at a path that is no file, in words."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")

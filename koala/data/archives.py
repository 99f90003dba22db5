"""Tars and zips, listed where they lie: each member that is no folder, with its place or the reason why it has none.

A tar is followed to the blocks of zeros that end it, and beyond them to the file's end. Python's tarfile takes a
damaged header for the end; here it stops the listing, with the byte where it lies and the last member before it.
"""

import os
import posixpath
import stat
import tarfile
import zipfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from koala.core.errors import UserError, first_line
from koala.data.places import FileRange, FolderPlace, SourceItem, ZipMember

_BLOCK = 512  # bytes; all that is in a tar begins at a multiple of it
_RECORDS = (10240, 2**18, 2**20)  # bytes; programs fill tars up to a multiple of the first, tapes' of the others
_MOST_HEADER_BYTES = 2**22  # that a long name or extended header may have
_MOST_NESTED = 4  # tars within tars
_NOWHERE = FolderPlace(Path())
_KINDS = {tarfile.FIFOTYPE: "a named pipe", tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device"}
_MAGIC = {
    **{b"PK\3\4": "zip", b"PK\5\6": "zip", b"PK\7\b": "zip", b"PAR1": "parquet"},
    **{b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"},
    **{b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR"},
}


def archive_kind(path: Path) -> str:
    """What an archive is, by its first bytes: "tar", "zip", "parquet", what compressed it, or "" for none of these."""
    with path.open("rb") as file:
        head = file.read(_BLOCK)
    found = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")
    return found or ("tar" if _is_header(head) or head == bytes(_BLOCK) else "")


# ---------------------------------------------------------------- zips


def scan_zip(path: Path, prefix: str = "") -> Iterator[SourceItem]:
    """The members of a zip.

    Raises:
        UserError: its directory is damaged, or another zip lies before it.
    """
    members = _zip_directory(path)
    before = min((member.header_offset for member in members), default=0)
    if before and archive_kind(path) == "zip":
        raise UserError(
            f"{path} holds {before} bytes of another zip before its own first member, whose directory is not read; "
            "split the file there, or unpack both"
        )
    for member in members:
        if not member.filename.endswith("/") or member.file_size:
            sizes = member.compress_size, member.file_size
            place = ZipMember(path, member.header_offset, *sizes, member.compress_type, member.CRC)
            yield SourceItem(prefix + member.filename, place, _zip_fault(member))


def _zip_directory(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        stated = _stated_members(path)
        if stated != len(members):
            raise zipfile.BadZipFile(f"it lists {len(members)} members, its end says {stated}")
    except OSError:
        raise
    except Exception as error:  # damage can be anywhere in the directory
        raise UserError(
            f"the directory at the end of {path} is damaged ({first_line(error)}); fetch the file again, take it out "
            f"of the source, or save what can be read with zip -FF {path} --out WHOLE.zip"
        ) from None
    return members


def _stated_members(path: Path) -> int:
    """How many members the end of a zip says it has; zipfile reads a damaged directory as a shorter one."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2**17))
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    count = int.from_bytes(tail[end + 10 : end + 12], "little")
    large = tail.rfind(b"PK\6\6", 0, end)
    return int.from_bytes(tail[large + 32 : large + 40], "little") if count == 2**16 - 1 and large >= 0 else count


def _zip_fault(member: zipfile.ZipInfo) -> str:
    if member.flag_bits & 1:
        return "encrypted"
    if member.filename.endswith("/"):
        return "a folder with content, as damage makes of a file"
    return "a symbolic link" if stat.S_ISLNK(member.external_attr >> 16) else ""


# ---------------------------------------------------------------- tars


@dataclass(frozen=True)
class _Tar:
    """A tar: a whole file, or a member of another.

    Attributes:
        path: the file.
        file: the same, open.
        begin: first byte of the tar in the file.
        end: the byte after its last.
        inside: its names in the tars that it is a member of.
    """

    path: Path
    file: BinaryIO
    begin: int
    end: int
    inside: tuple[str, ...] = ()

    def damaged(self, what: str, last: str) -> UserError:
        """The tar cannot be read to its end."""
        name = ": ".join((str(self.path), *self.inside))
        after = f", after its member {last}" if last else ""
        return UserError(
            f"{name}: {what}{after}; fetch the file again, take it out of the source, or save what can be "
            f'read with "tar --extract --ignore-zeros --file {self.path} --directory DIR" and name DIR'
        )


def scan_tar(path: Path, prefix: str = "") -> Iterator[SourceItem]:
    """The members of a tar, and of tars that are its members, below the names of these.

    Raises:
        UserError: it cannot be read to its end; the place of the damage is named.
    """
    with path.open("rb") as file:
        yield from _items(_Tar(path, file, 0, file.seek(0, os.SEEK_END)), prefix)


def _items(tar: _Tar, prefix: str) -> Iterator[SourceItem]:
    links: list[tuple[str, str]] = []
    for member in _members(tar):
        name = prefix + member.name.removeprefix("./")
        if member.islnk() or member.issym():
            folder = posixpath.dirname(member.name) if member.issym() else ""
            links.append((posixpath.normpath(member.name), posixpath.normpath(posixpath.join(folder, member.linkname))))
        elif fault := _fault(member):
            yield SourceItem(name, _NOWHERE, fault)
        elif member.isdir():
            continue
        elif name.lower().endswith(".tar") and not posixpath.basename(name).startswith("."):
            yield from _items_of_member(tar, member, name)
        else:
            yield SourceItem(name, FileRange(tar.path, member.offset_data, member.size))
    yield from _linked(tar, prefix, links)


def _fault(member: tarfile.TarInfo) -> str:
    """Why a member's bytes cannot be taken as they lie in the tar."""
    if member.issparse():
        return "a sparse member; unpack the tar to read it"
    if member.isfile() or member.isdir():
        return ""
    return _KINDS.get(member.type, f"a member of type {member.type.decode('latin-1')!r}, which is no file")


def _items_of_member(tar: _Tar, member: tarfile.TarInfo, name: str) -> Iterator[SourceItem]:
    """The members of a tar that is a member."""
    if len(tar.inside) == _MOST_NESTED:
        yield SourceItem(name, _NOWHERE, f"tars are nested more than {_MOST_NESTED} deep; unpack the outer one")
    else:
        end = member.offset_data + member.size
        inner = replace(tar, begin=member.offset_data, end=end, inside=(*tar.inside, member.name))
        yield from _items(inner, name[: -len(".tar")] + "/")


def _linked(tar: _Tar, prefix: str, links: list[tuple[str, str]]) -> Iterator[SourceItem]:
    """The links of a tar, with the places of the files that they lead to; for these it is read once more."""
    targets = dict(links)
    ends = {name: _end_of(name, targets) for name in targets}
    wanted = set(ends.values())
    places = {
        name: FileRange(tar.path, member.offset_data, member.size)
        for member in (_members(tar) if links else ())
        if (name := posixpath.normpath(member.name)) in wanted and member.isfile() and not _fault(member)
    }
    for name, target in links:
        fault = "" if ends[name] in places else f"a link to {target}, which is no file in the archive"
        yield SourceItem(prefix + name, places.get(ends[name], _NOWHERE), fault)


def _end_of(name: str, links: dict[str, str]) -> str:
    """Where a chain of links leads; "" in a circle."""
    met = {name}
    while name in links:
        name = links[name]
        if name in met:
            return ""
        met.add(name)
    return name


def _members(tar: _Tar) -> Iterator[tarfile.TarInfo]:
    """The members of a tar and of those that were joined on to it, as `cat` does."""
    begin: int | None = tar.begin
    while begin is not None:
        begin = yield from _members_from(tar, begin)


def _members_from(tar: _Tar, begin: int) -> Generator[tarfile.TarInfo, None, int | None]:
    """The members up to the zeros that end them; returns where a tar begins that was joined on."""
    at, last = begin, ""
    for member, after in _headers(tar.file, begin):
        if member.size < 0 or after <= at:  # tarfile would go round in circles
            break
        if after > tar.end:
            raise tar.damaged(f"it is cut off, for {member.name} ends at byte {after} and the tar at {tar.end}", last)
        yield member
        at, last = after, member.name
    return _joined_on(tar, begin, at, last)


def _headers(file: BinaryIO, begin: int) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """What tarfile sees from a byte on: each member, and the byte after it; where it sees none, there is no more."""
    file.seek(begin)
    try:
        reader: Any = tarfile.TarFile(fileobj=_Bounded(file))  # type: ignore[arg-type]
        while (member := reader.next()) is not None:
            reader.members.clear()  # it would keep them all
            yield member, reader.offset
    except OSError:
        raise
    except Exception:  # damage makes anything of a header, tarfile anything of that; `_joined_on` looks at the place
        return


class _Bounded:
    """A file for tarfile, whose headers may ask for any number of bytes, also for less than none."""

    def __init__(self, file: BinaryIO) -> None:
        self._read, self.seek, self.tell = file.read, file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._read(size)


def _joined_on(tar: _Tar, begin: int, at: int, last: str) -> int | None:
    """Where another tar begins after the zeros at byte `at`, which end one; none at the end of the file.

    Raises:
        UserError: the zeros are not there, or lie in the middle of the tar.
    """
    after = _end_of_zeros(tar.file, at, tar.end)
    if after == at or tar.end - at < _BLOCK:
        cut = f"it is cut off: it ends at byte {tar.end} without the blocks of zeros that end a tar"
        raise tar.damaged(cut if tar.end - at < _BLOCK else f"the header at byte {at} is damaged", last)
    after -= (after - begin) % _BLOCK
    if _is_padding(after - at, after - begin):
        if after == tar.end:
            return None
        tar.file.seek(after)
        if _is_header(tar.file.read(_BLOCK)):
            return after
    raise tar.damaged(f"bytes {at} to {after} are zeros, more than end a tar, or in its middle", last)


def _is_padding(zeros: int, length: int) -> bool:
    """Whether a tar of a length may end with so many zeros: two blocks, and what fills the last record."""
    return zeros <= 2 * _BLOCK or any(length % size == 0 and zeros < size + 2 * _BLOCK for size in _RECORDS)


def _end_of_zeros(file: BinaryIO, begin: int, end: int) -> int:
    """The first byte from `begin` on that is not zero, or `end`."""
    file.seek(begin)
    while begin < end:
        chunk = file.read(min(2**20, end - begin))
        if not chunk:
            break
        zeros = len(chunk) - len(chunk.lstrip(b"\0"))
        begin += zeros
        if zeros < len(chunk):
            return begin
    return end


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True

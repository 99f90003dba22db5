"""Where images come from: folders, lists of files, tars, zips and Parquet files, none of which need be unpacked.

A source is listed once, in the process that plans; any other process reads an image by its `SourceItem`. Whatever lies
in a source is an image to be read, is set aside with a reason, or is passed over and counted: nothing is lost.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

from koala.core import progress
from koala.core.errors import UserError
from koala.data.archives import archive_kind, scan_tar, scan_zip
from koala.data.file_lists import read_list
from koala.data.labels import LISTS
from koala.data.parquet import scan_parquet
from koala.data.places import FolderPlace, Place, SourceItem, kind_of

_SCANNERS = {"tar": scan_tar, "zip": scan_zip, "parquet": scan_parquet}
_ARCHIVES = frozenset(f".{kind}" for kind in _SCANNERS)
_REMEDY = "name a folder of images, a list of files, a tar, a zip or a Parquet file"
_PACKED = "packed, and not read in place; unpack it first"
_BY_NAME = "not an image by its name"
_NO_IMAGES = {  # by the suffixes of what is no image, so that a million files need not be opened
    **dict.fromkeys((".txt", ".json", ".jsonl", ".cls", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml"), _BY_NAME),
    **dict.fromkeys((".ini", ".md", ".html", ".log", ".caption", ".md5", ".sha1", ".sha256", ".idx"), _BY_NAME),
    **dict.fromkeys((".npy", ".mat", ".db", ".py", ".pdf", ".mov", ".mp4", ".avi", ".mp3"), _BY_NAME),
    **dict.fromkeys((".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar"), _PACKED),
    **dict.fromkeys(_ARCHIVES, "an archive within an archive; unpack the outer one"),
}
_OF_SAMPLES = {".cls", ".json"}  # in a webdataset, what may hold an image's class
_HIDDEN = re.compile(r"(?:^|/)\.(?!\.?/)|(?:^|/)__MACOSX/")


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        path: the source.
        images: to be read, sorted by name; each name once.
        set_aside: names of what cannot be read, each with the reason, sorted.
        passed_over: how many there are of what is no image and not meant to be one, by what it is.
        lists: files that tell the classes of ImageNet's images, by their names.
        texts: names of what is no image by its name, but for the files of a webdataset's samples.
    """

    path: Path
    images: list[SourceItem]
    set_aside: list[tuple[str, str]] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)
    lists: dict[str, SourceItem] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)


def list_source(path: Path, leave_out: Path | None = None) -> Listing:
    """List what a source holds.

    Args:
        path: a folder, a list of files, or an archive.
        leave_out: a folder that is no part of the source even where it lies in it.

    Raises:
        UserError: there is nothing that could be an image, or an archive or a list is damaged.
    """
    try:
        listing = _distinct(_listing(path, leave_out))
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        what = "does not exist" if absent else f"cannot be read ({error.strerror or error})"
        raise UserError(f"{error.filename or path} {what}; {_REMEDY}") from None
    if listing.images:
        return listing
    if not listing.set_aside:
        raise UserError(f"{path} holds no file; {_REMEDY}")
    why = commonest_reasons(reason for _, reason in listing.set_aside)
    raise UserError(f"{path} holds no image; {len(listing.set_aside)} set aside: {why}; {_REMEDY}")


def commonest_reasons(reasons: Iterable[str]) -> str:
    """The three commonest of some reasons, with their counts; those that differ in numbers or links alone are one."""
    alike: dict[str, list[str]] = {}
    for reason in reasons:
        alike.setdefault(re.sub(r"\d+|(?<=a link to ).*", "", reason), []).append(reason)
    commonest = sorted(alike.values(), key=len, reverse=True)[:3]
    return ", ".join(f"{found[0]} ({len(found)})" for found in commonest)


def _listing(path: Path, leave_out: Path | None) -> Listing:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        return _sort_out(path, _scan_folder(path, leave_out))
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is {kind_of(mode)}, no source of images; {_REMEDY}")
    if archive_kind(path) or path.suffix.lower() in _ARCHIVES:
        return _sort_out(path, _scan_archive(path))
    try:
        images, passed_over = read_list(path)
    except UserError as error:
        raise UserError(f"{error}, if it is a list; else {_REMEDY}") from None
    return Listing(path, images, passed_over=dict(passed_over))


def _distinct(listing: Listing) -> Listing:
    """Everything sorted; of several images of one name the first."""
    images = sorted(listing.images, key=attrgetter("name"))
    twice = {number for number, (a, b) in enumerate(pairwise(images), 1) if a.name == b.name}
    repeated = [(images[number].name, "another image has this name") for number in twice]
    distinct = [item for number, item in enumerate(images) if number not in twice] if twice else images
    return replace(listing, images=distinct, set_aside=sorted(listing.set_aside + repeated))


# ---------------------------------------------------------------- folders and archives


def _scan_archive(path: Path, prefix: str = "") -> Iterator[SourceItem]:
    """An archive's members: of what it is by its first bytes, or else, damaged perhaps, by its name."""
    kind = archive_kind(path) or path.suffix.lower()[1:]
    if kind in _SCANNERS:
        yield from _SCANNERS[kind](path, prefix)
    else:
        yield SourceItem(prefix.rstrip("/") or path.name, FolderPlace(path.parent), f"{kind}, {_PACKED}")


def _scan_folder(root: Path, leave_out: Path | None) -> Iterator[SourceItem]:
    """A folder's files, and those in its archives below the archives' names; in a single archive, as they are."""
    files: list[SourceItem] = []
    archives: list[str] = []
    for item in _walk(root, leave_out):
        if _suffix(item.name) in _ARCHIVES and not item.fault and not _HIDDEN.search(item.name):
            archives.append(item.name)
        else:
            files.append(item)
    alone = len(archives) == 1 and "/" not in archives[0] and not any(map(_may_be_image, files))
    yield from files
    for name in sorted(archives):
        yield from _scan_archive(root / name, "" if alone else f"{name.rpartition('.')[0]}/")


def _walk(root: Path, leave_out: Path | None) -> Iterator[SourceItem]:
    """All that lies in a folder to any depth; links to folders are followed last, and no folder is read twice."""
    place = FolderPlace(root)
    left_out = _identity(leave_out) if leave_out and leave_out.exists() else None
    met = set()
    folders, linked = [""], list[str]()
    while folders or linked:
        linked.sort(reverse=True)  # so that of two links to a folder it is the same that is followed, on every node
        folder = folders.pop() if folders else linked.pop()
        prefix = f"{folder}/" if folder else ""
        try:
            identity = _identity(root / folder)
            if identity == left_out:
                continue
            if identity in met:
                yield SourceItem(prefix, place, "a link to a folder that is read already")
                continue
            met.add(identity)
            for entry in os.scandir(root / folder):
                kind = _kind(entry)
                if kind in ("", "hidden"):
                    yield SourceItem(prefix + entry.name, place)
                elif kind == "folder":
                    (linked if entry.is_symlink() else folders).append(prefix + entry.name)
                else:
                    yield SourceItem(prefix + entry.name, place, kind)
        except OSError as error:
            yield SourceItem(prefix, place, f"a folder that cannot be read: {error.strerror}")


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _kind(entry: os.DirEntry) -> str:
    """What lies in a folder: "" for a file, "folder", "hidden", or in words why it is no file."""
    try:
        if entry.name.startswith("."):
            return "hidden"
        if entry.is_file():
            return ""
        return "folder" if entry.is_dir() else kind_of(entry.stat().st_mode)
    except OSError as error:
        to = f"a link to {Path(entry.path).readlink()}: " if entry.is_symlink() else ""
        return f"{to}{error.strerror}"


# ---------------------------------------------------------------- what is an image


def _sort_out(path: Path, items: Iterable[SourceItem]) -> Listing:
    """Tell images, what belongs to them, and what can be neither."""
    images: list[SourceItem] = []
    others: list[SourceItem] = []
    listing = Listing(path, images)
    with progress.Counter("listing", "files") as counter:
        for item in items:
            counter.advance(1)
            if _HIDDEN.search(item.name):
                _count(listing.passed_over, "hidden")
            elif item.fault:
                listing.set_aside.append((item.name, item.fault))
            else:
                (others if _suffix(item.name) in _NO_IMAGES else images).append(item)
    beside = _pass_over(listing, others) if others else {}
    if beside:
        images[:] = (replace(item, beside=tuple(beside.get(_key(item.name), ()))) for item in images)
    return listing


def _pass_over(listing: Listing, others: Iterable[SourceItem]) -> dict[str, list[Place]]:
    """Sort out what is no image; gives what may hold the class of an image, by the key of its sample."""
    names = {part for item in listing.images for part in _key(item.name).rsplit("/", 2)[-2:]}  # and of their folders
    beside: dict[str, list[Place]] = {}
    for item in others:
        name, suffix = item.name.rpartition("/")[2], _suffix(item.name)
        if suffix not in _OF_SAMPLES:
            listing.texts.append(item.name)
        if name in LISTS:
            listing.lists.setdefault(name, item)
            _count(listing.passed_over, "lists of classes")
        elif name.partition(".")[0] in names:
            _count(listing.passed_over, f"{suffix} of images")
            if suffix in _OF_SAMPLES:
                beside.setdefault(_key(item.name), []).append(item.place)
        else:
            listing.set_aside.append((item.name, _NO_IMAGES[suffix]))
    return beside


def _count(counts: dict[str, int], what: str) -> None:
    counts[what] = counts.get(what, 0) + 1


def _may_be_image(item: SourceItem) -> bool:
    return not (item.fault or _suffix(item.name) in _NO_IMAGES or _HIDDEN.search(item.name))


def _suffix(name: str) -> str:
    return f".{name.rpartition('.')[2]}".lower()


def _key(name: str) -> str:
    """What the files of a sample have in common: the name up to the first dot of its last part."""
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.partition('.')[0]}"

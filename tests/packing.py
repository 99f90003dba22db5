"""Files packed into folders, tars and zips, and damaged."""

import io
import random
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path


def lay_out(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Files below a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def tar_bytes(files: Mapping[str, bytes], *others: tarfile.TarInfo, form: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar with these files, and then members without data."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in others:
            tar.addfile(member)
    return buffer.getvalue()


def member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    """A member that has no data: a link, a pipe, a device."""
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


def zip_bytes(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip with these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def mutated(data: bytes, rng: random.Random, end: int) -> bytes:
    """A bit flipped, bytes overwritten, zeroed, left out or repeated, or all that follows cut off."""
    begin, length = rng.randrange(end), rng.choice([1, 8, 64, 512, 700, 3000])
    kind = rng.choice(["flip", "random", "zero", "delete", "repeat", "cut"])
    part = data[begin : begin + length]
    other = {
        "flip": bytes([part[0] ^ 1 << rng.randrange(8)]) + part[1:],
        "random": rng.randbytes(len(part)),
        "zero": bytes(len(part)),
        "delete": b"",
        "repeat": part * 2,
        "cut": b"",
    }[kind]
    return data[:begin] + other + (data[begin + length :] if kind != "cut" else b"")

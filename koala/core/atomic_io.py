"""Files that are there whole or not at all."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomic(path: Path, data: bytes, durable: bool = True) -> None:
    """Write a file under another name, and rename it when it is whole.

    Args:
        path: the file.
        data: all of it.
        durable: wait until it is on the disk, so that a power cut cannot leave an empty file.
    """
    with open_atomic(path, durable) as file:
        file.write(data)


@contextmanager
def open_atomic(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file to be written in pieces, under another name; as `write_atomic`, rename it when it is whole."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            if durable:
                fsync(file)
    except BaseException:
        part.unlink(missing_ok=True)  # on a full disk, half a file is in the way
        raise
    part.replace(path)


def fsync(file: BinaryIO) -> None:
    """Wait until what was written is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

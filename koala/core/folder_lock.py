"""One process at a time in a folder, by a lock that the kernel releases however its holder ends.

flock(2) holds between the processes of a machine, and on NFS and Lustre between machines. Where a file system has no
locks, or is mounted so that they stay on this machine, that is said.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from koala.core.errors import UserError, warn

_LOCAL = {"nolock", "local_lock=flock", "local_lock=all", "localflock"}  # mount options of NFS and Lustre


@contextmanager
def lock_folder(folder: Path, work: str, part: int = 1, parts: int = 1) -> Iterator[None]:
    """Hold a folder while the block runs; of several processes that work together the first is to call it.

    Args:
        folder: made where there is none.
        work: what is done in it, such as "koala train", for whoever comes second.
        part: which of the parts of the work this is; different parts may run at once.
        parts: how many there are. Parts of another number do not run beside these, nor does the whole (1 of 1).

    Raises:
        UserError: another process holds the folder; process and host are named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder / _name(part, parts), work):
        for path in folder.glob(_name("*", "*")):
            beside = parts > 1 and path.match(_name("*", parts))
            if not beside and path.name != _name(part, parts):
                with _held(path, work):  # nobody's any more: it is removed
                    pass
        if _is_local(folder):
            warn(f"{folder}: locks stay on this machine there; make sure that no other machine writes into it")
        yield


@contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Hold a lock file while the block runs, once whoever holds it has done; it stays where it is."""
    with path.open("a") as file:
        with suppress(OSError):  # a file system without locks: what follows is safe, and may be done twice
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _name(part: int | str, parts: int | str) -> str:
    return f".lock-{part}-of-{parts}"


@contextmanager
def _held(path: Path, work: str) -> Iterator[None]:
    """Hold a lock file, and remove it at the end."""
    with _locked(path) as file:
        file.truncate(0)
        file.write(f"{work} runs there as process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path) -> TextIO:
    """Open a lock file and lock it."""
    while True:
        file = path.open("a+", encoding="utf-8", errors="replace")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                holder = file.read(500) or "another process is at work there"
            raise UserError(f"{path.parent} is in use: {holder}; wait for its end, or choose another folder") from None
        except OSError as error:
            warn(f"{path.parent}: there are no locks there ({error.strerror}); let nothing else write into it")
            return file
        if _is_at(path, file):
            return file
        file.close()  # its holder removed it after it was opened here


def _is_at(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _is_local(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether a network's file system is mounted so that other machines do not see the locks, as far as Linux tells."""
    device = f"{os.major(folder.stat().st_dev)}:{os.minor(folder.stat().st_dev)}"
    lines = mounts.read_text("utf-8", "replace").splitlines() if mounts.exists() else []
    return any(line.split()[2] == device and _LOCAL & set(line.replace(",", " ").split()) for line in lines)

"""Folders in object stores: S3, Google Cloud Storage, Azure, the Hugging Face hub, and web servers to read from.

Whoever may read or write there is said by the store's own environment variables: `AWS_*`, `GOOGLE_*`, `AZURE_*`,
`HF_TOKEN`. A store that does not answer, or answers with an error of its own, is asked again, after longer and longer
waits, until `KOALA_STORE_PATIENCE` seconds are over.
"""

import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

from koala.core import extras
from koala.core.errors import UserError, warn

SCHEMES = ("s3", "gs", "az", "hf", "https", "http")
CHUNK = 2**25  # bytes of a file that are fetched at a time
_TIMEOUT_S, _CONNECT_TIMEOUT_S = 60, 10  # of one request
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 20.0
_SAID_AFTER_S = 10.0  # of waiting
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for what is public",
    "gs": "GOOGLE_SERVICE_ACCOUNT, or GOOGLE_SKIP_SIGNATURE=true for what is public",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or a token",
    "hf": "HF_TOKEN",
}

Result = TypeVar("Result")

_ending = threading.Event()


def stop_waiting(ending: bool = True) -> None:
    """Say that the command is to end: then a store that does not answer is not asked again.

    Args:
        ending: False takes it back, for a command that begins.
    """
    _ending.set() if ending else _ending.clear()


@dataclass(frozen=True)
class StoredFile:
    """What a store says of a file.

    Attributes:
        size: in bytes.
        version: another one whenever the file is; empty where the store knows none.
    """

    size: int
    version: str


class Backend(Protocol):
    """What stores have in common. Names are relative to the folder; errors are each library's own."""

    def list(self) -> Iterator[tuple[str, StoredFile]]:
        """All files below the folder."""

    def get(self, name: str, begin: int, end: int | None) -> tuple[bytes, StoredFile]:
        """Bytes `begin` to `end` of a file, or all; and what is known of it."""

    def stat(self, name: str) -> StoredFile:
        """What is known of a file."""

    def put(self, name: str, data: bytes | Path) -> str:
        """Write a file, whole or not at all; its version, where the store says it."""

    def delete(self, name: str) -> None:
        """Remove a file."""


class ObjectStore:
    """A folder in a store.

    Args:
        url: of the folder, as in "s3://bucket/folder".
        backend: what reads and writes.
        patience_s: how long a store that does not answer is asked again.
    """

    def __init__(self, url: str, backend: Backend, patience_s: float) -> None:
        self.url = url
        self._backend, self._patience_s = backend, patience_s
        self._is_web_server = url.startswith("http")
        self._said = False  # that it does not answer

    @property
    def can_list(self) -> bool:
        """Whether it says which files there are; plain web servers do not."""
        return not self._is_web_server

    def list(self) -> dict[str, StoredFile]:
        """All files below the folder, by their relative names.

        Raises:
            UserError: as all that asks the store: it is away, refuses, or is not there.
        """
        return self._ask("", lambda: dict(self._backend.list()))

    def read(self, name: str) -> bytes:
        """A file.

        Raises:
            FileNotFoundError: there is none.
            UserError: see `list`.
        """
        return self._ask(name, lambda: self._backend.get(name, 0, None)[0])

    def stat(self, name: str) -> StoredFile:
        """What is known of a file; errors as `read`."""
        return self._ask(name, lambda: self._backend.stat(name))

    def read_range(self, name: str, begin: int, end: int, size: int) -> bytes:
        """Bytes `begin` to `end` of a file that is `size` bytes long.

        Raises:
            FileNotFoundError: there is none.
            UserError: see `list`; or the file has another length.
        """

        def read() -> bytes:
            data, found = self._backend.get(name, begin, end)
            if found.size != size:
                raise UserError(
                    f"{self.url}/{name} is {found.size} bytes long, its record says {size}; check with koala shards "
                    "verify"
                )
            if len(data) != end - begin:
                raise ConnectionError(f"{len(data)} of {end - begin} bytes came")
            return data

        return self._ask(name, read)

    def pieces(self, name: str, size: int) -> Iterator[bytes]:
        """A file that is `size` bytes long, in pieces of `CHUNK` bytes; errors as `read_range`."""
        for begin in range(0, size, CHUNK):
            yield self.read_range(name, begin, min(begin + CHUNK, size), size)

    def write(self, name: str, data: bytes | Path) -> str:
        """Write a file, whole or not at all.

        Args:
            name: of the file.
            data: what it is to hold, or a file that holds it.

        Returns:
            The file's version, as `list` will say it; empty where the store does not tell.

        Raises:
            UserError: see `list`.
        """
        if self._is_web_server:
            raise UserError(f"{self.url} can only be read; name a store such as s3://bucket/folder to write to")
        return self._ask(name, lambda: self._backend.put(name, data), writing=True)

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):  # some stores say so
            self._ask(name, lambda: self._backend.delete(name), writing=True)

    def _ask(self, name: str, work: Callable[[], Result], writing: bool = False) -> Result:
        """Do some work at the store, with patience."""
        began, wait = time.monotonic(), _FIRST_WAIT_S
        while True:
            try:
                result = work()
            except UserError:
                raise
            except Exception as error:  # each library has its own
                refusal = _refusal(self.url, name, error, writing)
                if refusal is not None:
                    raise refusal from None
                waited, reason = time.monotonic() - began, _reason(error)
            else:
                self._said = False
                return result
            if waited + wait > self._patience_s or _ending.is_set():
                raise UserError(
                    f"{self.url} has not answered for {waited:.0f} s ({reason}); when it does, run the same command "
                    "again, or allow more seconds with KOALA_STORE_PATIENCE"
                )
            if waited > _SAID_AFTER_S and not self._said:
                self._said = True
                warn(f"{self.url} does not answer ({reason}); it is asked again for up to {self._patience_s:.0f} s")
            _ending.wait(wait * random.uniform(0.5, 1))  # not all processes at once
            wait = min(2 * wait, _LONGEST_WAIT_S)


def open_store(url: str) -> ObjectStore:
    """A folder in a store.

    Args:
        url: "s3://bucket/folder", or as one of the other `SCHEMES`.

    Raises:
        UserError: there is no such kind of store, the packages that read it are not installed, or the environment does
            not say how.
    """
    scheme, _, address = url.partition("://")
    if scheme not in SCHEMES:
        raise UserError(f"{scheme}:// is no store that koala knows; name one of {', '.join(SCHEMES)}")
    if not address or "?" in address or "@" in address.partition("/")[0]:
        raise UserError(
            f"a folder in a store is named as {scheme}://bucket/folder; keys and passwords go into the environment"
        )
    patience_s = number_from("KOALA_STORE_PATIENCE", 600.0)
    if scheme == "hf":
        return ObjectStore(url, _hub(url), patience_s)
    extras.require(f"a folder at {scheme}://", "remote")
    try:
        return ObjectStore(url, ObstoreBackend(url), patience_s)
    except Exception as error:  # of the library's: settings are missing, or do not fit
        raise UserError(
            f"{url} cannot be opened ({_reason(error)}); set {_CREDENTIALS.get(scheme, 'its variables')}"
        ) from None


def number_from(variable: str, usual: float) -> float:
    """A number that an environment variable gives.

    Raises:
        UserError: it is none, or not finite.
    """
    text = os.environ.get(variable, "")
    with suppress(ValueError):
        number = float(text) if text else usual
        if math.isfinite(number):
            return number
    raise UserError(f"{variable} = {text} is no number; correct it, or unset it")


# ---------------------------------------------------------------- what went wrong


_STATUS = re.compile(r"status code:? (\d{3})")
_TRANSIENT = (408, 425, 429)  # and 500 and above


def _refusal(url: str, name: str, error: Exception, writing: bool) -> Exception | None:
    """The error to raise where asking again does not help; none where it may."""
    text = str(error)
    place = f"{url}/{name}".removesuffix("/")
    status = int(found[1]) if (found := _STATUS.search(text)) else getattr(_response(error), "status_code", 0)
    if re.search(r"NoSuchBucket|ContainerNotFound|Repository ?Not ?Found|bucket does not exist", text + repr(error)):
        return UserError(f"{url}: there is no such bucket; correct the name, or make it first")
    if "169.254.169.254" in text:
        scheme = url.partition("://")[0]
        return UserError(f"{url}: no credentials were found; set {_CREDENTIALS.get(scheme, 'its variables')}")
    if isinstance(error, FileNotFoundError) or status == 404:
        return FileNotFoundError(2, "No such file at the store", place)
    if isinstance(error, PermissionError) or status in (401, 403) or type(error).__name__ in _DENIED:
        what = "written" if writing else "read"
        return UserError(f"{place} may not be {what} with these credentials; see who may, or set others")
    if status >= 400 and status < 500 and status not in _TRANSIENT:
        return UserError(f"{place}: the store refuses the request ({_reason(error)}); correct the address or region")
    return None


def _response(error: Exception) -> Any:
    """The answer that an error of the hub's library is about."""
    return getattr(error, "response", None)


_DENIED = ("PermissionDeniedError", "UnauthenticatedError")


def _reason(error: Exception) -> str:
    """What a library says, in a line, without what stands in an address after a question mark: it may be a secret."""
    line = str(error).strip().partition("\n")[0]
    line = re.sub(r"\?[^\s'\")]*", "", re.sub(r"<\?xml.*", "", line))
    return line.rpartition(" - ")[2].strip(": ")[:160] or type(error).__name__


# ---------------------------------------------------------------- the libraries


class ObstoreBackend:
    """S3, Google Cloud Storage, Azure and web servers, by obstore."""

    def __init__(self, url: str) -> None:
        from obstore.store import from_url

        options: Any = {"timeout": f"{_TIMEOUT_S}s", "connect_timeout": f"{_CONNECT_TIMEOUT_S}s"}
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        if url.startswith("http://") or (url.startswith("s3://") and endpoint.startswith("http://")):
            options["allow_http"] = True
        # what is asked again, and for how long, is ObjectStore's to say
        once: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=_TIMEOUT_S)}
        self._store: Any = from_url(url, client_options=options, retry_config=once)

    def list(self) -> Iterator[tuple[str, StoredFile]]:
        """See `Backend`."""
        import obstore

        for page in obstore.list(self._store):
            for meta in page:
                yield meta["path"], self._described(meta)

    @staticmethod
    def _described(meta: Any) -> StoredFile:
        modified = meta["last_modified"]  # 1970 stands for a server that does not say it
        return StoredFile(meta["size"], meta["e_tag"] or (str(modified) if modified.timestamp() else ""))

    def stat(self, name: str) -> StoredFile:
        """See `Backend`."""
        import obstore

        return self._described(obstore.head(self._store, name))

    def get(self, name: str, begin: int, end: int | None) -> tuple[bytes, StoredFile]:
        """See `Backend`."""
        import obstore

        result = obstore.get(self._store, name, options={} if end is None else {"range": (begin, end)})
        return bytes(result.bytes()), self._described(result.meta)

    def put(self, name: str, data: bytes | Path) -> str:
        """See `Backend`."""
        import obstore

        return obstore.put(self._store, name, data)["e_tag"] or ""

    def delete(self, name: str) -> None:
        """See `Backend`."""
        import obstore

        obstore.delete(self._store, name)


class FsspecBackend:
    """A folder of one of fsspec's file systems: the Hugging Face hub, or a plain folder.

    Args:
        system: the file system.
        root: the folder, as the file system writes it.
    """

    def __init__(self, system: Any, root: str) -> None:
        self._system, self._root = system, root.rstrip("/")

    def list(self) -> Iterator[tuple[str, StoredFile]]:
        """See `Backend`."""
        self._system.invalidate_cache()
        if not self._system.exists(self._root):
            return
        for path, found in self._system.find(self._root, detail=True).items():
            yield path[len(self._root) + 1 :], self._described(found)

    @staticmethod
    def _described(found: dict[str, Any]) -> StoredFile:
        version = found.get("blob_id") or found.get("ETag") or found.get("mtime") or found.get("created") or ""
        return StoredFile(found["size"], str(version))

    def get(self, name: str, begin: int, end: int | None) -> tuple[bytes, StoredFile]:
        """See `Backend`."""
        path = f"{self._root}/{name}"
        return self._system.cat_file(path, start=begin, end=end), self.stat(name)

    def stat(self, name: str) -> StoredFile:
        """See `Backend`."""
        return self._described(self._system.info(f"{self._root}/{name}"))

    def put(self, name: str, data: bytes | Path) -> str:
        """See `Backend`."""
        path = f"{self._root}/{name}"
        if isinstance(data, Path):
            self._system.put_file(str(data), path)
        else:
            self._system.pipe_file(path, data)
        return ""

    def delete(self, name: str) -> None:
        """See `Backend`."""
        self._system.rm_file(f"{self._root}/{name}")


def _hub(url: str) -> FsspecBackend:
    from huggingface_hub import HfFileSystem

    return FsspecBackend(HfFileSystem(), url.removeprefix("hf://"))


def open_folder(folder: Path) -> ObjectStore:
    """A plain folder, read in the same way."""
    from fsspec.implementations.local import LocalFileSystem

    return ObjectStore(str(folder), FsspecBackend(LocalFileSystem(auto_mkdir=True), str(folder.absolute())), 0.0)

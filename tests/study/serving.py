"""`koala study serve` as a process of its own, on a free port."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path


@dataclass
class Served:
    """A server that runs.

    Attributes:
        process: it.
        port: where it listens.
    """

    process: subprocess.Popen
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def served(folder: Path, *words: str) -> Iterator[Served]:
    """Serve a study, and end the server at the end."""
    command = [sys.executable, "-m", "koala", "study", "serve", str(folder), "--port", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            found = re.search(r":(\d+)/", line) or re.search(r"port (\d+)", process.stdout.readline())
            server = Served(process, int(found[1]))
            _wait(server)
            yield server
        finally:
            process.terminate()


def _wait(server: Served) -> None:
    until = time.monotonic() + 30
    while True:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=5)
        try:
            connection.request("GET", "/health")
            assert connection.getresponse().status == 200
            return
        except ConnectionRefusedError:
            assert time.monotonic() < until and server.process.poll() is None, "the server did not start"
            time.sleep(0.05)
        finally:
            connection.close()

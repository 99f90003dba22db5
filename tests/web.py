"""Web servers in a thread of this process, and requests that are not quite what they should be."""

import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn

from koala.core import http_server


@contextmanager
def serving(app: Any, connections: int = 100, **options: Any) -> Iterator[tuple[uvicorn.Server, int]]:
    """Serve an application; the server and its port."""
    with http_server.open_listener("127.0.0.1", 0) as listener:
        server = http_server.make_server(app, connections, **options)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield server, listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


_PIECES = (b"", b"\r\n", b"\0", b"\xff", b"%00", b"%ff", b"%", b"&", b"=", b";", b'"', b"--b", b"x" * 300)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """With a few pieces changed, cut out, repeated or exchanged."""
    parts = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(parts))
        end = start + rng.randint(0, 20)
        parts[start:end] = rng.choice([rng.randbytes(4), bytes(parts[start:end]) * 3, *_PIECES])
        parts = parts or bytearray(b"x")
    return bytes(parts)


def statuses_of_mutated(port: int, requests: Sequence[bytes], count: int) -> Counter[str]:
    """What mutated requests get: how often each status, "" for none; with a fixed seed."""
    rng, statuses = random.Random(0), Counter[str]()
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection, suppress(ConnectionError):
            connection.sendall(mutated(rng.choice(requests), rng))
            connection.shutdown(socket.SHUT_WR)  # all has been said
            found = re.match(rb"HTTP/1.1 (\d+) ", connection.recv(65_536))
            statuses[found[1].decode() if found else ""] += 1
    return statuses

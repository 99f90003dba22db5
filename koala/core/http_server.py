"""Listening, and connections that nobody can hold for nothing: uvicorn over h11, with an end to everything.

uvicorn by itself reads a request line of any length (httptools has no limit), waits for ever for who is silent or slow,
and refuses everybody, whoever watches the server among them, while so many connections are held. Here a connection is
at any time either *ours*, its whole request being answered, or *awaited*: its client has yet to send the request or the
rest of it, or to take the answer. Who is awaited has a few seconds of patience, and more only for bytes that move.
When there are too many connections, those whose patience is nearest its end make room.
"""

import asyncio
import heapq
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import h11
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from koala.core.errors import UserError
from koala.core.http import with_security_headers

HEALTH = "/health"
"""The page that is answered also when there is no room for others; behind any sub-path."""
_LONGEST_HEAD = 16_384  # bytes of request line and headers; those read in one go with it may be as many again
_PIECE = 16_384  # bytes read from a connection at a time: nobody's request takes the loop for long
_PATIENCE_S = 10.0  # how long a client may keep us waiting
_SLOWEST = 1_000.0  # bytes a second of a body or an answer that use up no patience
_LOOK_S = 1.0  # between two looks at a connection
_IDLE_S = 30  # between two requests of a connection
_BACKLOG = 2048  # connections that the system accepts before we see them
_OTHER_FILES = 64  # that a server has open beside its connections
_BUSY = PlainTextResponse("too many people at once; try again in a moment\n", 503, {"retry-after": "10"})


class PatientProtocol(H11Protocol, asyncio.BufferedProtocol):
    """A connection whose client cannot hold it for nothing; `limit_concurrency` is how many there may be at a time.

    Attributes:
        patience: seconds that it may still keep us waiting.
    """

    _piece = memoryview(bytearray(_PIECE))  # one for all: a loop reads one connection at a time

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._most, self.limit_concurrency = self.limit_concurrency, None
        self.patience = _PATIENCE_S
        self._received = self._pending = 0
        self._is_refused = False

    # ---------------------------------------------------------------- what uvicorn and its loop call

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._make_room()
        self._timer = self.loop.call_later(_LOOK_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._timer.cancel()
        super().connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes are read to."""
        return self._piece

    def buffer_updated(self, nbytes: int) -> None:
        """Some bytes have come."""
        self._received += nbytes
        if not self._is_refused:
            self.data_received(bytes(self._piece[:nbytes]))

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and let go of what else is sent: who closes on unread bytes is not heard."""
        self._is_refused = True
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # another answer has begun
            self.transport.abort()
            return
        text = f"{msg}\n".encode()
        headers = [
            ("content-type", "text/plain; charset=utf-8"),
            ("content-length", str(len(text))),
            ("connection", "close"),
        ]
        response = h11.Response(status_code=400, headers=headers, reason="Bad Request")
        answer = (response, h11.Data(data=text), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in answer))
        with suppress(OSError):  # it has gone already
            self.transport.write_eof()

    # ---------------------------------------------------------------- patience

    @property
    def is_awaited(self) -> bool:
        """Whether it is the client's turn."""
        is_ours = (
            self.cycle is not None
            and not self.cycle.response_complete
            and (not self.cycle.more_body or self.flow.read_paused)
        )
        return not is_ours or self.transport.get_write_buffer_size() > 0

    @property
    def _is_idle(self) -> bool:
        """Whether it is between two requests, for which uvicorn has a timer of its own."""
        is_between = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        return self.timeout_keep_alive_task is not None and is_between

    def _look(self) -> None:
        """End the connection when its client has kept us waiting for too long."""
        pending = self.transport.get_write_buffer_size()
        taken, self._pending = max(0, self._pending - pending), pending
        sent = self._received if self.cycle is not None and not self.cycle.response_complete else 0  # of a body
        self._received = 0
        if not self.is_awaited or (self._is_idle and not pending):
            self.patience = _PATIENCE_S
        else:
            self.patience = min(_PATIENCE_S, self.patience + (taken + sent) / _SLOWEST) - _LOOK_S
        if self.patience <= 0:
            self._drop()
        else:
            self._timer = self.loop.call_later(_LOOK_S, self._look)

    def _make_room(self) -> None:
        """Let those go who have been awaited longest; where nobody is, this one is asked for its health alone."""
        if self._most is None or len(self.connections) <= self._most:
            return
        others = [
            other
            for other in self.connections
            if isinstance(other, PatientProtocol) and other is not self and other.is_awaited
        ]
        for other in heapq.nsmallest(1 + self._most // 50, others, key=lambda other: (other.patience, other._since)):
            other._drop()
        if not others:
            self.app = _health_alone(self.app)

    def _drop(self) -> None:
        self.connections.discard(self)  # at once, so that newcomers count right
        self.transport.abort()


def _health_alone(app: Any) -> Any:
    """Answer whoever watches the server; all others are to come again."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].endswith(HEALTH):
            await app(scope, receive, send)
        else:
            await _BUSY(scope, receive, with_security_headers(send))

    return answer


@contextmanager
def open_listener(host: str, port: int) -> Iterator[socket.socket]:
    """Listen at an address.

    Raises:
        UserError: it cannot be listened at.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UserError(
            f"{host} port {port} cannot be listened at ({reason}); choose another --port or --host"
        ) from None
    # asyncio sends heads and bodies without delay (TCP_NODELAY) only where the socket says that it is TCP
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, listener.detach()) as listener:
        yield listener


def listener_url(listener: socket.socket) -> str:
    """What a browser on the same machine opens."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def make_server(app: ASGIApp, connections: int, **options: Any) -> uvicorn.Server:
    """A server of an application; its `run(sockets=[listener])` serves until it is stopped.

    Args:
        app: the pages.
        connections: how many are held at a time; fewer where the system does not allow so many.
        options: of uvicorn, beyond those that all koala's servers have.
    """
    settings = uvicorn.Config(
        app,
        interface="asgi3",
        http=PatientProtocol,
        loop="asyncio",  # uvloop reads 256 kB at a time, and saves nothing here
        ws="none",
        h11_max_incomplete_event_size=_LONGEST_HEAD,
        limit_concurrency=_allowed(connections),
        backlog=_BACKLOG,
        server_header=False,
        access_log=False,  # people's addresses are nobody's business
        log_level="error",  # not a line for each that is no request
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=10,
        **options,
    )
    return uvicorn.Server(settings)


def _allowed(connections: int) -> int:
    """How many connections the system lets a process hold, which is asked for as many as it takes."""
    with suppress(ImportError, OSError, ValueError):  # Windows has no such limit, macOS a lower one than it says
        import resource

        wanted = connections + _BACKLOG + _OTHER_FILES
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            connections = min(connections, max(1, (soft - _OTHER_FILES) // 2))
    return connections

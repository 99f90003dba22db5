"""Connections that want to hold the server for nothing, and what becomes of them."""

import asyncio
import logging
import re
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from uvicorn.server import ServerState

from koala.core import http, http_server
from tests import web

GET = b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\n%s\r\n\r\n"
LARGE = b"x" * 20_000_000  # more than any socket holds


@dataclass
class Served:
    """A server in a thread of its own; `/held` is answered when it is let go."""

    go: threading.Event = field(default_factory=threading.Event)
    held: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    port: int = 0
    server: uvicorn.Server | None = None

    async def app(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            await (await self.answer(Request(scope, receive)))(scope, receive, send)

    async def answer(self, request: Request) -> Response:
        if request.url.path == "/held":
            self.held.release()
            await run_in_threadpool(self.go.wait, 30)
        if request.url.path in ("/large", "/small"):
            return Response(LARGE if request.url.path == "/large" else LARGE[:50_000])
        if request.url.path == "/unread":
            return PlainTextResponse("too long", 413)
        try:
            body = b"".join([piece async for piece in http.limited_body(request, 10**7, "too long")])
        except HTTPException as error:
            return PlainTextResponse(error.detail, error.status_code)
        return PlainTextResponse(f"{len(body)} bytes")

    def connect(self, data: bytes = b"") -> socket.socket:
        connection = socket.socket()
        connection.settimeout(30)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(data)
        return connection

    def connections(self) -> int:
        return len(self.server.server_state.connections)


@contextmanager
def serving(connections: int = 100) -> Iterator[Served]:
    served = Served()
    with web.serving(served.app, connections, lifespan="off") as (served.server, served.port):
        try:
            yield served
        finally:
            served.go.set()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as running:
        yield running


@pytest.fixture
def impatient(monkeypatch) -> None:
    """Ten seconds pass in a third of one."""
    monkeypatch.setattr(http_server, "_PATIENCE_S", 0.3)
    monkeypatch.setattr(http_server, "_LOOK_S", 0.03)


def answer(connection: socket.socket) -> bytes:
    """The next answer."""
    received, length = b"", None
    while length is None or len(received) < length:
        piece = connection.recv(65_536)
        assert piece, received
        received += piece
        if found := re.search(rb"content-length: (\d+)\r\n(?s:.*)\r\n\r\n", received):
            length = found.end() + int(found[1])
    return received


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail("it did not come about")


def is_closed(connection: socket.socket) -> bool:
    """Whether the server ends a connection; waits for it."""
    try:
        while connection.recv(65_536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


# ---------------------------------------------------------------- length


@pytest.mark.parametrize(
    "head", [b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\nx: %s\r\n\r\n"]
)
def test_a_line_without_end_is_refused_and_the_refusal_is_heard(served, head):
    with served.connect() as connection:
        connection.sendall(head % (b"x" * 1_000_000))
        assert answer(connection).startswith(b"HTTP/1.1 400 ")
        assert is_closed(connection)


def test_as_many_small_headers_are_refused(served):
    with served.connect(b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a:\r\n" * 50_000) as connection:
        assert answer(connection).startswith(b"HTTP/1.1 400 ")


def test_what_browsers_send_is_taken(served):
    with served.connect(b"GET / HTTP/1.1\r\nhost: x\r\ncookie: %s\r\n\r\n" % (b"x" * 15_000)) as connection:
        assert answer(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("nonsense", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"\x00" * 100, b"GET / HTTP/9\r\n\r\n"])
def test_what_is_no_request_is_refused(served, nonsense):
    with served.connect(nonsense + b"\r\n\r\n") as connection:
        assert answer(connection).startswith(b"HTTP/1.1 400 ")
        assert is_closed(connection)


def test_answers_go_out_at_once(served):
    """A head that waits for its body, and a client that waits before it acknowledges, cost 40 ms a request."""
    with served.connect(GET % b"/held"):
        assert served.held.acquire(timeout=30)
        (connection,) = (one for one in served.server.server_state.connections if one.cycle.scope["path"] == "/held")
        its_socket = connection.transport.get_extra_info("socket")
        assert its_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        served.go.set()
        wait_until(lambda: connection.cycle.response_complete)
        served.go.clear()


def test_a_body_in_pieces_of_any_size_is_whole(served):
    body = b"x" * 100_000
    with served.connect(POST % b"content-length: 100000" + body) as connection:
        assert answer(connection).endswith(b"100000 bytes")
        chunks = b"".join(b"1\r\nx\r\n" for _ in range(20_000)) + b"0\r\n\r\n"
        connection.sendall(POST % b"transfer-encoding: chunked" + chunks)
        assert answer(connection).endswith(b"20000 bytes")


def test_requests_that_come_together_are_answered_one_by_one(served):
    with served.connect(GET % b"/" * 3 + POST % b"content-length: 3\r\nconnection: close" + b"abc") as connection:
        received = b""
        while piece := connection.recv(65_536):
            received += piece
    assert received.count(b"HTTP/1.1 200 ") == 4
    assert received.endswith(b"3 bytes")


def test_who_sends_on_hears_the_refusal(served):
    """A connection that is closed on unread bytes is reset, and what was said is lost with it."""
    with served.connect(b"POST /unread HTTP/1.1\r\nhost: x\r\ncontent-length: 20000000\r\n\r\n" + LARGE) as connection:
        assert answer(connection).startswith(b"HTTP/1.1 413 ")


def test_nonsense_in_a_body_ends_the_connection_alone(served, caplog):
    broken = POST % b"transfer-encoding: chunked" + b"1\r\nx\r\nnonsense\r\n"
    with caplog.at_level(logging.ERROR), served.connect(broken) as connection:
        assert answer(connection).startswith(b"HTTP/1.1 400 ")
        assert is_closed(connection)
    late = broken.replace(b"POST / ", b"POST /unread ")
    with caplog.at_level(logging.ERROR), served.connect(late[:-10]) as connection:
        assert answer(connection).startswith(b"HTTP/1.1 413 ")
        connection.sendall(b"nonsense\r\n")
        assert is_closed(connection)
    assert not caplog.records


# ---------------------------------------------------------------- time


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"G",
        b"GET / HTTP/1.1\r\nhost: x\r\n",
        POST % b"content-length: 10" + b"12345",
        GET % b"/" + b"GET / ",
        b"POST /unread HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345",
    ],
    ids=["silent", "a letter", "no end of the head", "half a body", "half a second request", "half a body unread"],
)
def test_who_says_no_more_is_let_go(served, impatient, begun):
    with served.connect(begun) as connection:
        assert is_closed(connection)
    wait_until(lambda: not served.connections())


@pytest.mark.parametrize("begun", [b"", POST % b"content-length: 1000000"], ids=["head", "body"])
def test_a_letter_now_and_then_does_not_help(served, impatient, begun):
    pause = threading.Event()
    with served.connect(begun) as connection, pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
        for _ in range(1000):
            connection.sendall(b"x")
            pause.wait(0.02)


@pytest.mark.parametrize("path", [b"/large", b"/small"], ids=["one large one", "hundreds of small ones"])
def test_who_takes_no_answer_is_let_go(served, impatient, path):
    with served.connect() as connection, pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
        for _ in range(1_000_000):
            connection.sendall(GET % path * 100)
    wait_until(lambda: not served.connections())


def test_a_body_that_nobody_reads_has_an_end(served, impatient):
    unread = b"POST /unread HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    pause = threading.Event()
    with served.connect(unread) as connection, pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
        for _ in range(1000):
            connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            pause.wait(0.01)


# ---------------------------------------------------------------- a second at a time


class Wire(asyncio.Transport):
    """A transport that sends nothing on, and whose buffer is as full as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.full, self.is_cut = 0, False

    def get_write_buffer_size(self) -> int:
        return self.full

    def abort(self) -> None:
        self.is_cut = True

    def close(self) -> None:
        self.is_cut = True

    def write(self, data) -> None: ...

    def write_eof(self) -> None:
        raise OSError("Transport endpoint is not connected")

    def is_closing(self) -> bool:
        return self.is_cut

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def patient(app=None, state=None, most: int = 100) -> tuple[http_server.PatientProtocol, Wire]:
    """A connection whose seconds pass when `_look` is called."""
    config = http_server.make_server(app, most, lifespan="off").config
    config.load()
    protocol, wire = http_server.PatientProtocol(config, state or ServerState(), {}), Wire()
    protocol.connection_made(wire)
    return protocol, wire


def seconds_until_cut(protocol: http_server.PatientProtocol, wire: Wire, each: Callable[[], None]) -> int:
    """How many seconds a connection is held, of a hundred, when the client does something in each."""
    seconds = 0
    while seconds < 100 and not wire.is_cut:
        each()
        protocol._look()
        seconds += 1
    protocol.connection_lost(None)
    return seconds


def receive(protocol: http_server.PatientProtocol, data: bytes) -> None:
    protocol.get_buffer(-1)[: len(data)] = data
    protocol.buffer_updated(len(data))


async def answer_body(scope, receive, send) -> None:
    while (await receive()).get("more_body"):
        pass


def test_patience_lasts_ten_seconds():
    async def silent() -> int:
        return seconds_until_cut(*patient(), lambda: None)

    assert asyncio.run(silent()) == 10


@pytest.mark.parametrize(("pace", "seconds"), [(0, 10), (500, 19), (1000, 100), (5000, 100)])
def test_who_is_slow_but_moves_is_waited_for(pace, seconds):
    """A thousand bytes in a second use up no patience, five hundred half of it."""

    async def upload() -> int:
        protocol, wire = patient(answer_body)
        receive(protocol, POST % b"content-length: 1000000000")
        protocol._received = 0
        held = seconds_until_cut(protocol, wire, lambda: pace and receive(protocol, b"x" * pace))
        await asyncio.sleep(0)
        return held

    async def download() -> int:
        protocol, wire = patient(answer_body)
        wire.full = 1_000_000_000

        def take() -> None:
            wire.full -= pace

        return seconds_until_cut(protocol, wire, take)

    assert asyncio.run(upload()) == seconds
    assert asyncio.run(download()) == seconds


def test_who_sends_nonsense_and_is_gone_is_let_go():
    async def gone() -> int:
        protocol, wire = patient()
        receive(protocol, b"nonsense\r\n\r\n")
        return seconds_until_cut(protocol, wire, lambda: receive(protocol, b"more"))

    assert asyncio.run(gone()) == 10


def test_who_waits_for_us_is_not_let_go():
    async def held() -> int:
        protocol, wire = patient(answer_body)
        receive(protocol, GET % b"/")
        held = seconds_until_cut(protocol, wire, lambda: None)
        await asyncio.sleep(0)
        return held

    assert asyncio.run(held()) == 100


def test_who_thinks_between_two_requests_is_left_to_uvicorns_own_timer(served, impatient):
    with served.connect() as connection:
        for _ in range(3):
            connection.sendall(GET % b"/")
            assert answer(connection).startswith(b"HTTP/1.1 200 ")
            threading.Event().wait(0.5)


# ---------------------------------------------------------------- number


def test_the_silent_lock_nobody_out():
    with serving(connections=10) as served, ExitStack() as stack:
        for begun in [b"", b"GET /", POST % b"content-length: 9"] * 20:
            stack.enter_context(served.connect(begun))
        for path in (b"/health", b"/"):
            with served.connect(GET % path) as connection:
                assert answer(connection).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: served.connections() <= 10)


@pytest.mark.parametrize("second_by_second", [True, False])
def test_who_was_silent_longest_makes_room(second_by_second):
    async def come() -> list[bool]:
        state, connections = ServerState(), []
        for _ in range(4):
            connections.append(patient(state=state, most=3))
            for protocol, wire in connections:
                if second_by_second and not wire.is_cut:
                    protocol._look()
        cut = [wire.is_cut for _, wire in connections]
        for protocol, _ in connections:
            protocol.connection_lost(None)
        return cut

    assert asyncio.run(come()) == [True, False, False, False]


def test_where_all_are_being_answered_there_is_a_lane_for_health():
    with serving(connections=3) as served, ExitStack() as stack:
        held = [stack.enter_context(served.connect(GET % b"/held")) for _ in range(3)]
        for _ in held:
            assert served.held.acquire(timeout=30)
        with served.connect(GET % b"/health") as connection:
            assert answer(connection).startswith(b"HTTP/1.1 200 ")
        with served.connect(GET % b"/") as connection:
            refusal = answer(connection)
            assert refusal.startswith(b"HTTP/1.1 503 ")
            assert b"too many people at once; try again in a moment" in refusal
            assert b"default-src 'none'" in refusal
        served.go.set()
        for connection in held:
            assert answer(connection).startswith(b"HTTP/1.1 200 "), "who was there is answered"


def test_the_system_is_asked_for_as_many_as_it_takes():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        allowed = http_server._allowed(2000)
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert files > 256
    assert allowed == 2000 or allowed <= files // 2, "a system that allows fewer gets fewer"

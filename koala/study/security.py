"""What keeps a study's pages safe: signed names that cannot be guessed, forms of its own, limits."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from koala.core import http

COOKIE = "study"
_LONGEST_BODY = 16_384  # bytes
_LONGEST_WAIT_S = 10.0
_MOST_FIELDS = 64
_BUCKETS = 20_000


class SessionSigner:
    """Signed and derived names: 128 bits of HMAC-SHA256, so that none can be made or guessed without the secret.

    Args:
        secret: of the study; what is derived from another secret is another study's.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def ticket(self) -> str:
        """What a consent page holds, so that agreeing twice makes one participant."""
        return self._signed("ticket", secrets.token_hex(16))

    def session(self, ticket: str) -> str | None:
        """The cookie of who agrees with this ticket; none if it is no ticket."""
        nonce = self._opened("ticket", ticket)
        return None if nonce is None else self._signed("session", _derived(self._secret, f"session {nonce}"))

    def is_password(self, given: str) -> bool:
        """Whether somebody knows the secret itself."""
        return constant_time_compare(given, self._secret)

    def is_session(self, cookie: str) -> bool:
        """Whether this study gave out a cookie."""
        return self._opened("session", cookie) is not None

    def _signed(self, purpose: str, nonce: str) -> str:
        return f"{nonce}.{_derived(self._secret, f'{purpose} signature {nonce}')}"

    def _opened(self, purpose: str, name: str) -> str | None:
        nonce, _, _ = name.partition(".")
        return nonce if constant_time_compare(name, self._signed(purpose, nonce)) else None


def form_token(session: str) -> str:
    """What a form must hold to be taken from this session."""
    return _derived(session, "form")


def picture_token(session: str, position: int) -> str:
    """What the picture at a position is called in this session's pages, and in no other's."""
    return _derived(session, f"picture {position}")


def constant_time_compare(given: str, expected: str) -> bool:
    """Compare in a time that depends on neither."""
    return hmac.compare_digest(hashlib.sha256(given.encode()).digest(), hashlib.sha256(expected.encode()).digest())


def _derived(secret: str, purpose: str) -> str:
    return hmac.new(secret.encode(), purpose.encode(), hashlib.sha256).hexdigest()[:32]


# ---------------------------------------------------------------- requests


async def read_form(request: Request, url: str = "") -> Mapping[str, str]:
    """The fields of a form, which must come from our own pages and be small.

    Args:
        request: with the form.
        url: the address that participants open; "" is the one of the request.

    Raises:
        HTTPException: 403 from elsewhere, 408 too slow, 413 too long, 415 or 400 not a form.
    """
    if not http.is_same_origin(request, url):
        raise HTTPException(403, "error_session")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "error_form")
    try:
        async with asyncio.timeout(_LONGEST_WAIT_S):
            body = b"".join([piece async for piece in http.limited_body(request, _LONGEST_BODY, "error_form")])
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict"))
    except TimeoutError:
        raise HTTPException(408, "error_busy") from None
    except ValueError:
        raise HTTPException(400, "error_form") from None


def given_password(request: Request) -> str:
    """What a request brings as a password, by HTTP's Basic (with any name) or Bearer; "" where it brings none."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return value
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


class RateLimiter:
    """How much each may do: so many at once, so many a second after that.

    Args:
        burst: at once.
        rate_s: a second.
    """

    def __init__(self, burst: float, rate_s: float) -> None:
        self._burst, self._rate_s = burst, rate_s
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, who: str, now: float | None = None) -> bool:
        """Take one; False when there is none left."""
        now = time.monotonic() if now is None else now
        left, then = self._left.pop(who, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._rate_s)
        self._left[who] = (left - 1, now) if left >= 1 else (left, now)
        if len(self._left) > _BUCKETS:
            self._left.popitem(last=False)
        return left >= 1


class GuardMiddleware:
    """Stands before all pages: the sub-path, the rate, the headers of every response.

    Args:
        app: the pages.
        signer: which cookies are ours.
        url: the address that participants open; "" is any.
    """

    def __init__(self, app: ASGIApp, signer: SessionSigner, url: str = "") -> None:
        self._app, self._signer, self._prefix = app, signer, urlsplit(url).path.rstrip("/")
        self._sessions = RateLimiter(burst=100, rate_s=20)
        self._strangers = RateLimiter(burst=1000, rate_s=50)  # a lecture hall has one address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        app = self._refusal(scope) or self._app
        await app(self._without_prefix(scope), receive, http.with_security_headers(send))

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        path = scope["path"]
        if self._prefix and path == self._prefix:  # relative addresses begin behind the slash
            return PlainTextResponse("", 308, {"location": f"{self._prefix}/"})
        if path.removeprefix(self._prefix) == "/health":
            return None
        request = Request(scope)
        if (password := given_password(request)) and self._signer.is_password(password):
            return None
        cookie = request.cookies.get(COOKIE, "")
        known = self._signer.is_session(cookie)
        address = scope["client"][0] if scope.get("client") else ""
        if not (self._sessions.allow(cookie) if known else self._strangers.allow(address)):
            return PlainTextResponse("too many requests; wait a moment\n", 429, {"retry-after": "5"})
        return None

    def _without_prefix(self, scope: Scope) -> Scope:
        path = scope["path"]
        if self._prefix and path.startswith(f"{self._prefix}/"):  # proxies may leave the sub-path or take it off
            path = path[len(self._prefix) :]
        return {**scope, "path": path, "raw_path": path.encode()}

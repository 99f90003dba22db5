"""What koala's web pages share: their files, headers that keep them safe, bodies with an end."""

import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Send

_TYPES = {"style.css": "text/css", "script.js": "text/javascript", "icon.svg": "image/svg+xml"}


def content_security_policy(images: str = "'self'") -> str:
    """A content security policy: nothing from elsewhere, no script or style inside a page, no framing.

    Args:
        images: where pictures may come from.
    """
    return (
        f"default-src 'none'; img-src {images}; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )


_HEADERS = [
    (b"content-security-policy", content_security_policy().encode()),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # with no-referrer, browsers send "Origin: null" with forms
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"x-robots-tag", b"noindex, nofollow"),
    (b"cache-control", b"no-store"),
]


def with_security_headers(send: Send) -> Send:
    """Send responses with the headers that keep pages safe, where they do not have them already."""

    async def send_guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name for name, _ in message["headers"]}
            message["headers"] += [header for header in _HEADERS if header[0] not in present]
        await send(message)

    return send_guarded


def is_same_origin(request: Request, url: str = "") -> bool:
    """Whether a browser says that a form comes from our own pages; what is no browser says nothing.

    Args:
        request: with the form.
        url: the address that people open; "" is the one of the request.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        return site == "same-origin"
    host = urlsplit(url).netloc or request.headers.get("host")
    return origin in (None, f"http://{host}", f"https://{host}")


async def limited_body(request: Request, longest: int, refusal: str) -> AsyncGenerator[bytes, None]:
    """A request's body, piece by piece.

    Args:
        request: whose body it is.
        longest: bytes that it may have.
        refusal: what is said of a longer one.

    Raises:
        HTTPException: 413, it is longer; 408, its sender has gone.
    """
    length = 0
    try:
        async for piece in request.stream():
            length += len(piece)
            if length > longest:
                raise HTTPException(413, refusal)
            yield piece
    except ClientDisconnect:
        raise HTTPException(408, "the rest of the request did not come; send it again") from None


class PageAssets:
    """Style, script and icon of a folder of pages, in memory.

    Args:
        folder: where they lie.

    Attributes:
        release: other when one of them is other; pages put it behind their names.
    """

    def __init__(self, folder: Path) -> None:
        self._files = {name: (folder / name).read_bytes() for name in _TYPES}
        self.release = hashlib.sha256(b"".join(self._files.values())).hexdigest()[:12]

    def routes(self) -> list[Route]:
        """Address by address."""
        return [Route(f"/{name}", self._get) for name in self._files]

    async def _get(self, request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        return Response(self._files[name], 200, {"cache-control": "max-age=3600"}, _TYPES[name])


def template_environment(folder: Path) -> Environment:
    """A folder's templates, in which every value is escaped, and none may be absent."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )

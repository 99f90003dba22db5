"""The gallery's page and its server, `koala gallery`.

Nothing is kept: a photo comes together with the dials, its coloured picture goes back, and both are forgotten. Photos
are coloured one at a time, in the order in which they come, and none touches the disk.
All addresses in the page are relative, so that they hold under any sub-path.
"""

import asyncio
import base64
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import python_multipart  # noqa: F401  # starlette's parser needs it, and would only say so when a photo comes
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from koala.config.inference import GallerySettings
from koala.core import http
from koala.core.errors import UserError
from koala.imaging import photo_io
from koala.imaging.decoders import PictureFile, open_picture
from koala.imaging.errors import UnreadableImageError, decoder_errors, kind_of
from koala.inference.colorize import colorize, device_for
from koala.models.network import STRIDE, Colorizer
from koala.models.pretrained import load_model

_PAGE = Path(__file__).parent / "page"
_FORMATS = {  # Pillow's that it reads by itself (EPS it would hand to Ghostscript), and what browsers call them
    **{"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "AVIF": "image/avif"},
    **{"TIFF": "image/tiff", "BMP": "image/bmp", "GIF": "image/gif"},
}
_JPEG = b"\xff\xd8\xff"  # how one begins
_LONGEST_LINE = 8  # photos that are coloured or wait: all are held in memory
_LONGEST_UPLOAD_S = 120.0
_MOST_FIELDS = 16
_MOST_SIDES = 8  # how often a photo's short side may go into its long one: the network's work grows with it


@dataclass(frozen=True)
class Dial:
    """Something that can be turned.

    Attributes:
        name: in forms.
        label: in words.
        low: the lowest value.
        high: the highest value.
        step: between values.
        value: where it stands at first.
    """

    name: str
    label: str
    low: float
    high: float
    step: float
    value: float

    def read(self, form: FormData) -> float:
        """Where a form has it.

        Raises:
            HTTPException: 400, nowhere.
        """
        value = form.get(self.name, self.value)
        with suppress(ValueError):
            if not isinstance(value, UploadFile) and self.low <= float(value) <= self.high:
                return float(value)
        raise HTTPException(400, f"{self.name} must be a number from {self.low:g} to {self.high:g}")


@dataclass(frozen=True)
class Picture:
    """A coloured photo.

    Attributes:
        name: of its file.
        data: the file's bytes, a JPEG's or a PNG's.
    """

    name: str
    data: bytes

    @property
    def media_type(self) -> str:
        """What the bytes are."""
        return f"image/{'jpeg' if self.data.startswith(_JPEG) else 'png'}"

    @property
    def url(self) -> str:
        """All of it as an address, for a page that is one file."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"


Colorize = Callable[[bytes, Mapping[str, float]], bytes]
"""A photo's file and where the dials stand, by their names -> the coloured photo's file, a JPEG or a PNG.

Raises `UserError` or `koala.imaging.errors.UnreadableImageError` where the photo cannot be read.
"""


def dials_for(model: Colorizer) -> tuple[Dial, ...]:
    """What can be turned when a model colours, by the names of `ColorizeOptions`."""
    saturation = Dial("saturation", "Saturation", 0, 2, 0.05, 1)
    strength = Dial("strength", "Strength", 0, 1, 0.05, 1)
    temperature = Dial("temperature", "Temperature", 0.05, 1, 0.01, model.temperature)
    size = Dial("size", "Working size", min(64, model.size), max(512, model.size), STRIDE, model.size)
    return saturation, strength, *([temperature] if model.network.head == "bins" else []), size


def colorizing(model: Colorizer) -> Colorize:
    """Colour with a model, photos in colour too: JPEGs stay JPEGs, all others become PNGs, which browsers show."""

    def paint(data: bytes, turned: Mapping[str, float]) -> bytes:
        photo = photo_io.decode_photo(data)
        suffix = ".jpg" if data.startswith(_JPEG) else ".png"
        dials: dict[str, Any] = {**turned, "size": int(turned["size"])}
        return photo_io.encode_photo(colorize(photo.pixels, model, recolor=True, **dials), photo, suffix)

    return paint


class Gallery:
    """The page, and the line of photos before the one network.

    Args:
        settings: its limits.
        dials: what can be turned.
        paint: what colours; called from one thread at a time.
    """

    def __init__(self, settings: GallerySettings, dials: Sequence[Dial], paint: Colorize) -> None:
        self._settings, self._dials, self._paint = settings, dials, paint
        self._static = http.Static(_PAGE)
        self._template = http.templates(_PAGE).get_template("gallery.html")
        self._turn = asyncio.Lock()
        self._line = 0

    def routes(self) -> list[Route]:
        """Address by address."""
        return [
            Route("/", self.welcome),
            Route("/", self.result, methods=["POST"]),
            Route("/colored", self.colored, methods=["POST"]),
            Route("/line", self.line),
            *self._static.routes(),
        ]

    async def welcome(self, request: Request) -> Response:
        """The page."""
        return self._page()

    async def result(self, request: Request) -> Response:
        """The page with a coloured photo in it, for browsers without JavaScript."""
        return self._page(picture=await self._picture(request))

    async def colored(self, request: Request) -> Response:
        """A coloured photo, as a file to keep."""
        picture = await self._picture(request)
        disposition = f"attachment; filename*=UTF-8''{quote(picture.name, safe='')}"
        return Response(picture.data, 200, {"content-disposition": disposition}, picture.media_type)

    async def line(self, request: Request) -> Response:
        """How many photos are being coloured or wait for it."""
        return PlainTextResponse(str(self._line))

    async def refused(self, request: Request, error: Exception) -> Response:
        """What went wrong, in a sentence: on the page for browsers that go there, alone for all else."""
        if isinstance(error, HTTPException):
            status, sentence, headers = error.status_code, error.detail, error.headers
        else:
            status, sentence, headers = 500, "koala failed at this photo; the terminal it runs in says why", None
        if "text/html" in request.headers.get("accept", ""):
            return self._page(status, sentence)
        return PlainTextResponse(f"{sentence}\n", status, headers)

    def _page(self, status: int = 200, message: str = "", picture: Picture | None = None) -> Response:
        text = self._template.render(
            accept=",".join(dict.fromkeys(_FORMATS.values())),
            dials=self._dials,
            megabytes=self._settings.megabytes,
            message=message,
            picture=picture,
            release=self._static.release,
        )
        return HTMLResponse(text, status, {"content-security-policy": http.policy("'self' blob: data:")})

    async def _picture(self, request: Request) -> Picture:
        """Colour the photo of a form, when its turn comes.

        Raises:
            HTTPException: 403 from elsewhere, 503 too many wait, 400, 408, 413 or 415 the form or its photo is no use.
        """
        if not http.from_here(request):
            raise HTTPException(403, "this form does not come from the gallery's own page; open the gallery again")
        with self._in_line():
            name, data, form = await self._read(request)
            dials = {dial.name: dial.read(form) for dial in self._dials}
            async with self._turn:
                if await request.is_disconnected():  # who turns a dial further does not wait for what was before
                    raise HTTPException(408, "nobody waits for this photo any more")
                return await run_in_threadpool(self._make, name, data, dials)

    @contextmanager
    def _in_line(self) -> Iterator[None]:
        if self._line >= _LONGEST_LINE:
            raise HTTPException(503, f"{self._line} photos are waiting; try again in a moment", {"retry-after": "10"})
        self._line += 1
        try:
            yield
        finally:
            self._line -= 1

    async def _read(self, request: Request) -> tuple[str, bytes, FormData]:
        """The photo's name and bytes, and the form with all other fields."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "multipart/form-data":
            raise HTTPException(415, "a photo comes in a form, as multipart/form-data")
        megabytes = self._settings.megabytes
        refusal = f"this photo is larger than {megabytes} MB; take a smaller one, or start with a larger --megabytes"
        body = http.bounded(request, megabytes * 10**6, refusal)
        parser = MultiPartParser(request.headers, body, max_files=1, max_fields=_MOST_FIELDS)
        parser.spool_max_size = sys.maxsize  # of what is kept in memory, not in a file
        try:
            async with asyncio.timeout(_LONGEST_UPLOAD_S):
                form = await parser.parse()
        except (TimeoutError, ClientDisconnect):
            raise HTTPException(408, f"the photo did not come within {_LONGEST_UPLOAD_S:g} s; try again") from None
        except MultiPartException as error:
            raise HTTPException(400, f"the form cannot be read: {error.message}") from None
        photo = form.get("photo")
        name, data = (photo.filename, await photo.read()) if isinstance(photo, UploadFile) else ("", b"")
        await form.close()
        if not data:
            raise HTTPException(400, "there is no photo in the form; choose one")
        return Path(name or "photo").name, data, form

    def _make(self, name: str, data: bytes, dials: Mapping[str, float]) -> Picture:
        """Colour a photo that is within the limits."""
        try:
            with decoder_errors(kind_of(data)):
                self._check(name, open_picture(data))
            colored = self._paint(data, dials)
        except (UserError, UnreadableImageError) as error:
            raise HTTPException(400, f"{name} cannot be read: {error}; choose another photo") from None
        suffix = "jpg" if colored.startswith(_JPEG) else "png"
        return Picture(f"{Path(name).stem}-koala.{suffix}", colored)

    def _check(self, name: str, photo: PictureFile) -> None:
        """Refuse what would take too long or too much memory, or another program to read, before it is decoded."""
        if photo.kind not in _FORMATS:
            raise HTTPException(415, f"{name} is of format {photo.kind}; choose one of {', '.join(_FORMATS)}")
        width, height, most = *photo.size, self._settings.megapixels
        if width * height > most * 10**6:
            raise HTTPException(
                413,
                f"{name} has {width} x {height} pixels, more than {most} million; "
                "take a smaller one, or start with a larger --megapixels",
            )
        if max(width, height) > _MOST_SIDES * min(width, height):
            raise HTTPException(
                413, f"{name} has {width} x {height} pixels, a side more than {_MOST_SIDES} times the other; cut it"
            )


def create_app(settings: GallerySettings, dials: Sequence[Dial], paint: Colorize) -> ASGIApp:
    """The web application; see `Gallery`."""
    gallery = Gallery(settings, dials, paint)
    handlers = {HTTPException: gallery.refused, Exception: gallery.refused}
    app = Starlette(routes=gallery.routes(), exception_handlers=handlers)
    app.router.redirect_slashes = False
    names = {"localhost", settings.host.lower()}
    stranger = PlainTextResponse(
        "the gallery is not known by this name; open it by its address, or start it with --host and this name\n", 421
    )

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
        else:
            await (app if _is_called(scope, names) else stranger)(scope, receive, http.guarded(send))

    return guard


def _is_called(scope: Scope, names: set[str]) -> bool:
    """Whether a request names its host by an address or one of these names.

    A page elsewhere can let its own name lead here (DNS rebinding) and would then be taken for ours; an address it
    cannot.
    """
    with suppress(ValueError):
        host = urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname or ""
        return host in names or ip_address(host) is not None
    return False


def gallery_command(settings: GallerySettings) -> int:
    """`koala gallery`: serve the page until it is stopped.

    Returns:
        0.

    Raises:
        UserError: there is no model, or the address cannot be listened at.
    """
    with http.listening(settings.host, settings.port) as listener:
        model = load_model(settings.model, settings.extractor.weights).to(device_for(settings.device))
        app = create_app(settings, dials_for(model), colorizing(model))
        _greet(listener)
        http.serve(app, listener, proxy_headers=False, limit_concurrency=100)
    return 0


def _greet(listener: socket.socket) -> None:
    """Say where the gallery is, and who can come."""
    print(f"{http.address(listener)}/  drop a photo there; Ctrl-C closes the gallery", flush=True)
    if not ip_address(listener.getsockname()[0]).is_loopback:
        print(
            "everybody who can reach this address can colour photos here; --host 127.0.0.1 keeps the gallery to you",
            file=sys.stderr,
        )

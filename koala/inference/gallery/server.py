"""The gallery's page and its server, `koala gallery`.

Nothing is kept: a photo comes together with the sliders' values, its coloured picture goes back, and both are
forgotten. Photos are coloured one at a time, in the order in which they come, and none touches the disk.
All addresses in the page are relative, so that they hold under any sub-path.
"""

import asyncio
import base64
import logging
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from python_multipart import multipart
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from koala.config.imaging import PictureLimits
from koala.config.inference import GallerySettings
from koala.core import http, http_server
from koala.core.errors import UserError, first_line
from koala.imaging import photo_io
from koala.imaging.decoders import open_picture
from koala.imaging.errors import UnreadableImageError, decoder_errors, kind_of
from koala.inference.colorize import colorize, device_for
from koala.models.network import Colorizer
from koala.models.pretrained import load_model

_PAGE = Path(__file__).parent / "page"
_FORMATS = {  # that are taken, and what browsers call them
    **{"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "AVIF": "image/avif"},
    **{"TIFF": "image/tiff", "BMP": "image/bmp", "GIF": "image/gif"},
}
_JPEG = b"\xff\xd8\xff"  # how one begins
_CHECKED_HERE = PictureLimits(max_pixels=sys.maxsize)  # with sentences for the page
_MOST_CONNECTIONS = 100
_LONGEST_LINE = 8  # photos that are coloured or wait: all are held in memory
_LONGEST_UPLOAD_S = 120.0
_MOST_FIELDS = 16
_CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1")  # of a form
_MOST_SIDES = 8  # how often a photo's short side may go into its long one: the network's work grows with it


@dataclass(frozen=True)
class Slider:
    """An option on the page: a number within limits.

    Attributes:
        name: in forms.
        label: in words.
        low: the lowest value.
        high: the highest value.
        step: between values.
        value: the one at first.
    """

    name: str
    label: str
    low: float
    high: float
    step: float
    value: float

    def value_in(self, form: FormData) -> float:
        """The value that a form gives it.

        Raises:
            HTTPException: 400, it is no number within the limits.
        """
        value = form.get(self.name, self.value)
        with suppress(ValueError):
            if not isinstance(value, UploadFile) and self.low <= float(value) <= self.high:
                return float(value)
        raise HTTPException(400, f"{self.name} must be a number from {self.low:g} to {self.high:g}")


@dataclass(frozen=True)
class ColoredPhoto:
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


ColorizePhoto = Callable[[bytes, Mapping[str, float]], bytes]
"""A photo's file and the sliders' values, by their names -> the coloured photo's file, a JPEG or a PNG.

Raises `UserError` or `koala.imaging.errors.UnreadableImageError` where the photo cannot be read.
"""


def sliders_for(model: Colorizer) -> tuple[Slider, ...]:
    """The options that a model has, by the names of `ColorizeOptions`."""
    saturation = Slider("saturation", "Saturation", 0, 2, 0.05, 1)
    strength = Slider("strength", "Strength", 0, 1, 0.05, 1)
    temperature = Slider("temperature", "Temperature", 0.05, 1, 0.01, model.temperature)
    size = Slider("size", "Working size", min(64, model.size), max(512, model.size), model.network.stride, model.size)
    return saturation, strength, *([temperature] if model.network.head == "bins" else []), size


def colorize_with(model: Colorizer) -> ColorizePhoto:
    """Colour with a model, photos in colour too: JPEGs stay JPEGs, all others become PNGs, which browsers show."""

    def paint(data: bytes, values: Mapping[str, float]) -> bytes:
        photo = photo_io.decode_photo(data, _CHECKED_HERE)
        suffix = ".jpg" if data.startswith(_JPEG) else ".png"
        options: dict[str, Any] = {**values, "size": int(values["size"])}
        return photo_io.encode_photo(colorize(photo.pixels, model, recolor=True, **options), photo, suffix)

    return paint


class Gallery:
    """The page, and the line of photos before the one network.

    Args:
        settings: its limits.
        sliders: the options on the page.
        paint: what colours; called from one thread at a time.
    """

    def __init__(self, settings: GallerySettings, sliders: Sequence[Slider], paint: ColorizePhoto) -> None:
        self._settings, self._sliders, self._paint = settings, sliders, paint
        self._static = http.PageAssets(_PAGE)
        self._template = http.template_environment(_PAGE).get_template("gallery.html")
        self._turn = asyncio.Lock()
        self._line = self._held = 0

    def routes(self) -> list[Route]:
        """Address by address."""
        return [
            Route("/", self.welcome),
            Route("/", self.result, methods=["POST"]),
            Route("/colored", self.colored, methods=["POST"]),
            Route("/line", self.line),
            Route(http_server.HEALTH, self.health),
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

    async def health(self, request: Request) -> Response:
        """For whoever watches the server: 200 while it answers."""
        return JSONResponse({"status": "ok"})

    async def refused(self, request: Request, error: Exception) -> Response:
        """What went wrong, in a sentence: on the page for browsers that go there, alone for all else."""
        if isinstance(error, HTTPException):
            status, sentence, headers = error.status_code, error.detail, error.headers
        else:
            status, sentence, headers = 500, "koala failed at this photo; the terminal it runs in says why", None
        if "text/html" in request.headers.get("accept", ""):
            return self._page(status, sentence)
        return PlainTextResponse(f"{sentence}\n", status, headers)

    def _page(self, status: int = 200, message: str = "", picture: ColoredPhoto | None = None) -> Response:
        text = self._template.render(
            accept=",".join(dict.fromkeys(_FORMATS.values())),
            sliders=self._sliders,
            megabytes=self._settings.megabytes,
            message=message,
            picture=picture,
            release=self._static.release,
        )
        return HTMLResponse(
            text, status, {"content-security-policy": http.content_security_policy("'self' blob: data:")}
        )

    async def _picture(self, request: Request) -> ColoredPhoto:
        """Colour the photo of a form, when its turn comes.

        Raises:
            HTTPException: 403 from elsewhere, 503 too many wait, 400, 408, 413 or 415 the form or its photo is no use.
        """
        if not http.is_same_origin(request):
            raise HTTPException(403, "this form does not come from the gallery's own page; open the gallery again")
        if self._line >= _LONGEST_LINE:
            raise self._full()
        with self._room() as hold:
            name, data, form = await self._read(request, hold)
            values = {slider.name: slider.value_in(form) for slider in self._sliders}
            with self._in_line():
                async with self._turn:
                    if await request.is_disconnected():  # who moves a slider on does not wait for what was before
                        raise HTTPException(408, "nobody waits for this photo any more")
                    return await run_in_threadpool(self._make, name, data, values)

    @contextmanager
    def _room(self) -> Iterator[Callable[[bytes], bytes]]:
        """Room in memory for a photo, which takes as much of it as it has bytes: who sends none takes nobody's."""
        mine = 0

        def hold(piece: bytes) -> bytes:
            nonlocal mine
            if self._held + len(piece) > _LONGEST_LINE * self._settings.megabytes * 10**6:
                raise self._full()
            mine += len(piece)
            self._held += len(piece)
            return piece

        try:
            yield hold
        finally:
            self._held -= mine

    @contextmanager
    def _in_line(self) -> Iterator[None]:
        if self._line >= _LONGEST_LINE:
            raise self._full()
        self._line += 1
        try:
            yield
        finally:
            self._line -= 1

    def _full(self) -> HTTPException:
        waiting = f"{self._line} photos are waiting" if self._line else "too many photos are on their way"
        return HTTPException(503, f"{waiting}; try again in a moment", {"retry-after": "10"})

    async def _read(self, request: Request, hold: Callable[[bytes], bytes]) -> tuple[str, bytes, FormData]:
        """The photo's name and bytes, and the form with all other fields."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "multipart/form-data":
            raise HTTPException(415, "a photo comes in a form, as multipart/form-data")
        megabytes = self._settings.megabytes
        refusal = f"this photo is larger than {megabytes} MB; take a smaller one, or start with a larger --megabytes"
        body = (hold(piece) async for piece in http.limited_body(request, megabytes * 10**6, refusal))
        try:
            async with asyncio.timeout(_LONGEST_UPLOAD_S):
                form = await _parsed(request.headers, body)
        except TimeoutError:
            raise HTTPException(408, f"the photo did not come within {_LONGEST_UPLOAD_S:g} s; try again") from None
        photo = form.get("photo")
        name, data = (photo.filename or "", await photo.read()) if isinstance(photo, UploadFile) else ("", b"")
        await form.close()
        if not data:
            raise HTTPException(400, "there is no photo in the form; choose one")
        return Path(name).name or "photo", data, form

    def _make(self, name: str, data: bytes, values: Mapping[str, float]) -> ColoredPhoto:
        """Colour a photo that is within the limits."""
        kind = kind_of(data)
        if kind and kind not in _FORMATS:
            raise HTTPException(415, f"{name} is of format {kind}; choose one of {', '.join(_FORMATS)}")
        try:
            with decoder_errors(kind):
                width, height = open_picture(data, _CHECKED_HERE).size
            self._check(name, width, height)
            colored = self._paint(data, values)
        except (UserError, UnreadableImageError) as error:
            raise HTTPException(400, f"{name} cannot be read: {error}; choose another photo") from None
        suffix = "jpg" if colored.startswith(_JPEG) else "png"
        return ColoredPhoto(f"{Path(name).stem}-koala.{suffix}", colored)

    def _check(self, name: str, width: int, height: int) -> None:
        """Refuse what would take too long or too much memory, before it is decoded."""
        most = self._settings.megapixels
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


async def _parsed(headers: Headers, body: AsyncGenerator[bytes, None]) -> FormData:
    """A form, all of it in memory.

    Raises:
        HTTPException: 400, it cannot be read.
    """
    _, options = multipart.parse_options_header(headers["content-type"])
    charset = options.get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in _CHARSETS:  # a codec of Python may do anything with a form's names
        raise HTTPException(400, f"the form is written in {charset[:40]!r}; send it in UTF-8, as browsers do")
    parser = MultiPartParser(headers, body, max_files=1, max_fields=_MOST_FIELDS)
    parser.spool_max_size = sys.maxsize  # of what is kept in memory, not in a file
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"the form cannot be read: {error.message}") from None
    except (LookupError, ValueError) as error:
        raise HTTPException(400, f"the form cannot be read: {first_line(error)}") from None


def create_app(settings: GallerySettings, sliders: Sequence[Slider], paint: ColorizePhoto) -> ASGIApp:
    """The web application; see `Gallery`."""
    gallery = Gallery(settings, sliders, paint)
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
            await (app if _is_called(scope, names) else stranger)(scope, receive, http.with_security_headers(send))

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
    with http_server.open_listener(settings.host, settings.port) as listener:
        model = load_model(settings.model, settings.extractor.weights).to(device_for(settings.device))
        app = create_app(settings, sliders_for(model), colorize_with(model))
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # not a line for each form that is none
        _greet(listener)
        http_server.make_server(app, _MOST_CONNECTIONS, proxy_headers=False).run(sockets=[listener])
    return 0


def _greet(listener: socket.socket) -> None:
    """Say where the gallery is, and who can come."""
    print(f"{http_server.listener_url(listener)}/  drop a photo there; Ctrl-C closes the gallery", flush=True)
    if not ip_address(listener.getsockname()[0]).is_loopback:
        print(
            "everybody who can reach this address can colour photos here; --host 127.0.0.1 keeps the gallery to you",
            file=sys.stderr,
        )

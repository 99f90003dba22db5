"""The gallery's page and its server, `koala gallery`.

Nothing is kept: a photo comes together with the sliders' values and its dabs of colour, what is made of it goes back,
and all is forgotten. Photos are worked on one at a time, in the order in which they come, and none touches the disk.
All addresses in the page are relative, so that they hold under any sub-path.
"""

import asyncio
import base64
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote, urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from koala.config.imaging import PictureLimits
from koala.config.inference import GallerySettings
from koala.core import http, http_server
from koala.core.devices import fp32_products
from koala.core.errors import UserError
from koala.imaging.decoders import open_picture
from koala.imaging.errors import UnreadableImageError, decoder_errors, kind_of
from koala.inference.colorize import MOST_SIDES, device_for
from koala.inference.gallery import painting
from koala.inference.gallery.forms import PhotoForm, read_form
from koala.inference.gallery.painting import Made, Maker
from koala.inference.gallery.wishes import SIZES, Options
from koala.models.pretrained import load_model

_PAGE = Path(__file__).parent / "page"
_FORMATS = {  # that are taken, and what browsers call them
    **{"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "AVIF": "image/avif"},
    **{"TIFF": "image/tiff", "BMP": "image/bmp", "GIF": "image/gif"},
}
_MOST_CONNECTIONS = 100
_LONGEST_LINE = 8  # photos that are worked on or wait: all are held in memory


class Gallery:
    """The page, and the line of photos before the one network.

    Args:
        settings: its limits.
        options: those on the page.
        makers: what can be made of a photo, by the address that makes it; called from one thread at a time. "colored"
            is one of them.
    """

    def __init__(self, settings: GallerySettings, options: Options, makers: Mapping[str, Maker]) -> None:
        self._settings, self._options, self._makers = settings, options, makers
        self._static = http.PageAssets(_PAGE)
        self._template = http.template_environment(_PAGE).get_template("gallery.html")
        self._sample = painting.sample()
        self._turn = asyncio.Lock()
        self._line = self._held = 0

    def routes(self) -> list[Route]:
        """Address by address."""
        return [
            Route("/", self.welcome),
            Route("/", self.result, methods=["POST"]),
            *(Route(f"/{address}", self.maker(address), methods=["POST"]) for address in self._makers),
            *([Route("/dabs", self.dabs, methods=["POST"])] if self._options.takes_dabs else []),
            *([Route("/sample", self.sample)] if self._sample else []),
            Route("/line", self.line),
            Route(http_server.HEALTH, self.health),
            *self._static.routes(),
        ]

    async def welcome(self, request: Request) -> Response:
        """The page."""
        return self._page()

    async def result(self, request: Request) -> Response:
        """The page with a coloured photo in it, for browsers without JavaScript."""
        name, made = await self._make(request, self._job(self._makers["colored"]))
        return self._page(picture={"name": name, "url": _data_url(made)})

    def maker(self, address: str) -> Callable[[Request], Awaitable[Response]]:
        """What answers at an address: a file that is made of the photo in a form, to keep."""

        async def make(request: Request) -> Response:
            return _download(*await self._make(request, self._job(self._makers[address])))

        return make

    async def dabs(self, request: Request) -> Response:
        """The dabs of a file of hints, to go on with."""
        return _download(*await self._make(request, self._found))

    async def sample(self, request: Request) -> Response:
        """A photo to begin with."""
        assert self._sample is not None
        return _download(self._sample.ending, self._sample)

    async def line(self, request: Request) -> Response:
        """How many photos are being worked on or wait for it."""
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

    def _page(self, status: int = 200, message: str = "", picture: Mapping[str, str] | None = None) -> Response:
        text = self._template.render(
            accept=",".join(dict.fromkeys(_FORMATS.values())),
            options=self._options,
            sizes=SIZES,
            makers=self._makers,
            sample=self._sample,
            credit=painting.SAMPLE_CREDIT,
            megabytes=self._settings.megabytes,
            message=message,
            picture=picture,
            release=self._static.release,
        )
        return HTMLResponse(
            text, status, {"content-security-policy": http.content_security_policy("'self' blob: data:")}
        )

    async def _make(self, request: Request, job: Callable[[PhotoForm], Made]) -> tuple[str, Made]:
        """Make something of the file of a form, when its turn comes.

        Returns:
            The name of the file, and the file.

        Raises:
            HTTPException: 403 from elsewhere, 503 too many wait, 400, 408, 413 or 415 the form or its photo is no use.
        """
        if not http.is_same_origin(request):
            raise HTTPException(403, "this form does not come from the gallery's own page; open the gallery again")
        if self._line >= _LONGEST_LINE:
            raise self._full()
        with self._room() as hold:
            form = await read_form(request, self._settings.megabytes, self._options, hold)
            with self._in_line():
                async with self._turn:
                    if await request.is_disconnected():  # who moves a slider on does not wait for what was before
                        raise HTTPException(408, "nobody waits for this photo any more")
                    made = await run_in_threadpool(job, form)
        return f"{Path(form.name).stem}{made.ending}", made

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

    def _job(self, maker: Maker) -> Callable[[PhotoForm], Made]:
        """What a maker makes of a form."""
        return lambda form: self._made(form, maker)

    def _found(self, form: PhotoForm) -> Made:
        """The dabs of a file of hints that is within the limits."""
        limits = PictureLimits(max_pixels=self._settings.megapixels * 10**6)
        try:
            return painting.read_hints(form.data, form.name, limits)
        except UserError as error:
            raise HTTPException(400, str(error)) from None

    def _made(self, form: PhotoForm, maker: Maker) -> Made:
        """Make something of a photo that is within the limits."""
        kind = kind_of(form.data)
        if kind and kind not in _FORMATS:
            raise HTTPException(415, f"{form.name} is of format {kind}; choose one of {', '.join(_FORMATS)}")
        try:
            with decoder_errors(kind):
                width, height = open_picture(form.data, painting.CHECKED).size
            self._check(form.name, width, height)
            return maker(form.data, form.wishes)
        except (UserError, UnreadableImageError) as error:
            raise HTTPException(400, f"{form.name} cannot be read: {error}; choose another photo") from None

    def _check(self, name: str, width: int, height: int) -> None:
        """Refuse what would take too long or too much memory, before it is decoded."""
        most = self._settings.megapixels
        if width * height > most * 10**6:
            raise HTTPException(
                413,
                f"{name} has {width} x {height} pixels, more than {most} million; "
                "take a smaller one, or start with a larger --megapixels",
            )
        if max(width, height) > MOST_SIDES * min(width, height):
            raise HTTPException(
                413, f"{name} has {width} x {height} pixels, a side more than {MOST_SIDES} times the other; cut it"
            )


def _download(name: str, made: Made) -> Response:
    """A file to keep under a name."""
    disposition = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    return Response(made.data, 200, {"content-disposition": disposition}, made.media_type)


def _data_url(made: Made) -> str:
    """All of a file as an address, for a page that is one file."""
    return f"data:{made.media_type};base64,{base64.b64encode(made.data).decode()}"


def create_app(settings: GallerySettings, options: Options, makers: Mapping[str, Maker]) -> ASGIApp:
    """The web application; see `Gallery`."""
    gallery = Gallery(settings, options, makers)
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
    with http_server.open_listener(settings.host, settings.port) as listener, fp32_products():
        model = load_model(settings.model, settings.extractor.weights).to(device_for(settings.device))
        app = create_app(settings, painting.options_for(model), painting.makers_for(model))
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

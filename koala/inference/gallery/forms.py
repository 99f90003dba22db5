"""Forms with a photo, as browsers send them: read in memory, and no further than their limits."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path

from python_multipart import multipart
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from koala.core import http
from koala.core.errors import first_line
from koala.inference.gallery.wishes import Options, Wishes

_LONGEST_UPLOAD_S = 120.0
_MOST_FIELDS = 16
_CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1")  # of a form


@dataclass(frozen=True)
class PhotoForm:
    """What a form asks for.

    Attributes:
        name: of the photo's file.
        data: the file's bytes.
        wishes: how it is to be coloured.
    """

    name: str
    data: bytes
    wishes: Wishes


async def read_form(request: Request, megabytes: int, options: Options, hold: Callable[[bytes], bytes]) -> PhotoForm:
    """Read a form with a photo.

    Args:
        request: with it.
        megabytes: that it may have.
        options: what it may ask for.
        hold: called with each piece as it comes, to make room for it.

    Raises:
        HTTPException: 400, 408, 413 or 415, it is no use.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "multipart/form-data":
        raise HTTPException(415, "a photo comes in a form, as multipart/form-data")
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
    try:
        wishes = options.read({name: value if isinstance(value, str) else "" for name, value in form.items()})
    except ValueError as error:
        raise HTTPException(400, str(error)) from None
    return PhotoForm(Path(name).name or "photo", data, wishes)


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

"""Text, TOML, JSON and CSV that people and other programs wrote: read, or refused in a sentence that names the file."""

import codecs
import csv
import io
import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from koala.core.errors import UserError, first_line

Shape = TypeVar("Shape")

_MARKS = (  # UTF-32's begins as UTF-16's does
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    """A file's text, without the byte order mark that editors and spreadsheets put before it.

    Raises:
        OSError: the file cannot be read.
        UserError: it is no text.
    """
    return decode_text(path.read_bytes(), path)


def decode_text(data: bytes, origin: object) -> str:
    """Text in UTF-8, or in what a byte order mark says; `origin` is named in errors.

    Raises:
        UserError: it is something else.
    """
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{origin} is no text in {encoding.upper()} (line {line}); save it as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{origin} is no text: it holds a NUL in line {line}; save it as text in UTF-8")
    return text


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        OSError: the file cannot be read.
        UserError: it is no TOML.
    """
    text = read_text(path)
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {first_line(error)}") from None


def parse_json(shape: type[Shape], data: bytes | str, origin: object, remedy: str) -> Shape:
    """JSON as a dataclass, or any other type that pydantic checks.

    Args:
        shape: what it is to be.
        data: the JSON.
        origin: the file, named in errors.
        remedy: what to do where it is damaged.

    Raises:
        UserError: it is no JSON, or holds something else.
    """
    try:
        return TypeAdapter(shape).validate_python(json.loads(data))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        what = fault["msg"].removeprefix("Value error, ")
        reason = f"{place}: {what}" if place else what
    except (ValueError, RecursionError) as error:
        reason = first_line(error)
    raise UserError(f"{origin} is damaged ({reason}); {remedy}")


def parse_csv(text: str, origin: object, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV table with a header.

    Args:
        text: the table.
        origin: the file, named in errors.
        columns: those that every row must have.

    Raises:
        UserError: it is no such table.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        header = reader.fieldnames or []
        absent = [column for column in columns if column not in header]
        if absent:
            raise UserError(
                f"{origin} has no column {absent[0]}, but {', '.join(header) or 'none'}; take the whole file"
            )
        for row in reader:
            if any(row[column] is None for column in columns):
                raise UserError(f"{origin}: line {reader.line_num} is short; take the whole file")
            yield row
    except csv.Error as error:
        raise UserError(f"{origin} is no CSV after line {reader.line_num} ({error}); take the whole file") from None

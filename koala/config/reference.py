"""Every setting as users meet it: its flag, its key in a file, its default, its words.

Help pages are made of it, and the documentation's reference. Pure.
"""

import typing
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tyro.conf import OmitArgPrefixes, Positional, Suppress, UseAppendAction

from koala.config.fields import Advanced
from koala.config.load import former_names, section_of

Kind = Literal["switch", "whole number", "number", "path", "text"]

_KINDS: dict[Any, Kind] = {bool: "switch", int: "whole number", float: "number", Path: "path"}
_METAVARS: dict[Kind, str] = {"whole number": "N", "number": "X", "path": "PATH", "text": "TEXT"}


@dataclass(frozen=True)
class Option:
    """A setting.

    Attributes:
        key: its dotted name in a TOML file: "data.batch_size".
        flag: on the command line: "--data.batch-size"; empty for what is given without a flag or in a file only.
        metavar: what stands for its value, "N"; empty for a switch that is on when it is named.
        kind: of its value.
        default: its value where nothing is said, as text; empty where that is nothing, or off.
        choices: the values it takes, where these are few.
        description: what it does: sentences in one line.
        required: whether it must be given.
        advanced: whether most people never need it.
        positional: whether its value is given without a flag.
        several: whether it takes several values.
        repeated: whether it is given once for each of them.
        former: flags that it had before, which are taken with a warning.
    """

    key: str
    flag: str
    metavar: str
    kind: Kind
    default: str
    choices: tuple[str, ...]
    description: str
    required: bool
    advanced: bool
    positional: bool
    several: bool
    repeated: bool
    former: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """Settings that belong together.

    Attributes:
        key: dotted name of the table in a TOML file; empty for the settings that are in none.
        description: what they are about: paragraphs.
        options: the settings.
    """

    key: str
    description: str
    options: tuple[Option, ...]


def sections(cls: type) -> list[Section]:
    """The settings of a class, table by table: those of its own first.

    Args:
        cls: a class of `koala.config`.
    """
    return list(_sections(cls, "", "", advanced=False))


def options(cls: type) -> list[Option]:
    """The settings of a class, in all its tables."""
    return [option for section in sections(cls) for option in section.options]


def description(cls: type) -> str:
    """What a class is for: the paragraphs of its docstring, a line each."""
    import inspect

    paragraphs = inspect.getdoc(cls) or ""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs.split("\n\n"))


def _sections(cls: Any, key: str, prefix: str, advanced: bool) -> Iterator[Section]:
    """The tables of a class, of which keys begin with `key` and flags with `prefix`; both end with a dot."""
    hints, inner = get_type_hints(cls, include_extras=True), []
    mine = []
    for field in fields(cls):
        marks = get_args(hints[field.name])[1:] if get_origin(hints[field.name]) is Annotated else ()
        if (section := section_of(cls, field.name)) is not None:
            flags = prefix if _marked(marks, OmitArgPrefixes) else f"{prefix}{field.name}."
            inner.append((section, f"{key}{field.name}.", flags, advanced or _marked(marks, Advanced)))
        else:
            option = _option(cls, field, hints[field.name], key, prefix)
            mine.append(replace(option, advanced=True) if advanced else option)
    if mine:
        yield Section(key.removesuffix("."), description(cls), tuple(mine))
    for section in inner:
        yield from _sections(*section)


def _option(cls: type, field: "Field[Any]", hint: Any, key: str, prefix: str) -> Option:
    type_, marks = _plain(hint)
    several = get_origin(type_) is tuple
    element = _plain(get_args(type_)[0])[0] if several else type_
    kind = _KINDS.get(element, "text")
    named = next((mark for mark in marks if getattr(mark, "name", None) is not None), None)
    name = field.name if named is None else named.name
    positional, suppressed = _marked(marks, Positional), _marked(marks, Suppress)
    choices = tuple(map(str, get_args(element))) if get_origin(element) is Literal else ()
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return Option(
        key=f"{key}{field.name}",
        flag="" if positional or suppressed else _flag(prefix, name),
        metavar="" if kind == "switch" and not default else _metavar(kind, choices, marks),
        kind=kind,
        default=_as_text(default),
        choices=choices,
        description=_descriptions(cls).get(field.name, ""),
        required=default is MISSING,
        advanced=_marked(marks, Advanced),
        positional=positional,
        several=several,
        repeated=_marked(marks, UseAppendAction),
        former=tuple(_flag(prefix, old) for old, new in former_names(cls).items() if new == field.name),
    )


def _flag(prefix: str, name: str) -> str:
    return f"--{prefix}{name}".removesuffix(".").replace("_", "-")


def _plain(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without its marks and without None, and the marks."""
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        kind, more = _plain(inner)
        return kind, (*marks, *more)
    if get_origin(hint) in (UnionType, Union):
        return _plain(next(member for member in get_args(hint) if member is not NoneType))
    return hint, ()


def _marked(marks: typing.Sequence[Any], mark: Any) -> bool:
    return any(one is mark for one in marks)


def _metavar(kind: Kind, choices: tuple[str, ...], marks: tuple[Any, ...]) -> str:
    if kind == "switch":
        return "true|false"
    told = next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), "")
    return told or "|".join(choices) or _METAVARS[kind]


def _as_text(value: Any) -> str:
    """A default as one would type it."""
    if value is MISSING or value is None or value is False:
        return ""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value).lower() if value is True else f"{value:g}" if isinstance(value, float) else str(value)


@cache
def _descriptions(cls: type) -> dict[str, str]:
    """What stands below each setting in the classes' source."""
    import docstring_parser

    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        for told in docstring_parser.parse_from_object(base).params:
            found[told.arg_name] = " ".join((told.description or "").split())
    return found

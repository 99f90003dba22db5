"""Settings from TOML files and plain values, and back; what does not fit is said in a sentence."""

from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from koala.core.errors import UserError
from koala.core.readers import read_toml

Settings = TypeVar("Settings")


def load_toml(cls: type[Settings], path: Path) -> Settings:
    """Read settings from a TOML file.

    Raises:
        UserError: the file is absent, is not TOML, or names a setting that does not exist or a value that
            does not fit.
    """
    try:
        return validate(cls, read_toml(path), str(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name a TOML file of settings") from None


def validate(cls: type[Settings], values: dict[str, Any], origin: str) -> Settings:
    """Turn plain values into settings; `origin` is named in errors."""
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        faults = "; ".join(_fault(cls, fault) for fault in error.errors())
        raise UserError(f"{origin}: {faults}") from None


def _fault(cls: type, fault: Any) -> str:
    """One fault in words, with the nearest name for one that does not exist."""
    *sections, name = fault["loc"]
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "unexpected_keyword_argument":
        return f"{place} = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
    known = _names(cls, [str(section) for section in sections])
    near = get_close_matches(str(name), known, n=1)
    return f"there is no setting {place}; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")


def _names(cls: Any, sections: list[str]) -> list[str]:
    for section in sections:
        cls = next(f.type for f in fields(cls) if f.name == section)
        cls = get_args(cls)[0] if get_origin(cls) is Annotated else cls
    return [f.name for f in fields(cls)]


def to_dict(settings: Any) -> dict[str, Any]:
    """Settings as plain values that TOML can hold; what is not set is left out."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if item is not None}
        return str(value) if isinstance(value, Path) else value

    if not is_dataclass(settings) or isinstance(settings, type):
        raise TypeError(f"settings are a dataclass, got {settings!r}")
    return plain(asdict(settings))


def save_toml(settings: Any, path: Path) -> None:
    """Write settings as TOML, so that `load` gives them back."""
    import tomli_w

    path.write_text(tomli_w.dumps(to_dict(settings)), "utf-8")

"""Settings from TOML files and plain values, and back; what does not fit is said in a sentence."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from koala.core.errors import UserError, warn
from koala.core.readers import read_toml

Settings = TypeVar("Settings")

RENAMED: dict[str, dict[str, str]] = {
    "DataSettings": {"where": "filter"},
    "TrainSettings": {
        "batch": "batch_size",
        "accumulation": "gradient_accumulation_steps",
        "scaling": "learning_rate_scaling",
        "warmup": "warmup_images",
        "decay": "decay_rate",
        "clip_norm": "clip_grad_norm",
        "keep": "keep_checkpoints",
        "pictures": "log_pictures",
    },
    "EvaluateSettings": {"where": "filter", "batch": "batch_size"},
    "CompareSettings": {"batch": "batch_size"},
    "EmbedShards": {"batch": "batch_size"},
}
"""Old names of settings and their new ones, by class. In files and as flags they are taken with a warning."""


def load_toml(cls: type[Settings], path: Path) -> Settings:
    """Read settings from a TOML file.

    Raises:
        UserError: the file is absent, is not TOML, or names a setting that does not exist or a value that
            does not fit.
    """
    return validate(cls, read_settings(path), str(path))


def load_tables(cls: type[Settings], path: Path) -> dict[str, Settings]:
    """Read a TOML file of tables that are all settings of one kind, by their names.

    Raises:
        UserError: as `load_toml`, or it holds something else than tables.
    """
    tables = read_settings(path)
    if odd := next((name for name, table in tables.items() if not isinstance(table, dict)), None):
        raise UserError(f"{path}: {odd} stands outside of a table; write a line [NAME] above it")
    return {name: validate(cls, table, f"{path} [{name}]") for name, table in tables.items()}


def read_settings(path: Path) -> dict[str, Any]:
    """Read a TOML file of settings, as plain values.

    Raises:
        UserError: it is absent, a folder, or not TOML.
    """
    try:
        return read_toml(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name a TOML file of settings") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; name a TOML file of settings") from None


def validate(cls: type[Settings], values: Mapping[str, Any], origin: str, quiet: bool = False) -> Settings:
    """Turn plain values into settings.

    Args:
        cls: of the settings.
        values: by their names, or names that they had before.
        origin: of the values, for errors and warnings.
        quiet: do not warn of old names: nobody is to mend what koala itself wrote.

    Raises:
        UserError: there is no such setting, or a value does not fit.
    """
    try:
        return TypeAdapter(cls).validate_python(with_new_names(cls, values, origin, quiet))
    except ValidationError as error:
        raise UserError(f"{origin}: {'; '.join(_faults(cls, error))}") from None


def _faults(cls: type, error: ValidationError) -> Iterator[str]:
    """What does not fit, in words, with the nearest name for a setting that does not exist."""
    unknown: dict[tuple[str, ...], list[str]] = {}
    for fault in error.errors():
        *table, name = (str(part) for part in fault["loc"])
        place = ".".join([*table, name])
        if fault["type"] == "missing":
            yield f"{place} is missing"
        elif fault["type"] != "unexpected_keyword_argument":
            message = fault["msg"].removeprefix("Value error, ")  # of koala's own checks
            yield f"{place} = {fault['input']!r}: {message[0].lower()}{message[1:]}"
        elif near := get_close_matches(name, _names(cls, table), n=1):
            yield f"there is no setting {place}; did you mean {near[0]}?"
        else:
            unknown.setdefault(tuple(table), []).append(place)
    for tables, places in unknown.items():
        yield f"there is no setting {', '.join(places)}; known: {', '.join(_names(cls, tables))}"


def _names(cls: Any, sections: Iterable[str]) -> list[str]:
    for section in sections:
        cls = section_of(cls, section)
    return [f.name for f in fields(cls)]


def section_of(cls: Any, name: str) -> Any:
    """The class of a setting that is a table of settings; None for others."""
    kind = next((field.type for field in fields(cls) if field.name == name), None)
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return kind if is_dataclass(kind) else None


# ---------------------------------------------------------------- old names


def former_names(cls: type) -> dict[str, str]:
    """Old names of a class's settings, and their new ones."""
    return {old: new for base in cls.__mro__ for old, new in RENAMED.get(base.__name__, {}).items()}


def with_new_names(
    cls: type, values: Mapping[str, Any], origin: str, quiet: bool = False, table: str = ""
) -> dict[str, Any]:
    """Values under the names that their settings have now; see `validate`.

    Raises:
        UserError: one is there under both names.
    """
    former, found = former_names(cls), dict[str, Any]()
    for key, value in values.items():
        name = former.get(key, key)
        if name != key and name in values:
            raise UserError(f"{origin}: {table}{key} is the old name of {table}{name}; leave one of them out")
        if name != key and not quiet:
            warn_of_old_name(f"{origin}: {table}{key}", f"{table}{name}")
        section = section_of(cls, name) if isinstance(value, Mapping) else None
        found[name] = value if section is None else with_new_names(section, value, origin, quiet, f"{table}{name}.")
    return found


def warn_of_old_name(old: str, new: str) -> None:
    """Tell that something has another name now."""
    warn(f"{old} is now {new}; the old name is taken in this release only")


# ---------------------------------------------------------------- and back


def to_dict(settings: Any) -> dict[str, Any]:
    """Settings as plain values that TOML can hold; what is not set is left out."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if item is not None}
        return str(value) if isinstance(value, Path) else value

    if not is_dataclass(settings) or isinstance(settings, type):
        raise TypeError(f"settings are a dataclass, got {settings!r}")
    return plain(asdict(settings))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted names with their values."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def save_toml(settings: Any, path: Path) -> None:
    """Write settings as TOML, so that `load` gives them back."""
    import tomli_w

    path.write_text(tomli_w.dumps(to_dict(settings)), "utf-8")

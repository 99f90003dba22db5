"""Settings from the words of a command line: defaults, then a TOML file, then flags. tyro reads the values."""

import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from koala.config import load, reference
from koala.config.reference import Option
from koala.core.errors import UserError

_ELSEWHERE = {  # what other programs call it
    **{"lr": "learning-rate", "bs": "batch-size", "amp": "mixed-precision", "output": "out", "checkpoint": "model"},
    **{"output-dir": "run", "resume-from-checkpoint": "resume", "num-processes": "processes", "num-workers": "workers"},
}


@dataclass(frozen=True)
class Given:
    """What a command line says.

    Attributes:
        flags: each flag and its values, in order.
        loose: words that belong to no flag.
    """

    flags: tuple[tuple[Option, tuple[str, ...]], ...]
    loose: tuple[str, ...]


def parse(cls: Any, words: Sequence[str], program: str, file: str = "") -> Any:
    """Read a command's settings.

    Args:
        cls: their class, in `koala.config`.
        words: what stands after the command.
        program: the command, "koala train", for messages.
        file: the setting that a TOML file among the words fills, "." for all of them, or "" where none may be given.

    Raises:
        UserError: a word does not fit, or one is missing.
    """
    options = reference.options(cls)
    given = split(options, words, program)
    loose = list(given.loose)
    path = loose.pop(0) if file and loose else ""
    _check_complete(options, given, loose, program)
    default = _from_file(cls, file, Path(path)) if path else None
    settings = _read(cls, Given(given.flags, tuple(loose)), program, default)
    return load.validate(cls, load.to_dict(settings), f"{program} {path}".rstrip())


def _check_complete(options: Sequence[Option], given: Given, loose: Sequence[str], program: str) -> None:
    """See that there is all that a command needs, and no word too many."""
    positional = [option for option in options if option.positional]
    room = len(loose) if any(option.several for option in positional) else len(positional)
    if loose[room:]:
        raise UserError(f"{loose[room]} is a word too many; {_help(program)}")
    named = [*positional[: len(loose)], *(option for option, _ in given.flags)]
    if missing := [_invocation(option) for option in options if option.required and option not in named]:
        raise UserError(f"{' and '.join(missing)} must be given; {_help(program)}")


def split(options: Sequence[Option], words: Sequence[str], program: str) -> Given:
    """Tell flags, their values and other words apart.

    Raises:
        UserError: there is no such flag, or one has no value.
    """
    flags, loose, rest = [], [], list(words)
    while rest:
        word = rest.pop(0)
        if not _is_flag(word):
            loose.append(word)
            continue
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        option, off = _find(options, name, program)
        values = [value] if equals else ["false"] if off else list(_values(option, rest))
        if not values:
            raise UserError(f"{name} needs a value: {_wanted(option)}; {_help(program)}")
        flags.append((option, tuple(values)))
    return Given(tuple(flags), tuple(loose))


def _is_flag(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not word[1].isdigit() and word[1] != "."


def _values(option: Option, rest: list[str]) -> Iterator[str]:
    """Take a flag's values off the words that come after it."""
    if option.kind == "switch":
        yield rest.pop(0) if rest and rest[0].lower() in ("true", "false") else "true"
        return
    while rest and not _is_flag(rest[0]):
        yield rest.pop(0)
        if not option.several or option.repeated:
            return


def _find(options: Sequence[Option], name: str, program: str) -> tuple[Option, bool]:
    """The option that a flag names, and whether it says no to it.

    Raises:
        UserError: none; the nearest is named.
    """
    flags = {option.flag: option for option in options if option.flag}
    by_key = {"--" + option.key.replace("_", "-"): option for option in flags.values()}
    if option := flags.get(name) or by_key.get(name):
        return option, False
    if option := next((option for option in flags.values() if name in option.former), None):
        load.warn_of_old_name(name, option.flag)
        return option, False
    switch = flags.get(name.replace("--no-", "--", 1))
    if name.startswith("--no-") and switch and switch.kind == "switch":
        load.warn_of_old_name(name, f"{switch.flag} false")
        return switch, True
    near = _nearest(name.lstrip("-"), [flag.removeprefix("--") for flag in flags])
    raise UserError(f"{name} is no option of {program}; " + (f"did you mean --{near}?" if near else _help(program)))


def _nearest(name: str, flags: Sequence[str]) -> str:
    wanted = _ELSEWHERE.get(name, name)
    inner = next((flag for flag in flags if wanted in (flag, flag.rpartition(".")[2])), "")
    return inner or next(iter(get_close_matches(wanted, flags, n=1)), "")


def _invocation(option: Option) -> str:
    """How an option is given."""
    return " ".join(filter(None, (option.flag, option.metavar)))


def _help(program: str) -> str:
    return f"{program} --help shows what it takes"


def _from_file(cls: Any, file: str, path: Path) -> Any:
    """Settings of which a TOML file says all, or one part: at its top, or in a table of the part's name."""
    table = load.read_settings(path)
    if file == ".":  # a run is called as its file, if that says nothing else
        return load.validate(cls, {"name": path.stem, **table}, str(path))
    if file in table and len(table) > 1:
        outside = next(key for key in table if key != file)
        raise UserError(f"{path}: {outside} stands beside [{file}]; move it into [{file}], or give it as a flag")
    part = load.validate(load.section_of(cls, file), table.get(file, table), str(path))
    return _with_missing(cls, file, part)


def _with_missing(cls: Any, field: str, value: Any) -> Any:
    """Settings of which one field has a value; others have their defaults, or are asked for as flags."""
    import tyro

    required = {f.name: tyro.MISSING for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    return cls(**required, **{field: value})


def _read(cls: Any, given: Given, program: str, default: Any) -> Any:
    """Let tyro read the values; what it says in a box is said in a sentence."""
    import tyro

    words, said = list(given.loose), io.StringIO()
    for option, values in given.flags:  # tyro reads True and False as Python writes them
        words += [option.flag, *(one.capitalize() if option.kind == "switch" else one for one in values)]
    try:
        with redirect_stderr(said):
            return tyro.cli(
                cls,
                prog=program,
                args=words,
                default=tyro.MISSING_NONPROP if default is None else default,
                add_help=False,
                config=(tyro.conf.FlagConversionOff,),
            )
    except SystemExit:
        wrong = [(option, values) for option, values in given.flags if option.flag in said.getvalue()]
    if not wrong:
        raise UserError(f"{program} cannot read {' '.join(words)}; {_help(program)}")
    option, values = max(wrong, key=lambda one: len(one[0].flag))
    raise UserError(f"{option.flag} {' '.join(values)} is not {_wanted(option)}; {_help(program)}")


def _wanted(option: Option) -> str:
    """What an option's value must be."""
    if option.kind == "switch":
        return "true or false"
    return f"one of {', '.join(option.choices)}" if option.choices else f"a {option.kind}"

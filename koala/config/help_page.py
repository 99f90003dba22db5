"""Help pages as text, made of the settings. Pure."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the list of commands needs no settings, and is to come at once
    from koala.config.reference import Option, Section

WIDTH = 100  # characters of a line, at most
_COLUMN = 28  # where descriptions begin
_JOINED = "\N{NO-BREAK SPACE}"  # where no line is to end


def command_page(cls: type, program: str, file: str, everything: bool, width: int = WIDTH) -> str:
    """The page of a command.

    Args:
        cls: class of its settings, in `koala.config`.
        program: the command: "koala train".
        file: the setting that a TOML file fills, "." for all of them, or "" where it takes none.
        everything: show advanced settings too.
        width: characters of a line.
    """
    from koala.config import reference

    found = reference.sections(cls)
    hidden = 0 if everything else sum(option.advanced for section in found for option in section.options)
    line = usage(found, program, file)
    lines = [*textwrap.wrap(line, width, subsequent_indent=" " * 11, break_on_hyphens=False), ""]
    for paragraph in reference.description(cls).split("\n\n"):
        lines += [*textwrap.wrap(paragraph, width), ""]
    for section in found:
        lines += _table(section, everything, width, file)
    if file:
        lines += [*textwrap.wrap(_about_file(file), width), ""]
    if hidden:
        lines += textwrap.wrap(f"{program} --help-all shows {hidden} more settings, which few people need.", width)
    return "\n".join(lines).rstrip()


def usage(found: "list[Section]", program: str, file: str) -> str:
    """How a command is written, in a line."""
    options = [option for section in found for option in section.options]
    words = [f"[{_name_of(file)}]"] if file else []
    words += [_positional(option) for option in options if option.positional]
    words += [f"{option.flag} {option.metavar}" for option in options if option.required and option.flag]
    return " ".join([f"usage: {program}", *words, "[options]"])


def overview(groups: Mapping[str, Mapping[str, str]], width: int = WIDTH) -> str:
    """A list of commands.

    Args:
        groups: for each group's name the commands in it, with a few words for each.
        width: characters of a line.
    """
    longest = max(len(name) for commands in groups.values() for name in commands)
    lines = []
    for group, commands in groups.items():
        lines += [group, *_rows(commands, longest + 4, width), ""]
    return "\n".join(lines).rstrip()


def _table(section: "Section", everything: bool, width: int, file: str) -> list[str]:
    rows = {_invocation(o): _words(o) for o in section.options if (everything or not o.advanced) and _is_told(o)}
    if not rows:
        return []
    about = section.description.partition("\n\n")[0]
    title = f"[{section.key}] {about}" if file else f"{about.rstrip('.')}:"
    return [*(textwrap.wrap(title, width) if section.key else ["options:"]), *_rows(rows, _COLUMN, width), ""]


def _is_told(option: "Option") -> bool:
    return bool(option.flag or option.positional)


def _rows(rows: Mapping[str, str], column: int, width: int) -> Iterator[str]:
    """Two columns; what is too long for the first has a line of its own."""
    for name, text in rows.items():
        lines = [line.replace(_JOINED, " ") for line in textwrap.wrap(text, width - column, break_on_hyphens=False)]
        head = f"  {name}"
        if len(head) > column - 2:
            yield head
        else:
            yield f"{head:{column}}{''.join(lines[:1])}".rstrip()
            lines = lines[1:]
        yield from (f"{'':{column}}{line}" for line in lines)


def _invocation(option: "Option") -> str:
    return _positional(option) if option.positional else f"{option.flag} {_value(option)}".rstrip()


def _positional(option: "Option") -> str:
    return _value(option) if option.required else f"[{_value(option)}]"


def _value(option: "Option") -> str:
    return f"{option.metavar}{'...' if option.several else ''}"


def _words(option: "Option") -> str:
    default = " (required)" if option.required else f" (default{_JOINED}{option.default})" if option.default else ""
    return f"{option.description}{default}"


def _name_of(file: str) -> str:
    """What a TOML file is called in help."""
    return "RUN.toml" if file == "." else f"{file.upper()}.toml"


def _about_file(file: str) -> str:
    names = "with _ for - and a table for what stands before a dot"
    if file == ".":
        return f"RUN.toml holds any of these settings by the same names, {names}. Flags win over it."
    return (
        f"{_name_of(file)} holds those that begin with --{file}, {names}; it may leave out [{file}]. Flags win over it."
    )

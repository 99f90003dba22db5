"""Pages of the reference that are made of the code: commands and their settings, protocols, API."""

import re
from collections.abc import Iterator
from pathlib import Path

import koala
from koala.cli import COMMANDS, GROUPS, settings_class
from koala.config import help_page, reference
from koala.config.evaluation import EvaluationProtocol
from koala.config.load import load_toml
from koala.config.reference import Option, Section

ROOT = Path(koala.__file__).parent
API = {  # packages from the one that users meet first; the settings of koala.config stand on the commands' pages
    "inference": "a trained network at work",
    "models": "networks and their weights",
    "imaging": "pictures without networks",
    "data": "images, shards, batches",
    "evaluation": "how good the colours are",
    "training": "the loop and all around it",
    "study": "the realness study",
    "core": "what everything stands on",
}


def write(folder: Path) -> None:
    """Write all pages into a folder; one that is as it was is left alone, so that it is not built again."""
    pages = {f"commands/{_file_name(name)}": command_page(name) for name in COMMANDS}
    pages |= {"commands/index.md": commands_index(), "protocols.md": protocols_page()}
    pages |= {f"api/{package}.md": package_page(package, about) for package, about in API.items()}
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


# ---------------------------------------------------------------- commands


def commands_index() -> str:
    """All commands in their groups."""
    lines = ["# Commands", "", "`koala COMMAND --help` prints the same pages; `--help-all` adds the rare settings.", ""]
    for group, commands in GROUPS.items():
        lines += [f"## {group}", "", "| command | what it does |", "|---|---|"]
        lines += [f"| [koala {name}]({_file_name(name)}) | {command.summary} |" for name, command in commands.items()]
        lines += [""]
    toctree = [_file_name(name).removesuffix(".md") for name in COMMANDS]
    exit_codes = [
        *("## Exit codes", "", "| code | meaning |", "|---|---|", "| 0 | done |"),
        "| 1 | the work found faults: a damaged shard, a photo that cannot be read, a failed check |",
        *("| 2 | the command cannot run as given; one sentence says why |", "| 128 + n | stopped by signal n |", ""),
    ]
    return "\n".join([*lines, *exit_codes, "```{toctree}", ":hidden:", "", *toctree, "```", ""])


def command_page(name: str) -> str:
    """A command and its settings."""
    cls, file = settings_class(name), COMMANDS[name].file
    sections = reference.sections(cls)
    lines = [f"# koala {name}", "", _escape(reference.description(cls)), "", "```text"]
    lines += [help_page.usage(sections, f"koala {name}", file), "```", ""]
    if file:
        lines += [_about_file(file), ""]
    for section in sections:
        lines += _section(section, file)
    return "\n".join(lines)


def _section(section: Section, file: str) -> Iterator[str]:
    if section.key:
        yield from (f"## {f'`[{section.key}]`' if file else _escape(section.description.partition('.')[0])}", "")
        yield from (_escape(section.description), "") if file else ()
    else:
        yield from ("## Settings", "")
    for option in section.options:
        yield from (f"`{_invocation(option)}`", f": {_escape(option.description)}{_details(option, bool(file))}", "")


def _invocation(option: Option) -> str:
    if option.positional:
        return f"{option.metavar}{'...' if option.several else ''}"
    return f"{option.flag} {option.metavar}".strip() or option.key


def _details(option: Option, takes_file: bool) -> str:
    """Default and names of a setting, in words."""
    words = []
    if option.required:
        words.append("Required.")
    elif option.default:
        words.append(f"Default: `{option.default}`.")
    if takes_file and option.key != option.flag.removeprefix("--"):
        words.append(f"In a file{'' if option.flag or option.positional else ' only'}: `{option.key}`.")
    if option.former:
        words.append(f"Formerly {', '.join(f'`{flag}`' for flag in option.former)}.")
    if option.advanced:
        words.append("*Shown by `--help-all`.*")
    return "".join(f" {word}" for word in words)


def _about_file(file: str) -> str:
    """How a TOML file holds the settings."""
    if file == ".":
        return "A file `RUN.toml` may hold any of these settings. Flags win over it."
    return (
        f"A file `{file.upper()}.toml` may hold the settings that begin with `--{file}`. "
        f"It may leave out the table `[{file}]`. Flags win over it."
    )


def _file_name(command: str) -> str:
    return f"{command.replace(' ', '-')}.md"


# ---------------------------------------------------------------- protocols


def protocols_page() -> str:
    """The named protocols, and the settings that a protocol has."""
    lines = [_PROTOCOLS]
    for path in sorted((ROOT / "evaluation" / "protocols").glob("*.toml")):
        protocol = load_toml(EvaluationProtocol, path)
        lines += [f"## {protocol.name}", "", _escape(" ".join(protocol.about.split())), ""]
        if protocol.departures:
            lines += [f"*Differences to the source:* {_escape(' '.join(protocol.departures.split()))}", ""]
        lines += ["```toml", *_settings_of(path), "```", ""]
    lines += ["## Settings of a protocol", ""]
    for section in reference.sections(EvaluationProtocol):
        if section.key:
            lines += [f"### `[{section.key}]`", "", _escape(section.description), ""]
        for option in section.options:
            choices = f" One of: {', '.join(option.choices)}." if option.choices else ""
            text = _escape(option.description + choices)
            lines += [f"`{option.key.rpartition('.')[2]}`", f": {text}{_default(option)}", ""]
    return "\n".join(lines)


_PROTOCOLS = """# Protocols

A protocol fixes everything that scores depend on, except the network and the shards. Its hash is stored in
`scores.json`. Evaluations with different hashes are not compared.

    koala evaluate runs/full --shards DIR --protocol val5k

`--protocol` takes a name from this page or a TOML file of your own.
"""


def _settings_of(path: Path) -> list[str]:
    """The lines of a protocol's file below its prose."""
    lines = re.sub(r'^\w+ = """.*?"""\n', "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE).splitlines()
    return [line for line in lines if not line.startswith("name = ")]


def _default(option: Option) -> str:
    return f" Default: `{option.default}`." if option.default else ""


# ---------------------------------------------------------------- API


def package_page(package: str, about: str) -> str:
    """The modules of a package, from their docstrings."""
    lines = [f"# koala.{package}: {about}", ""]
    for module in _modules(package):
        lines += [f"## {module}", "", "```{eval-rst}", f".. automodule:: {module}", "   :members:", "```", ""]
    return "\n".join(lines)


def _modules(package: str) -> list[str]:
    paths = sorted((ROOT / package).rglob("*.py"))
    names = (".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in paths)
    return [name for name in names if not name.endswith("__init__")]


def _escape(text: str) -> str:
    """Prose in Markdown: options are code; stars, underscores and brackets mean themselves."""
    words = re.split(r"(--[a-z][\w.-]*\w)", text)
    return "".join(f"`{word}`" if n % 2 else re.sub(r"([*_<\[\]])", r"\\\1", word) for n, word in enumerate(words))

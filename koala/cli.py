"""The command line: which command has which settings and which function.

Both are imported when the command is chosen, so that `koala --help` starts at once.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from io import TextIOWrapper
from typing import Any

from koala.core import extras
from koala.core.errors import UserError
from koala.core.version import __version__


@dataclass(frozen=True)
class Command:
    """A command of koala.

    Attributes:
        settings: "module:class" in `koala.config`.
        function: "module:function" in `koala`, which takes the settings.
        summary: what it does, in a few words.
        file: the setting that a TOML file fills, "." for all of them, or "" where it takes no file.
    """

    settings: str
    function: str
    summary: str
    file: str = ""


GROUPS = {
    "Colour": {
        "colorize": Command("inference:ColorizeSettings", "inference.batch:colorize_command", "colour photos"),
        "gallery": Command(
            "inference:GallerySettings", "inference.gallery.server:gallery_command", "colour photos in a browser"
        ),
    },
    "Data": {
        "shards write": Command(
            "data:WriteShards", "data.shard_writer:write_command", "write images into tar shards", "recipe"
        ),
        "shards finish": Command(
            "data:FinishShards", "data.shard_writer:finish_command", "put parts together that several nodes wrote"
        ),
        "shards verify": Command("data:VerifyShards", "data.verification:verify_command", "check shards, byte by byte"),
        "shards repair": Command("data:RepairShards", "data.shard_writer:repair_command", "write damaged shards again"),
        "shards audit": Command(
            "data:AuditShards", "data.audit:audit_command", "measure a data set: sizes, colours, greys, sepia"
        ),
        "shards embed": Command(
            "data:EmbedShards",
            "data.embed:embed_command",
            "compute the extractor's embeddings once, for training",
        ),
        "shards prior": Command(
            "data:MeasurePrior", "data.color_prior:prior_command", "measure how often each colour occurs"
        ),
        "shards stage": Command(
            "data:StageShards", "data.staging:stage_command", "copy shards to a node's disk, in the order of need"
        ),
        "shards export": Command(
            "evaluation:ExportCrops",
            "evaluation.crops:export_command",
            "write a protocol's crops, for other colourisers",
        ),
    },
    "Train": {
        "train": Command("training:TrainSettings", "training.command:train_command", "train a network, or resume", "."),
        "report": Command("training:ReportRun", "training.run_report:report_command", "write a page of a training"),
        "doctor": Command(
            "training:DoctorSettings", "training.doctor:doctor", "check a machine before a training", "."
        ),
        "benchmark": Command(
            "training:BenchmarkSettings", "training.benchmark:benchmark_command", "measure how fast a machine is", "."
        ),
        "ablate": Command(
            "training:AblateSettings", "training.ablation:ablate", "train and compare variants", "ablation"
        ),
        "export": Command(
            "inference:ExportSettings", "inference.export:export_command", "write weights, ONNX, or to the hub"
        ),
    },
    "Evaluate": {
        "evaluate": Command("evaluation:EvaluateSettings", "evaluation.evaluate:evaluate", "score a network"),
        "compare": Command(
            "evaluation:CompareSettings", "evaluation.compare:compare_command", "lay evaluations side by side"
        ),
    },
    "Study": {
        "study power": Command("study:PowerStudy", "study.power:power_command", "how many people and scenes it takes"),
        "study build": Command("study:BuildStudy", "study.build:build_command", "make a study's folder of pictures"),
        "study serve": Command("study:ServeStudy", "study.server:serve_command", "ask people which pictures are real"),
        "study report": Command("study:ReportStudy", "study.report:report_command", "analyse the answers"),
    },
    "Other": {
        "demo": Command("demo:DemoSettings", "demo:demo", "all of the above on a few photographs, in minutes"),
        "kit": Command("demo:KitSettings", "cli:copy_templates", "copy launch/, shards/ and slurm/ out, for editing"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}

_BRITISH = {"colorise": "colorize", "colourise": "colorize", "colourize": "colorize", "colour": "colorize"}
_HELP = ("-h", "--help", "--help-all")

_NEED_DALI = ("demo", "shards embed", "shards export", "train", "benchmark", "ablate", "evaluate")

# what a person can mend, and how
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room, or choose another place"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "see who may read and write there, or choose another place"
    ),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "correct the path"),
    **dict.fromkeys((errno.EISDIR, errno.EEXIST), "a file and a folder are taken for each other; correct the path"),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.EFBIG), "choose a shorter name, or a file system that takes it"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0: done; 1: the work found faults; 2: the command cannot run as given; 128 + n: stopped by signal n.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # an arrow that a terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    code, message = _outcome(list(sys.argv[1:] if arguments is None else arguments))
    if message:
        print(f"koala: {message}", file=sys.stderr)
    if code and _in_company():
        # a process that fails alone must not wait in the others' barriers; the launcher then ends these
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _outcome(words: list[str]) -> tuple[int, str]:
    """The exit code of a command, and what is to be said of it."""
    try:
        return _run(words), ""
    except UserError as error:
        return 2, str(error)
    except KeyboardInterrupt:
        return 130, "interrupted; run the same command again to resume"
    except BrokenPipeError:  # of "koala ... | head": who read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141, ""  # 128 + SIGPIPE, which Windows does not have
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        place = f": {error.filename}" if error.filename else ""
        return 2, f"{error.strerror}{place}; {_REMEDIES[error.errno]}, and run the command again"
    except BaseException:
        if not _in_company():
            raise
        traceback.print_exc()
        return 1, ""


def _in_company() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _split_command(words: list[str]) -> tuple[str, list[str]]:
    """The command's name, one word or two, and what comes after it."""
    for count in (2, 1):
        name = " ".join(words[:count])
        if name in COMMANDS:
            return name, words[count:]
    typed = " ".join(word for word in words[:2] if word not in _HELP)
    raise UserError(f"there is no command {typed}; {_suggestion(words)}")


def _suggestion(words: list[str]) -> str:
    """The command that was meant, or where to look."""
    from difflib import get_close_matches

    first = _BRITISH.get(words[0], words[0])
    last = {name.rpartition(" ")[2]: name for name in COMMANDS}
    for typed in (" ".join([first, *words[1:2]]), first):
        if near := get_close_matches(typed, [*COMMANDS, *last], n=1):
            return f"did you mean koala {last.get(near[0], near[0])}?"
    return "koala --help lists all"


def _page(words: list[str]) -> str:
    """What is asked for in place of a command: the version, help with all, or with one; "" where nothing is."""
    from shutil import get_terminal_size

    from koala.config import help_page

    if words[:1] in (["-V"], ["--version"]):
        return f"koala {__version__}"
    words = [*words[1:], "--help"] if words[:1] == ["help"] else words
    asked = [word for word in words if word in _HELP]
    rest = [word for word in words if word not in _HELP]
    width = min(help_page.WIDTH, get_terminal_size((help_page.WIDTH, 24)).columns)
    if not rest or (len(rest) == 1 and any(name.startswith(f"{rest[0]} ") for name in COMMANDS)):
        return _list_of_commands("".join(rest), width)
    if not asked:
        return ""
    name, _ = _split_command(rest)
    return help_page.command_page(
        settings_class(name), f"koala {name}", COMMANDS[name].file, "--help-all" in asked, width
    )


def _list_of_commands(first: str, width: int) -> str:
    """All commands, or those of a first word."""
    from koala.config import help_page

    shown = {
        group: {name: command.summary for name, command in commands.items() if name.startswith(first)}
        for group, commands in GROUPS.items()
    }
    program = f"koala {first}".rstrip()
    return "\n".join(
        [
            "koala colours photographs, and trains the Deep Koalarization network that does it.\n" if not first else "",
            f"usage: {program} COMMAND [options]\n",
            help_page.overview({group: commands for group, commands in shown.items() if commands}, width),
            f"\n{program} COMMAND --help explains a command.",
        ]
    ).lstrip("\n")


def settings_class(name: str) -> Any:
    """The class of a command's settings."""
    module, class_name = COMMANDS[name].settings.split(":")
    return getattr(import_module(f"koala.config.{module}"), class_name)


def _run(words: list[str]) -> int:
    if page := _page(words):
        print(page)
        return 0
    from koala.config import flags

    name, words = _split_command(words)
    command = COMMANDS[name]
    settings = flags.parse(settings_class(name), words, f"koala {name}", command.file)
    _check_installed(name, settings)
    module, function = command.function.split(":")
    return getattr(import_module(f"koala.{module}"), function)(settings) or 0


def _check_installed(command: str, settings: Any) -> None:
    """Refuse what lacks its packages, before the command's module imports torch."""
    user, extra = f"koala {command}", command.partition(" ")[0]
    if extra in extras.EXTRAS:  # what some need beyond koala's own requirements is an extra with their name
        extras.require(user, extra)
    if getattr(settings, "onnx", None):
        extras.require(f"{user} --onnx", "onnx")
    if command in _NEED_DALI and not getattr(settings, "dry_run", False):
        extras.require_dali(user)


def copy_templates(settings: Any) -> int:
    """`koala kit DIR`."""
    from koala.core import templates

    templates.copy_templates(settings.dir)
    print(f"{settings.dir}: {', '.join(templates.FOLDERS)}")
    return 0

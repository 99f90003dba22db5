"""The command line: which command has which settings and which function.

Both are imported when the command is chosen, so that `koala --help` starts at once.
"""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from koala.core.errors import UserError
from koala.core.version import __version__


@dataclass(frozen=True)
class Command:
    """A command of koala.

    Attributes:
        settings: "module:class" in `koala.config`.
        function: "module:function" in `koala`, which takes the settings.
        summary: what it does, in a few words.
        file: the field of the settings that a TOML file fills, "." for all of them, or "" where it takes no file.
    """

    settings: str
    function: str
    summary: str
    file: str = ""


COMMANDS = {
    "demo": Command("demo:DemoSettings", "demo:demo", "the main job on photographs that installed packages carry"),
    "shards write": Command("data:WriteShards", "data.shard_writer:write_command", "images -> tar shards", "recipe"),
    "shards finish": Command("data:FinishShards", "data.shard_writer:finish_command", "put parts together"),
    "shards verify": Command("data:VerifyShards", "data.verification:verify_command", "check shards, byte by byte"),
    "shards repair": Command("data:RepairShards", "data.shard_writer:repair_command", "write bad shards again"),
    "shards embed": Command("data:EmbedShards", "data.embed:embed_command", "keep the extractor's embeddings"),
    "shards audit": Command("data:AuditShards", "data.audit:audit_command", "what is in a data set"),
    "shards prior": Command("data:MeasurePrior", "data.color_prior:prior_command", "how often each colour occurs"),
    "train": Command("training:TrainSettings", "training.trainer:train", "train the fusion network, or resume", "."),
    "doctor": Command("training:DoctorSettings", "training.doctor:doctor", "check a machine before training", "."),
    "ablate": Command("training:AblateSettings", "training.ablation:ablate", "variants of a training", "ablation"),
    "evaluate": Command("evaluation:EvaluateSettings", "evaluation.evaluate:evaluate", "score a checkpoint"),
    "compare": Command("evaluation:CompareSettings", "evaluation.compare:compare_command", "evaluations side by side"),
    "colorize": Command("inference:ColorizeSettings", "inference.batch:colorize_command", "colour photos"),
    "gallery": Command("inference:GallerySettings", "inference.gallery.server:gallery_command", "colour in a browser"),
    "export": Command("inference:ExportSettings", "inference.export:export_command", "weights, ONNX, the hub"),
    "study build": Command("study:BuildStudy", "study.build:build_command", "pictures -> the folder of a study"),
    "study serve": Command("study:ServeStudy", "study.server:serve_command", "ask people which pictures are real"),
    "study report": Command(
        "study:ReportStudy", "study.report:report_command", "answers -> tables, tests, plain words"
    ),
    "study power": Command("study:PowerStudy", "study.power:power_command", "how many people and scenes it takes"),
    "kit": Command("demo:KitSettings", "cli:copy_templates", "copy launch/, shards/ and slurm/ out, for editing"),
}


# what a person can mend: a full disk, a place that is absent or not to be written to, a file for a folder or a folder
# for a file
_MENDABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0: done; 1: the work found faults; 2: the command cannot run as given; 128 + n: stopped by signal n.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(f"koala {__version__}")
        return 0
    message, code = "", 2
    try:
        code = _run(*_split_command(words))
    except UserError as error:
        message = str(error)
    except KeyboardInterrupt:
        message, code = "interrupted; run the same command again to go on", 130
    except BrokenPipeError:  # of "koala ... | head": who read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _MENDABLE:
            raise
        place = f": {error.filename}" if error.filename else ""
        message = f"{error.strerror}{place}; make room or choose another place, and run the command again"
    except SystemExit:  # help, and flags that do not fit
        raise
    except BaseException:
        if not _in_company():
            raise
        traceback.print_exc()
        code = 1
    if message:
        print(f"koala: {message}", file=sys.stderr)
    if code and _in_company():
        # a process that fails alone must not wait in the others' barriers; the launcher then ends these
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _in_company() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _split_command(words: list[str]) -> tuple[str, list[str]]:
    """The command's name, one word or two, and what comes after it."""
    for count in (2, 1):
        name = " ".join(words[:count])
        if name in COMMANDS:
            return name, words[count:]
    if any(name.startswith(f"{words[0]} ") for name in COMMANDS):
        known = ", ".join(name for name in COMMANDS if name.startswith(f"{words[0]} "))
        raise UserError(f"koala {words[0]} needs a second word; known: {known}")
    raise UserError(f"there is no command {words[0]}; known: {', '.join(COMMANDS)}")


def _run(command: str, words: list[str]) -> int:
    settings = _settings(command, words)
    module, function = COMMANDS[command].function.split(":")
    return getattr(_module(command, f"koala.{module}"), function)(settings) or 0


def copy_templates(settings: Any) -> int:
    """`koala kit DIR`."""
    from koala.core import templates

    templates.copy_templates(settings.dir)
    print(f"{settings.dir}: {', '.join(templates.FOLDERS)}")
    return 0


def _module(command: str, name: str) -> ModuleType:
    """A command's module; what some need beyond koala's own requirements is an extra with the command's name."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        extra = command.partition(" ")[0]
        if extra not in ("gallery", "study"):
            raise
        raise UserError(f'koala {command} needs {error.name}; pip install "koala[{extra}]"') from None


def _settings(name: str, words: list[str]) -> Any:
    """Defaults, then the TOML file that the command names, then flags."""
    import dataclasses

    import tyro

    from koala.config.load import load_toml, to_dict, validate

    command = COMMANDS[name]
    module, class_name = command.settings.split(":")
    cls: Any = getattr(import_module(f"koala.config.{module}"), class_name)
    default: Any = tyro.MISSING_NONPROP
    program = f"koala {name}"
    if command.file and words and not words[0].startswith("-"):
        path, *words = words
        program += f" {path}"
        if command.file == ".":
            default = load_toml(cls, Path(path))
        else:
            part: Any = next(field.type for field in dataclasses.fields(cls) if field.name == command.file)
            default = _with_missing(cls, command.file, load_toml(part, Path(path)))
    settings = tyro.cli(
        cls,
        prog=program,
        description=cls.__doc__,
        default=default,
        args=words,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return validate(cls, to_dict(settings), program)


def _with_missing(cls: Any, field: str, value: Any) -> Any:
    """Settings of which one field has a value; others have their defaults, or are asked for as flags."""
    import dataclasses

    import tyro

    required = {
        f.name: tyro.MISSING
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    return cls(**required, **{field: value})


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "koala: training of the Deep Koalarization image colourisation network",
            "",
            "usage: koala COMMAND ...",
            "",
            *lines,
            "",
            "koala COMMAND --help tells all of one command.",
        ]
    )

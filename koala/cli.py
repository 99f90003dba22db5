"""The command line: which command has which settings and which function.

Both are imported when the command is chosen, so that `koala --help` starts at once.
"""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from koala.core.errors import UserError
from koala.core.version import __version__

# command: (settings class in koala.config, "module:function", the field that a TOML file fills or "", in a word)
COMMANDS: dict[str, tuple[str, str, str, str]] = {
    "demo": ("Demo", "koala.demo:demo", "", "the main job on photographs that installed packages carry"),
    "shards write": ("WriteShards", "koala.data.shard_writer:write_command", "recipe", "images -> tar shards"),
    "shards finish": (
        "FinishShards",
        "koala.data.shard_writer:finish_command",
        "",
        "put parts together that were written apart",
    ),
    "shards verify": ("VerifyShards", "koala.data.shards:verify_command", "", "check shards, byte by byte"),
    "shards repair": (
        "RepairShards",
        "koala.data.shard_writer:repair_command",
        "",
        "write bad shards again from the source",
    ),
    "shards embed": (
        "Embed",
        "koala.data.embedding_cache:embed",
        "",
        "keep the extractor's embeddings beside the shards",
    ),
    "shards audit": (
        "AuditShards",
        "koala.data.audit:audit_command",
        "",
        "what is in a data set: chroma, greys, sepia",
    ),
    "shards prior": (
        "Prior",
        "koala.data.color_prior:prior_command",
        "",
        "how often each colour occurs, for training by it",
    ),
    "train": (
        "Train",
        "koala.training.trainer:train",
        ".",
        "train the fusion network; with --run the same command resumes",
    ),
    "doctor": ("Doctor", "koala.training.doctor:doctor", ".", "look at machine, data and run folder before a training"),
    "evaluate": (
        "Evaluate",
        "koala.evaluation.evaluate:evaluate",
        "",
        "score a checkpoint, and colour the validation set",
    ),
    "compare": (
        "Compare",
        "koala.evaluation.compare:compare_command",
        "",
        "lay evaluations side by side, with their differences",
    ),
    "ablate": (
        "Ablate",
        "koala.training.ablation:ablate",
        "ablation",
        "variants of a training at equal budget, side by side",
    ),
    "colorize": ("Colorize", "koala.inference.batch:colorize_command", "", "colour photos at their own size"),
    "gallery": (
        "Gallery",
        "koala.inference.gallery.server:gallery_command",
        "",
        "colour photos in a browser, on this machine",
    ),
    "export": ("Export", "koala.inference.export:export_command", "", "a trained network for others: weights, ONNX"),
    "study build": ("BuildStudy", "koala.study.build:build_command", "", "pictures -> the folder of a realness study"),
    "study serve": ("ServeStudy", "koala.study.server:serve_command", "", "ask people which pictures are real"),
    "study report": ("ReportStudy", "koala.study.report:report_command", "", "answers -> tables, tests, plain words"),
    "study power": ("PowerStudy", "koala.study.power:power_command", "", "how many participants and scenes it takes"),
    "kit": ("Kit", "koala.cli:copy_templates", "", "copy launch/, shards/ and slurm/ out, for editing"),
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
    settings_name, target, toml_field, _ = COMMANDS[command]
    settings = _settings(command, settings_name, toml_field, words)
    module, function = target.split(":")
    return getattr(_module(command, module), function)(settings) or 0


def copy_templates(settings: Any) -> int:
    """`koala kit DIR`."""
    from koala.core import templates

    templates.copy(settings.dir)
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


def _settings(command: str, name: str, toml_field: str, words: list[str]) -> Any:
    """Defaults, then the TOML file that the command names, then flags."""
    import tyro

    config = import_module("koala.config")
    cls = getattr(config, name)
    default: Any = tyro.MISSING_NONPROP
    program = f"koala {command}"
    if toml_field and words and not words[0].startswith("-"):
        path, *words = words
        program += f" {path}"
        if toml_field == ".":
            default = config.load(cls, Path(path))
        else:
            part = next(f for f in config.fields(cls) if f.name == toml_field)
            default = _with_missing(cls, toml_field, config.load(part.type, Path(path)))
    settings = tyro.cli(
        cls,
        prog=program,
        description=cls.__doc__,
        default=default,
        args=words,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return config.validate(cls, config.dump(settings), program)


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
    lines = [f"  {name:{width}}  {text}" for name, (_, _, _, text) in COMMANDS.items()]
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

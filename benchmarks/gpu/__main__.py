"""`make gpu`: what is right and how fast it is on the GPU of this machine, in some ten minutes.

    python -m benchmarks.gpu [--photos FOLDER|TAR] [--parts NAME,...] [--out DIR] [--minutes 13]
    python -m benchmarks.gpu --device cpu --out DIR          rehearse all of it, very small, without a GPU

Each part runs in a process of its own under a timeout of its own; one that fails or hangs costs itself. What each
found is written to DIR/gpu.json as soon as it has ended, with all its output in DIR/PART.log, and at the end comes a
table. Photographs come from --photos, or are those that installed packages carry. The exit code is 1 if a part failed.
A speed below its aim is said, and fails nothing.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from koala.core.atomic_io import write_atomic
from koala.core.version import __version__


@dataclass(frozen=True)
class Part:
    """A part of the measurement.

    Attributes:
        module: of this package.
        function: in it, which yields facts.
        seconds: that it may take.
    """

    module: str
    function: str
    seconds: int


PARTS = {
    "environment": Part("machine", "environment", 90),
    "tests": Part("machine", "tests", 210),
    "decoding": Part("decoding", "pixels", 60),
    "loading": Part("decoding", "speed", 90),
    "training": Part("training", "speeds", 200),
    "agreement": Part("numbers", "agreement", 90),
    "determinism": Part("numbers", "determinism", 90),
    "interruption": Part("interruption", "killed_and_warned", 120),
    "inference": Part("inference", "at_work", 90),
    "processes": Part("processes", "one_of_several", 60),
    "compiled": Part("training", "compiled", 180),
}
# torch looks for it once, at its first matrix product, and refuses to be deterministic without it
_ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
_LEAST_S = 10  # that a part is begun with
_LINES = 15  # of a failed part's output that are kept


# ---------------------------------------------------------------- all parts


def run_parts(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run them in turn, and write down what each found."""
    until, out = time.monotonic() + 60 * arguments.minutes, arguments.out
    report = {"koala": __version__, "python": platform.python_version(), "device": arguments.device, "parts": {}}
    report["photographs"] = _prepare(arguments)
    for name in arguments.parts:
        left = until - time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)
        report["parts"][name] = run_part(name, left, arguments) if left > _LEAST_S else {"status": "no time was left"}
        write_atomic(out / "gpu.json", json.dumps(report, indent=1).encode())
    return report


def run_part(name: str, left: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run a part in a process of its own, and end it with all that it started when its time is up."""
    log, facts = arguments.out / f"{name}.log", arguments.out / f"{name}.jsonl"
    facts.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--device", arguments.device]
    command += ["--out", str(arguments.out), "--work", str(arguments.work)]
    began, environment = time.monotonic(), {**os.environ, **_ENVIRONMENT}
    with log.open("w") as output:
        streams = {"stdout": output, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, **streams, env=environment, start_new_session=True)
        try:
            code = process.wait(min(PARTS[name].seconds * arguments.patience, left))
            status = "done" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            status = "took too long"
        finally:
            _end(process)
    found = [json.loads(line) for line in facts.read_text().splitlines()] if facts.exists() else []
    if status == "done" and any(fact["must"] and fact["good"] is False for fact in found):
        status = "not as it must be"
    part = {"status": status, "seconds": round(time.monotonic() - began, 1), "facts": found}
    return part if status == "done" else {**part, "output": log.read_text(errors="replace").splitlines()[-_LINES:]}


def _end(process: "subprocess.Popen[Any]") -> None:
    """End a part's process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _prepare(arguments: argparse.Namespace) -> str:
    from benchmarks.gpu import photographs

    return photographs.prepare(_bench(arguments), arguments.photos)


def measure_part(name: str, arguments: argparse.Namespace) -> None:
    """Do the work of a part in this process, noting each fact as it is found."""
    from importlib import import_module

    from benchmarks.gpu.bench import write_fact

    part = PARTS[name]
    work: Callable[[Any], Iterator[Any]] = getattr(import_module(f"benchmarks.gpu.{part.module}"), part.function)
    for fact in work(_bench(arguments)):
        write_fact(arguments.out / f"{name}.jsonl", fact)


def _bench(arguments: argparse.Namespace) -> Any:
    from benchmarks.gpu.bench import REHEARSAL, Bench, Scale

    scale = Scale() if arguments.device == "cuda" else REHEARSAL
    return Bench(arguments.device, arguments.work, arguments.out, scale)


# ---------------------------------------------------------------- the table


def table(report: dict[str, Any]) -> Iterator[str]:
    """The lines of what was found, for people."""
    yield f"koala {report['koala']} on {report['device']}; {report['photographs']}"
    for name, part in report["parts"].items():
        yield f"\n{name}: {part['status']}" + (f", {part['seconds']} s" if "seconds" in part else "")
        for fact in part.get("facts", []):
            value = f"{fact['value']} {fact['unit']}".strip()
            mark = {None: "", True: "ok", False: "NOT SO" if fact["must"] else "below"}[fact["good"]]
            yield f"  {fact['name']:62} {value:>24}  {fact['aim'] and '(' + fact['aim'] + ')':24} {mark}".rstrip()
        yield from (f"  | {line}" for line in part.get("output", []))


def main() -> int:
    """Read the flags, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder or tar of photographs")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--leave-out", type=lambda text: text.split(","), default=[], help="parts that are not run")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder for gpu.json and logs")
    parser.add_argument("--work", type=Path, help="folder for shards and runs; by default one that is removed")
    parser.add_argument("--minutes", type=float, help="after which no part goes on; by default 13, on the CPU 60")
    parser.add_argument("--patience", type=float, help="factor of the parts' timeouts; by default 1, on the CPU 10")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := {*arguments.parts, *arguments.leave_out} - {*PARTS}:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    gpu = arguments.device == "cuda"
    arguments.minutes = arguments.minutes or (13 if gpu else 60)
    arguments.patience = arguments.patience or (1 if gpu else 10)
    arguments.out = arguments.out.absolute()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.part:
        measure_part(arguments.part, arguments)
        return 0
    arguments.parts = [name for name in arguments.parts if name not in arguments.leave_out]
    with tempfile.TemporaryDirectory() as folder:
        arguments.work = (arguments.work or Path(folder)).absolute()
        arguments.work.mkdir(parents=True, exist_ok=True)
        report = run_parts(arguments)
    lines = "\n".join(table(report))
    (arguments.out / "table.txt").write_text(lines + "\n")
    print(lines)
    return 0 if all(part["status"] == "done" for part in report["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())

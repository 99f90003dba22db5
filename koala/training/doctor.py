"""`koala doctor`: whether a training can begin, in a line for each thing it needs, with a remedy where one is amiss.

All processes that the launcher started look for themselves, and the first one prints the worst of what they found. No
check is waited for longer than it may take, so that the page is written also where a network or a disk hangs, or a
process is lost.
"""

import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from threading import Thread
from typing import Any, Literal

from koala.config.training import DoctorSettings, TrainSettings
from koala.core import terminal
from koala.core.errors import UserError, first_line
from koala.core.wording import counted
from koala.training import doctor_checks, gpu_checks, machine_checks
from koala.training.doctor_checks import INTERFACES
from koala.training.findings import Finding, Status
from koala.training.process_store import MARGIN_S, PATIENCE_S, ProcessStore

STATUSES: tuple[Status, ...] = ("ok", "warning", "failed")
_STUCK = "see in a shell on that machine whether its file systems and its driver answer"
_UNEXPECTED = "install koala anew; if that does not help, the fault is koala's: report this line"

_NAME_WIDTH, _STATUS_WIDTH, _WIDTH = 15, 9, 110  # characters
_COLORS: dict[Status, str] = {"ok": "32", "warning": "33", "failed": "31;1"}
_FEW_HOSTS = 4  # that are named in the heading


@dataclass(frozen=True)
class DoctorCheck:
    """A line of the page.

    Attributes:
        name: what is looked at.
        by: every process, one of each node, or the first of all.
        look: finds out.
        patience_s: seconds that it may take.
        when_stuck: the remedy when it takes longer.
    """

    name: str
    by: Literal["process", "node", "main"]
    look: Callable[[TrainSettings, ProcessStore], Finding]
    patience_s: float = PATIENCE_S
    when_stuck: str = _STUCK


CHECKS = (
    DoctorCheck(
        "imports", "process", machine_checks.imports, patience_s=600
    ),  # from a disk that a thousand others read, too
    DoctorCheck("versions", "process", machine_checks.versions),
    DoctorCheck("driver", "node", machine_checks.driver),
    DoctorCheck("GPUs", "node", machine_checks.gpus),
    DoctorCheck("precision", "process", machine_checks.precision),
    DoctorCheck("arithmetic", "process", gpu_checks.arithmetic),
    DoctorCheck("JPEG engine", "node", gpu_checks.jpeg_engine),
    DoctorCheck("processors", "node", machine_checks.processors),
    DoctorCheck("open files", "process", machine_checks.open_files),
    DoctorCheck("shared memory", "node", machine_checks.shared_memory),
    DoctorCheck("clock", "node", machine_checks.clock),
    DoctorCheck("batch", "main", doctor_checks.batch),
    DoctorCheck("decoding", "process", doctor_checks.decoding),
    DoctorCheck("extractor", "node", doctor_checks.extractor),
    DoctorCheck("weights", "node", doctor_checks.initial_weights, patience_s=300),  # perhaps from the hub
    DoctorCheck("objective", "node", doctor_checks.objective),
    DoctorCheck("shards", "node", doctor_checks.shards, patience_s=300),  # thousands of small files
    DoctorCheck("embeddings", "node", doctor_checks.embeddings, patience_s=300),
    DoctorCheck("run folder", "main", doctor_checks.run_folder),
    DoctorCheck("same folder", "process", doctor_checks.same_folder),
    DoctorCheck(
        "network", "process", doctor_checks.network, when_stuck=INTERFACES
    ),  # last: what hangs on a GPU stays there
)


def doctor(settings: DoctorSettings) -> int:
    """Look at everything, and print a line for each.

    Returns:
        0, or 1 when something failed.

    Raises:
        UserError: this process does not reach the others.
    """
    return run_checks(settings, ProcessStore.connect())


def run_checks(settings: TrainSettings, store: ProcessStore) -> int:
    """Go through the checks, all processes at the same time; see `doctor`."""
    page = DoctorPage(store)
    for check in CHECKS:
        page.announce(check.name)
        mine = asdict(run_check(check, settings, store)) if _has_turn(check, store) else None
        found = store.gather(check.name, mine, check.patience_s + MARGIN_S)
        if store.is_main:
            page.add(check.name, merge_findings(_answers(found, store)))
    return store.broadcast("verdict", page.close)


def _has_turn(check: DoctorCheck, store: ProcessStore) -> bool:
    return {"process": True, "node": store.local_rank == 0, "main": store.is_main}[check.by]


def run_check(check: DoctorCheck, settings: TrainSettings, store: ProcessStore) -> Finding:
    """What this process finds; an error is a finding, too, and so is a check that does not end."""
    found: list[Finding] = []

    def look() -> None:
        try:
            found.append(check.look(settings, store))
        except UserError as error:
            fact, _, remedy = str(error).rpartition("; ")
            found.append(Finding("failed", fact or remedy, remedy if fact else ""))
        except Exception as error:  # the others are to hear of it, whatever it is
            found.append(Finding("failed", f"{type(error).__name__}: {first_line(error)}", _UNEXPECTED))

    thread = Thread(target=look, daemon=True)  # one that hangs does not keep the program from ending
    thread.start()
    thread.join(check.patience_s)
    if found:
        return found[0]
    # another process that knows the reason is heard first
    return Finding("failed", f"no end after {check.patience_s:.0f} s", check.when_stuck, measure=1)


# ---------------------------------------------------------------- of all processes


@dataclass(frozen=True)
class ProcessFinding:
    """A finding, and whose it is."""

    host: str
    rank: int
    finding: Finding


def merge_findings(answers: Sequence[ProcessFinding]) -> Finding:
    """The worst finding; where it is not all's, and not good, those whose it is are named."""
    worst = max(answers, key=lambda answer: (STATUSES.index(answer.finding.status), -answer.finding.measure)).finding
    alike = [answer for answer in answers if answer.finding.text == worst.text]
    if worst.status == "ok" or len(alike) == len(answers):
        return worst
    several = len({answer.host for answer in answers}) > 1
    first, *others = dict.fromkeys(answer.host if several else f"process {answer.rank}" for answer in alike)
    return replace(worst, text=f"{first}{f' and {len(others)} more' if others else ''}: {worst.text}")


def _answers(found: dict[int, Any], store: ProcessStore) -> list[ProcessFinding]:
    """What those found whose turn it was; one that was silent has failed."""
    silent = asdict(Finding("failed", "no answer from this process", "see in its log what became of it"))
    answers = [found.get(rank, silent) for rank in range(store.size)]
    return [ProcessFinding(store.hosts[rank], rank, Finding(**answer)) for rank, answer in enumerate(answers) if answer]


# ---------------------------------------------------------------- the page


class DoctorPage:
    """The lines, written by the first process; the others keep silent.

    Args:
        store: who takes part.
    """

    def __init__(self, store: ProcessStore) -> None:
        self._shown = store.is_main
        self._statuses: Counter[Status] = Counter()
        self._lively = self._shown and sys.stdout.isatty()
        self._width = min(shutil.get_terminal_size((_WIDTH, 24)).columns, _WIDTH)
        hosts = list(dict.fromkeys(store.hosts))
        named = ", ".join(hosts[:_FEW_HOSTS]) + (", ..." if len(hosts) > _FEW_HOSTS else "")
        self._say(f"koala doctor: {counted(store.size, 'process')} on {counted(store.nodes, 'node')} ({named})\n")

    def announce(self, name: str) -> None:
        """On a terminal, say what is being looked at; its line takes the place."""
        if self._lively:
            print(f"{name} ...", end="\r", flush=True)

    def add(self, name: str, finding: Finding) -> None:
        """Write what was found."""
        self._statuses[finding.status] += 1
        self._say(format_line(name, finding, self._width, colored=terminal.has_colors(sys.stdout)))

    def close(self) -> int:
        """Write the verdict, and give the exit code."""
        failed, warnings = self._statuses["failed"], self._statuses["warning"]
        counts = f"{failed or 'nothing'} failed, {counted(warnings, 'warning')}, {self._statuses['ok']} ok"
        self._say(f"\n{counts}")
        return 1 if failed else 0

    def _say(self, text: str) -> None:
        if self._shown:
            print(text, flush=True)


def format_line(name: str, finding: Finding, width: int, colored: bool = False) -> str:
    """A line of the page: name, status and text, and below it the remedy."""
    margin = " " * (_NAME_WIDTH + _STATUS_WIDTH)
    status = f"{finding.status:{_STATUS_WIDTH}}"
    if colored:
        status = f"\033[{_COLORS[finding.status]}m{status}\033[0m"
    lines = _wrapped(finding.text, width - len(margin))
    if finding.remedy:
        lines += [
            f"{'   ' if number else '-> '}{line}"
            for number, line in enumerate(_wrapped(finding.remedy, width - len(margin) - 3))
        ]
    return f"{name:{_NAME_WIDTH}}{status}" + f"\n{margin}".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False) or [""]

"""torch's launcher with exit codes that say what happened."""

import signal
import subprocess
import sys
import time

import pytest

from koala.core.launcher import launch

TWO = ("--nproc-per-node=2", "--standalone", "--no-python", sys.executable, "-c")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("import os, time; time.sleep(60) if os.environ['RANK'] == '1' else os._exit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", 128 + 9),
    ],
)
def test_the_exit_code_is_that_of_who_failed_first(program, code):
    assert launch([*TWO, program]) == code


@pytest.mark.slow
def test_a_signal_is_passed_on_and_told(tmp_path):
    """Both processes get SIGTERM and may end in their own time; the launcher then ends with 128 + 15."""
    note = f"open(r'{tmp_path}/' + os.environ['RANK'] + {{}}, 'w')"
    program = (
        "import os, signal, sys, time\n"
        f"signal.signal(15, lambda *_: (time.sleep(0.5), {note.format(repr('-ended'))}, sys.exit(143)))\n"
        f"{note.format(repr('-began'))}\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-m", "koala.core.launcher", *TWO, program])
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("*-began"))) < 2:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + 15
    assert sorted(path.name for path in tmp_path.glob("*-ended")) == ["0-ended", "1-ended"]

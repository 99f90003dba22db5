"""The cluster itself: its nodes are apart, and it ends with those who started it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.slurm import missing, until

START = """
import sys, time
from pathlib import Path
from tests.cluster.slurm import Slurm
slurm = Slurm(Path(sys.argv[1]), nodes=1)
slurm.submit("--output=/dev/null", "--wrap=sleep 600")
print("up", flush=True)
time.sleep(600)
"""


def test_each_node_has_a_name_and_processes_of_its_own(slurm):
    command = ("srun", "--nodes=2", "bash", "-c", "echo $SLURM_NODEID $(hostname) $(ps -e -o comm= | grep -c slurmd$)")
    assert sorted(slurm.run(*command).splitlines()) == ["0 n1 1", "1 n2 1"]


def test_gpus_are_given_out(slurm):
    printed = slurm.run("srun", "--gpus-per-node=3", "bash", "-c", "echo $CUDA_VISIBLE_DEVICES $SLURM_GPUS_ON_NODE")
    assert printed.split() == ["0,1,2", "3"]


def test_nothing_is_left_when_its_owner_is_killed(tmp_path):
    if reason := missing():
        pytest.skip(reason)
    command = [sys.executable, "-c", START, str(tmp_path)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert owner.stdout.readline() == "up\n"
    assert users_of(tmp_path)
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    until(lambda: not users_of(tmp_path), "the cluster to end", lambda: str(users_of(tmp_path)))


def users_of(root: Path) -> list[int]:
    """Processes of the cluster that has its files there."""
    wanted = f"SLURM_CONF={root}/slurm.conf".encode()
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if wanted in environment(path)]


def environment(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\0")
    except OSError:  # it has ended, or is another's
        return []

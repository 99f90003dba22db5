"""Training under a real Slurm, as users submit it: nodes, warnings, lost nodes, failures.

Nodes have no GPU that torch could use, so that processes compute on the CPU and speak by gloo.
"""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cluster.conftest import CHECKOUT, edit
from tests.cluster.slurm import ENDED, Slurm, until
from tests.runs import same_weights, scalars, weights

IMAGES = 80  # in the whole training


class Training:
    """A submitted training.

    Args:
        slurm: the cluster.
        home: the user's folder.
        words: the command that submits it.
    """

    def __init__(self, slurm: Slurm, home: Path, *words: str | Path, **options) -> None:
        self.slurm = slurm
        self.job = slurm.submit("--job-name=run", *words, cwd=home, **options)
        self.run, self.output = home / "runs/run", home / f"run-{self.job}.out"

    def wait_for_checkpoint(self) -> None:
        """Wait until it trains, and has something to go on from."""
        first = self.run / "checkpoints/000000000020"
        until(lambda: first.exists() or self.state in ENDED, f"a checkpoint of job {self.job}", self.printed, 240)
        assert first.exists(), self.printed()

    @property
    def state(self) -> str:
        return self.slurm.show(self.job)[0]["JobState"]

    def ended(self) -> tuple[str, str]:
        """Wait for the end; how it ended, and how often it had been put back into the queue."""
        entry = self.slurm.ended(self.job)
        return entry["JobState"], entry["Restarts"]

    def printed(self) -> str:
        """What the batch script and the nodes say."""
        logs = [self.output, *sorted(self.run.glob(f"logs/{self.job}-*.log"))]
        return "".join(f"{path.name}:\n{path.read_text()}" for path in logs if path.exists())

    def went_on_after(self) -> int:
        """The images seen when it was stopped, after which it went on."""
        (stopped,) = re.findall(r"stopped after (\d+) images", self.printed())
        (went_on,) = re.findall(r"resuming after (\d+) images", self.printed())
        assert stopped == went_on
        return int(went_on)


def assert_same_losses(run: Path, whole: Path, after: int = 0) -> None:
    """Every step is there once, and its loss is that of one process, to 1e-5."""
    ours, expected = scalars(run, "loss/train"), scalars(whole, "loss/train")
    steps = [step for step in expected if step > after]
    assert [step for step in ours if step > after] == steps
    assert max(abs(ours[step] - expected[step]) for step in steps) < 1e-5
    assert scalars(run, "loss/val")[IMAGES] == pytest.approx(scalars(whole, "loss/val")[IMAGES], abs=1e-5)


# ---------------------------------------------------------------- several nodes


@pytest.mark.slow
def test_two_nodes_train_as_one_process(slurm, home, run_file, whole):
    """By submit.sh, with nothing of the submitter's environment; the doctor comes first, and what was run is kept."""
    edit(home, "DOCTOR=1")
    training = Training(
        slurm, home, "--export=NONE", "--nodes=2", "slurm/train.sbatch", run_file, program="slurm/submit.sh"
    )
    assert training.ended() == ("COMPLETED", "0"), training.printed()
    assert "2 processes on n[1-2]" in training.printed()
    said = (training.run / f"logs/{training.job}-n1.log").read_text()
    assert "koala doctor: 2 processes on 2 nodes (n1, n2)" in said
    assert re.search(r"^same folder +ok +seen by 2 processes on 2 nodes$", said, re.M)
    assert "nothing failed" in said
    assert_same_losses(training.run, whole)
    assert {path.name for path in training.run.glob("logs/*")} == {f"{training.job}-n1.log", f"{training.job}-n2.log"}

    record = training.run / f"jobs/{training.job}-0"
    assert (record / "run.toml").read_bytes() == run_file.read_bytes()
    assert (record / "job.sbatch").read_bytes() == (home / "slurm/train.sbatch").read_bytes()
    assert (record / "nodes.txt").read_text().split() == ["n1", "n2"]
    assert f"SLURM_JOB_ID={training.job}\n" in (record / "slurm.txt").read_text()
    assert re.search(rf"^koala .* in {CHECKOUT}/koala$", (record / "versions.txt").read_text(), re.M)
    assert re.search(r"^torch==", (record / "versions.txt").read_text(), re.M)
    if (CHECKOUT / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
        assert (record / "commit.txt").read_text().startswith(head.stdout.strip())


@pytest.mark.slow
def test_two_nodes_of_two_gpus_train_as_one_process(slurm, home, run_file, whole):
    """By sbatch, from a shell in which a launcher has left its variables; python runs in what CONTAINER begins."""
    (home / "container").write_text('#!/bin/bash\necho "in the container of $(hostname)"\nexec "$@"\n')
    (home / "container").chmod(0o755)
    edit(home, 'CONTAINER=("$PWD/container")', "SRUN_FLAGS=(--label)")
    left = {"RANK": "7", "WORLD_SIZE": "9", "LOCAL_RANK": "3", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1"}
    flags = ("--nodes=2", "--gpus-per-node=2", "--cpus-per-task=2")
    training = Training(slurm, home, *flags, "slurm/train.sbatch", run_file, env=left)
    assert training.ended() == ("COMPLETED", "0"), training.printed()
    assert "4 processes on n[1-2]" in training.printed()
    assert {"0: in the container of n1", "1: in the container of n2"} <= set(training.printed().splitlines())
    assert_same_losses(training.run, whole)


# ---------------------------------------------------------------- cut short


@pytest.mark.slow
def test_when_time_is_up_it_saves_and_goes_on(slurm, home, run_file, whole):
    """On one node, with the same bits: --signal=B:USR1 sends what is sent here."""
    training = Training(slurm, home, "slurm/train.sbatch", run_file, program="slurm/submit.sh")
    training.wait_for_checkpoint()
    slurm.run("scancel", "--signal=USR1", "--batch", training.job)
    assert training.ended() == ("COMPLETED", "1"), training.printed()
    assert 20 <= training.went_on_after() < IMAGES
    assert scalars(training.run, "loss/train") == scalars(whole, "loss/train")
    assert same_weights(weights(training.run, IMAGES), weights(whole, IMAGES))
    assert {path.name for path in training.run.glob("jobs/*")} == {f"{training.job}-0", f"{training.job}-1"}


@pytest.mark.slow
def test_making_room_for_another_job_it_saves_and_goes_on(slurm, home, run_file, whole):
    """The warning comes together with other signals, to all of the job."""
    flags = ("--partition=low", "--nodes=2")
    training = Training(slurm, home, *flags, "slurm/train.sbatch", run_file, program="slurm/submit.sh")
    training.wait_for_checkpoint()
    urgent = slurm.submit("--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    assert slurm.ended(urgent)["JobState"] == "COMPLETED"
    assert training.ended() == ("COMPLETED", "1"), training.printed()
    assert 20 <= training.went_on_after() < IMAGES
    assert_same_losses(training.run, whole)


@pytest.mark.slow
def test_a_node_that_is_lost(slurm, home, run_file, whole):
    """koala fails at once; srun waits until Slurm has seen why, which puts the job back into the queue. It goes on from
    the newest checkpoint, and nothing is left out.
    """
    training = Training(slurm, home, "--nodes=2", "slurm/train.sbatch", run_file, program="slurm/submit.sh")
    training.wait_for_checkpoint()
    slurm.tell("crash n2")
    until(lambda: training.state == "PENDING", "the loss of a node to be seen", training.printed, 60)
    slurm.tell("boot n2")
    assert training.ended() == ("COMPLETED", "1"), training.printed()
    (went_on,) = re.findall(r"resuming after (\d+) images", training.printed())
    assert_same_losses(training.run, whole, after=int(went_on))


@pytest.mark.slow
def test_cancelled_and_submitted_again(slurm, home, run_file, whole):
    """A job of the same name waits until the first has ended, and goes on where that stopped."""
    words = ("--nodes=2", "slurm/train.sbatch", run_file)
    first = Training(slurm, home, *words, program="slurm/submit.sh")
    second = Training(slurm, home, *words, program="slurm/submit.sh")
    first.wait_for_checkpoint()
    assert second.state == "PENDING"
    slurm.run("scancel", first.job)
    assert first.ended() == ("CANCELLED", "0")
    until(lambda: not slurm.processes(first.job), "the job's processes to end", first.printed)
    assert second.ended() == ("COMPLETED", "0"), second.printed()
    (went_on,) = re.findall(r"resuming after (\d+) images", second.printed())
    assert 20 <= int(went_on) < IMAGES
    assert "damaged" not in second.printed()
    assert_same_losses(second.run, whole, after=int(went_on))


# ---------------------------------------------------------------- failures, which do not come again


@pytest.mark.slow
def test_a_process_that_is_killed(slurm, home, run_file):
    """The job has failed, and no other process waits for the one that is gone."""
    training = Training(slurm, home, "--nodes=2", "slurm/train.sbatch", run_file, program="slurm/submit.sh")
    training.wait_for_checkpoint()
    for process in slurm.processes(training.job, RANK="1"):
        os.kill(process, signal.SIGKILL)
    assert training.ended() == ("FAILED", "0"), training.printed()
    assert slurm.show(training.job)[0]["ExitCode"] not in ("0:0", "")
    until(lambda: not slurm.processes(training.job), "the other processes to end", training.printed)
    assert re.search(r"exitcode *: -9 ", training.printed())


@pytest.mark.slow
def test_settings_that_cannot_be_honoured_after_making_room(slurm, home, run_file):
    """The job comes again once, since another needed the nodes; then it fails by itself."""
    edit(home, "prepare() { touch waiting; until [[ -e go ]]; do sleep 0.1; done; }")
    uneven = ("--batch-size", "5", "--gradient-accumulation-steps", "2")
    flags = ("--partition=low", "slurm/train.sbatch", run_file, *uneven)
    training = Training(slurm, home, *flags, program="slurm/submit.sh")
    until((home / "waiting").exists, "the job to start", training.printed)
    urgent = slurm.submit("--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    until(lambda: "PreemptTime=2" in slurm.run("scontrol", "show", "job", training.job), "a warning", training.printed)
    edit(home, f"prepare() {{ export PYTHONPATH={CHECKOUT}; }}")
    (home / "go").touch()
    assert slurm.ended(urgent)["JobState"] == "COMPLETED"
    assert training.ended() == ("FAILED", "1"), training.printed()
    assert "choose --batch-size a multiple of 2" in training.printed()
    assert not (training.run / "checkpoints").exists()


def test_time_that_is_up_before_anything_was_done(slurm, home, run_file):
    """It would be so the next time."""
    edit(home, "prepare() { touch waiting; until [[ -e go ]]; do sleep 0.1; done; }")
    training = Training(slurm, home, "slurm/train.sbatch", run_file, program="slurm/submit.sh")
    until((home / "waiting").exists, "the job to start", training.printed)
    slurm.run("scancel", "--signal=USR1", "--batch", training.job)
    (home / "go").touch()
    assert training.ended() == ("FAILED", "0"), training.printed()
    assert "training" not in training.printed()

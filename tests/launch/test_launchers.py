"""Launchers without Slurm: over ssh (a stand-in that starts on this machine), Kubernetes, SkyPilot."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from koala.config import flags
from koala.config.training import TrainSettings
from koala.models import checkpoint
from koala.training.journal import read_journal
from tests.processes import finish, wait_for

LAUNCH = Path(__file__).parents[2] / "launch"
_WORDS = (
    "--data.size",
    "16",
    "--data.threads",
    "2",
    "--extractor.name",
    "none",
    "--batch-size",
    "4",
    "--device",
    "cpu",
)


@pytest.fixture
def over_ssh(shard_folder, tmp_path):
    """Starts a training on two "machines", which are this one under two names."""
    stand_in = tmp_path / "bin/ssh"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/bash\n[[ $1 == -n && $2 =~ ^(localhost|127.0.0.1)$ ]] || exit 255\nexec bash -c "$3"\n')
    stand_in.chmod(0o755)
    (tmp_path / "with a space").mkdir()
    environment = {
        **{**os.environ, "PATH": f"{stand_in.parent}:{os.environ['PATH']}", "PYTHONPATH": str(LAUNCH.parent)},
        **{"GPUS": "1", "PORT": "29533", "PYTHON": sys.executable},
    }

    def begin(*words: str) -> subprocess.Popen:
        command = [
            LAUNCH / "ssh.sh",
            "localhost",
            "127.0.0.1",
            "--",
            "--data.shards",
            str(shard_folder),
            *_WORDS,
            *words,
        ]
        return subprocess.Popen(
            command,
            cwd=tmp_path / "with a space",
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return begin


@pytest.mark.slow
def test_over_ssh_a_training_stops_and_resumes(over_ssh, tmp_path):
    run = tmp_path / "run"
    process = over_ssh("--run", str(run), "--epochs", "2000", "--checkpoint-every", "5")
    wait_for(run / "checkpoints", process)
    process.send_signal(signal.SIGTERM)
    printed = finish(process, code=128 + signal.SIGTERM)
    seen = int(re.search(r"stopped after (\d+) images", printed).group(1))
    assert checkpoint.latest_checkpoint(run / "checkpoints").images_seen == seen
    finish(over_ssh("--run", str(run), "--epochs", str((seen + 8) / 40)))
    starts = [event for event in read_journal(run) if event["event"] == "start"]
    assert [(event["images_seen"], event["processes"]) for event in starts] == [(0, "2"), (seen, "2")]
    assert not list((tmp_path / "with a space").iterdir())


@pytest.mark.slow
def test_over_ssh_a_command_that_cannot_run_ends_with_2(over_ssh, tmp_path):
    printed = finish(over_ssh("--run", str(tmp_path / "run"), "--batch-size", "3"), code=2)
    assert "choose --batch-size a multiple of 2" in printed


def test_over_ssh_no_host_is_refused():
    done = subprocess.run([LAUNCH / "ssh.sh", "--", "RUN.toml"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.startswith("usage: ")) == (2, True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_the_script_is_clean():
    subprocess.run(["shellcheck", LAUNCH / "ssh.sh"], check=True)


def words_after_koala(command: str) -> list[str]:
    """The words of `koala train` in a launcher's command, with numbers for what the shell computes."""
    words = re.sub(r"\$\(\(.*?\)\)", "16", command.replace("\\\n", " ")).partition(" koala ")[2].split()
    assert words.pop(0) == "train"
    return words


def test_kubernetes_manifest_holds_together():
    """Numbers that stand in several places are the same, the meeting place is the first pod, the words are koala's."""
    jobset = yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text())
    (job,) = jobset["spec"]["replicatedJobs"]
    spec, pod = job["template"]["spec"], job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert spec["parallelism"] == spec["completions"] == int(values["NODES"])
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(values["GPUS"])
    assert int(values["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    command = container["command"][-1]
    name = jobset["metadata"]["name"]
    assert f"--master-addr={name}-{job['name']}-0-0.{name} " in command
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"] == {
        **{"containerName": container["name"], "operator": "In", "values": [2]}
    }
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    parsed = flags.parse(TrainSettings, without_file(words_after_koala(command)), "koala train", ".")
    assert (parsed.processes, parsed.run) == (16, Path("runs/full"))


def test_skypilot_s_command_is_koala_s():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task["resources"]["accelerators"].endswith(":8") and task["num_nodes"] == 2
    parsed = flags.parse(TrainSettings, without_file(words_after_koala(task["run"])), "koala train", ".")
    assert parsed.run.is_relative_to(next(iter(task["file_mounts"])))
    subprocess.run(["bash", "-n", "-c", task["run"]], check=True)


def without_file(words: list[str]) -> list[str]:
    """The words without the run file, which is there and is looked at by others."""
    (file,) = (word for word in words if word.endswith(".toml"))
    assert (LAUNCH.parent / file).exists()
    return [word for word in words if word != file]

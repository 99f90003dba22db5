"""The templates as files and at their beginning: what a shell checker, sbatch and a job's first lines say."""

import shutil
import stat
import subprocess
import sys
import zipfile

import pytest

from tests.cluster.conftest import CHECKOUT, edit
from tests.cluster.slurm import CommandError

TEMPLATES = sorted(path.name for path in (CHECKOUT / "slurm").glob("*.sbatch"))


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck: make system, as root")
@pytest.mark.parametrize("folder", ["slurm", "tests/cluster"])
def test_shellcheck_has_nothing_to_say(folder):
    scripts = sorted(path for path in (CHECKOUT / folder).iterdir() if path.suffix in (".sh", ".sbatch", ".env"))
    assert scripts
    command = ["shellcheck", "--external-sources", *map(str, scripts)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert not done.stdout


@pytest.mark.parametrize("template", TEMPLATES)
def test_sbatch_takes_the_header(slurm, home, template):
    """As it stands, and with site.env's flags before the user's."""
    slurm.run("sbatch", "--test-only", f"slurm/{template}", cwd=home)
    slurm.run("slurm/submit.sh", "--test-only", f"slurm/{template}", cwd=home)
    edit(home, "GPU_JOBS=(--gpus-per-node=9)", "CPU_JOBS=(--cpus-per-task=97)")
    with pytest.raises(CommandError, match="Requested node configuration is not available"):
        slurm.run("slurm/submit.sh", "--test-only", f"slurm/{template}", cwd=home)
    slurm.run("slurm/submit.sh", "--test-only", "--gpus-per-node=1", "--cpus-per-task=1", f"slurm/{template}", cwd=home)


@pytest.mark.parametrize("template", TEMPLATES)
def test_headers_are_whole(template):
    """sbatch passes over #SBATCH after the first command; its output's folder must be there before."""
    lines = (CHECKOUT / "slurm" / template).read_text().splitlines()
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first_command:] if line.startswith("#SBATCH")]
    (output,) = (line for line in lines if line.startswith("#SBATCH --output="))
    assert "/" not in output


@pytest.mark.parametrize(
    ("flags", "words", "message"),
    [
        ((), ("train.sbatch", "run.toml", "--run", "here"), "leave out --run, and choose --job-name"),
        (("--ntasks-per-node=2",), ("train.sbatch", "run.toml"), "leave out --ntasks-per-node=2"),
        (("--array=2-3",), ("shards.sbatch", "write"), "the array must be whole, as in --array=1-8"),
    ],
)
def test_what_cannot_run_is_said_in_the_jobs_output(slurm, home, flags, words, message):
    job = slurm.submit(*flags, f"slurm/{words[0]}", *words[1:], program="slurm/submit.sh", cwd=home)
    entry = slurm.ended(job)
    assert (entry["JobState"], entry["ExitCode"], entry["Restarts"]) == ("FAILED", "2:0", "0")
    assert message in "".join(path.read_text() for path in home.glob("*.out"))


def test_an_environment_without_koala_is_said(slurm, home):
    edit(home, "KOALA_ENV=/nowhere")
    slurm.ended(slurm.submit("slurm/shards.sbatch", "verify", "here", program="slurm/submit.sh", cwd=home))
    (output,) = home.glob("*.out")
    assert output.read_text() == (
        "koala: /nowhere holds no bin/python; set KOALA_ENV in slurm/site.env to the environment that koala is "
        "installed in\n"
    )


def test_submitting_from_elsewhere_is_refused(slurm, home, tmp_path):
    with pytest.raises(CommandError, match=r"exit code 2\nkoala: there is no slurm/site.env here; submit from"):
        slurm.run(home / "slurm/submit.sh", "slurm/train.sbatch", cwd=tmp_path)


@pytest.mark.slow
def test_the_image_gets_what_the_package_is_made_of(tmp_path):
    """What the Dockerfile copies is enough to build koala and its kit, whose programs can be run."""
    copied = [line.split()[1:-1] for line in (CHECKOUT / "Dockerfile").read_text().splitlines() if line[:5] == "COPY "]
    for source in (CHECKOUT / name for names in copied for name in names):
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / source.name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("dist/*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.getinfo("koala/kit/slurm/pipeline.sh").external_attr >> 16 & stat.S_IXUSR
        assert "koala/kit/launch/nodes.yaml" in archive.namelist()
        assert "koala/training/trainer.py" in archive.namelist()

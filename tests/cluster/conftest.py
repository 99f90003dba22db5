"""Fixtures: the cluster, a user's folder on it, and a training."""

import sys
from pathlib import Path

import pytest

from koala import cli
from koala.config.data import DataSettings
from koala.config.load import save_toml
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from tests.cluster.slurm import Slurm, missing
from tests.processes import finish, start

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Slurm:
    """Two nodes, each with 8 GPUs as far as Slurm can tell."""
    if reason := missing():
        pytest.skip(reason)
    slurm = Slurm(tmp_path_factory.mktemp("slurm"))
    yield slurm
    slurm.close()


@pytest.fixture
def slurm(cluster) -> Slurm:
    """The cluster, without jobs before and after."""
    yield cluster
    cluster.cancel_all()


@pytest.fixture
def home(tmp_path) -> Path:
    """A user's folder: the kit, and a site.env that fits the cluster and runs the code of this checkout.

    Without the doctor, whose visit takes as long as the trainings of these tests.
    """
    home = tmp_path / "home"
    assert cli.main(["kit", str(home)]) == 0
    edit(home, f"KOALA_ENV={sys.prefix}", "DOCTOR=0", f"prepare() {{ export PYTHONPATH={CHECKOUT}; }}")
    edit(home, "GPU_JOBS=(--gpus-per-node=1 --cpus-per-task=2)", "CPU_JOBS=(--cpus-per-task=2)")
    return home


def edit(home: Path, *lines: str) -> None:
    """Change site.env: of two lines that set the same, bash takes the last."""
    with (home / "slurm/site.env").open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


@pytest.fixture(scope="session")
def settings(shard_folder) -> TrainSettings:
    """A training of 20 steps, with a checkpoint at every fifth."""
    return TrainSettings(
        data=DataSettings(shard_folder, geometry="random_crop", size=16, threads=1),
        extractor=ExtractorSettings("none"),
        batch_size=4,
        epochs=2,
        log_every=1,
        validate_every=2,
        checkpoint_every=5,
        keep_checkpoints=1,
        log_pictures=0,
    )


@pytest.fixture(scope="session")
def run_file(settings, tmp_path_factory) -> Path:
    """The same as a file."""
    path = tmp_path_factory.mktemp("settings") / "run.toml"
    save_toml(settings, path)
    return path


@pytest.fixture(scope="session")
def whole(run_file, tmp_path_factory) -> Path:
    """The run folder of that training, by one process that nothing disturbs."""
    run = tmp_path_factory.mktemp("whole")
    finish(start("train", str(run_file), "--run", str(run)))
    return run

"""Killed again and again, and gone on with on other numbers of processes: the same samples, the same loss."""

import json
import os
import random
import socket
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import pytest

from koala.config.data import DataSettings
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.data.sampler import EpochSampler
from koala.data.shards import Shards
from koala.models import checkpoint
from koala.training import trainer

BATCH = 12  # shared evenly by 1, 2, 3 and 4 processes
KILLS = 20
EPOCHS = 18  # of 40 photos: 60 steps
_PROCESSES = get_context("forkserver")
_PROCESSES.set_forkserver_preload(["koala.training.trainer"])


@pytest.fixture
def settings(shard_folder, tmp_path) -> TrainSettings:
    """60 steps of 12 small photos, most of them with a checkpoint."""
    return TrainSettings(
        data=DataSettings(shard_folder, size=16, threads=1, geometry="random_crop"),
        extractor=ExtractorSettings("none"),
        **{"batch_size": BATCH, "epochs": EPOCHS, "device": "cpu", "log_pictures": 0, "learning_rate": 1e-4},
        **{"log_every": 5, "checkpoint_every": 1, "validate_every": 3, "keep_checkpoints": 2, "log_samples": True},
        run=tmp_path / "run",
    )


def _train(settings: TrainSettings, rank: int, world_size: int, port: int) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    if world_size > 1:
        os.environ.update(
            **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"},
        )
    raise SystemExit(trainer.train(settings))


def start_world(settings: TrainSettings, world_size: int) -> list:
    """Train in so many processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = [_PROCESSES.Process(target=_train, args=(settings, rank, world_size, port)) for rank in range(world_size)]
    for process in world:
        process.start()
    return world


def newest(settings: TrainSettings) -> int:
    """Images seen by the newest whole checkpoint."""
    found = checkpoint.latest_checkpoint(settings.run / "checkpoints")
    return found.images_seen if found is not None else 0


def kill(world: list) -> None:
    """SIGKILL to all."""
    for process in world:
        process.kill()
    for process in world:
        process.join()


def steps_of(folder: Path, world_size: int) -> dict[int, list[int]]:
    """The log of one sitting: images seen before each step that all processes began, and the samples of the step."""
    lines = [
        [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        for path in (folder / f"{rank}.jsonl" for rank in range(world_size))
    ]
    assert all(line["world_size"] == world_size for process in lines for line in process)
    seen = [[line["images_seen"] for line in process] for process in lines]
    assert all(later - earlier == BATCH for process in seen for earlier, later in pairwise(process))
    whole = min(map(len, seen))
    assert len({tuple(process[:whole]) for process in seen}) == 1
    return {seen[0][step]: [n for process in lines for n in process[step]["samples"]] for step in range(whole)}


@pytest.mark.slow
def test_twenty_kills_on_one_to_four_processes_change_nothing(settings, tmp_path):
    rng = random.Random(4)
    whole = replace(settings, run=tmp_path / "whole", checkpoint_every=0)
    (uninterrupted,) = start_world(whole, 1)
    uninterrupted.join()
    assert uninterrupted.exitcode == 0

    order = EpochSampler(Shards.open(settings.data.shards, "train").shard_sizes, settings.seed)
    total = EPOCHS * 40
    met: dict[int, list[int]] = {}
    worlds, progressed = [], 0
    for sitting in range(KILLS + 1):
        last, before = sitting == KILLS, newest(settings)
        world_size = rng.choice([n for n in (1, 2, 3, 4) if n != (worlds or [0])[-1]])
        worlds.append(world_size)
        world = start_world(settings, world_size)
        if last:
            for process in world:
                process.join(timeout=240)
        else:
            _wait_for_steps(rng.randint(1, 5), settings.run / "samples", world)
            world[0].join(timeout=rng.uniform(0.0, 0.2))  # into the step, or into the saving
            kill(world)
        assert not last or [process.exitcode for process in world] == [0] * world_size
        steps = steps_of(settings.run / "samples", world_size)
        assert min(steps, default=before) == before, "each sitting begins where the newest checkpoint ended"
        met.update(steps)
        progressed += newest(settings) > before
        (settings.run / "samples").rename(settings.run / f"samples-{sitting}")
    assert set(worlds) == {1, 2, 3, 4}
    assert progressed > KILLS / 3, "many sittings saved something before they were killed"
    assert sorted(met) == list(range(0, total, BATCH))
    assert all(samples == order.positions(seen, BATCH).samples.tolist() for seen, samples in met.items())
    first, second = (last_losses(run) for run in (whole.run, settings.run))
    assert second == pytest.approx(first, rel=0, abs=1e-5)


def _wait_for_steps(count: int, folder: Path, world: list) -> None:
    """Until every process has begun so many steps, or one has ended."""
    files = [folder / f"{rank}.jsonl" for rank in range(len(world))]
    for _ in range(3000):
        if all(file.exists() and len(file.read_bytes().splitlines()) >= count for file in files):
            return
        if world[0].exitcode is not None:
            return
        world[0].join(timeout=0.02)
    raise AssertionError("no step was begun")


def last_losses(run: Path) -> dict[str, float]:
    """The last losses of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {name: [line[name] for line in lines if name in line][-1] for name in ("train/loss", "val/loss")}

"""Shards in an array, and all stages one after the other, as pipeline.sh submits them."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from koala.config.data import ShardRecipe, SplitRule, WriteShards
from koala.config.load import save_toml
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.data import shard_writer
from tests.cluster.slurm import ENDED, CommandError, Slurm, until
from tests.cluster.test_training import assert_same_losses
from tests.processes import finish, start

RECIPE = ShardRecipe(samples_per_shard=10, split=SplitRule(val_count=8))
STAGES = ("all-write", "all-finish", "all-verify", "all-embed", "all", "all-evaluate")


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def submit(slurm: Slurm, home: Path, source: Path, training: TrainSettings) -> dict[str, str]:
    """Submit the pipeline; jobs by their names."""
    save_toml(RECIPE, home / "shards/small.toml")
    save_toml(training, home / "launch/small.toml")
    flags = ("--name", "all", "--nodes", "2", "--parts", "3", "--embed")
    words = ("shards/small.toml", source, home / "shards/data", "launch/small.toml", "--batch-size", "4")
    printed = slurm.run("slurm/pipeline.sh", *flags, *words, cwd=home)
    return {name: job for job, name in re.findall(r"^(\d+) (\S+)$", printed, re.M)}


@pytest.fixture
def training(settings) -> TrainSettings:
    """A training with an extractor, whose embeddings can be kept."""
    small = ExtractorSettings("tf_efficientnet_lite0", weights="random")
    view = replace(settings.data, shards=Path("elsewhere"), geometry="crop", size=32)
    return replace(settings, data=view, extractor=small, batch_size=40)


@pytest.mark.slow
def test_from_images_to_scores(slurm, home, photo_folder, training, tmp_path):
    """Shards have the bytes of those that one process writes, and losses are those of one process."""
    jobs = submit(slurm, home, photo_folder, training)
    assert tuple(jobs) == STAGES
    entry = slurm.ended(jobs["all-evaluate"])
    printed = "\n".join(path.read_text() for path in home.glob("*.out"))
    assert entry["JobState"] == "COMPLETED", printed

    shards, run = home / "shards/data", home / "runs/all"
    shard_writer.write_shards(WriteShards(photo_folder, tmp_path / "one", RECIPE))
    assert tars(shards) == tars(tmp_path / "one")
    assert len(list(home.glob("all-write-*_*.out"))) == 3
    assert f"{shards}: all is well" in printed
    assert "the embeddings are complete" in printed
    assert json.loads((run / "evaluation/scores.json").read_text())
    assert len(list((run / "evaluation/pictures").rglob("*.png"))) == 8

    flags = ("--batch-size", "4", "--data.shards", str(shards), "--extractor.cache")
    finish(start("train", str(home / "launch/small.toml"), "--run", str(tmp_path / "whole"), *flags))
    assert_same_losses(run, tmp_path / "whole")


def test_words_that_are_missing_are_explained(slurm, home):
    with pytest.raises(CommandError, match=r"exit code 2\nFrom images to scores, in jobs that wait for each other"):
        slurm.run("slurm/pipeline.sh", "shards/demo.toml", cwd=home)


def test_when_a_stage_fails_the_others_are_cancelled(slurm, home, training):
    jobs = submit(slurm, home, Path("/nowhere"), training)
    until(
        lambda: all(entry["JobState"] in ENDED for job in jobs.values() for entry in slurm.show(job)),
        "all jobs to end",
        lambda: slurm.run("squeue"),
    )
    assert {entry["JobState"] for entry in slurm.show(jobs["all-write"])} == {"FAILED"}
    assert {slurm.show(jobs[stage])[0]["JobState"] for stage in STAGES[1:]} == {"CANCELLED"}
    assert "koala: /nowhere" in "".join(path.read_text() for path in home.glob("*.out"))

"""Crops for other colourisers: the very pixels that are judged, under the photos' names."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from koala import cli
from koala.config.data import ResizeRule, ShardRecipe, SplitRule, WriteShards
from koala.config.evaluation import EvaluateSettings
from koala.data import shard_writer
from koala.evaluation import evaluate, results


@pytest.fixture
def rules(tmp_path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text('size = 16\ngeometry = "pad"\n')
    return path


def exported(shards: Path, out: Path, rules: Path, *words: str) -> int:
    return cli.main(["shards", "export", str(shards), "--out", str(out), "--protocol", str(rules), *words])


def test_crops_are_the_truth(shard_folder, tmp_path, rules):
    """Also without their padding, and where some were written before."""
    assert exported(shard_folder, tmp_path / "crops", rules) == 0
    first, *_ = sorted((tmp_path / "crops").rglob("*.png"))
    before = first.read_bytes()
    first.unlink()
    assert exported(shard_folder, tmp_path / "crops", rules) == 0
    assert first.read_bytes() == before
    evaluate.evaluate(EvaluateSettings(tmp_path / "crops", shard_folder, protocol=str(rules), threads=2))
    found = results.read_result(tmp_path / "crops-evaluation")
    assert found.report["pictures"] == 8
    assert found.scores["psnr"] == 100


def test_grey_crops_have_no_colours_and_some_can_be_taken(shard_folder, tmp_path, rules):
    assert exported(shard_folder, tmp_path / "grey", rules, "--grey", "--limit", "3") == 0
    paths = list((tmp_path / "grey").rglob("*.png"))
    assert len(paths) == 3
    assert exported(shard_folder, tmp_path / "color", rules, "--limit", "3") == 0
    for path in paths:
        with Image.open(path) as grey, Image.open(tmp_path / "color" / path.relative_to(tmp_path / "grey")) as color:
            assert grey.mode == "L"
            difference = np.asarray(grey).astype(int) - np.asarray(color.convert("L"))
            assert abs(difference).max() <= 1, "the network's L* is that of Pillow's greys"


def test_other_crops_are_not_mixed_with_these(shard_folder, tmp_path, rules, capsys):
    assert exported(shard_folder, tmp_path / "crops", rules, "--limit", "2") == 0
    assert exported(shard_folder, tmp_path / "crops", rules, "--limit", "2", "--grey") == 2
    assert "holds crops of another protocol or of other photos; choose another --out" in capsys.readouterr().err


def test_crops_of_other_shards_are_not_mixed_with_these(photo_folder, shard_folder, tmp_path, rules, capsys):
    """The same photos, drawn alike, but smaller."""
    recipe = ShardRecipe(samples_per_shard=10, split=SplitRule(val_count=8), resize=ResizeRule("short", 32))
    shard_writer.write_shards(WriteShards(photo_folder, tmp_path / "other", recipe))
    assert exported(shard_folder, tmp_path / "crops", rules) == 0
    assert exported(tmp_path / "other", tmp_path / "crops", rules) == 2
    assert "holds crops of another protocol or of other photos" in capsys.readouterr().err

"""koala benchmark: what it measures, and the table."""

import json
from dataclasses import replace

import pytest
import torch

from koala import cli
from koala.config.models import ExtractorSettings, ObjectiveSettings
from koala.config.training import TrainSettings
from koala.training import benchmark
from koala.training.benchmark import Row

WORDS = ["--data.size", "16", "--data.threads", "2", "--batch-size", "4", "--seconds", "0.05"]


@pytest.mark.parametrize("shards", ["made up", "given"])
def test_the_table_and_the_file(shards, shard_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = ["--data.shards", str(shard_folder)] if shards == "given" else ["--objective", "classification"]
    words = [*WORDS, *given, "--extractor.name", "none", "--out", "table.json"]
    assert cli.main(["benchmark", *words]) == 0
    content = json.loads((tmp_path / "table.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == ["read", "decode", "feed", "step", "end to end"]
    assert all(row["rate"] > 0 for row in rows.values())
    assert rows["end to end"]["limit"] == min(rows["feed"]["rate"], rows["step"]["rate"])
    expected = str(shard_folder) if shards == "given" else "64 made-up photos of 500 x 375"
    assert content["environment"]["photos"] == expected
    printed = capsys.readouterr().out
    assert f"photos: {expected}" in printed and "| end to end |" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_a_row_beside_its_limit():
    """50 images a second of 200 are a quarter."""
    rows = [Row("feed", 50.0, 200.0, "decode"), Row("read", 1234.5, detail="99 MB/s")]
    assert benchmark.to_text({"cores": "2"}, rows).splitlines() == [
        "cores: 2  ",
        "",
        "| | images/s | of its limit | limit: images/s | |",
        "|---|---:|---:|---:|---|",
        "| feed | 50.0 | 25% | 200.0 (decode) |  |",
        "| read | 1,234.5 |  |  | 99 MB/s |",
    ]


def test_a_rate_leaves_the_first_ones_out(monkeypatch):
    """Three to warm up; then 4 images a second until 2 seconds are over: 3 of them, for one is begun before that."""
    now = iter([0.0, 0.5, 1.0, 1.5, 2.0, 2.0])
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(now))
    done = iter([100, 100, 100, 4, 4, 4])
    assert benchmark.rate(done, 2.0, torch.device("cpu")) == 12 / 2.0


def test_nothing_is_fetched_or_told():
    told = TrainSettings(init="builtin", notify="mail", objective=ObjectiveSettings(perceptual=1.0))
    alone = benchmark.without_weights(replace(told, extractor=ExtractorSettings()), told.data.shards)
    assert (alone.extractor.weights, alone.objective.perceptual_weights) == ("random", "random")
    assert (alone.init, alone.notify, alone.tracker) == ("", "", ())

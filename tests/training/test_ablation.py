"""Variants at equal budget: what is run, what is told, what is chance."""

import json
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from koala import cli
from koala.config.evaluation import EvaluateSettings
from koala.config.load import load_toml, validate
from koala.config.training import AblateSettings, AblationSettings, TrainSettings
from koala.core.errors import UserError
from koala.evaluation import results
from koala.models import checkpoint
from koala.training import ablation, trainer

ABLATION = """
seeds = [0, 1]

[train]
epochs = 0.5
batch_size = 4
log_every = 1
log_pictures = 0

[train.data]
shards = "{shards}"
size = 16
threads = 2

[train.extractor]
name = "none"

[variants.plain]

[variants.quick]
learning_rate = 1e-2
data = {{ lightness = "color" }}

[evaluations.grey]
lightness = "grey"
pictures = 2

[evaluations.color]
lightness = "color"
pictures = 2
"""


@pytest.fixture
def file(shard_folder, tmp_path):
    path = tmp_path / "ablation.toml"
    path.write_text(ABLATION.format(shards=shard_folder))
    return path


@pytest.fixture
def settings(file, tmp_path) -> AblateSettings:
    return AblateSettings(out=tmp_path / "out", ablation=load_toml(AblationSettings, file))


def test_who_stops_it_is_told_of_koala_ablate(settings, monkeypatch, capsys):
    monkeypatch.setattr(trainer.GracefulStop, "requested", lambda self: signal.SIGTERM)
    assert ablation.ablate(settings) == 128 + signal.SIGTERM
    said = capsys.readouterr().err.splitlines()
    assert "stopped after 4 images; to resume, run the same koala ablate command" in said


def test_variants_may_say_settings_by_their_old_names(settings, capsys):
    variants = {"plain": {}, "milder": {"clip_norm": 0.5}}
    old = replace(settings, ablation=replace(settings.ablation, variants=variants))
    assert [run.settings.clip_grad_norm for run in ablation.plan_runs(old)] == [0, 0.5] * 2
    assert "variants.milder: clip_norm is now clip_grad_norm" in capsys.readouterr().err
    unequal = replace(settings, ablation=replace(settings.ablation, variants={"larger": {"batch": 8}}))
    with pytest.raises(UserError, match=r"variants.larger.batch_size: it is the same for all variants"):
        ablation.plan_runs(unequal)


def test_each_variant_is_trained_once_before_any_is_trained_again(settings):
    found = ablation.plan_runs(settings)
    assert [run.settings.run.name for run in found] == ["plain-0", "quick-0", "plain-1", "quick-1"]
    assert [run.settings.seed for run in found] == [0, 0, 1, 1]
    quick = found[1].settings
    assert (quick.learning_rate, quick.data.lightness, quick.data.size, quick.batch_size) == (1e-2, "color", 16, 4)
    assert found[0].settings.learning_rate == TrainSettings().learning_rate
    assert found[1].evaluations == {name: settings.out / "quick-0" / name for name in ("grey", "color")}


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "launch").glob("ablation-*.toml")), ids=str)
def test_ready_files_have_settings_that_exist(path, tmp_path):
    found = ablation.plan_runs(AblateSettings(out=tmp_path, ablation=load_toml(AblationSettings, path)))
    assert len(found) >= 4
    flags = load_toml(AblationSettings, path).evaluations
    for evaluation in flags.values():
        validate(EvaluateSettings, {"model": "run", "shards": "shards", **evaluation}, str(path))


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({}, "an ablation needs variants"),
        ({"long": {"epochs": 9.0}}, "variants.long.epochs: it is the same for all variants; set it in [train]"),
        ({"odd": {"lerning_rate": 1.0}}, "variants.odd: there is no setting lerning_rate; did you mean learning_rate?"),
    ],
)
def test_what_is_no_ablation_is_refused(settings, variants, message):
    with pytest.raises(UserError, match=re.escape(message)):
        ablation.plan_runs(replace(settings, ablation=replace(settings.ablation, variants=variants)))


def test_means_differences_and_chance():
    """Two rows of two seeds each: the pooled variance is 0.02 with two degrees of freedom, Student's t 4.303."""
    scores = {"a": [{"mse": 1.0}, {"mse": 1.2}], "b": [{"mse": 2.0}, {"mse": 2.2}]}
    first, second = ablation.score_table(scores)
    assert (first.means, first.differences) == ({"mse": pytest.approx(1.1)}, {})
    assert second.differences == {"mse": pytest.approx(1.0)}
    assert second.chance == {"mse": pytest.approx(4.302653 * np.sqrt(0.02))}
    assert "2.1 (**+1**)" in ablation.to_markdown([first, second], seeds=2)


def test_chance_is_kept_to_in_nineteen_of_twenty_ablations():
    """Variants that are equal differ by more than chance in 5 % of 2,000 simulated ablations (within 1.5)."""
    rng = np.random.default_rng(0)
    beyond = 0
    for _ in range(2000):
        scores = {name: [{"mse": value} for value in rng.normal(size=2)] for name in "abc"}
        row = ablation.score_table(scores)[1]
        beyond += abs(row.differences["mse"]) > row.chance["mse"]
    assert beyond / 2000 == pytest.approx(0.05, abs=0.015)


def test_one_seed_leaves_chance_unknown():
    rows = ablation.score_table({"a": [{"mse": 1.0}], "b": [{"mse": 2.0}]})
    assert rows[1].chance == {}
    assert "**" not in ablation.to_markdown(rows, seeds=1)


def test_baselines_stand_below_the_variants():
    """What they have no score of stays empty; with one variant's chance known, it is still said what is bold."""
    rows = ablation.score_table(
        {"a": [{"mse": 1.0, "cf": 9.0}, {"mse": 1.1, "cf": 9.0}], "b": [{"mse": 2.0, "cf": 8.0}] * 2}
    )
    rows += ablation.baseline_rows({"baselines": {"grey": {"mse": 3.0}}}, "photos")
    table = ablation.to_markdown(rows, seeds=2)
    assert table.splitlines()[4] == "| (grey), photos | 3 |  |"
    assert "bold where it is more than seeds leave to chance" in table
    assert ablation.to_csv(rows).splitlines()[-1] == '"(grey), photos",mse,3.0,,'
    assert ablation.baseline_rows({}, "") == [], "an evaluation of an earlier koala has none"


@pytest.mark.slow
def test_in_two_parts_and_again(file, tmp_path, capsys):
    """The first part leaves the table to the second; a third time nothing is trained."""
    words = ["ablate", str(file), "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--part", "1/2"]) == 0
    assert "the last part to end lays all side by side" in capsys.readouterr().out
    assert not (tmp_path / "out/ablation.md").exists()
    assert cli.main([*words, "--part", "2/2"]) == 0
    lines = (tmp_path / "out/ablation.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:6]] == [
        "plain, grey",
        "plain, color",
        "quick, grey",
        "quick, color",
    ]
    assert [line.split("|")[1].strip() for line in lines[6:12:3]] == ["(grey), grey", "(grey), color"]
    unbeaten = [line for line in lines if line.startswith("- plain, grey (seed 0): these colours are not clearly")]
    verdict = results.read_scores(tmp_path / "out/plain-0/grey")["verdict"]
    assert len(unbeaten) == (not verdict["beaten"])
    assert checkpoint.find_checkpoint(tmp_path / "out/quick-1").settings.seed == 1
    told = json.loads((tmp_path / "out/quick-0/grey/scores.json").read_text())
    assert told["input_lightness"] == "grey"
    assert (tmp_path / "out/comparison/grey/comparison.html").exists()
    capsys.readouterr()
    assert cli.main(words) == 0
    assert capsys.readouterr().err.count("is complete") == 4

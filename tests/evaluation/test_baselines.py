"""Baselines: what they score, and what is said of colours that are no better."""

import numpy as np
import pytest
import torch

from koala.config.evaluation import EvaluateSettings, EvaluationProtocol
from koala.core.errors import UserError
from koala.data import color_prior
from koala.data.loader import Batch
from koala.evaluation import baselines, evaluate, results, scoring
from koala.evaluation.predictions import AssembledPrediction
from koala.imaging import ab_bins, color


@pytest.fixture
def batch() -> Batch:
    """Two pictures of one colour each, green and dark red, of 16 x 16 pixels."""
    rgb = torch.tensor([[40, 160, 60], [150, 30, 20]], dtype=torch.uint8)[:, :, None, None].expand(2, 3, 16, 16)
    lightness = color.to_lightness(rgb, "grey")
    return Batch(lightness, color.to_ab(rgb), np.arange(2), rgb=rgb.contiguous())


def table_of(prediction, constant=(0.0, 0.0), weight=None):
    scores = scoring.score_batch(prediction, weight)
    scores |= baselines.score_baselines(prediction, torch.tensor(constant), "color", weight)
    return {name: values.numpy() for name, values in scores.items()}


def test_a_picture_of_one_colour_is_its_own_mean(batch):
    table = table_of(AssembledPrediction(batch, 0 * batch.ab, "color"))
    assert table["mse of own mean"] == pytest.approx([0, 0], abs=1e-9)
    assert table["ciede2000 of own mean"] == pytest.approx([0, 0], abs=0.3), "but for rounding to 8 bits"
    assert table["mse of grey"] == pytest.approx(table["ab_power_true"])
    for measure in scoring.NEARNESS[:4]:
        assert table[f"{measure} of grey"] == pytest.approx(table[measure]), "no colours are grey"
    assert table["chroma of own mean"] == pytest.approx(table["chroma_true"], rel=1e-6)


def test_padding_has_no_part_in_the_mean(batch):
    weight = torch.ones(2, 1, 16, 16)
    weight[:, :, :, 12:] = 0
    padded = torch.where(weight > 0, batch.ab, torch.zeros(()))
    batch = Batch(batch.lightness, padded, batch.samples, rgb=batch.rgb)
    table = table_of(AssembledPrediction(batch, padded, "color"), weight=weight)
    assert table["chroma of own mean"] == pytest.approx(table["chroma_true"], rel=1e-6)


def test_the_best_factor_by_hand(batch):
    """True ab halved: the factor is 2, and nothing is left. Turned round: none is better than 0, which is grey."""
    halved, _ = scoring.aggregate_scores(
        table_of(AssembledPrediction(batch, batch.ab / 2, "color")), EvaluationProtocol()
    )
    assert halved["best_factor"] == pytest.approx(2)
    assert halved["mse_best_factor"] == pytest.approx(0, abs=1e-9)
    table = table_of(AssembledPrediction(batch, -batch.ab, "color"))
    turned, _ = scoring.aggregate_scores(table, EvaluationProtocol())
    assert turned["best_factor"] == 0
    assert turned["mse_best_factor"] == pytest.approx(table["mse of grey"].mean())


def test_the_best_factor_is_where_the_error_is_least():
    """Against a search over factors, on numbers drawn at random."""
    rng = np.random.default_rng(1)
    true, predicted = rng.normal(size=(2, 50, 8))
    predicted += true
    errors = [np.square(factor * predicted - true).mean() for factor in np.linspace(0, 2, 2001)]
    powers = np.square(predicted).mean(), np.square(true).mean()
    factor, error = scoring.best_factor(np.square(predicted - true).mean(), *powers)
    assert factor == pytest.approx(np.argmin(errors) / 1000, abs=1e-3)
    assert error == pytest.approx(min(errors), rel=1e-5)


def table_with(mine, grey, constant):
    columns = {"ciede2000": mine, "ciede2000 of grey": grey, "ciede2000 of constant": constant}
    return {name: np.array(values, np.float64) for name, values in columns.items()}


BOTH = "leaving the photos grey and one constant colour"


@pytest.mark.parametrize(
    ("mine", "beaten", "text", "share"),
    [
        ([6, 7, 8, 7], True, f"clearly nearer to the truth than {BOTH}", 100),
        ([8.5, 9, 9, 9], False, "not clearly nearer to the truth than one constant colour", 100),
        ([9, 10, 14, 12], False, f"not clearly nearer to the truth than {BOTH}", 25),
    ],
)
def test_the_verdict_is_in_words(mine, beaten, text, share):
    found = baselines.verdict(table_with(mine, [10, 10, 11, 11], [9, 9, 9, 8.5]))
    assert found.beaten == beaten
    assert found.text == (
        f"these colours are {text}: CIEDE2000 {np.mean(mine):.2f}, grey 10.50, constant 8.88; "
        f"nearer than grey in {share} % of the pictures"
    )


def test_the_share_of_pictures_that_are_nearer():
    table = {"psnr": np.array([20, 25, 30.0]), "psnr of grey": np.array([21, 25, 29.0])}
    assert baselines.nearer_than_grey(table) == {"psnr": pytest.approx(1 / 3)}, "an equal picture is not nearer"


def test_evaluations_hold_them_and_say_whence_the_constant_is(run, shard_folder, tmp_path):
    """Without a prior it is the mean of what is judged, so that no other constant has a lower squared error."""
    evaluate.evaluate(EvaluateSettings(run, shard_folder, out=tmp_path, batch_size=3, threads=2))
    found = results.read_result(tmp_path)
    assert found.report["constant"]["of"] == baselines.FROM_TRUTH
    of_each = found.report["baselines"]
    assert list(of_each) == list(baselines.BASELINES)
    assert of_each["own mean"]["mse"] < of_each["constant"]["mse"] < of_each["grey"]["mse"]
    assert of_each["constant"]["best_factor"] == pytest.approx(1, abs=1e-4)
    assert of_each["grey"]["chroma_ratio"] == 0
    page = (tmp_path / "report.html").read_text()
    alarm = '<p class="alarm">' in page
    assert alarm != found.report["verdict"]["beaten"]
    assert sum(share["true"] for share in found.report["hues"].values()) == pytest.approx(1)


def test_the_constant_is_that_of_the_training_shards_where_their_prior_is_known(tmp_path, monkeypatch):
    def prior(folder):
        if folder != tmp_path:
            raise UserError("no prior")
        shares = torch.zeros(len(ab_bins.centers()))
        shares[[0, 10]] = 0.5
        return shares

    monkeypatch.setattr(color_prior, "read_prior", prior)
    found = baselines.training_color(None, [tmp_path / "elsewhere", tmp_path])
    expected = ab_bins.centers()[[0, 10]].mean(dim=0)
    assert np.array(found.ab) * 127 == pytest.approx(expected.numpy())
    assert found.origin == f"the training samples of {tmp_path}"
    assert baselines.color_of_prior(prior(tmp_path)).ab == found.ab  # as a network keeps it
    assert baselines.training_color(None, [tmp_path / "elsewhere"]) is None
    assert baselines.training_color(tmp_path, []) == found
    with pytest.raises(UserError):
        baselines.training_color(tmp_path / "elsewhere", [tmp_path])

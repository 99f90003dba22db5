"""Each alarm, triggered."""

import pytest

from koala.config.models import ObjectiveSettings
from koala.config.training import TrainSettings
from koala.evaluation import failure_signs

WELL = {"chroma_ratio": 0.9, "out_of_gamut": 0.1, "saturated": 0.0}
ILL = [
    ("grey collapse", {"chroma_ratio": 0.05}, "predicted chroma is 0.05 of the true"),
    ("out of gamut", {"out_of_gamut": 0.42}, "42% of the colours are none that sRGB can show"),
    ("dead tanh", {"saturated": 0.11}, "11% of the predicted ab lie at the end of the scale"),
]


@pytest.mark.parametrize(("name", "change", "words"), ILL)
def test_each_sign_is_said_in_words(name, change, words):
    assert failure_signs.warnings(WELL, TrainSettings()) == []
    (warning,) = failure_signs.warnings(WELL | change, TrainSettings())
    assert warning.startswith(f"{name}: {words}") and warning.endswith(" often helps")


@pytest.mark.parametrize(
    ("settings", "measure", "remedy"),
    [
        ({}, {"out_of_gamut": 0.5}, "a lower --learning-rate"),
        (
            {"objective": ObjectiveSettings("classification")},
            {"out_of_gamut": 0.5},
            "a smaller --objective.rebalancing or a higher --temperature where it colours",
        ),
        (
            {"objective": ObjectiveSettings("huber", colorfulness=1.0)},
            {"out_of_gamut": 0.5},
            "a smaller --objective.colorfulness",
        ),
        (
            {"objective": ObjectiveSettings("weighted-mse", rebalancing=0.0)},
            {"out_of_gamut": 0.5},
            "a lower --learning-rate",
        ),
        ({}, {"chroma_ratio": 0.05}, "a lower --learning-rate with --warmup-images"),
        ({"warmup_images": 500}, {"chroma_ratio": 0.05}, "a lower --learning-rate"),
        ({}, {"saturated": 0.5}, "a lower --learning-rate or --clip-grad-norm 1"),
        ({"clip_grad_norm": 1.0}, {"saturated": 0.5}, "a lower --learning-rate"),
    ],
)
def test_advice_fits_the_training(settings, measure, remedy):
    """Nobody is told to lower what their objective does not have, or to set what is set."""
    (warning,) = failure_signs.warnings(WELL | measure, TrainSettings(**settings))
    assert warning.endswith(f"; {remedy} often helps")


@pytest.mark.parametrize(("name", "change", "words"), ILL)
def test_training_says_it_once_until_all_is_well_again(name, change, words):
    watch = failure_signs.FailureWatch(TrainSettings())
    said = [watch.warnings(20_000 + step, WELL | change) for step in range(12)]
    assert [len(lines) for lines in said] == [0] * 4 + [1] + [0] * 7
    assert f"after 20004 images, {name}: {words}" in said[4][0]
    assert not watch.warnings(20_100, WELL)
    assert [len(watch.warnings(20_200 + step, WELL | change)) for step in range(5)] == [0] * 4 + [1]


def test_what_others_made_is_not_told_how_to_train():
    assert failure_signs.warnings(WELL | {"chroma_ratio": 0.05}) == [
        "grey collapse: predicted chroma is 0.05 of the true"
    ]


def test_every_network_is_grey_at_first():
    watch = failure_signs.FailureWatch(TrainSettings())
    assert not any(watch.warnings(step, {"chroma_ratio": 0.01}) for step in range(0, 9000, 100))


def test_what_is_not_measured_is_not_judged():
    """Of photographs without colour there is no ratio."""
    watch = failure_signs.FailureWatch(TrainSettings())
    assert not any(watch.warnings(20_000 + step, {"out_of_gamut": 0.0}) for step in range(9))
    assert failure_signs.warnings({}) == []

"""Each alarm, triggered."""

import pytest

from koala.evaluation import failure_signs

WELL = {"chroma_ratio": 0.9, "out_of_gamut": 0.1, "saturated": 0.0}
ILL = [
    ("grey collapse", {"chroma_ratio": 0.05}, "predicted chroma is 0.05 of the true"),
    ("out of gamut", {"out_of_gamut": 0.42}, "42% of the colours are none that sRGB can show"),
    ("dead tanh", {"saturated": 0.11}, "11% of the predicted ab lie at the end of the scale"),
]


@pytest.mark.parametrize(("name", "change", "words"), ILL)
def test_each_sign_is_said_in_words(name, change, words):
    assert failure_signs.warnings(WELL) == []
    (warning,) = failure_signs.warnings(WELL | change)
    assert warning.startswith(f"{name}: {words}")


@pytest.mark.parametrize(("name", "change", "words"), ILL)
def test_training_says_it_once_until_all_is_well_again(name, change, words):
    watch = failure_signs.FailureWatch()
    said = [watch.warnings(20_000 + step, WELL | change) for step in range(12)]
    assert [len(lines) for lines in said] == [0] * 4 + [1] + [0] * 7
    assert f"after 20004 images, {name}: {words}" in said[4][0]
    assert not watch.warnings(20_100, WELL)
    assert [len(watch.warnings(20_200 + step, WELL | change)) for step in range(5)] == [0] * 4 + [1]


def test_what_others_made_is_not_told_how_to_train():
    assert failure_signs.warnings(WELL | {"chroma_ratio": 0.05}, remedies=False) == [
        "grey collapse: predicted chroma is 0.05 of the true"
    ]


def test_every_network_is_grey_at_first():
    watch = failure_signs.FailureWatch()
    assert not any(watch.warnings(step, {"chroma_ratio": 0.01}) for step in range(0, 9000, 100))


def test_what_is_not_measured_is_not_judged():
    """Of photographs without colour there is no ratio."""
    watch = failure_signs.FailureWatch()
    assert not any(watch.warnings(20_000 + step, {"out_of_gamut": 0.0}) for step in range(9))
    assert failure_signs.warnings({}) == []

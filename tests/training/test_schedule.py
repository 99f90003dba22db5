"""Pure functions of the clock."""

import pytest

from koala.config.training import TrainSettings
from koala.training.schedule import is_due, learning_rate, ramp_up


@pytest.mark.parametrize(
    ("images_seen", "expected"), [(0, 0.0), (50, 0.5), (100, 1.0), (600, 0.5), (1100, 0.0), (2000, 0.0)]
)
def test_warmup_and_cosine(images_seen, expected):
    settings = TrainSettings(learning_rate=1.0, warmup_images=100, schedule="cosine")
    assert learning_rate(images_seen, 1100, settings) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("images_seen", "expected"), [(100, 1.0), (349, 1.0), (350, 0.5), (600, 0.25)])
def test_steps_after_the_warmup(images_seen, expected):
    settings = TrainSettings(learning_rate=1.0, warmup_images=100, schedule="step", decay_rate=0.5, decay_every=250)
    assert learning_rate(images_seen, 1100, settings) == expected


def test_constant_by_default():
    assert {learning_rate(seen, 1000, TrainSettings()) for seen in range(0, 1000, 50)} == {1e-3}


@pytest.mark.parametrize(("scaling", "expected"), [("none", 1e-3), ("linear", 4e-3), ("sqrt", 2e-3)])
def test_scaling_with_the_batch(scaling, expected):
    assert learning_rate(0, 1000, TrainSettings(batch_size=200, learning_rate_scaling=scaling)) == pytest.approx(
        expected
    )
    assert learning_rate(0, 1000, TrainSettings(batch_size=50, learning_rate_scaling=scaling)) == 1e-3


def test_is_time_once_a_period():
    assert [seen for seen in range(30, 700, 30) if is_due(seen, 30, 100)] == [120, 210, 300, 420, 510, 600]
    assert not is_due(30, 30, 0)


def test_a_term_joins_over_the_first_half():
    assert [ramp_up(seen, 1000) for seen in (0, 125, 250, 500, 900, 1000)] == [0, 0.25, 0.5, 1, 1, 1]

"""The bootstrap against what is known of means."""

import numpy as np
import pytest

from koala.evaluation import confidence_intervals


def test_intervals_of_a_mean_are_those_of_theory():
    """Of 400 normal values the mean has an interval of 1.96 standard errors each way, but for the bootstrap's noise."""
    values = np.random.default_rng(0).normal(5, 2, (400, 1))
    low, high = confidence_intervals.interval(confidence_intervals.resampled_means(values)[:, 0])
    error = values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.15 * error)


def test_columns_are_resampled_together():
    """What differs by the same in each picture differs by that in each resample."""
    values = np.random.default_rng(1).normal(size=(50, 1))
    resampled = confidence_intervals.resampled_means(np.concatenate([values, values + 0.25], axis=1))
    assert np.ptp(resampled[:, 0]) > 0.1
    assert resampled[:, 1] - resampled[:, 0] == pytest.approx(np.full(confidence_intervals.RESAMPLES, 0.25))


def test_the_seed_decides():
    values = np.random.default_rng(2).normal(size=(20, 2))
    first, same, other = (confidence_intervals.resampled_means(values, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, same) and not np.array_equal(first, other)


def test_one_picture_has_no_spread():
    assert confidence_intervals.interval(confidence_intervals.resampled_means(np.array([[3.0]]))[:, 0]) == (3.0, 3.0)

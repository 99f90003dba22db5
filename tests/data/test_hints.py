"""Hints for training: which squares are revealed, and what they show."""

import numpy as np
import torch

from koala.data.hints import MOST, draw_squares, reveal

SAMPLES = np.arange(4000)


def counts(squares: np.ndarray) -> np.ndarray:
    return (squares[..., 2] > squares[..., 0]).sum(axis=1)


def test_half_of_the_pictures_have_none_and_the_others_up_to_ten():
    found = np.bincount(counts(draw_squares(0, 0, SAMPLES, 128)), minlength=MOST + 1)
    assert len(found) == MOST + 1
    assert abs(found[0] / len(SAMPLES) - 0.5) < 0.03  # 3.8 standard deviations
    assert abs(found[1:] / len(SAMPLES) - 0.05).max() < 0.014


def test_squares_lie_within_the_picture_and_are_small():
    squares = draw_squares(3, 640, SAMPLES, 96)
    sides = squares[..., 2:] - squares[..., :2]
    assert squares.min() >= 0 and squares.max() <= 96
    assert (sides[..., 0] == sides[..., 1]).all()
    assert set(np.unique(sides)) == set(range(1 + int(1 + 96 / 14)))


def test_a_sample_has_the_same_squares_in_every_process():
    """On two processes that share a batch, as on one; others in another step, or with another seed."""
    whole = draw_squares(1, 96, SAMPLES[:8], 64)
    halves = [draw_squares(1, 96, SAMPLES[start:8:2], 64) for start in (0, 1)]
    assert np.array_equal(whole[0::2], halves[0]) and np.array_equal(whole[1::2], halves[1])
    assert not np.array_equal(whole, draw_squares(1, 128, SAMPLES[:8], 64))
    assert not np.array_equal(whole, draw_squares(2, 96, SAMPLES[:8], 64))


def test_what_is_revealed():
    ab = torch.rand(2, 2, 8, 6)
    squares = np.zeros((2, 2, 4), np.int64)
    squares[0, 0], squares[0, 1] = (1, 2, 3, 4), (2, 3, 4, 5)  # they overlap
    hints = reveal(ab, squares)
    shown = torch.zeros(8, 6, dtype=torch.bool)
    shown[1:3, 2:4] = shown[2:4, 3:5] = True
    assert torch.equal(hints[0, 2].bool(), shown)
    assert torch.equal(hints[0, :2], ab[0] * shown)
    assert not hints[1].any()

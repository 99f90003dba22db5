"""Metrics against scikit-image and by hand; merging."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio

from koala import metrics
from koala.metrics import Means


def pictures(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, 3, 12, 10), np.uint8))


def test_psnr_and_mse_are_scikit_images():
    true, predicted = pictures(0), pictures(1)
    for index in range(3):
        pair = true[index].numpy(), predicted[index].numpy()
        assert metrics.mse(predicted, true)[index] == pytest.approx(mean_squared_error(*pair), rel=1e-9)
        assert metrics.psnr(predicted, true)[index] == pytest.approx(peak_signal_noise_ratio(*pair), rel=1e-9)


def test_psnr_of_equal_pictures_is_finite():
    assert metrics.psnr(pictures(0), pictures(0)).tolist() == pytest.approx([100.0] * 3)


def test_chroma_by_hand():
    ab = torch.tensor([[[[3.0, 0.0]], [[4.0, 1.0]]]])  # one picture of 1 x 2: chromas 5 and 1
    assert metrics.chroma(ab).tolist() == [3.0]


values = st.lists(st.floats(-1e6, 1e6), min_size=0, max_size=20)


@given(values, values, values)
def test_merging_parts_gives_the_whole(first, second, third):
    whole = first + second + third
    parts = sum((Means.of({"x": torch.tensor(part)}) for part in (first, second, third)), Means())
    assert parts.count == len(whole)
    if whole:
        assert parts.compute()["x"] == pytest.approx(torch.tensor(whole).double().mean().item(), rel=1e-6, abs=1e-3)


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="no picture"):
        Means().compute()
    with pytest.raises(ValueError, match="one value a picture"):
        Means.of({"x": torch.zeros(2), "y": torch.zeros(3)})

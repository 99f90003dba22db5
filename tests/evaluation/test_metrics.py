"""Metrics against scikit-image, torchmetrics, torch-fidelity, published values and by hand; merging."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage import data
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from koala.evaluation import metrics
from koala.evaluation.metrics import Histograms, Moments
from koala.imaging import color, hues

# L*, a*, b* of two colours, and their difference: table 1 of Sharma, Wu and Dalal (2005), all 34 pairs
SHARMA = """
50.0000   2.6772 -79.7751  50.0000   0.0000 -82.7485   2.0425
50.0000   3.1571 -77.2803  50.0000   0.0000 -82.7485   2.8615
50.0000   2.8361 -74.0200  50.0000   0.0000 -82.7485   3.4412
50.0000  -1.3802 -84.2814  50.0000   0.0000 -82.7485   1.0000
50.0000  -1.1848 -84.8006  50.0000   0.0000 -82.7485   1.0000
50.0000  -0.9009 -85.5211  50.0000   0.0000 -82.7485   1.0000
50.0000   0.0000   0.0000  50.0000  -1.0000   2.0000   2.3669
50.0000  -1.0000   2.0000  50.0000   0.0000   0.0000   2.3669
50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0009   7.1792
50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0010   7.1792
50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0011   7.2195
50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0012   7.2195
50.0000  -0.0010   2.4900  50.0000   0.0009  -2.4900   4.8045
50.0000  -0.0010   2.4900  50.0000   0.0010  -2.4900   4.8045
50.0000  -0.0010   2.4900  50.0000   0.0011  -2.4900   4.7461
50.0000   2.5000   0.0000  50.0000   0.0000  -2.5000   4.3065
50.0000   2.5000   0.0000  73.0000  25.0000 -18.0000  27.1492
50.0000   2.5000   0.0000  61.0000  -5.0000  29.0000  22.8977
50.0000   2.5000   0.0000  56.0000 -27.0000  -3.0000  31.9030
50.0000   2.5000   0.0000  58.0000  24.0000  15.0000  19.4535
50.0000   2.5000   0.0000  50.0000   3.1736   0.5854   1.0000
50.0000   2.5000   0.0000  50.0000   3.2972   0.0000   1.0000
50.0000   2.5000   0.0000  50.0000   1.8634   0.5757   1.0000
50.0000   2.5000   0.0000  50.0000   3.2592   0.3350   1.0000
60.2574 -34.0099  36.2677  60.4626 -34.1751  39.4387   1.2644
63.0109 -31.0961  -5.8663  62.8187 -29.7946  -4.0864   1.2630
61.2901   3.7196  -5.3901  61.4292   2.2480  -4.9620   1.8731
35.0831 -44.1164   3.7933  35.0232 -40.0716   1.5901   1.8645
22.7233  20.0904 -46.6940  23.0331  14.9730 -42.5619   2.0373
36.4612  47.8580  18.3852  36.2715  50.5065  21.2231   1.4146
90.8027  -2.0831   1.4410  91.1528  -1.6435   0.0447   1.4441
90.9257  -0.5406  -0.9208  88.6381  -0.8985  -0.7239   1.5381
 6.7747  -0.2908  -2.4247   5.8714  -0.0985  -2.2286   0.6377
 2.0776   0.0795  -1.1350   0.9033  -0.0636  -0.5514   0.9082
"""


@pytest.fixture(scope="module")
def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Three parts of a photograph and what is left of them after colours were moved: `(3, 3, 96, 80)` uint8 each."""
    photo = np.stack([data.astronaut()[y : y + 96, x : x + 80] for y, x in ((0, 180), (200, 100), (300, 300))])
    moved = photo * [0.9, 1.0, 1.1] + np.random.default_rng(0).normal(0, 6, photo.shape)
    return tuple(
        torch.from_numpy(array.clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()
        for array in (moved, photo)
    )


def each(pair: tuple[torch.Tensor, torch.Tensor]):
    """The pictures as NumPy has them."""
    return zip(*(pictures.permute(0, 2, 3, 1).numpy() for pictures in pair), strict=True)


# ---------------------------------------------------------------- of each picture


def test_psnr_and_mse_are_scikit_images(pairs):
    for index, (predicted, true) in enumerate(each(pairs)):
        assert metrics.mse(*pairs)[index] == pytest.approx(mean_squared_error(true, predicted), rel=1e-9)
        assert metrics.psnr(*pairs)[index] == pytest.approx(peak_signal_noise_ratio(true, predicted), rel=1e-9)


def test_psnr_of_equal_pictures_is_finite(pairs):
    assert metrics.psnr(pairs[0], pairs[0]).tolist() == pytest.approx([100.0] * 3)


def test_ssim_is_scikit_images_with_the_papers_window(pairs):
    settings = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for index, (predicted, true) in enumerate(each(pairs)):
        expected = structural_similarity(true, predicted, channel_axis=-1, **settings)
        assert metrics.ssim(*pairs)[index] == pytest.approx(expected, abs=1e-5)
    assert metrics.ssim(pairs[0], pairs[0]).tolist() == pytest.approx([1.0] * 3, abs=1e-6)


def test_ssim_of_flat_pictures_keeps_its_digits():
    """Where a difference of large squares would leave nothing of a variance: white, and white with one level less."""
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    dotted = white.clone()
    dotted[..., ::2, ::2] -= 1
    expected = structural_similarity(
        *(picture[0].permute(1, 2, 0).numpy() for picture in (white, dotted)),
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=-1,
    )
    assert metrics.ssim(white, dotted).item() == pytest.approx(expected, abs=1e-5)


def test_ssim_needs_a_window():
    small = torch.zeros((1, 3, 8, 40), dtype=torch.uint8)
    with pytest.raises(ValueError, match="needs 11 pixels or more a side, got 8 x 40"):
        metrics.ssim(small, small)


@pytest.mark.parametrize("line", SHARMA.strip().splitlines())
def test_ciede2000_as_published(line):
    *colors, expected = map(float, line.split())
    first, second = torch.tensor(colors, dtype=torch.float64).view(2, 3, 1, 1)
    assert metrics.ciede2000(first, second).item() == pytest.approx(expected, abs=5.1e-5)
    assert metrics.ciede2000(second, first).item() == pytest.approx(expected, abs=5.1e-5)


def test_mean_ciede2000_is_scikit_images(pairs):
    labs = [color.rgb_to_lab(pictures) for pictures in pairs]
    for index, (predicted, true) in enumerate(each(pairs)):
        expected = deltaE_ciede2000(rgb2lab(true), rgb2lab(predicted)).mean()
        assert metrics.mean_ciede2000(*labs)[index] == pytest.approx(expected, abs=1e-5)


def test_ciede2000_of_equal_colors_is_none():
    lab = torch.tensor([[0.0, 0, 0], [100, 0, 0], [50, 80, -60]]).view(3, 3, 1, 1)
    assert metrics.ciede2000(lab, lab).abs().max() == 0


def test_chroma_by_hand():
    ab = torch.tensor([[[[3.0, 0.0]], [[4.0, 1.0]]]])  # one picture of 1 x 2: chromas 5 and 1
    assert metrics.chroma(ab).tolist() == [3.0]


@pytest.mark.parametrize("absolute", [False, True])
def test_colorfulness_of_both_variants(pairs, absolute):
    """Against the formula spelt out with NumPy's own means and deviations."""
    for index, (picture, _) in enumerate(each(pairs)):
        red, green, blue = picture.astype(float).reshape(-1, 3).T
        opponents = np.stack([red - green, 0.5 * (red + green) - blue])
        if absolute:
            opponents = np.abs(opponents)
        expected = np.hypot(*opponents.std(axis=1)) + 0.3 * np.hypot(*opponents.mean(axis=1))
        assert color.colorfulness(pairs[0], absolute)[index].item() == pytest.approx(expected, rel=1e-12)
        assert color.colorfulness(picture, absolute) == pytest.approx(expected, rel=1e-12)


def test_variants_of_colorfulness_differ_where_hues_are_opposite():
    """Half red, half cyan: signed, rg is 255 and -255 and has no mean; absolute, it has no deviation."""
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0], picture[1] = (255, 0, 0), (0, 255, 255)
    signed, absolute = color.colorfulness(picture), color.colorfulness(picture, absolute=True)
    assert signed == pytest.approx(math.hypot(255, 127.5))
    assert absolute == pytest.approx(0.3 * math.hypot(255, 127.5))


def test_pixels_of_no_weight_do_not_count(pairs):
    """A picture within a frame of nonsense has the measures of the picture itself."""
    weight = torch.zeros(3, 1, 96, 80)
    weight[..., 16:80, 8:72] = 1
    inner = [pictures[..., 16:80, 8:72].contiguous() for pictures in pairs]
    framed = [torch.where(weight > 0, pictures, pictures + 100) for pictures in pairs]
    for measure in (metrics.mse, metrics.psnr, metrics.ssim):
        assert measure(*framed, weight).tolist() == pytest.approx(measure(*inner).tolist(), rel=1e-6)
    labs, inner_labs = ([color.rgb_to_lab(pictures) for pictures in some] for some in (framed, inner))
    assert metrics.mean_ciede2000(*labs, weight).tolist() == pytest.approx(metrics.mean_ciede2000(*inner_labs).tolist())
    for absolute in (False, True):
        whole = color.colorfulness(framed[0], absolute, weight[:, 0])
        assert whole.tolist() == pytest.approx(color.colorfulness(inner[0], absolute).tolist())
    assert Histograms.of(labs[0], weight).chroma.tolist() == Histograms.of(inner_labs[0]).chroma.tolist()


def test_a_picture_narrower_than_a_window_counts_with_its_frame(pairs):
    weight = torch.zeros(3, 1, 96, 80)
    weight[..., :10] = 1
    assert metrics.ssim(*pairs, weight).tolist() == pytest.approx(metrics.ssim(*pairs).tolist())


# ---------------------------------------------------------------- of all pictures


def test_histograms_by_hand():
    """A red, a blue, a grey and a very yellow pixel, four apart."""
    lab = torch.zeros(1, 3, 4, 16)
    lab[0, 1:, 0, ::4] = torch.tensor([[10.0, 0.0], [0.0, -10.0], [1.0, 1.0], [0.0, 500.0]]).T
    found = Histograms.of(lab)
    assert {int(index): int(n) for index, n in enumerate(found.hue) if n} == {0: 1, 27: 1, 9: 1}
    assert {int(index): int(n) for index, n in enumerate(found.chroma) if n} == {5: 2, 0: 1, 59: 1}
    assert found.compute()["hue"].sum() == pytest.approx(1)
    assert Histograms.empty().compute()["chroma"].sum() == 0


def test_hues_are_counted_under_their_names_where_pixels_are_coloured():
    """A quarter each of sky blue, dark red, a blue of chroma 9, and grey."""
    lab = torch.tensor([[79, -14.8, -21.3], [39, 55.9, 37.7], [60, 0.0, -9.0], [50, 0.0, 0.0]])
    lab = lab.T[None, :, None, :, None].expand(1, 3, 16, 4, 4).reshape(1, 3, 16, 16)
    shares = dict(zip(hues.HUES, Histograms.of(lab).compute()["named"], strict=True))
    assert shares == {**dict.fromkeys(hues.HUES, 0), "blue": 0.5, "red": 0.5}


@pytest.mark.parametrize("cuts", [(0, 0), (3, 3), (1, 7), (0, 8)])
def test_moments_of_parts_are_those_of_the_whole(cuts):
    features = np.random.default_rng(1).normal(3, 2, (8, 5)).astype(np.float32)
    parts = np.split(features, cuts)
    merged = sum((Moments.of(part) for part in parts if len(part)), Moments.empty(5))
    for found, expected in zip(merged.compute(), (features.mean(axis=0), np.cov(features, rowvar=False)), strict=True):
        assert found == pytest.approx(expected, rel=1e-6)
    whole = Moments.of(features)
    assert metrics.frechet_distance(merged, whole) == pytest.approx(0, abs=1e-9)


@given(st.lists(st.integers(0, 30), max_size=4), st.integers(0, 5))
def test_adding_histograms_neither_loses_nor_invents(cuts, seed):
    lab = torch.from_numpy(np.random.default_rng(seed).uniform(-60, 60, (30, 3, 4, 4)).astype(np.float32))
    bounds = [0, *sorted(cuts), 30]
    parts = [lab[start:end] for start, end in pairwise(bounds)]
    merged = sum((Histograms.of(part) for part in parts), Histograms.empty())
    assert np.array_equal(merged.hue, Histograms.of(lab).hue)
    assert np.array_equal(merged.chroma, Histograms.of(lab).chroma)


def test_nothing_has_no_moments():
    with pytest.raises(ValueError, match="a covariance needs two pictures, got 0"):
        Moments.empty(3).compute()


@pytest.fixture(scope="module")
def some_features() -> tuple[np.ndarray, np.ndarray]:
    """Two sets that differ in mean and in shape, of different lengths, float32."""
    rng = np.random.default_rng(2)
    mixed = rng.normal(size=(64, 64)) / 8
    first, second = rng.normal(size=(300, 64)) @ mixed, rng.normal(size=(260, 64)) * 0.8 + 0.3
    return np.abs(first).astype(np.float32), np.abs(second).astype(np.float32)


def test_frechet_distance_is_torch_fidelitys(some_features):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(torch.from_numpy(features)) for features in some_features]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    found = metrics.frechet_distance(*(Moments.of(features) for features in some_features))
    assert found == pytest.approx(expected, rel=1e-6)
    assert found > 0.5


class Given(torch.nn.Module):
    """A "network" for torchmetrics whose features of a picture are written in the picture."""

    num_features = 64

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures[:, 0, 0]


def as_pictures(features: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(features)[:, None, None].expand(-1, 3, 1, -1)


def test_frechet_distance_is_torchmetrics(some_features):
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=Given(), input_img_size=(3, 1, 64), normalize=True).set_dtype(
        torch.float64
    )
    for features, real in zip(some_features, (True, False), strict=True):
        metric.update(as_pictures(features), real=real)
    found = metrics.frechet_distance(*(Moments.of(features) for features in some_features))
    assert found == pytest.approx(metric.compute().item(), rel=1e-3)


def test_kernel_distance_is_torch_fidelitys_of_one_subset(some_features):
    """A subset that is the whole set: the order does not matter then."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    first, second = (torch.from_numpy(features[:250]) for features in some_features)
    settings = {"kid_subsets": 1, "kid_subset_size": 250, "verbose": False}
    expected = kid_features_to_metric(first, second, **settings)["kernel_inception_distance_mean"]
    found = metrics.kernel_distance(first.numpy(), second.numpy())
    assert found == pytest.approx(expected, rel=1e-5)


def test_kernel_distance_needs_not_all_in_one_block(some_features, monkeypatch):
    whole = metrics.kernel_distance(*some_features)
    monkeypatch.setattr(metrics, "_KERNEL_ROWS", 7)
    assert metrics.kernel_distance(*some_features) == pytest.approx(whole, rel=1e-9)

"""ab brought to a photo's size: along its edges, whole or in strips, at any size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from koala.imaging import color, guided_filter


def enlarged(ab, size):
    """Without a guide."""
    return F.interpolate(ab, size, mode="bicubic", align_corners=False, antialias=True)


def reduced(values, size):
    return F.interpolate(values, size, mode="bilinear", align_corners=False, antialias=True)


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def brought(small, ab, lightness):
    return guided_filter.apply(guided_filter.fit(small, ab), lightness)


def test_ab_that_is_a_line_of_lightness_comes_back_with_every_detail():
    lightness = noise(1, 1, 40, 60)
    small = reduced(lightness, (10, 15))
    slope, offset = torch.tensor([0.4, -0.3]).view(1, 2, 1, 1), torch.tensor([0.1, 0.2]).view(1, 2, 1, 1)
    lines = guided_filter.fit(small, slope * small + offset, epsilon=1e-7)
    torch.testing.assert_close(guided_filter.apply(lines, lightness), slope * lightness + offset, atol=1e-4, rtol=0)


def test_lines_go_through_the_small_picture():
    small, ab = noise(2, 1, 9, 7), noise(2, 2, 9, 7, seed=1)
    torch.testing.assert_close(brought(small, ab, small), ab)


def test_an_edge_stays_sharp():
    """Blue to the left, yellow to the right; the edge falls within a pixel of the small picture."""
    side = torch.arange(64) < 29
    lightness = torch.where(side, -0.5, 0.5).expand(1, 1, 48, 64)
    true = torch.stack([torch.where(side, 0.3, 0.0), torch.where(side, -0.5, 0.5)])[None, :, None].expand(1, 2, 48, 64)
    small, ab = reduced(lightness, (6, 8)), reduced(true, (6, 8))
    error, plain = ((found - true).abs().mean() for found in (brought(small, ab, lightness), enlarged(ab, (48, 64))))
    assert error < plain / 3


def test_colors_do_not_bleed_further_than_lightness_tells():
    """No halo: beside the edge nothing leaves the range of the two sides by more than a tenth of their difference."""
    side = torch.arange(64) < 29
    lightness = torch.where(side, -0.5, 0.5).expand(1, 1, 48, 64)
    true = torch.where(side, -0.5, 0.5).expand(1, 2, 48, 64)
    found = brought(reduced(lightness, (6, 8)), reduced(true, (6, 8)), lightness)
    assert found.abs().max() < 0.6


def test_grain_stays_without_color():
    """Grain of 2 L* where colours change: its colour is a tenth of what lines without epsilon make of it."""
    grain = 0.04 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    small, ab = reduced(grain, (16, 16)), 0.3 * noise(1, 2, 16, 16, seed=1)
    plain = enlarged(ab, (64, 64))
    found, careless = (
        (guided_filter.apply(guided_filter.fit(small, ab, epsilon=epsilon), grain) - plain).std()
        for epsilon in (guided_filter.EPSILON, 1e-7)
    )
    assert found < careless / 10


@pytest.mark.parametrize("size", [(101, 67), (9, 9), (5, 200)])
def test_strips_are_the_whole(size):
    lightness = noise(2, 1, *size)
    lines = guided_filter.fit(noise(2, 1, 8, 12, seed=1), noise(2, 2, 8, 12, seed=2))
    whole = guided_filter.apply(lines, lightness)
    for rows in (1, 7, 64):
        starts = range(0, size[0], rows)
        strips = [guided_filter.apply(lines, lightness[:, :, top : top + rows], top, size[0]) for top in starts]
        torch.testing.assert_close(torch.cat(strips, dim=2), whole, atol=1e-6, rtol=0)


def test_rows_that_the_photo_has_not_are_refused():
    lines = guided_filter.fit(noise(1, 1, 4, 4), noise(1, 2, 4, 4))
    with pytest.raises(ValueError, match="rows 8 to 12 are not of a photo of 10"):
        guided_filter.apply(lines, noise(1, 1, 4, 8), top=8, height=10)


def test_constant_lightness_leaves_plain_enlarging():
    ab = noise(1, 2, 6, 8)
    found = brought(torch.full((1, 1, 6, 8), 0.3), ab, torch.full((1, 1, 50, 70), 0.3))
    torch.testing.assert_close(found, enlarged(ab, (50, 70)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("small", [(1, 1), (1, 9), (9, 1), (8, 12)])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 5), (33, 50)])
def test_any_size(small, size):
    """One colour stays it, at any size of the photo and of the small picture, and numbers stay numbers."""
    lightness = noise(1, 1, *size)
    made_small = reduced(lightness, small)
    color_ = torch.tensor([0.2, -0.4]).view(1, 2, 1, 1)
    torch.testing.assert_close(
        brought(made_small, color_.expand(1, 2, *small), lightness), color_.expand(1, 2, *size), atol=1e-5, rtol=0
    )
    assert brought(made_small, noise(1, 2, *small, seed=1), lightness).isfinite().all()


def test_smoothed_colors_wander_no_more_where_lightness_does_not():
    ab = 0.3 * noise(1, 2, 96, 144)
    found = guided_filter.smooth(torch.full((1, 1, 96, 144), 0.3), 0.2 + ab)
    assert found.std() < ab.std() / 8
    torch.testing.assert_close(found.mean(), 0.2 + ab.mean(), atol=5e-3, rtol=0)


def test_smoothing_draws_the_edge_that_colors_run_over():
    """Yellow runs into blue over a tenth of the picture; smoothed, most of the change is where lightness changes."""
    side = torch.arange(144) < 60
    lightness = torch.where(side, -0.5, 0.5).expand(1, 1, 96, 144)
    true = torch.where(side, -0.5, 0.5).expand(1, 2, 96, 144)
    blurred = F.avg_pool2d(F.pad(true, (7, 7, 0, 0), mode="replicate"), (1, 15), stride=1)

    def change(ab):
        return (ab[..., 62] - ab[..., 57]).mean()

    assert change(blurred) < 0.4 < 0.5 < change(guided_filter.smooth(lightness, blurred)) < 1


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (8, 12), (224, 1792)])
def test_smoothing_leaves_one_color_at_any_size(size):
    color_ = torch.tensor([0.2, -0.4]).view(1, 2, 1, 1).expand(1, 2, *size)
    torch.testing.assert_close(guided_filter.smooth(noise(1, 1, *size), color_), color_, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_real_photos_come_back_nearer_to_the_truth(real_photos):
    """From a short side of 64: by a tenth of bilinear's squared error, and nearer than with bicubic."""
    errors = []
    for path in sorted(real_photos.rglob("*.JPEG"))[::60]:
        with Image.open(path) as photo:
            rgb = torch.from_numpy(np.array(photo.convert("RGB"))).permute(2, 0, 1)[None]
        true, size = color.to_ab(rgb), tuple(64 * length // min(rgb.shape[-2:]) for length in rgb.shape[-2:])
        made_small = reduced(rgb.float(), size).round().clamp(0, 255).to(torch.uint8)
        small, ab = color.to_lightness(made_small, "color"), color.to_ab(made_small)
        found = brought(small, ab, color.to_lightness(rgb, "color"))
        plain = F.interpolate(ab, rgb.shape[-2:], mode="bilinear"), enlarged(ab, rgb.shape[-2:])
        errors.append([float((way - true).square().mean()) for way in (found, *plain)])
    guided_, bilinear, bicubic = np.mean(errors, axis=0)
    assert guided_ < 0.9 * bilinear
    assert guided_ < bicubic


@pytest.mark.parametrize(
    ("before", "after", "fits"),
    [
        ((224, 224), (3000, 4000), True),
        ((224, 224), (224, 3), True),
        ((224, 300), (224, 3), False),
        ((9, 9), (1, 1), True),
    ],
)
def test_photos_too_thin_for_a_gpu_are_told_from_others(before, after, fits):
    """torch's kernel gives up where a side shrinks over some 90 times."""
    assert guided_filter.fits_gpu(before, after) == fits

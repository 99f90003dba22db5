"""Colours against scikit-image, over all of them, and against published values."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2lab

from koala.imaging import color

# CIE L*a*b* (D65, 2 degrees) of sRGB primaries, from Bruce Lindbloom's colour calculator (brucelindbloom.com),
# which uses unrounded constants: hence the tolerance.
PUBLISHED = {
    (255, 0, 0): (53.2408, 80.0925, 67.2032),
    (0, 255, 0): (87.7347, -86.1827, 83.1793),
    (0, 0, 255): (32.2970, 79.1875, -107.8602),
    (255, 255, 255): (100.0, 0.0, 0.0),
    (0, 0, 0): (0.0, 0.0, 0.0),
}


def all_colors(part: int, parts: int = 16) -> np.ndarray:
    """One of 16 parts of all 16,777,216 colours, `(4096, 256, 3)` uint8."""
    reds = np.arange(256)[part * 256 // parts : (part + 1) * 256 // parts]
    grid = np.stack(np.meshgrid(reds, np.arange(256), np.arange(256), indexing="ij"), axis=-1)
    return grid.reshape(-1, 256, 3).astype(np.uint8)


def run_dali(graph, rgb: np.ndarray) -> list[np.ndarray]:
    from nvidia.dali import Pipeline, fn

    pipeline = Pipeline(batch_size=1, num_threads=2, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        pipeline.set_outputs(*graph(fn.external_source(lambda: [rgb], batch=True)))
    pipeline.build()
    return [np.array(output[0]) for output in pipeline.run()]


def as_torch(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rgb).permute(2, 0, 1)


@pytest.mark.parametrize(("rgb", "lab"), PUBLISHED.items())
def test_published_values(rgb, lab):
    assert color.rgb_to_lab(np.uint8([[rgb]]))[0, 0] == pytest.approx(lab, abs=0.02)


@pytest.mark.parametrize("part", [0, 7, pytest.param(None, marks=pytest.mark.slow)])
def test_all_backends_agree_with_scikit_image(part):
    for one in range(16) if part is None else [part]:
        rgb = all_colors(one)
        expected = rgb2lab(rgb / 255)
        from_numpy = color.rgb_to_lab(rgb)
        from_torch = color.rgb_to_lab(as_torch(rgb))
        from_floats = color.rgb_to_lab(as_torch(rgb).float() / 255)
        (from_dali,) = run_dali(lambda node: [color.rgb_to_lab(node)], rgb)
        assert np.abs(from_numpy - expected).max() < 1e-12
        assert np.abs(from_torch.permute(1, 2, 0).numpy() - expected).max() < 2e-4
        assert np.abs(from_floats.permute(1, 2, 0).numpy() - expected).max() < 2e-4
        assert np.abs(from_dali - expected).max() < 2e-4


@pytest.mark.parametrize("part", [3, pytest.param(None, marks=pytest.mark.slow)])
def test_round_trip_gives_the_colors_back(part):
    for one in range(16) if part is None else [part]:
        rgb = all_colors(one)
        assert np.abs(color.lab_to_rgb(color.rgb_to_lab(rgb)) - rgb / 255).max() < 1e-9
        back = color.lab_to_rgb(color.rgb_to_lab(as_torch(rgb)))
        assert (back - as_torch(rgb) / 255).abs().max() < 1 / 255 / 10
        assert torch.equal((back * 255).round().byte(), as_torch(rgb))


@pytest.mark.parametrize("part", [11, pytest.param(None, marks=pytest.mark.slow)])
def test_grey_is_pillows(part):
    for one in range(16) if part is None else [part]:
        rgb = all_colors(one)
        expected = np.asarray(Image.fromarray(rgb).convert("L"))
        from_dali, lightness = run_dali(lambda node: [color.to_grey(node), color.to_lightness(node)], rgb)
        assert np.array_equal(color.to_grey(rgb)[..., 0], expected)
        assert np.array_equal(color.to_grey(as_torch(rgb))[0].numpy(), expected)
        assert np.array_equal(from_dali[..., 0], expected)
        lab = rgb2lab(np.repeat(expected[..., None], 3, axis=-1) / 255)
        assert np.abs((lightness[..., 0] + 1) * 50 - lab[..., 0]).max() < 2e-4


def test_no_color_is_left_in_the_grey_lightness():
    """Two colours of the same grey have one lightness; their own lightness differs."""
    red, green = np.uint8([[[130, 0, 0]]]), np.uint8([[[0, 66, 0]]])
    assert color.to_grey(red) == color.to_grey(green) == 39
    assert color.to_lightness(red, "grey") == color.to_lightness(green, "grey")
    assert abs(color.to_lightness(red, "color") - color.to_lightness(green, "color")) * 50 > 1


def test_network_scale_is_undone_by_to_lab():
    rgb = all_colors(9)[:100]
    lab = color.to_lab(color.to_lightness(rgb, "color"), color.to_ab(rgb))
    assert np.abs(lab - color.rgb_to_lab(rgb)).max() < 1e-9
    tensor = as_torch(rgb)
    lab = color.to_lab(color.to_lightness(tensor, "color"), color.to_ab(tensor))
    assert torch.allclose(lab, color.rgb_to_lab(tensor), atol=1e-4)


def test_gradients_are_finite_everywhere():
    lab = color.rgb_to_lab(as_torch(all_colors(0)[::16, ::5])).requires_grad_()
    color.lab_to_rgb(lab).sum().backward()
    assert torch.isfinite(lab.grad).all()


@pytest.mark.parametrize("shape", [(4, 4, 4), (4, 4, 2), (4, 4)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="3 colours"):
        color.rgb_to_lab(np.zeros(shape))
    with pytest.raises(ValueError, match="3 colours"):
        color.lab_to_rgb(torch.zeros(shape))

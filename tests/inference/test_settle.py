"""A network's colours kept to things: see also tests/imaging/test_guided_filter.py."""

import torch

from koala.imaging.color import from_units
from koala.inference.settle import settle

LIGHTNESS = torch.full((1, 1, 96, 128), 0.1)


def wandering():
    return 0.3 * torch.rand(1, 2, 96, 128, generator=torch.Generator().manual_seed(0)) + 0.1


def test_colors_keep_to_things():
    assert settle(LIGHTNESS, wandering()).std() < wandering().std() / 8


def test_colors_fade_below_20():
    """L* of 0, 10, 20 and 80."""
    lightness = torch.tensor([-1.0, -0.8, -0.6, 0.6]).view(4, 1, 1, 1).expand(4, 1, 32, 64)
    ab = torch.tensor([0.2, -0.4]).view(1, 2, 1, 1).expand(4, 2, 32, 64)
    share = torch.tensor([0, 0.5, 1, 1]).view(4, 1, 1, 1)
    torch.testing.assert_close(settle(lightness, ab), share * ab, atol=1e-5, rtol=0)


def test_faint_colors_fade_to_grey():
    """Of chroma 4, 8, 24 and 48 with coring 8 a fifth, a half, 9/10 and 36/37 are left, times 10/9; the hue stays."""
    chroma = torch.tensor([4.0, 8.0, 24.0, 48.0]).view(4, 1, 1, 1)
    ab = from_units(chroma * torch.tensor([0.6, -0.8]).view(1, 2, 1, 1)).expand(4, 2, 32, 64)
    lightness = LIGHTNESS[..., :32, :64].expand(4, 1, 32, 64)
    share = 10 / 9 * torch.tensor([1 / 5, 1 / 2, 9 / 10, 36 / 37]).view(4, 1, 1, 1)
    torch.testing.assert_close(settle(lightness, ab, coring=8.0), share * ab, atol=1e-5, rtol=0)
    assert settle(lightness, 0 * ab, coring=8.0).isfinite().all()


def test_a_hint_is_followed_as_the_network_follows_it():
    """At the hint ab is what was predicted, and so in the dark; beyond twice the reach it is as without the hint."""
    hints = torch.zeros(1, 3, 96, 128)
    hints[:, :, 40:43, 50:53] = 1.0
    for lightness in (LIGHTNESS, torch.full_like(LIGHTNESS, -0.8)):
        settled = settle(lightness, wandering(), hints)
        torch.testing.assert_close(settled[..., 40:43, 50:53], wandering()[..., 40:43, 50:53])
        torch.testing.assert_close(settled[..., 70:, 80:], settle(lightness, wandering())[..., 70:, 80:])
        cored = settle(lightness, wandering(), hints, coring=50.0)
        torch.testing.assert_close(cored[..., 40:43, 50:53], wandering()[..., 40:43, 50:53])
    torch.testing.assert_close(settle(LIGHTNESS, wandering(), 0 * hints), settle(LIGHTNESS, wandering()))


def test_pictures_do_not_change_each_other():
    lightness = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    ab = torch.rand(3, 2, 64, 64, generator=torch.Generator().manual_seed(2)) - 0.5
    singly = [settle(lightness[n : n + 1], ab[n : n + 1]) for n in range(3)]
    torch.testing.assert_close(settle(lightness, ab), torch.cat(singly), atol=1e-6, rtol=0)

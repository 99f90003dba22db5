"""A network that sees where things are: the extractor's feature maps at strides 4 to 32, joined from coarse to fine.

Deep Koalarization fuses one vector of the whole picture; here every place has features of its own. From the coarsest
map up, each level enlarges what is known, adds the extractor's map and the hints at its stride, and looks around:
at strides 32 and 16 at the whole picture. The finest level also sees each pixel's lightness.

Shapes: B pictures, H x W pixels (multiples of 32). Lightness and ab are on the network's scale.

References:
    Lin et al.: Feature Pyramid Networks, arXiv:1612.03144. Vaswani et al.: Attention Is All You Need, arXiv:1706.03762.
    Hints: Zhang et al., Real-Time User-Guided Image Colorization, arXiv:1705.02999; Yun et al., iColoriT,
    arXiv:2207.06831.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from koala.imaging import ab_bins
from koala.imaging.device_constants import constant
from koala.models.extractor import STRIDES, FeatureMaps
from koala.models.network import ColorNetwork, Head

_WIDTHS = (128, 192, 256, 256)  # of the levels at STRIDES
_ATTENDING = (16, 32)  # strides at which each place looks at all others
_HEADS = 8
# what is seen beside the extractor's features, which spread by about 8, is made as large, so that it is learnt as fast
_LIGHTNESS_SCALE = 8.0
_HINT_SCALE = (64.0, 64.0, 8.0)  # of a, b, and whether there is a hint


class PyramidNetwork(ColorNetwork):
    """Lightness, and hints where there are some, to ab.

    Args:
        maps: the extractor, which is part of the network and of its weights.
        head: what is predicted.
        tuned: whether the extractor is trained, too.
        hints: whether hints are taken.
    """

    stride = max(STRIDES)

    def __init__(self, maps: FeatureMaps, head: Head = "bins", *, tuned: bool = False, hints: bool = False) -> None:
        super().__init__(head)
        self.hints = hints
        self.extractor = maps.requires_grad_(tuned)
        more = len(_HINT_SCALE) if hints else 0
        beside = [STRIDES[0] ** 2 + more, *([more] * (len(STRIDES) - 1))]  # the lightness of each pixel, and hints
        inputs = [channels + others for channels, others in zip(maps.channels, beside, strict=True)]
        self.feature_columns = {f"levels.{place}.seen.weight": (0, others) for place, others in enumerate(beside)}
        coarser = [*_WIDTHS[1:], 0]
        self.levels = nn.ModuleList(map(Level, coarser, inputs, _WIDTHS, (stride in _ATTENDING for stride in STRIDES)))
        self.norm = LayerNorm2d(_WIDTHS[0])
        self.classifier = nn.Conv2d(_WIDTHS[0], len(ab_bins.centers()) if head == "bins" else 2, kernel_size=1)
        self.extractor_frozen = not tuned
        if head == "bins":
            self.register_buffer("prior", ab_bins.even_prior())

    def forward(self, lightness: Tensor, embedding: Tensor | None = None, hints: Tensor | None = None) -> Tensor:
        """Predict ab, or where it lies.

        Args:
            lightness: `(B, 1, H, W)` in -1..1.
            embedding: not used.
            hints: `(B, 3, H, W)`: ab where it is known, else 0, and 1 where it is known, else 0.

        Returns:
            `(B, 2, H, W)` ab in -1..1, or `(B, Q, H/4, W/4)` logits.

        Raises:
            ValueError: H or W is no multiple of 32, or the network was not made to take hints.
        """
        self.check(lightness, hints)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.extractor_frozen):
            maps = self.extractor(lightness)
        finest = _LIGHTNESS_SCALE * F.pixel_unshuffle(lightness, STRIDES[0])
        x = None
        for place in reversed(range(len(STRIDES))):
            inputs = [maps[place], *([finest] if place == 0 else [])]
            if self.hints:
                inputs.append(_pooled(hints, maps[place]))
            x = self.levels[place](x, torch.cat([each.to(maps[place].dtype) for each in inputs], dim=1))
        output = self.classifier(self.norm(x))
        if self.head == "bins":
            return output
        return F.interpolate(torch.tanh(output), scale_factor=STRIDES[0], mode="bilinear", align_corners=False)

    def in_order(self) -> Iterator[nn.Module]:
        """All modules within, in the order in which they compute: the coarsest level is the first of the levels."""
        for part in (self.extractor, *reversed(self.levels), self.norm, self.classifier):
            yield from part.modules()


class Level(nn.Module):
    """What is known at one stride, from what is known at the next coarser one and what is seen here.

    Args:
        coarser: channels of the coarser level; 0 where there is none.
        inputs: channels of what is seen.
        width: channels of the result.
        attend: whether each place looks at all others, after its surroundings.
    """

    def __init__(self, coarser: int, inputs: int, width: int, attend: bool) -> None:
        super().__init__()
        self.down = nn.Conv2d(coarser, width, kernel_size=1) if coarser else None
        self.seen = nn.Conv2d(inputs, width, kernel_size=1)
        self.around = Residual(width)
        self.everywhere = Attention(width) if attend else None

    def forward(self, coarser: Tensor | None, seen: Tensor) -> Tensor:
        """`(B, coarser, h/2, w/2)` or nothing, and `(B, inputs, h, w)`, to `(B, width, h, w)`."""
        x = self.seen(seen)
        if self.down is not None:
            x = x + F.interpolate(self.down(coarser), scale_factor=2.0, mode="bilinear", align_corners=False)
        x = self.around(x)
        return x if self.everywhere is None else self.everywhere(x)


class Residual(nn.Module):
    """Two 3x3 convolutions beside the way through, normalised over channels before: `(B, C, h, w)` to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(width)
        self.first = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.second = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Add what is around."""
        return x + self.second(F.gelu(self.first(self.norm(x))))


class Attention(nn.Module):
    """Self-attention over all places, and a layer on each, normalised before: `(B, C, h, w)` to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.norm_places = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.places = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Add what is elsewhere."""
        height, width = x.shape[-2:]
        places = x.flatten(2).transpose(1, 2)
        qkv = self.to_qkv(self.norm(places)).unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).flatten(2)
        places = places + self.merge(found)
        places = places + self.places(self.norm_places(places))
        return places.transpose(1, 2).unflatten(-1, (height, width)).contiguous(memory_format=torch.channels_last)


def _pooled(hints: Tensor | None, like: Tensor) -> Tensor:
    """Hints at a map's size: the mean ab of those in each place, and whether there are any; scaled, `(B, 3, h, w)`."""
    batch, _, height, width = like.shape
    if hints is None:
        return like.new_zeros(batch, len(_HINT_SCALE), height, width)
    pooled = F.adaptive_avg_pool2d(hints.float(), (height, width))
    ab, share = pooled.split([2, 1], dim=1)
    scale = constant(np.array(_HINT_SCALE), torch.float32, hints.device)[:, None, None]
    return scale * torch.cat([ab / share.clamp(min=1e-6), (share > 0).float()], dim=1)

"""What all networks share, and the Deep Koalarization network: encoder, fusion, decoder.

Shapes: B pictures, H x W pixels (multiples of 8), E features of the extractor. Lightness and ab are on the
network's scale (see `koala.imaging.color`).

References:
    Baldassarre, Gonzalez Morin, Rodes-Guirao: Deep Koalarization, arXiv:1712.03400.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from koala.config.models import Preset
from koala.core.errors import UserError
from koala.imaging import ab_bins, color

Head = Literal["ab", "bins"]

STRIDE = 8  # of the encoder: H and W are multiples of it


class SameConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 2 with TensorFlow's "same" padding: for even sizes below and to the right only."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, H, W)` to `(B, outputs, H/2, W/2)`."""
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


def _with_relu(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU(inplace=True))))


def encoder() -> nn.Sequential:
    """`(B, 1, H, W)` lightness to `(B, 256, H/8, W/8)`."""
    return _with_relu(
        SameConv2d(1, 64),
        _conv(64, 128),
        SameConv2d(128, 128),
        _conv(128, 256),
        SameConv2d(256, 256),
        _conv(256, 512),
        _conv(512, 512),
        _conv(512, 256),
    )


class Fusion(nn.Module):
    """What is seen at each place joined with what is seen in the whole picture.

    It equals repeating the embedding at each place, concatenating and convolving 1x1; since the embedding is
    the same everywhere, its part of the convolution is computed once and added everywhere.
    """

    def __init__(self, embedding_size: int) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.mix = nn.Linear(256 + embedding_size, 256)

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """`(B, 256, h, w)` and `(B, E)` to `(B, 256, h, w)`."""
        local, whole = self.mix.weight.split([256, self.embedding_size], dim=1)
        fused = F.conv2d(x, local[:, :, None, None], self.mix.bias)
        if embedding is not None:
            fused = fused + F.linear(embedding, whole)[:, :, None, None]
        return F.relu(fused, inplace=True)


def decoder(head: Head = "ab") -> nn.Sequential:
    """`(B, 256, H/8, W/8)` to `(B, 2, H, W)` ab, or to `(B, Q, H/4, W/4)` logits of the bins of ab."""

    def up() -> nn.Upsample:
        return nn.Upsample(scale_factor=2, mode="nearest")

    trunk = (_with_relu(_conv(256, 128)), up(), _with_relu(_conv(128, 64), _conv(64, 64)))
    if head == "bins":
        return nn.Sequential(*trunk, _with_relu(_conv(64, 256)), nn.Conv2d(256, len(ab_bins.centers()), kernel_size=1))
    return nn.Sequential(*trunk, up(), _with_relu(_conv(64, 32)), _conv(32, 2), nn.Tanh(), up())


class ColorNetwork(nn.Module):
    """What all networks that are trained share: what they predict, and how that becomes ab.

    Args:
        head: what is predicted: ab itself, or which bin of the ab plane it lies in.

    Attributes:
        stride: height and width of pictures are multiples of it.
        embedding_size: E of the embedding that is taken; 0 where none is.
        hints: whether hints are taken.
        prior: `(Q,)` how often each bin occurs in what was trained on, where that is kept.
        feature_columns: weights that the extractor's features enter, and their columns before and after the features'.
    """

    stride = STRIDE
    feature_columns: Mapping[str, tuple[int, int]] = MappingProxyType({})
    embedding_size = 0
    hints = False
    prior: Tensor | None

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head: Head = head
        self.register_buffer("prior", None)

    def check(self, lightness: Tensor, hints: Tensor | None) -> None:
        """Refuse what the network cannot take.

        Raises:
            ValueError: height or width is no multiple of the stride, or there are hints and none are taken.
        """
        if lightness.shape[-1] % self.stride or lightness.shape[-2] % self.stride:
            raise ValueError(f"height and width must be multiples of {self.stride}, got {tuple(lightness.shape)}")
        if hints is not None and not self.hints:
            raise ValueError("this network was not trained to take hints")

    def to_ab(self, output: Tensor, temperature: float = ab_bins.TEMPERATURE, rebalancing: float = 0.0) -> Tensor:
        """What `forward` returns as `(B, 2, H, W)` ab, float32.

        Args:
            output: of `forward`.
            temperature: of the mean over bins, see `ab_bins.annealed_mean`; a network that predicts ab has none.
            rebalancing: how much more rare colours count in it, see `ab_bins.rebalancing_weights`; a network that
                keeps no prior has none.
        """
        if self.head == "ab":
            return output.float()
        weights = (
            ab_bins.rebalancing_weights(self.prior, rebalancing) if self.prior is not None and rebalancing else None
        )
        ab = color.from_units(ab_bins.annealed_mean(output, temperature, weights))
        return F.interpolate(ab, scale_factor=ab_bins.STRIDE, mode="bilinear", align_corners=False)


class FusionNetwork(ColorNetwork):
    """Deep Koalarization: lightness and the embedding of the whole picture to ab.

    Args:
        embedding_size: E; 0 for a network without extractor.
        head: what is predicted: ab itself, or which bin of the ab plane it lies in.
    """

    feature_columns = MappingProxyType({"fusion.mix.weight": (256, 0)})

    def __init__(self, embedding_size: int = 1000, head: Head = "ab") -> None:
        super().__init__(head)
        self.embedding_size = embedding_size
        self.encoder = encoder()
        self.fusion = Fusion(embedding_size)
        self.decoder = decoder(head)

    def forward(self, lightness: Tensor, embedding: Tensor | None = None, hints: Tensor | None = None) -> Tensor:
        """Predict ab, or where it lies.

        Args:
            lightness: `(B, 1, H, W)` in -1..1.
            embedding: `(B, E)`, or none for a network without extractor.
            hints: none; see `koala.models.pyramid` for a network that takes some.

        Returns:
            `(B, 2, H, W)` ab in -1..1, or `(B, Q, H/4, W/4)` logits.

        Raises:
            ValueError: H or W is no multiple of 8.
        """
        self.check(lightness, hints)
        return self.decoder(self.fusion(self.encoder(lightness), embedding))


class Colorizer(nn.Module):
    """A trained network together with its extractor: lightness in, ab out.

    Args:
        network: the trained part.
        extractor: `(B, 1, H, W)` lightness to `(B, E)`, or none.
        size: height and width of the pictures it was trained on.

    Attributes:
        presets: ways in which its colours can look, by name; the first one is taken where none is named.
        preset: the one that is taken.
    """

    def __init__(self, network: ColorNetwork, extractor: nn.Module | None, size: int) -> None:
        super().__init__()
        self.network = network
        self.extractor = extractor
        self.size = size
        self.presets: dict[str, Preset] = {}
        self.preset = Preset()

    def find_preset(self, name: str = "", temperature: float | None = None, saturation: float = 1.0) -> Preset:
        """How the colours are to look: one of the presets, changed.

        Args:
            name: of the preset; the one that is taken where it is empty.
            temperature: in place of the preset's.
            saturation: factor of the colours' strength, beside the preset's.

        Raises:
            UserError: there is no preset of this name.
        """
        if name and name not in self.presets:
            known = f"choose one of {', '.join(self.presets)}" if self.presets else "this model has none"
            raise UserError(f"there is no preset {name}; {known}")
        preset = self.presets[name] if name else self.preset
        temperature = temperature or preset.temperature
        return replace(preset, temperature=temperature, saturation=saturation * preset.saturation)

    @torch.inference_mode()
    def forward(
        self,
        lightness: Tensor,
        embedding: Tensor | None = None,
        hints: Tensor | None = None,
        preset: Preset | None = None,
    ) -> Tensor:
        """Predict ab.

        Args:
            lightness: `(B, 1, H, W)` in -1..1.
            embedding: `(B, E)`, what the extractor saw, where that is known.
            hints: `(B, 3, H, W)`, ab where people gave it and 1 there, for a network that takes hints.
            preset: in place of the one that is taken.

        Returns:
            `(B, 2, H, W)` ab in -1..1, float32.
        """
        lightness = lightness.contiguous(memory_format=torch.channels_last)
        return self.predict(lightness, embedding, hints, preset)

    def predict(
        self,
        lightness: Tensor,
        embedding: Tensor | None = None,
        hints: Tensor | None = None,
        preset: Preset | None = None,
    ) -> Tensor:
        """`forward` in a form that can be traced: the memory's format and the mode of inference stay as they are."""
        preset = preset or self.preset
        output = self.output(lightness, embedding, hints, preset)
        return preset.saturation * self.network.to_ab(output, preset.temperature, preset.rebalancing)

    def output(self, lightness: Tensor, embedding: Tensor | None, hints: Tensor | None, preset: Preset) -> Tensor:
        """What the network itself returns; arguments as of `forward`."""
        if embedding is None and self.extractor is not None:
            embedding = self.extractor(lightness)
        if hints is not None:
            hints = _before_saturation(hints, preset.saturation)
        return self.network(lightness, embedding, hints)


def _before_saturation(hints: Tensor, saturation: float) -> Tensor:
    """Hints whose colours people get when the network's are multiplied by a factor."""
    ab, given = hints.split([2, 1], dim=1)
    return torch.cat([(ab / max(saturation, 1e-3)).clamp(-1, 1), given], dim=1)

"""The Deep Koalarization network: encoder, fusion, decoder.

Shapes: B pictures, H x W pixels (multiples of 8), E features of the extractor. Lightness and ab are on the
network's scale (see `koala.imaging.color`).

References:
    Baldassarre, Gonzalez Morin, Rodes-Guirao: Deep Koalarization, arXiv:1712.03400.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class Network(nn.Module):
    """Lightness and the embedding of the whole picture to ab: the part that is trained.

    Args:
        embedding_size: E; 0 for a network without extractor.
        head: what is predicted: ab itself, or which bin of the ab plane it lies in.

    Attributes:
        embedding_columns: weights that the embedding enters, and their first column that does.
    """

    embedding_columns: ClassVar[dict[str, int]] = {"fusion.mix.weight": 256}

    def __init__(self, embedding_size: int = 1000, head: Head = "ab") -> None:
        super().__init__()
        self.head = head
        self.encoder = encoder()
        self.fusion = Fusion(embedding_size)
        self.decoder = decoder(head)

    def forward(self, lightness: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Predict ab, or where it lies.

        Args:
            lightness: `(B, 1, H, W)` in -1..1.
            embedding: `(B, E)`, or none for a network without extractor.

        Returns:
            `(B, 2, H, W)` ab in -1..1, or `(B, Q, H/4, W/4)` logits.

        Raises:
            ValueError: H or W is no multiple of 8.
        """
        if lightness.shape[-1] % STRIDE or lightness.shape[-2] % STRIDE:
            raise ValueError(f"height and width must be multiples of {STRIDE}, got {tuple(lightness.shape)}")
        return self.decoder(self.fusion(self.encoder(lightness), embedding))

    def to_ab(self, output: Tensor, temperature: float = ab_bins.TEMPERATURE) -> Tensor:
        """What `forward` returns as `(B, 2, H, W)` ab, float32.

        Args:
            output: of `forward`.
            temperature: of the mean over bins, see `ab_bins.annealed_mean`; a network that predicts ab has none.
        """
        if self.head == "ab":
            return output.float()
        ab = color.from_units(ab_bins.annealed_mean(output, temperature))
        return F.interpolate(ab, scale_factor=ab_bins.STRIDE, mode="bilinear", align_corners=False)


class Colorizer(nn.Module):
    """A trained network together with its extractor: lightness in, ab out.

    Args:
        network: the trained part.
        extractor: `(B, 1, H, W)` lightness to `(B, E)`, or none.
        size: height and width of the pictures it was trained on.

    Attributes:
        temperature: for a network that predicts bins: 1 gives the mean colour, less goes towards the likeliest one.
    """

    def __init__(self, network: Network, extractor: nn.Module | None, size: int) -> None:
        super().__init__()
        self.network = network
        self.extractor = extractor
        self.size = size
        self.temperature = ab_bins.TEMPERATURE

    @torch.inference_mode()
    def forward(self, lightness: Tensor, embedding: Tensor | None = None, temperature: float | None = None) -> Tensor:
        """Predict ab.

        Args:
            lightness: `(B, 1, H, W)` in -1..1.
            embedding: `(B, E)`, what the extractor saw, where that is known.
            temperature: in place of the model's own.

        Returns:
            `(B, 2, H, W)` ab in -1..1, float32.
        """
        return self.predict(lightness.contiguous(memory_format=torch.channels_last), embedding, temperature)

    def predict(self, lightness: Tensor, embedding: Tensor | None = None, temperature: float | None = None) -> Tensor:
        """`forward` in a form that can be traced: the memory's format and the mode of inference stay as they are."""
        if embedding is None and self.extractor is not None:
            embedding = self.extractor(lightness)
        return self.network.to_ab(self.network(lightness, embedding), temperature or self.temperature)

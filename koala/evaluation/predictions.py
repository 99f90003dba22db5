"""Predictions: coloured pictures beside their photos, and the network that makes them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from koala.config.data import DataSettings
from koala.config.fields import LightnessSource
from koala.config.training import TrainSettings
from koala.data.crop_windows import crop_windows
from koala.data.loader import Batch
from koala.data.shards import Shards
from koala.imaging import color, contact_sheet
from koala.models.pretrained import PretrainedColorizer


class Truth:
    """The photos of a batch, with what is worked out of them when it is asked for.

    Args:
        batch: with the photos themselves.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    @property
    def photos(self) -> Tensor:
        """The photos themselves, `(B, 3, H, W)` uint8."""
        return true_photos(self.batch)

    @cached_property
    def lightness(self) -> Tensor:
        """L* of the photos' colours on the network's scale, `(B, 1, H, W)`."""
        return color.to_lightness(self.photos, "color")

    @cached_property
    def grey_lightness(self) -> Tensor:
        """L* of the photos turned grey, likewise."""
        return color.to_lightness(self.photos, "grey")

    @cached_property
    def lab(self) -> Tensor:
        """L*a*b* of the photos, `(B, 3, H, W)`."""
        return color.to_lab(self.lightness, self.batch.ab)


class Prediction(ABC):
    """A batch with the colours that were made of it, worked out when they are asked for, in the thread that asks.

    Args:
        batch: with the photos themselves.
        truth: what is known of the photos already.

    Attributes:
        batch: with the photos themselves.
        truth: the photos.
    """

    def __init__(self, batch: Batch, truth: Truth | None = None) -> None:
        self.batch, self.truth = batch, truth or Truth(batch)

    @property
    def photos(self) -> Tensor:
        """The photos themselves, `(B, 3, H, W)` uint8."""
        return self.truth.photos

    @property
    def photo_lab(self) -> Tensor:
        """L*a*b* of the photos, `(B, 3, H, W)`."""
        return self.truth.lab

    @property
    @abstractmethod
    def ab(self) -> Tensor:
        """`(B, 2, H, W)` on the network's scale."""

    @property
    @abstractmethod
    def pictures(self) -> Tensor:
        """What is judged, `(B, 3, H, W)` uint8."""

    @property
    @abstractmethod
    def out_of_gamut(self) -> Tensor:
        """Where L* and ab made a colour outside sRGB, `(B, 1, H, W)` bool."""

    @cached_property
    def lab(self) -> Tensor:
        """L*a*b* of the pictures, `(B, 3, H, W)`."""
        return color.rgb_to_lab(self.pictures)


def true_photos(batch: Batch) -> Tensor:
    """A batch's photos, `(B, 3, H, W)` uint8."""
    if batch.rgb is None:
        raise ValueError("scores need the photos themselves: batches(..., with_rgb=True)")
    return batch.rgb


class AssembledPrediction(Prediction):
    """Predicted ab joined with L* of the photos.

    Args:
        batch: with the photos.
        ab: `(B, 2, H, W)` on the network's scale.
        assembly: whose L*: the grey-scaled photos', or the photos'.
        truth: what is known of the photos already.
    """

    def __init__(self, batch: Batch, ab: Tensor, assembly: LightnessSource, truth: Truth | None = None) -> None:
        super().__init__(batch, truth)
        self._ab, self._assembly = ab.float(), assembly

    @property
    def ab(self) -> Tensor:
        """As it was predicted."""
        return self._ab

    @cached_property
    def _rgb(self) -> Tensor:
        """In 0..1, and beyond that outside sRGB."""
        lightness = self.truth.grey_lightness if self._assembly == "grey" else self.truth.lightness
        return color.lab_to_rgb(color.to_lab(lightness, self.ab), outside="keep")

    @cached_property
    def pictures(self) -> Tensor:
        """In 8-bit sRGB, clipped."""
        return contact_sheet.to_uint8(self._rgb.clamp(0, 1))

    @cached_property
    def out_of_gamut(self) -> Tensor:
        """By more than half a level of 8 bits."""
        return contact_sheet.out_of_gamut(self._rgb)


class ReadPrediction(Prediction):
    """Pictures that were made elsewhere, as they are; their ab is that of their 8-bit colours.

    Args:
        batch: with the photos.
        made: the pictures in the photos' place.
    """

    def __init__(self, batch: Batch, made: Batch) -> None:
        super().__init__(batch)
        self._made = made

    @property
    def pictures(self) -> Tensor:
        """As they are."""
        return true_photos(self._made)

    @property
    def ab(self) -> Tensor:
        """Of the pictures."""
        return self._made.ab

    @property
    def out_of_gamut(self) -> Tensor:
        """Nowhere: they are in sRGB."""
        return torch.zeros_like(self.pictures[:, :1], dtype=torch.bool)


class PictureSource(Protocol):
    """What makes coloured pictures."""

    def predictions(self, photos: Iterable[Batch], samples: Sequence[NDArray[np.int64]]) -> Iterator[Prediction]:
        """Colour batches of photos, one after the other.

        Args:
            photos: the batches.
            samples: which samples are in each.
        """

    def provenance(self) -> dict[str, Any]:
        """What it is, with the hashes of all that it depends on."""


class NetworkPictures:
    """A trained network.

    Args:
        model: the network with its extractor, on its device; its preset says how the colours look.
        assembly: whose L* its ab is joined with.
        autocast: the context in which it computes.
    """

    def __init__(
        self,
        model: PretrainedColorizer,
        assembly: LightnessSource,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._model, self._assembly, self._autocast = model, assembly, autocast

    @property
    def settings(self) -> TrainSettings:
        """Of its training."""
        return self._model.found.settings

    def predictions(self, photos: Iterable[Batch], samples: Sequence[NDArray[np.int64]]) -> Iterator[Prediction]:
        """Colour batches of photos, one after the other."""
        return map(self.predict, photos)

    def predict(self, batch: Batch) -> Prediction:
        """Colour a batch."""
        with self._autocast():
            ab = self._model(batch.lightness, batch.embedding)
        return AssembledPrediction(batch, ab, self._assembly)

    def provenance(self) -> dict[str, Any]:
        """Its checkpoint, its extractor, and how its colours look."""
        found = self._model.found
        return {
            "checkpoint": str(found.path),
            "images_seen": found.images_seen,
            "checkpoint_sha256": found.weights_sha256,
            "extractor_sha256": found.extractor_sha256,
            "look": {name: getattr(self._model.preset, name) for name in ("temperature", "rebalancing", "saturation")},
        }


def evaluation_window(shards: Shards, sample: int, data: DataSettings) -> tuple[slice, slice]:
    """Where a photo lies in its square, rows and columns; for geometries that draw nothing at random."""
    height, width = shards.height[sample : sample + 1], shards.width[sample : sample + 1]
    windows = crop_windows(data.geometry, height, width, data.size)
    (y, x), (rows, columns) = windows.place[0].tolist(), windows.shape[0].tolist()
    return slice(y, y + rows), slice(x, x + columns)

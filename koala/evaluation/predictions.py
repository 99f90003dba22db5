"""Where coloured pictures come from that are judged: a network, or a folder that another colouriser left."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from koala.config.data import DataSettings
from koala.config.fields import LightnessSource
from koala.config.training import TrainSettings
from koala.core.atomic_io import sha256
from koala.core.errors import UserError
from koala.data.crop_windows import crop_windows
from koala.data.loader import Batch
from koala.data.places import read_file
from koala.data.shards import Shards
from koala.evaluation.protocol import SUFFIXES, image_stem
from koala.imaging import color, contact_sheet
from koala.imaging.errors import UnreadableImageError
from koala.imaging.jpeg_intake import decode_image
from koala.models.checkpoint import Checkpoint
from koala.models.network import Colorizer


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
    """Pictures that were made elsewhere; their ab is that of their 8-bit colours.

    Args:
        batch: with the photos.
        read: gives a sample's picture, `(H, W, 3)` uint8.
    """

    def __init__(self, batch: Batch, read: Callable[[int], NDArray[np.uint8]]) -> None:
        super().__init__(batch)
        self._read = read

    @cached_property
    def pictures(self) -> Tensor:
        """As they are."""
        squares = np.stack([self._read(int(sample)) for sample in self.batch.samples])
        return torch.from_numpy(squares).permute(0, 3, 1, 2).contiguous().to(self.photos.device)

    @cached_property
    def ab(self) -> Tensor:
        """Of the pictures."""
        return color.to_ab(self.pictures)

    @property
    def out_of_gamut(self) -> Tensor:
        """Nowhere: they are in sRGB."""
        return torch.zeros_like(self.pictures[:, :1], dtype=torch.bool)


class PictureSource(Protocol):
    """What makes coloured pictures."""

    def predict(self, batch: Batch) -> Prediction:
        """Colour a batch."""

    def provenance(self) -> dict[str, Any]:
        """What it is, with the hashes of all that it depends on."""


class NetworkPictures:
    """A trained network.

    Args:
        found: its checkpoint.
        model: the network with its extractor, on its device.
        saturation: what its ab is multiplied by.
        assembly: whose L* its ab is joined with.
        autocast: the context in which it computes.
    """

    def __init__(
        self,
        found: Checkpoint,
        model: Colorizer,
        saturation: float,
        assembly: LightnessSource,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._found, self._model, self._saturation = found, model, saturation
        self._assembly, self._autocast = assembly, autocast

    @property
    def settings(self) -> TrainSettings:
        """Of its training."""
        return self._found.settings

    def predict(self, batch: Batch) -> Prediction:
        """Colour a batch."""
        with self._autocast():
            ab = self._model(batch.lightness, batch.embedding)
        return AssembledPrediction(batch, self._saturation * ab, self._assembly)

    def provenance(self) -> dict[str, Any]:
        """Its checkpoint and its extractor."""
        return {
            "checkpoint": str(self._found.path),
            "images_seen": self._found.images_seen,
            "checkpoint_sha256": sha256(self._found.path / "model.safetensors"),
            "extractor_sha256": self._found.extractor_sha256,
        }


class FolderPictures:
    """Coloured pictures in a folder, found by the names of the shards' images.

    A picture belongs to the image whose path below the source folder it has, with any suffix or with one more
    (`a/b.JPEG` has `a/b.png` or `a/b.JPEG.png`), or else to the image whose name it has, wherever it lies.

    Args:
        folder: of pictures.
        shards: the images.
        data: in what square each is judged.

    Raises:
        UserError: an image has no picture.
    """

    def __init__(self, folder: Path, shards: Shards, data: DataSettings) -> None:
        self._folder, self._shards, self._data = folder, shards, data
        self._files = {path.relative_to(folder).as_posix(): path for path in picture_files(folder)}
        self._paths = {key: path for name, path in self._files.items() for key in (name, _without_suffix(name))}
        self._names: dict[str, list[Path]] = {}
        for name, path in self._files.items():
            for key in {image_stem(name), image_stem(image_stem(name))}:
                self._names.setdefault(key, []).append(path)
        self._check()

    def _check(self) -> None:
        sources = self._shards.sources()
        missing = [source for source in sources if self._find(source) is None]
        if missing:
            raise UserError(
                f"{self._folder} holds no picture, or several, for {len(missing)} of {len(sources)} images, such as "
                f"{missing[0]}; name the pictures as the images are named, with any suffix"
            )

    def _find(self, source: str) -> Path | None:
        """The file that belongs to the image of that name."""
        for key in (source, _without_suffix(source)):
            if key in self._paths:
                return self._paths[key]
        called = self._names.get(image_stem(source), [])
        return called[0] if len(called) == 1 else None

    def predict(self, batch: Batch) -> Prediction:
        """The pictures of a batch; asking for them raises UserError where one cannot be read or has another size."""
        return ReadPrediction(batch, self._square)

    def _square(self, sample: int) -> NDArray[np.uint8]:
        """A picture in the square that its photo is judged in, `(size, size, 3)`."""
        source, size = self._shards.describe(sample).source, self._data.size
        path = self._find(source)
        assert path is not None, "all were looked for at the beginning"
        try:
            picture = np.asarray(decode_image(read_file(path)).convert("RGB"))
        except (UnreadableImageError, OSError, MemoryError) as error:
            raise UserError(f"{path}: {getattr(error, 'strerror', None) or str(error) or 'no memory for it'}") from None
        if picture.shape[:2] == (size, size):
            return picture
        seen = evaluation_window(self._shards, sample, self._data)
        square = np.zeros((size, size, 3), np.uint8)
        if picture.shape != square[seen].shape:
            sizes = {f"{width} x {height}" for height, width in ((size, size), square[seen].shape[:2])}
            raise UserError(
                f"{path} is {picture.shape[1]} x {picture.shape[0]} pixels, but {source} is judged at "
                f"{' or '.join(sorted(sizes))}; colour the images as this protocol cuts and resizes them"
            )
        square[seen] = picture
        return square

    def provenance(self) -> dict[str, Any]:
        """Where the pictures lie, and the hash of all files' names and contents."""
        digest = hashlib.sha256()
        for name, path in sorted(self._files.items()):
            digest.update(f"{sha256(path)} {name}\n".encode("utf-8", "surrogateescape"))
        return {"pictures_of": str(self._folder), "pictures_sha256": digest.hexdigest()}


def picture_files(folder: Path) -> list[Path]:
    """Files below a folder whose suffix is a picture's."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else name


def evaluation_window(shards: Shards, sample: int, data: DataSettings) -> tuple[slice, slice]:
    """Where a photo lies in its square, rows and columns; for geometries that draw nothing at random."""
    height, width = shards.height[sample : sample + 1], shards.width[sample : sample + 1]
    windows = crop_windows(data.geometry, height, width, data.size)
    (y, x), (rows, columns) = windows.place[0].tolist(), windows.shape[0].tolist()
    return slice(y, y + rows), slice(x, x + columns)

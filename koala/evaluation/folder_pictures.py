"""Coloured pictures in a folder, which another colouriser left: finding each photo's, and bringing it into place."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from koala.config.data import DataSettings
from koala.config.fields import LightnessSource
from koala.config.imaging import MAX_PIXELS
from koala.core.atomic_io import sha256
from koala.core.errors import UserError
from koala.core.progress import Progress
from koala.data.loader import Batch, load_batches
from koala.data.places import read_file
from koala.data.sampler import SamplePositions
from koala.data.shards import SampleInfo, Shards
from koala.evaluation.predictions import AssembledPrediction, Prediction, ReadPrediction, evaluation_window
from koala.evaluation.protocol import SUFFIXES, image_stem
from koala.imaging import metadata
from koala.imaging.errors import UnreadableImageError, decoder_errors
from koala.imaging.jpeg_intake import decode_image


class PictureFiles:
    """Files of pictures by the names of images.

    A picture belongs to the image whose path below the source folder it has, with any suffix or with one more
    (`a/b.JPEG` has `a/b.png` or `a/b.JPEG.png`), or else to the image whose name it has, wherever it lies.

    Args:
        folder: of pictures.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = {path.relative_to(folder).as_posix(): path for path in picture_files(folder)}
        self._paths = {key: path for name, path in self._files.items() for key in (name, _without_suffix(name))}
        self._names: dict[str, list[Path]] = {}
        for name, path in self._files.items():
            for key in {image_stem(name), image_stem(image_stem(name))}:
                self._names.setdefault(key, []).append(path)

    def of(self, sources: Sequence[str]) -> list[Path]:
        """The picture of each image.

        Raises:
            UserError: an image has none, or several.
        """
        found = [self._find(source) for source in sources]
        missing = [source for source, path in zip(sources, found, strict=True) if path is None]
        if missing:
            raise UserError(
                f"{self.folder} holds no picture, or several, for {len(missing)} of {len(sources)} images, such as "
                f"{missing[0]}; name the pictures as the images are named, with any suffix"
            )
        return [path for path in found if path is not None]

    def _find(self, source: str) -> Path | None:
        for key in (source, _without_suffix(source)):
            if key in self._paths:
                return self._paths[key]
        called = self._names.get(image_stem(source), [])
        return called[0] if len(called) == 1 else None

    def sha256(self) -> str:
        """Of all files' names and contents."""
        digest = hashlib.sha256()
        for name, path in sorted(self._files.items()):
            digest.update(f"{sha256(path)} {name}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


class PicturesInPlace:
    """Pictures in the place of the shards' photos, for `load_batches`: they are cut and resized as those are.

    A picture has the shape of its photo, at any size; or it is cut already as the photo is judged.

    Args:
        paths: the picture of each photo.
        photos: the photos.
        data: in what square each is judged.

    Raises:
        UserError: a picture cannot be read, or has another shape.
    """

    def __init__(self, paths: Sequence[Path], photos: Shards, data: DataSettings) -> None:
        self._paths, self._photos, self._data = paths, photos, data
        self._cut: dict[int, tuple[slice, slice]] = {}  # where those lie in their squares that are cut already
        self.height, self.width = (np.zeros(len(paths), np.int64) for _ in range(2))
        with Progress(len(paths), "looking at pictures") as progress:
            for sample in range(len(paths)):
                self.height[sample], self.width[sample] = self._measured(sample)
                progress.advance(1)

    def __len__(self) -> int:
        return len(self._paths)

    def _measured(self, sample: int) -> tuple[int, int]:
        """Height and width of a picture, or of its square where it is cut already."""
        path, size = self._paths[sample], self._data.size
        found = _shape(path)
        seen = evaluation_window(self._photos, sample, self._data)
        if found == (size, size):
            return found
        if found == tuple(part.stop - part.start for part in seen):
            self._cut[sample] = seen
            return size, size
        photo = (int(self._photos.height[sample]), int(self._photos.width[sample]))
        if not _is_scaled(found, photo):
            raise UserError(
                f"{path} is {found[1]} x {found[0]} pixels, but {self._photos.describe(sample).source} is "
                f"{photo[1]} x {photo[0]}; colour the whole photo, at any size, or the crops of koala shards export"
            )
        return found

    def read_many(self, samples: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The pictures as BMP, which holds what Pillow decoded: DALI then resizes the same pixels as of photos."""
        return [np.frombuffer(self._bmp(int(sample)), np.uint8) for sample in samples]

    def _bmp(self, sample: int) -> bytes:
        picture = _decoded(self._paths[sample])
        if sample in self._cut:
            rows, columns = self._cut[sample]
            square = Image.new("RGB", (self._data.size, self._data.size))
            square.paste(picture, (columns.start, rows.start))
            picture = square
        buffer = io.BytesIO()
        picture.save(buffer, "BMP")
        return buffer.getvalue()

    @staticmethod
    def coming(places: Iterable[SamplePositions]) -> AbstractContextManager[Iterable[SamplePositions]]:
        """The same places: pictures lie on this machine."""
        return nullcontext(places)

    def describe(self, sample: int) -> SampleInfo:
        """What is known of a picture, for errors."""
        path = self._paths[sample]
        return SampleInfo(str(path.parent), path.name, self._photos.describe(sample).source)


class FolderPictures:
    """A folder of coloured pictures that is judged.

    Args:
        folder: of pictures.
        photos: the photos.
        data: in what square each is judged.
        device: "cpu" or "gpu", where photos are resized.
        assembly: whose L* the pictures' ab is joined with; None judges the pictures as they are.
        saturation: what their ab is multiplied by before it is joined.

    Raises:
        UserError: a photo has no picture, or one that does not fit.
    """

    def __init__(  # noqa: PLR0917  (what is judged, and how)
        self,
        folder: Path,
        photos: Shards,
        data: DataSettings,
        device: str = "cpu",
        assembly: LightnessSource | None = None,
        saturation: float = 1.0,
    ) -> None:
        self._files = PictureFiles(folder)
        self._pictures = PicturesInPlace(self._files.of(photos.sources()), photos, data)
        self._data, self._device, self._assembly, self._saturation = data, device, assembly, saturation

    def predictions(self, photos: Iterable[Batch], samples: Sequence[NDArray[np.int64]]) -> Iterator[Prediction]:
        """The pictures of batches of photos, one after the other."""
        places = (SamplePositions(some, np.zeros_like(some)) for some in samples)
        batch = max(map(len, samples), default=1)
        made = load_batches(self._pictures, places, self._data, self._device, batch=batch, with_rgb=True)
        return map(self._prediction, photos, made)

    def _prediction(self, photos: Batch, made: Batch) -> Prediction:
        if self._assembly is None:
            return ReadPrediction(photos, made)
        return AssembledPrediction(photos, self._saturation * made.ab, self._assembly)

    def provenance(self) -> dict[str, Any]:
        """Where the pictures lie, and the hash of all files' names and contents."""
        return {"pictures_of": str(self._files.folder), "pictures_sha256": self._files.sha256()}


def picture_files(folder: Path) -> list[Path]:
    """Files below a folder whose suffix is a picture's."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else name


def _shape(path: Path) -> tuple[int, int]:
    """Height and width of a picture, upright, from its header: EXIF's orientations from 5 on lie on their side."""
    try:
        with decoder_errors(), Image.open(path) as image:
            width, height = image.size
            if width * height > 2 * MAX_PIXELS:  # as Pillow does, whose bound is the process's and may be higher by now
                raise Image.DecompressionBombError
            lies = metadata.orientation_of(metadata.exif_of(image)) >= 5
    except UnreadableImageError as error:
        raise UserError(f"{path}: {error}") from None
    return (width, height) if lies else (height, width)


def _decoded(path: Path) -> Image.Image:
    try:
        return decode_image(read_file(path)).convert("RGB")
    except (UnreadableImageError, OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "no memory for it"
        raise UserError(f"{path}: {reason}") from None


def _is_scaled(picture: tuple[int, int], photo: tuple[int, int]) -> bool:
    """Whether a picture has its photo's shape, but for sides that were rounded to whole pixels."""
    (height, width), (photo_height, photo_width) = picture, photo
    return abs(height * photo_width - width * photo_height) <= max(height + width, photo_height + photo_width) / 2

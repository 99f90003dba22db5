"""JPEG bytes -> lightness and ab on the device: the DALI graph, and the batches it yields.

The graph holds no random state. Which samples come, and which part of each is cut out, is decided here in
Python from (seed, epoch, sample) and enters the graph as arguments, so that the clock alone resumes a run, on any
number of processes. The same graph runs on the GPU and on the CPU: each operator in it has both.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

# DALI takes memory above this size anew from the system for each batch, which costs the CPU backend a fifth of
# its time in page faults; it reads the variable when it first allocates.
os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "1M")

import numpy as np
from numpy.typing import NDArray

from koala.config.data import DataSettings, ResizeRule
from koala.config.fields import Geometry
from koala.core.errors import UserError
from koala.data import augmentation
from koala.data.augmentation import Aging
from koala.data.sampler import SamplePositions
from koala.data.shards import Shards
from koala.imaging import color
from koala.imaging.jpeg_intake import UnreadableImageError, validate_or_transcode

if TYPE_CHECKING:
    import torch

_READ_AHEAD = 3  # batches whose bytes are being read while earlier ones are decoded
_READERS = 8  # threads that read; on a network file system most of them wait
_AGE = 1  # tells what is drawn for the age of a photo from what is drawn for its window
_SMALLEST_CROP = 0.5  # of the short side, for random_crop


@dataclass(frozen=True)
class Batch:
    """Photos as the network sees them, on the device.

    Attributes:
        lightness: `(B, 1, H, W)` float32 in -1..1.
        ab: `(B, 2, H, W)` float32 in -1..1.
        samples: `(B,)` sample numbers.
        embedding: `(B, E)` float32, of what is seen in lightness, where embeddings are kept.
        rgb: `(B, 3, H, W)` uint8, the photos themselves, where they were asked for.
    """

    lightness: "torch.Tensor"
    ab: "torch.Tensor"
    samples: NDArray[np.int64]
    embedding: "torch.Tensor | None" = None
    rgb: "torch.Tensor | None" = None


# ---------------------------------------------------------------- geometry


@dataclass(frozen=True)
class CropWindow:
    """A part of a photo, and where it lands in the square that the network sees.

    Attributes:
        start: `(y, x)` of the part, in source pixels; up to a pixel outside the photo, where its edge goes on.
        end: `(y, x)` where it ends.
        shape: `(height, width)` that it is resized to.
        place: `(y, x)` of its corner in the square; what it leaves free is black.
        mirror: whether the square is mirrored.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    shape: tuple[int, int]
    place: tuple[int, int]
    mirror: bool


def source_rectangle(
    geometry: Geometry, height: int, width: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """The rectangle that becomes the square: `(top, left, bottom, right)` in source pixels, also beyond the photo."""
    short, long = min(height, width), max(height, width)
    match geometry:
        case "pad":
            top, left = (long - height) // 2, (long - width) // 2
            return -top, -left, long - top, long - left
        case "crop":
            top, left = (height - short) // 2, (width - short) // 2
            return top, left, top + short, left + short
        case "random_crop":
            side = rng.uniform(_SMALLEST_CROP, 1) * short
            y, x = rng.uniform(0, height - side), rng.uniform(0, width - side)
            return y, x, y + side, x + side
        case "squash":
            return 0, 0, height, width
        case "legacy":  # the report padded the long axis where it meant the short one
            pad = (long - short) // 2
            above, beside = (0, pad) if width > height else (pad, 0)
            return -above, -beside, height + above, width + beside


def crop_window(
    geometry: Geometry, height: int, width: int, size: int, rng: np.random.Generator, *, mirror: bool = False
) -> CropWindow:
    """What is cut out of a photo and where it lands: pure, but for the generator.

    Args:
        geometry: how a photo becomes a square.
        height: of the photo.
        width: of the photo.
        size: of the square.
        rng: of random crops and mirroring; else nothing is drawn.
        mirror: whether to mirror at random, as random_crop always does.
    """
    top, left, bottom, right = source_rectangle(geometry, height, width, rng)
    y0, y1, start_y, end_y = _along(top, bottom, height, size)
    x0, x1, start_x, end_x = _along(left, right, width, size)
    mirrored = (mirror or geometry == "random_crop") and bool(rng.integers(2))
    return CropWindow((start_y, start_x), (end_y, end_x), (y1 - y0, x1 - x0), (y0, x0), mirrored)


def _along(start: float, end: float, length: int, size: int) -> tuple[int, int, float, float]:
    """Along one axis: the pixels of the square that show the photo, and the part of the photo behind them."""
    step = (end - start) / size
    first = max(0, round((0 - start) / step))
    last = min(size, max(first + 1, round((length - start) / step)))
    return first, last, start + first * step, start + last * step


# ---------------------------------------------------------------- the graph


def build_graph(source: Iterable[Any], data: DataSettings, batch: int, device: str, with_rgb: bool = False) -> Any:
    """Define the DALI pipeline; it needs no GPU before it is built.

    Args:
        source: for each batch, lists or arrays with an entry per picture: the JPEG (1-D uint8); start, end and
            shape of its window and its position in the square (each y and x); whether it is mirrored; with aging, what
            age did to it (`koala.data.augmentation`), in two arrays.
        data: geometry, size, source of lightness, threads.
        batch: pictures at the most.
        device: "cpu" or "gpu".
        with_rgb: give the photos themselves, too.

    Returns:
        A pipeline whose outputs are lightness, ab (and rgb), CHW.
    """
    from nvidia.dali import Pipeline, fn, types

    def square(picture: Any, fill: float, channels: int, dtype: Any = types.FLOAT) -> Any:
        """Mirror, lay into the square, bring colours to the front."""
        return fn.crop_mirror_normalize(
            picture,
            crop=(data.size, data.size),
            crop_pos_y=position[0],
            crop_pos_x=position[1],
            mirror=mirror,
            fill_values=[fill] * channels,
            out_of_bounds_policy="pad",
            output_layout="CHW",
            dtype=dtype,
        )

    pipeline = Pipeline(
        batch_size=batch,
        num_threads=data.threads,
        device_id=_device_id() if device == "gpu" else None,
        prefetch_queue_depth=2,
        exec_dynamic=True,  # outputs belong to who holds them, and are handed over without a copy
    )
    with pipeline:
        inputs = [(types.UINT8, 1, ""), *[(types.FLOAT, 1, "")] * 4, (types.INT32, 0, "")]
        if data.aging:
            inputs += [(types.FLOAT, 1, ""), (types.FLOAT, 3, "HWC")]
        dtype, ndim, layout = map(list, zip(*inputs, strict=True))
        jpeg, start, end, shape, position, mirror, *age = fn.external_source(
            source, num_outputs=len(inputs), dtype=dtype, ndim=ndim, layout=layout
        )
        photo = fn.decoders.image(
            jpeg,
            device="mixed" if device == "gpu" else "cpu",
            output_type=types.RGB,
            jpeg_fancy_upsampling=True,  # chroma as libjpeg and Pillow have it
        )
        part = fn.resize(
            photo, size=shape, roi_start=start, roi_end=end, interp_type=types.INTERP_LINEAR, antialias=True
        )
        # the colour arithmetic comes before padding, and so is done for the photo only
        if age:
            numbers, field = age
            lightness = color.grey_to_lightness(
                augmentation.apply_aging(color.to_grey(part), numbers, field, shape, device)
            )
        else:
            lightness = color.to_lightness(part, data.lightness)
        outputs = [
            square(lightness, fill=-1, channels=1),
            square(color.to_ab(part), fill=0, channels=2),
        ]
        if with_rgb:
            outputs.append(square(part, fill=0, channels=3, dtype=types.UINT8))
        pipeline.set_outputs(*outputs)
    return pipeline


def _device_id() -> int | None:
    """The current GPU; none where there is no GPU, so that the graph can be defined and serialised anywhere."""
    import torch

    return torch.cuda.current_device() if torch.cuda.is_available() else None


# ---------------------------------------------------------------- batches


class EmbeddingReader(Protocol):
    """Where embeddings are kept."""

    def read(self, sample: int, mirror: bool) -> NDArray[np.float32]:
        """The embedding of a sample, or of its mirror image, `(E,)`."""


def load_batches(
    shards: Shards,
    places: Iterable[SamplePositions],
    data: DataSettings,
    device: str,
    *,
    batch: int,
    seed: int = 0,
    with_rgb: bool = False,
    embeddings: EmbeddingReader | None = None,
) -> Iterator[Batch]:
    """Read, decode and convert: one `Batch` for each item of `places`.

    Args:
        shards: where the samples are.
        places: which samples, in which epoch; `batch` of them at the most.
        data: geometry, size, source of lightness, mirroring, threads.
        device: "cpu" or "gpu".
        batch: pictures at the most.
        seed: of random crops and mirroring.
        with_rgb: give the photos themselves, too.
        embeddings: where embeddings are kept that are to be given, too.

    Yields:
        Batches on the device, in the order of `places`.

    Raises:
        UserError: a sample does not decode; shard and key are named.
    """
    under_way: deque[_Request] = deque()
    with _Reader(shards, places, data, seed, embeddings) as reader:
        pipeline = build_graph(_fed(reader, under_way, data), data, batch, device, with_rgb)
        pipeline.build()
        while True:
            try:
                outputs = pipeline.run()
            except StopIteration:
                return
            except RuntimeError as error:
                raise _undecodable(shards, under_way, error) from error
            yield _batch(outputs, under_way.popleft())


@dataclass(frozen=True)
class _Request:
    """A batch on its way in: which samples, their bytes, their windows, and their embeddings where they are kept."""

    samples: NDArray[np.int64]
    jpegs: list[NDArray[np.uint8]]
    windows: list[CropWindow]
    ages: list[Aging]
    embeddings: list[NDArray[np.float32]]


_Read = tuple[NDArray[np.uint8], NDArray[np.float32] | None]


class _Reader:
    """Reads the bytes of coming batches in threads, in order, a few batches ahead."""

    def __init__(
        self,
        shards: Shards,
        places: Iterable[SamplePositions],
        data: DataSettings,
        seed: int,
        embeddings: EmbeddingReader | None,
    ) -> None:
        self._shards, self._places, self._data, self._seed = shards, iter(places), data, seed
        self._embeddings = embeddings
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="koala-reader")
        self._ahead: deque[tuple[SamplePositions, list[CropWindow], list[Future[_Read]]]] = deque()

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[_Request]:
        while True:
            self._read_ahead()
            if not self._ahead:
                return
            places, windows, futures = self._ahead.popleft()
            read = [future.result() for future in futures]
            embeddings = [embedding for _, embedding in read if embedding is not None]
            ages = [self._age(*place) for place in zip(places.samples, places.epochs, strict=True) if self._data.aging]
            yield _Request(places.samples, [jpeg for jpeg, _ in read], windows, ages, embeddings)

    def _read_ahead(self) -> None:
        while len(self._ahead) < _READ_AHEAD and (places := next(self._places, None)) is not None:
            windows = [self._window(*place) for place in zip(places.samples, places.epochs, strict=True)]
            under_way = zip(places.samples, windows, strict=True)
            futures = [self._pool.submit(self._read, int(sample), window.mirror) for sample, window in under_way]
            self._ahead.append((places, windows, futures))

    def _read(self, sample: int, mirror: bool) -> _Read:
        embedding = self._embeddings.read(sample, mirror) if self._embeddings is not None else None
        return self._shards.read(sample), embedding

    def _window(self, sample: int, epoch: int) -> CropWindow:
        height, width = int(self._shards.height[sample]), int(self._shards.width[sample])
        rng = np.random.default_rng([self._seed, int(epoch), int(sample)])
        return crop_window(self._data.geometry, height, width, self._data.size, rng, mirror=self._data.mirror)

    def _age(self, sample: int, epoch: int) -> Aging:
        return augmentation.draw_aging(
            np.random.default_rng([self._seed, int(epoch), int(sample), _AGE]), self._data.aging
        )


def _fed(requests: Iterable[_Request], under_way: deque[_Request], data: DataSettings) -> Iterator[tuple[Any, ...]]:
    """What DALI is given for each request, noting that it is under way."""
    for request in requests:
        under_way.append(request)
        windows = request.windows
        ages = [[age.numbers() for age in request.ages], [age.field() for age in request.ages]] if data.aging else []
        yield (
            request.jpegs,
            np.array([window.start for window in windows], np.float32),
            np.array([window.end for window in windows], np.float32),
            np.array([window.shape for window in windows], np.float32),
            np.array([_crop_position(window, data.size) for window in windows], np.float32),
            np.array([window.mirror for window in windows], np.int32),
            *map(np.array, ages),
        )


def _crop_position(window: CropWindow, size: int) -> tuple[float, float]:
    """Where DALI is to cut a square out of a picture no larger than it: a share of the (negative) free space."""
    y, x = (
        place / (size - length) if length < size else 0.0
        for place, length in zip(window.place, window.shape, strict=True)
    )
    return y, x


def _batch(outputs: Any, request: _Request) -> Batch:
    """Hand DALI's outputs over to torch, on their device."""
    import torch

    lightness, ab, *rgb = (torch.from_dlpack(output.as_tensor()) for output in outputs)
    embedding = torch.from_numpy(np.stack(request.embeddings)).to(ab.device) if request.embeddings else None
    return Batch(lightness, ab, request.samples, embedding, rgb[0] if rgb else None)


def _undecodable(shards: Shards, under_way: Iterable[_Request], error: RuntimeError) -> UserError:
    """Say which sample stopped the pipeline; DALI does not, so each is looked at."""
    requests = list(under_way)
    for request in requests:
        for sample, jpeg in zip(request.samples, request.jpegs, strict=True):
            try:
                validate_or_transcode(jpeg.tobytes(), ResizeRule())
            except UnreadableImageError as reason:
                found = shards.describe(int(sample))
                return UserError(
                    f"{found.shard}: sample {found.key} ({found.source}) does not decode: {reason}; "
                    "check the shards with koala shards verify"
                )
    names = sorted({shards.describe(int(sample)).shard for request in requests for sample in request.samples})
    first_line = str(error).strip().partition("\n")[0]
    return UserError(f"DALI stopped in one of {', '.join(names)}: {first_line}; check them with koala shards verify")

"""Shards -> batches on the device: which bytes are read, what is cut out of each photo, and who holds the memory.

A thread of its own feeds the DALI graph (`koala.data.dali_pipeline`) and hands its outputs over, a few batches ahead of
who trains; other threads read the bytes, a few batches ahead of it.
"""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from koala.config.data import DataSettings
from koala.data import augmentation
from koala.data.augmentation import Aging
from koala.data.counter_rng import uniforms
from koala.data.crop_windows import CropWindows, crop_windows, draws
from koala.data.dali_errors import explained
from koala.data.dali_pipeline import build_graph
from koala.data.sampler import SamplePositions
from koala.data.shards import SampleInfo

if TYPE_CHECKING:
    import torch

_READ_AHEAD = 3  # batches whose bytes are being read while earlier ones are decoded
_READERS = 8  # threads that read; on a network file system most of them wait
_CHUNK = 32  # samples that a thread reads at a time
_AHEAD = 2  # batches on the device that wait for who trains
_AGING = 1  # tells what is drawn for the aging of a photo from all else


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


class EncodedPhotos(Protocol):
    """Where the bytes of photos are: shards, or what stands in their place.

    Attributes:
        height: `(N,)` int64 in pixels.
        width: `(N,)` int64 in pixels.
    """

    height: NDArray[np.int64]
    width: NDArray[np.int64]

    def read_many(self, samples: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The bytes of several samples' files, `(N,)` uint8 each."""

    def describe(self, sample: int) -> SampleInfo:
        """What is known of a sample."""

    def coming(self, places: Iterable[SamplePositions]) -> contextlib.AbstractContextManager[Iterable[SamplePositions]]:
        """The same places; while the block runs, what they need may be fetched ahead."""


class EmbeddingReader(Protocol):
    """Where embeddings are kept."""

    def read(self, samples: NDArray[np.int64], mirror: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The embeddings of `(N,)` samples, or of their mirror images, `(N, E)`."""


def load_batches(
    shards: EncodedPhotos,
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
        Batches on the device, in the order of `places`; they stay as they are for as long as they are held.

    Raises:
        UserError: a sample does not decode (shard and key are named), or the device fails.
    """
    hand_over = _OnGpu() if device == "gpu" else _OnCpu()
    work = _decoded(shards, places, data, device, hand_over, batch, seed, with_rgb, embeddings)
    with contextlib.closing(work), contextlib.closing(prefetched(work, _AHEAD, hand_over.begin)) as ready:
        yield from map(hand_over.receive, ready)


def _decoded(  # noqa: PLR0917  (as load_batches)
    shards: EncodedPhotos,
    places: Iterable[SamplePositions],
    data: DataSettings,
    device: str,
    hand_over: "_OnCpu | _OnGpu",
    batch: int,
    seed: int,
    with_rgb: bool,
    embeddings: EmbeddingReader | None,
) -> Generator[Any, None, None]:
    """Run the graph, and begin to hand its outputs over."""
    under_way: deque[_Request] = deque()
    with shards.coming(places) as coming, _Reader(shards, coming, data, seed, embeddings) as reader:
        pipeline = build_graph(_fed(reader, under_way, data), data, batch, device, with_rgb)
        while True:
            try:
                outputs = hand_over.run(pipeline)  # which builds it first
            except StopIteration:
                return
            except (RuntimeError, MemoryError) as error:
                jpegs = (sample for request in under_way for sample in zip(request.samples, request.jpegs, strict=True))
                raise explained(error, shards.describe, list(jpegs)) from error
            yield hand_over.give(outputs, under_way.popleft())


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Request:
    """A batch on its way in: which samples, their bytes, their windows, and their embeddings where they are kept."""

    samples: NDArray[np.int64]
    jpegs: list[NDArray[np.uint8]]
    windows: CropWindows
    ages: list[Aging]
    embeddings: NDArray[np.float32] | None


_Read = tuple[list[NDArray[np.uint8]], NDArray[np.float32] | None]


class _Reader:
    """Reads the bytes of coming batches in threads, in order, a few batches ahead."""

    def __init__(
        self,
        shards: EncodedPhotos,
        places: Iterable[SamplePositions],
        data: DataSettings,
        seed: int,
        embeddings: EmbeddingReader | None,
    ) -> None:
        self._shards, self._data, self._seed = shards, data, seed
        self._places = iter(places)
        self._embeddings = embeddings
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="koala-reader")
        self._ahead: deque[tuple[SamplePositions, CropWindows, list[Future[_Read]]]] = deque()

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
            jpegs, embeddings = zip(*(future.result() for future in futures), strict=True)
            yield _Request(
                places.samples,
                [jpeg for chunk in jpegs for jpeg in chunk],
                windows,
                self._ages(places),
                np.concatenate(embeddings) if self._embeddings is not None else None,
            )

    def _read_ahead(self) -> None:
        while len(self._ahead) < _READ_AHEAD and (places := next(self._places, None)) is not None:
            windows = self._windows(places)
            chunks = [slice(start, start + _CHUNK) for start in range(0, len(places), _CHUNK)]
            futures = [self._pool.submit(self._read, places.samples[part], windows.mirror[part]) for part in chunks]
            self._ahead.append((places, windows, futures))

    def _read(self, samples: NDArray[np.int64], mirror: NDArray[np.bool_]) -> _Read:
        embeddings = self._embeddings.read(samples, mirror) if self._embeddings is not None else None
        return self._shards.read_many(samples), embeddings

    def _windows(self, places: SamplePositions) -> CropWindows:
        data, samples = self._data, places.samples
        random = uniforms(self._seed, places.epochs, samples) if draws(data.geometry, data.mirror) else None
        height, width = self._shards.height[samples], self._shards.width[samples]
        return crop_windows(data.geometry, height, width, data.size, random, mirror=data.mirror)

    def _ages(self, places: SamplePositions) -> list[Aging]:
        if not self._data.aging:
            return []
        rngs = (
            np.random.default_rng([self._seed, int(epoch), int(sample), _AGING])
            for sample, epoch in zip(places.samples, places.epochs, strict=True)
        )
        return [augmentation.draw_aging(rng, self._data.aging) for rng in rngs]


def _fed(requests: Iterable[_Request], under_way: deque[_Request], data: DataSettings) -> Iterator[tuple[Any, ...]]:
    """What DALI is given for each request, noting that it is under way."""
    for request in requests:
        under_way.append(request)
        windows = request.windows
        ages = [[age.numbers() for age in request.ages], [age.field() for age in request.ages]] if data.aging else []
        yield (
            request.jpegs,
            windows.start.astype(np.float32),
            windows.end.astype(np.float32),
            windows.shape.astype(np.float32),
            _crop_positions(windows, data.size).astype(np.float32),
            windows.mirror.astype(np.int32),
            *map(np.array, ages),
        )


def _crop_positions(windows: CropWindows, size: int) -> NDArray[np.float64]:
    """Where DALI is to cut squares out of pictures no larger than they: shares of the (negative) free space."""
    return windows.place / np.maximum(size - windows.shape, 1)


# ---------------------------------------------------------------- handing over


def prefetched(
    work: Iterator[Any], ahead: int, begin: Callable[[], contextlib.AbstractContextManager[Any]]
) -> Generator[Any, None, None]:
    """What comes of an iterator that runs in a thread of its own, a few items ahead.

    Args:
        work: the iterator; it is closed by the caller.
        ahead: items that wait.
        begin: gives the context in which the thread works.

    Yields:
        Its items; an error in it is raised here.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(kind: str, item: Any) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((kind, item), timeout=0.1)
                return

    def run() -> None:
        try:
            with begin():
                for item in work:
                    put("item", item)
                    if stopped.is_set():
                        return
            put("end", None)
        except BaseException as error:  # raised again by who waits for the next item
            put("error", error)

    thread = threading.Thread(target=run, name="koala-feeder", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "error":
                raise item
            if kind == "end":
                return
            yield item
    finally:
        stopped.set()
        thread.join()


class _OnCpu:
    """Hands memory over as it is: DALI's buffers belong to who holds them."""

    @staticmethod
    def begin() -> contextlib.AbstractContextManager[Any]:
        """Nothing is needed."""
        return contextlib.nullcontext()

    @staticmethod
    def run(pipeline: Any) -> Any:
        """The graph's next outputs."""
        return pipeline.run()

    @staticmethod
    def give(outputs: Any, request: _Request) -> Batch:
        """A batch of them."""
        import torch

        embedding = torch.from_numpy(request.embeddings) if request.embeddings is not None else None
        return _batch([torch.from_dlpack(output.as_tensor()) for output in outputs], embedding, request)

    @staticmethod
    def receive(batch: Batch) -> Batch:
        """As it is."""
        return batch


class Lifetimes:
    """Keeps what a device still reads, and lets it go once the device has passed the event that was recorded after.

    Args:
        record: records an event after all that the device was given; its `query` says whether it has passed, and its
            `synchronize` waits until it has.
    """

    def __init__(self, record: Callable[[], Any]) -> None:
        self._record = record
        self._kept: deque[tuple[Any, Any]] = deque()

    def keep(self, *things: Any) -> Any:
        """Keep things until the device has passed this point, and let go of those that it has done with.

        Returns:
            The event.
        """
        event = self._record()
        self._kept.append((event, things))
        while self._kept and self._kept[0][0].query():
            self._kept.popleft()
        return event

    def close(self) -> None:
        """Wait until the device has done with all of them, and let them go."""
        while self._kept:
            self._kept[0][0].synchronize()
            self._kept.popleft()


class _OnGpu:
    """Copies DALI's outputs on a stream of its own to memory that is torch's, which knows who uses it.

    DALI writes into its buffers again once nobody holds them, and does not know what torch has yet to read: so they are
    held until the copy is made.
    """

    def __init__(self) -> None:
        import torch

        self._device = torch.cuda.current_device()
        self._stream = torch.cuda.Stream()
        self._lifetimes = Lifetimes(self._stream.record_event)

    @contextlib.contextmanager
    def begin(self) -> Iterator[None]:
        """The feeding thread works on this GPU, and on the stream; what that still reads at the end is waited for."""
        import torch

        torch.cuda.set_device(self._device)
        with torch.cuda.stream(self._stream):
            yield
            self._lifetimes.close()

    def run(self, pipeline: Any) -> Any:
        """The graph's next outputs, ready on the stream."""
        return pipeline.run(self._stream)

    def give(self, outputs: Any, request: _Request) -> tuple[Batch, Any]:
        """A batch, and the event after which it is whole."""
        import torch

        tensors = [torch.from_dlpack(output.as_tensor()).clone() for output in outputs]
        embedding, pinned = None, None
        if request.embeddings is not None:
            pinned = torch.from_numpy(request.embeddings).pin_memory()
            embedding = pinned.to(self._device, non_blocking=True)
        event = self._lifetimes.keep(outputs, pinned)
        return _batch(tensors, embedding, request), event

    def receive(self, given: tuple[Batch, Any]) -> Batch:
        """Let the consumer's stream wait for the batch, and the allocator know of that stream."""
        import torch

        batch, event = given
        current = torch.cuda.current_stream()
        current.wait_event(event)
        for tensor in (batch.lightness, batch.ab, batch.embedding, batch.rgb):
            if tensor is not None:
                tensor.record_stream(current)
        return batch


def _batch(tensors: "list[torch.Tensor]", embedding: "torch.Tensor | None", request: _Request) -> Batch:
    lightness, ab, *rgb = tensors
    return Batch(lightness, ab, request.samples, embedding, rgb[0] if rgb else None)

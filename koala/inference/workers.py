"""Threads that read, colour and write photos.

Where the network is on a GPU, it takes the photos of all threads that wait for it together.
"""

import math
import os
import queue
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from koala.config.inference import ColorizeSettings
from koala.core.atomic_io import write_atomic
from koala.core.devices import cores_set_back, fp32_products
from koala.core.errors import UserError
from koala.core.progress import Progress
from koala.imaging import openraster, photo_io
from koala.imaging.errors import UnreadableImageError
from koala.inference import colorize
from koala.inference.hints import read_hints
from koala.inference.jobs import Job, Outcome
from koala.models.network import Colorizer
from koala.models.pretrained import load_model

_Predict = Callable[..., Tensor]  # of lightness, and of hints where there are some

_MOST_WAIT = 64  # photos that the network takes at once
_MOST_PIXELS = 1 << 22  # of several of them; memory is a matter of pixels, and --size of what a person likes


def colorize_photos(todo: Sequence[Job], settings: ColorizeSettings) -> Counter[Outcome]:
    """Colour photos side by side; those that cannot be read are named.

    Raises:
        UserError: there is no such model or preset, its extractor's weights are not to be had, or it takes no hints.
    """
    model = load_model(settings.model, settings.extractor.weights).to(colorize.device_for(settings.device))
    colorize.check_hints(model, settings.hints)
    model.find_preset(settings.options.preset)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(settings.jobs or cores, len(todo))
    threads = max(1, min(cores // workers, torch.get_num_threads()))  # of each; OMP_NUM_THREADS may allow fewer
    counts: Counter[Outcome] = Counter()
    predict: _Predict = partial(colorize.predict, model, options=settings.options)
    with (
        fp32_products(),
        cores_set_back(),
        warnings.catch_warnings(action="ignore"),  # here and not in the threads, which share the filters
        Progress(len(todo), "colouring", unit="photos") as progress,
        PredictionQueue(predict) as queued,
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool,
    ):
        # a GPU is quicker with several photos at once, cores are with one each
        together = colorize.device_of(model).type == "cuda" and settings.hints is None
        worker = _Worker(queued.predict if together else predict, model, settings)
        futures = [pool.submit(worker.do, job) for job in todo]
        try:
            for future in as_completed(futures):
                try:
                    outcome, note = future.result()
                    counts[outcome] += 1
                except UserError as error:
                    note = str(error)
                    counts["failed"] += 1
                if note:
                    progress.say(note)
                progress.advance(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return counts


class _InColorError(Exception):
    """A photo has no page that wants colours."""


class _Worker:
    """What a thread does with a photo."""

    def __init__(self, predict: _Predict, model: Colorizer, settings: ColorizeSettings) -> None:
        self._predict, self._settings = predict, settings
        self._size, self._stride = colorize.size_for(model, settings.options), model.network.stride
        self._takes_hints = model.network.hints
        self._large = Lock()

    def do(self, job: Job) -> tuple[Outcome, str]:
        """Colour a photo.

        Returns:
            What became of it, and what a person should know of it.

        Raises:
            UserError: it cannot be read.
        """
        with self._large if photo_io.is_large(job.source) else nullcontext():
            photos = photo_io.open_photos(job.source, self._settings.limits)
            outcome = self._color(job, photos)
        is_partial = outcome == "coloured" and photos.remainder
        return outcome, f"{job.source}: coloured without {photos.remainder}" if is_partial else ""

    def _color(self, job: Job, photos: photo_io.PhotoFile) -> Outcome:
        try:
            photo_io.write_pages(self._pages(job, photos), job.target)
        except _InColorError:
            job.copy.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(job.copy, job.source.read_bytes(), durable=False)
            return "in colour"
        except UnreadableImageError as error:
            raise UserError(f"{job.source}: {error}") from None
        except (MemoryError, torch.OutOfMemoryError):
            raise UserError(f"{job.source}: there is no memory for it") from None
        return "coloured"

    def _pages(self, job: Job, photos: photo_io.PhotoFile) -> Iterator[tuple[NDArray[Any], photo_io.Photo]]:
        """A photo's pages, coloured; those that are in colour already as they are, unless they all are."""
        in_color = 0
        for number, photo in enumerate(photos, start=1):
            view = colorize.look(photo.pixels, self._size, self._stride)
            if view.kind == "color" and not (self._settings.recolor or self._settings.hints):
                in_color += 1
                if in_color == len(photos):
                    raise _InColorError
                yield photo.pixels, photo
                continue
            dabs = self._read_hints(photo.pixels)
            hints = colorize.placed_hints(dabs, photo.pixels, view)
            ab = self._predict(view.lightness) if hints is None else self._predict(view.lightness, hints=hints)
            over = None if job.layers else photo.pixels
            colored = colorize.paint(photo.pixels, view, ab, self._settings.options, out=over)
            if job.layers:
                self._write_layers(job.layers_of(number), photo, view, colored, dabs)
            yield colored, photo

    def _read_hints(self, pixels: NDArray[Any]) -> NDArray[np.uint8] | None:
        """The dabs for a photo, `(H, W, 4)`; none where there are none."""
        given = self._settings.hints
        return None if given is None else read_hints(given, pixels.shape, self._settings.limits)

    def _write_layers(
        self,
        path: Path,
        photo: photo_io.Photo,
        view: colorize.View,
        colored: NDArray[Any],
        dabs: NDArray[np.uint8] | None,
    ) -> None:
        """Write the further file; the layer of dabs is there to be painted on, wherever the model takes some."""
        path.parent.mkdir(parents=True, exist_ok=True)
        color = photo_io.convert_depth(colored, np.uint8)
        if self._settings.layers == "ora":
            grey = photo_io.convert_depth(colorize.grey(photo.pixels, view), np.uint8)
            if dabs is None and self._takes_hints:
                dabs = np.zeros((*grey.shape, 4), np.uint8)
            openraster.write_ora(path, grey, color, photo.dpi, dabs)
        else:
            openraster.write_layer(path, photo_io.convert_depth(photo.pixels, np.uint8), color)


class PredictionQueue:
    """Photos before the one network: those that wait and are of one size are coloured together.

    Args:
        predict: the network: `(B, 1, h, w)` lightness to `(B, 2, h, w)` ab.
    """

    def __init__(self, predict: _Predict) -> None:
        self._predict = predict
        self._waiting: queue.SimpleQueue[tuple[Tensor, Future[Tensor]] | None] = queue.SimpleQueue()
        self._thread = Thread(target=self._serve, daemon=True)

    def predict(self, lightness: Tensor) -> Tensor:
        """`(1, 1, h, w)` to `(1, 2, h, w)` ab; waits."""
        answer: Future[Tensor] = Future()
        self._waiting.put((lightness, answer))
        return answer.result()

    def _serve(self) -> None:
        while asked := self._waiting.get():
            together = [asked]
            while len(together) < _MOST_WAIT and not self._waiting.empty():
                if (asked := self._waiting.get()) is None:
                    self._waiting.put(None)
                    break
                together.append(asked)
            for shape, group in groupby(sorted(together, key=_shape), key=_shape):
                alike, most = list(group), max(1, _MOST_PIXELS // math.prod(shape))
                for first in range(0, len(alike), most):
                    self._answer(alike[first : first + most])

    def _answer(self, group: Sequence[tuple[Tensor, Future[Tensor]]]) -> None:
        try:
            ab = self._predict(torch.cat([lightness for lightness, _ in group]))
        except Exception as error:  # whoever waits says so
            for _, answer in group:
                answer.set_exception(error)
        else:
            for (_, answer), one in zip(group, ab.split(1), strict=True):
                answer.set_result(one)

    def __enter__(self) -> "PredictionQueue":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._waiting.put(None)
        self._thread.join()


def _shape(asked: tuple[Tensor, Future[Tensor]]) -> tuple[int, ...]:
    return tuple(asked[0].shape)

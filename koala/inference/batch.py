"""`koala colorize`: photos and folders of photos, coloured side by side.

Threads read, paint and write. Where the network is on a GPU, it takes the photos of all that wait for it together.
"""

import os
import queue
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from koala.config.inference import ColorizeSettings
from koala.core.atomic_io import write_atomic
from koala.core.errors import UserError
from koala.core.progress import Progress
from koala.imaging import openraster, photo_io
from koala.inference import colorize
from koala.models.network import Colorizer
from koala.models.pretrained import load_model

_Predict = Callable[[Tensor], Tensor]
Outcome = Literal["coloured", "in colour", "there", "failed"]

_LAYERS = {"ora": ".ora", "png": ".layer.png"}
_MOST_WAIT = 64  # photos that the network takes at once


@dataclass(frozen=True)
class Job:
    """A photo and where what is made of it goes.

    Attributes:
        source: its file.
        target: the coloured photo's.
        copy: where it goes as it is, if it is in colour.
        layers: further file; none where none is asked for.
    """

    source: Path
    target: Path
    copy: Path
    layers: Path | None

    def is_done(self) -> bool:
        """Whether an earlier run made all of it."""
        return (self.target.exists() and (self.layers is None or self.layers.exists())) or (
            self.copy != self.target and self.copy.exists()
        )


class Line:
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
            for _, group in groupby(sorted(together, key=_shape), key=_shape):
                self._answer(list(group))

    def _answer(self, group: Sequence[tuple[Tensor, Future[Tensor]]]) -> None:
        try:
            ab = self._predict(torch.cat([lightness for lightness, _ in group]))
        except Exception as error:  # whoever waits says so
            for _, answer in group:
                answer.set_exception(error)
        else:
            for (_, answer), one in zip(group, ab.split(1), strict=True):
                answer.set_result(one)

    def __enter__(self) -> "Line":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._waiting.put(None)
        self._thread.join()


def _shape(asked: tuple[Tensor, Future[Tensor]]) -> tuple[int, ...]:
    return tuple(asked[0].shape)


def colorize_command(settings: ColorizeSettings) -> int:
    """`koala colorize`: colour files and folders of files; what is there already is left alone.

    Returns:
        0 when all were coloured, 1 when some could not be read: each of these is named.

    Raises:
        UserError: there is nothing to colour, no model, or a photo would be written over.
    """
    jobs = list(_jobs(settings))
    _check(jobs)
    todo = jobs if settings.overwrite else [job for job in jobs if not job.is_done()]
    counts: Counter[Outcome] = Counter({"there": len(jobs) - len(todo)})
    if todo:
        model = load_model(settings.model, settings.extractor.weights).to(colorize.device_for(settings.device))
        counts += _work(todo, model, settings)
    print(f"{settings.out}: {_summary(counts)}")
    return 1 if counts["failed"] else 0


def _work(todo: Sequence[Job], model: Colorizer, settings: ColorizeSettings) -> Counter[Outcome]:
    # macOS and Windows have no affinity
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(settings.jobs or cores, len(todo))
    counts: Counter[Outcome] = Counter()
    predict: _Predict = partial(colorize.predict, model, dials=settings.dials)
    with (
        warnings.catch_warnings(action="ignore"),  # here and not in the threads, which share the filters
        Progress(len(todo), "colouring", unit="photos") as progress,
        Line(predict) as line,
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(max(1, cores // workers),)) as pool,
    ):
        # a GPU is quicker with several photos at once, cores are with one each
        artist = _Artist(line.predict if colorize.device_of(model).type == "cuda" else predict, model.size, settings)
        futures = [pool.submit(artist.do, job) for job in todo]
        try:
            for future in as_completed(futures):
                try:
                    counts[future.result()] += 1
                except UserError as error:
                    progress.say(str(error))
                    counts["failed"] += 1
                progress.advance(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return counts


class _Artist:
    """What a thread does with a photo."""

    def __init__(self, predict: _Predict, size: int, settings: ColorizeSettings) -> None:
        self._predict, self._settings = predict, settings
        self._size = settings.dials.size or size
        self._large = Lock()

    def do(self, job: Job) -> Outcome:
        """Colour a photo.

        Raises:
            UserError: it cannot be read.
        """
        with self._large if photo_io.is_large(job.source) else nullcontext():
            return self._do(job)

    def _do(self, job: Job) -> Outcome:
        photo = photo_io.read_photo(job.source)
        view = colorize.look(photo.pixels, self._size)
        if view.kind == "color" and not self._settings.recolor:
            job.copy.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(job.copy, job.source.read_bytes(), durable=False)
            return "in colour"
        ab, over = self._predict(view.lightness), None if job.layers else photo.pixels
        colored = colorize.paint(photo.pixels, view, ab, self._settings.dials, out=over)
        if job.layers:
            self._write_layers(job.layers, photo, view, colored)
        photo_io.write_photo(colored, photo, job.target)
        return "coloured"

    def _write_layers(self, path: Path, photo: photo_io.Photo, view: colorize.View, colored: NDArray[Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        color = photo_io.convert_depth(colored, np.uint8)
        if self._settings.layers == "ora":
            openraster.write_ora(
                path, photo_io.convert_depth(colorize.grey(photo.pixels, view), np.uint8), color, photo.dpi
            )
        else:
            openraster.write_layer(path, photo_io.convert_depth(photo.pixels, np.uint8), color)


def _jobs(settings: ColorizeSettings) -> Iterator[Job]:
    for source, name in _photos(settings.photos):
        copy = settings.out / name
        target = copy.with_suffix(photo_io.suffix_for(name))
        above = None if settings.layers == "none" else target.with_suffix(_LAYERS[settings.layers])
        yield Job(source, target, copy, above)


def _photos(places: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Each photo and its name in its folder."""
    for place in places:
        if place.is_dir():
            files = sorted(path for path in place.rglob("*") if path.is_file() and not path.name.startswith("."))
            yield from ((path, path.relative_to(place)) for path in files)
        else:
            yield place, Path(place.name)


def _check(jobs: Sequence[Job]) -> None:
    """Refuse to write over a photo, or two photos to one place."""
    if not jobs:
        raise UserError("there is no photo to colour; name photos or folders of photos")
    sources = {job.source.resolve() for job in jobs}
    seen: dict[Path, Path] = {}
    for job in jobs:
        for made in {job.target, job.copy, job.layers or job.target}:
            if made.resolve() in sources:
                raise UserError(f"{job.source} would be written over {made}; choose another --out")
            if made in seen:
                raise UserError(f"{seen[made]} and {job.source} would both become {made}; give them different --out")
            seen[made] = job.source


def _summary(counts: Counter[Outcome]) -> str:
    """How many photos came to what, in words."""
    words: dict[Outcome, str] = {
        "in colour": "in colour already and copied (--recolor gives them others)",
        "there": "there already (--overwrite makes them anew)",
        "failed": "could not be read",
    }
    return ", ".join(
        [f"{counts['coloured']} coloured", *(f"{counts[key]} {text}" for key, text in words.items() if counts[key])]
    )

"""Measuring: each batch of pictures is scored, and what was measured of it is kept in a file of its own.

Each process measures whole batches. So an interrupted evaluation resumes where it stopped, memory does not grow with
the number of pictures, and scores do not depend on the number of processes.
"""

import ctypes
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from koala.core.devices import cores_set_back
from koala.core.distributed import dali_device, wait_for_all
from koala.core.progress import Progress
from koala.data.loader import Batch, load_batches
from koala.data.sampler import SamplePositions
from koala.data.shards import Shards
from koala.evaluation import baselines, metrics, recognition, scoring
from koala.evaluation.components import Components
from koala.evaluation.metrics import Histograms
from koala.evaluation.partial_results import PartialResults
from koala.evaluation.predictions import Prediction, evaluation_window, true_photos
from koala.imaging import contact_sheet

Item = TypeVar("Item")
Kind = Literal["colors", "scores", "reference"]

_WORK = {
    "colors": "measuring the mean colour",
    "scores": "evaluating",
    "reference": "looking at true pictures",
}  # in a word or two

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEPT, _FROM_SYSTEM = 1 << 30, 1 << 25  # bytes of free memory that are kept; larger pieces are not


class Measuring:
    """The measuring of an evaluation, by one of its processes.

    Args:
        components: what the evaluation is made of.
        results: where what was measured is kept.
        accelerator: processes and device.
        batch: images at a time.
        threads: that score.
        pictures: coloured pictures that are written.
    """

    def __init__(
        self,
        components: Components,
        results: PartialResults,
        accelerator: Accelerator,
        *,
        batch: int,
        threads: int,
        pictures: int,
    ) -> None:
        self._components, self._results, self._accelerator = components, results, accelerator
        self._batch, self._threads, self._pictures = batch, threads, pictures

    def run(self) -> None:
        """Measure this process's share of the batches that are not measured yet, and write their pictures."""
        images = self._components.images
        self._constant = self._constant_color()
        self._run("scores", len(images.shards), self.predictions, self._score)
        if images.reference is not None and self._components.judges.features is not None:
            self._run("reference", len(images.reference), partial(self._photos, images.reference), self._keep_features)

    def _constant_color(self) -> Tensor:
        """The constant colour that others are compared with, `(2,)`: the photos' own mean where no other is known."""
        if (known := self._components.constant) is not None:
            return torch.tensor(known.ab)
        shards = self._components.images.shards
        self._run("colors", len(shards), partial(self._photos, shards), self._keep_colors)
        wait_for_all(self._accelerator)
        parts = self._results.read(part_name("colors", samples) for samples in sample_batches(len(shards), self._batch))
        return torch.from_numpy(np.concatenate([part["ab"] for part in parts]).mean(axis=0))

    def _run(
        self,
        kind: Kind,
        count: int,
        load: Callable[[Sequence[NDArray]], Iterator[Item]],
        measure: Callable[[str, Item], int],
    ) -> None:
        """Load what is not measured yet, batch after batch, and measure it in threads.

        Args:
            kind: of the parts that are kept.
            count: samples, over all processes.
            load: gives the batches of some samples.
            measure: keeps a part of a batch, and says how many pictures were in it.
        """
        rank, world_size = self._accelerator.process_index, self._accelerator.num_processes
        mine = sample_batches(count, self._batch)[rank::world_size]
        left = [samples for samples in mine if part_name(kind, samples) not in self._results]
        total, left_total = (sum(len(samples) for samples in some) for some in (mine, left))
        with (
            Progress(total, _WORK[kind], start=total - left_total, show=self._accelerator.is_main_process) as progress,
            cores_set_back(),
            # batches are scored in threads of their own while the next ones are coloured
            ThreadPoolExecutor(self._threads, "koala-scorer", _begin_scoring, (self._accelerator.device,)) as pool,
        ):
            under_way: deque[Future[int]] = deque()
            for samples, loaded in zip(left, load(left), strict=True):
                under_way.append(pool.submit(measure, part_name(kind, samples), loaded))
                if len(under_way) > self._threads:
                    progress.advance(under_way.popleft().result())
            for work in under_way:
                progress.advance(work.result())

    def _score(self, part: str, prediction: Prediction) -> int:
        """Write a batch's pictures, and keep what is measured of it."""
        self._write_pictures(prediction)
        self._results.write(part, self._measure(prediction))
        return len(prediction.photos)

    def _keep_colors(self, part: str, photos: Batch) -> int:
        """Keep the mean colours of a batch's photos."""
        self._results.write(part, {"ab": metrics.mean_ab(photos.ab, self._weight(photos)).cpu().numpy()})
        return len(photos.ab)

    def _keep_features(self, part: str, photos: Batch) -> int:
        """Keep the features of a batch's true pictures."""
        self._results.write(part, {"true": self._features(true_photos(photos))})
        return len(photos.ab)

    def _photos(self, shards: Shards, some: Sequence[NDArray]) -> Iterator[Batch]:
        images = self._components.images
        places = (SamplePositions(samples, np.zeros_like(samples)) for samples in some)
        return load_batches(
            shards,
            places,
            images.data,
            dali_device(self._accelerator),
            batch=self._batch,
            embeddings=images.embeddings if shards is images.shards else None,
            with_rgb=True,
        )

    def predictions(self, some: Sequence[NDArray]) -> Iterator[Prediction]:
        """The predictions of samples, batch after batch."""
        return self._components.pictures.predictions(self._photos(self._components.images.shards, some), some)

    def triptychs(self, samples: Collection[int]) -> dict[int, NDArray[np.uint8]]:
        """Grey, coloured and original of samples, `(3, H, W, 3)` each."""
        wanted, batch = np.array(sorted(samples), np.int64), self._batch
        shown: dict[int, NDArray[np.uint8]] = {}
        for prediction in self.predictions([wanted[start : start + batch] for start in range(0, len(wanted), batch)]):
            grey = contact_sheet.lightness_to_rgb(prediction.batch.lightness)
            columns = torch.stack([grey, prediction.pictures, prediction.photos])
            rows = columns.permute(1, 0, 3, 4, 2).cpu().numpy()
            shown |= {int(sample): row for sample, row in zip(prediction.batch.samples, rows, strict=True)}
        return shown

    def _measure(self, prediction: Prediction) -> dict[str, NDArray]:
        """All that is measured of a batch."""
        weight, judges = self._weight(prediction.batch), self._components.judges
        perceptual = judges.lpips.distance if judges.lpips else None
        scores = scoring.score_batch(prediction, weight, perceptual)
        assembly = self._components.protocol.assembly
        scores |= baselines.score_baselines(prediction, self._constant, assembly, weight, perceptual)
        if judges.classifier is not None:
            scores |= recognition.recognize(judges.classifier, prediction, assembly)
        histograms = [Histograms.of(lab, weight) for lab in (prediction.lab, prediction.photo_lab)]
        measured = {
            "names": np.array(list(scores)),
            "scores": torch.stack(list(scores.values())).cpu().numpy(),
            "hues": np.stack([colors.hue for colors in histograms]),
            "chromas": np.stack([colors.chroma for colors in histograms]),
            "named": np.stack([colors.named for colors in histograms]),
            "constant": self._constant.numpy(),
        }
        if judges.features is not None:
            measured["predicted"] = self._features(prediction.pictures)
            if self._components.images.reference is None:
                measured["true"] = self._features(prediction.photos)
        return measured

    @torch.no_grad()
    def _features(self, shown: Tensor) -> NDArray[np.float32]:
        """The features of pictures."""
        network = self._components.judges.features
        assert network is not None
        return network.extract(shown).cpu().numpy()

    def _weight(self, photos: Batch) -> Tensor | None:
        """Which pixels count, `(B, 1, H, W)`; None where all do."""
        rules, size = self._components.protocol, self._components.images.data.size
        if rules.padding == "counted" or rules.geometry not in ("pad", "legacy"):
            return None
        weight = np.zeros((len(photos.ab), 1, size, size), np.float32)
        for square, sample in zip(weight[:, 0], photos.samples, strict=True):
            self.without_padding(square, int(sample))[...] = 1
        return None if weight.all() else torch.from_numpy(weight).to(photos.ab.device)

    def without_padding(self, square: NDArray, sample: int) -> NDArray:
        """The photo within its square: a view of `(H, W, ...)`."""
        images = self._components.images
        return square[evaluation_window(images.shards, sample, images.data)]

    def _write_pictures(self, prediction: Prediction) -> None:
        """Each picture under its source's name, without what was padded."""
        wanted = [(row, int(of)) for row, of in enumerate(prediction.batch.samples) if of < self._pictures]
        if not wanted:
            return
        colors = prediction.pictures.permute(0, 2, 3, 1).cpu().numpy()
        for row, sample in wanted:
            name = picture_name(self._components.images.shards.describe(sample).source)
            picture = Image.fromarray(self.without_padding(colors[row], sample))
            contact_sheet.save_image(picture, self._components.out / "pictures" / name)


def sample_batches(count: int, batch: int) -> list[NDArray[np.int64]]:
    """Sample numbers, a batch at a time: the same batches for any number of processes."""
    return [np.arange(start, min(start + batch, count)) for start in range(0, count, batch)]


def part_name(kind: Kind, samples: NDArray) -> str:
    """What the part of a batch is called."""
    return f"{kind}-{samples[0]:09d}"


def picture_name(source: str) -> Path:
    """A source's name as a path of a PNG that cannot leave the folder it is put in."""
    parts = [part for part in PurePosixPath(source).parts if part not in ("/", "..")]
    return Path(*parts[:-1], f"{parts[-1]}.png")


def _begin_scoring(device: torch.device) -> None:
    """In a thread that scores: one core for its arithmetic, and the process's GPU."""
    torch.set_num_threads(1)
    _keep_freed_memory()
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _keep_freed_memory() -> None:
    """Let glibc keep what torch frees; taking pages from the system anew costs scoring a sixth of its time."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
        libc.mallopt(_M_MMAP_THRESHOLD, _FROM_SYSTEM)

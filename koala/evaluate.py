"""Checkpoint x validation shards -> scores, pictures, a contact sheet.

A score of colours depends on the lightness that ab is joined with, and its name says which: `input_lightness` is what
the network saw (of the grey-scaled picture, unless it was trained otherwise), `true_lightness` that of the colours.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor

from koala import audit, checkpoint, color, config, metrics, pictures
from koala.distributed import accelerated, dali_device, main_first
from koala.metrics import Means
from koala.model import Colorizer
from koala.order import Places, every_sample_once
from koala.pipeline import Batch, batches, window
from koala.progress import Progress

COLUMNS = ("grey", "koala", "original")


@dataclass(frozen=True)
class Prediction:
    """A batch with what the network makes of it.

    Attributes:
        batch: with the photos themselves.
        ab: `(B, 2, H, W)` predicted, on the network's scale.
    """

    batch: Batch
    ab: Tensor

    @property
    def photos(self) -> Tensor:
        """The photos themselves, `(B, 3, H, W)` uint8."""
        if self.batch.rgb is None:
            raise ValueError("scores need the photos themselves: batches(..., with_rgb=True)")
        return self.batch.rgb


class Evaluation:
    """What is scored, on what.

    Args:
        settings: of the evaluation.
        accelerator: processes and device.
    """

    def __init__(self, settings: config.Evaluate, accelerator: Accelerator) -> None:
        self.settings, self.accelerator = settings, accelerator
        self.found = checkpoint.find(settings.model)
        self.shards = audit.open_selected(settings.shards, settings.split, settings.where)
        # the first process fetches the extractor's weights, the others find them
        model: Colorizer = main_first(accelerator, lambda: checkpoint.colorizer(self.found, settings.extractor.weights))
        self.model = model.to(accelerator.device)
        data = replace(config.for_evaluation(self.found.settings.data), threads=settings.threads)
        self.data = replace(data, geometry=settings.geometry or data.geometry)
        self.out = settings.out or settings.model / "evaluation"

    def predictions(self, places: Iterable[Places]) -> Iterator[Prediction]:
        """Predict the colours of the samples at `places`."""
        device = dali_device(self.accelerator)
        for batch in batches(self.shards, places, self.data, device, batch=self.settings.batch, with_rgb=True):
            with self.accelerator.autocast():
                ab = self.model(batch.lightness)
            yield Prediction(batch, ab)

    def run(self) -> Means:
        """Score this process's share of the samples and write their pictures."""
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        places = every_sample_once(len(self.shards), self.settings.batch, rank=rank, world_size=world_size)
        means = Means()
        share = len(range(rank, len(self.shards), world_size))
        with Progress(share, "evaluating", show=self.accelerator.is_main_process) as progress:
            for prediction in self.predictions(places):
                means += Means.of(score(prediction))
                self._write_pictures(prediction)
                progress.advance(len(prediction.ab))
        return means

    def _write_pictures(self, prediction: Prediction) -> None:
        """Each picture under its source's name, without what was padded."""
        limit = len(self.shards) if self.settings.pictures is None else self.settings.pictures
        wanted = [(row, int(sample)) for row, sample in enumerate(prediction.batch.samples) if sample < limit]
        if not wanted:
            return
        colors = pictures.colored(prediction.batch.lightness, prediction.ab).permute(0, 2, 3, 1).cpu().numpy()
        for row, sample in wanted:
            path = self.out / "pictures" / _safe_name(self.shards.describe(sample).source)
            pictures.save(Image.fromarray(self._without_padding(colors[row], sample)), path)

    def _without_padding(self, picture: np.ndarray, sample: int) -> np.ndarray:
        height, width = int(self.shards.height[sample]), int(self.shards.width[sample])
        seen = window(self.data.geometry, height, width, self.data.size, np.random.default_rng(0))
        (y, x), (rows, columns) = seen.place, seen.shape
        return picture[y : y + rows, x : x + columns]

    def write_sheet(self) -> None:
        """The first pictures: grey, koala, original."""
        rows = min(self.settings.sheet_rows, len(self.shards))
        if not rows:
            return
        parts = [
            pictures.triptychs(prediction.batch.lightness, prediction.ab, prediction.photos)
            for prediction in self.predictions(every_sample_once(rows, self.settings.batch, rank=0, world_size=1))
        ]
        sheet = pictures.contact_sheet(np.concatenate(parts, axis=1), COLUMNS)
        pictures.save(sheet, self.out / "sheet.png")

    def write_scores(self, means: Means) -> dict[str, Any]:
        """What was measured and on what, to scores.json."""
        scores = means.compute()
        scores["chroma_ratio"] = scores["chroma_predicted"] / scores["chroma_true"] if scores["chroma_true"] else 0.0
        report = {
            "scores": scores,
            "pictures": means.count,
            "checkpoint": str(self.found.path),
            "images_seen": self.found.images_seen,
            "shards": str(self.settings.shards),
            "split": self.settings.split,
            "where": self.settings.where,
            "geometry": self.data.geometry,
            "size": self.data.size,
            "input_lightness": self.data.lightness,
            "scale": "mse and chroma on the network's scale, ab / 127; psnr in dB on 8-bit sRGB, padding included",
        }
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "scores.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
        return report


def score(prediction: Prediction) -> dict[str, Tensor]:
    """The metrics of each picture of a batch, each `(B,)`."""
    batch, ab = prediction.batch, prediction.ab
    true_lightness = color.to_lightness(prediction.photos, "color")
    return {
        "mse": metrics.mse(ab, batch.ab),
        "psnr_true_lightness": metrics.psnr(pictures.colored(true_lightness, ab), prediction.photos),
        "psnr_input_lightness": metrics.psnr(pictures.colored(batch.lightness, ab), prediction.photos),
        "chroma_predicted": metrics.chroma(ab),
        "chroma_true": metrics.chroma(batch.ab),
    }


def evaluate(settings: config.Evaluate) -> int:
    """`koala evaluate`: score every image once, on any number of processes, and write what is seen of it.

    Returns:
        0.

    Raises:
        UserError: checkpoint or shards are not whole.
    """
    with accelerated(settings) as accelerator:
        evaluation = Evaluation(settings, accelerator)
        means = sum(gather_object([evaluation.run()]), Means())
        if accelerator.is_main_process:
            evaluation.write_sheet()
            report = evaluation.write_scores(means)
            for name, value in report["scores"].items():
                print(f"{name:22} {value:.5f}")
            print(f"{evaluation.out}: scores.json, sheet.png, pictures/")
    return 0


def _safe_name(source: str) -> Path:
    """A source's name as a path of a PNG that cannot leave the folder it is put in."""
    parts = [part for part in PurePosixPath(source).parts if part not in ("/", "..")]
    return Path(*parts[:-1], f"{parts[-1]}.png")

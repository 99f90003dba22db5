"""What a run says of itself while it trains: to `metrics.jsonl`, to trackers and in a line for people.

Times are shares of the training time: waiting for data, computing on the device, saving. Validation is left out.
"""

import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import torch
from accelerate import Accelerator
from torch import Tensor

from koala.core.atomic_io import write_atomic
from koala.data.loader import Batch
from koala.evaluation import failure_signs, metrics
from koala.imaging import color
from koala.imaging.contact_sheet import grid, out_of_gamut, triptychs
from koala.training.trackers import Tracker

Activity = Literal["data", "saving", "validating"]

# Dense 16-bit tensor-core peaks in TFLOP/s, from NVIDIA's data sheets; the first name that is there as a word counts
PEAK_TFLOPS = {
    **{"B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "A100": 312.0},
    **{"A40": 149.7, "A30": 165.0, "A10": 125.0, "L40S": 362.0, "L40": 181.0, "L4": 121.0, "V100": 125.0, "T4": 65.0},
}


class MetricWindow:
    """Losses, gradient norms and times since the last entry.

    Args:
        losses: of steps before a stop.
        norms: of the same.
    """

    def __init__(self, losses: Iterable[float] = (), norms: Iterable[float] = ()) -> None:
        self._began = time.perf_counter()
        self._seconds: dict[Activity, float] = {"data": 0.0, "saving": 0.0, "validating": 0.0}
        self._losses, self._norms = list(losses), list(norms)
        self.images = 0

    def state_dict(self) -> dict[str, list[float]]:
        """What the means are taken of: with it, a run that is resumed logs what it would have without a stop."""
        return {"losses": [*self._losses], "norms": [*self._norms]}

    def add(self, loss: float, norm: float, images: int) -> None:
        """Count a step."""
        self._losses.append(loss)
        self._norms.append(norm)
        self.images += images

    def skip(self, images: int) -> None:
        """Count a step that was left out: its images, and nothing of its numbers."""
        self.images += images

    @contextmanager
    def during(self, activity: Activity) -> Iterator[None]:
        """Count the time of an activity."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[activity] += time.perf_counter() - began

    def seconds(self) -> float:
        """Of training, since the window began."""
        return time.perf_counter() - self._began - self._seconds["validating"]

    def means(self) -> dict[str, float]:
        """Mean loss and norm of the gradient, and shares of the training time."""
        total = self.seconds()
        data, saving = (self._seconds[activity] / total for activity in ("data", "saving"))
        return {
            "train/loss": _mean(self._losses),
            "train/gradient_norm": _mean(self._norms),
            **{"time/data": data, "time/saving": saving, "time/device": max(0.0, 1 - data - saving)},
        }


def _mean(values: list[float]) -> float:
    """Their mean; NaN where all steps were left out."""
    return sum(values) / len(values) if values else math.nan


def speed(images: int, seconds: float, devices: int, flops_per_image: int, peak_tflops: float) -> dict[str, float]:
    """Images per second, and what part of the devices' arithmetic they take.

    Args:
        images: seen by all devices.
        seconds: in which they were seen.
        devices: number of them.
        flops_per_image: counted (`koala.training.estimate`).
        peak_tflops: of one device; 0 where it is not known.
    """
    rate = images / seconds
    tflops = rate * flops_per_image / devices / 1e12
    found = {
        "speed/images_per_second": rate,
        "speed/images_per_second_per_device": rate / devices,
        "speed/tflops_per_device": tflops,
    }
    return {**found, "speed/mfu": tflops / peak_tflops} if peak_tflops else found


def peak_tflops(device: torch.device, mixed_precision: str) -> float:
    """The device's peak in TFLOP/s, or 0 where it is not known."""
    if device.type != "cuda" or mixed_precision == "no":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAK_TFLOPS.items() if re.search(rf"\b{known}\b", name)), 0.0)


def color_statistics(batch: Batch, predicted: Tensor) -> dict[str, float]:
    """What predicted colours are like; padding, which is black, is left out where no colour fits.

    Args:
        batch: the photos.
        predicted: `(B, 2, H, W)` ab.

    Returns:
        `out_of_gamut`, the share of places outside sRGB; `saturated`, the share of ab at the end of the network's
        scale; `chroma_ratio`, mean chroma over that of the photos, unless these have none.
    """
    outside = out_of_gamut(color.lab_to_rgb(color.to_lab(batch.lightness, predicted.float()), outside="keep"))
    seen = batch.lightness > -1
    found = {
        "out_of_gamut": float((outside & seen).sum() / seen.sum().clamp(min=1)),
        "saturated": float(metrics.saturated(predicted).mean()),
    }
    true, chroma = (float(metrics.chroma(ab).mean()) for ab in (batch.ab, predicted))
    if true >= failure_signs.GREY:
        found["chroma_ratio"] = chroma / true
    return found


class MetricLogger:
    """`metrics.jsonl` of a run folder, and trackers; on other processes than the first, nothing.

    Entries of the file after the clock will be made again and are taken away.

    Args:
        run: the run's folder.
        images_seen: the clock.
        write: False writes nothing.
        trackers: that get the same.
    """

    def __init__(self, run: Path, images_seen: int, write: bool, trackers: Sequence[Tracker] = ()) -> None:
        self._path, self._images_seen, self._write = run / "metrics.jsonl", images_seen, write
        self._trackers = trackers
        self._file: Any = None

    def __enter__(self) -> Self:
        if self._write:
            write_atomic(self._path, b"".join(_until(self._path, self._images_seen)))
            self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._write:
            self._file.close()

    def add(self, images_seen: int, entry: Mapping[str, float]) -> None:
        """Write numbers down."""
        if not self._write:
            return
        entry = {name: value for name, value in entry.items() if math.isfinite(value)}
        for tracker in self._trackers:
            tracker.add(images_seen, entry)
        line = {"images_seen": images_seen, "at": datetime.now(UTC).isoformat(timespec="seconds"), **entry}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def show(self, images_seen: int, name: str, picture: Any) -> None:
        """Show a picture, `(H, W, 3)` uint8, in trackers."""
        for tracker in self._trackers:
            tracker.show(images_seen, name, picture)


class TrainingLog(MetricLogger):
    """What a training says of itself.

    Args:
        run: the run's folder.
        images_seen: the clock.
        accelerator: processes and device; the first process writes.
        flops_per_image: of a step.
        peak_tflops: of one device; 0 where it is not known.
        pictures: in each entry.
        watch: notices what goes wrong.
        trackers: in the first process.

    Attributes:
        words: the newest entry, for people.
    """

    def __init__(
        self,
        run: Path,
        images_seen: int,
        accelerator: Accelerator,
        *,
        flops_per_image: int,
        peak_tflops: float,
        pictures: int,
        watch: failure_signs.FailureWatch,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        super().__init__(run, images_seen, write=accelerator.is_main_process, trackers=trackers)
        self._device, self._devices = accelerator.device, accelerator.num_processes
        self._flops_per_image, self._peak_tflops, self._pictures = flops_per_image, peak_tflops, pictures
        self._watch = watch
        self.words = ""

    def add_training(
        self, images_seen: int, window: MetricWindow, means: Mapping[str, float], batch: Batch, predicted: Tensor
    ) -> list[str]:
        """Write down what the steps of a window found, and what the last batch looks like.

        Args:
            images_seen: the clock.
            window: of the first process.
            means: of all processes.
            batch: the last one.
            predicted: its `(B, 2, H, W)` ab.

        Returns:
            What is to be warned of.
        """
        colors = color_statistics(batch, predicted)
        entry = {
            **means,
            **{f"train/{name}": value for name, value in colors.items()},
            **speed(window.images, window.seconds(), self._devices, self._flops_per_image, self._peak_tflops),
        }
        if self._device.type == "cuda":
            entry["memory/gpu_gib"] = torch.cuda.max_memory_allocated(self._device) / 2**30
        self.words = f", {format_entry(entry)}"
        self.add(images_seen, entry)
        self.show_batch(images_seen, "train/pictures", batch, predicted)
        return self._watch.warnings(images_seen, colors)

    def show_batch(self, images_seen: int, name: str, batch: Batch, predicted: Tensor) -> None:
        """Show grey, predicted and true colours of a batch's first pictures."""
        count = self._pictures if self._write else 0
        if count:
            columns = triptychs(batch.lightness[:count], predicted[:count], batch.ab[:count])
            self.show(images_seen, name, grid(columns))


def _until(path: Path, images_seen: int) -> Iterator[bytes]:
    """The whole lines of a `metrics.jsonl` that are not after the clock."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:  # the process was killed while it wrote
            continue
        if line.endswith(b"\n") and entry["images_seen"] <= images_seen:
            yield line


def format_entry(entry: Mapping[str, float]) -> str:
    """An entry as a person reads it in a log."""
    parts = [
        ("gradient {:.2g}", "train/gradient_norm", 1.0),
        ("chroma {:.2f}", "train/chroma_ratio", 1.0),
        ("{:.0f} a device/s", "speed/images_per_second_per_device", 1.0),
        ("data {:.1f} %", "time/data", 100.0),
        ("saving {:.1f} %", "time/saving", 100.0),
        ("MFU {:.0f} %", "speed/mfu", 100.0),
        ("{:.1f} GiB", "memory/gpu_gib", 1.0),
    ]
    return ", ".join(text.format(entry[name] * times) for text, name, times in parts if name in entry)

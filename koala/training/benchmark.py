"""`koala benchmark`: how fast this machine decodes, feeds, steps and trains, beside its own limits.

    read         bytes of JPEGs from the shards
    decode       of these JPEGs by all cores, and nothing else: the limit of feeding from a CPU
    feed         what koala hands to a training: read, decoded, cut, converted
    step         training steps on noise that is there already
    end to end   training steps on what is fed

Extractor and perceptual network have random weights, which take as long, so that nothing is fetched.
"""

import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from accelerate import Accelerator
from PIL import Image

from koala.config.data import MeasurePrior, ShardRecipe, WriteShards
from koala.config.fields import Location
from koala.config.training import BenchmarkSettings, TrainSettings
from koala.core.atomic_io import write_atomic
from koala.core.distributed import open_accelerator
from koala.core.progress import Progress
from koala.data import color_prior, shard_writer
from koala.data.mirror import holds_shards
from koala.data.shards import Shards
from koala.models.objectives import needs_prior
from koala.training import estimate
from koala.training.components import Components, build_components, training_batches
from koala.training.journal import environment
from koala.training.trainer import prepare, train_step

_PHOTOS, _WIDTH, _HEIGHT = 64, 500, 375  # that are made up where there are no shards: ImageNet's usual size
_WARM_UP = 3  # batches
NOISE = 100_000  # made-up images of an epoch of steps alone
_PRODUCT = {"cuda": 8192, "cpu": 1024}  # side of the matrices


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: what was measured.
        rate: images per second.
        limit: images per second that the machine allows, where something sets one.
        limited_by: what sets that limit.
        detail: in another unit.
    """

    name: str
    rate: float
    limit: float | None = None
    limited_by: str = ""
    detail: str = ""


def benchmark_command(settings: BenchmarkSettings) -> int:
    """Measure, print the table, and write it as JSON where that is asked for."""
    with (
        made_up_shards(settings) as shards,
        open_accelerator(
            settings.device, settings.mixed_precision, settings.processes, tf32=settings.tf32
        ) as accelerator,
    ):
        told = describe(settings, shards, accelerator)
        rows = list(measure(without_weights(settings, shards), accelerator, settings.seconds))
        if accelerator.is_main_process:
            print(to_text(told, rows))
            if settings.out is not None:
                content = {"environment": told, "rows": [_plain(row) for row in rows]}
                write_atomic(settings.out, json.dumps(content, indent=1).encode())
    return 0


def without_weights(settings: TrainSettings, shards: Location) -> TrainSettings:
    """A training that costs the same, for whose weights nothing is fetched, and that tells nobody."""
    extractor = settings.extractor if settings.extractor.cache else replace(settings.extractor, weights="random")
    objective = replace(settings.objective, perceptual_weights="random")
    data = replace(settings.data, shards=shards)
    changed = replace(settings, data=data, extractor=extractor, objective=objective, init="", resume=False)
    return replace(changed, tracker=(), notify="", log_samples=False, profile=0)


def measure(settings: TrainSettings, accelerator: Accelerator, seconds: float) -> Iterator[Row]:
    """All rows, one after the other.

    Args:
        settings: of the training.
        accelerator: processes and device.
        seconds: that each row is measured.
    """
    components = build_components(settings, accelerator)
    world, stored = accelerator.num_processes, components.data.train
    with Progress(5, "measuring", "lines", show=accelerator.is_main_process) as bar:
        assert isinstance(stored, Shards)
        jpegs, read = _read(stored, seconds)
        size = sum(map(len, jpegs)) / len(jpegs)
        yield Row("read", read, detail=f"{read * size / 1e6:,.0f} MB/s")
        bar.advance(1)
        cores = len(os.sched_getaffinity(0))
        decode = _decode(jpegs, cores, seconds)
        yield Row("decode", decode, detail=f"{cores} cores")
        bar.advance(1)
        feed = world * _feed(settings, components, accelerator, seconds)
        yield Row("feed", feed, *min((world * read, "read"), (decode, "decode")))
        bar.advance(1)
        noise = replace(settings, data=replace(settings.data, synthetic=NOISE))
        step = steps_per_second(noise, accelerator, seconds) * settings.batch_size
        yield _step_row(step, settings, components, accelerator, seconds)
        bar.advance(1)
        whole = steps_per_second(settings, accelerator, seconds) * settings.batch_size
        yield Row("end to end", whole, *min((feed, "feed"), (step, "step")))
        bar.advance(1)


def steps_per_second(settings: TrainSettings, accelerator: Accelerator, seconds: float) -> float:
    """Training steps per second, over all processes, in a run folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as held:
        components = build_components(settings, accelerator)
        trainer = prepare(replace(settings, run=Path(folder) / "run"), components, accelerator, held)
        parts = training_batches(settings, components, 0, accelerator)

        def steps() -> Iterator[int]:
            while True:
                train_step(trainer, parts)
                yield 1

        return rate(steps(), seconds, accelerator.device)


def rate(work: Iterable[int], seconds: float, device: torch.device) -> float:
    """How many a second, for so many seconds.

    Args:
        work: does something, and says how many it did; the first ones are not counted.
        seconds: after which nothing more is begun.
        device: that is waited for.
    """
    endless = iter(work)
    for _ in range(_WARM_UP):
        next(endless)
    _finish(device)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        done += next(endless)
    _finish(device)
    return done / (time.perf_counter() - began)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _read(shards: Shards, seconds: float) -> tuple[list[np.ndarray], float]:
    """Some JPEGs, and how many are read in a second."""
    samples = np.random.default_rng(0).permutation(len(shards))
    parts = [samples[start : start + 50] for start in range(0, len(samples), 50)]

    def reading() -> Iterator[int]:
        while True:
            for part in parts:
                yield len(shards.read_many(part))

    return shards.read_many(samples[:_PHOTOS]), rate(reading(), seconds, torch.device("cpu"))


def _decode(jpegs: list[np.ndarray], cores: int, seconds: float) -> float:
    """How many JPEGs all cores decode in a second."""

    def decoding(pool: ThreadPoolExecutor) -> Iterator[int]:
        while True:
            yield len(list(pool.map(simplejpeg.decode_jpeg, jpegs)))

    with ThreadPoolExecutor(cores) as pool:
        return rate(decoding(pool), seconds, torch.device("cpu"))


def _feed(settings: TrainSettings, components: Components, accelerator: Accelerator, seconds: float) -> float:
    """Images that a process is fed in a second."""
    batches = training_batches(settings, components, 0, accelerator)
    return rate((len(batch.samples) for batch in batches), seconds, accelerator.device)


def _step_row(
    step: float, settings: TrainSettings, components: Components, accelerator: Accelerator, seconds: float
) -> Row:
    flops = estimate.flops_per_image(components.network, components.embedder.extractor, settings.data.size)
    product = accelerator.num_processes * _product(accelerator, seconds)
    detail = f"{step * flops / 1e12:.3g} of {product / 1e12:.3g} TFLOP/s"
    return Row("step", step, product / flops, "matrix product", detail)


def _product(accelerator: Accelerator, seconds: float) -> float:
    """FLOP/s of a product of two square matrices, in the precision of the computation."""
    side = _PRODUCT[accelerator.device.type]
    first = torch.rand(side, side, device=accelerator.device)

    def products() -> Iterator[int]:
        while True:
            with accelerator.autocast():
                _ = first @ first
            yield 2 * side**3

    return rate(products(), min(seconds, 2.0), accelerator.device)


# ---------------------------------------------------------------- shards


@contextlib.contextmanager
def made_up_shards(settings: TrainSettings) -> Iterator[Location]:
    """The shards of the settings, or, where there are none, some of made-up photos that are gone afterwards."""
    if holds_shards(settings.data.shards):
        yield settings.data.shards
        return
    with tempfile.TemporaryDirectory() as folder:
        photos, shards = Path(folder) / "photos", Path(folder) / "shards"
        photos.mkdir()
        for number in range(_PHOTOS):
            _photo(number).save(photos / f"{number}.jpg", quality=90)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            shard_writer.write_shards(WriteShards(photos, shards, ShardRecipe()))
            if needs_prior(settings.objective):
                color_prior.prior_command(MeasurePrior(shards))
        yield shards


def _photo(number: int) -> Image.Image:
    """Soft colours with some grain, which take about as many bytes as a photo."""
    rng = np.random.default_rng(number)
    blots = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    soft = blots.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 8, (_HEIGHT, _WIDTH, 1))
    return Image.fromarray((np.asarray(soft) + grain).clip(0, 255).astype(np.uint8))


# ---------------------------------------------------------------- the table


def describe(settings: TrainSettings, shards: Location, accelerator: Accelerator) -> dict[str, str]:
    """What was measured, and on what."""
    photos = str(shards) if shards == settings.data.shards else f"{_PHOTOS} made-up photos of {_WIDTH} x {_HEIGHT}"
    cached = ", cached" if settings.extractor.cache else ""
    return {
        **environment(accelerator),
        "cores": str(len(os.sched_getaffinity(0))),
        "photos": photos,
        "training": f"batches of {settings.batch_size} at {settings.data.size} x {settings.data.size}, "
        f"{settings.extractor.name}{cached}, precision {settings.mixed_precision}",
    }


def to_text(told: Mapping[str, str], rows: Iterable[Row]) -> str:
    """The table as it is pasted into an issue, in Markdown."""
    lines = [f"{name}: {value}  " for name, value in told.items()]
    lines += ["", "| | images/s | of its limit | limit: images/s | |", "|---|---:|---:|---:|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(_cells(row))} |" for row in rows)])


def _cells(row: Row) -> list[str]:
    share, limit = (f"{row.rate / row.limit:.0%}", f"{row.limit:,.1f} ({row.limited_by})") if row.limit else ("", "")
    return [row.name, f"{row.rate:,.1f}", share, limit, row.detail]


def _plain(row: Row) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if value not in ("", None)}

"""Part 4: how fast a training is, and where its time goes."""

import gzip
import json
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, Fact, samples, train
from koala.config.data import EmbedShards, ViewSettings
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.data.embed import embed_command

_LIVE, _CACHED = 3000, 6000  # images/s on one H100 at 224, batch 256, bf16
_WAITING = 3.0  # % of the time, for data
_TRACED = 10  # steps
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
_KERNELS = 12  # that take the most time
_SETTLED = 2  # entries of the log that come before those that count


def speeds(bench: Bench) -> Iterator[Fact]:
    """Live and from cached embeddings, at two batches, with a trace."""
    scale, cached = bench.scale, ExtractorSettings(bench.scale.extractor, weights="random", cache=True)
    yield from _timed(bench, "live", aim=_LIVE)
    yield from _timed(bench, "live, a small batch", batch_size=scale.small_batch)
    yield _embedding(bench)
    yield from _timed(bench, "cached", aim=_CACHED, extractor=cached)
    yield from _timed(bench, "cached, a small batch", extractor=cached, batch_size=scale.small_batch)
    yield from _trace(bench)


def compiled(bench: Bench) -> Iterator[Fact]:
    """The same with torch.compile, which takes minutes to begin."""
    yield from _timed(bench, "live, compiled", aim=_LIVE, compile=True)


def _timed(bench: Bench, name: str, aim: float = 0, **changes: Any) -> Iterator[Fact]:
    """Train for twice as many steps as count, and give what the log says of the second half."""
    steps = bench.scale.steps
    settings = bench.training(name.replace(", ", "-").replace(" ", "-"), 2 * steps, **changes)
    settings = replace(settings, log_every=max(1, 2 * steps // 4))
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    logged = train(settings)[_SETTLED:]
    yield Fact(f"{name}: all of it", round(time.perf_counter() - began, 1), "s")

    def mean(key: str) -> float:
        return statistics.mean(entry[key] for entry in logged)

    yield (
        bench.aim(f"{name}: speed", mean("speed/images_per_second"), "images/s", aim)
        if aim
        else Fact(f"{name}: speed", round(mean("speed/images_per_second"), 1), "images/s")
    )
    yield Fact(f"{name}: arithmetic", round(mean("speed/tflops_per_device"), 3), "TFLOP/s")
    if "speed/mfu" in logged[0]:
        yield Fact(f"{name}: MFU", round(100 * mean("speed/mfu"), 1), "%")
    waiting = round(100 * mean("time/data"), 2)
    judged = waiting <= _WAITING if aim and bench.device == "cuda" else None
    yield Fact(f"{name}: waiting for data", waiting, "%", f"at most {_WAITING:g}" if aim else "", judged, must=False)
    if bench.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        yield Fact(f"{name}: memory of torch at most", round(logged[-1]["memory/gpu_gib"], 1), "GiB")
        yield Fact(f"{name}: memory of all at the end", round((total - free) / 2**30, 1), "GiB")


def _embedding(bench: Bench) -> Fact:
    """Embed all samples and their mirror images, once."""
    training = bench.training("cached", 1)
    view = ViewSettings("crop", bench.scale.size, threads=bench.scale.threads[-1])
    settings = EmbedShards(bench.resized, training.extractor, view, batch_size=bench.scale.batch, device=bench.device)
    began = time.perf_counter()
    embed_command(replace(settings, mixed_precision=bench.precision))
    count = samples(bench.resized) + samples(bench.resized, "val")
    return Fact("embedding, its start included", round(count / (time.perf_counter() - began), 1), "images/s")


# ---------------------------------------------------------------- a trace


def _trace(bench: Bench) -> Iterator[Fact]:
    """Ten steps, kernel by kernel."""
    traced = _TRACED if bench.device == "cuda" else 1
    settings = bench.training("traced", traced + 6, profile=traced, log_every=100)
    train(settings)
    events = _events(settings, bench.out / "trace.json.gz")
    waits = sum(event.get("name") in _WAITS for event in events)
    yield Fact("host waits for the device, in all threads", round(waits / traced, 2), "a step")
    copies = sum("Pageable" in str(event.get("name")) for event in events)
    yield Fact("copies of pageable memory", round(copies / traced, 2), "a step")
    times: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "kernel":
            times[event["name"]] += event["dur"]
    total = sum(times.values())
    yield Fact("kernels", round(total / 1e3 / traced, 2), "ms a step")
    for name, microseconds in times.most_common(_KERNELS):
        yield Fact(f"kernel {name[:60]}", round(100 * microseconds / total, 1), "% of kernels' time")


def _events(settings: TrainSettings, kept: Path) -> list[dict[str, Any]]:
    """What was traced, which is kept."""
    assert settings.run is not None, "the bench names it"
    (path,) = (settings.run / "profile").glob("*.json")
    with path.open("rb") as trace, gzip.open(kept, "wb") as copy:
        shutil.copyfileobj(trace, copy)
    return json.loads(path.read_text())["traceEvents"]

"""Parts 2 and 3: what is decoded, and how fast, by DALI alone and by koala's loader."""

import io
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types
from PIL import Image

from benchmarks.gpu import photographs
from benchmarks.gpu.bench import Bench, Fact
from koala.config.data import DataSettings
from koala.data.loader import load_batches
from koala.data.sampler import EpochSampler, micro_batches, sequential_batches
from koala.data.shards import Shards
from koala.imaging import color

_SHARES = (0.0, 0.12, 0.4, 0.65, 0.9)  # of the JPEGs for the GPU's JPEG engine
_LAB_ERROR = 2e-4  # of L*, a* or b*
_DECODED, _THREADS_OF_TRAINING = 8000, 16  # images/s that are to be decoded


def decoder(source: Any, batch: int, bench: Bench, threads: int, share: float = 0.65, fancy: bool = True) -> Any:
    """A pipeline that decodes, and does nothing else."""
    gpu = bench.dali == "gpu"
    pipeline = Pipeline(batch, threads, torch.cuda.current_device() if gpu else None, exec_dynamic=True)
    with pipeline:
        jpeg = fn.external_source(source, batch=True, dtype=types.UINT8, ndim=1)
        photo = fn.decoders.image(
            jpeg,
            device="mixed" if gpu else "cpu",
            output_type=types.RGB,
            jpeg_fancy_upsampling=fancy,
            hw_decoder_load=share,
        )
        pipeline.set_outputs(photo)
    pipeline.build()
    return pipeline


def decode(bench: Bench, jpegs: Sequence[bytes], share: float = 0.65, batch: int = 64) -> list[NDArray[np.uint8]]:
    """The pixels of JPEGs, `(H, W, 3)` each."""
    arrays = [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs]
    batches = [arrays[start : start + batch] for start in range(0, len(arrays), batch)]
    pipeline = decoder(iter(batches), batch, bench, bench.scale.threads[-1], share)
    return [np.array(picture) for _ in batches for picture in pipeline.run()[0].as_cpu()]


def _compare(name: str, found: Sequence[NDArray], expected: Sequence[NDArray]) -> Fact:
    """How far pixels are from each other, in levels: the largest, the mean, and the share beyond one."""
    differences = [np.abs(a.astype(np.int16) - b) for a, b in zip(found, expected, strict=True)]
    count = sum(difference.size for difference in differences)
    largest = max(int(difference.max()) for difference in differences)
    mean = sum(float(difference.sum()) for difference in differences) / count
    beyond = sum(int((difference > 1).sum()) for difference in differences) / count
    return Fact(f"{name}: most, mean, > 1", f"{largest}, {mean:.4f}, {beyond:.3%}", "levels")


def pixels(bench: Bench) -> Iterator[Fact]:
    """Whether the GPU decodes as the CPU does, whatever else is in the batch."""
    on_cpu, jpegs = replace(bench, device="cpu"), {}
    for name, folder in (("4:2:0", bench.plain), ("4:4:4", bench.resized)):
        jpegs[name] = photographs.jpegs(folder)[:100]
        yield _compare(f"{name}, GPU and CPU", decode(bench, jpegs[name], 0.0), decode(on_cpu, jpegs[name]))
    for name, given in jpegs.items():
        cores = decode(bench, given, 0.0)
        for share in (0.65, 1.0):
            yield _compare(f"{name}, hardware share {share:g} and 0", decode(bench, given, share), cores)
        yield _compare(f"{name}, batch 32 and 64", decode(bench, given, batch=32), decode(bench, given))
    yield from _lab(bench)
    for name, jpeg in _odd(jpegs["4:2:0"][0]).items():
        yield _compare(f"{name}, GPU and CPU", decode(bench, [jpeg]), decode(on_cpu, [jpeg]))
    yield _refusal(bench, jpegs["4:2:0"][0])


def _lab(bench: Bench) -> Iterator[Fact]:
    """Whether the graph's lightness and ab are those of its own pixels."""
    data = DataSettings(bench.plain, "squash", bench.scale.size, threads=bench.scale.threads[-1])
    shards, worst = Shards.open(bench.plain, "train"), np.zeros(2)
    places = sequential_batches(len(shards), 32, rank=0, world_size=1)
    for batch in load_batches(shards, places, data, bench.dali, batch=32, with_rgb=True):
        assert batch.rgb is not None, "it was asked for"
        rgb = batch.rgb.permute(0, 2, 3, 1).cpu().numpy()
        lightness, ab = (part.permute(0, 2, 3, 1).cpu().numpy() for part in (batch.lightness, batch.ab))
        errors = lightness - color.to_lightness(rgb, "grey"), ab - color.to_ab(rgb)
        found = [np.abs(error).max() * units for error, units in zip(errors, (50, color.to_units(1.0)), strict=True)]
        worst = np.maximum(worst, found)
    for name, error in zip(("L*", "a*b*"), worst.tolist(), strict=True):
        yield Fact(f"{name} of the graph's own pixels", f"{error:.2g}", aim=f"{_LAB_ERROR:g}", good=error <= _LAB_ERROR)


def _odd(jpeg: bytes) -> dict[str, bytes]:
    """The same picture, progressive and grey."""
    picture, made = Image.open(io.BytesIO(jpeg)).convert("RGB"), {}
    for name, image, progressive in (("progressive", picture, True), ("grey", picture.convert("L"), False)):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90, progressive=progressive)
        made[name] = buffer.getvalue()
    return made


def _refusal(bench: Bench, jpeg: bytes) -> Fact:
    """What becomes of half a JPEG; last, for a decoder may not survive it."""
    try:
        decode(bench, [jpeg[: len(jpeg) // 2]])
    except RuntimeError:
        return Fact("half a JPEG", "refused")
    return Fact("half a JPEG", "decoded to something", aim="shards hold none")


# ---------------------------------------------------------------- speed


def speed(bench: Bench) -> Iterator[Fact]:
    """Images a second: by DALI alone, then by all of koala's loader."""
    yield from _decoding_speed(bench)
    for which in ("gpu", "cpu") if bench.device == "cuda" else ("cpu",):
        for threads in bench.scale.threads[-2:]:
            rate = _loading_speed(bench, which, threads)
            yield Fact(f"koala's loader, decoder {which}, {threads} threads", round(rate), "images/s")


def _decoding_speed(bench: Bench) -> Iterator[Fact]:
    jpegs = [np.frombuffer(jpeg, np.uint8) for jpeg in photographs.jpegs(bench.resized)]
    best = 0.0
    for threads in bench.scale.threads:
        for share in _SHARES if bench.device == "cuda" else (0.0,):
            rate = _rate(bench, jpegs, threads, share)
            best = max(best, rate)
            yield Fact(f"decoding, {threads} threads, hardware share {share:g}", round(rate), "images/s")
    yield bench.aim("decoding at best", round(best), "images/s", _DECODED)
    plain = [np.frombuffer(jpeg, np.uint8) for jpeg in photographs.jpegs(bench.plain)]
    for fancy in (True, False):
        rate = _rate(bench, plain, bench.scale.threads[-1], 0.65, fancy)
        yield Fact(f"decoding 4:2:0, fancy upsampling {'on' if fancy else 'off'}", round(rate), "images/s")


def _rate(bench: Bench, jpegs: Sequence[NDArray], threads: int, share: float, fancy: bool = True) -> float:
    """Images a second, once it is warm."""
    batch, endless = bench.scale.batch, itertools.cycle(jpegs)
    pipeline = decoder(lambda: list(islice(endless, batch)), batch, bench, threads, share, fancy)
    for _ in range(3):
        pipeline.run()
    return _timed(bench, batch, pipeline.run)


def _timed(bench: Bench, batch: int, work: Any) -> float:
    began, images = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < bench.scale.seconds or not images:
        work()
        images += batch
    if bench.device == "cuda":
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return images / max(seconds, 1e-9)


def _loading_speed(bench: Bench, which: Any, threads: int) -> float:
    shards, batch = Shards.open(bench.resized, "train"), bench.scale.batch
    data = DataSettings(bench.resized, "random_crop", bench.scale.size, threads=threads, decoder=which)
    places = micro_batches(EpochSampler(shards.shard_sizes, 0), 0, batch, rank=0, world_size=1)
    stream = load_batches(shards, places, data, bench.dali, batch=batch)
    for _ in range(5):
        next(stream)
    rate = _timed(bench, batch, lambda: next(stream))
    stream.close()  # type: ignore[attr-defined]
    return rate

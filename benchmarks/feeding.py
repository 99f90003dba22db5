"""Feeding: how many samples a second a process can hand to its training, if decoding took no time.

    python benchmarks/feeding.py [--shards DIR] [--batch 256] [--seconds 3] [--rounds 5]

All that `koala.data.loader` does in Python for each sample is measured: the order, reading by offset, windows and their
random numbers, what DALI is given, cached embeddings, the thread that hands batches over. In place of DALI's graph
stands one that takes the bytes and gives the same tensors each time. Shards hold 2,000 small photographs made here,
unless some are named. "reading alone" leaves the hand-over out. On the CPU; what a GPU's driver adds is not in it.
Beside the speeds stand microseconds of CPU time a sample, over all threads, which a busy machine changes less.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from side_by_side import measure, report

from koala.config.data import DataSettings, ShardRecipe, WriteShards
from koala.data import loader, shard_writer
from koala.data.sampler import EpochSampler, micro_batches
from koala.data.shards import Shards

_EMBEDDING = 1000  # features
_COUNT = 2000  # photographs that are made


class NoGraph:
    """In place of DALI's pipeline: takes what it is given, and has the same outputs ready each time."""

    def __init__(self, source: Iterator[tuple[Any, ...]], batch: int, size: int) -> None:
        self._source = source
        self._outputs = [_Output(torch.zeros(batch, channels, size, size)) for channels in (1, 2)]

    def build(self) -> None:
        pass

    def run(self) -> "list[_Output]":
        next(self._source)
        return self._outputs


class _Output:
    """A tensor where DALI has a list of them."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def as_tensor(self) -> torch.Tensor:
        return self._tensor


class Kept:
    """Embeddings that are in memory, as a page cache has them."""

    def __init__(self, count: int) -> None:
        self._rows = np.zeros((count, _EMBEDDING), np.float16)

    def read(self, samples: Any, mirror: Any) -> Any:
        return self._rows[samples].astype(np.float32)


@contextmanager
def without_decoding() -> Iterator[None]:
    """Let the loader build no graph of DALI's."""
    before = loader.build_graph
    loader.build_graph = lambda source, data, batch, device, with_rgb: NoGraph(source, batch, data.size)
    try:
        yield
    finally:
        loader.build_graph = before


def way(shards: Shards, geometry: Any, batch: int, seconds: float, embeddings: Any = None) -> Callable[[], int]:
    """Take batches for some seconds; how many samples there were."""

    def work() -> int:
        data = DataSettings(geometry=geometry, size=8, mirror=True)
        places = micro_batches(EpochSampler(shards.shard_sizes, 0), 0, batch, rank=0, world_size=1)
        stream = loader.load_batches(shards, places, data, "cpu", batch=batch, embeddings=embeddings)
        samples, until = 0, time.perf_counter() + seconds
        while time.perf_counter() < until:
            samples += len(next(stream).samples)
        stream.close()  # type: ignore[attr-defined]
        return samples

    return work


def reading_alone(shards: Shards, batch: int, seconds: float) -> Callable[[], int]:
    """The bytes by offset, in order, in this thread."""

    def work() -> int:
        places = micro_batches(EpochSampler(shards.shard_sizes, 0), 0, batch, rank=0, world_size=1)
        samples, until = 0, time.perf_counter() + seconds
        while time.perf_counter() < until:
            samples += len(shards.read_many(next(places).samples))
        return samples

    return work


def costed(work: Callable[[], int], costs: list[float]) -> Callable[[], int]:
    """The same, noting microseconds of CPU time a sample."""

    def noted() -> int:
        began = time.process_time()
        samples = work()
        costs.append(1e6 * (time.process_time() - began) / samples)
        return samples

    return noted


def make_shards(folder: Path) -> Path:
    """Shards of small photographs of ImageNet's file size at a short side of 256: some 25 kB."""
    random = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number in range(_COUNT):
        coarse = random.integers(0, 256, (24, 32, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((341, 256), Image.Resampling.BICUBIC)
        picture.save(folder / f"photos/{number:05d}.jpg", quality=95, subsampling="4:4:4")
    shard_writer.write_shards(WriteShards(folder / "photos", folder / "shards", ShardRecipe(), workers=2))
    return folder / "shards"


def main() -> None:
    """Read the flags, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, help="folder of shards; by default some are made")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, without_decoding():
        shards = Shards.open(arguments.shards or make_shards(Path(folder)), "train")
        batch, seconds = arguments.batch, arguments.seconds
        ways = {
            "feeding, random_crop": way(shards, "random_crop", batch, seconds),
            "feeding, crop and cached embeddings": way(shards, "crop", batch, seconds, Kept(len(shards))),
            "reading alone, one thread": reading_alone(shards, batch, seconds),
        }
        costs: dict[str, list[float]] = {name: [] for name in ways}
        rates = measure({name: costed(work, costs[name]) for name, work in ways.items()}, arguments.rounds)
    print(f"feeding without decoding, batch {batch}, {len(shards)} samples, on the CPU")
    report(rates)
    for name, values in costs.items():
        print(f"{name:40} {statistics.median(values):8.1f} us of CPU time a sample")


if __name__ == "__main__":
    main()

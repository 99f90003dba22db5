"""Which sample comes when: a pure function of the seed and the images seen.

An epoch is one permutation of all samples. To be kind to disks and network file systems it is shuffled in
blocks: the shards are permuted, and samples are shuffled within a few shards at a time. The stream of epochs
is endless and batches run across its seams, so that nothing is dropped or padded. How many processes share a
global batch changes only who takes which part of it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from koala.core.errors import UserError

SHARDS_PER_BLOCK = 8  # that are open, and shuffled together, at a time


@dataclass(frozen=True)
class SamplePositions:
    """Consecutive places in the stream: which samples, and in which epoch each is met.

    Attributes:
        samples: `(N,)` int64 sample numbers.
        epochs: `(N,)` int64, 0 for the first time through the data.
    """

    samples: NDArray[np.int64]
    epochs: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, part: slice) -> "SamplePositions":
        return SamplePositions(self.samples[part], self.epochs[part])


@dataclass(frozen=True)
class EpochSampler:
    """The endless, shuffled stream of samples.

    Attributes:
        shard_sizes: samples in each shard; sample numbers run through the shards in this order.
        seed: of every shuffle.
        shards_per_block: how many shards are open, and shuffled together, at a time.
    """

    shard_sizes: tuple[int, ...]
    seed: int
    shards_per_block: int = SHARDS_PER_BLOCK

    @cached_property
    def epoch_size(self) -> int:
        """Samples in one epoch."""
        return sum(self.shard_sizes)

    def positions(self, images_seen: int, count: int) -> SamplePositions:
        """The `count` places of the stream that come after `images_seen` images."""
        if self.epoch_size == 0:
            raise UserError("the data set holds no sample; write its shards again from a folder that holds images")
        place = np.arange(images_seen, images_seen + count)
        epochs, within = np.divmod(place, self.epoch_size)
        samples = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            samples[here] = _epoch(self, int(epoch))[within[here]]
        return SamplePositions(samples, epochs)


@lru_cache(maxsize=4)
def _epoch(order: EpochSampler, epoch: int) -> NDArray[np.int64]:
    """One epoch's permutation of `range(order.epoch_size)`."""
    rng = _epoch_rng(order.seed, epoch)
    sizes = np.array(order.shard_sizes)
    starts = np.cumsum(sizes) - sizes
    shards = rng.permutation(len(sizes))  # as shard_order
    blocks = [
        np.concatenate([np.arange(starts[shard], starts[shard] + sizes[shard]) for shard in block])
        for block in _blocks(shards, order.shards_per_block)
    ]
    return np.concatenate([rng.permutation(block) for block in blocks])


def shard_order(shards: int, seed: int, epoch: int = 0) -> NDArray[np.int64]:
    """In which order an epoch comes to so many shards; those of a block are met together."""
    return _epoch_rng(seed, epoch).permutation(shards)


def _epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch])


def _blocks(items: NDArray, length: int) -> Iterator[NDArray]:
    return (items[start : start + length] for start in range(0, len(items), length))


def micro_batches(
    order: EpochSampler, images_seen: int, global_batch: int, *, rank: int, world_size: int, accumulation: int = 1
) -> Iterator[SamplePositions]:
    """What one process reads, for ever: its part of each global batch, in `accumulation` pieces.

    Args:
        order: the stream.
        images_seen: where in the stream to begin.
        global_batch: images in a training step, over all processes and pieces.
        rank: of this process.
        world_size: number of processes.
        accumulation: pieces that each process's part is cut into.

    Yields:
        `global_batch / (world_size * accumulation)` places at a time.

    Raises:
        UserError: the global batch cannot be shared out evenly.
    """
    parts = world_size * accumulation
    if global_batch % parts:
        raise UserError(
            f"a global batch of {global_batch} cannot be shared by {world_size} processes in {accumulation} pieces "
            f"each; choose --batch-size a multiple of {parts}"
        )
    size = global_batch // parts
    while True:
        batch = order.positions(images_seen, global_batch)
        for piece in range(rank * accumulation, (rank + 1) * accumulation):
            yield batch[piece * size : (piece + 1) * size]
        images_seen += global_batch


def sequential_batches(sample_count: int, batch: int, *, rank: int, world_size: int) -> Iterator[SamplePositions]:
    """What one process reads of an evaluation: its share of all samples, each exactly once, in order.

    The last piece may be shorter, and a process may get none.
    """
    mine = np.arange(rank, sample_count, world_size)
    for start in range(0, len(mine), batch):
        samples = mine[start : start + batch]
        yield SamplePositions(samples, np.zeros_like(samples))


def in_whole_batches(batches: Iterable[SamplePositions]) -> Iterator[tuple[SamplePositions, int]]:
    """The same, with a last batch as long as those before it: it ends with its last sample again and again.

    Args:
        batches: all of one length, but for a shorter last one.

    Yields:
        A batch, and how many of it are its own. A single batch stays as short as it is.
    """
    length = 0
    for places in batches:
        own = len(places)
        length = max(length, own)
        row = np.minimum(np.arange(length), own - 1)
        yield SamplePositions(places.samples[row], places.epochs[row]), own


def seeded_permutation(count: int, seed: int | Sequence[int]) -> NDArray[np.int64]:
    """A permutation of `range(count)` that depends on nothing but the seed."""
    return np.random.default_rng(seed).permutation(count)

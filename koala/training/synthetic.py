"""Noise in place of shards (`--data.synthetic`): the step alone, at full speed."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from koala.data.loader import Batch
from koala.data.sampler import SamplePositions
from koala.data.shards import SampleInfo


class SyntheticSamples:
    """Samples that are made up: what a training asks of its shards.

    Args:
        count: of an epoch.
    """

    def __init__(self, count: int) -> None:
        self.shard_sizes = (count,)

    def __len__(self) -> int:
        return self.shard_sizes[0]

    def describe(self, sample: int) -> SampleInfo:
        """What is known of a sample."""
        return SampleInfo("synthetic", f"{sample:09d}", "noise")


def synthetic_batches(
    places: Iterable[SamplePositions], size: int, embedding_size: int, device: torch.device, seed: int
) -> Iterator[Batch]:
    """The same noise for each item of `places`, cut to its length; it is made once, so that nothing is waited for.

    Args:
        places: which samples.
        size: height and width of the pictures.
        embedding_size: E of embeddings that are given with them; 0 for none.
        device: where they lie.
        seed: of the noise.
    """
    noise: Batch | None = None
    for place in places:
        count = len(place)
        if noise is None or len(noise.ab) < count:
            noise = _noise(count, size, embedding_size, device, seed)
        embedding = noise.embedding[:count] if noise.embedding is not None else None
        yield Batch(noise.lightness[:count], noise.ab[:count], place.samples, embedding)


def _noise(count: int, size: int, embedding_size: int, device: torch.device, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return (torch.rand(*shape, generator=generator) * 2 - 1).to(device)

    embedding = uniform(count, embedding_size) if embedding_size else None
    return Batch(uniform(count, 1, size, size), uniform(count, 2, size, size), np.arange(count), embedding)

"""Properties of the order: what a stream of samples promises."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from koala.core.errors import UserError
from koala.data.sampler import EpochSampler, in_whole_batches, micro_batches, sequential_batches

sizes = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(sum).map(tuple)
orders = st.builds(EpochSampler, sizes, seed=st.integers(0, 2**40), shards_per_block=st.integers(1, 5))


@given(orders, st.integers(0, 3))
def test_each_epoch_is_a_permutation(order, epoch):
    size = order.epoch_size
    places = order.positions(epoch * size, size)
    assert sorted(places.samples) == list(range(size))
    assert set(places.epochs) == {epoch}


@given(orders, st.integers(0, 200), st.integers(1, 90), st.integers(1, 90))
def test_batches_cross_the_end_of_an_epoch_without_seam(order, start, first, second):
    whole = order.positions(start, first + second)
    parts = order.positions(start, first), order.positions(start + first, second)
    assert np.array_equal(whole.samples, np.concatenate([part.samples for part in parts]))
    assert np.array_equal(whole.epochs, np.concatenate([part.epochs for part in parts]))


@given(orders, st.integers(0, 100), st.sampled_from([1, 2, 3, 4, 6]), st.sampled_from([1, 2]))
def test_a_global_batch_is_the_same_for_every_world_size(order, start, world_size, accumulation):
    streams = [
        micro_batches(order, start, 24, rank=rank, world_size=world_size, accumulation=accumulation)
        for rank in range(world_size)
    ]
    for step in range(3):
        parts = [piece.samples for stream in streams for piece in islice(stream, accumulation)]
        assert np.array_equal(np.concatenate(parts), order.positions(start + 24 * step, 24).samples)


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_seed_and_epoch_change_the_order(seed, other):
    order = EpochSampler((500, 500), seed)
    first, second = order.positions(0, 1000), order.positions(1000, 1000)
    assert not np.array_equal(first.samples, second.samples)
    if seed != other:
        assert not np.array_equal(first.samples, EpochSampler((500, 500), other).positions(0, 1000).samples)


def test_a_block_touches_few_shards():
    order = EpochSampler((10,) * 40, seed=3, shards_per_block=4)
    for start in range(0, 400, 40):
        assert len(set(order.positions(start, 40).samples // 10)) == 4


def test_the_order_never_changes():
    """Golden: made by this code at 0.1.0; a change here breaks the resuming of every run."""
    assert list(EpochSampler((3, 4, 2), seed=7, shards_per_block=2).positions(5, 9).samples) == [
        5,
        3,
        6,
        4,
        7,
        0,
        2,
        1,
        8,
    ]


@given(st.integers(0, 100), st.integers(1, 7), st.integers(1, 5))
def test_evaluation_meets_every_sample_once(count, batch, world_size):
    met = [
        sample
        for rank in range(world_size)
        for places in sequential_batches(count, batch, rank=rank, world_size=world_size)
        for sample in places.samples
    ]
    assert sorted(met) == list(range(count))


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(UserError, match=r"global batch of 50 cannot be shared by 8 processes.*multiple of 8"):
        next(micro_batches(EpochSampler((100,), 0), 0, 50, rank=0, world_size=8))


def test_an_empty_data_set_is_refused():
    with pytest.raises(UserError, match="holds no sample"):
        EpochSampler((0, 0), seed=0).positions(0, 1)


@pytest.mark.parametrize(("count", "lengths"), [(10, [4, 4, 4]), (8, [4, 4]), (3, [3]), (0, [])])
def test_the_last_batch_is_as_long_as_the_others(count, lengths):
    """What fills it up is not counted."""
    found = list(in_whole_batches(sequential_batches(count, 4, rank=0, world_size=1)))
    assert [len(places) for places, _ in found] == lengths
    own = [sample for places, number in found for sample in places.samples[:number]]
    assert own == list(range(count))
    assert all(set(places.samples[number:]) <= {count - 1} for places, number in found)

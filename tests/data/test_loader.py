"""Batches on their way: who holds the memory, what runs ahead, what is said of failures."""

import contextlib
import threading
import time

import numpy as np
import pytest

from koala.core.errors import UserError
from koala.data import loader
from koala.data.loader import Lifetimes, prefetched
from koala.data.shards import Shards


class Event:
    """As CUDA's: passed once the device has come that far."""

    def __init__(self) -> None:
        self.passed = False

    def query(self) -> bool:
        return self.passed


def test_what_a_slow_device_reads_is_held_until_it_has_read_it():
    """Let go in the order in which it was given, and never before its event has passed."""
    events, freed = [], []

    class Output:
        def __init__(self, number: int) -> None:
            self.number = number

        def __del__(self) -> None:
            freed.append(self.number)

    def record() -> Event:
        events.append(Event())
        return events[-1]

    lifetimes = Lifetimes(record)
    for number in range(3):
        lifetimes.keep(Output(number))
    assert freed == []
    events[1].passed = True  # a device passes events in order: the first is still before it
    lifetimes.keep(Output(3))
    assert freed == []
    events[0].passed = True
    lifetimes.keep(Output(4))
    assert freed == [0, 1]


def test_items_come_in_order_and_an_error_is_raised_where_they_are_taken():
    def work():
        yield from range(5)
        raise UserError("the shard ends here; verify it")

    taken = []
    with pytest.raises(UserError, match="the shard ends here"):
        taken.extend(prefetched(work(), 2, contextlib.nullcontext))
    assert taken == [0, 1, 2, 3, 4]


def test_no_more_runs_ahead_than_was_asked_for():
    made = []

    def work():
        for number in range(100):
            made.append(number)
            yield number

    items = prefetched(work(), 2, contextlib.nullcontext)
    next(items)
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 4  # one taken, two that wait, one in the thread's hands
    items.close()


def test_who_has_enough_leaves_no_thread_behind():
    before = threading.active_count()
    items = prefetched(iter(range(10**9)), 2, contextlib.nullcontext)
    assert next(items) == 0
    items.close()
    assert threading.active_count() == before


class Nothing:
    """No sample is at fault."""

    def describe(self, sample: int):
        raise AssertionError("no sample is looked at")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CUDA allocation failed: out of memory\nStacktrace", "found no room in the GPU's memory .* lower --batch"),
        ("nvjpeg error (6): NVJPEG_STATUS_EXECUTION_FAILED", r"the GPU's JPEG decoder failed .* --data\.decoder cpu"),
        ("CUDA runtime API error cudaErrorIllegalAddress (700)", "the GPU failed in DALI .* koala doctor"),
    ],
)
def test_a_device_that_fails_is_not_taken_for_bad_shards(text, message):
    error = loader._failure(Nothing(), [], RuntimeError(text))
    assert isinstance(error, UserError)
    with pytest.raises(UserError, match=message):
        raise error
    assert "verify" not in str(error)


def test_samples_read_together_are_those_read_alone(shard_folder):
    shards = Shards.open(shard_folder, "train")
    samples = np.array([3, 39, 0, 17])
    for sample, together in zip(samples, shards.read_many(samples), strict=True):
        assert np.array_equal(together, shards.read(int(sample)))

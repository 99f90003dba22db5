"""Batches on their way: who holds the memory, what runs ahead, what is said of failures."""

import contextlib
import threading
import time

import numpy as np
import pytest

from koala.core.errors import UserError
from koala.data import dali_errors
from koala.data.loader import Lifetimes, prefetched
from koala.data.shards import Shards


class Event:
    """As CUDA's: passed once the device has come that far."""

    def __init__(self) -> None:
        self.passed = False

    def query(self) -> bool:
        return self.passed

    def synchronize(self) -> None:
        self.passed = True


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
    lifetimes.close()
    assert all(event.passed for event in events), "at the end the device is waited for"
    assert freed == [0, 1, 2, 3, 4]


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


def nothing(sample: int):
    """No sample is at fault."""
    raise AssertionError("no sample is looked at")


def told(operator: str, fact: str) -> str:
    """As DALI 2.4 tells it; the lines of the program say cuda and nvjpeg, too."""
    return (
        f"Critical error in pipeline:\nError in {operator} operator `nvidia.dali.fn.decoders.image`,\n"
        'which was used in the pipeline definition with the following traceback:\n\n  File "/opt/cuda/nvjpeg.py", '
        f"line 6\n\nencountered:\n\n{fact}\nCurrent pipeline object is no longer valid."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (told("MIXED", "Can't allocate 129499136 bytes on device 0."), r"GPU's memory \(Can't .* 0\.\); lower --batch"),
        (told("GPU", "CUDA allocation failed"), r"GPU's memory \(CUDA allocation failed\); lower --batch"),
        ("CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory", "found no room in the GPU's memory"),
        (told("CPU", "Can't allocate 4096 bytes on host."), r"room in memory .* or --data\.threads"),
        (
            told("MIXED", "nvImageCodec failure: '#8'"),
            r"JPEG decoder failed \(nvImageCodec .*#8'\); choose --data",
        ),
        (told("MIXED", "Failed to decode sample #3"), r"the GPU's JPEG decoder failed .* --data\.decoder cpu"),
        ("nvjpeg error (6): NVJPEG_STATUS_EXECUTION_FAILED", r"the GPU's JPEG decoder failed .* --data\.decoder cpu"),
        (
            told("MIXED", "CUDA runtime API error cudaErrorIllegalAddress (700)"),
            "the GPU failed in DALI .* koala doctor",
        ),
    ],
)
def test_a_device_that_fails_is_not_taken_for_bad_shards(text, message):
    error = dali_errors.explained(RuntimeError(text), nothing, [])
    assert isinstance(error, UserError)
    with pytest.raises(UserError, match=message):
        raise error
    assert "verify" not in str(error)


def test_memory_that_python_is_told_of_is_memory():
    assert "found no room in memory" in str(dali_errors.explained(MemoryError("std::bad_alloc"), nothing, []))


def test_a_sample_that_stops_the_cpus_graph_is_to_be_verified(shard_folder):
    """The whole file decodes by Pillow, so that the shard alone can be named."""
    shards = Shards.open(shard_folder, "train")
    error = RuntimeError(told("CPU", "nvImageCodec failure: '#3'"))
    found = str(dali_errors.explained(error, shards.describe, [(0, shards.read(0))]))
    assert found.endswith(": nvImageCodec failure: '#3'; check them with koala shards verify")
    assert "train-000000.tar" in found


def test_samples_read_together_are_those_read_alone(shard_folder):
    shards = Shards.open(shard_folder, "train")
    samples = np.array([3, 39, 0, 17])
    for sample, together in zip(samples, shards.read_many(samples), strict=True):
        assert np.array_equal(together, shards.read(int(sample)))

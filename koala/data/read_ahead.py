"""Fetching what lies far away before it is needed, in the order in which it will be."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Hashable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from koala.core.errors import UserError
from koala.data.sampler import SamplePositions

_SAMPLES = 8192  # that are fetched ahead: what is shuffled together, in a data set of the usual kind
_THREADS = 8

Block = TypeVar("Block", bound=Hashable)


def fetched_ahead(
    places: Iterable[SamplePositions],
    blocks_of: Callable[[Any], Iterable[Block]],
    fetch: Callable[[Block], None],
    most_blocks: int,
) -> Generator[SamplePositions, None, None]:
    """The same places; while they are at work, threads fetch the blocks of those that come after.

    Args:
        places: which samples.
        blocks_of: the blocks in which `(N,)` samples lie.
        fetch: fetches one. What goes wrong is not said here: whoever reads the block will meet it.
        most_blocks: that are fetched ahead.

    Yields:
        The places, without waiting for what they need.
    """
    wanted: SimpleQueue[Block | None] = SimpleQueue()
    for _ in range(_THREADS):
        threading.Thread(target=_work, args=(wanted, fetch), name="koala-read-ahead", daemon=True).start()
    asked: OrderedDict[Block, None] = OrderedDict()
    coming: deque[tuple[SamplePositions, int]] = deque()
    samples = blocks = 0
    source = iter(places)
    try:
        while True:
            while samples < _SAMPLES and blocks < most_blocks and (place := next(source, None)) is not None:
                new = [block for block in blocks_of(place.samples) if block not in asked]
                _ask(new, asked, wanted, 2 * most_blocks)
                coming.append((place, len(new)))
                samples, blocks = samples + len(place), blocks + len(new)
            if not coming:
                return
            place, count = coming.popleft()
            samples, blocks = samples - len(place), blocks - count
            yield place
    finally:
        _end(wanted)


def _ask(
    new: list[Block], asked: OrderedDict[Block, None], wanted: "SimpleQueue[Block | None]", remembered: int
) -> None:
    """Ask for blocks, and remember them for a while."""
    for block in new:
        asked[block] = None
        wanted.put(block)
    while len(asked) > max(remembered, len(new)):
        asked.popitem(last=False)


def _work(wanted: "SimpleQueue[Block | None]", fetch: Callable[[Block], None]) -> None:
    while (block := wanted.get()) is not None:
        with suppress(UserError, OSError):
            fetch(block)


def _end(wanted: "SimpleQueue[Block | None]") -> None:
    """Let the threads end after what they are at."""
    with suppress(Empty):
        while True:
            wanted.get_nowait()  # get() would wait for ever if a thread took the last one first
    for _ in range(_THREADS):
        wanted.put(None)

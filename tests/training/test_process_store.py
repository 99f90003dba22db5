"""Processes that talk through a store, here in threads: what one has reaches the others, and none hangs for another."""

import pytest

from koala.core.errors import UserError
from koala.training import process_store
from koala.training.process_store import ProcessStore
from tests.company import NODES, company


def test_the_first_process_gathers_by_rank():
    first, *others = company(lambda here: here.gather("rank", [here.rank]))
    assert first == {0: [0], 1: [1], 2: [2], 3: [3]}
    assert others == [{1: [1]}, {2: [2]}, {3: [3]}]


def test_a_silent_process_is_waited_for_once(monkeypatch):
    waited = []

    def twice(here):
        receive = here._receive
        monkeypatch.setattr(here, "_receive", lambda name, s: waited.append(name) or receive(name, s))
        return [here.gather(name, here.rank, patience_s=0.5).keys() for name in ("once", "again")]

    first, *_ = company(twice, silent=[2])
    assert first == [{0, 1, 3}, {0, 1, 3}]
    assert "once/2" in waited
    assert "again/2" not in waited


def test_what_the_first_process_does_is_given_to_all():
    assert company(lambda here: here.broadcast("who", lambda: here.rank)) == [0, 0, 0, 0]


def test_an_error_in_the_first_process_is_one_in_all():
    def work(here):
        return here.broadcast("quotient", lambda: 1 / here.rank)

    first, *others = company(work)
    assert isinstance(first, ZeroDivisionError)
    assert all(isinstance(error, UserError) and "the first process failed" in str(error) for error in others)


def test_a_silent_first_process_is_given_up(monkeypatch):
    monkeypatch.setattr(process_store, "MARGIN_S", process_store.PATIENCE_S - 0.2)
    first, *others = company(lambda here: here.broadcast("word", str), silent=[0])
    assert first is None
    assert all("another process is silent" in str(error) for error in others)


def test_nodes_are_counted_and_named():
    first, *others = company(lambda here: (here.nodes, here.hosts, here.is_main))
    assert first == (2, list(NODES), True)
    assert [(nodes, is_main) for nodes, _, is_main in others] == [(2, False)] * 3


def test_alone_there_is_nobody_to_wait_for():
    alone = ProcessStore.connect()
    assert (alone.size, alone.nodes, alone.is_main) == (1, 1, True)
    assert alone.gather("word", "yes") == {0: "yes"}
    assert alone.broadcast("sum", lambda: 2) == 2


def test_a_first_process_that_is_not_reached_is_said(monkeypatch):
    variables = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(process_store, "PATIENCE_S", 0.5)
    with pytest.raises(UserError, match=r"does not reach the first process at 127.0.0.1:1 .*; launch with one of"):
        ProcessStore.connect()

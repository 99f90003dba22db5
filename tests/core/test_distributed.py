"""Processes: what they say where a GPU is full, and how long they wait for each other."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import koala
from koala.core.devices import fp32_products
from koala.core.distributed import open_accelerator
from koala.core.errors import UserError


def test_a_gpu_that_is_full_is_said_with_what_helps():
    """In whatever command; the words are torch's."""
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nIf reserved but unallocated ...")
    with pytest.raises(UserError, match=r"^CUDA out of memory\. Tried .*GiB\.; lower --batch-size"):  # noqa: SIM117
        with open_accelerator("cpu", "no"):
            raise full


@pytest.mark.parametrize("tf32", [False, True])
def test_what_is_set_for_products_is_set_back(tf32):
    """Also after an error, and where one is within another."""
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    with pytest.raises(KeyError), open_accelerator("cpu", "no", tf32=tf32):
        with fp32_products():
            assert not any(place.allow_tf32 for place in places)
        assert [place.allow_tf32 for place in places] == [tf32, tf32]
        raise KeyError
    assert [place.allow_tf32 for place in places] == before


def test_threads_that_color_side_by_side_leave_it_as_it_was():
    """Whoever is done first takes nothing from the other."""
    before = torch.backends.cudnn.allow_tf32
    with fp32_products(tf32=True):
        first, second = fp32_products(), fp32_products()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not torch.backends.cudnn.allow_tf32, "the second computes still"
        second.__exit__(None, None, None)
        assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_nobody_waits_where_a_watchdog_ends_who_waits_too_long():
    """Accelerate's barriers are NCCL's on GPUs; `wait_for_all` and `on_main_process` are not."""
    waiting = re.compile(r"wait_for_everyone|main_process_first\(\)|dist\.barrier\(\)")
    sources = sorted(Path(koala.__file__).parent.rglob("*.py"))
    assert not [path for path in sources if waiting.search(path.read_text())]


WAITING = """
import time
from datetime import timedelta
from koala.core.distributed import on_main_process, open_accelerator, wait_for_all

with open_accelerator("cpu", "no", timeout=timedelta(seconds=2)) as accelerator:
    said = on_main_process(accelerator, lambda: time.sleep(4) or "fetched")
    time.sleep(4 * accelerator.is_main_process)
    wait_for_all(accelerator)
    print(f"{accelerator.process_index} {said}\\n", end="", flush=True)
"""


@pytest.mark.slow
def test_processes_wait_for_the_first_longer_than_their_group_would(tmp_path):
    """2 seconds in which an all-reduce must be done; the first process fetches and writes for twice as long."""
    (tmp_path / "waiting.py").write_text(WAITING)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(tmp_path / "waiting.py")]
    done = subprocess.run([sys.executable, *launcher], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["0 fetched", "1 fetched"]

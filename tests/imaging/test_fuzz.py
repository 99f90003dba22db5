"""Damaged pictures of every format end in a sentence: no other exception, no crash, no hang, and not much memory."""

import json
import subprocess
import sys
from pathlib import Path

import pillow_heif
import pytest

from tests.imaging.fuzz import COUNT, SEEDS, WAYS

MOST_BYTES = 1_500_000_000
MOST_SECONDS = 300  # of a process that takes a few


@pytest.mark.parametrize("kind", SEEDS)
def test_undamaged_they_are_read(kind):
    pillow_heif.register_heif_opener()
    for read in WAYS.values():
        read(SEEDS[kind]())


@pytest.mark.slow
@pytest.mark.parametrize("kind", SEEDS)
def test_damaged_ones_end_in_a_sentence(kind):
    """In a process of their own, since a decoder may bring it down."""
    command = [sys.executable, "-m", "tests.imaging.fuzz", kind]
    root = Path(__file__).parents[2]
    run = subprocess.run(command, cwd=root, capture_output=True, timeout=MOST_SECONDS, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["wrong"] == []
    assert sum(found["outcomes"].values()) == COUNT * len(WAYS)
    assert found["peak_bytes"] < MOST_BYTES

"""The main job, as a newcomer meets it."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from koala import cli


@pytest.fixture
def all_cores():
    """The demo computes on all of them, where tests beside it are given one."""
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("all_cores")
def test_the_demo_ends_with_visible_colors(tmp_path, capsys):
    assert cli.main(["demo", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for name in ("sheet.png", "colored", "built-in", "evaluation", "run/checkpoints"):
        assert f"{tmp_path}/{name}" in printed
        assert (tmp_path / name).exists()
    assert "learnt by heart" in printed
    scores = json.loads((tmp_path / "evaluation/train/scores.json").read_text())["scores"]
    assert scores["chroma_ratio"] > 0.6
    with Image.open(tmp_path / "sheet.png") as sheet:
        grey, learnt, built_in, _ = np.split(np.asarray(sheet, float)[20:], 4, axis=1)
    for colored in (learnt, built_in):
        assert np.ptp(grey, axis=-1).mean() + 5 < np.ptp(colored, axis=-1).mean()
    assert cli.main(["demo", str(tmp_path)]) == 0, "a second time it finds all done"
    assert "is complete" in capsys.readouterr().err

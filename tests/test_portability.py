"""What is to run on macOS and Windows, too, does so without NVIDIA DALI and without what these systems lack.

Both are hidden here from a Linux; nobody has seen koala on the others.
"""

import json
import subprocess
import sys

import pytest

from tests.photographs import jpeg, make_photo

pytestmark = pytest.mark.slow

HIDDEN = """
import os, signal, sys
for module in ("nvidia", "uvloop", "fcntl", "resource", "pwd", "grp"):
    sys.modules[module] = None
for module, names in ((os, ("sched_getaffinity", "pread", "O_CLOEXEC")), (signal, ("SIGUSR1", "SIGPIPE"))):
    for name in names:
        delattr(module, name)
"""


def koala(*words: object, before: str = "") -> None:
    """Run a command to its end where all that is hidden."""
    script = f"{HIDDEN}\n{before}\nfrom koala import cli\nsys.exit(cli.main({json.dumps([str(w) for w in words])}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


SERVES_NOBODY = "import uvicorn\nuvicorn.Server.run = lambda self, sockets: None"


def test_photos_are_colored(tmp_path):
    (tmp_path / "one.jpg").write_bytes(jpeg(make_photo(1).convert("L")))
    koala("colorize", tmp_path / "one.jpg", "--out", tmp_path / "out")
    assert (tmp_path / "out/one.jpg").exists()


def test_the_gallery_begins():
    koala("gallery", "--port", 0, before=SERVES_NOBODY)


def test_a_network_is_exported(run, tmp_path):
    koala("export", run, "--out", tmp_path / "model", "--program", tmp_path / "koala.pt2")
    assert (tmp_path / "model/model.safetensors").exists()


def test_a_study_is_planned_built_and_served(tmp_path):
    for version, seed in (("original", 0), ("koala", 100)):
        (tmp_path / version).mkdir()
        for number in range(9):
            (tmp_path / version / f"{number}.jpg").write_bytes(jpeg(make_photo(seed + number)))
    pictures = ("--originals", tmp_path / "original", "--pictures", f"koala={tmp_path / 'koala'}")
    koala("study", "build", tmp_path / "study", *pictures, "--scenes", 8, "--shown", 8)
    koala("study", "serve", tmp_path / "study", "--port", 0, before=SERVES_NOBODY)
    few = ("--participants", 20, "--scenes", 12, "--shown", 8, "--simulations", 20)
    koala("study", "power", *few, before="import koala.study.report")

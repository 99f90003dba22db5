"""`make gpu`, rehearsed without a GPU."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as driver
from benchmarks.gpu.bench import CHECKOUT


@pytest.fixture
def arguments(photo_folder, tmp_path) -> Namespace:
    return Namespace(
        photos=photo_folder, parts=["decoding"], device="cpu", out=tmp_path, work=tmp_path, minutes=60, patience=10
    )


def test_a_part_that_takes_too_long_costs_only_itself(arguments):
    arguments.parts, arguments.patience = ["training", "decoding"], 1 / 100
    parts = driver.run_parts(arguments)["parts"]
    assert parts["training"]["status"] == "took too long"
    assert list(parts) == ["training", "decoding"]
    assert json.loads((arguments.out / "gpu.json").read_text())["parts"] == parts


def test_a_part_that_fails_says_why(arguments):
    driver._prepare(arguments)
    (arguments.work / "shards-plain/manifest.json").unlink()
    part = driver.run_part("decoding", 600, arguments)
    assert part["status"] == "failed with exit code 1"
    assert "manifest.json" in "\n".join(part["output"])


def test_what_must_be_so_and_is_not_fails_a_part_and_a_speed_does_not(arguments, monkeypatch):
    def found(good: bool, must: bool) -> str:
        fact = {"name": "n", "value": 1, "unit": "", "aim": "2", "good": good, "must": must}

        class Done:
            pid = 2**30  # of no process

            def wait(self, timeout: float = 0) -> int:
                (arguments.out / "decoding.jsonl").write_text(json.dumps(fact) + "\n")
                return 0

        monkeypatch.setattr(driver.subprocess, "Popen", lambda *_, **__: Done())
        part = driver.run_part("decoding", 600, arguments)
        report = {"koala": "0", "device": "cpu", "photographs": "", "parts": {"decoding": part}}
        return part["status"] + " " + "\n".join(driver.table(report)).split()[-1]

    assert found(good=True, must=True) == "done ok"
    assert found(good=False, must=False) == "done below"
    assert found(good=False, must=True).startswith("not as it must be ")


@pytest.mark.slow
def test_all_parts_are_rehearsed(photo_folder, tmp_path):
    """But the tests themselves, and torch's compiler, which takes minutes."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--photos", str(photo_folder)]
    command += ["--out", str(tmp_path), "--leave-out", "tests,compiled"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout
    report = json.loads(Path(tmp_path, "gpu.json").read_text())
    assert {name: part["status"] for name, part in report["parts"].items()} == dict.fromkeys(
        set(driver.PARTS) - {"tests", "compiled"}, "done"
    )
    assert all(part["facts"] for part in report["parts"].values())

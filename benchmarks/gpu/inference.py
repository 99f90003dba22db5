"""Part 7: a trained network at work on the device and on the CPU."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu import numbers, photographs
from benchmarks.gpu.bench import Bench, Fact, train
from koala.config.data import MeasurePrior
from koala.config.evaluation import EvaluateSettings
from koala.config.inference import ColorizeSettings
from koala.config.models import ObjectiveSettings
from koala.data import color_prior
from koala.evaluation import evaluate
from koala.inference import batch

_SCORES = 0.01  # by which a score may differ, as a share


def at_work(bench: Bench) -> Iterator[Fact]:
    """Evaluate, colorize, and train by classification."""
    run = numbers.settings(bench, "judged", steps=3)
    train(run)
    yield from _scores(bench, Path(str(run.run)))
    yield from _photos(bench)
    yield _classification(bench)


def _scores(bench: Bench, run: Path) -> Iterator[Fact]:
    """Each score on the device beside that on the CPU."""
    found = {}
    for device in ("cpu", bench.device):
        out = run / f"evaluation-{device}"
        began = time.perf_counter()
        evaluate.evaluate(EvaluateSettings(run, bench.plain, out, split="train", features="none", device=device))
        yield Fact(f"evaluate on {device}", round(time.perf_counter() - began, 1), "s")
        found[device] = dict(_numbers(json.loads((out / "scores.json").read_text())["scores"]))
    for name, value in found["cpu"].items():
        difference = abs(found[bench.device][name] - value)
        aim, good = f"within {100 * _SCORES:g} %", difference <= _SCORES * max(abs(value), 1e-3)
        yield Fact(f"score {name}, {value:.4g} on the CPU", f"{difference:.2g} from it", aim=aim, good=good)


def _numbers(scores: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Nested scores as names and numbers."""
    if isinstance(scores, dict):
        for key, value in scores.items():
            yield from _numbers(value, f"{name} {key}".strip())
    elif isinstance(scores, float) and math.isfinite(scores):
        yield name, scores


def _photos(bench: Bench) -> Iterator[Fact]:
    folder, out = photographs.files(bench), bench.work / "colored"
    for device in dict.fromkeys((bench.device, "cpu")):
        settings = ColorizeSettings((folder,), out / device, recolor=True, overwrite=True, device=device)
        began = time.perf_counter()
        code = batch.colorize_command(settings)
        rate = len(list(folder.iterdir())) / (time.perf_counter() - began)
        yield Fact(f"colorize on {device}, its start included", round(rate, 1), "photos/s", "no failure", code == 0)


def _classification(bench: Bench) -> Fact:
    """Train by classification with colourfulness twice, deterministically."""
    color_prior.prior_command(MeasurePrior(bench.resized))
    objective = ObjectiveSettings("classification", colorfulness=0.1)
    run = numbers.settings(bench, "bins-1", steps=3, objective=objective, deterministic=True)
    again = replace(run, run=run.run.with_name("bins-2"))
    train(run), train(again)
    return numbers.same("classification with colourfulness, twice", run, again)

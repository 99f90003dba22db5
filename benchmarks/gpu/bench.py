"""What the parts of `make gpu` share: how large everything is, where it lies, and what a part tells."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from koala.config.data import DataSettings
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.training import trainer

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Fact:
    """A line of the table.

    Attributes:
        name: what was looked at.
        value: what was found.
        unit: of the value.
        aim: what it is to be, in words; empty where nothing is asked.
        good: whether it is so; none where nothing is asked.
        must: a part fails with a fact that is not good, but for an aim of speed.
    """

    name: str
    value: Any
    unit: str = ""
    aim: str = ""
    good: bool | None = None
    must: bool = True


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        resized: photographs at a short side of 256.
        plain: photographs as they are.
        size: of the squares that are trained on.
        batch: of a training that fills the device.
        small_batch: the report's.
        steps: of a training that is timed, after as many that are not.
        extractor: of a training that is timed, with random weights, which cost the same.
        seconds: that one way of decoding is timed for.
        threads: that decode.
        compared: steps whose losses are compared.
        judge: extractor of a training whose numbers are compared, with its weights.
    """

    resized: int = 600
    plain: int = 100
    size: int = 224
    batch: int = 256
    small_batch: int = 50
    steps: int = 40
    extractor: str = "inception_resnet_v2"
    seconds: float = 1.5
    threads: tuple[int, ...] = (4, 8, 16)
    compared: int = 30
    judge: str = "tf_efficientnet_lite0"


REHEARSAL = Scale(24, 8, 32, 8, 4, 2, "tf_efficientnet_lite0", 0.05, (1,), 3, "none")


@dataclass(frozen=True)
class Bench:
    """Where a part works, on which device.

    Attributes:
        device: "cuda", or "cpu" to rehearse.
        work: photographs, shards and runs, which need not be kept.
        out: what is to be kept.
    """

    device: str
    work: Path
    out: Path
    scale: Scale = field(default_factory=Scale)

    @property
    def dali(self) -> str:
        """DALI's name of the device."""
        return "gpu" if self.device == "cuda" else "cpu"

    @property
    def precision(self) -> str:
        """That trainings are timed in."""
        return "bf16"

    @property
    def resized(self) -> Path:
        """Shards of photographs at a short side of 256, in 4:4:4."""
        return self.work / "shards-256"

    @property
    def plain(self) -> Path:
        """Shards of photographs as they are."""
        return self.work / "shards-plain"

    def aim(self, name: str, value: float, unit: str, least: float) -> Fact:
        """A speed, which is to be reached on the GPU, but ends no part."""
        if self.device != "cuda":
            return Fact(name, round(value, 3), unit)
        return Fact(name, round(value, 3), unit, f"at least {least:g}", value >= least, must=False)

    def training(self, name: str, steps: int, **changes: Any) -> TrainSettings:
        """A training of some steps at full size, of which nothing but its numbers is of interest."""
        scale = self.scale
        batch = changes.setdefault("batch_size", scale.batch)
        settings: dict[str, Any] = {
            "data": DataSettings(self.resized, "crop", scale.size, threads=scale.threads[-1]),
            "extractor": ExtractorSettings(scale.extractor, weights="random"),
            "mixed_precision": self.precision,
            "device": self.device,
            "epochs": (steps + 0.5) * batch / samples(self.resized),
            "log_every": steps // 2 or 1,
            "log_pictures": 0,
            "validate_every": 1_000_000,  # but at the end
            "run": self.work / "runs" / name,
        }
        return TrainSettings(**{**settings, **changes})


def samples(shards: Path, split: str = "train") -> int:
    """How many there are."""
    manifest = json.loads((shards / "manifest.json").read_text())
    return sum(entry["samples"] for entry in manifest["splits"][split])


def train(settings: TrainSettings) -> list[dict[str, float]]:
    """Train here, and give what was logged of steps."""
    assert trainer.train(settings) == 0
    return entries(settings.run)


def entries(run: Path) -> list[dict[str, float]]:
    """What a run logged of its steps."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "train/loss" in line]


def koala(*words: str | Path, launcher: Sequence[str] = (), **environment: str) -> subprocess.Popen[str]:
    """Start a command as users do."""
    module = [*launcher, "-m", "--", "koala"] if launcher else ["koala"]
    return subprocess.Popen(
        [sys.executable, "-m", *module, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, **environment},
    )


def finish(process: subprocess.Popen[str], *codes: int) -> str:
    """What a command printed, once it has ended with one of these codes.

    Raises:
        RuntimeError: it ended with another.
    """
    printed, _ = process.communicate()
    if process.returncode not in (codes or (0,)):
        raise RuntimeError(f"koala ended with {process.returncode}: {printed[-2000:]}")
    return printed


def write_fact(path: Path, fact: Fact) -> None:
    """Add a line, which is there whatever becomes of the part."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(fact)) + "\n")

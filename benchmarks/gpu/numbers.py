"""Part 5: whether the device computes what the CPU does, and the same each time."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.gpu.bench import Bench, Fact, entries, finish, koala, train
from koala.config.data import DataSettings
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.core.distributed import GracefulStop, open_accelerator
from koala.models.checkpoint import latest_checkpoint
from koala.training import trainer
from koala.training.components import build_components

_FP32, _HALF = 1e-4, 0.02  # differences of losses: absolute, and as a share
_LARGE_SCALE = 2.0**24  # of the loss in fp16: the first gradients overflow


def settings(bench: Bench, name: str, **changes: Any) -> TrainSettings:
    """A training whose pixels and steps are comparable: decoded on the CPU, every step logged."""
    scale = bench.scale
    steps = changes.pop("steps", scale.compared)
    data = DataSettings(bench.resized, "crop", scale.size // 2 // 8 * 8, threads=scale.threads[-1], decoder="cpu")
    given = {
        "data": data,
        "extractor": ExtractorSettings(scale.judge),
        "batch_size": max(8, scale.small_batch // 8 * 8),
        "learning_rate": 1e-4,
        "mixed_precision": "no",
        "log_every": 1,
    }
    return bench.training(f"numbers-{name}", steps, **{**given, **changes})


def agreement(bench: Bench) -> Iterator[Fact]:
    """Losses of the CPU and of the device in three precisions."""
    true = _losses(train(settings(bench, "cpu", device="cpu")))
    fp32 = _losses(train(settings(bench, "fp32")))
    worst = max(abs(a - b) for a, b in zip(fp32, true, strict=True))
    yield Fact("fp32, loss beside the CPU's", f"{worst:.2g}", aim=f"within {_FP32:g}", good=worst <= _FP32)
    for precision in ("bf16", "fp16") if bench.device == "cuda" else ("bf16",):
        found = _losses(train(settings(bench, precision, mixed_precision=precision)))
        worst = max(abs(a / b - 1) for a, b in zip(found, true, strict=True))
        yield Fact(
            f"{precision}, loss beside the CPU's", f"{100 * worst:.2g}", "%", f"within {100 * _HALF:g}", worst <= _HALF
        )
    if bench.device == "cuda":
        yield _overflow(bench)


def _losses(logged: Sequence[dict[str, float]]) -> list[float]:
    return [entry["train/loss"] for entry in logged]


def _overflow(bench: Bench) -> Fact:
    """Train in fp16 with a scale of the loss at which its gradients overflow."""
    run = settings(bench, "overflow", mixed_precision="fp16", ema=1000)
    with open_accelerator(run.device, "fp16") as accelerator, GracefulStop(accelerator) as stop, ExitStack() as held:
        taken = trainer.prepare(run, build_components(run, accelerator), accelerator, held)
        accelerator.scaler.load_state_dict({**accelerator.scaler.state_dict(), "scale": _LARGE_SCALE})
        code, scale = taken.loop(stop, ""), accelerator.scaler.get_scale()
        whole = all(bool(weight.isfinite().all()) for weight in taken.state.model.parameters())
    last = _losses(entries(taken.run))[-1]
    good = code == 0 and whole and math.isfinite(last) and scale < _LARGE_SCALE
    return Fact("fp16 after overflows: scale, loss", f"{scale:g}, {last:.4f}", aim="finite, smaller", good=good)


def determinism(bench: Bench) -> Iterator[Fact]:
    """The same bits twice; with accumulation also where every kernel is waited for; classification, too."""
    few = max(3, bench.scale.compared // 3)
    first, second = (settings(bench, f"same-{n}", steps=few, deterministic=True, device=bench.device) for n in (1, 2))
    train(first), train(second)
    yield same("deterministic twice", first, second)
    words = ["--deterministic", "--gradient-accumulation-steps", "4"]
    free, waiting = (settings(bench, f"pieces-{n}", steps=few) for n in (1, 2))
    started = [_start(free, *words), _start(waiting, *words, CUDA_LAUNCH_BLOCKING="1")]
    for process in started:
        finish(process)
    yield same("accumulation 4, and every kernel waited for", free, waiting)


def _start(run: TrainSettings, *words: str, **environment: str) -> Any:
    """Train in a process of its own."""
    assert run.run is not None, "the bench names it"
    return koala(*command(run), *words, **environment)


def command(run: TrainSettings) -> list[str]:
    """The command line of a training of this part."""
    data = run.data
    return [
        "train",
        *("--data.shards", str(data.shards), "--data.geometry", data.geometry, "--data.size", str(data.size)),
        *("--data.threads", str(data.threads), "--extractor.name", run.extractor.name, "--device", run.device),
        *("--extractor.weights", run.extractor.weights, "--batch-size", str(run.batch_size)),
        *("--mixed-precision", run.mixed_precision, "--epochs", str(run.epochs), "--run", str(run.run)),
        *("--log-every", str(run.log_every), "--log-pictures", "0", "--learning-rate", str(run.learning_rate)),
        *("--validate-every", str(run.validate_every)),
    ]


def same(name: str, first: TrainSettings, second: TrainSettings) -> Fact:
    """Whether two runs end with the same bits."""
    differing = [key for key, value in weights(first).items() if not value.equal(weights(second)[key])]
    said = "to the bit" if not differing else f"{len(differing)} weights differ"
    return Fact(name, said, aim="to the bit", good=not differing)


def weights(run: TrainSettings) -> dict[str, Any]:
    """Of a run's last checkpoint."""
    assert run.run is not None, "the bench names it"
    newest = latest_checkpoint(run.run / "checkpoints")
    assert newest is not None, "the run has ended"
    return newest.network().state_dict()

"""Steps of a training on a GPU: nothing waits, all precisions learn, and the same bits come again."""

import contextlib
import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from koala.config.data import MeasurePrior
from koala.config.models import ExtractorSettings, ObjectiveSettings
from koala.config.training import TrainSettings
from koala.core.devices import fp32_products
from koala.core.distributed import GracefulStop, open_accelerator
from koala.core.errors import UserError
from koala.data import color_prior
from koala.training import trainer
from koala.training.components import build_components, training_batches
from koala.training.step_monitor import StepMonitor
from tests.processes import finish, start
from tests.runs import same_weights, weights

LITE = ExtractorSettings("tf_efficientnet_lite0", weights="random")


def losses(run) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def on(settings, device, name="", **changes):
    """The same training on a device, in a run folder of its own."""
    return replace(settings, device=device, run=settings.run.with_name(f"{device}-{name}"), **changes)


class NothingIsRead(TorchDispatchMode):
    """On the CPU: a number that is read from a tensor, for which a GPU would be waited for, is an error."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default, "a number is read from the device"
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def nothing_waits(device):
    """Whatever waits for the device is an error."""
    if device == "cpu":
        with NothingIsRead():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


ALL_TERMS = ObjectiveSettings(
    "classification",
    mean_error=0.1,
    colorfulness=0.1,
    perceptual=0.1,
    perceptual_network="tf_efficientnet_lite0",
    perceptual_weights="random",
)


@pytest.fixture
def with_prior(settings) -> TrainSettings:
    """The same on shards of its own, whose colours are counted."""
    shards = shutil.copytree(settings.data.shards, settings.run.with_name("shards"))
    color_prior.prior_command(MeasurePrior(shards))
    return replace(settings, data=replace(settings.data, shards=shards))


@pytest.mark.parametrize(
    ("precision", "objective"),
    [
        ("no", ObjectiveSettings()),
        ("bf16", ObjectiveSettings()),
        ("fp16", ObjectiveSettings()),
        ("bf16", ALL_TERMS),
    ],
    ids=["fp32", "bf16", "fp16", "all terms"],
)
def test_no_step_waits_for_the_device(with_prior, device, precision, objective):
    """Ten of them, from the batch to the numbers that are read later."""
    if (device, precision) == ("cpu", "fp16"):
        pytest.skip("fp16 needs a GPU")
    extractor = LITE if device == "cuda" else with_prior.extractor
    settings = on(with_prior, device, extractor=extractor, ema=100, clip_grad_norm=1.0, gradient_accumulation_steps=2)
    settings = replace(settings, mixed_precision=precision, objective=objective, epochs=2)
    with contextlib.ExitStack() as held:
        accelerator = held.enter_context(open_accelerator(device, precision))
        taken = trainer.prepare(settings, build_components(settings, accelerator), accelerator, held)
        held.enter_context(taken._open_logs())
        parts = held.enter_context(contextlib.closing(training_batches(settings, taken.components, 0, accelerator)))
        monitor = StepMonitor(accelerator, halt=True)
        for number in range(12):
            with nothing_waits(device) if number >= 2 else contextlib.nullcontext():  # the first look for algorithms
                result = trainer.train_step(taken, parts)
                monitor.push(settings.batch_size * number, result.loss, result.norm)
        # in fp16 the first may overflow
        assert precision == "fp16" or all(numbers.finite for numbers in monitor.pop(0))


def test_what_waits_is_noticed(device):
    """The check above can fail."""
    value = torch.ones(3, device=device).sum()
    with pytest.raises((AssertionError, RuntimeError)), nothing_waits(device):
        float(value)


@pytest.mark.parametrize(("precision", "tolerance"), [("no", 1e-4), ("bf16", 0.02), ("fp16", 0.02)])
def test_losses_are_the_cpus(settings, gpu, precision, tolerance):
    trainer.train(on(settings, "cpu"))
    here = on(settings, gpu, extractor=settings.extractor, mixed_precision=precision)
    trainer.train(here)
    assert losses(here.run) == pytest.approx(losses(on(settings, "cpu").run), rel=tolerance)


def test_an_overflow_in_fp16_changes_nothing_but_the_scale(settings, gpu):
    settings = on(settings, gpu, mixed_precision="fp16", ema=10)
    with contextlib.ExitStack() as held:
        accelerator = held.enter_context(open_accelerator(gpu, "fp16"))
        taken = trainer.prepare(settings, build_components(settings, accelerator), accelerator, held)
        accelerator.scaler.load_state_dict({**accelerator.scaler.state_dict(), "scale": 2.0**40})
        before = [weight.clone() for model in (taken.state.network, taken.state.model) for weight in model.parameters()]
        held.enter_context(taken._open_logs())
        parts = held.enter_context(contextlib.closing(training_batches(settings, taken.components, 0, accelerator)))
        trainer.train_step(taken, parts)
        after = [weight for model in (taken.state.network, taken.state.model) for weight in model.parameters()]
        assert all(map(torch.equal, before, after))
        assert accelerator.scaler.get_scale() == 2.0**39


def test_fp16_survives_its_overflows(settings, gpu):
    settings = on(settings, gpu, mixed_precision="fp16", epochs=2)
    with contextlib.ExitStack() as held:
        accelerator = held.enter_context(open_accelerator(gpu, "fp16"))
        stop = held.enter_context(GracefulStop(accelerator))
        taken = trainer.prepare(settings, build_components(settings, accelerator), accelerator, held)
        accelerator.scaler.load_state_dict({**accelerator.scaler.state_dict(), "scale": 2.0**24})
        assert taken.loop(stop, "") == 0
        assert all(weight.isfinite().all() for weight in taken.state.network.parameters())


@pytest.mark.parametrize("tf32", [False, True])
def test_products_of_fp32_are_shortened_only_where_asked_for(gpu, tf32):
    """Factors of 10 bits are off by 2^-11; those of 23 bits are not."""
    left, right = (torch.randn(512, 512, device=gpu, generator=torch.Generator(gpu).manual_seed(n)) for n in (0, 1))
    picture, kernel = left.view(1, 16, 128, 128), right[:16, :144].reshape(16, 16, 3, 3)
    with fp32_products(tf32):
        found = left @ right, torch.nn.functional.conv2d(picture, kernel)
    exact = left.double() @ right.double(), torch.nn.functional.conv2d(picture.double(), kernel.double())
    for mine, true in zip(found, exact, strict=True):
        error = float((mine - true).abs().max() / true.abs().max())
        assert (error > 1e-5) == tf32


@pytest.mark.parametrize("objective", ["mse", "huber"])
def test_deterministic_training_repeats_and_resumes_to_the_bit(settings, gpu, objective):
    settings = replace(settings, deterministic=True, extractor=LITE, mixed_precision="bf16", ema=20)
    whole, again, stopped = (on(settings, gpu, name) for name in ("whole", "again", "stopped"))
    trainer.train(whole)
    trainer.train(again)
    trainer.train(replace(stopped, epochs=0.5))
    trainer.train(stopped)
    for other in (again, stopped):
        assert losses(other.run) == losses(whole.run)
        assert same_weights(weights(whole.run, 40), weights(other.run, 40))


def test_accumulation_is_as_if_every_kernel_were_waited_for(settings, gpu, monkeypatch):
    """Memory that is reused before it was read would show as other losses."""
    runs = [on(settings, gpu, name) for name in ("free", "waiting")]
    for run, blocking in zip(runs, "01", strict=True):
        monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", blocking)
        words = ["train", "--data.shards", str(run.data.shards), "--data.size", "64", "--extractor.name", "none"]
        words += ["--batch-size", "8", "--gradient-accumulation-steps", "4", "--epochs", "4", "--deterministic"]
        finish(start(*words, "--log-every", "1", "--run", str(run.run)))
    assert losses(runs[0].run) == losses(runs[1].run)


def test_too_little_memory_is_a_sentence_with_a_remedy(settings, gpu):
    settings = on(settings, gpu, data=replace(settings.data, size=1024), batch_size=40)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.05)
    try:
        with pytest.raises(UserError, match="--gradient-accumulation-steps 2 needs about half"):
            trainer.train(settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()

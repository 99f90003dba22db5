"""Training of a network: settings, then the parts (`koala.training.components`), then the loop.

One clock, `images_seen`, from which everything else follows: the learning rate, "is it time", the names of checkpoints,
TensorBoard's axis and the place in the data are functions of the images seen over all processes. What is saved is the
weights, the optimizer and that number.
"""

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from koala.config.load import save_toml
from koala.config.training import TrainSettings
from koala.core.distributed import (
    GracefulStop,
    main_process_first,
    mean_over_processes,
    on_main_process,
    open_accelerator,
)
from koala.core.errors import UserError, first_line
from koala.core.folder_lock import lock_folder
from koala.core.progress import Progress
from koala.data.hints import draw_squares, reveal
from koala.data.loader import Batch
from koala.evaluation.failure_signs import FailureWatch
from koala.models import checkpoint
from koala.training import estimate
from koala.training.components import Components, build_components, training_batches
from koala.training.initial_weights import start_from
from koala.training.journal import Journal, environment, open_journal
from koala.training.memory_fit import with_fitting_pieces
from koala.training.metric_log import MetricWindow, TrainingLog, peak_tflops
from koala.training.optimizer import set_learning_rate, skips_on_device
from koala.training.run_folder import (
    SampleLog,
    check_same,
    choose_run_folder,
    facts,
    how_to_watch,
    lasting,
    snapshot,
    write_bad_batch,
)
from koala.training.schedule import is_due, learning_rate, ramp_up, total_images
from koala.training.step_monitor import StepMonitor, StepNumbers
from koala.training.trackers import check_installed, open_trackers
from koala.training.train_state import TrainState, ema_share
from koala.training.validation import Validator, predict


@dataclass(frozen=True)
class StepResult:
    """What a step of training computed, in this process, on the device.

    Attributes:
        loss: mean over this process's part of the batch, `()`.
        norm: of the gradient over all processes before it was clipped, `()`.
        batch: the last micro-batch.
        output: the network's, for that batch.
    """

    loss: Tensor
    norm: Tensor
    batch: Batch
    output: Tensor


def train(settings: TrainSettings, command: str = "") -> int:
    """Train until the epochs are done, or until a signal asks to stop.

    Args:
        settings: of the training.
        command: that is to be run again to resume, for messages; by default `koala train` itself.

    Returns:
        0 when the training is complete, 128 + the signal's number when it was interrupted.

    Raises:
        UserError: the settings cannot be honoured.
    """
    check_installed(settings.tracker)
    _choose_algorithms(settings.deterministic)
    with (
        open_accelerator(
            settings.device, settings.mixed_precision, settings.processes, tf32=settings.tf32
        ) as accelerator,
        open_journal(settings.notify, accelerator) as journal,
    ):
        components = build_components(settings, accelerator)
        settings = with_fitting_pieces(settings, components, accelerator)
        with contextlib.ExitStack() as held, GracefulStop(accelerator) as stop:
            trainer = prepare(settings, components, accelerator, held)
            journal.follow(trainer.run, lambda: trainer.state.images_seen)
            trainer.journal = journal
            try:
                return trainer.loop(stop, command or f"the same command with --run {trainer.run}")
            except torch.OutOfMemoryError as error:
                pieces = f"--gradient-accumulation-steps {2 * settings.gradient_accumulation_steps}"
                raise UserError(f"{first_line(error)}; {pieces} needs about half of it for activations") from None


def prepare(
    settings: TrainSettings, components: Components, accelerator: Accelerator, held: contextlib.ExitStack
) -> "Trainer":
    """Make the run's folder, or find it and its newest checkpoint, and put all on the device.

    Args:
        settings: of the training.
        components: what it is made of.
        accelerator: processes and device.
        held: until it is closed, no other training may use the folder.
    """
    run = on_main_process(
        accelerator, lambda: choose_run_folder(settings.name or "train", settings.run, settings.resume)
    )
    on_main_process(accelerator, lambda: held.enter_context(lock_folder(run, "koala train")) or True)
    # one process looks, so that all resume from the same checkpoint whatever their file systems show them
    found = on_main_process(accelerator, lambda: checkpoint.latest_checkpoint(run / "checkpoints"))
    if found is not None:
        check_same(run, found, settings, components)
    origin = _origin(settings, components, accelerator) if found is None and settings.init else {}
    network = components.network.to(accelerator.device).to(memory_format=torch.channels_last)
    state = TrainState.new(network, settings)
    state.origin = origin
    if found is not None:
        state.restore(found, accelerator.scaler)
    if settings.compile:
        network.compile()
        if components.embedder.extractor is not None:
            components.embedder.extractor.compile()
    trainer = Trainer(settings, components, state, accelerator, run)
    if found is not None:
        trainer.window = MetricWindow(**found.state.get("window", {}))
    return trainer


def _origin(settings: TrainSettings, components: Components, accelerator: Accelerator) -> dict[str, Any]:
    """Give the network the weights that it begins with; what they are, in plain values."""
    # the first process fetches them, the others find them
    origin = main_process_first(accelerator, lambda: start_from(settings, components))
    _say(accelerator, str(origin))
    return asdict(origin)


def train_step(trainer: "Trainer", parts: Iterator[Batch]) -> StepResult:
    """One step: predict, compare, update. Nothing in it waits for the device.

    A gradient that is not finite changes neither the weights nor the optimizer nor the moving average; what is to be
    done about it is decided once the numbers of the step are read (`koala.training.step_monitor`).

    Args:
        trainer: what is trained.
        parts: this process's micro-batches.
    """
    settings, state, accelerator = trainer.settings, trainer.state, trainer.accelerator
    set_learning_rate(state.optimizer, learning_rate(state.images_seen, trainer.total, settings))
    share = ramp_up(state.images_seen, trainer.total)
    objective, pieces, losses = trainer.components.loss.objective, settings.gradient_accumulation_steps, []
    for piece in range(pieces):
        batch = trainer.next_batch(parts)
        last = piece == pieces - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(trainer.model):
            output = predict(trainer.model, trainer.components.embedder, batch, accelerator, trainer.hints(batch))
            loss = objective(state.network, output, batch.lightness, batch.ab, share) / pieces
            accelerator.backward(loss)
        losses.append(loss.detach())
    accelerator.unscale_gradients()
    longest = settings.clip_grad_norm or math.inf
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), longest, foreach=True)
    trainer.update(norm)
    state.images_seen += settings.batch_size
    return StepResult(torch.stack(losses).sum(), norm, batch, output.detach())


class Trainer:
    """The loop: steps, and between them logging, saving and validating when it is time.

    Args:
        settings: of the training.
        components: what it is made of.
        state: what changes, on the device.
        accelerator: processes and device.
        run: its folder.
    """

    def __init__(
        self, settings: TrainSettings, components: Components, state: TrainState, accelerator: Accelerator, run: Path
    ) -> None:
        self.settings, self.components, self.state = settings, components, state
        self.accelerator, self.run = accelerator, run
        prepared = accelerator.prepare(state.network, state.optimizer)
        self.model: nn.Module = prepared[0]
        self.optimizer: Any = prepared[1]
        self.total = total_images(len(components.data.train), settings.epochs, settings.batch_size)
        self.checkpoints = run / "checkpoints"
        self.window, self.journal = MetricWindow(), Journal("", write=False)
        self.monitor = StepMonitor(accelerator, halt=settings.on_nan == "stop")
        self.samples = SampleLog(run, accelerator, settings.log_samples)
        self._ema_share = ema_share(settings.batch_size, settings.ema)
        self.validator = Validator(settings, components, accelerator, self.checkpoints)

    @property
    def complete(self) -> bool:
        """Whether all images were seen."""
        return self.state.images_seen >= self.total

    def loop(self, stop: GracefulStop, command: str) -> int:
        """Take steps, and between them log, save and validate when it is time; `command` resumes when it is stopped."""
        settings, state, step = self.settings, self.state, self.settings.batch_size
        unvalidated = self._is_validation_time() and self.validator.is_due(state.images_seen)
        if self.complete and not unvalidated:
            _say(
                self.accelerator,
                f"{self.run} is complete: {state.images_seen} images seen; to train on, raise --epochs",
            )
            return 0
        what = f"resuming after {state.images_seen} images" if state.images_seen else "a new run"
        _say(self.accelerator, f"{self.run}: {what}{how_to_watch(self.run, settings.tracker)}")
        self.journal.note("start", what, environment(self.accelerator))
        with self._open_logs() as (bar, profiled):
            if unvalidated:  # it was interrupted
                self._validate(bar)
            parts = training_batches(self.settings, self.components, self.state.images_seen, self.accelerator)
            self.window = MetricWindow(**self.window.state_dict())
            while not self.complete:
                taken = train_step(self, parts)
                profiled()
                self.monitor.push(state.images_seen - step, taken.loss, taken.norm)
                number = 0 if self.complete else stop.requested()
                log = is_due(state.images_seen, step, settings.log_every * step)
                due = self._is_validation_time()
                save = due or bool(number) or is_due(state.images_seen, step, settings.checkpoint_every * step)
                bar.advance(step, self._read(waiting=0 if log or save else 1))
                if log:
                    self._log(taken, bar)
                if save:
                    self._save()
                if due and not number:
                    self._validate(bar)
                if number:
                    self._settle()
                    self.journal.note("stopped", f"by signal {number}")
                    bar.say(f"stopped after {state.images_seen} images; to resume, run {command}")
                    return 128 + number
            self._settle()
        self.journal.note("end", f"complete: {state.images_seen} images seen")
        return 0

    @contextlib.contextmanager
    def _open_logs(self) -> Iterator[tuple[Progress, Callable[[], None]]]:
        """Open what is written while the run goes: by the first process, but for the log of samples.

        Yields:
            The progress bar, and what to call after each step, so that some of them are traced.
        """
        first, settings, accelerator = self.accelerator.is_main_process, self.settings, self.accelerator
        if first:
            save_toml(lasting(settings), self.run / "config.toml")
        names, told = settings.tracker if first else (), facts(settings, self.components, self.state)
        self.saver = checkpoint.AsyncSaver(self.checkpoints, settings.keep_checkpoints)
        with (
            contextlib.closing(self.samples),
            contextlib.closing(self.saver),
            open_trackers(names, self.run, self.state.images_seen, told) as trackers,
            TrainingLog(
                self.run,
                self.state.images_seen,
                accelerator,
                flops_per_image=_flops_per_image(settings, self.components),
                peak_tflops=settings.peak_tflops or peak_tflops(accelerator.device, settings.mixed_precision),
                pictures=settings.log_pictures,
                watch=FailureWatch(settings),
                trackers=trackers,
            ) as self.log,
            _profiling(self.run / "profile", settings.profile if first else 0) as profiled,
            Progress(self.total, "training", start=self.state.images_seen, show=first) as bar,
        ):
            yield bar, profiled

    def _is_validation_time(self) -> bool:
        period = self.settings.validate_every * len(self.components.data.train)
        return is_due(self.state.images_seen, self.settings.batch_size, period) or self.complete

    def next_batch(self, parts: Iterator[Batch]) -> Batch:
        """The next micro-batch; the time spent waiting for it is counted."""
        with self.window.during("data"):
            batch = next(parts)
        self.samples.add(self.state.images_seen, batch)
        return batch

    def hints(self, batch: Batch) -> Tensor | None:
        """What is revealed of a batch's colours, to a network that takes hints."""
        if not self.state.network.hints:
            return None
        settings = self.settings
        return reveal(batch.ab, draw_squares(settings.seed, self.state.images_seen, batch.samples, settings.data.size))

    def update(self, norm: Tensor) -> None:
        """Step the optimizer and the moving average, unless the gradient is not finite.

        That is decided on the device, but for optimizers that cannot: they wait for the norm.
        """
        skip = self.monitor.flag(self.state.optimizer, norm)
        if self.accelerator.scaler is not None or skips_on_device(self.state.optimizer) or not skip:
            self.optimizer.step()
        self.state.update_ema(self._ema_share, skip)
        self.optimizer.zero_grad()

    def _read(self, waiting: int) -> str:
        """Read what the device has computed, but for the newest steps; the newest loss, in words."""
        words = ""
        for numbers in self.monitor.pop(waiting):
            if numbers.finite:
                self.window.add(numbers.loss, numbers.norm, self.settings.batch_size)
                words = f"loss {numbers.loss:.5f}{self.log.words}"
            else:
                self.window.skip(self.settings.batch_size)
                if not self.monitor.is_mended():
                    self._deal_with(numbers)
        return words

    def _deal_with(self, numbers: StepNumbers) -> None:
        """Write down the samples of a gradient that is not finite; all processes have the same one.

        Raises:
            UserError: the settings say to stop.
        """
        samples = self.components.data.describe(numbers.images_seen, self.settings.batch_size)
        path = on_main_process(self.accelerator, lambda: write_bad_batch(self.run, numbers, samples))
        what = f"the gradient after {numbers.images_seen} images is not finite (loss {numbers.loss})"
        if self.settings.on_nan == "skip":
            _say(self.accelerator, f"warning: {what}; its samples are in {path}, the step is left out")
            self.journal.note("alarm", f"{what}; the step is left out")
            return
        self.state.images_seen = numbers.images_seen  # nothing has changed since then
        self._save()
        self._settle()
        raise UserError(
            f"{what}; its samples are in {path}; resume with --on-nan skip, --clip-grad-norm 1, lower --learning-rate "
            "or another --mixed-precision"
        )

    def _log(self, taken: StepResult, bar: Progress) -> None:
        """Write down what the steps since the last entry found."""
        window, self.window = self.window, MetricWindow()
        mine = {**window.means(), "failed": float(self.saver.failed())}
        means = mean_over_processes(self.accelerator, mine)
        if means.pop("failed"):
            self._settle()
        if not self.accelerator.is_main_process:
            return
        state, settings = self.state, self.settings
        means["train/learning_rate"] = learning_rate(state.images_seen - settings.batch_size, self.total, settings)
        predicted = state.network.to_ab(taken.output)
        for warning in self.log.add_training(state.images_seen, window, means, taken.batch, predicted):
            bar.say(warning)
            self.journal.note("alarm", warning)

    def _validate(self, bar: Progress) -> None:
        """The loss over the whole validation set, and pictures of it; the best checkpoint is remembered."""
        seen = self.state.images_seen
        with self.window.during("validating"):
            loss = self.validator.loss(self.state.model, partial(self.log.show_batch, seen, "val/pictures"))
        if loss is None:
            return
        bar.say(f"validation loss {loss:.5f} after {seen} images")
        self._settle()
        self.log.add(seen, {"val/loss": loss})
        self.validator.remember(seen, loss)

    def _save(self) -> None:
        """Begin to write a checkpoint; the first process does, the others wait until it has its copy."""
        with self.window.during("saving"):
            shot = partial(snapshot, self.settings, self.components, self.state, self.window, self.accelerator.scaler)
            on_main_process(self.accelerator, lambda: self.saver.save(shot()))

    def _settle(self) -> None:
        """Wait until the newest checkpoint is on the disk; in all processes, an error if it is not."""
        with self.window.during("saving"):
            on_main_process(self.accelerator, self.saver.wait)


def _flops_per_image(settings: TrainSettings, components: Components) -> int:
    return estimate.flops_per_image(components.network, components.embedder.extractor, settings.data.size)


def _choose_algorithms(deterministic: bool) -> None:
    """Set what torch keeps for the whole process, before it touches a GPU."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    # shapes stay the same, so that looking for the fastest algorithm once pays
    torch.backends.cudnn.benchmark = not deterministic


@contextlib.contextmanager
def _profiling(folder: Path, steps: int) -> Iterator[Callable[[], None]]:
    """What to call after each step, so that some of them are traced; 0 steps trace none."""
    if not steps:
        yield lambda: None
        return
    with torch.profiler.profile(
        schedule=torch.profiler.schedule(wait=2, warmup=2, active=steps, repeat=1),
        on_trace_ready=torch.profiler.tensorboard_trace_handler(str(folder)),
    ) as profiler:
        yield profiler.step


def _say(accelerator: Accelerator, line: str) -> None:
    """Say a line once, whatever the number of processes."""
    if accelerator.is_main_process:
        print(line, file=sys.stderr, flush=True)

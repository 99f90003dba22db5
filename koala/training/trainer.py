"""Training of the fusion network: one clock, `images_seen`, from which everything else follows.

The learning rate, "is it time", the names of checkpoints, TensorBoard's axis and the place in the data are
functions of the images seen over all processes. What is saved is the weights, the optimizer and that number.
"""

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from koala.config.data import for_evaluation
from koala.config.fields import SplitName
from koala.config.load import save_toml
from koala.config.training import TrainSettings
from koala.core.atomic_io import write_atomic
from koala.core.distributed import GracefulStop, dali_device, main_process_first, on_main_process, open_accelerator
from koala.core.errors import UserError, first_line
from koala.core.progress import Progress
from koala.data import audit, color_prior, embedding_cache
from koala.data.dali_pipeline import Batch, load_batches
from koala.data.sampler import EpochSampler, micro_batches, sequential_batches
from koala.data.shards import Shards, read_manifest
from koala.evaluation import failure_signs
from koala.imaging import ab_bins, contact_sheet
from koala.models import checkpoint, extractor
from koala.models.network import Network
from koala.models.objectives import Objective, needs_prior, required_head
from koala.models.perceptual import PerceptualLoss
from koala.training import estimate, metric_log
from koala.training.schedule import is_due, learning_rate, ramp_up
from koala.training.train_state import TrainState

RUNS = Path("log/koala")
_VALIDATION_BATCH = 50  # images at a time, in each process, at the most
_MUST_STAY = (  # in a run that is gone on with
    *("seed", "objective.name", "objective.rebalancing", "objective.colorfulness"),
    *("objective.perceptual", "objective.perceptual_network"),
    *("data.geometry", "data.size", "data.lightness", "data.where", "data.mirror", "data.aging"),
    *("extractor.name", "extractor.features", "extractor.batch_statistics"),
)


@dataclass(frozen=True)
class Step:
    """What a step of training found, in this process.

    Attributes:
        loss: mean over this process's part of the batch.
        norm: of the gradient over all processes, before it was clipped.
        batch: the last micro-batch.
        output: the network's, for that batch.
    """

    loss: float
    norm: float
    batch: Batch
    output: Tensor


def train_step(trainer: "Trainer", parts: Iterator[Batch]) -> Step:
    """One step: predict, compare, update.

    Args:
        trainer: what is trained.
        parts: this process's micro-batches.

    Raises:
        UserError: the gradient is not finite, and the settings say to stop.
    """
    settings, state = trainer.settings, trainer.state
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.images_seen, trainer.total, settings)
    share = ramp_up(state.images_seen, trainer.total)
    losses = []
    for piece in range(settings.accumulation):
        batch = trainer.next_batch(parts)
        last = piece == settings.accumulation - 1
        with contextlib.nullcontext() if last else trainer.accelerator.no_sync(trainer.model):
            output = trainer.predict(trainer.model, batch)
            loss = trainer.objective(state.network, output, batch.lightness, batch.ab, share) / settings.accumulation
            trainer.accelerator.backward(loss)
        losses.append(loss.detach())
    trainer.accelerator.unscale_gradients()
    longest = settings.clip_norm or math.inf
    length = nn.utils.clip_grad_norm_(state.network.parameters(), longest, foreach=True)
    loss_now, norm = torch.stack([torch.stack(losses).sum(), length]).tolist()  # here the device is waited for
    if trainer.may_step(loss_now, norm):
        trainer.optimizer.step()
        state.update_ema()
    trainer.optimizer.zero_grad()
    state.images_seen += settings.batch
    return Step(loss_now, norm, batch, output.detach())


def train(settings: TrainSettings) -> int:
    """Train until the epochs are done, or until a signal asks to stop.

    Returns:
        0 when the training is complete, 128 + the signal's number when it was interrupted.

    Raises:
        UserError: the settings cannot be honoured.
    """
    _choose_arithmetic(settings)
    with open_accelerator(settings.device, settings.mixed_precision, settings.processes) as accelerator:
        trainer = Trainer(settings, accelerator)
        if settings.dry_run:
            trainer.say(trainer.plan())
            return 0
        trainer.begin()
        with GracefulStop(accelerator) as stop:
            try:
                return trainer.loop(stop)
            except torch.OutOfMemoryError as error:
                pieces = f"--accumulation {2 * settings.accumulation}"
                raise UserError(f"{first_line(error)}; {pieces} needs about half of it for activations") from None


def _choose_arithmetic(settings: TrainSettings) -> None:
    """Set what torch keeps for the whole process, before it touches a GPU."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.tf32
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(settings.deterministic)
    # shapes stay the same, so that looking for the fastest algorithm once pays
    torch.backends.cudnn.benchmark = not settings.deterministic


class Trainer:
    """A run: what is trained, on what, and where it is written."""

    def __init__(self, settings: TrainSettings, accelerator: Accelerator) -> None:
        self.settings, self.accelerator = settings, accelerator
        if settings.data.aging and settings.data.lightness == "color":
            raise UserError("an old photograph has no L* of colours; leave out --data.aging or --data.lightness color")
        self.shards = audit.open_filtered(settings.data.shards, "train", settings.data.where)
        self.val_shards = self._open_validation()
        self.order = EpochSampler(self.shards.shard_sizes, settings.seed)
        self.total = math.ceil(settings.epochs * len(self.shards) / settings.batch) * settings.batch
        self.extractor: extractor.Extractor | None = None
        self.cache: embedding_cache.EmbeddingCache | None = None
        self.embedding_size, self.extractor_sha256 = 0, ""
        self._see_the_whole()
        torch.manual_seed(settings.seed)
        self.network = Network(self.embedding_size, required_head(settings.objective))
        self.objective = self._objective()
        self.flops_per_image = estimate.flops_per_image(self.network, self.extractor, settings.data.size)
        self.window = metric_log.MetricWindow()
        self.words = ""

    def begin(self) -> None:
        """Make the run's folder, or go on from the newest checkpoint in it."""
        self.run = on_main_process(self.accelerator, lambda: _choose_folder(self.settings))
        self.checkpoints = self.run / "checkpoints"
        self.state = self._start()
        if self.settings.compile:
            self.state.network.compile()
            if self.extractor is not None:
                self.extractor.compile()
        prepared = self.accelerator.prepare(self.state.network, self.state.optimizer)
        self.model: nn.Module = prepared[0]
        self.optimizer: Any = prepared[1]

    # ------------------------------------------------------------ beginning

    def _see_the_whole(self) -> None:
        """Find the cached embeddings, or build the extractor that computes them in each step."""
        settings, accelerator = self.settings, self.accelerator
        if settings.extractor.cache:
            self.cache = on_main_process(accelerator, lambda: embedding_cache.find_cache(settings))
            self.embedding_size, self.extractor_sha256 = self.cache.key.embedding_size, self.cache.key.extractor_sha256
            return
        # the first process fetches the extractor's weights, the others find them
        built = main_process_first(accelerator, lambda: extractor.build_extractor(settings.extractor, settings.seed))
        if built is not None:
            self.embedding_size, self.extractor_sha256 = built.embedding_size, extractor.weights_sha256(built)
            self.extractor = built.to_device(accelerator.device, settings.mixed_precision)

    def _objective(self) -> Objective:
        """What is made small."""
        settings, device = self.settings.objective, self.accelerator.device
        self.prior_sha256, self.judge_sha256, weights, distance = "", "", None, None
        if needs_prior(settings):
            found = on_main_process(self.accelerator, lambda: color_prior.read_prior(self.settings.data.shards))
            self.prior_sha256 = color_prior.prior_sha256(found)
            weights = ab_bins.rebalancing_weights(found, settings.rebalancing).to(device)
        if settings.perceptual:
            size = self.settings.data.size
            # the first process fetches the weights, the others find them
            distance = main_process_first(self.accelerator, lambda: PerceptualLoss(settings, size)).to(device)
            self.judge_sha256 = distance.sha256
        return Objective(settings, weights, distance)

    def _cached(self, shards: Shards, split: SplitName) -> embedding_cache.CachedEmbeddings | None:
        """Where the batches of a split find their embeddings."""
        if self.cache is None:
            return None
        return embedding_cache.CachedEmbeddings(
            self.cache, read_manifest(self.settings.data.shards).splits[split], shards
        )

    def _start(self) -> TrainState:
        """A new state, or that of the newest checkpoint."""
        # one process looks, so that all go on from the same checkpoint whatever their file systems show them
        found = on_main_process(self.accelerator, lambda: checkpoint.latest_checkpoint(self.checkpoints))
        if found is not None:
            self._check_same(found)
        network = self.network.to(self.accelerator.device).to(memory_format=torch.channels_last)
        state = TrainState.new(network, self.settings)
        if found is not None:
            state.restore(found, self.accelerator.scaler)
        return state

    def _check_same(self, found: checkpoint.Checkpoint) -> None:
        """Refuse to go on with what would make another run of it."""
        for name in _MUST_STAY:
            was, now = (_setting(settings, name) for settings in (found.settings, self.settings))
            if was != now:
                raise UserError(f"{self.run} was begun with {name} = {was}, not {now}; name another --run for that")
        if found.state["data"] != self._data_fingerprint:
            raise UserError(
                f"{self.run} was begun on other shards than {self.settings.data.shards}; name another --run"
            )
        if found.state.get("prior", "") != self.prior_sha256:
            raise UserError(f"{self.run} was begun with another prior of colours; name another --run for this one")
        if found.state.get("judge", "") != self.judge_sha256:
            raise UserError(f"{self.run} was begun with other weights of the perceptual network; name another --run")
        if found.extractor_sha256 != self.extractor_sha256:
            raise UserError(f"{self.run} was begun with other weights of the extractor; name another --run for these")

    @cached_property
    def _data_fingerprint(self) -> list[str]:
        shards = [entry.sha256 for entry in read_manifest(self.settings.data.shards).splits["train"]]
        return [*shards, self.shards.selection] if self.settings.data.where else shards

    def _open_validation(self) -> Shards | None:
        data = self.settings.data
        if not read_manifest(data.shards).samples("val"):
            return None
        return audit.open_filtered(data.shards, "val", data.where)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """The first process writes down the settings, numbers and checkpoints, for as long as the run goes."""
        first = self.accelerator.is_main_process
        if first:
            save_toml(_lasting(self.settings), self.run / "config.toml")
        self.samples = _SampleLog(self.run, self.accelerator) if self.settings.log_samples else None
        self.watch = failure_signs.FailureWatch()
        self.saver = checkpoint.AsyncSaver(self.checkpoints, self.settings.keep)
        with metric_log.MetricLogger(self.run, self.state.images_seen, write=first) as self.log:
            try:
                yield
            finally:
                self.saver.close()
                if self.samples is not None:
                    self.samples.close()

    @property
    def complete(self) -> bool:
        """Whether all images were seen."""
        return self.state.images_seen >= self.total

    def say(self, line: str) -> None:
        """Say a line once, whatever the number of processes."""
        if self.accelerator.is_main_process:
            print(line, file=sys.stderr, flush=True)

    def plan(self) -> str:
        """What the training will take, in words."""
        settings = _lasting(self.settings)
        images = {
            "in an epoch": len(self.shards),
            "to validate on": len(self.val_shards) if self.val_shards is not None else 0,
            "in all": self.total,
        }
        return estimate.describe_plan(settings, self.network, self.extractor, self.accelerator.num_processes, images)

    # ------------------------------------------------------------ the loop

    def loop(self, stop: "GracefulStop") -> int:
        """Take steps, and between them log, save and validate when it is time."""
        settings, state, step = self.settings, self.state, self.settings.batch
        if self.complete and not self._validation_is_due():
            self.say(f"{self.run} is complete: {state.images_seen} images seen")
            return 0
        self.say(f"{self.run}: going on after {state.images_seen} images" if state.images_seen else f"run {self.run}")
        show = self.accelerator.is_main_process
        with (
            self._writing(),
            self._profiling() as profiled,
            Progress(self.total, "training", start=state.images_seen, show=show) as bar,
        ):
            if self._validation_is_due():  # it was interrupted
                self._validate(bar)
            parts = self._batches()
            self.window = metric_log.MetricWindow()
            while not self.complete:
                taken = train_step(self, parts)
                profiled()
                self.window.add(taken.loss, taken.norm, step)
                bar.advance(step, f"loss {taken.loss:.5f}{self.words}")
                if is_due(state.images_seen, step, settings.log_every * step):
                    self._log(taken, bar)
                number = 0 if self.complete else stop.requested()
                due = self._is_validation_time()
                if due or number or is_due(state.images_seen, step, settings.checkpoint_every * step):
                    self._save()
                if due and not number:
                    self._validate(bar)
                if number:
                    self._settle()
                    bar.say(f"stopped after {state.images_seen} images; the same command with --run {self.run} goes on")
                    return 128 + number
            self._settle()
        return 0

    def _is_validation_time(self) -> bool:
        period = self.settings.validate_every * len(self.shards)
        return is_due(self.state.images_seen, self.settings.batch, period) or self.complete

    def _validation_is_due(self) -> bool:
        """Whether the checkpoint that is gone on from was to be validated, and was not."""
        if self.val_shards is None or not self.state.images_seen or not self._is_validation_time():
            return False
        known = on_main_process(self.accelerator, lambda: checkpoint.read_validation(self.checkpoints))
        return known is None or known.images_seen < self.state.images_seen

    def _batches(self) -> Iterator[Batch]:
        places = micro_batches(
            self.order,
            self.state.images_seen,
            self.settings.batch,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            accumulation=self.settings.accumulation,
        )
        size = self.settings.batch // (self.accelerator.num_processes * self.settings.accumulation)
        return load_batches(
            self.shards,
            places,
            self.settings.data,
            dali_device(self.accelerator),
            batch=max(1, size),
            seed=self.settings.seed,
            embeddings=self._cached(self.shards, "train"),
        )

    def next_batch(self, parts: Iterator[Batch]) -> Batch:
        """The next micro-batch; the time spent waiting for it is counted."""
        with self.window.during("data"):
            batch = next(parts)
        if self.samples is not None:
            self.samples.add(self.state.images_seen, batch)
        return batch

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """The network's output, from a batch's lightness and its embedding, cached or computed now."""
        lightness = batch.lightness.contiguous(memory_format=torch.channels_last)
        with self.accelerator.autocast():
            embedding = self.extractor(lightness) if self.extractor is not None else batch.embedding
            return model(lightness, embedding)

    def may_step(self, loss: float, norm: float) -> bool:
        """Whether the gradient is finite; one that is not is left out, and its samples are written down.

        The gradient is the same in all processes, and so is the answer. What overflows in fp16 is the loss scaler's
        to mend, until it has nothing left to scale down.

        Raises:
            UserError: it is not, and the settings say to stop.
        """
        scaler = self.accelerator.scaler
        if math.isfinite(norm) or (scaler is not None and math.isfinite(loss) and scaler.get_scale() >= 1):
            return True
        seen = self.state.images_seen
        path = self.run / f"not-finite-{seen:012d}.json"
        on_main_process(self.accelerator, lambda: self._write_samples(path, loss, norm))
        what = f"the gradient after {seen} images is not finite (loss {loss}); its samples are in {path}"
        if self.settings.on_nan == "skip":
            self.say(f"warning: {what}; the step is left out")
            return False
        self._save()
        self._settle()
        raise UserError(
            f"{what}; go on with --on-nan skip, --clip-norm 1, a lower --learning-rate or another --mixed-precision"
        )

    def _write_samples(self, path: Path, loss: float, norm: float) -> None:
        """Write down which samples the batch that comes next holds."""
        samples = self.order.positions(self.state.images_seen, self.settings.batch).samples
        described = [{"sample": int(n), **asdict(self.shards.describe(int(n)))} for n in samples]
        found = {"images_seen": self.state.images_seen, "loss": str(loss), "gradient_norm": str(norm)}
        write_atomic(path, json.dumps({**found, "samples": described}, indent=1).encode())

    # ------------------------------------------------------------ what is written

    def _log(self, taken: Step, bar: Progress) -> None:
        """Loss, learning rate, speed, times, colours and pictures of the training set."""
        window, self.window = self.window, metric_log.MetricWindow()
        shares = window.shares()
        mine = [window.loss(), *shares.values(), float(self.saver.failed())]
        loss, *means, failed = (self._sum(torch.tensor(mine, dtype=torch.float64)) / self._devices).tolist()
        if failed:
            self._settle()
        if not self.accelerator.is_main_process:
            return
        settings, device = self.settings, self.accelerator.device
        peak = settings.peak_tflops or metric_log.peak_tflops(device, settings.mixed_precision)
        before = self.state.images_seen - settings.batch
        predicted = self.network.to_ab(taken.output)
        colors = metric_log.color_statistics(taken.batch, predicted)
        entry = {
            "train/loss": loss,
            "train/learning_rate": learning_rate(before, self.total, settings),
            "train/gradient_norm": window.norm(),
            **{f"train/{name}": value for name, value in colors.items()},
            **metric_log.speed(window.images, window.seconds(), self._devices, self.flops_per_image, peak),
            **dict(zip(shares, means, strict=True)),
        }
        if device.type == "cuda":
            entry["memory/gpu_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        for warning in self.watch.warnings(self.state.images_seen, colors):
            bar.say(warning)
        self.words = f", {metric_log.format_entry(entry)}"
        self.log.add(self.state.images_seen, entry)
        self._show("train/pictures", taken.batch, predicted)

    def _show(self, name: str, batch: Batch, predicted: Tensor) -> None:
        count = self.settings.pictures
        if count and self.accelerator.is_main_process:
            columns = contact_sheet.triptychs(batch.lightness[:count], predicted[:count], batch.ab[:count])
            self.log.show(self.state.images_seen, name, contact_sheet.grid(columns))

    def _validate(self, bar: Progress) -> None:
        """The loss over the whole validation set, and pictures of it; the best checkpoint is remembered."""
        if self.val_shards is None:
            return
        with self.window.during("validating"):
            seen, loss = self.state.images_seen, self._validation_loss(self.val_shards)
        bar.say(f"validation loss {loss:.5f} after {seen} images")
        self._settle()
        if not self.accelerator.is_main_process:
            return
        self.log.add(seen, {"val/loss": loss})
        before = checkpoint.read_validation(self.checkpoints)
        if before is None or loss < before.best_loss:
            best = checkpoint.ValidationRecord(seen, best_images_seen=seen, best_loss=loss)
        else:
            best = replace(before, images_seen=seen)
        checkpoint.save_validation(self.checkpoints, best)

    @torch.no_grad()
    def _validation_loss(self, shards: Shards) -> float:
        """Mean of the objective over all validation images, each once, on any number of processes."""
        data, device = for_evaluation(self.settings.data), dali_device(self.accelerator)
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        size = min(self.settings.batch, _VALIDATION_BATCH)
        places = sequential_batches(len(shards), size, rank=rank, world_size=world_size)
        model = self.state.model.eval()
        total = torch.zeros(2, dtype=torch.float64)
        kept = self._cached(shards, "val")
        for index, batch in enumerate(load_batches(shards, places, data, device, batch=size, embeddings=kept)):
            output = self.predict(model, batch)
            loss = self.objective(model, output, batch.lightness, batch.ab)
            total += torch.tensor([loss.item() * len(batch.ab), len(batch.ab)], dtype=torch.float64)
            if index == 0:
                self._show("val/pictures", batch, self.network.to_ab(output))
        model.train()
        summed, count = self._sum(total)
        return float(summed / count)

    def _save(self) -> None:
        """Begin to write a checkpoint; the first process does, the others wait until it has its copy."""
        with self.window.during("saving"):
            on_main_process(self.accelerator, lambda: self.saver.save(self._snapshot()))

    def _snapshot(self) -> checkpoint.Snapshot:
        return checkpoint.Snapshot(
            images_seen=self.state.images_seen,
            settings=_lasting(self.settings),
            weights=self.state.model.state_dict(),
            embedding_size=self.embedding_size,
            extractor_sha256=self.extractor_sha256,
            training=self.state.state_dict(self.accelerator.scaler),
            state={"data": self._data_fingerprint, "prior": self.prior_sha256, "judge": self.judge_sha256},
        )

    def _settle(self) -> None:
        """Wait until the newest checkpoint is on the disk; in all processes, an error if it is not."""
        with self.window.during("saving"):
            on_main_process(self.accelerator, self.saver.wait)

    @contextlib.contextmanager
    def _profiling(self) -> Iterator[Callable[[], None]]:
        """What to call after each step, so that some of them are traced in the first process."""
        if not self.settings.profile or not self.accelerator.is_main_process:
            yield lambda: None
            return
        folder = self.run / "profile"
        with torch.profiler.profile(
            schedule=torch.profiler.schedule(wait=2, warmup=2, active=self.settings.profile, repeat=1),
            on_trace_ready=torch.profiler.tensorboard_trace_handler(str(folder)),
        ) as profiler:
            yield profiler.step

    @property
    def _devices(self) -> int:
        return self.accelerator.num_processes

    def _sum(self, values: Tensor) -> Tensor:
        """Sum over the processes."""
        return self.accelerator.reduce(values.to(self.accelerator.device), "sum").cpu()


class _SampleLog:
    """Numbers of the samples that a process trained on: a line for each micro-batch in RUN/samples/RANK.jsonl."""

    def __init__(self, run: Path, accelerator: Accelerator) -> None:
        (run / "samples").mkdir(exist_ok=True)
        self._rank, self._world_size = accelerator.process_index, accelerator.num_processes
        self._file = (run / "samples" / f"{self._rank}.jsonl").open("a", encoding="utf-8", buffering=1)

    def add(self, images_seen: int, batch: Batch) -> None:
        """Write a line, at the clock before the step."""
        line = {"images_seen": images_seen, "rank": self._rank, "world_size": self._world_size}
        self._file.write(json.dumps({**line, "samples": batch.samples.tolist()}) + "\n")

    def close(self) -> None:
        """End the file."""
        self._file.close()


def _lasting(settings: TrainSettings) -> TrainSettings:
    """The settings that belong to the run, without those of one start of it."""
    return replace(settings, run=None, resume=False, dry_run=False, profile=0)


def _choose_folder(settings: TrainSettings) -> Path:
    """The run's folder: named, the newest with --resume, or a new one by date.

    Raises:
        UserError: --resume finds nothing.
    """
    if settings.run is not None:
        settings.run.mkdir(parents=True, exist_ok=True)
        return settings.run
    if settings.resume:
        runs = sorted(path for path in RUNS.glob("*") if (path / "config.toml").exists())
        if not runs:
            raise UserError(f"{RUNS} holds no run to resume; leave out --resume")
        return runs[-1]
    date = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for name in (date, *(f"{date}_{number}" for number in range(2, 100))):
        with contextlib.suppress(FileExistsError):
            (RUNS / name).mkdir(parents=True)
            return RUNS / name
    raise UserError(f"{RUNS} holds a hundred runs of this second; name one with --run")


def _setting(settings: Any, name: str) -> Any:
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings

"""Training of the fusion network: one clock, `images_seen`, from which everything else follows.

The learning rate, "is it time", the names of checkpoints, TensorBoard's axis and the place in the data are
functions of the images seen over all processes. What is saved is the weights, the optimizer and that number.
"""

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from koala import audit, checkpoint, config, embeddings, extractor, pictures
from koala.distributed import Stop, accelerated, dali_device, main_first, on_main
from koala.errors import UserError
from koala.model import Network
from koala.objectives import OBJECTIVES
from koala.order import Order, every_sample_once, micro_batches
from koala.pipeline import Batch, batches
from koala.progress import Progress
from koala.shards import Shards, read_manifest

RUNS = Path("log/koala")
_VALIDATION_BATCH = 50  # images at a time, in each process, at the most
_MUST_STAY = (  # in a run that is gone on with
    *("seed", "objective", "data.geometry", "data.size", "data.lightness", "data.where", "data.mirror"),
    *("extractor.name", "extractor.features", "extractor.batch_statistics"),
)


@dataclass
class TrainState:
    """All that changes while training, and all that a checkpoint keeps.

    Attributes:
        network: the trained weights.
        optimizer: its state.
        images_seen: the clock, over all processes.
    """

    network: Network
    optimizer: torch.optim.Optimizer
    images_seen: int = 0


def learning_rate(images_seen: int, total: int, settings: config.Train) -> float:
    """The learning rate after so many images: a linear warm-up, then constant or half a cosine to zero."""
    if images_seen < settings.warmup:
        return settings.learning_rate * images_seen / settings.warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (images_seen - settings.warmup) / max(1, total - settings.warmup)
    return settings.learning_rate * (1 + math.cos(math.pi * min(1.0, done))) / 2


def adam(network: Network, rate: float) -> torch.optim.Optimizer:
    """The report's optimizer, all its arithmetic in one pass over the weights."""
    return torch.optim.Adam(network.parameters(), lr=rate, fused=True)


def is_time(images_seen: int, step: int, period: int) -> bool:
    """Whether a multiple of `period` images was passed in the last `step` images; never for a period of 0."""
    return period > 0 and images_seen // period != (images_seen - step) // period


def train_step(trainer: "Trainer", parts: Iterator[Batch]) -> tuple[Tensor, Batch, Tensor]:
    """One step: predict, compare, update.

    Args:
        trainer: what is trained.
        parts: this process's micro-batches.

    Returns:
        The mean loss over this process's part, the last micro-batch and its predicted ab.
    """
    settings, state = trainer.settings, trainer.state
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.images_seen, trainer.total, settings)
    losses = []
    for piece in range(settings.accumulation):
        batch = trainer.next_batch(parts)
        last = piece == settings.accumulation - 1
        with contextlib.nullcontext() if last else trainer.accelerator.no_sync(trainer.model):
            predicted = trainer.predict(trainer.model, batch)
            loss = OBJECTIVES[settings.objective](predicted, batch.ab) / settings.accumulation
            trainer.accelerator.backward(loss)
        losses.append(loss.detach())
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    state.images_seen += settings.batch
    return torch.stack(losses).sum(), batch, predicted.detach()


def train(settings: config.Train) -> int:
    """Train until the epochs are done, or until a signal asks to stop.

    Returns:
        0 when the training is complete, 128 + the signal's number when it was interrupted.

    Raises:
        UserError: the settings cannot be honoured.
    """
    with accelerated(settings, settings.processes) as accelerator:
        trainer = Trainer(settings, accelerator)
        with Stop(accelerator) as stop:
            return trainer.loop(stop)


class Trainer:
    """A run: what is trained, on what, and where it is written."""

    def __init__(self, settings: config.Train, accelerator: Accelerator) -> None:
        self.settings, self.accelerator = settings, accelerator
        self.shards = audit.open_selected(settings.data.shards, "train", settings.data.where)
        self.val_shards = self._open_validation()
        self.order = Order(self.shards.shard_sizes, settings.seed)
        self.total = math.ceil(settings.epochs * len(self.shards) / settings.batch) * settings.batch
        self.extractor: extractor.Extractor | None = None
        self.cache: embeddings.Cache | None = None
        self.embedding_size, self.extractor_sha256 = 0, ""
        self._see_the_whole()
        self.run = on_main(accelerator, lambda: _choose_folder(settings))
        self.checkpoints = self.run / "checkpoints"
        self.state, saved = self._start()
        prepared = accelerator.prepare(self.state.network, self.state.optimizer)
        self.model: nn.Module = prepared[0]
        self.optimizer: Any = prepared[1]
        if accelerator.scaler is not None and saved.get("scaler"):
            accelerator.scaler.load_state_dict(saved["scaler"])
        self.waited_s = 0.0
        self.board: Any = None

    # ------------------------------------------------------------ beginning

    def _see_the_whole(self) -> None:
        """Find the cached embeddings, or build the extractor that computes them in each step."""
        settings, accelerator = self.settings, self.accelerator
        if settings.extractor.cache:
            self.cache = on_main(accelerator, lambda: embeddings.find(settings))
            self.embedding_size, self.extractor_sha256 = self.cache.key.embedding_size, self.cache.key.extractor_sha256
            return
        # the first process fetches the extractor's weights, the others find them
        built = main_first(accelerator, lambda: extractor.build(settings.extractor, settings.seed))
        if built is not None:
            self.embedding_size, self.extractor_sha256 = built.embedding_size, extractor.fingerprint(built)
            self.extractor = built.in_place(accelerator.device, settings.mixed_precision)

    def _cached(self, shards: Shards, split: config.SplitName) -> embeddings.Embeddings | None:
        """Where the batches of a split find their embeddings."""
        if self.cache is None:
            return None
        return embeddings.Embeddings(self.cache, read_manifest(self.settings.data.shards).splits[split], shards)

    def _start(self) -> tuple[TrainState, dict[str, Any]]:
        """A new state, or that of the newest checkpoint with what else it holds."""
        torch.manual_seed(self.settings.seed)
        network = Network(self.embedding_size)
        # one process looks, so that all go on from the same checkpoint whatever their file systems show them
        found = on_main(self.accelerator, lambda: checkpoint.newest(self.checkpoints))
        if found is not None:
            self._check_same(found)
            network.load_state_dict(found.network().state_dict())
        network = network.to(self.accelerator.device).to(memory_format=torch.channels_last)
        optimizer = adam(network, self.settings.learning_rate)
        if found is None:
            return TrainState(network, optimizer), {}
        saved = found.training()
        optimizer.load_state_dict(saved["optimizer"])
        return TrainState(network, optimizer, found.images_seen), saved

    def _check_same(self, found: checkpoint.Checkpoint) -> None:
        """Refuse to go on with what would make another run of it."""
        for name in _MUST_STAY:
            was, now = (_setting(settings, name) for settings in (found.settings, self.settings))
            if was != now:
                raise UserError(f"{self.run} was begun with {name} = {was}, not {now}; name another --run for that")
        if found.state["data"] != self._data_fingerprint():
            raise UserError(
                f"{self.run} was begun on other shards than {self.settings.data.shards}; name another --run"
            )
        if found.extractor_sha256 != self.extractor_sha256:
            raise UserError(f"{self.run} was begun with other weights of the extractor; name another --run for these")

    def _data_fingerprint(self) -> list[str]:
        shards = [entry.sha256 for entry in read_manifest(self.settings.data.shards).splits["train"]]
        return [*shards, self.shards.selection] if self.settings.data.where else shards

    def _open_validation(self) -> Shards | None:
        data = self.settings.data
        if not read_manifest(data.shards).samples("val"):
            return None
        return audit.open_selected(data.shards, "val", data.where)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """The first process writes down the settings, and opens TensorBoard's file for as long as the run goes."""
        if not self.accelerator.is_main_process:
            yield
            return
        from torch.utils.tensorboard.writer import SummaryWriter

        config.save(replace(self.settings, run=None, resume=False), self.run / "config.toml")
        # entries after the checkpoint, which will be made again, are taken out of sight
        with SummaryWriter(str(self.run), purge_step=self.state.images_seen + 1) as self.board:
            yield

    @property
    def complete(self) -> bool:
        """Whether all images were seen."""
        return self.state.images_seen >= self.total

    def say(self, line: str) -> None:
        """Say a line once, whatever the number of processes."""
        if self.accelerator.is_main_process:
            print(line, file=sys.stderr, flush=True)

    # ------------------------------------------------------------ the loop

    def loop(self, stop: "Stop") -> int:
        """Take steps, and between them log, save and validate when it is time."""
        settings, state, step = self.settings, self.state, self.settings.batch
        if self.complete and not self._validation_is_due():
            self.say(f"{self.run} is complete: {state.images_seen} images seen")
            return 0
        self.say(f"{self.run}: going on after {state.images_seen} images" if state.images_seen else f"run {self.run}")
        show = self.accelerator.is_main_process
        with self._writing(), Progress(self.total, "training", start=state.images_seen, show=show) as bar:
            if self._validation_is_due():  # it was interrupted
                self._validate(bar)
            parts = self._batches()
            window = LogWindow()
            while not self.complete:
                loss, batch, predicted = train_step(self, parts)
                window.add(loss, step)
                bar.advance(step, window.note())
                if is_time(state.images_seen, step, settings.log_every * step):
                    self._log(window, batch, predicted)
                    window = LogWindow()
                number = 0 if self.complete else stop.requested()
                due = self._is_validation_time()
                with window.paused():
                    if due or number or is_time(state.images_seen, step, settings.checkpoint_every * step):
                        self._save()
                    if due and not number:
                        self._validate(bar)
                if number:
                    bar.say(f"stopped after {state.images_seen} images; the same command with --run {self.run} goes on")
                    return 128 + number
        return 0

    def _is_validation_time(self) -> bool:
        period = self.settings.validate_every * len(self.shards)
        return is_time(self.state.images_seen, self.settings.batch, period) or self.complete

    def _validation_is_due(self) -> bool:
        """Whether the checkpoint that is gone on from was to be validated, and was not."""
        if self.val_shards is None or not self.state.images_seen or not self._is_validation_time():
            return False
        known = on_main(self.accelerator, lambda: checkpoint.read_validation(self.checkpoints))
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
        return batches(
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
        began = time.perf_counter()
        batch = next(parts)
        self.waited_s += time.perf_counter() - began
        return batch

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """`(B, 2, H, W)` ab, from a batch's lightness and its embedding, cached or computed now."""
        lightness = batch.lightness.contiguous(memory_format=torch.channels_last)
        with self.accelerator.autocast():
            embedding = self.extractor(lightness) if self.extractor is not None else batch.embedding
            return model(lightness, embedding)

    # ------------------------------------------------------------ what is written

    def _log(self, window: "LogWindow", batch: Batch, predicted: Tensor) -> None:
        """Loss, learning rate, speed, waiting and pictures of the training set, to TensorBoard."""
        loss = self._mean(window.loss())
        seen, waited, self.waited_s = self.state.images_seen, self.waited_s, 0.0
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} after {seen} images; choose a lower --learning-rate, or another --mixed-precision"
            )
        if self.board is None:
            return
        self.board.add_scalar("train/loss", loss, seen)
        self.board.add_scalar(
            "train/learning_rate", learning_rate(seen - self.settings.batch, self.total, self.settings), seen
        )
        self.board.add_scalar("speed/images_per_second", window.images / window.seconds(), seen)
        self.board.add_scalar("speed/waiting_for_data", waited / window.seconds(), seen)
        self._show("train/pictures", batch, predicted)

    def _show(self, name: str, batch: Batch, predicted: Tensor) -> None:
        count = self.settings.pictures
        if count and self.board is not None:
            columns = pictures.triptychs(batch.lightness[:count], predicted[:count], batch.ab[:count])
            self.board.add_image(name, pictures.grid(columns), self.state.images_seen, dataformats="HWC")

    def _validate(self, bar: Progress) -> None:
        """The loss over the whole validation set, and pictures of it; the best checkpoint is remembered."""
        if self.val_shards is None:
            return
        seen, loss = self.state.images_seen, self._validation_loss(self.val_shards)
        bar.say(f"validation loss {loss:.5f} after {seen} images")
        if self.board is None:
            return
        self.board.add_scalar("val/loss", loss, seen)
        self.board.flush()
        before = checkpoint.read_validation(self.checkpoints)
        if before is None or loss < before.best_loss:
            best = checkpoint.Validation(seen, best_images_seen=seen, best_loss=loss)
        else:
            best = replace(before, images_seen=seen)
        checkpoint.save_validation(self.checkpoints, best)

    @torch.no_grad()
    def _validation_loss(self, shards: Shards) -> float:
        """Mean of the objective over all validation images, each once, on any number of processes."""
        data, device = config.for_evaluation(self.settings.data), dali_device(self.accelerator)
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        size = min(self.settings.batch, _VALIDATION_BATCH)
        places = every_sample_once(len(shards), size, rank=rank, world_size=world_size)
        network = self.state.network.eval()
        total = torch.zeros(2, dtype=torch.float64)
        kept = self._cached(shards, "val")
        for index, batch in enumerate(batches(shards, places, data, device, batch=size, embeddings=kept)):
            predicted = self.predict(network, batch).float()
            loss = OBJECTIVES[self.settings.objective](predicted, batch.ab)
            total += torch.tensor([loss.item() * len(batch.ab), len(batch.ab)], dtype=torch.float64)
            if index == 0:
                self._show("val/pictures", batch, predicted)
        network.train()
        summed, count = self._sum(total)
        return float(summed / count)

    def _save(self) -> None:
        """Write a checkpoint; the first process does, the others wait."""
        scaler = self.accelerator.scaler

        def write() -> None:
            checkpoint.save(
                self.checkpoints,
                images_seen=self.state.images_seen,
                settings=self.settings,
                network=self.state.network,
                extractor_sha256=self.extractor_sha256,
                training={
                    "optimizer": self.state.optimizer.state_dict(),
                    "scaler": scaler.state_dict() if scaler is not None else None,
                },
                state={"data": self._data_fingerprint()},
                keep=self.settings.keep,
            )

        on_main(self.accelerator, write)

    def _mean(self, value: float) -> float:
        return float(self._sum(torch.tensor([value], dtype=torch.float64)) / self.accelerator.num_processes)

    def _sum(self, values: Tensor) -> Tensor:
        """Sum over the processes."""
        return self.accelerator.reduce(values.to(self.accelerator.device), "sum").cpu()


class LogWindow:
    """Losses and time since the last entry in the log."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._paused_s = 0.0
        self._losses: list[Tensor] = []
        self.images = 0
        self._note, self._noted = "", self._began

    def add(self, loss: Tensor, images: int) -> None:
        """Count a step; the loss stays on its device."""
        self._losses.append(loss)
        self.images += images

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is no training."""
        began = time.perf_counter()
        yield
        self._paused_s += time.perf_counter() - began

    def loss(self) -> float:
        """Mean loss of the window."""
        return float(torch.stack(self._losses).mean())

    def seconds(self) -> float:
        """Of training, since the window began."""
        return time.perf_counter() - self._began - self._paused_s

    def note(self) -> str:
        """The newest loss in words, looked at twice a second so that the device is rarely waited for."""
        if time.perf_counter() - self._noted > 0.5 or not self._note:
            self._note, self._noted = f"loss {float(self._losses[-1]):.5f}", time.perf_counter()
        return self._note


def _choose_folder(settings: config.Train) -> Path:
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

"""Validation while a network is trained: its loss over all validation images, and which checkpoint was the best."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from koala.config.data import for_evaluation
from koala.config.training import TrainSettings
from koala.core.distributed import dali_device, on_main_process
from koala.data.loader import Batch, load_batches
from koala.data.sampler import in_whole_batches, sequential_batches
from koala.data.shards import Shards
from koala.models import checkpoint
from koala.models.network import ColorNetwork
from koala.training.components import Components, Embedder


def predict(
    model: nn.Module, embedder: Embedder, batch: Batch, accelerator: Accelerator, hints: Tensor | None = None
) -> Tensor:
    """The network's output, from a batch's lightness, its embedding, cached or computed now, and hints."""
    lightness = batch.lightness.contiguous(memory_format=torch.channels_last)
    with accelerator.autocast():
        return model(lightness, embedder.embed(lightness, batch.embedding), hints)


class Validator:
    """Validates a run.

    Args:
        settings: of the training.
        components: what it is made of.
        accelerator: processes and device.
        checkpoints: the run's folder of checkpoints, which holds what is known of validations.
    """

    def __init__(
        self, settings: TrainSettings, components: Components, accelerator: Accelerator, checkpoints: Path
    ) -> None:
        self._data = for_evaluation(components.data.settings)
        pieces = accelerator.num_processes * settings.gradient_accumulation_steps
        self._batch = max(1, settings.batch_size // pieces)  # as in training: cudnn knows this shape
        self._components, self._accelerator, self._checkpoints = components, accelerator, checkpoints

    def is_due(self, images_seen: int) -> bool:
        """Whether the checkpoint of this clock was to be validated and was not, because the run was interrupted."""
        if self._components.data.val is None or not images_seen:
            return False
        known = on_main_process(self._accelerator, lambda: checkpoint.read_validation(self._checkpoints))
        return known is None or known.images_seen < images_seen

    @torch.no_grad()
    def loss(self, model: ColorNetwork, show: Callable[[Batch, Tensor], None]) -> float | None:
        """Mean of the objective over all validation images, each once, on any number of processes.

        Args:
            model: what is validated.
            show: takes the first batch and its predicted ab.

        Returns:
            None where there are no validation images.
        """
        val = self._components.data.val
        if val is None:
            return None
        model.eval()
        objective, embedder = self._components.loss.objective, self._components.embedder
        total = torch.zeros((), dtype=torch.float64, device=self._accelerator.device)
        for index, (batch, own) in enumerate(self._batches(val)):
            output = predict(model, embedder, batch, self._accelerator)[:own]
            total += objective(model, output, batch.lightness[:own], batch.ab[:own]) * own
            if index == 0:
                show(batch, model.to_ab(output))
        model.train()
        return float(self._accelerator.reduce(total, "sum")) / len(val)

    def _batches(self, val: Shards) -> Iterator[tuple[Batch, int]]:
        """Batches of one shape, and how many pictures of each count."""
        rank, world_size = self._accelerator.process_index, self._accelerator.num_processes
        mine = sequential_batches(len(val), self._batch, rank=rank, world_size=world_size)
        batches = list(in_whole_batches(mine))
        reader = self._components.embedder.reader(self._data.shards, "val", val)
        device, batch = dali_device(self._accelerator), self._batch
        places = (places for places, _ in batches)
        stream = load_batches(val, places, self._data, device, batch=batch, embeddings=reader)
        return zip(stream, (own for _, own in batches), strict=True)

    def remember(self, images_seen: int, loss: float) -> None:
        """Write down the validation, and whether its checkpoint is the best; the first process does."""
        if not self._accelerator.is_main_process:
            return
        before = checkpoint.read_validation(self._checkpoints)
        if before is None or loss < before.best_loss:
            best = checkpoint.ValidationRecord(images_seen, best_images_seen=images_seen, best_loss=loss)
        else:
            best = replace(before, images_seen=images_seen)
        checkpoint.save_validation(self._checkpoints, best)

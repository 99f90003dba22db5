"""`--gradient-accumulation-steps 0`: the fewest pieces of a batch with which a step fits the memory of the GPU.

The global batch and the order of the samples stay as they are, whatever is found.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from accelerate import Accelerator

from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.training.components import Components

_SPARE = 0.1  # of the GPU's memory, for decoding and what grows later


def with_fitting_pieces(settings: TrainSettings, components: Components, accelerator: Accelerator) -> TrainSettings:
    """The settings with the number of pieces, where they leave it open; on the CPU that is one.

    Raises:
        UserError: not even a single image fits, or the batch cannot be shared out.
    """
    if settings.gradient_accumulation_steps:
        return settings
    part, pieces = settings.batch_size // accelerator.num_processes, 1
    if accelerator.device.type == "cuda":
        mine = fewest_pieces(max(1, part), lambda images: _fits(images, settings, components, accelerator))
        pieces = int(accelerator.gather(torch.tensor([mine], device=accelerator.device)).max())
    return replace(settings, gradient_accumulation_steps=pieces)


def fewest_pieces(part: int, fits: Callable[[int], bool]) -> int:
    """The fewest pieces of one size in which a process's part of the batch fits.

    Args:
        part: images of a process in a step.
        fits: whether so many images at a time do.

    Raises:
        UserError: not even one does.
    """
    for pieces in range(1, part + 1):
        if part % pieces == 0 and fits(part // pieces):
            return pieces
    raise UserError("a single image does not fit the GPU's memory; choose a smaller --data.size, or free the GPU")


def _fits(images: int, settings: TrainSettings, components: Components, accelerator: Accelerator) -> bool:
    """Whether the GPU has room for forward and backward of so many images, and some to spare."""
    device = accelerator.device
    try:
        _try(images, settings, components, accelerator)
        free, total = torch.cuda.mem_get_info(device)
        return free >= _SPARE * total
    except torch.OutOfMemoryError:
        return False
    finally:
        components.network.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()


def _try(images: int, settings: TrainSettings, components: Components, accelerator: Accelerator) -> None:
    """Two micro-batches of noise, so that the second meets the gradients of the first."""
    device, size, embedder = accelerator.device, settings.data.size, components.embedder
    network = components.network.to(device).to(memory_format=torch.channels_last)
    lightness = torch.rand(images, 1, size, size, device=device).contiguous(memory_format=torch.channels_last)
    ab = torch.rand(images, 2, size, size, device=device)
    cached = torch.rand(images, embedder.size, device=device) if embedder.size else None
    for _ in range(2):
        with accelerator.autocast():
            output = network(lightness, embedder.embed(lightness, cached))
        components.loss.objective(network, output, lightness, ab).backward()

"""What a run folder holds, read for comparing."""

from pathlib import Path

import torch
from safetensors.torch import load_file


def weights(run: Path, images_seen: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"{images_seen:012d}" / "model.safetensors")


def same_weights(first: dict, second: dict) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def scalars(run: Path, name: str) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}

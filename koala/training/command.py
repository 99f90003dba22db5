"""`koala train`: a training, or with --dry-run what it will take."""

import os
from dataclasses import replace

from koala.config.training import TrainSettings
from koala.core.distributed import is_main_process, open_accelerator
from koala.training import trainer
from koala.training.benchmark import NOISE, steps_per_second, without_weights
from koala.training.dry_run import describe_training


def train_command(settings: TrainSettings) -> int:
    """Train, or say what a training will take; see `koala.training.trainer.train`."""
    if not settings.dry_run:
        return trainer.train(settings)
    if is_main_process():
        processes = settings.processes or int(os.environ.get("WORLD_SIZE", "1"))
        if settings.dry_run_seconds:
            settings = replace(settings, images_per_second=_measured(settings, processes))
        print(describe_training(settings, processes))
    return 0


def _measured(settings: TrainSettings, processes: int) -> float:
    """Images per second of so many processes, from the steps of one on noise, with its part of the batch."""
    part = max(1, settings.batch_size // processes)
    data = replace(settings.data, synthetic=NOISE)
    alone = without_weights(replace(settings, data=data, batch_size=part), settings.data.shards)
    with open_accelerator(settings.device, settings.mixed_precision, tf32=settings.tf32) as accelerator:
        return part * processes * steps_per_second(alone, accelerator, settings.dry_run_seconds)

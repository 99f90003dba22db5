"""What follows from the clock: the learning rate, and whether it is time. Pure functions of the images seen."""

import math

from koala.config.training import TrainSettings

REFERENCE_BATCH = 50  # the report's, to which the learning rate belongs where it is scaled


def peak_learning_rate(settings: TrainSettings) -> float:
    """The learning rate after the warm-up, scaled with the global batch as asked.

    References:
        linear: Goyal et al., arXiv:1706.02677; sqrt, the rule for Adam: Malladi et al., arXiv:2205.10287.
    """
    times = settings.batch_size / REFERENCE_BATCH
    scales = {"none": 1.0, "linear": times, "sqrt": math.sqrt(times)}
    return settings.learning_rate * scales[settings.learning_rate_scaling]


def learning_rate(images_seen: int, total: int, settings: TrainSettings) -> float:
    """The learning rate after so many images.

    A linear warm-up from zero, and then: constant; half a cosine that ends at zero after `total` images; or steps,
    each time `decay` times as high.
    """
    rate = peak_learning_rate(settings)
    if images_seen < settings.warmup_images:
        return rate * images_seen / settings.warmup_images
    after = images_seen - settings.warmup_images
    match settings.schedule:
        case "constant":
            return rate
        case "cosine":
            return rate * (1 + math.cos(math.pi * min(1.0, after / max(1, total - settings.warmup_images)))) / 2
        case "step":
            return rate * settings.decay_rate ** (after // settings.decay_every)


def ramp_up(images_seen: int, total: int) -> float:
    """What part of its weight a term has that joins the objective: it rises from none at first to all half-way."""
    return min(1.0, 2 * images_seen / total)


def total_images(epoch: int, epochs: float, batch: int) -> int:
    """Images that a training sees: so many epochs of so many images, in whole batches."""
    return math.ceil(epochs * epoch / batch) * batch


def is_due(images_seen: int, step: int, period: int) -> bool:
    """Whether a multiple of `period` images was passed in the last `step` images; never for a period of 0."""
    return period > 0 and images_seen // period != (images_seen - step) // period

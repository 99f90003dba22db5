"""The perceptual term forward and backward, its batch normalisation folded into the convolutions against not folded.

    python benchmarks/perceptual.py [--batch 4] [--size 128] [--rounds 20]

The networks have random weights, which cost the same. The last lines are the ratios of images per second.
"""

import argparse
from collections.abc import Callable
from unittest import mock

import torch
from side_by_side import measure, ratio, report

from koala.config.models import ObjectiveSettings
from koala.models.extractor import Extractor
from koala.models.perceptual import PerceptualLoss

NETWORKS = ("tf_efficientnet_lite0", "vgg16_bn")


def build(name: str, size: int, folded: bool) -> PerceptualLoss:
    """The term with a network, as koala builds it or without folding."""
    settings = ObjectiveSettings(perceptual=1.0, perceptual_network=name, perceptual_weights="random")
    if folded:
        return PerceptualLoss(settings, size)
    with mock.patch.object(Extractor, "fold", lambda extractor: extractor):
        return PerceptualLoss(settings, size)


def work(loss: PerceptualLoss, batch: int, size: int) -> Callable[[], int]:
    """A step's part that the term has in it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loss = loss.to(device)
    lightness, *ab = (torch.rand(batch, channels, size, size, device=device) / 2 - 0.25 for channels in (1, 2, 2))
    predicted, true = ab[0].requires_grad_(), ab[1]

    def step() -> int:
        predicted.grad = None
        loss(lightness, predicted, true).backward()
        float(predicted.grad.sum())  # waits for a GPU
        return batch

    return step


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    ways = {
        f"{name}, {word}": work(build(name, given.size, word == "folded"), given.batch, given.size)
        for name in NETWORKS
        for word in ("folded", "not folded")
    }
    rates = measure(ways, given.rounds)
    report(rates)
    for name in NETWORKS:
        print(f"{name}: {ratio(rates, f'{name}, folded', f'{name}, not folded'):.2f} times")


if __name__ == "__main__":
    main()

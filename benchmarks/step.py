"""One training step, extractor included: koala's against the report's, on this machine's CPU or GPU.

    python benchmarks/step.py [--batch 8] [--size 224] [--rounds 5]

The report's step keeps the frozen extractor in training mode, computes in fp32 and leaves the memory format at its
default. koala's keeps it in evaluation mode and computes in bf16 with channels last; "cached" finds the embeddings
ready. Inception-ResNet-v2 has random weights, which cost the same. The last lines are the ratios of images per second.
"""

import argparse
from collections.abc import Callable

import torch
from accelerate import Accelerator
from side_by_side import measure, ratio, report

from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.models import extractor
from koala.models.network import FusionNetwork
from koala.models.objectives import mse
from koala.training.train_state import TrainState

REPORT, KOALA, CACHED = "the report's", "koala", "koala, cached embeddings"


def reports_step(device: torch.device, lightness: torch.Tensor, ab: torch.Tensor) -> Callable[[], int]:
    """As the report trains."""
    settings = ExtractorSettings(weights="random", batch_statistics=True)
    frozen = extractor.build_extractor(settings).to(device, memory_format=torch.contiguous_format)
    network = ConcatenatingNetwork(1000).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def step() -> int:
        optimizer.zero_grad()
        mse(network(lightness, frozen(lightness)), ab).backward()
        optimizer.step()
        return finished(len(lightness), device)

    return step


class ConcatenatingNetwork(FusionNetwork):
    """The network whose fusion repeats the embedding at each place and concatenates, as the report has it."""

    def forward(self, lightness: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        x = self.encoder(lightness)
        repeated = embedding[:, :, None, None].expand(-1, -1, *x.shape[-2:])
        weight = self.fusion.mix.weight[:, :, None, None]
        fused = torch.nn.functional.conv2d(torch.cat([x, repeated], 1), weight, self.fusion.mix.bias)
        return self.decoder(fused.relu())


def koalas_step(device: torch.device, lightness: torch.Tensor, ab: torch.Tensor, cached: bool) -> Callable[[], int]:
    """As koala trains with --mixed-precision bf16."""
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16")
    frozen = extractor.build_extractor(ExtractorSettings(weights="random")).to(device).to_precision(torch.bfloat16)
    network = FusionNetwork(1000).to(device, memory_format=torch.channels_last)
    network, optimizer = accelerator.prepare(network, TrainState.new(network, TrainSettings()).optimizer)
    with accelerator.autocast():
        ready = frozen(lightness)

    def step() -> int:
        with accelerator.autocast():
            predicted = network(lightness, ready if cached else frozen(lightness))
            loss = mse(predicted, ab)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        return finished(len(lightness), device)

    return step


def finished(images: int, device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    lightness = torch.rand(arguments.batch, 1, arguments.size, arguments.size, device=device) * 2 - 1
    ab = torch.rand(arguments.batch, 2, arguments.size, arguments.size, device=device) - 0.5
    ways = {
        REPORT: reports_step(device, lightness, ab),
        KOALA: koalas_step(device, lightness, ab, cached=False),
        CACHED: koalas_step(device, lightness, ab, cached=True),
    }
    rates = measure(ways, arguments.rounds)
    print(
        f"one training step, batch {arguments.batch}, {arguments.size} x {arguments.size}, on the {device.type.upper()}"
    )
    report(rates)
    print(f"step ratio {ratio(rates, KOALA, REPORT):.2f}")
    print(f"step cached ratio {ratio(rates, CACHED, REPORT):.2f}")


if __name__ == "__main__":
    main()

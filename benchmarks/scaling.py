"""How training scales: measured on this machine's CPU, and on paper for 8, 64 and 512 GPUs.

    python benchmarks/scaling.py --shards DIR [--size 224] [--batch 16] [--steps 12] [--rounds 3]

Measured: one process of N threads against N processes of one thread, N being this machine's cores, each a whole
`koala train` in bf16 with its loader, extractor (EfficientNet-Lite0 in random weights) and, for several processes,
DDP over gloo. The figures are those of the runs' metrics.jsonl, without their first entry. The last line is the ratio.

On paper: what each step moves and needs. Nobody has measured koala on a GPU; every number of the table follows from
the assumptions printed above it, which can be changed by flags.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import ratio, report

from koala.config.models import ExtractorSettings
from koala.models import extractor
from koala.models.network import Network
from koala.training import estimate


def measure(arguments: argparse.Namespace) -> None:
    """Train in one and in several processes in turn, and print images per second."""
    cores = len(os.sched_getaffinity(0))
    ways = {f"1 process of {cores} threads": (1, cores), f"{cores} processes of 1 thread": (cores, 1)}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    waiting: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, (processes, threads) in ways.items():
            entries = train(arguments, processes, threads)
            rates[name].append(statistics.mean(entry["speed/images_per_second"] for entry in entries))
            waiting[name].append(statistics.mean(entry["time/data"] for entry in entries))
    report(rates)
    for name, shares in waiting.items():
        print(f"{name:40} waiting for data {100 * statistics.median(shares):.2f} % of the time")
    one, several = ways
    print(f"scaling ratio {ratio(rates, several, one):.2f}")


def train(arguments: argparse.Namespace, processes: int, threads: int) -> list[dict[str, float]]:
    """Entries of a training's metrics.jsonl, without the first."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = [sys.executable, "-m"]
        if processes > 1:
            yaml = Path(__file__).parents[1] / "launch/cpu.yaml"
            launch = ["accelerate.commands.launch", "--config_file", str(yaml), "--num_processes", str(processes), "-m"]
            launcher += launch
        words = [
            *("koala", "train", "--data.shards", str(arguments.shards), "--data.size", str(arguments.size)),
            *("--data.threads", str(threads), "--extractor.name", "tf_efficientnet_lite0"),
            *("--extractor.weights", "random", "--batch-size", str(arguments.batch), "--mixed-precision", "bf16"),
            *("--device", "cpu", "--log-every", str(arguments.steps // 4), "--log-pictures", "0", "--run", folder),
            *("--processes", str(processes), "--epochs", str(epochs(arguments))),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run([*launcher, *words], check=True, env=environment, capture_output=True)
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "time/data" in line][1:]


def epochs(arguments: argparse.Namespace) -> float:
    """So many steps, as a share of the training set."""
    samples = json.loads((arguments.shards / "manifest.json").read_text())["splits"]["train"]
    return arguments.steps * arguments.batch / sum(entry["samples"] for entry in samples)


def on_paper(arguments: argparse.Namespace) -> None:
    """Print what trainings of several sizes need."""
    network = Network(1000)
    frozen = extractor.build_extractor(ExtractorSettings(weights="random"))
    flops = estimate.flops_per_image(network, frozen, arguments.size)
    cached = estimate.flops_per_image(network, None, arguments.size)
    gradient = 4 * sum(weight.numel() for weight in network.parameters())
    print(
        f"""
On paper. Assumed: {arguments.tflops:.0f} TFLOP/s achieved by a GPU, {arguments.images_per_gpu} images a step on each,
{arguments.network_gbs:.0f} GB/s of all-reduce between GPUs, {arguments.decoded_per_gpu} images/s decoded by a GPU,
JPEGs of {arguments.image_kb} kB, {arguments.storage_gbs:.0f} GB/s from shared storage. Counted: {flops / 1e9:.1f}
GFLOP an image with Inception-ResNet-v2, {cached / 1e9:.1f} with cached embeddings; {gradient / 1e6:.1f} MB of
gradients, of which a ring of N GPUs moves 2 (N - 1) / N through each.
"""
    )
    header = (
        *("GPUs", "batch", "MB a step", "compute ms", "all-reduce ms", "images/s", "a GPU", "storage GB/s"),
        "bottleneck",
    )
    print("".join(f"{word:>14}" for word in ("embeddings", *header)))
    for which, work in (("live", flops), ("cached", cached)):
        for gpus in (8, 64, 512):
            moved = 2 * (gpus - 1) / gpus * gradient
            compute = arguments.images_per_gpu * work / (arguments.tflops * 1e12)
            reduce = moved / (arguments.network_gbs * 1e9)
            needs = {
                "compute": compute,
                "all-reduce": reduce,
                "decoding": arguments.images_per_gpu / arguments.decoded_per_gpu,
                "storage": gpus * arguments.images_per_gpu * arguments.image_kb * 1e3 / (arguments.storage_gbs * 1e9),
            }
            rate = gpus * arguments.images_per_gpu / max(needs.values())
            row = (
                *(which, gpus, gpus * arguments.images_per_gpu, f"{moved / 1e6:.1f}", f"{compute * 1e3:.1f}"),
                *(f"{reduce * 1e3:.1f}", f"{rate:,.0f}", f"{rate / gpus:,.0f}"),
                *(f"{rate * arguments.image_kb * 1e3 / 1e9:.2f}", max(needs, key=lambda name: needs[name])),
            )
            print("".join(f"{word!s:>14}" for word in row))


def main() -> None:
    """Read the flags, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, help="folder of shards; without it, only the table on paper")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tflops", type=float, default=100.0, help="a third of an A100's 312 in bf16")
    parser.add_argument("--images-per-gpu", type=int, default=64)
    parser.add_argument("--network-gbs", type=float, default=20.0, help="of a 200 Gbit/s link for each GPU")
    parser.add_argument("--decoded-per-gpu", type=int, default=2500, help="images/s")
    parser.add_argument("--image-kb", type=int, default=110, help="ImageNet's mean")
    parser.add_argument("--storage-gbs", type=float, default=20.0, help="of a parallel file system")
    arguments = parser.parse_args()
    if arguments.shards:
        measure(arguments)
    on_paper(arguments)


if __name__ == "__main__":
    main()

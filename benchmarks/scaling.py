"""How training scales: measured on this machine's CPU, and on paper for 1, 8, 64 and 512 H100.

    python benchmarks/scaling.py --shards DIR [--size 224] [--batch 16] [--steps 12] [--rounds 3] [--gpu gpu.json]

Measured: one process of N threads against N processes of one thread, N being this machine's cores, each a whole
`koala train` in bf16 with its loader, extractor (EfficientNet-Lite0 in random weights) and, for several processes,
DDP over gloo. The figures are those of the runs' metrics.jsonl, without their first entry. The last line is the ratio.

On paper: what a step moves and needs, and what limits. Nobody has measured koala on a GPU; every number of the table
follows from the assumptions printed above it, each with its source, which flags change. --gpu takes the speeds that
`make gpu` measured in place of assumed ones.

References:
    NVIDIA's own test of DALI's ResNet-50 pipeline on x86 Hopper passes at 19,000 images/s, with 70 threads and 0.12 of
    the JPEGs on the JPEG engine. timm's tables of inference give its inception_resnet_v2 at 299, in AMP and compiled,
    2,778 images/s on an RTX 4090 and 4,077 on a 5090.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from side_by_side import ratio, report

from koala.config.models import ExtractorSettings
from koala.models import extractor
from koala.models.network import FusionNetwork
from koala.training import estimate

_MACHINE = 8  # GPUs that NVLink joins
_DALI_IMAGES, _DALI_THREADS = 19_000, 70  # see References


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


@dataclass(frozen=True)
class Limits:
    """What one GPU and its machine can do.

    Attributes:
        compute: images/s of a GPU, of the arithmetic alone.
        decoding: images/s for a GPU.
        batch: images a step on each GPU.
        image_bytes: of a JPEG.
        storage: bytes/s of the shared file system.
        gradient: bytes.
        inside: bytes/s of all-reduce between the GPUs of a machine.
        between: bytes/s of all-reduce between machines, for each GPU.
    """

    compute: float
    decoding: float
    batch: int
    image_bytes: float
    storage: float
    gradient: int
    inside: float
    between: float

    def seconds(self, gpus: int) -> dict[str, float]:
        """What each thing takes for a step; they overlap, and the longest one limits."""
        moved = 2 * (gpus - 1) / gpus * self.gradient
        return {
            "compute": self.batch / self.compute,
            "all-reduce": moved / (self.inside if gpus <= _MACHINE else self.between),
            "decoding": self.batch / self.decoding,
            "storage": gpus * self.batch * self.image_bytes / self.storage,
        }


def on_paper(arguments: argparse.Namespace) -> None:
    """Print what trainings of several sizes need."""
    network, frozen = FusionNetwork(1000), extractor.build_extractor(ExtractorSettings(weights="random"))
    gradient = 4 * sum(weight.numel() for weight in network.parameters())
    work = {
        "live": estimate.flops_per_image(network, frozen, arguments.size),
        "cached": estimate.flops_per_image(network, None, arguments.size),
    }
    speeds = measured_speeds(arguments.gpu) if arguments.gpu else {}
    rates = {which: speeds.get(which, arguments.tflops * 1e12 / flops) for which, flops in work.items()}
    decoding = speeds.get("decoding", arguments.decoded_per_gpu)
    cores, mark = arguments.cores_per_gpu, _DALI_IMAGES / _DALI_THREADS
    flops = {which: f"{value / 1e9:.1f}" for which, value in work.items()}
    assumed = {
        "achieved by a GPU": f"{arguments.tflops:.0f} of 989 TFLOP/s",
        "arithmetic of an image": f"{flops['live']} GFLOP with Inception-ResNet-v2, {flops['cached']} cached",
        "so": f"{rates['live']:,.0f} images/s live, {rates['cached']:,.0f} cached",
        "decoded for a GPU": f"{decoding:,.0f} images/s; by DALI's mark {cores} cores alone do {mark * cores:,.0f}",
        "all-reduce": f"{gradient / 1e6:.1f} MB; {arguments.inside_gbs:.0f} GB/s in a machine of {_MACHINE}, "
        f"{arguments.network_gbs:.0f} between machines",
        "storage": f"{arguments.storage_gbs:.0f} GB/s, JPEGs of {arguments.image_kb} kB",
    }
    print(f"\nOn paper, for H100. Measured: {', '.join(speeds) or 'nothing'}; the rest is assumed or counted:\n")
    print(*(f"  {name:24} {text}" for name, text in assumed.items()), "", sep="\n")
    header = "embeddings", "GPUs", "batch", "compute ms", "all-reduce ms", "images/s", "a GPU", "storage GB/s", "limit"
    print("".join(f"{word:>14}" for word in header))
    for which, rate in rates.items():
        limits = Limits(
            rate,
            decoding,
            arguments.images_per_gpu,
            1e3 * arguments.image_kb,
            1e9 * arguments.storage_gbs,
            gradient,
            1e9 * arguments.inside_gbs,
            1e9 * arguments.network_gbs,
        )
        for gpus in (1, 8, 64, 512):
            print("".join(f"{word!s:>14}" for word in row(which, gpus, limits)))


def row(which: str, gpus: int, limits: Limits) -> tuple[object, ...]:
    """A line of the table."""
    needs = limits.seconds(gpus)
    images = gpus * limits.batch / max(needs.values())
    return (
        *(which, gpus, gpus * limits.batch, f"{1e3 * needs['compute']:.1f}", f"{1e3 * needs['all-reduce']:.2f}"),
        *(f"{images:,.0f}", f"{images / gpus:,.0f}", f"{images * limits.image_bytes / 1e9:.2f}"),
        max(needs, key=lambda name: needs[name]),
    )


def measured_speeds(path: Path) -> dict[str, float]:
    """The speeds in a gpu.json of `make gpu`."""
    parts = json.loads(path.read_text())["parts"].values()
    facts = {fact["name"]: fact["value"] for part in parts for fact in part.get("facts", [])}
    names = {"live": "live: speed", "cached": "cached: speed", "decoding": "decoding at best"}
    return {which: facts[name] for which, name in names.items() if name in facts}


def main() -> None:
    """Read the flags, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, help="folder of shards; without it, only the table on paper")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gpu", type=Path, help="gpu.json of make gpu, whose speeds take the place of assumed ones")
    parser.add_argument("--tflops", type=float, default=200.0, help="a fifth of an H100's 989 in bf16")
    parser.add_argument("--images-per-gpu", type=int, default=256)
    parser.add_argument("--inside-gbs", type=float, default=200.0, help="of NVLink, GB/s of all-reduce")
    parser.add_argument("--network-gbs", type=float, default=30.0, help="of a 400 Gbit/s link for each GPU")
    parser.add_argument("--cores-per-gpu", type=int, default=12)
    parser.add_argument("--decoded-per-gpu", type=int, default=8000, help="images/s that koala aims at")
    parser.add_argument("--image-kb", type=int, default=110, help="ImageNet's mean")
    parser.add_argument("--storage-gbs", type=float, default=20.0, help="of a parallel file system")
    arguments = parser.parse_args()
    if arguments.shards:
        measure(arguments)
    on_paper(arguments)


if __name__ == "__main__":
    main()

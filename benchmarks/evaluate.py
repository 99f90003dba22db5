"""Evaluation against the loading alone, on the CPU: what does scoring cost?

    python benchmarks/evaluate.py RUN SHARDS [--split val] [--threads 2] [--rounds 3]

"Loading" makes the same batches and does nothing with them. "Scoring" is koala evaluate in all its parts, from the
metrics to the page, but for the network, whose prediction is replaced by the truth's ab, halved; "with the network" is
koala evaluate. Neither has networks that judge, nor writes pictures. The last lines are ratios of times.
"""

import argparse
import io
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from side_by_side import measure, ratio, report

from koala.config.evaluation import EvaluateSettings
from koala.core import distributed
from koala.data.loader import load_batches
from koala.data.sampler import sequential_batches
from koala.evaluation.components import build_components
from koala.evaluation.evaluate import Evaluation, evaluate
from koala.evaluation.predictions import AssembledPrediction, Prediction

LOADING, SCORING, WHOLE = "loading", "loading and scoring", "with the network"


class Halved:
    """A colouriser that costs nothing."""

    def predictions(self, photos: Iterable[Any], samples: Any) -> Iterator[Prediction]:
        return (AssembledPrediction(batch, batch.ab / 2, "color") for batch in photos)

    def provenance(self) -> dict[str, Any]:
        return {"checkpoint": "none"}


def loading(settings: EvaluateSettings) -> int:
    with distributed.open_accelerator(settings.device, settings.mixed_precision) as accelerator:
        images = build_components(settings, accelerator).images
    shards = images.shards
    places = sequential_batches(len(shards), settings.batch_size, rank=0, world_size=1)
    return sum(
        len(batch.ab)
        for batch in load_batches(shards, places, images.data, "cpu", batch=settings.batch_size, with_rgb=True)
    )


def scoring(settings: EvaluateSettings) -> int:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the network would have them; for halving, starting them costs more than the work
    with distributed.open_accelerator(settings.device, settings.mixed_precision) as accelerator:
        components = replace(build_components(settings, accelerator), pictures=Halved())
        Evaluation(settings, components, accelerator).run()
    torch.set_num_threads(threads)
    return len(components.images.shards)


def whole(settings: EvaluateSettings) -> int:
    evaluate(settings)
    with distributed.open_accelerator(settings.device, settings.mixed_precision) as accelerator:
        return len(build_components(settings, accelerator).images.shards)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--network", action="store_true", help="measure koala evaluate with its network, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cpu_seconds: dict[str, list[float]] = {}
        outs = (Path(folder) / str(number) for number in count())

        def quietly(work: Callable[[EvaluateSettings], int]) -> Callable[[], int]:
            settings = {"split": arguments.split, "threads": arguments.threads, "batch_size": 32}
            settings |= {"features": "none", "pictures": 0}

            def run() -> int:
                began = time.process_time()
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    images = work(EvaluateSettings(arguments.run, arguments.shards, out=next(outs), **settings))
                cpu_seconds.setdefault(work.__name__, []).append(time.process_time() - began)
                return images

            return run

        ways = {LOADING: quietly(loading), SCORING: quietly(scoring)}
        if arguments.network:
            ways[WHOLE] = quietly(whole)
        rates = measure(ways, arguments.rounds)
    print(f"evaluation, {arguments.threads} threads, on the CPU")
    report(rates)
    for way in list(ways)[1:]:
        print(f"{way}: {ratio(rates, LOADING, way):.2f} times the loading alone")
    least = {name: min(seconds) for name, seconds in cpu_seconds.items()}
    print("CPU seconds at the least: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in least.items()))
    print(f"memory at the most: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()

"""Part 1: the machine, `koala doctor`, and the tests that need a GPU."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import torch

from benchmarks.gpu.bench import CHECKOUT, Bench, Fact, finish, koala
from koala.training import gpu_checks, machine_checks
from koala.training.metric_log import peak_tflops

_PACKAGES = ("torch", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "nvidia-nvimgcodec-cu12", "timm", "accelerate")


def environment(bench: Bench) -> Iterator[Fact]:
    """What is there, and how fast it multiplies."""
    yield Fact("processor cores", len(os.sched_getaffinity(0)))
    for name in _PACKAGES:
        try:
            yield Fact(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    if bench.device == "cuda":
        yield from _card(bench)
    yield from _doctor(bench)


def _card(bench: Bench) -> Iterator[Fact]:
    device = torch.device("cuda")
    yield Fact("GPU", torch.cuda.get_device_name(device))
    yield Fact("memory", round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1), "GiB")
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        yield Fact(
            "driver, clock, power", subprocess.run(query, check=False, capture_output=True, text=True).stdout.strip()
        )
    yield Fact("CUDA of the driver", "{}.{}".format(*(machine_checks.driver_cuda() or (0, 0))))
    engines = gpu_checks.jpeg_engines()
    yield Fact("JPEG engines", engines if engines is not None else "unknown: no libnvjpeg")
    tflops, peak = gpu_checks.matmul_tflops(device), peak_tflops(device, "bf16")
    yield bench.aim("matrix product in bf16", tflops, "TFLOP/s", gpu_checks.SLOW_SHARE * peak)


def _doctor(bench: Bench) -> Iterator[Fact]:
    scale = bench.scale
    words = ["doctor", "--data.shards", bench.resized, "--extractor.name", scale.extractor, "--device", bench.device]
    words += ["--extractor.weights", "random", "--mixed-precision", bench.precision, "--run", bench.work / "doctor"]
    page = finish(koala(*words, "--data.threads", str(scale.threads[0])), 0, 1)
    (bench.out / "doctor.txt").write_text(page)
    failed = len(re.findall(r"^\S.{14}failed ", page, re.MULTILINE))
    yield Fact("koala doctor", page.strip().splitlines()[-1], aim="nothing failed", good=not failed)


def tests(bench: Bench) -> Iterator[Fact]:
    """`pytest -m gpu`, in the files that have such tests; without a GPU they are skipped."""
    others = [
        path for path in sorted((CHECKOUT / "tests").rglob("test_*.py")) if "@pytest.mark.gpu" in path.read_text()
    ]
    files = [str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "tests/gpu", *others)]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "-ra",
        "-q",
        "-W",
        "default",
        *files,
    ]
    with (bench.out / "tests.txt").open("w") as log:
        code = subprocess.run(command, check=False, stdout=log, stderr=subprocess.STDOUT, cwd=CHECKOUT).returncode
    printed = (bench.out / "tests.txt").read_text()
    counts = re.findall(r"(\d+) (passed|failed|skipped|errors?)", printed.strip().splitlines()[-1])
    ran = bench.device == "cpu" or any(what == "passed" for _, what in counts)
    yield Fact("pytest -m gpu", ", ".join(map(" ".join, counts)), aim="all passed", good=code == 0 and ran)
    for name in re.findall(r"^(?:FAILED|ERROR) \S*?tests/(\S+)", printed, re.MULTILINE):
        yield Fact("failed", name)

"""Devices, and a training of a few steps on each."""

import os

import pytest
import torch

from koala.config.data import DataSettings
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings

# torch looks for it once, at its first matrix product, and refuses to be deterministic without it
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

needs_gpu = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def device(request) -> str:
    """The GPU, and the CPU as its stand-in."""
    return request.param


@pytest.fixture(params=[pytest.param("cuda", marks=needs_gpu)])
def gpu(request) -> str:
    """The GPU, for what has no stand-in."""
    return request.param


@pytest.fixture
def settings(shard_folder, tmp_path) -> TrainSettings:
    """Ten steps of 4 photos, decoded on the CPU, whose pixels are the same everywhere."""
    return TrainSettings(
        data=DataSettings(shard_folder, size=32, threads=2, decoder="cpu"),
        extractor=ExtractorSettings("none"),
        batch_size=4,
        epochs=1,
        log_every=1,
        log_pictures=0,
        learning_rate=1e-4,
        run=tmp_path / "run",
    )

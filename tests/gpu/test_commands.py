"""Commands on a GPU give what they give on the CPU."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from koala.config.data import DataSettings, EmbedShards, ViewSettings
from koala.config.evaluation import EvaluateSettings
from koala.config.inference import ExportSettings
from koala.config.models import ExtractorSettings
from koala.config.training import DoctorSettings
from koala.data.embed import embed_command
from koala.data.embedding_cache import CachedEmbeddings, find_cache
from koala.data.shards import Shards, read_manifest
from koala.evaluation.evaluate import evaluate
from koala.inference import export
from koala.models.pretrained import load_model
from koala.training import doctor, trainer
from tests.gpu.conftest import needs_gpu


def test_scores_are_the_cpus(run, shard_folder, tmp_path, gpu):
    scores = []
    for device in ("cpu", gpu):
        out = tmp_path / device
        assert evaluate(EvaluateSettings(run, shard_folder, out, features="none", device=device)) == 0
        scores.append(json.loads((out / "scores.json").read_text())["scores"])
    assert scores[1] == pytest.approx(scores[0], rel=0.01, abs=1e-3)


def test_embeddings_are_the_cpus(shard_folder, tmp_path, gpu):
    extractor = ExtractorSettings("tf_efficientnet_lite0", weights="random")
    data, samples, rows = DataSettings(geometry="crop", size=32), np.arange(20), []
    for device in ("cpu", gpu):
        folder = shutil.copytree(shard_folder, tmp_path / device)
        view = ViewSettings("crop", 32)
        assert embed_command(EmbedShards(folder, extractor, view, device=device, batch_size=8)) == 0
        cache = find_cache(replace(extractor, cache=True), replace(data, shards=folder))
        kept = CachedEmbeddings(cache, read_manifest(folder).splits["train"], Shards.open(folder, "train"))
        rows.append(kept.read(samples, samples % 2 == 1))
    assert np.abs(rows[0] - rows[1]).max() < 0.01 * np.abs(rows[0]).max()


def test_what_was_trained_there_is_exported_and_runs_there(settings, tmp_path, gpu):
    settings = replace(settings, device=gpu)
    trainer.train(settings)
    file = tmp_path / "model.pt2"
    assert export.export_command(ExportSettings(settings.run, program=file)) == 0
    lightness = torch.rand(1, 1, 32, 40)
    program = torch.export.load(file).module().to(gpu)
    expected = load_model(settings.run)(lightness)
    assert expected.abs().max() > 0
    with torch.no_grad():
        found = program(50 * (lightness.to(gpu) + 1)).cpu() / 127
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_the_doctor_finds_nothing_wrong(settings, gpu, capsys):
    given = {name: getattr(settings, name) for name in ("data", "extractor", "batch_size", "run")}
    assert doctor.doctor(DoctorSettings(**given, device=gpu, mixed_precision="bf16")) == 0
    assert "TFLOP/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("device", "backend"),
    [
        pytest.param("cpu", "gloo", marks=pytest.mark.slow),
        pytest.param("cuda", "nccl", marks=needs_gpu),
    ],
)
def test_one_process_of_several_speaks_to_the_others(device, backend):
    """Set-up, all-reduce, objects, barriers."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=1", "--master-port=29573"]
    command = [sys.executable, *launcher, "-m", "benchmarks.gpu.processes", device]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert f"{backend} and gloo" in done.stdout

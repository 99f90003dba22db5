"""What `koala doctor` finds, where all is well and where it is not."""

import json
import os
import resource
import shutil
import sys
import time
from collections import namedtuple
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from koala.config.data import DataSettings
from koala.config.load import load_toml
from koala.config.models import ExtractorSettings, NetworkSettings, ObjectiveSettings
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.core.templates import template_path
from koala.data import embedding_cache, shards
from koala.data.shards import Shards
from koala.models import checkpoint, extractor
from koala.training import doctor_checks, findings, machine_checks
from koala.training.process_store import ProcessStore
from tests.company import company

WEIGHTED = ObjectiveSettings("weighted-mse")
LITE = ExtractorSettings("tf_efficientnet_lite0", weights="random")
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def alone():
    return ProcessStore(host="n1")


@pytest.fixture
def settings(shard_folder, tmp_path) -> TrainSettings:
    data = DataSettings(shard_folder, size=16, threads=1)
    return TrainSettings(data=data, extractor=ExtractorSettings("none"), batch_size=4, run=tmp_path / "run")


def second(first_has, **sizes) -> ProcessStore:
    """A process on another node than the first one, which tells it `first_has`."""
    store = ProcessStore(host="n2", **sizes)
    store.nodes = 2
    store.broadcast = lambda name, work: first_has
    return store


# ---------------------------------------------------------------- the machine


def test_imports_and_versions_are_named(settings, alone):
    assert machine_checks.imports(settings, alone).text.startswith("torch, DALI, timm, accelerate in ")
    assert f"torch {torch.__version__}" in machine_checks.versions(settings, alone).text


def test_a_library_that_cannot_be_imported(settings, alone, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # as import has it for what is not there
    finding = machine_checks.imports(settings, alone)
    assert (finding.status, finding.remedy) == ("failed", "install koala anew")
    assert finding.text.startswith("timm cannot be imported")


def test_versions_that_differ(settings, alone):
    first_has = {
        "koala": machine_checks.__version__,
        "Python": "3.11.0",
        **{name: sys.modules[module].__version__ for name, module in machine_checks._MODULES.items()},
        "timm": "0.9",
    }
    finding = machine_checks.versions(settings, second(first_has))
    assert finding.status == "failed"
    assert "timm" in finding.text
    assert "not 0.9" in finding.text
    assert "torch" not in finding.text


@pytest.mark.parametrize(
    ("found", "device", "cuda", "status", "text"),
    [
        (None, "auto", "13.0", "ok", "none, which is all that a CPU needs; torch for CUDA 13 and DALI for CUDA 12"),
        (None, "cuda", "13.0", "failed", "no NVIDIA driver"),
        ((13, 1), "auto", "13.0", "ok", "the driver is for CUDA 13.1"),
        ((12, 4), "auto", "13.0", "failed", "the driver is for CUDA 12.4, torch for CUDA 13 and DALI for CUDA 12"),
        ((12, 4), "cuda", "12.8", "ok", "the driver is for CUDA 12.4"),  # NVIDIA's minor version compatibility
        ((11, 8), "auto", "11.8", "failed", "DALI for CUDA 12"),
        ((12, 4), "cpu", "13.0", "ok", "the driver is for CUDA 12.4"),
        ((12, 4), "auto", None, "failed", "torch without CUDA"),
    ],
)
def test_the_driver_against_what_torch_and_dali_are_built_for(
    settings, alone, monkeypatch, found, device, cuda, status, text
):
    from nvidia import dali

    monkeypatch.setattr(machine_checks, "driver_cuda", lambda: found)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(dali, "__cuda_version__", 12986)  # 12.9.86: 1000 x major + 10 x minor + patch
    finding = machine_checks.driver(replace(settings, device=device), alone)
    assert finding.status == status
    assert text in finding.text
    assert bool(finding.remedy) == (status == "failed")


@pytest.mark.parametrize(("version", "expected"), [(12040, (12, 4)), (13000, (13, 0))])
def test_the_drivers_own_word(monkeypatch, version, expected):
    """cuDriverGetVersion gives 1000 x major + 10 x minor (CUDA driver API)."""

    def tell(pointer):
        pointer._obj.value = version
        return 0

    monkeypatch.setattr(machine_checks.ctypes, "CDLL", lambda _: SimpleNamespace(cuDriverGetVersion=tell))
    assert machine_checks.driver_cuda() == expected


def with_gpus(monkeypatch, number, free=78e9):
    """A machine with GPUs, the last of which has `free` of its 80 GB free."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="H100"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free if index == number - 1 else 79e9, 80e9))


@pytest.mark.parametrize(
    ("number", "free", "device", "processes", "status", "text"),
    [
        (8, 78e9, "auto", 8, "ok", "8 x H100, 80 GB each"),
        (0, 78e9, "auto", 1, "warning", "none: training on the CPU is slow"),
        (0, 78e9, "cpu", 1, "warning", "none: training on the CPU is slow"),
        (0, 78e9, "cuda", 1, "failed", "none that torch can use"),
        (8, 78e9, "cpu", 1, "warning", "which --device cpu leaves idle"),
        (4, 78e9, "auto", 8, "failed", "4 x H100, 80 GB each, for 8 processes"),
        (8, 78e9, "auto", 1, "warning", "8 x H100, 80 GB each, for 1 process"),
        (2, 30e9, "auto", 2, "warning", "GPU 1 in use: 30 GB free"),
    ],
)
def test_gpus(settings, monkeypatch, number, free, device, processes, status, text):
    with_gpus(monkeypatch, number, free)
    finding = machine_checks.gpus(replace(settings, device=device), ProcessStore(host="n1", local_size=processes))
    assert finding.status == status
    assert text in finding.text
    assert bool(finding.remedy) == (status != "ok")


@pytest.mark.parametrize(
    ("precision", "hardware", "status", "text"),
    [
        ("no", False, "ok", "fp32 on the CPU"),
        ("bf16", True, "ok", "bf16 on the CPU"),
        ("bf16", False, "warning", "only imitates it"),
    ],
)
def test_precision(settings, alone, monkeypatch, precision, hardware, status, text):
    monkeypatch.setattr("koala.core.devices.supports_bf16", lambda cpu: hardware)
    finding = machine_checks.precision(replace(settings, mixed_precision=precision, device="cpu"), alone)
    assert finding.status == status
    assert text in finding.text


def test_fp16_on_the_cpu_is_refused_as_in_training(settings, alone):
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        machine_checks.precision(replace(settings, mixed_precision="fp16", device="cpu"), alone)


@pytest.mark.parametrize(("threads", "processes", "status"), [(4, 1, "ok"), (2, 2, "ok"), (4, 2, "warning")])
def test_processors(settings, monkeypatch, threads, processes, status):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    settings = replace(settings, data=replace(settings.data, threads=threads))
    finding = machine_checks.processors(settings, ProcessStore(host="n1", local_size=processes))
    assert finding.status == status
    assert ("choose --data.threads 2" in finding.remedy) == (status == "warning")


@pytest.mark.parametrize(
    ("limit", "processes", "status"),
    [(1024, 8, "ok"), (256, 1, "warning"), (1024, 512, "warning"), (resource.RLIM_INFINITY, 512, "ok")],
)
def test_open_files(settings, monkeypatch, limit, processes, status):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    store = ProcessStore(host="n1")
    store.size = processes
    finding = machine_checks.open_files(settings, store)
    assert finding.status == status
    assert ("ulimit -n" in finding.remedy) == (status == "warning")


def test_shared_memory(settings, alone, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64e6, 0, 64e6))  # Docker's default
    finding = machine_checks.shared_memory(settings, alone)
    assert (finding.status, finding.text) == ("warning", "64 MB of 64 MB free in /dev/shm")
    assert "--shm-size" in finding.remedy
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(25e9, 0, 25e9))
    assert machine_checks.shared_memory(settings, alone).status == "ok"


def test_no_shared_memory(settings, alone, monkeypatch):
    def absent(_):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(shutil, "disk_usage", absent)
    assert machine_checks.shared_memory(settings, alone).text == "/dev/shm: No such file or directory"


@pytest.mark.parametrize(
    ("ahead_s", "status", "text"),
    [
        (0.25, "ok", "within 0.25 s of"),
        (3.5, "warning", "3.50 s ahead of"),
        (-7.25, "warning", "behind the first node's"),
    ],
)
def test_clock(settings, monkeypatch, ahead_s, status, text):
    monkeypatch.setattr(time, "time", lambda: 1e9 + ahead_s)
    finding = machine_checks.clock(settings, second(1e9))
    assert finding.status == status
    assert text in finding.text


def test_one_node_has_no_skew(settings, alone):
    assert machine_checks.clock(settings, alone) == findings.Finding("ok", "one node has one clock")


# ---------------------------------------------------------------- the training


def test_batch(settings, alone):
    finding = doctor_checks.batch(replace(settings, batch_size=8, gradient_accumulation_steps=2), alone)
    assert finding == findings.Finding("ok", "8 images = 1 process x 2 pieces x 4")


def test_a_batch_that_cannot_be_shared_is_refused_as_in_training(settings):
    store = ProcessStore(host="n1")
    store.size = 3
    with pytest.raises(UserError, match="choose --batch-size a multiple of 3"):
        doctor_checks.batch(settings, store)


@pytest.mark.parametrize("change", [{"lightness": "grey"}, {"lightness": "color"}, {"aging": 1.0}], ids=str)
def test_decoding(settings, alone, change):
    settings = replace(settings, data=replace(settings.data, **change))
    assert doctor_checks.decoding(settings, alone) == findings.Finding("ok", "a JPEG by DALI on the CPU")


def test_wrong_colors_are_found(settings, alone, monkeypatch):
    """As if a decoder had taken red for blue."""
    new = Image.new
    monkeypatch.setattr(Image, "new", lambda mode, size, fill: new(mode, size, fill[::-1]))
    finding = doctor_checks.decoding(settings, alone)
    assert finding.status == "failed"
    assert "wrong colours" in finding.text


def test_extractor(settings, alone):
    assert doctor_checks.extractor(settings, alone).text == "none is asked for"
    finding = doctor_checks.extractor(replace(settings, extractor=LITE), alone)
    sha256 = extractor.weights_sha256(extractor.build_extractor(LITE))
    assert finding.text == f"tf_efficientnet_lite0 with 1000 features, weights {sha256[:8]}"


def pyramid(settings: TrainSettings, **network) -> TrainSettings:
    data = replace(settings.data, size=32)
    return replace(settings, data=data, extractor=LITE, network=NetworkSettings("pyramid", **network))


def test_a_pyramids_extractor(settings, alone):
    """EfficientNet-Lite0's channels at strides 4 to 32: Tan and Le, 2019, table 1, with a width of 1."""
    finding = doctor_checks.extractor(pyramid(settings), alone)
    assert finding.text == "tf_efficientnet_lite0 with feature maps of 24, 40, 112, 320 channels, frozen"
    finding = doctor_checks.extractor(pyramid(settings, extractor_rate=0.1), alone)
    assert finding.text.endswith("trained at 0.1 of the learning rate")
    with pytest.raises(UserError, match="a pyramid needs an extractor"):
        doctor_checks.extractor(replace(pyramid(settings), extractor=ExtractorSettings("none")), alone)
    with pytest.raises(UserError, match="uses no cached embeddings"):
        doctor_checks.extractor(replace(pyramid(settings), extractor=replace(LITE, cache=True)), alone)


def test_a_pyramids_weights_that_will_be_fetched(settings, alone, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda _: SimpleNamespace(size=102e6))
    finding = doctor_checks.extractor(replace(pyramid(settings), extractor=ExtractorSettings("resnet50")), alone)
    assert finding.text == "the weights of resnet50 will be fetched: 102 MB"


def test_weights_to_begin_with(settings, alone, run):
    assert doctor_checks.initial_weights(settings, alone).text == "drawn at random"
    trained = checkpoint.find_checkpoint(run)
    same = replace(trained.settings, data=settings.data, init=str(run))
    finding = doctor_checks.initial_weights(same, alone)
    assert finding.text.startswith(f"beginning with {run} ({trained.images_seen} images seen, sha256 ")
    with pytest.raises(UserError, match="has no weight that this network has; leave out --init"):
        doctor_checks.initial_weights(replace(pyramid(settings), init=str(run)), alone)
    with pytest.raises(UserError, match="there is no folder runs/my/lost, and this is no name on the Hugging Face hub"):
        doctor_checks.initial_weights(replace(settings, init="runs/my/lost"), alone)


def test_the_run_file_of_fine_tuning(settings, alone, shard_folder):
    """It begins with the built-in model, which fits."""
    tuning = load_toml(TrainSettings, template_path("launch/finetune.toml"))
    assert doctor_checks.initial_weights(tuning, alone).text.startswith("beginning with builtin (")
    assert doctor_checks.extractor(tuning, alone).status == "ok"


def test_noise_needs_no_shards(settings, alone, tmp_path):
    data = replace(settings.data, shards=tmp_path / "none", synthetic=100)
    cached = replace(settings, data=data, extractor=replace(LITE, cache=True), objective=WEIGHTED)
    assert doctor_checks.shards(cached, alone).text == "none are needed: 100 images of noise"
    assert doctor_checks.embeddings(cached, alone).text == "noise takes their place"
    assert doctor_checks.objective(cached, alone).text == "weighted-mse, an even prior"


def test_objective(settings, alone):
    assert doctor_checks.objective(settings, alone) == findings.Finding("ok", "mse")
    judged = ObjectiveSettings("huber", perceptual=1.0, perceptual_weights="random")
    assert doctor_checks.objective(replace(settings, objective=judged), alone).text == "huber, vgg16_bn"
    with pytest.raises(UserError, match=r"prior.csv is not there; measure it with koala shards prior"):
        doctor_checks.objective(replace(settings, objective=WEIGHTED), alone)


def test_weights_that_will_be_fetched(settings, alone, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda _: SimpleNamespace(size=224e6))
    finding = doctor_checks.extractor(replace(settings, extractor=ExtractorSettings()), alone)
    assert (finding.status, finding.text) == ("ok", "the weights of inception_resnet_v2 will be fetched: 224 MB")


def test_weights_that_cannot_be_fetched(settings, alone, monkeypatch, tmp_path):
    """They matter where there is something to train on; else it is the machine that is looked at."""
    import huggingface_hub

    def no_network(*_):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", no_network)
    with pytest.raises(UserError, match="cannot be fetched from here; bring https"):
        doctor_checks.extractor(replace(settings, extractor=ExtractorSettings()), alone)
    monkeypatch.chdir(tmp_path)
    assert doctor_checks.extractor(TrainSettings(), alone).status == "warning"


def test_a_model_that_timm_does_not_know(settings, alone):
    with pytest.raises(UserError, match="timm has no model resnet_18"):
        doctor_checks.extractor(replace(settings, extractor=ExtractorSettings("resnet_18")), alone)


@pytest.fixture
def own_shards(shard_folder, tmp_path, settings) -> TrainSettings:
    """A training on a copy of the shards, which may be damaged."""
    shutil.copytree(shard_folder, tmp_path / "copy")
    return replace(settings, data=replace(settings.data, shards=tmp_path / "copy"))


def test_shards(settings, alone):
    text = f"{settings.data.shards}: 40 train and 8 val samples in 5 shards; some were read at random"
    assert doctor_checks.shards(settings, alone) == findings.Finding("ok", text)


def test_no_shards_are_a_warning_where_none_were_named(settings, alone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finding = doctor_checks.shards(TrainSettings(), alone)
    assert (finding.status, finding.text) == ("warning", "none at shards/data")
    with pytest.raises(UserError, match="nowhere does not exist; make shards"):
        doctor_checks.shards(replace(settings, data=DataSettings(tmp_path / "nowhere")), alone)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda path: path.unlink(), "1 fault: train-000001.tar: No such file or directory"),
        (lambda path: os.truncate(path, 1024), "1 fault: train-000001.tar is 1024 bytes long"),
        (lambda path: path.with_suffix(".json").write_text("{"), "1 fault: "),
    ],
)
def test_shards_that_are_not_whole(own_shards, alone, damage, text):
    damage(own_shards.data.shards / "train-000001.tar")
    finding = doctor_checks.shards(own_shards, alone)
    assert finding.status == "failed"
    assert text in finding.text
    assert "koala shards repair" in finding.remedy


def test_a_sample_that_does_not_decode(own_shards, alone):
    """Every byte of a JPEG is another, the lengths are the same."""
    folder = own_shards.data.shards
    for split in ("train", "val"):
        shards = Shards.open(folder, split)
        for jpeg in [shards.read(sample).tobytes() for sample in range(len(shards))]:
            for tar in folder.glob(f"{split}-*.tar"):
                tar.write_bytes(tar.read_bytes().replace(jpeg, bytes(255 - byte for byte in jpeg)))
    with pytest.raises(UserError, match=r"sample \d+ of train does not decode: .*; koala shards verify"):
        doctor_checks.shards(own_shards, alone)


def test_other_shards_on_another_node(settings):
    finding = doctor_checks.shards(settings, second("the sha256 of others"))
    assert finding.status == "failed"
    assert "other shards here than on the first node" in finding.text


def test_embeddings(own_shards, alone):
    kept = ExtractorSettings("resnet18", cache=True)
    settings = replace(own_shards, extractor=kept)
    assert doctor_checks.extractor(settings, alone).text == "resnet18 is not needed, with its embeddings at hand"
    with pytest.raises(UserError, match="holds no cached embeddings"):
        doctor_checks.embeddings(settings, alone)
    data = settings.data
    key = embedding_cache.CacheKey(
        embedding_cache.FORMAT, kept.name, "logits", "pretrained", "0" * 64, 3, data.geometry, data.size, "grey", "no"
    )
    cache = embedding_cache.EmbeddingCache(data.shards / "embeddings" / key.name, key)
    cache.folder.mkdir(parents=True)
    (cache.folder / "key.json").write_text(json.dumps(asdict(key)))
    for split in shards.read_manifest(data.shards).splits.values():
        for entry in split:
            cache.put(entry, np.zeros((entry.samples, 2, 3), np.float16))
    text = f"{cache.folder}: complete; some were read at random"
    assert doctor_checks.embeddings(settings, alone) == findings.Finding("ok", text)
    (cache.folder / "train-000002.npy").unlink()
    with pytest.raises(UserError, match=r"there are no embeddings of train-000002\.tar"):
        doctor_checks.embeddings(settings, alone)


def test_run_folder(settings, alone, tmp_path):
    finding = doctor_checks.run_folder(settings, alone)
    assert finding.status == "ok"
    assert finding.text.startswith(f"{tmp_path}: ")
    assert not list(tmp_path.iterdir()), "nothing is left, and no run folder made"


def test_a_full_disk(settings, alone, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1e9, 9e8, 1e8))
    finding = doctor_checks.run_folder(replace(settings, keep_checkpoints=3), alone)
    assert finding.status == "failed"
    assert "100 MB free, 5 checkpoints need " in finding.text
    assert "--keep-checkpoints" in finding.remedy


def test_a_disk_that_fills_while_it_is_written_to(settings, alone, monkeypatch, tmp_path):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("koala.core.atomic_io.fsync", full)
    with pytest.raises(UserError, match=f"{tmp_path}: No space left on device; make it writable, or choose another"):
        doctor_checks.run_folder(settings, alone)
    assert not list(tmp_path.iterdir())


def test_a_slow_disk(settings, alone, monkeypatch):
    monkeypatch.setattr(doctor_checks, "_seconds_to_write", lambda *_: 20.0)
    finding = doctor_checks.run_folder(settings, alone)
    assert finding.status == "warning"
    assert "is written in 20.0 s" in finding.text


def test_a_folder_that_is_not_to_be_written_to(settings, alone, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1e12, 0, 1e12))
    unwritable = replace(settings, run=Path("/proc/koala/run"))  # for root, too
    for check in (doctor_checks.run_folder, doctor_checks.same_folder):
        with pytest.raises(UserError, match=r"^/proc: .*; make it writable, or choose another --run$"):
            check(unwritable, alone)


def test_a_first_process_that_cannot_write_is_not_waited_for(settings):
    unwritable = replace(settings, run=Path("/proc/koala/run"))
    with pytest.raises(UserError, match="the first process failed"):
        raise company(lambda here: doctor_checks.same_folder(unwritable, here))[3]


def test_all_see_the_same_folder(settings):
    found = company(lambda here: doctor_checks.same_folder(settings, here))
    assert found == [findings.Finding("ok", "seen by 4 processes on 2 nodes")] * 4


def test_a_folder_that_is_another_one_elsewhere(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_checks, "_LATE_S", 0.1)
    (tmp_path / "other").mkdir()

    def look(here):
        mine = settings if here.rank < 2 else replace(settings, run=tmp_path / "other")
        return doctor_checks.same_folder(mine, here)

    first, third = company(look)[::2]
    assert first.status == "ok"
    assert (third.status, third.text) == (
        "failed",
        f"{tmp_path / 'other'} is not the folder that the first process writes to",
    )


def test_of_a_pyramid_only_what_is_trained_has_moments_and_gradients(settings):
    whole, trained = doctor_checks.weights_bytes(pyramid(settings))
    maps = 4 * sum(weight.numel() for weight in extractor.build_feature_maps(LITE).parameters())
    assert whole - trained == maps
    assert doctor_checks.weights_bytes(pyramid(settings, extractor_rate=0.1)) == (whole, whole)
    assert doctor_checks.checkpoint_bytes(pyramid(settings)) == whole + 2 * trained


@pytest.mark.parametrize("ema", [0, 100])
def test_a_checkpoint_is_as_large_as_said(settings, tmp_path, ema):
    """As a training writes it after a step; within a tenth."""
    from koala.models.network import FusionNetwork
    from koala.training.train_state import TrainState

    settings = replace(settings, ema=ema)
    state = TrainState.new(FusionNetwork(), settings)
    state.network(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1000)).sum().backward()
    state.optimizer.step()
    state.update_ema(1.0, skip=torch.zeros(()))
    snapshot = checkpoint.Snapshot(1, settings, state.model.state_dict(), 1000, "", state.state_dict(None), {})
    path = checkpoint.save_checkpoint(tmp_path, snapshot, keep=1)
    written = sum(file.stat().st_size for file in path.iterdir())
    assert doctor_checks.checkpoint_bytes(settings) == pytest.approx(written, rel=0.1)

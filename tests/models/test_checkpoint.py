"""Checkpoints are whole or absent, and writing them does not stop the training."""

import errno
import hashlib
import io
import json
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import torch as safetensors
from safetensors.torch import save_file

from koala.cli import main
from koala.config.data import DataSettings
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.models import checkpoint, extractor, pretrained
from koala.models.network import FusionNetwork
from koala.models.pretrained import load_model
from koala.training import trainer


def snapshot(images_seen: int) -> checkpoint.Snapshot:
    network = FusionNetwork(0)
    return checkpoint.Snapshot(
        images_seen,
        TrainSettings(extractor=ExtractorSettings("none")),
        network.state_dict(),
        embedding_size=0,
        extractor_sha256="",
        training={"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        state={},
    )


@pytest.fixture
def settings(shard_folder, tmp_path) -> TrainSettings:
    return TrainSettings(
        data=DataSettings(shard_folder, size=16, threads=2),
        extractor=ExtractorSettings("none"),
        **{"batch_size": 4, "epochs": 1, "log_every": 1, "checkpoint_every": 1, "log_pictures": 0},
        run=tmp_path / "run",
    )


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 60 MB, room for two checkpoints of 26 MB and not for three."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60m", "none", disk], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a disk: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_what_was_there_when_it_was_saved(tmp_path):
    """The training goes on and changes its weights while they are written."""
    saver, taken = checkpoint.AsyncSaver(tmp_path, keep=2), snapshot(4)
    before = {name: weight.clone() for name, weight in taken.weights.items()}
    saver.save(taken)
    for weight in taken.weights.values():
        weight.zero_()
    saver.wait()
    found = checkpoint.latest_checkpoint(tmp_path).network().state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in before.items())


def test_a_slow_disk_does_not_stop_the_training(settings, monkeypatch):
    """The disk is not ready with the first checkpoint before two more steps are taken."""
    steps, may_go_on = [], threading.Event()
    take_step, sync = trainer.train_step, checkpoint._sync

    def counted(*arguments):
        steps.append(1)
        if len(steps) == 3:
            may_go_on.set()
        return take_step(*arguments)

    def slow(path):
        assert may_go_on.wait(timeout=60), "training waits for the disk"
        sync(path)

    monkeypatch.setattr(trainer, "train_step", counted)
    monkeypatch.setattr(checkpoint, "_sync", slow)
    assert trainer.train(replace(settings, checkpoint_every=4)) == 0
    assert checkpoint.latest_checkpoint(settings.run / "checkpoints").images_seen == 40


def test_on_a_full_disk_the_checkpoint_is_absent_and_those_before_stay(small_disk):
    checkpoint.save_checkpoint(small_disk, snapshot(4), keep=3)
    checkpoint.save_checkpoint(small_disk, snapshot(8), keep=3)
    with pytest.raises(OSError, match="No space left") as raised:
        checkpoint.save_checkpoint(small_disk, snapshot(12), keep=3)
    assert raised.value.errno == errno.ENOSPC
    assert names(small_disk) == ["000000000004", "000000000008"]
    assert checkpoint.latest_checkpoint(small_disk).images_seen == 8


def test_a_training_on_a_full_disk_stops_in_words_and_goes_on(settings, small_disk, capsys):
    """26 MB of weights and 53 MB of Adam's moments do not fit; once there is room, the same command goes on."""
    words = [
        *("train", "--data.shards", str(settings.data.shards), "--data.size", "16", "--data.threads", "2"),
        *(
            "--extractor.name",
            "none",
            "--batch-size",
            "4",
            "--epochs",
            "1",
            "--checkpoint-every",
            "2",
            "--log-pictures",
            "0",
        ),
        *("--log-every", "1", "--run", str(small_disk / "run")),
    ]
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert "No space left on device" in printed
    assert "run the command again" in printed
    assert "Traceback" not in printed
    assert names(small_disk / "run/checkpoints") == []
    subprocess.run(["mount", "-o", "remount,size=600m", small_disk], check=True)
    assert main(words) == 0
    assert checkpoint.latest_checkpoint(small_disk / "run/checkpoints").images_seen == 40


def test_checkpoints_that_cannot_be_written_stop_the_training(settings, small_disk):
    """What was written before stays, and is gone on from when the disk can be written to again."""
    command = replace(settings, epochs=0.5)
    settings.run.mkdir()
    (settings.run / "checkpoints").symlink_to(small_disk)
    subprocess.run(["mount", "-o", "remount,size=600m", small_disk], check=True)
    trainer.train(command)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match="Read-only file system"):
        trainer.train(settings)
    assert checkpoint.latest_checkpoint(small_disk).images_seen == 20
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert trainer.train(settings) == 0
    assert checkpoint.latest_checkpoint(small_disk).images_seen == 40


def test_the_extractors_weights_can_be_brought(shard_folder, tmp_path):
    """Trained with a file that has moved since; another file is refused."""
    for seed, name in ((1, "first"), (2, "other")):
        model = extractor.build_extractor(ExtractorSettings("tf_efficientnet_lite0", weights="random"), seed).model
        save_file(
            {key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / f"{name}.safetensors"
        )
    trainer.train(
        TrainSettings(
            data=DataSettings(shard_folder, size=16, threads=2),
            extractor=ExtractorSettings("tf_efficientnet_lite0", weights=str(tmp_path / "first.safetensors")),
            batch_size=8,
            epochs=0.2,
            run=tmp_path / "run",
        )
    )
    (tmp_path / "first.safetensors").rename(tmp_path / "moved.safetensors")
    with pytest.raises(UserError, match=r"first.safetensors does not exist; --extractor.weights names"):
        pretrained.load_model(tmp_path / "run")
    with pytest.raises(UserError, match=r"not those that .* was trained with; name their file with --extractor"):
        pretrained.load_model(tmp_path / "run", tmp_path / "other.safetensors")
    assert pretrained.load_model(tmp_path / "run", tmp_path / "moved.safetensors").size == 16


def test_a_model_is_written_again_wherever_the_last_command_was_stopped_and_through_a_link(tmp_path):
    found = checkpoint.read_checkpoint(checkpoint.save_checkpoint(tmp_path, snapshot(1), keep=1))
    model = tmp_path / "model"
    checkpoint.publish_weights(found, model)
    shutil.copytree(model, tmp_path / ".part-old-model")  # whole, but the one before was not removed yet
    (tmp_path / "link").symlink_to(model)
    for name in (model, tmp_path / "link"):
        (model / "checkpoint.json").write_text("")
        checkpoint.publish_weights(found, name)
        assert checkpoint.read_checkpoint(model).images_seen == 1
    assert names(tmp_path) == ["000000000001", "link", "model"] and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("weight", [torch.tensor(312_500), torch.tensor([1.0, 1e5])])
def test_what_half_precision_does_not_hold_stays_as_it_is(weight):
    """As how many batches a normalisation of timm's has seen, which would be no finite number."""
    assert checkpoint.halved(weight) is weight
    assert checkpoint.halved(torch.tensor([1.0, 65_504])).dtype == torch.float16


# ---------------------------------------------------------------- whole, by their hashes, and wrong


def rewrite(folder: Path, name: str, data: bytes | None, **description) -> Path:
    """Change a checkpoint so that its hashes fit all the same."""
    path = folder / "checkpoint.json"
    told = json.loads(path.read_text()) | description
    if data is None:
        (folder / name).unlink(missing_ok=True)
        told["sha256"].pop(name, None)
    else:
        (folder / name).write_bytes(data)
        told["sha256"][name] = hashlib.sha256(data).hexdigest()
    path.write_text(json.dumps(told))
    return folder


@pytest.fixture
def own(run, tmp_path) -> Path:
    """A run of its own, and its newest checkpoint."""
    copied = shutil.copytree(run, tmp_path / "run")
    return checkpoint.latest_checkpoint(copied / "checkpoints").path


def saved(values: dict) -> bytes:
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["empty", "no optimizer", "other groups", "other shapes"])
def test_a_training_state_of_another_training_is_said(own, kind):
    found = checkpoint.read_checkpoint(own)
    states = found.training()
    match kind:
        case "empty":
            states = {}
        case "no optimizer":
            states["optimizer"] = {}
        case "other groups":
            states["optimizer"]["param_groups"][0]["params"].pop()
        case "other shapes":
            states["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    rewrite(own, "training.pt", saved(states))
    settings = replace(found.settings, run=own.parents[1], epochs=found.settings.epochs + 1)
    with pytest.raises(UserError, match=r"training.pt holds the state of another training; name another --run"):
        trainer.train(settings)


def test_weights_that_are_missing_wrong_or_not_finite_are_said(own):
    weights = extractor.read_tensors(own / "model.safetensors")
    name = next(iter(weights))
    bad = weights | {name: torch.full_like(weights[name], float("nan"))}
    with pytest.raises(UserError, match=r"model.safetensors holds weights that are not finite"):
        load_model(rewrite(own, "model.safetensors", safetensors.save(bad)))
    other = weights | {name: torch.zeros(3)}
    with pytest.raises(UserError, match=r"model.safetensors holds the weights of another network"):
        load_model(rewrite(own, "model.safetensors", safetensors.save(other)))
    with pytest.raises(UserError, match=r"holds no weights \(model.safetensors\)"):
        load_model(rewrite(own, "model.safetensors", None))


@pytest.mark.parametrize("size", [10**9, 77])
def test_a_description_of_another_size_takes_no_memory(own, size):
    weights = (own / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"holds the weights of another network"):
        checkpoint.read_checkpoint(rewrite(own, "model.safetensors", weights, embedding_size=size)).network()


def test_a_size_that_nothing_can_be_coloured_at_is_said(own):
    told = json.loads((own / "checkpoint.json").read_text())["settings"]
    told["data"]["size"] = 10**6
    weights = (own / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"checkpoint.json: data.size = 1000000: input should be less than or equal"):
        load_model(rewrite(own, "model.safetensors", weights, settings=told))

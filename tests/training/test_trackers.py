"""Experiment trackers: what they are told, resuming, failing; the real ones where they are installed."""

import errno
import json
import os
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
from accelerate import tracking
from tensorboard.summary.writer.record_writer import RecordWriter

from koala import cli
from koala.config.data import DataSettings
from koala.config.load import load_toml
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.models import checkpoint
from koala.training import trackers, trainer
from tests.runs import scalars


@pytest.fixture
def settings(shard_folder, tmp_path) -> TrainSettings:
    data = DataSettings(shard_folder, size=16, threads=2)
    quick = TrainSettings(data=data, extractor=ExtractorSettings("none"), batch_size=4, epochs=0.2, log_every=1)
    return replace(quick, log_pictures=2, run=tmp_path / "run")


class Fake:
    """A tracker that remembers what it is told, in the class."""

    name = "aim"
    requires_logging_directory = False
    told: list = []  # noqa: RUF012
    fails = False

    def __init__(self, run_name: str) -> None:
        self.run_name = run_name

    def start(self) -> None:
        self.told.append(("start", self.run_name))

    def store_init_configuration(self, values: dict) -> None:
        self.told.append(("settings", values))

    def log(self, values: dict, step: int) -> None:
        if self.fails:
            raise ConnectionError("the service is away")
        self.told.append(("numbers", step, values))

    def log_images(self, values: dict, step: int) -> None:
        self.told.append(("pictures", step, values))

    def finish(self) -> None:
        self.told.append(("end",))


@pytest.fixture
def fake(monkeypatch) -> type[Fake]:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "aim", Fake)
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    monkeypatch.setattr(Fake, "told", [])
    return Fake


def entries(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_several_trackers_get_the_record_s_numbers(settings, fake):
    trainer.train(replace(settings, tracker=("tensorboard", "aim")))
    kinds = [told[0] for told in fake.told]
    assert (kinds[:2], kinds[-1]) == (["start", "settings"], "end")
    numbers = [told[1:] for told in fake.told if told[0] == "numbers"]
    record = [(entry.pop("images_seen"), entry) for entry in entries(settings.run) if entry.pop("at")]
    assert numbers == record
    losses = {seen: entry["train/loss"] for seen, entry in record if "train/loss" in entry}
    assert scalars(settings.run, "loss/train") == pytest.approx(losses)


def test_a_tracker_gets_settings_hashes_and_pictures(settings, fake):
    trainer.train(replace(settings, tracker=("aim",), notify=": https://hooks.example/secret"))
    values = next(told[1] for told in fake.told if told[0] == "settings")
    assert not [value for value in values.values() if "secret" in value], "others may look at a tracker"
    assert (values["batch_size"], values["data.size"], values["optimizer.name"]) == ("4", "16", "adam")
    assert re.fullmatch("[0-9a-f]{64}", values["sha256.shards"])
    shown = {name: (step, pictures) for kind, step, told in pictures_of(fake) for name, pictures in told.items()}
    assert set(shown) == {"train/pictures", "val/pictures"}
    (step, pictures) = shown["val/pictures"]
    assert step == 8 and pictures.dtype == np.uint8 and pictures.ndim == 4
    assert not list(settings.run.glob("events.out*"))


def pictures_of(fake) -> list:
    return [told for told in fake.told if told[0] == "pictures"]


def test_a_tracker_that_fails_stops_no_training(settings, fake, monkeypatch, capsys):
    monkeypatch.setattr(Fake, "fails", True)
    assert trainer.train(replace(settings, tracker=("aim",))) == 0
    said = capsys.readouterr().err
    assert said.count("the tracker aim has failed (the service is away); metrics.jsonl goes on") == 1
    assert checkpoint.find_checkpoint(settings.run).images_seen == 8
    assert len(entries(settings.run)) == 3


def test_tensorboard_on_a_full_disk_is_told_of_in_one_sentence(tmp_path, monkeypatch, capsys):
    """Its thread writes, fails and ends; a traceback of that is no news for people."""

    def write(*_) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with trackers.open_trackers(["tensorboard"], tmp_path / "run", 0, {"batch_size": "4"}) as (tensorboard,):
        monkeypatch.setattr(RecordWriter, "write", write)
        for images_seen in range(100):
            tensorboard.add(images_seen, {"train/loss": 1.0})
    said = capsys.readouterr().err
    assert said.count("the tracker tensorboard has failed ([Errno 28] No space left on device)") == 1
    assert "Traceback" not in said


def test_threads_that_are_not_a_tracker_s_are_reported_as_before(tmp_path, monkeypatch):
    reported = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    with trackers.open_trackers(["tensorboard"], tmp_path / "run", 0, {}):
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
    assert [type(raised.exc_value) for raised in reported] == [ZeroDivisionError]


def test_a_tracker_that_cannot_be_started_is_refused(settings, fake, monkeypatch):
    def refuse(_: Fake) -> None:
        raise ValueError("no API key")

    monkeypatch.setattr(Fake, "start", refuse)
    with pytest.raises(UserError, match=r"the tracker aim cannot be started \(no API key\); log in to it"):
        trainer.train(replace(settings, tracker=("aim",)))


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_made(settings, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--tracker comet_ml needs comet_ml; pip install comet-ml"):
        trainer.train(replace(settings, tracker=("comet_ml",)))
    assert not settings.run.exists()


def test_one_or_several_in_a_file_and_as_a_flag(tmp_path, settings, capsys):
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text('tracker = "wandb"')
    two.write_text('tracker = ["wandb", "mlflow"]')
    assert load_toml(TrainSettings, one).tracker == ("wandb",)
    assert load_toml(TrainSettings, two).tracker == ("wandb", "mlflow")
    words = ["--data.shards", str(settings.data.shards), "--dry-run", "--extractor.name", "none", "--batch-size", "4"]
    assert cli.main(["train", *words, "--tracker", "tensorboard", "trackio"]) == 0
    assert 'tracker = ["tensorboard", "trackio"]' in capsys.readouterr().out
    assert cli.main(["train", *words, "--tracker", "paper"]) == 2
    assert "--tracker paper is not one of tensorboard, wandb, mlflow" in capsys.readouterr().err


# ---------------------------------------------------------------- the real ones


def in_two_sittings(settings: TrainSettings) -> None:
    trainer.train(replace(settings, epochs=0.1))
    trainer.train(settings)


def test_mlflow_in_a_folder(settings, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    in_two_sittings(replace(settings, tracker=("mlflow",)))
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert (run.info.run_name, run.data.params["batch_size"]) == ("run", "4")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
    assert {point.step: point.value for point in history} == pytest.approx(
        {entry["images_seen"]: entry["train/loss"] for entry in entries(settings.run) if "train/loss" in entry}
    )


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(settings, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    in_two_sittings(replace(settings, tracker=("wandb",)))
    key = json.loads((settings.run / "trackers.json").read_text())["wandb"]
    folders = list((settings.run / "wandb").glob(f"offline-run-*-{key}"))
    assert 1 <= len(folders) <= 2  # a sitting, or two of the same second
    assert all(list(folder.glob("*.wandb")) for folder in folders)


@pytest.mark.filterwarnings("ignore")
def test_trackio_in_a_folder(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    in_two_sittings(replace(settings, tracker=("trackio",)))
    assert list((tmp_path / "trackio").rglob("koala*.db"))


def test_tensorboard_opens_on_loss_and_pictures_and_ends_with_speed():
    """It sorts tags by their names."""
    names = [
        "train/loss",
        "train/learning_rate",
        "speed/mfu",
        "time/data",
        "memory/gpu_gib",
        "val/pictures",
        "val/loss",
    ]
    assert sorted(map(trackers.tensorboard_tag, names)) == [
        *("loss/train", "loss/val", "pictures/val", "train/learning_rate"),
        *("usage/memory_gpu_gib", "usage/speed_mfu", "usage/time_data"),
    ]

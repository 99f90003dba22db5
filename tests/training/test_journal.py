"""What happened to a run, and the command that is told of it."""

import signal
from dataclasses import replace

import pytest

from koala.config.data import DataSettings
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.evaluation.failure_signs import FailureWatch
from koala.training import trainer
from koala.training.journal import Journal, read_journal


@pytest.fixture
def told(tmp_path):
    """Reads what the command has written down: event, run and message of each time it was run."""
    return lambda: [tuple(line.split("|")) for line in (tmp_path / "told").read_text().splitlines()]


@pytest.fixture
def settings(shard_folder, tmp_path) -> TrainSettings:
    data = DataSettings(shard_folder, size=16, threads=2)
    quick = TrainSettings(data=data, extractor=ExtractorSettings("none"), batch_size=4, epochs=0.2, log_every=1)
    command = f'echo "$KOALA_EVENT|$KOALA_RUN|$KOALA_MESSAGE" >> {tmp_path / "told"}'
    return replace(quick, log_pictures=0, notify=command, run=tmp_path / "run")


def test_start_and_end(settings, told):
    trainer.train(settings)
    start, end = read_journal(settings.run)
    assert (start["event"], start["message"], start["images_seen"]) == ("start", "a new run", 0)
    assert start["device"].startswith("cpu (") and start["processes"] == "1"
    assert (end["event"], end["images_seen"]) == ("end", 8)
    assert told() == [("end", str(settings.run), "complete: 8 images seen")]


def test_a_signal_and_resuming(settings, told, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(trainer.GracefulStop, "requested", lambda self: signal.SIGTERM)
        trainer.train(settings)
    trainer.train(settings)
    events = [(line["event"], line["images_seen"]) for line in read_journal(settings.run)]
    assert events == [("start", 0), ("stopped", 4), ("start", 4), ("end", 8)]
    assert [event for event, _, _ in told()] == ["stopped", "end"]


def test_a_failure_before_there_is_a_run_and_one_in_it(settings, told, monkeypatch):
    with pytest.raises(UserError):
        trainer.train(replace(settings, extractor=ExtractorSettings("no_such_model")))
    assert told()[0][:2] == ("failure", "") and told()[0][2].startswith("timm has no model no_such_model; ")

    def fail(*_):
        raise RuntimeError("a kernel\nand pages of it")

    monkeypatch.setattr(trainer, "train_step", fail)
    with pytest.raises(RuntimeError):
        trainer.train(settings)
    assert told()[1] == ("failure", str(settings.run), "RuntimeError: a kernel")
    assert read_journal(settings.run)[-1]["message"] == "RuntimeError: a kernel"


def test_an_alarm(settings, told, monkeypatch):
    monkeypatch.setattr(FailureWatch, "warnings", lambda self, seen, _: ["warning: grey"] if seen == 4 else [])
    trainer.train(settings)
    alarm = read_journal(settings.run)[1]
    assert (alarm["event"], alarm["images_seen"], alarm["message"]) == ("alarm", 4, "warning: grey")
    assert ("alarm", str(settings.run), "warning: grey") in told()


def test_a_command_that_fails_stops_no_training(settings, capsys):
    assert trainer.train(replace(settings, notify="exit 3")) == 0
    assert "--notify exit 3 ended with exit code 3" in capsys.readouterr().err


def test_others_than_the_first_process_keep_still(tmp_path):
    journal = Journal(f"touch {tmp_path / 'told'}", write=False)
    journal.follow(tmp_path, lambda: 8)
    journal.note("end", "complete")
    journal.close()
    assert not list(tmp_path.iterdir())


def test_a_journal_that_cannot_be_written_hides_no_failure(settings, told, monkeypatch, capsys):
    def fail(*_):
        (settings.run / "journal.jsonl").unlink()
        (settings.run / "journal.jsonl").mkdir()
        raise RuntimeError("a kernel")

    monkeypatch.setattr(trainer, "train_step", fail)
    with pytest.raises(RuntimeError, match="a kernel"):
        trainer.train(settings)
    assert "journal.jsonl cannot be written (Is a directory)" in capsys.readouterr().err
    assert told()[0][0] == "failure"

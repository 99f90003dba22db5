"""The page of a training."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest

from koala import cli
from koala.config.data import DataSettings
from koala.config.evaluation import EvaluateSettings
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.core import html
from koala.core.atomic_io import sha256
from koala.evaluation import evaluate
from koala.models import checkpoint
from koala.training import trainer
from koala.training.run_page import RunRecord, render
from koala.training.run_report import read_run


@pytest.fixture(scope="module")
def trained(shard_folder, tmp_path_factory):
    """Eight validations, in two sittings."""
    run = tmp_path_factory.mktemp("reported")
    data = DataSettings(shard_folder, size=16, threads=2)
    settings = TrainSettings(data=data, extractor=ExtractorSettings("none"), batch_size=40, log_every=1, run=run)
    for epochs in (3, 8):
        trainer.train(replace(settings, epochs=epochs, log_pictures=2))
    return run


def test_a_page_of_a_run(trained, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert cli.main(["report", str(trained), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    page = out.read_text()
    known = checkpoint.read_validation(trained / "checkpoints")
    assert (
        f"complete after 320 images; lowest validation loss {known.best_loss:.5f} after {known.best_images_seen}"
        in page
    )
    assert page.count("<figcaption>after ") == 6 and "<figcaption>after 40 images" in page
    best = checkpoint.find_checkpoint(trained)
    assert sha256(best.path / "model.safetensors") in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_what_is_read_of_a_run(trained):
    record = read_run(trained)
    assert {"batch_size", "data.size", "extractor.name"} <= record.changed
    assert "learning_rate" not in record.changed and record.settings["learning_rate"] == 1e-3
    assert [event["images_seen"] for event in record.events if event["event"] == "start"] == [0, 120]
    assert [entry["images_seen"] for entry in record.entries if "val/loss" in entry] == list(range(40, 360, 40))
    assert [seen for seen, _ in record.pictures] == [40, 80, 160, 200, 280, 320]  # of eight, six spread evenly


def test_an_evaluation_stands_beside_the_baselines(trained, shard_folder):
    """In words, and in red where the colours do not beat grey; a run that nobody judged says how."""
    assert "tells whether the colours beat grey" in render(read_run(trained))
    evaluate.evaluate(EvaluateSettings(trained, shard_folder, threads=2))
    record = read_run(trained)
    page = render(record)
    assert "tells whether the colours beat grey" not in page
    judged = record.evaluation
    assert f"After {judged['images_seen']:,} images: 8 pictures under the protocol as in training" in page
    kind = "" if judged["verdict"]["beaten"] else ' class="alarm"'
    assert f"<p{kind}>These colours are " in page
    assert f"<td>{judged['baselines']['grey']['ciede2000']:.4g}</td>" in page.replace(' class="number"', "")
    assert all(f'<th class="number">{hue}</th>' in page for hue in ("brown/orange", "blue"))


def test_it_is_written_while_the_training_goes(tmp_path):
    """With nothing but settings and half a line of numbers."""
    (tmp_path / "config.toml").write_text("epochs = 3.0\n")
    (tmp_path / "metrics.jsonl").write_text('{"images_seen": 4, "train/loss": 0.5}\n{"images_s')
    assert cli.main(["report", str(tmp_path)]) == 0
    assert "last heard of after 4 images" in (tmp_path / "report.html").read_text()


def test_alarms_and_names_are_never_html():
    event = {"at": "2026-01-02", "images_seen": 8, "event": "alarm", "message": "<b>grey</b>"}
    page = render(RunRecord("<i>", {"init": "<u>"}, frozenset(), [], [event], None, {}, []))
    assert "&lt;b&gt;grey&lt;/b&gt;" in page
    assert not re.search("<[biu]>", page)


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "holds no config.toml; name a run folder of koala train" in capsys.readouterr().err


def test_curves_share_their_axes():
    """Values 1 to 3 over 0 to 40 images: the highest point is at the top of the chart, 20 lies in the middle."""
    one = html.Curve(np.array([0.0, 20.0, 40.0]), np.array([1.0, 2.0, 3.0]), "first")
    drawing = ElementTree.fromstring(html.curves([one, html.Curve(np.array([20.0]), np.array([3.0]), "second")]))
    points = [tuple(map(float, place.split(","))) for place in drawing.find("polyline").get("points").split()]
    (dot,) = drawing.iter("circle")
    assert (float(dot.get("cx")), float(dot.get("cy"))) == (points[1][0], points[2][1])
    assert points[1][0] == pytest.approx((points[0][0] + points[2][0]) / 2)
    assert [text.text for text in drawing.iter("text")] == ["3", "1", "0", "40 images"]

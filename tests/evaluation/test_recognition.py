"""Recognition: whose class a photo has, what share of the gap is closed, and who must not judge."""

import numpy as np
import pytest
import torch

from koala.config.evaluation import EvaluateSettings
from koala.config.models import ExtractorSettings
from koala.core.errors import UserError
from koala.evaluation import components, evaluate, html_report, recognition, results, text_report

WNIDS = ("n01440764", "n01443537", "n01484850")


class Described:
    """Photos of which only the descriptions are known."""

    def __init__(self, *descriptions):
        self._descriptions = descriptions

    def __len__(self):
        return len(self._descriptions)

    def description(self, sample):
        return self._descriptions[sample]


@pytest.mark.parametrize(
    ("description", "label"),
    [
        ({"source": "a.jpg", "wnid": "n01443537", "class_index": 0}, 1),  # the index counts the classes of its own set
        ({"source": "train/n01484850/a.jpg"}, 2),
        ({"source": "a.jpg", "class_index": 2}, 2),
        ({"source": "a.jpg", "class_index": 1000}, recognition.UNKNOWN),
        ({"source": "a.jpg", "wnid": "n99999999", "class_index": 1}, recognition.UNKNOWN),
        ({"source": "cats/a.jpg"}, recognition.UNKNOWN),
    ],
)
def test_the_class_of_a_photo(description, label):
    assert recognition.photo_labels(Described(description), WNIDS).tolist() == [label]


def test_the_classes_are_imagenets_in_order():
    """Tench, goldfish and great white shark come first, toilet paper last (LOC_synset_mapping.txt)."""
    wnids = recognition.imagenet_classes()
    assert len(wnids) == 1000
    assert tuple(wnids[:3]) == WNIDS and wnids[-1] == "n15075141"


def table_of(grey, coloured, true):
    ways = zip(recognition.WAYS, (grey, coloured, true), strict=True)
    return {recognition.column(way): np.array(values, np.float64) for way, values in ways}


def test_the_share_of_the_gap_by_hand():
    """Of 40 pictures 20 are recognised in grey, 24 coloured, 36 as they were: a quarter of the gap. One is unknown."""
    right = [np.arange(40) < count for count in (20, 24, 36)]
    found = recognition.summarize(table_of(*([*values, np.nan] for values in right)), "lite")
    assert (found["pictures"], found["grey"], found["coloured"], found["true"]) == (40, 0.5, 0.6, 0.9)
    assert found["closed"] == pytest.approx(0.25)
    low, high = found["closed_interval"]
    assert 0 < low < 0.25 < high < 0.6
    assert recognition.sentence(found).startswith(
        "lite recognises of 40 pictures: grey 50.0 %, coloured 60.0 %, true 90.0 %; the colours close 25 % of the gap "
    )
    assert recognition.sentence(found).endswith("(95 % interval 6 % to 50 %)")


def test_colours_that_mislead_close_less_than_nothing():
    right = [np.arange(40) < count for count in (20, 15, 30)]
    assert recognition.summarize(table_of(*right), "lite")["closed"] == pytest.approx(-0.5)


def test_colours_that_clearly_mislead_are_said_to():
    right = [np.arange(40) < count for count in (20, 10, 30)]
    found = recognition.summarize(table_of(*right), "lite")
    assert recognition.misleads(found)
    assert "the colours are recognised less well than grey and close -100 % of the gap" in recognition.sentence(found)


def test_colours_mislead_where_it_is_not_chance():
    right = [np.arange(40) < count for count in (20, 19, 30)]
    assert not recognition.misleads(recognition.summarize(table_of(*right), "lite"))


def test_where_true_colours_add_no_more_than_chance_there_is_no_gap():
    found = recognition.summarize(table_of([1, 0, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]), "lite")
    assert found["closed"] is None and found["closed_interval"] is None
    assert recognition.sentence(found).endswith("what true colours add here may be chance")


def test_an_evaluation_recognises_its_pictures(run, shard_folder, tmp_path, monkeypatch, capsys):
    """By a classifier with weights drawn at random, in pictures of which all but the first have a class."""
    monkeypatch.setattr(recognition, "photo_labels", lambda photos, _: np.arange(len(photos)) - 1)
    judge = {"classifier": "tf_efficientnet_lite0", "classifier_weights": "random"}
    evaluate.evaluate(EvaluateSettings(run, shard_folder, tmp_path, size=32, threads=1, **judge))
    found = results.read_result(tmp_path)
    assert found.report["recognition"]["pictures"] == 7
    assert found.report["judges"]["tf_efficientnet_lite0"]["published"] is False
    assert "tf_efficientnet_lite0 recognises of 7 pictures: grey " in capsys.readouterr().out
    assert "<b>Recognition</b>" in (tmp_path / "report.html").read_text()


def test_colours_that_mislead_are_told_in_red(run, shard_folder, tmp_path):
    evaluate.evaluate(EvaluateSettings(run, shard_folder, tmp_path, size=32, threads=1))
    report = results.read_result(tmp_path).report
    for coloured, red in ((10, True), (24, False)):
        right = [np.arange(40) < count for count in (20, coloured, 36)]
        told = {**report, "recognition": recognition.summarize(table_of(*right), "lite")}
        text = f"lite recognises of 40 pictures: grey 50.0 %, coloured {100 * coloured / 40:.1f} %"
        [line] = [line for line in text_report.lines(told, colored=True) if text in line]
        assert line.startswith("\x1b[") == red
        assert any(line.startswith('<p class="alarm"><b>Recognition') for line in html_report.digest(told)) == red


def test_who_must_not_judge(run, shard_folder):
    settings = EvaluateSettings(run, shard_folder, classifier="tf_efficientnet_lite0", threads=1)
    with pytest.raises(UserError, match="no photo's class is known"):
        recognition.build_classifier("tf_efficientnet_lite0", "random", Described({"source": "a"}), torch.device("cpu"))
    with pytest.raises(UserError, match="tf_efficientnet_lite9"):
        recognition.build_classifier("tf_efficientnet_lite9", "random", Described({"source": "a"}), torch.device("cpu"))
    found = components.find_checkpoint(run)
    judge = ExtractorSettings("tf_efficientnet_lite0")
    object.__setattr__(found.settings, "extractor", judge)
    with pytest.raises(UserError, match=r"is the extractor of .*, and would judge what it helped to colour"):
        components._classifier(settings, found, Described(), torch.device("cpu"))

"""Comparisons: what is refused, what the differences are, and what is written."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from koala import cli
from koala.config.evaluation import CompareSettings, EvaluateSettings
from koala.core.errors import UserError
from koala.evaluation import (
    compare,
    comparison,
    comparison_tables,
    confidence_intervals,
    evaluate,
    results,
    scoring,
)
from koala.imaging import contact_sheet


@pytest.fixture(scope="module")
def two(run, shard_folder, tmp_path_factory) -> tuple[Path, Path]:
    """Evaluations of one network, with L* joined that it was not trained with in the second."""
    folders = tuple(tmp_path_factory.mktemp(name) for name in ("grey", "color"))
    for folder, lightness in zip(folders, ("grey", "color"), strict=True):
        evaluate.evaluate(EvaluateSettings(run, shard_folder, out=folder, lightness=lightness, threads=2))
    return folders


def moved(source: Path, folder: Path, shift: dict[str, float], noise: float = 0.0) -> Path:
    """An evaluation whose measures are shifted, as another network might have left it."""
    shutil.copytree(source, folder)
    found = results.read_result(folder)
    wobble = noise * np.cos(np.arange(len(found.images)) * 2.4)
    table = {name: values + (shift[name] + wobble if name in shift else 0) for name, values in found.table.items()}
    (folder / "per_image.csv").write_text(results.per_image_csv(found.images, table))
    scores = {name: table[name].mean() if name in shift else value for name, value in found.scores.items()}
    (folder / "scores.json").write_text(json.dumps({**found.report, "scores": scores}))
    return folder


def test_a_shift_of_every_picture_is_clear_and_noise_is_not(two, tmp_path):
    shifted = moved(two[0], tmp_path / "shifted", {"psnr": 0.5})
    noisy = moved(two[0], tmp_path / "noisy", {"psnr": 0.0}, noise=1.0)
    columns = [results.read_result(folder, name) for folder, name in ((two[0], "a"), (shifted, "b"), (noisy, "c"))]
    found = comparison.compare(columns)
    sure, unsure = found.differences["b"]["psnr"], found.differences["c"]["psnr"]
    assert sure.value == pytest.approx(0.5) and sure.interval == pytest.approx((0.5, 0.5))
    assert sure.clear and not unsure.clear
    assert unsure.interval[0] < unsure.value < unsure.interval[1]
    assert not found.differences["b"]["ssim"].clear, "no difference at all"
    paired = results.read_result(noisy).table["psnr"] - results.read_result(two[0]).table["psnr"]
    expected = confidence_intervals.interval(confidence_intervals.resampled_means(paired[:, None])[:, 0])
    assert unsure.interval == pytest.approx(expected, abs=1e-6), "over the same images"


def test_differences_are_from_the_baseline(two, tmp_path):
    shifted = moved(two[0], tmp_path / "shifted", {"mse": 0.25})
    columns = [results.read_result(two[0], "a"), results.read_result(shifted, "b")]
    assert comparison.compare(columns, "b").differences["a"]["mse"].value == pytest.approx(-0.25)
    with pytest.raises(UserError, match="there is no column c; known: a, b"):
        comparison.compare(columns, "c")


def test_networks_that_see_other_lightness_can_be_compared(two, tmp_path, capsys):
    assert cli.main(["compare", f"grey={two[0]}", f"color={two[1]}", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["grey", "color", "(grey)", "(constant)", "(own", "mean)"]
    assert printed[1].split() == ["input", "L*", "grey", "color"]
    assert any(line.startswith("psnr ") for line in printed)
    told = "one colour everywhere, the mean of the pictures that are judged."
    assert any(told in line for line in printed)
    assert told in (tmp_path / "comparison.html").read_text()


def test_what_was_not_judged_alike_is_refused_in_words(two, run, shard_folder, tmp_path):
    first = results.read_result(two[0], "one")
    evaluate.evaluate(EvaluateSettings(run, shard_folder, out=tmp_path / "size", size=24, threads=2))
    other = results.read_result(tmp_path / "size", "other")
    with pytest.raises(UserError, match=r"one and other were judged by different protocols \(size 16 and 24\);"):
        comparison.compare([first, other])
    evaluate.evaluate(EvaluateSettings(run, shard_folder, out=tmp_path / "split", split="train", threads=2))
    other = results.read_result(tmp_path / "split", "other")
    with pytest.raises(UserError, match=r"were judged on different images: .*\(split val, .*\(split train"):
        comparison.compare([first, other])
    judges = ({"lpips": {"sha256": sha256, "published": True}} for sha256 in ("1", "2"))
    columns = [replace(first, report={**first.report, "judges": judge}) for judge in judges]
    with pytest.raises(UserError, match="were judged by different weights of lpips; evaluate both with the same file"):
        comparison.compare(columns)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{empty}", "{grey}"], "holds no whole evaluation; run koala evaluate"),
        (["{grey}"], "there is nothing to compare; name two evaluations"),
        (["a={grey}", "a={color}"], "two columns are called a; give one another name with NAME=FOLDER"),
        (["a={grey}", "--pictures", "a={color}"], "two columns are called a"),
        (["--pictures", "a={color}"], "there is no run to take the rules from; name --shards and --protocol"),
        (["{damaged}", "{grey}"], "scores.json and evaluate again"),
    ],
)
def test_bad_input_is_one_sentence(two, tmp_path, capsys, words, message):
    places = {"grey": two[0], "color": two[1]} | {name: tmp_path / name for name in ("empty", "damaged")}
    (tmp_path / "empty").mkdir()
    shutil.copytree(two[0], tmp_path / "damaged")
    (tmp_path / "damaged/per_image.csv").write_text("name,mse\na,b\n")
    words = [word.format(**places) for word in words]
    assert cli.main(["compare", *words, "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1


def test_a_run_folder_stands_for_its_evaluation(two, tmp_path):
    shutil.copytree(two[0], tmp_path / "run/evaluation")
    assert results.read_result(tmp_path / "run").scores == results.read_result(two[0]).scores
    assert compare._named([str(tmp_path / "run"), str(two[1])]).keys() == {"run", two[1].name}
    assert compare._named([str(tmp_path / "run/evaluation")]).keys() == {"run"}


# ---------------------------------------------------------------- what is written


@pytest.fixture
def compared(two, tmp_path) -> Path:
    """Two runs and a folder of pictures, made of the first run's pictures with their colours taken away."""
    for path in (two[0] / "pictures").rglob("*.png"):
        target = tmp_path / "grey pictures" / path.relative_to(two[0] / "pictures")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            picture.convert("L").save(target)
    settings = CompareSettings(
        (f"a_1={two[0]}", f"b={two[1]}"), (f"plain={tmp_path / 'grey pictures'}",), tmp_path / "out", threads=2
    )
    assert compare.compare_command(settings) == 0
    return tmp_path / "out"


def test_pictures_are_a_column_and_the_table_is_written_in_all_forms(compared, two):
    with (compared / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["column"] for row in rows} == {"a_1", "b", "plain", "(grey)", "(constant)", "(own mean)"}
    by_place = {(row["score"], row["column"]): row for row in rows}
    assert float(by_place["chroma_ratio", "plain"]["value"]) < 0.05, "greys have no chroma"
    assert float(by_place["psnr", "a_1"]["value"]) == results.read_result(two[0]).scores["psnr"]
    assert by_place["psnr", "a_1"]["difference"] == "" != by_place["psnr", "plain"]["difference"]
    latex = (compared / "comparison.tex").read_text()
    assert r"a\_1 & " in latex and latex.count(r" \\") == 1 + 3 + 3
    assert {len(line.split(" & ")) for line in latex.splitlines() if " & " in line} == {
        1 + sum(name in scoring.HEADLINE for name in results.read_result(two[0]).scores)
    }
    page = (compared / "comparison.html").read_text("utf-8")
    assert 'src="http' not in page and "href" not in page
    assert page.count("<img") == 8 * (1 + 3 + 1)


def test_pictures_are_judged_beside_the_constant_of_the_run(two, tmp_path):
    """Also where the shards whose mean it is are elsewhere by now."""
    shutil.copytree(two[0], tmp_path / "run")
    report = results.read_scores(two[0]) | {"constant_known": {"ab": [0.1, 0.2], "shards": "/moved"}}
    (tmp_path / "run/scores.json").write_text(json.dumps(report))
    settings = CompareSettings((str(tmp_path / "run"),), (f"other={two[0] / 'pictures'}",), tmp_path / "out", threads=2)
    assert compare.compare_command(settings) == 0
    assert results.read_scores(tmp_path / "out/other")["constant"] == {
        "ab": [12.7, 25.4],
        "of": "the training samples of /moved",
    }


def test_the_sheet_has_a_column_for_each(compared, two):
    with Image.open(compared / "sheet.png") as sheet:
        cells = contact_sheet.split_contact_sheet(sheet, 5)
    with Image.open(two[0] / "sheet.png") as sheet:
        first = contact_sheet.split_contact_sheet(sheet, 3)
    assert cells.shape == (5, 8, 16, 16, 3)
    assert np.array_equal(cells[[0, 1, 4]], first)
    assert np.ptp(cells[3].astype(int), axis=-1).max() == 0


def test_a_page_holds_what_another_folder_says_as_text(two):
    columns = [results.read_result(folder, folder.name) for folder in two]
    for key in ("checkpoint", "checkpoint_sha256", "input_lightness"):
        columns[0].report[key] = f"<i>{key}</i>"
    page = comparison_tables.to_html(comparison.compare(columns), None)
    assert "<i>" not in page and page.count("&lt;i&gt;") == 3


def test_without_a_sheet_there_is_none(two, tmp_path, capsys):
    """Nor is that of an earlier comparison left, or named."""
    for folder in two:
        shutil.copytree(folder, tmp_path / folder.name)
        (tmp_path / folder.name / "sheet.png").unlink()
    contact_sheet.save_image(Image.new("RGB", (1, 1)), tmp_path / "out/sheet.png")
    runs = tuple(str(tmp_path / folder.name) for folder in two)
    assert compare.compare_command(CompareSettings(runs, out=tmp_path / "out")) == 0
    assert capsys.readouterr().out.endswith("out: comparison.html, comparison.csv, comparison.tex\n")
    assert not (tmp_path / "out/sheet.png").exists()
    assert "<img" not in (tmp_path / "out/comparison.html").read_text()


@pytest.mark.parametrize("name", ["<b>x</b>", "a & b", "100 %", "x_y^2\\z"])
def test_names_are_taken_for_text(two, tmp_path, name):
    columns = [results.read_result(two[0], name), results.read_result(two[1], "other")]
    found = comparison.compare(columns)
    page = comparison_tables.to_html(found, None)
    assert "<b>x</b>" not in page
    cell = next(
        line
        for line in comparison_tables.to_latex(found).splitlines()
        if line.startswith(comparison_tables._latex(name))
    )
    assert len(cell.replace(r"\&", "").split("&")) == 1 + len([n for n in found.names if n in scoring.HEADLINE])

"""Evaluation and colouring, with a network that a short training left."""

import hashlib
import io
import json
import struct
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import deltaE_ciede2000, lab2rgb, rgb2lab
from skimage.metrics import peak_signal_noise_ratio

from koala import cli
from koala.config.data import DataSettings
from koala.config.evaluation import EvaluateSettings
from koala.config.inference import ExportSettings
from koala.core import distributed
from koala.core.errors import UserError
from koala.data import loader
from koala.data.sampler import SamplePositions
from koala.data.shards import Shards
from koala.evaluation import (
    evaluate,
    features,
    measuring,
    metrics,
    partial_results,
    predictions,
    protocol,
    results,
    scoring,
    summary,
    text_report,
)
from koala.evaluation.components import build_components
from koala.imaging import png_chunks
from koala.inference import export
from tests.processes import finish, start_several


@pytest.fixture
def evaluated(run, shard_folder, tmp_path):
    evaluate.evaluate(EvaluateSettings(run, shard_folder, out=tmp_path, batch_size=3, threads=2))
    return tmp_path


@pytest.mark.parametrize(("device", "asked", "batch"), [("cpu", 0, 32), ("cuda", 0, 128), ("cuda", 5, 5)])
def test_batches_fill_the_device(run, shard_folder, tmp_path, device, asked, batch):
    settings = EvaluateSettings(run, shard_folder, tmp_path, features="none", batch_size=asked, device="cpu")
    with distributed.open_accelerator("cpu", "no") as accelerator:
        components = build_components(settings, accelerator)
        there = SimpleNamespace(device=torch.device(device))
        assert evaluate.Evaluation(settings, components, there).measuring._batch == batch


def scores_of(folder: Path) -> dict:
    return json.loads((folder / "scores.json").read_text())["scores"]


def test_the_text_has_what_the_page_has():
    """Header, direction, intervals, the values of the photos themselves, baselines, hues, and the verdict."""
    protocol = {"name": "mine", "sha256": "0123456789", "lightness": "grey", "assembly": "color", "padding": "counted"}
    scores = {"mse": 0.0125, "psnr": 23.5, "fid": 30.25, "chroma_ratio": 0.75, "cf": 15.5, "cf_true": 39.75}
    report = {
        **{"protocol": protocol, "checkpoint": "runs/mine", "pictures": 8, "scores": scores, "judges": {}},
        "intervals": {"mse": (0.01, 0.015)},
        "baselines": {"grey": {"mse": 0.016}, "constant": {"mse": 0.014, "chroma_ratio": 0.5}, "own mean": {}},
        "nearer_than_grey": {"mse": 0.625},
        "constant": {"ab": [2.5, 9.0], "of": "the pictures that are judged"},
        "hues": {"red": {"predicted": 0.02, "true": 0.11}, "brown/orange": {"predicted": 0.98, "true": 0.89}},
        "verdict": {"beaten": False, "text": "these colours are no nearer"},
        "warnings": ["grey collapse: ..."],
        "left_out": {"lpips": "no weights"},
    }
    said = [
        "runs/mine: 8 pictures under the protocol mine (sha256 01234567)",
        "L* of the grey photo in, of the color photo out; padding counted",
        "",
        "score                       value   95 % interval          photos     grey constant own mean nearer",
        "mse                   ↓    0.0125   0.01 to 0.015                    0.016    0.014            62 %",
        "psnr                  ↑      23.5",
        "fid                   ↓     30.25",
        "chroma_ratio                 0.75                               1               0.5",
        "cf                           15.5                           39.75",
        "",
        "↓ lower is better, ↑ higher is better; intervals are over pictures (bootstrap)",
        "nearer: share of the pictures that are nearer to their photos than grey; constant: ab [2.5, 9.0], the mean of "
        "the pictures that are judged",
        "",
        "coloured pixels, %       red brown/orange",
        "predicted                2.0         98.0",
        "true                    11.0         89.0",
        "",
        "These colours are no nearer.",
        "warning: grey collapse: ...",
        "left out: lpips: no weights",
    ]
    assert text_report.lines(report) == said
    red = text_report.lines(report, colored=True)
    assert [line for line in red if line not in said] == ["\033[1;31mThese colours are no nearer.\033[0m"]


def test_pictures_have_their_sources_names_and_no_padding(evaluated, run, shard_folder):
    report = json.loads((evaluated / "scores.json").read_text())
    assert report["pictures"] == 8
    assert report["input_lightness"] == "grey"
    shards = Shards.open(shard_folder, "val")
    for sample in range(8):
        name = shards.describe(sample).source
        with Image.open(evaluated / "pictures" / f"{name}.png") as picture:
            assert max(picture.size) == 16, "the padding is cut off"
            ratio = int(shards.width[sample]) / int(shards.height[sample])
            assert picture.width / picture.height == pytest.approx(ratio, rel=0.07)


def predict(run, shards, **options):
    """The predictions of the validation set in one batch, with what made them."""
    settings = EvaluateSettings(run, shards, threads=2, **options)
    with distributed.open_accelerator(settings.device, settings.mixed_precision) as accelerator:
        evaluation = evaluate.Evaluation(settings, build_components(settings, accelerator), accelerator)
        (prediction,) = evaluation.measuring.predictions([np.arange(8)])
    return prediction


def test_saturation_multiplies_the_networks_colors(run, shard_folder):
    plain, strong = (predict(run, shard_folder, saturation=value).ab for value in (1.0, 1.5))
    assert plain.abs().max() > 0
    torch.testing.assert_close(strong, 1.5 * plain)


@pytest.mark.parametrize("assembly", ["grey", "color"])
def test_scores_against_scikit_image(run, shard_folder, assembly):
    """Squashed pictures have no padding, so that all pixels count."""
    prediction = predict(run, shard_folder, geometry="squash", assembly=assembly)
    scores = scoring.score_batch(prediction)
    ab = prediction.ab.numpy()
    for index, true in enumerate(prediction.photos.permute(0, 2, 3, 1).numpy()):
        true_lab = rgb2lab(true / 255)
        grey = np.asarray(Image.fromarray(true).convert("L").convert("RGB"))
        lightness = (true_lab if assembly == "color" else rgb2lab(grey / 255))[..., :1]
        joined = np.concatenate([lightness, ab[index].transpose(1, 2, 0) * 127], axis=-1)
        colored = np.round(lab2rgb(joined) * 255).astype(np.uint8)
        assert scores["psnr"][index].item() == pytest.approx(peak_signal_noise_ratio(true, colored), abs=0.02)
        error = np.square(ab[index] - true_lab[..., 1:].transpose(2, 0, 1) / 127).mean()
        assert scores["mse"][index].item() == pytest.approx(error, rel=1e-4)
        chroma = np.hypot(true_lab[..., 1], true_lab[..., 2]).mean() / 127
        assert scores["chroma_true"][index].item() == pytest.approx(chroma, rel=1e-4)
        difference = deltaE_ciede2000(rgb2lab(colored), true_lab).mean()
        assert scores["ciede2000"][index].item() == pytest.approx(difference, abs=0.02)


def test_psnr_is_that_of_the_pictures_that_were_written(run, shard_folder, tmp_path):
    """Recomputed from the PNGs by scikit-image."""
    settings = EvaluateSettings(run, shard_folder, out=tmp_path, geometry="squash", threads=2)
    evaluate.evaluate(settings)
    reported = scores_of(tmp_path)["psnr"]
    shards = Shards.open(shard_folder, "val")
    data = DataSettings(shard_folder, geometry="squash", size=16, threads=2)
    places = [SamplePositions(np.arange(8), np.zeros(8, int))]
    (batch,) = loader.load_batches(shards, places, data, "cpu", batch=8, with_rgb=True)
    ratios = []
    for sample, true in zip(batch.samples, batch.rgb.permute(0, 2, 3, 1).numpy(), strict=True):
        with Image.open(tmp_path / "pictures" / f"{shards.describe(sample).source}.png") as picture:
            ratios.append(peak_signal_noise_ratio(true, np.asarray(picture)))
    assert reported == pytest.approx(np.mean(ratios), abs=1e-6)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_scores_are_computed_in_full_precision(run, shard_folder, precision):
    """A network that knows the truth gets a PSNR that only rounding to 8 bits limits."""
    prediction = predict(run, shard_folder, mixed_precision=precision)
    truth = predictions.AssembledPrediction(prediction.batch, prediction.batch.ab, "color")
    scores = scoring.score_batch(truth)
    assert scores["psnr"].min() > 60
    assert scores["out_of_gamut"].max() == 0


def test_scores_do_not_depend_on_the_batch(evaluated, run, shard_folder, tmp_path):
    evaluate.evaluate(EvaluateSettings(run, shard_folder, out=tmp_path / "other", batch_size=8, threads=2, pictures=2))
    assert scores_of(evaluated) == pytest.approx(scores_of(tmp_path / "other"), rel=1e-6)
    assert len(list((tmp_path / "other/pictures").rglob("*.png"))) == 2
    assert len(list((evaluated / "pictures").rglob("*.png"))) == 8


def test_the_sheet_shows_grey_koala_original(evaluated):
    with Image.open(evaluated / "sheet.png") as sheet:
        assert sheet.size == (3 * 16 + 2 * 4, 20 + 8 * 16 + 7 * 4)
        columns = np.asarray(sheet)[20:36]
    spread = [np.ptp(columns[:, x : x + 16].astype(int), axis=-1).max() for x in (0, 20, 40)]
    assert spread[0] == 0 < spread[2]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "batch"), [(2, 3), (3, 3), (3, 7)])
def test_several_processes_score_as_one(run, shard_folder, tmp_path, processes, batch):
    """8 pictures: batches of 3, 3 and 2; or of 7 and 1, which leaves nothing to the third process."""
    evaluate.evaluate(EvaluateSettings(run, shard_folder, out=tmp_path / "one", batch_size=batch, threads=2))
    words = ("evaluate", str(run), "--shards", str(shard_folder), "--out", str(tmp_path / "several"))
    finish(start_several(processes, *words, "--threads", "2", "--batch-size", str(batch)))
    one, several = (results.read_result(tmp_path / name) for name in ("one", "several"))
    assert several.report["pictures"] == 8
    assert several.scores == pytest.approx(one.scores, rel=1e-6)
    assert several.images == one.images
    for name, values in one.table.items():
        assert several.table[name] == pytest.approx(values, rel=1e-6), name
    assert len(list((tmp_path / "several/pictures").rglob("*.png"))) == 8


# ---------------------------------------------------------------- what is written


def test_scores_say_all_that_they_depend_on(evaluated, run, shard_folder):
    report = json.loads((evaluated / "scores.json").read_text())
    protocol = report["protocol"]
    assert (protocol["geometry"], protocol["size"], protocol["lightness"], protocol["assembly"]) == (
        *("pad", 16, "grey"),
        "color",
    )
    assert protocol["padding"] == "left out"
    newest = sorted((run / "checkpoints").glob("0*"))[-1]
    assert report["checkpoint_sha256"] == hashlib.sha256((newest / "model.safetensors").read_bytes()).hexdigest()
    assert len(report["shards_sha256"]) == len(protocol["sha256"]) == 64
    assert report["left_out"].keys() == {"fid", "fd_efficientnet_lite0", "lpips"}
    assert "8 pictures are too few" in report["left_out"]["fid"]
    for name, (low, high) in report["intervals"].items():
        assert low <= report["scores"][name] <= high, name


def test_the_means_are_those_of_the_table(evaluated):
    found = results.read_result(evaluated)
    for name in ("mse", "psnr", "ssim", "ciede2000", "out_of_gamut", "chroma_true"):
        assert found.scores[name] == pytest.approx(found.table[name].mean(), rel=1e-6)
    means = {name: values.mean() for name, values in found.table.items()}
    assert found.scores["chroma_ratio"] == pytest.approx(means["chroma_predicted"] / means["chroma_true"])
    for variant in ("signed", "absolute"):
        mine, theirs = found.table[f"cf_{variant}"], found.table[f"cf_{variant}_true"]
        assert found.scores[f"dcf_{variant}_of_means"] == pytest.approx(abs(mine.mean() - theirs.mean()))
        assert found.scores[f"dcf_{variant}_of_pictures"] == pytest.approx(np.abs(mine - theirs).mean())
    assert found.scores["cf"] == found.scores["cf_signed"]
    assert found.scores["dcf"] == found.scores["dcf_signed_of_means"]


def test_the_page_needs_nothing_else_and_has_all(evaluated):
    page = Page((evaluated / "report.html").read_text("utf-8"))
    assert not page.outside, "no address leads out of the page"
    assert page.pictures == 3 * 3 * 2, "grey, coloured and original of the best, the median and the worst two"
    assert page.charts == 2 + 5
    assert {"scores", "protocol"} <= {title.lower() for title in page.titles}
    assert "width=device-width" in page.viewport
    assert (evaluated / "report.html").stat().st_size < 3e6


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.outside, self.titles, self.pictures, self.charts, self.viewport = [], [], 0, 0, ""
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.outside += [v for k, v in attributes if k in ("src", "href", "srcset") and not v.startswith("data:image/")]
        self.pictures += tag == "img"
        self.charts += tag == "svg"
        if values.get("name") == "viewport":
            self.viewport = values["content"]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        """Of SVG."""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.titles.append(data)


def test_the_convincing_are_ranked_by_name(evaluated, shard_folder):
    ranked = (evaluated / "convincing.txt").read_text().splitlines()
    shards = Shards.open(shard_folder, "val")
    assert sorted(ranked) == sorted(f"{shards.describe(sample).source}.png" for sample in range(8))
    assert all((evaluated / "pictures" / name).exists() for name in ranked)


def test_the_ranking_is_near_colorful_and_as_strong_as_the_photo():
    """By hand: of four coloured photos the first is nearest and as strong; the pale one is last however near."""
    table = {
        "ciede2000": np.array([9.0, 4.0, 5.0, 1.0, 6.0]),
        "chroma_predicted": np.array([0.1, 0.2, 0.1, 0.01, 0.4]),
        "chroma_true": np.array([0.2, 0.2, 0.2, 0.01, 0.2]),
    }
    order = scoring.rank_by_realism(table).tolist()
    assert order[0] == 1 and order[-1] == 3
    assert order.index(2) < order.index(0)
    assert scoring.is_pale(table).tolist() == [False, False, False, True, False]


def test_an_interrupted_evaluation_goes_on(run, shard_folder, tmp_path, monkeypatch):
    settings = EvaluateSettings(run, shard_folder, out=tmp_path, batch_size=3, threads=1)
    predict = predictions.NetworkPictures.predict
    seen = []

    def interrupted(self, batch):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(batch.samples)
        return predict(self, batch)

    monkeypatch.setattr(predictions.NetworkPictures, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(settings)
    assert not (tmp_path / "scores.json").exists()
    kept = len(list((tmp_path / "parts").glob("scores-*.npz")))
    assert kept >= 1

    written = []
    write = partial_results.PartialResults.write
    monkeypatch.setattr(
        partial_results.PartialResults, "write", lambda self, *part: written.append(part[0]) or write(self, *part)
    )
    monkeypatch.setattr(predictions.NetworkPictures, "predict", predict)
    evaluate.evaluate(settings)
    assert len(written) == 3 - kept, "what was done is not done again"
    whole = tmp_path / "whole"
    evaluate.evaluate(EvaluateSettings(run, shard_folder, out=whole, batch_size=3, threads=1))
    assert (tmp_path / "per_image.csv").read_bytes() == (whole / "per_image.csv").read_bytes()
    assert not (tmp_path / "parts").exists()


def test_what_is_done_is_not_done_again_unless_something_changed(evaluated, run, shard_folder, monkeypatch, capsys):
    before = (evaluated / "scores.json").stat().st_mtime_ns
    evaluate.evaluate(EvaluateSettings(run, shard_folder, out=evaluated, batch_size=3, threads=2))
    assert "holds this evaluation already" in capsys.readouterr().out
    assert (evaluated / "scores.json").stat().st_mtime_ns == before
    evaluate.evaluate(EvaluateSettings(run, shard_folder, out=evaluated, batch_size=3, threads=2, assembly="grey"))
    assert results.read_result(evaluated).report["protocol"]["assembly"] == "grey"


def test_other_presets_of_the_same_weights_are_judged_anew(run, shard_folder, tmp_path):
    presets, model, found = tmp_path / "presets.toml", tmp_path / "model", []
    for saturation in (1.0, 0.5):
        presets.write_text(f"[plain]\nsaturation = {saturation}\n")
        export.export_command(ExportSettings(run, model, presets=presets))
        evaluate.evaluate(EvaluateSettings(model, shard_folder, out=tmp_path / "out", features="none", threads=2))
        found.append(results.read_result(tmp_path / "out"))
    assert [each.report["look"]["saturation"] for each in found] == [1.0, 0.5]
    whole, half = (each.scores["chroma_predicted"] for each in found)
    assert half == pytest.approx(whole / 2, rel=1e-5)


def test_a_size_that_the_network_does_not_take_is_said(shard_folder, tmp_path):
    settings = EvaluateSettings(Path("builtin"), shard_folder, out=tmp_path / "out", size=200)
    with pytest.raises(UserError, match=r"builtin colours pictures whose sides are multiples of 32, not of 200 pixels"):
        evaluate.evaluate(settings)


def test_memory_holds_no_pictures(run, shard_folder, tmp_path, monkeypatch):
    """Of the batches that were scored, none is still there at the end but those under way."""
    import gc
    import weakref

    alive: list[weakref.ref] = []
    predict = predictions.NetworkPictures.predict

    def watched(self, batch):
        gc.collect()
        assert sum(reference() is not None for reference in alive) <= 3
        prediction = predict(self, batch)
        alive.append(weakref.ref(prediction))
        return prediction

    monkeypatch.setattr(predictions.NetworkPictures, "predict", watched)
    evaluate.evaluate(EvaluateSettings(run, shard_folder, out=tmp_path, batch_size=1, threads=1, sheet_rows=0))
    assert len(alive) >= 8


# ---------------------------------------------------------------- protocols


@pytest.fixture
def protocol_file(tmp_path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text('geometry = "crop"\nsize = 32\nlightness = "color"\nassembly = "grey"\ncolorfulness = "absolute"\n')
    return path


def test_a_protocol_decides(run, shard_folder, protocol_file, tmp_path):
    """Also on pictures of another size than the network was trained at."""
    evaluate.evaluate(EvaluateSettings(run, shard_folder, out=tmp_path / "out", protocol=str(protocol_file), threads=2))
    found = results.read_result(tmp_path / "out")
    assert found.report["input_lightness"] == "color"
    assert (found.report["geometry"], found.report["size"]) == ("crop", 32)
    assert found.scores["cf"] == found.scores["cf_absolute"]
    with Image.open(next((tmp_path / "out/pictures").rglob("*.png"))) as picture:
        assert picture.size == (32, 32)
    written = protocol.find_protocol(str(tmp_path / "out/protocol.toml"))
    assert protocol.protocol_hashes(written).sha256 == found.report["protocol"]["sha256"]


def test_padding_counts_where_the_protocol_says_so(run, shard_folder, tmp_path):
    found = {}
    for padding in ("counted", "left out"):
        (tmp_path / "mine.toml").write_text(f'size = 32\npadding = "{padding}"')
        out = tmp_path / padding
        evaluate.evaluate(EvaluateSettings(run, shard_folder, out=out, protocol=str(tmp_path / "mine.toml"), threads=2))
        found[padding] = results.read_result(out)
    counted, left_out = (found[padding].scores for padding in ("counted", "left out"))
    assert counted["chroma_true"] < 0.95 * left_out["chroma_true"], "black has no chroma"
    shards = Shards.open(shard_folder, "val")
    shares = [min(w, h) / max(w, h) for w, h in zip(shards.width, shards.height, strict=True)]
    ratios = found["counted"].table["chroma_true"] / found["left out"].table["chroma_true"]
    assert ratios == pytest.approx(shares, rel=0.1)


def test_images_are_chosen_by_a_list(run, shard_folder, tmp_path):
    shards = Shards.open(shard_folder, "val")
    chosen = sorted(shards.describe(sample).source for sample in (1, 4, 6))
    (tmp_path / "list.txt").write_text("\n".join(chosen))
    settings = EvaluateSettings(run, shard_folder, out=tmp_path / "out", ids=tmp_path / "list.txt", threads=2)
    evaluate.evaluate(settings)
    found = results.read_result(tmp_path / "out")
    assert sorted(found.images) == chosen
    (tmp_path / "list.txt").unlink()
    written = protocol.find_protocol(str(tmp_path / "out/protocol.toml"))
    assert protocol.protocol_hashes(written).ids_sha256 == found.report["protocol"]["ids_sha256"], (
        "the list is kept beside it"
    )


def test_some_of_the_images_have_another_hash_and_a_warning(run, shard_folder, tmp_path, capsys):
    """The report's protocol asks for 5,000 images; 5 of the 8 that are there are drawn, the same ones again."""
    words = ["evaluate", str(run), "--shards", str(shard_folder), "--protocol", "report", "--size", "16"]
    for name in ("one", "two"):
        assert cli.main([*words, "--threads", "2", "--limit", "5", "--out", str(tmp_path / name)]) == 0
    one, two = (results.read_result(tmp_path / name) for name in ("one", "two"))
    assert one.images == two.images and len(set(one.images)) == 5
    assert one.report["protocol"]["name"] == "report, size 16, limit 5"
    whole = protocol.override(protocol.find_protocol("report"), size=16)
    assert one.report["protocol"]["sha256"] != protocol.protocol_hashes(whole).sha256
    assert "warning: limit: 5 images were drawn; scores of all images are others" in capsys.readouterr().out
    written = protocol.find_protocol(str(tmp_path / "one/protocol.toml"))
    assert protocol.protocol_hashes(written).sha256 == one.report["protocol"]["sha256"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "val5k"}, "5000 of the 5000 images of val5k are not in .*, judge fewer with --limit"),
        ({"protocol": "val5k", "limit": 80}, "5000 of the 5000 images of val5k, limit 80 are not in .* all, or name"),
        ({"protocol": "report"}, r'report judges 5000 images, but .* \(split "val"\) holds 8'),
        ({"protocol": "ctest10k"}, "name the file that lists them with --ids FILE"),
        ({"protocol": "val5k", "filter": "chroma > 3"}, "val5k names its images; leave --filter out"),
        ({"protocol": "val6k"}, "there is no protocol val6k"),
        ({"geometry": "random_crop"}, "random_crop is another picture each time; judge with --geometry crop"),
        ({"inception": Path("nowhere.pth"), "lpips": Path("nowhere.pth"), "size": 32}, "nowhere.pth does not exist"),
    ],
)
def test_what_cannot_be_judged_so_is_said(run, shard_folder, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        evaluate.evaluate(EvaluateSettings(run, shard_folder, out=tmp_path, threads=2, **options))
    assert not (tmp_path / "scores.json").exists()


def test_distances_between_features(run, shard_folder, tmp_path, monkeypatch):
    """With features that can be had by hand: a picture's mean colours. The reference may be other images."""

    def few(*_):
        return features.FeatureNetwork("fid", "kid", 3, "0" * 64, False, lambda shown: shown.float().mean(dim=(2, 3)))

    monkeypatch.setattr(features, "build_feature_network", few)
    monkeypatch.setitem(features.NAMES, "inception_2015", ("fid", "kid", 3))
    monkeypatch.setattr(summary, "_PARTS_AT_ONCE", 2)
    shards = Shards.open(shard_folder, "val")
    names = [protocol.image_stem(shards.describe(sample).source) for sample in range(8)]
    for name, some in (("ids", names[:4]), ("reference", names[4:])):
        (tmp_path / f"{name}.txt").write_text("\n".join(some))
    (tmp_path / "other.toml").write_text('size = 32\n[ids]\nfile = "ids.txt"\n[reference]\nfile = "reference.txt"\n')
    (tmp_path / "same.toml").write_text('size = 32\n[ids]\nfile = "ids.txt"\n')
    data = DataSettings(shard_folder, size=32, threads=2)
    (batch,) = loader.load_batches(
        shards, [SamplePositions(np.arange(8), np.zeros(8, int))], data, "cpu", batch=8, with_rgb=True
    )
    true = batch.rgb.float().mean(dim=(2, 3)).numpy()
    for name, reference in (("same", true[:4]), ("other", true[4:])):
        settings = EvaluateSettings(
            run, shard_folder, out=tmp_path / name, protocol=str(tmp_path / f"{name}.toml"), batch_size=1, threads=2
        )
        with distributed.open_accelerator(settings.device, settings.mixed_precision) as accelerator:
            evaluation = evaluate.Evaluation(settings, build_components(settings, accelerator), accelerator)
            predictions = evaluation.measuring.predictions(np.arange(4)[:, None])
            made = np.concatenate([each.pictures.float().mean(dim=(2, 3)).numpy() for each in predictions])
        evaluate.evaluate(settings)
        scores = results.read_result(tmp_path / name).scores
        expected = metrics.frechet_distance(metrics.Moments.of(made), metrics.Moments.of(reference))
        assert scores["fid"] == pytest.approx(expected, rel=1e-4)
        assert scores["kid"] == pytest.approx(metrics.kernel_distance(made, reference), rel=1e-4)


def test_lpips_is_measured_where_its_weights_are_at_hand(run, shard_folder, tmp_path, capsys):
    """Random weights of torchvision's AlexNet, whose sha256 is not the published one."""
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.alexnet(weights=None)
    torch.save({f"features.{name}": value for name, value in network.features.state_dict().items()}, tmp_path / "a.pth")
    settings = EvaluateSettings(run, shard_folder, out=tmp_path / "out", size=32, lpips=tmp_path / "a.pth", threads=2)
    evaluate.evaluate(settings)
    found = results.read_result(tmp_path / "out")
    judge = features.build_lpips(tmp_path / "a.pth", torch.device("cpu"))
    prediction = predict(run, shard_folder, size=32)
    expected = judge.distance(prediction.pictures, prediction.photos)
    assert found.table["lpips"] == pytest.approx(expected.numpy(), rel=1e-4)
    assert found.report["judges"]["lpips"] == {"sha256": judge.sha256, "published": False}
    assert "lpips: its weights are not the published ones" in capsys.readouterr().out


# ---------------------------------------------------------------- pictures that others made


def others_pictures(evaluated: Path, folder: Path, rename=lambda name: name) -> Path:
    for path in (evaluated / "pictures").rglob("*.png"):
        target = folder / rename(path.relative_to(evaluated / "pictures").as_posix())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,
        lambda name: name.replace(".jpg.png", ".png"),
        lambda name: "flat/" + name.rpartition("/")[2].replace(".jpg.png", ".png"),
    ],
)
def test_pictures_of_others_are_judged_by_the_same_rules(evaluated, shard_folder, tmp_path, rename):
    """koala's own pictures, taken for another's, get koala's scores."""
    folder = others_pictures(evaluated, tmp_path / "others", rename)
    settings = EvaluateSettings(folder, shard_folder, protocol=str(evaluated / "protocol.toml"), threads=2)
    evaluate.evaluate(settings)
    mine, theirs = results.read_result(evaluated), results.read_result(tmp_path / "others-evaluation")
    for name in ("psnr", "ssim", "ciede2000", "cf_signed"):
        assert theirs.table[name] == pytest.approx(mine.table[name], rel=1e-6)
    assert theirs.scores["out_of_gamut"] == 0
    assert theirs.report["pictures_of"] == str(folder)
    assert not list(folder.rglob("scores.json")), "their folder stays as it is"


def test_pictures_that_do_not_fit_are_named(evaluated, shard_folder, tmp_path):
    folder = others_pictures(evaluated, tmp_path / "others")
    settings = EvaluateSettings(folder, shard_folder, protocol=str(evaluated / "protocol.toml"), threads=2)
    with pytest.raises(UserError, match=r"holds pictures, no checkpoint; say with --protocol how to judge them"):
        evaluate.evaluate(EvaluateSettings(folder, shard_folder))
    for options in ({"preset": "faithful"}, {"temperature": 0.5}):
        with pytest.raises(UserError, match="holds pictures, no network; leave out --preset and --temperature"):
            evaluate.evaluate(replace(settings, **options))
    one, other, *_ = sorted(folder.rglob("*.png"))
    Image.new("RGB", (20, 20)).save(one)
    with pytest.raises(UserError, match=r"is 20 x 20 pixels, but .* is \d\d x \d\d; colour the whole photo, at any"):
        evaluate.evaluate(settings)
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    chunks = (png_chunks.Chunk(kind, data, True) for kind, data in ((b"IHDR", head), (b"IDAT", b""), (b"IEND", b"")))
    bomb = png_chunks.SIGNATURE + b"".join(chunk.encoded() for chunk in chunks)
    for data, reason in ((b"no picture", "damaged picture|not an image"), (bomb, "a picture of too many pixels")):
        one.write_bytes(data)
        with pytest.raises(UserError, match=rf"{one.name}: ({reason})"):
            evaluate.evaluate(settings)
    one.unlink()
    other.unlink()
    with pytest.raises(UserError, match=r"holds no picture, or several, for 2 of 8 images, such as .*; name the pict"):
        evaluate.evaluate(settings)


def write_photos(shards: Path, folder: Path, change=lambda photo: photo) -> Path:
    """The photos of the validation split at full size, changed, as PNG."""
    opened = Shards.open(shards, "val")
    for sample in range(len(opened)):
        path = folder / f"{opened.describe(sample).source}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(opened.read(sample).tobytes())) as photo:
            change(photo.convert("RGB")).save(path)
    return folder


@pytest.mark.parametrize("geometry", ["crop", "pad", "squash"])
def test_full_size_pictures_are_cut_and_resized_as_the_photos_are(shard_folder, tmp_path, geometry):
    """The photos themselves, at their own size, are the truth to the last bit."""
    write_photos(shard_folder, tmp_path / "same")
    (tmp_path / "mine.toml").write_text(f'size = 16\ngeometry = "{geometry}"\n')
    settings = EvaluateSettings(tmp_path / "same", shard_folder, protocol=str(tmp_path / "mine.toml"), threads=2)
    evaluate.evaluate(settings)
    found = results.read_result(tmp_path / "same-evaluation")
    assert found.scores["mse"] == 0
    assert found.scores["psnr"] == 100


def test_pictures_of_another_size_than_their_photos(shard_folder, tmp_path):
    """Twice as large they are near the truth, and the same as another colouriser's own enlargement."""
    write_photos(shard_folder, tmp_path / "large", lambda photo: photo.resize((2 * photo.width, 2 * photo.height)))
    settings = EvaluateSettings(tmp_path / "large", shard_folder, protocol="photos", size=16, threads=2)
    evaluate.evaluate(settings)
    assert results.read_result(tmp_path / "large-evaluation").scores["psnr"] > 35


def test_ab_alone_can_be_judged(shard_folder, tmp_path):
    """Photos made darker and half as colourful: as pictures they are wrong; the best factor is the rest."""

    def darker(photo: Image.Image) -> Image.Image:
        lab = rgb2lab(np.asarray(photo) / 255) * [0.9, 0.5, 0.5]
        return Image.fromarray(np.round(lab2rgb(lab) * 255).astype(np.uint8))

    write_photos(shard_folder, tmp_path / "dark", darker)
    found = {}
    for judged, saturation in (("pictures", 1.0), ("ab", 1.0), ("ab", 2.0)):
        settings = EvaluateSettings(
            *(tmp_path / "dark", shard_folder, tmp_path / f"{judged} {saturation}"),
            **{"protocol": "photos", "size": 16, "judged": judged, "saturation": saturation, "threads": 2},
        )
        evaluate.evaluate(settings)
        found[judged, saturation] = results.read_result(settings.out).scores
    assert found["ab", 1.0]["mse"] == pytest.approx(found["pictures", 1.0]["mse"], rel=1e-6)
    assert found["ab", 1.0]["psnr"] > found["pictures", 1.0]["psnr"] + 0.5, "their lightness is not held against them"
    assert found["ab", 1.0]["best_factor"] == pytest.approx(2, rel=0.02)
    assert found["ab", 2.0]["best_factor"] == pytest.approx(1, rel=0.02)
    assert found["ab", 2.0]["mse"] == pytest.approx(found["ab", 1.0]["mse_best_factor"], abs=1e-5)
    settings = EvaluateSettings(tmp_path / "dark", shard_folder, protocol="report", ids=None, saturation=2.0)
    with pytest.raises(UserError, match="the pictures are judged as they are; add --judged ab"):
        evaluate.evaluate(replace(settings, protocol=str(tmp_path / "pictures 1.0/protocol.toml")))


def test_names_cannot_leave_the_folder():
    assert measuring.picture_name("/etc/../../passwd.jpg") == Path("etc/passwd.jpg.png")


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_what_is_no_checkpoint_is_said(tmp_path, shard_folder, content):
    if content is not None:
        (tmp_path / "checkpoint.json").write_text(content)
    with pytest.raises(UserError, match=r"holds no checkpoint|checkpoint.json is damaged"):
        evaluate.evaluate(EvaluateSettings(tmp_path, shard_folder))

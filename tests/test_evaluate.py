"""Evaluation and colouring, with a network that a short training left."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.color import deltaE_ciede2000, lab2rgb, rgb2lab
from skimage.metrics import peak_signal_noise_ratio

import koala
from koala import config, distributed, evaluate, photos, pipeline, predictions, scoring, train
from koala.color import rgb_to_lab
from koala.errors import UserError
from koala.order import Places
from koala.shards import Shards
from tests.photographs import jpeg, make_photo
from tests.processes import finish, start_two


@pytest.fixture
def evaluated(run, shard_folder, tmp_path):
    evaluate.evaluate(config.Evaluate(run, shard_folder, out=tmp_path, batch=3, threads=2))
    return tmp_path


def scores_of(folder: Path) -> dict:
    return json.loads((folder / "scores.json").read_text())["scores"]


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
    settings = config.Evaluate(run, shards, threads=2, **options)
    with distributed.accelerated(settings) as accelerator:
        evaluation = evaluate.Evaluation(settings, accelerator)
        (prediction,) = evaluation.predictions([np.arange(8)])
    return prediction


@pytest.mark.parametrize("assembly", ["grey", "color"])
def test_scores_against_scikit_image(run, shard_folder, assembly):
    """Squashed pictures have no padding, so that all pixels count."""
    prediction = predict(run, shard_folder, geometry="squash", assembly=assembly)
    scores = scoring.score(prediction)
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
    settings = config.Evaluate(run, shard_folder, out=tmp_path, geometry="squash", threads=2)
    evaluate.evaluate(settings)
    reported = scores_of(tmp_path)["psnr"]
    shards = Shards.open(shard_folder, "val")
    data = config.Data(shard_folder, geometry="squash", size=16, threads=2)
    places = [Places(np.arange(8), np.zeros(8, int))]
    (batch,) = pipeline.batches(shards, places, data, "cpu", batch=8, with_rgb=True)
    ratios = []
    for sample, true in zip(batch.samples, batch.rgb.permute(0, 2, 3, 1).numpy(), strict=True):
        with Image.open(tmp_path / "pictures" / f"{shards.describe(sample).source}.png") as picture:
            ratios.append(peak_signal_noise_ratio(true, np.asarray(picture)))
    assert reported == pytest.approx(np.mean(ratios), abs=1e-6)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_scores_are_computed_in_full_precision(run, shard_folder, precision):
    """A network that knows the truth gets a PSNR that only rounding to 8 bits limits."""
    prediction = predict(run, shard_folder, mixed_precision=precision)
    truth = predictions.Assembled(prediction.batch, prediction.batch.ab, "color")
    scores = scoring.score(truth)
    assert scores["psnr"].min() > 60
    assert scores["out_of_gamut"].max() == 0


def test_scores_do_not_depend_on_the_batch(evaluated, run, shard_folder, tmp_path):
    evaluate.evaluate(config.Evaluate(run, shard_folder, out=tmp_path / "other", batch=8, threads=2, pictures=2))
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
def test_two_processes_score_as_one(evaluated, run, shard_folder, tmp_path):
    out = tmp_path / "two"
    finish(start_two("evaluate", str(run), "--shards", str(shard_folder), "--out", str(out), "--threads", "2"))
    one, two = (json.loads((path / "scores.json").read_text()) for path in (evaluated, out))
    assert one["pictures"] == two["pictures"] == 8
    assert one["scores"] == pytest.approx(two["scores"], rel=1e-6)
    assert len(list((out / "pictures").rglob("*.png"))) == 8


def test_names_cannot_leave_the_folder():
    assert evaluate.picture_name("/etc/../../passwd.jpg") == Path("etc/passwd.jpg.png")


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_what_is_no_checkpoint_is_said(tmp_path, shard_folder, content):
    if content is not None:
        (tmp_path / "checkpoint.json").write_text(content)
    with pytest.raises(UserError, match=r"holds no checkpoint|checkpoint.json is damaged"):
        evaluate.evaluate(config.Evaluate(tmp_path, shard_folder))


# ---------------------------------------------------------------- photos


@pytest.mark.parametrize("size", [(60, 40), (33, 71), (1, 1), (5, 300)])
def test_photos_keep_their_size_and_lightness(run, size):
    photo = np.asarray(make_photo(2, *size).convert("L"))
    colored = koala.colorize(photo, koala.load_model(run))
    assert colored.shape == (*photo.shape, 3) and colored.dtype == np.uint8
    truth = rgb_to_lab(np.repeat(photo[..., None], 3, axis=-1))[..., 0]
    assert np.median(np.abs(rgb_to_lab(colored)[..., 0] - truth)) < 0.5


def test_a_color_photo_is_seen_in_grey(run):
    """Two photos of the same greys get the same colours, whatever theirs were."""
    model = koala.load_model(run)
    red = np.full((16, 16, 3), (130, 0, 0), np.uint8)
    green = np.full((16, 16, 3), (0, 66, 0), np.uint8)  # the same grey: 39
    ab = [rgb_to_lab(koala.colorize(photo, model))[..., 1:].mean() for photo in (red, green)]
    assert ab[0] == pytest.approx(ab[1], abs=1.0)


def test_files_and_folders_are_colored_and_bad_ones_named(run, tmp_path, capsys):
    album = tmp_path / "album"
    (album / "inner").mkdir(parents=True)
    (album / "one.jpg").write_bytes(jpeg(make_photo(1)))
    make_photo(2).save(album / "inner/two.png")
    (album / "bad.jpg").write_text("no picture")
    (album / "empty.png").write_bytes(b"")
    settings = config.Colorize((album, tmp_path / "missing.jpg"), run, tmp_path / "out")
    assert photos.colorize_command(settings) == 1
    made = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert made == ["inner/two.png", "one.jpg"]
    captured = capsys.readouterr()
    assert "2 coloured, 3 could not be read" in captured.out
    for name in ("bad.jpg", "empty.png", "missing.jpg"):
        assert sum(name in line for line in captured.err.splitlines()) == 1


def test_no_photo_is_written_over(run, tmp_path):
    album = tmp_path / "album"
    album.mkdir()
    (album / "one.jpg").write_bytes(jpeg(make_photo(1)))
    before = (album / "one.jpg").read_bytes()
    with pytest.raises(UserError, match=r"would be written over .*one.jpg; choose another --out"):
        photos.colorize_command(config.Colorize((album,), run, album))
    assert (album / "one.jpg").read_bytes() == before


def test_two_photos_do_not_become_one(run, tmp_path):
    for name in ("one.jpg", "one.jpeg"):
        (tmp_path / name).write_bytes(jpeg(make_photo(1)))
    with pytest.raises(UserError, match=r"one.jpeg and .*one.jpg would both become"):
        photos.colorize_command(config.Colorize((tmp_path,), run, tmp_path / "out"))


def test_the_extractors_weights_can_be_brought(shard_folder, tmp_path):
    """Trained with a file that has moved since; another file is refused."""
    from safetensors.torch import save_file

    from koala import extractor

    for seed, name in ((1, "first"), (2, "other")):
        model = extractor.build(config.Extractor("tf_efficientnet_lite0", weights="random"), seed).model
        save_file(
            {key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / f"{name}.safetensors"
        )
    train.train(
        config.Train(
            data=config.Data(shard_folder, size=16, threads=2),
            extractor=config.Extractor("tf_efficientnet_lite0", weights=str(tmp_path / "first.safetensors")),
            batch=8,
            epochs=0.2,
            run=tmp_path / "run",
        )
    )
    (tmp_path / "first.safetensors").rename(tmp_path / "moved.safetensors")
    with pytest.raises(UserError, match=r"first.safetensors does not exist; --extractor.weights names"):
        koala.load_model(tmp_path / "run")
    with pytest.raises(UserError, match=r"not those that .* was trained with; name their file with --extractor"):
        koala.load_model(tmp_path / "run", tmp_path / "other.safetensors")
    assert koala.load_model(tmp_path / "run", tmp_path / "moved.safetensors").size == 16


def test_all_good_is_zero(run, tmp_path):
    (tmp_path / "one.jpg").write_bytes(jpeg(make_photo(1)))
    assert photos.colorize_command(config.Colorize((tmp_path / "one.jpg",), run, tmp_path / "out")) == 0


@pytest.mark.parametrize("photo", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_arrays_that_are_no_photo(run, photo):
    with pytest.raises(ValueError, match="uint8"):
        koala.colorize(photo, koala.load_model(run))

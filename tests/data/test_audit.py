"""The audit: what it measures, what it flags, when it looks again, and what may be left out by it."""

import csv
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from skimage.color import lab2rgb, rgb2lab

from koala import cli
from koala.config.data import DataSettings, ShardRecipe, WriteShards
from koala.config.evaluation import EvaluateSettings
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.data import audit, sample_filter, shard_writer
from koala.data.sampler import EpochSampler
from koala.data.shards import Shards
from koala.evaluation import evaluate
from koala.imaging import color
from koala.imaging.color import rgb_to_lab
from koala.models import checkpoint
from koala.training import trainer
from tests.photographs import jpeg, make_photo, scene

TONES = {  # a*, b* of the middle tones; white and black stay as they are
    "sepia": (9.0, 24.0),
    "cyanotype": (-4.0, -30.0),
    "selenium": (14.0, -2.0),
}


def toned(lightness: np.ndarray, tone: tuple[float, float]) -> Image.Image:
    strength = 1 - np.square(lightness / 50 - 1)
    lab = np.stack([lightness, *(strength * axis for axis in tone)], axis=-1)
    return Image.fromarray((lab2rgb(lab) * 255).round().astype(np.uint8))


def write(folder, photos: dict[str, bytes], out, **recipe):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in photos.items():
        (folder / name).write_bytes(data)
    return shard_writer.write_shards(WriteShards(folder, out, ShardRecipe(**recipe)))


def rows(folder, shard="train-000000") -> list[dict[str, str]]:
    lines = (folder / f"{shard}.audit.csv").read_text().splitlines()
    return list(csv.DictReader(lines[1:]))


@pytest.fixture(scope="module")
def audited_once(shard_folder, tmp_path_factory):
    folder = shutil.copytree(shard_folder, tmp_path_factory.mktemp("audited") / "shards")
    audit.audit_shards(folder)
    return folder


@pytest.fixture
def audited(audited_once, tmp_path):
    """The shards of `shard_folder` with their audit, to be changed at will."""
    return shutil.copytree(audited_once, tmp_path / "audited")


# ---------------------------------------------------------------- of one picture


def test_colorfulness_by_hand():
    """A red and a blue pixel: rg is 255 and 0, yb is 127.5 and -255.

    Means 127.5 and -63.75, standard deviations 127.5 and 191.25; so M3 is sqrt(127.5^2 + 191.25^2)
    + 0.3 sqrt(127.5^2 + 63.75^2) = 229.8539 + 42.7642.
    """
    picture = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    assert color.colorfulness(picture) == pytest.approx(272.6181, abs=1e-3)
    assert color.colorfulness(np.full((4, 4, 3), 90, np.uint8)) == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_chroma_against_scikit_image(seed):
    """Small enough not to be made smaller."""
    data = jpeg(make_photo(seed, 120, 90))
    with Image.open(io.BytesIO(data)) as image:
        lab = rgb2lab(np.asarray(image))
    expected = np.hypot(lab[..., 1], lab[..., 2]).mean()
    assert audit.measure_colors(data).chroma == pytest.approx(expected, abs=0.01)


def test_chroma_of_a_large_picture_is_about_that_at_full_size():
    photo = make_photo(3, 1100, 900)
    small, full = audit.measure_colors(jpeg(photo)), audit.mean_chroma(rgb_to_lab(np.asarray(photo)))
    assert small.chroma == pytest.approx(full, rel=0.02)
    assert small.colorfulness == pytest.approx(color.colorfulness(np.asarray(photo)), rel=0.02)


def test_one_channel_and_three_equal_ones_are_grey():
    grey = make_photo(1, 300, 200).convert("L")
    one, three = audit.measure_colors(jpeg(grey)), audit.measure_colors(jpeg(grey.convert("RGB")))
    assert (one.color_model, three.color_model) == ("grey", "rgb")
    for colors in (one, three):
        assert colors.grey and colors.near_grey and not colors.sepia
        assert colors.chroma < 0.01 and colors.colorfulness == 0


def test_grey_is_made_sure_of_at_full_size():
    """A tinge of one level in some pixels is lost in the smaller picture."""
    pixels = np.asarray(make_photo(1, 800, 600).convert("L").convert("RGB")).copy()
    pixels[200:204, 300:304] += np.array([0, 0, 12], np.uint8)
    colors = audit.measure_colors(jpeg(Image.fromarray(pixels), quality=100, subsampling="4:4:4"))
    assert not colors.grey and colors.near_grey


@pytest.mark.parametrize("noise", [1.5, 5])
def test_grey_with_noise_in_its_colours_is_near_grey(noise):
    pixels = np.asarray(make_photo(2, 300, 200).convert("L").convert("RGB"))
    noisy = pixels + np.random.default_rng(0).normal(0, noise, pixels.shape)
    colors = audit.measure_colors(jpeg(Image.fromarray(noisy.clip(0, 255).astype(np.uint8))))
    assert colors.near_grey and not colors.grey and not colors.sepia


def test_a_small_red_thing_on_paper_is_not_near_grey():
    """Two pixels of a hundred, though the mean chroma is below 2."""
    pixels = np.full((200, 200, 3), 250, np.uint8)
    pixels[:24, :24] = (200, 60, 70)
    colors = audit.measure_colors(jpeg(Image.fromarray(pixels)))
    assert colors.chroma < 2 and not colors.near_grey


@pytest.mark.parametrize("tone", TONES)
@pytest.mark.parametrize("quality", [75, 95])
def test_toned_pictures_are_found(tone, quality):
    for seed in range(3):
        colors = audit.measure_colors(jpeg(toned(scene(seed), TONES[tone]), quality=quality))
        assert colors.sepia and not colors.near_grey and not colors.grey


@pytest.mark.parametrize("seed", range(6))
def test_photographs_in_colour_have_no_flag(seed):
    colors = audit.measure_colors(jpeg(make_photo(seed, 300, 200)))
    assert not (colors.grey or colors.near_grey or colors.sepia)


@pytest.mark.slow
def test_real_photographs(real_photos, tmp_path):
    """Counted by eye: 11 files of one channel, 2 more without colours, 4 toned; and a brick wall that seems to be."""
    shard_writer.write_shards(WriteShards(real_photos, tmp_path, ShardRecipe(samples_per_shard=300)))
    audit.audit_shards(tmp_path, workers=2)
    found = rows(tmp_path) + rows(tmp_path, "train-000001")
    count = {name: sum(row[name] == "True" for row in found) for name in audit.FLAGS}
    assert count == {"grey": 11, "near_grey": 13, "sepia": 5}
    assert sum(row["color_model"] == "grey" for row in found) == 11


# ---------------------------------------------------------------- of a folder


def test_a_row_for_each_sample(audited):
    opened = Shards.open(audited, "train")
    found = [row for shard in range(4) for row in rows(audited, f"train-{shard:06d}")]
    assert tuple(found[0]) == audit.COLUMNS
    for number, row in enumerate(found):
        description = opened.describe(number)
        assert (row["sample"], row["key"], row["source"]) == (str(number % 10), description.key, description.source)
        assert (int(row["width"]), int(row["height"])) == (opened.width[number], opened.height[number])
        assert float(row["chroma"]) == pytest.approx(
            audit.measure_colors(opened.read(number).tobytes()).chroma, abs=1e-3
        )
    grey = [row["source"] for row in found + rows(audited, "val-000000") if row["color_model"] == "grey"]
    assert grey == ["first/photo 05.jpg"]


def times(folder) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.audit.csv")}


def test_what_is_audited_is_not_looked_at_again(audited, monkeypatch):
    before = times(audited)
    (audited / "train-000002.audit.csv").unlink()
    (audited / "train-000001.audit.csv").write_text("half a li")
    audit.audit_shards(audited, "train")
    after = times(audited)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"train-000001.audit.csv", "train-000002.audit.csv"}
    monkeypatch.setattr(audit, "measure_colors", None)
    audit.audit_shards(audited)


def test_a_changed_shard_is_audited_again(photo_folder, audited):
    for path in [*audited.glob("train-000003.*"), *audited.glob("*.audit.csv")]:
        if path.name != "train-000003.audit.csv":
            path.unlink()
    (audited / "manifest.json").unlink()
    old = (audited / "train-000003.audit.csv").read_text()
    for kind in ("tar", "idx", "json"):
        shutil.copy(audited / f"train-000000.{kind}", audited / f"train-000003.{kind}")
    record = json.loads((audited / "train-000003.json").read_text())
    (audited / "train-000003.json").write_text(json.dumps({**record, "shard": "train-000003.tar"}))
    audit.audit_shards(audited)
    assert (audited / "train-000003.audit.csv").read_text() != old
    assert rows(audited, "train-000003") == rows(audited, "train-000000")


def test_shards_still_being_written_are_left_for_later(shard_folder, tmp_path):
    folder = shutil.copytree(shard_folder, tmp_path / "shards")
    (folder / "manifest.json").unlink()
    (folder / "train-000003.json").unlink()
    assert audit.audit_shards(folder, "train") == [f"train-00000{number}.tar" for number in range(3)]
    assert sorted(times(folder)) == [f"train-00000{number}.audit.csv" for number in range(3)]
    assert not list(folder.glob("*.part"))


def test_two_processes_find_the_same(audited, shard_folder, tmp_path):
    folder = shutil.copytree(shard_folder, tmp_path / "shards")
    audit.audit_shards(folder, workers=2)
    for path in audited.glob("*.audit.csv"):
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_a_damaged_picture_is_named_also_by_another_process(shard_folder, tmp_path):
    folder = shutil.copytree(shard_folder, tmp_path / "shards")
    opened = Shards.open(folder, "train")
    key, data = opened.describe(12).key, opened.read(12).tobytes()
    tar = folder / "train-000001.tar"
    tar.write_bytes(tar.read_bytes().replace(data, b"x" * len(data)))
    for workers in (1, 2):
        with pytest.raises(UserError, match=rf"train-000001.tar: {key} \(.*\) does not decode"):
            audit.audit_shards(folder, workers=workers)


def test_names_of_all_kinds_are_kept(tmp_path):
    names = [
        "a,b.jpg",
        'quo"te.jpg',
        "two\nlines.jpg",
        "NA",
        "#1.jpg",
        "Süß.jpg",
        b"gr\xfcn.jpg".decode("utf-8", "surrogateescape"),
    ]
    write(tmp_path / "in", {name: jpeg(make_photo(1)) for name in names}, tmp_path / "out")
    audit.audit_shards(tmp_path / "out")
    opened = Shards.open(tmp_path / "out", "train")
    for number, name in enumerate(opened.describe(i).source for i in range(len(opened))):
        if name.isprintable() and '"' not in name:
            keep = sample_filter.filter_samples(tmp_path / "out", "train", f'source == "{name}"')
            assert np.flatnonzero(keep).tolist() == [number]
    assert sample_filter.filter_samples(tmp_path / "out", "train", "chroma > 0").all()


def test_the_command_says_and_draws(tmp_path, capsys):
    photos = {f"{seed}.jpg": jpeg(make_photo(seed)) for seed in range(6)}
    photos["grey.jpg"] = jpeg(make_photo(7).convert("L"))
    photos["sepia.jpg"] = jpeg(toned(scene(1), TONES["sepia"]))
    write(tmp_path / "in", photos, tmp_path / "out")
    assert cli.main(["shards", "audit", str(tmp_path / "out")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["8", "images", "in", "1", "shard"]
    assert lines[1:5] == [
        ["one", "channel", "1", "12.50", "%"],
        ["grey", "1", "12.50", "%"],
        ["near", "grey", "1", "12.50", "%"],
        ["sepia", "1", "12.50", "%"],
    ]
    assert [line[0] for line in lines[6:8]] == ["chroma", "colorfulness"]
    drawn = sorted(path.name for path in (tmp_path / "out/audit").iterdir())
    assert drawn == ["chroma.png", "colorfulness.png", "grey.png", "near_grey.png", "sepia.png", "short_side.png"]
    with Image.open(tmp_path / "out/audit/sepia.png") as sheet:
        assert sheet.size == (128, 148), "one picture and the name"
        shown = np.asarray(sheet)[20:, :, :].reshape(-1, 3)
    assert (shown[:, 0].astype(int) - shown[:, 2]).max() > 20, "in its own colours"


def test_no_shards_are_said(tmp_path, capsys):
    assert cli.main(["shards", "audit", str(tmp_path)]) == 2
    assert "holds no whole shard; make some with koala shards write" in capsys.readouterr().err


# ---------------------------------------------------------------- leaving samples out


def test_select_is_what_the_table_says(audited):
    found = [row for shard in range(4) for row in rows(audited, f"train-{shard:06d}")]
    chroma = np.array([float(row["chroma"]) for row in found])
    middle = float(np.median(chroma))
    keep = sample_filter.filter_samples(audited, "train", f"chroma >= {middle}")
    assert keep.dtype == np.bool_ and np.array_equal(keep, chroma >= middle) and 0 < keep.sum() < 40
    assert np.array_equal(sample_filter.filter_samples(audited, "train", f"not chroma >= {middle}"), chroma < middle)
    both = sample_filter.filter_samples(
        audited, "train", f'chroma < {middle} and\n color_model == "rgb" and not (grey or sepia)'
    )
    expected = [row["color_model"] == "rgb" and float(row["chroma"]) < middle for row in found]
    assert both.tolist() == expected
    assert sample_filter.filter_samples(audited, "train", "sample in [0, 1]").sum() == 8
    assert sample_filter.filter_samples(audited, "train", "width > height & chroma > 0").tolist() == [
        int(row["width"]) > int(row["height"]) for row in found
    ]


def test_kept_samples_are_numbered_anew(audited):
    whole = Shards.open(audited, "train")
    keep = np.random.default_rng(0).random(40) < 0.5
    keep[10:20] = False  # a whole shard
    kept = Shards.open(audited, "train", keep)
    numbers = np.flatnonzero(keep)
    assert len(kept) == sum(kept.shard_sizes) == len(numbers)
    assert kept.shard_sizes == tuple(int(part.sum()) for part in keep.reshape(4, 10))
    assert np.array_equal(kept.numbers, numbers)
    for sample, number in enumerate(map(int, numbers)):
        assert np.array_equal(kept.read(sample), whole.read(number))
        assert kept.describe(sample) == whole.describe(number)
        assert kept.place(sample) == whole.place(number) == divmod(number, 10)
    assert np.array_equal(kept.height, whole.height[keep]) and np.array_equal(kept.width, whole.width[keep])
    assert kept.selection != whole.selection


def test_each_epoch_is_a_permutation_of_what_is_kept(audited):
    kept = sample_filter.open_filtered(audited, "train", 'color_model == "rgb" and width > 50')
    order = EpochSampler(kept.shard_sizes, seed=3, shards_per_block=2)
    places = order.positions(0, 3 * len(kept))
    met = [kept.describe(int(sample)).key for sample in places.samples]
    expected = sorted(
        row["key"]
        for shard in range(4)
        for row in rows(audited, f"train-{shard:06d}")
        if row["color_model"] == "rgb" and int(row["width"]) > 50
    )
    assert 0 < len(expected) < 40
    epochs = [met[epoch * len(kept) : (epoch + 1) * len(kept)] for epoch in range(3)]
    assert all(sorted(epoch) == expected for epoch in epochs)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("chrom >= 5", "there is no column chrom in the condition .*; known: sample, key, source, width"),
        ("chroma", "is not true or false of each sample; write a condition such as"),
        ("1 < 2", "is not true or false of each sample"),
        ("chroma >=", '"chroma >=" is no condition; write one such as'),
        ("chroma = 5", "is no condition"),
        ("source.str.len() > 3", "does more than compare columns"),
        ("__import__('os').getcwd() == chroma", "does more than compare columns"),
        ("@x > chroma", "is no condition"),
        ("source > 5", "cannot be worked out"),
        ("not chroma", "cannot be worked out"),
        ("chroma > 1000", 'no "train" sample in .* meets the condition "chroma > 1000"'),
    ],
)
def test_bad_conditions_are_one_sentence(audited_once, where, message):
    with pytest.raises(UserError, match=message) as error:
        sample_filter.open_filtered(audited_once, "train", where)
    assert len(str(error.value).splitlines()) == 1


def test_no_audit_or_an_old_one_is_said(audited, shard_folder):
    message = "no audit of train-000000.tar as it is; run koala shards audit"
    with pytest.raises(UserError, match=message):
        sample_filter.open_filtered(shard_folder, "train", "grey")
    path = audited / "train-000000.audit.csv"
    text = path.read_text()
    path.write_text(text.replace("sha256 ", "sha256 0"))
    with pytest.raises(UserError, match=message):
        sample_filter.open_filtered(audited, "train", "chroma > 5")
    path.write_text("\n".join(text.splitlines()[:5]))
    with pytest.raises(UserError, match=r"train-000000.audit.csv is damaged; delete it"):
        sample_filter.open_filtered(audited, "train", "chroma > 5")
    path.write_text(text.replace("chroma,", "chrome,"))
    with pytest.raises(UserError, match=r"train-000000.audit.csv is damaged \(.*delete it"):
        sample_filter.open_filtered(audited, "train", "chroma > 5")


def test_a_split_without_samples_is_said(photo_folder, tmp_path):
    shard_writer.write_shards(WriteShards(photo_folder, tmp_path))
    audit.audit_shards(tmp_path)
    with pytest.raises(UserError, match='holds no "val" samples'):
        sample_filter.open_filtered(tmp_path, "val", "chroma > 5")


def test_training_and_evaluation_with_a_condition(audited, tmp_path):
    """A training of an epoch sees as many images as are kept, and does not go on with others."""
    where = 'color_model == "rgb" and width > 50'
    kept = {split: len(sample_filter.open_filtered(audited, split, where)) for split in ("train", "val")}
    settings = TrainSettings(
        data=DataSettings(audited, size=16, threads=2, filter=where),
        extractor=ExtractorSettings("none"),
        batch_size=4,
        epochs=1,
        run=tmp_path / "run",
    )
    assert trainer.train(settings) == 0
    assert checkpoint.find_checkpoint(tmp_path / "run").images_seen == -(-kept["train"] // 4) * 4 < 40
    scored = EvaluateSettings(tmp_path / "run", audited, filter=where, threads=2, out=tmp_path / "scores")
    assert evaluate.evaluate(scored) == 0
    report = json.loads((tmp_path / "scores/scores.json").read_text())
    assert report["pictures"] == kept["val"] < 8
    with pytest.raises(UserError, match=r"was begun with data.filter = color_model"):
        trainer.train(replace(settings, epochs=2, data=replace(settings.data, filter="")))
    path = audited / "train-000000.audit.csv"
    path.write_text(path.read_text().replace(",rgb,", ",grey,"))
    with pytest.raises(UserError, match="was begun on other shards"):
        trainer.train(replace(settings, epochs=2))

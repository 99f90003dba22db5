"""The prior over colours: measured by the audit, kept with the shards, read by training."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from koala.config.data import MeasurePrior, ShardRecipe, SplitRule, WriteShards
from koala.core.errors import UserError
from koala.data import audit, color_prior, sample_filter, shard_writer
from koala.imaging import ab_bins, color
from tests.photographs import jpeg


def test_the_prior_is_that_of_the_training_pictures(tmp_path):
    """Six red pictures and two grey ones: three quarters of the places are of one bin, a quarter of another."""
    photos, shards = tmp_path / "photos", tmp_path / "shards"
    photos.mkdir()
    red = np.full((32, 48, 3), (200, 40, 30), np.uint8)
    for number in range(8):
        picture = Image.fromarray(red) if number < 6 else Image.new("L", (40, 40), 90)
        (photos / f"{number}.jpg").write_bytes(jpeg(picture, quality=100, subsampling="4:4:4"))
    shard_writer.write_shards(WriteShards(photos, shards, ShardRecipe(samples_per_shard=3)))
    assert color_prior.prior_command(MeasurePrior(shards)) == 0
    found = np.genfromtxt(color_prior.prior_path(shards), delimiter=",", names=True, skip_header=1)
    middle = np.floor(color.rgb_to_lab(red[:1, :1])[0, 0, 1:] / 10 + 0.5) * 10
    hit = {(row["a"], row["b"]): row["pictures"] for row in found if row["pictures"]}
    assert hit == {tuple(middle): 6, (0, 0): 2}
    assert found["prior"].sum() == pytest.approx(1)
    assert color_prior.read_prior(shards).tolist() == pytest.approx(found["prior"].tolist())
    assert found["prior"].argmax() == found["pictures"].argmax()


def test_pictures_count_the_same_whatever_their_size(shard_folder, tmp_path):
    folder = shutil.copytree(shard_folder, tmp_path / "shards")
    color_prior.prior_command(MeasurePrior(folder))
    found = np.genfromtxt(color_prior.prior_path(folder), delimiter=",", names=True, skip_header=1)
    assert found["pictures"].sum() == pytest.approx(40, abs=1e-3), "the 40 photographs to train on"
    assert len(list(folder.glob("train-*.bins.csv"))) == 4
    assert not list(folder.glob("val-*.bins.csv")), "what is validated on is not looked at"


def test_what_is_audited_is_not_looked_at_again(shard_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(shard_folder, tmp_path / "shards")
    audit.audit_shards(folder)
    monkeypatch.setattr(audit, "measure_colors", lambda _: pytest.fail("looked at again"))
    assert color_prior.prior_command(MeasurePrior(folder)) == 0


def test_a_prior_that_is_not_there_or_damaged_is_named(tmp_path):
    with pytest.raises(UserError, match=r"prior.csv is not there; measure it with koala shards prior"):
        color_prior.read_prior(tmp_path)
    for content in ("", "a,b,pictures,prior\n0,0,1,nan\n" * 2, "a,b,pictures,prior\n0,0,1,x\n"):
        color_prior.prior_path(tmp_path).write_text(content)
        with pytest.raises(UserError, match=r"prior.csv is damaged; measure it again"):
            color_prior.read_prior(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "other"),
    [(r",[0-9.e-]+$", ",-0.01"), (r",[0-9.e-]+$", ",1"), (r"^-?\d+,", ""), (r",prior$", ",likely"), (r"\.\d", "\0")],
)
def test_a_prior_that_is_none_is_named(shard_folder, tmp_path, pattern, other):
    """Negative shares, shares of more than 1, a missing column, NULs: the file is named."""
    folder = shutil.copytree(shard_folder, tmp_path / "shards")
    color_prior.prior_command(MeasurePrior(folder))
    path = color_prior.prior_path(folder)
    stamp, *rows = path.read_text().splitlines()
    path.write_text("\n".join([stamp, *(re.sub(pattern, other, row) for row in rows)]))
    with pytest.raises(UserError, match=r"prior.csv is damaged; measure it again"):
        color_prior.read_prior(folder)


def test_a_prior_of_other_shards_is_not_taken(photo_folder, shard_folder, tmp_path):
    folder = shutil.copytree(shard_folder, tmp_path / "shards")
    color_prior.prior_command(MeasurePrior(folder))
    shard_writer.write_shards(WriteShards(photo_folder, tmp_path / "others", ShardRecipe(seed=1)))
    shutil.copy(color_prior.prior_path(folder), tmp_path / "others")
    with pytest.raises(UserError, match=r"prior.csv was measured on other shards; measure it again"):
        color_prior.read_prior(tmp_path / "others")


def test_an_audit_that_kept_no_colors_is_made_again_for_the_prior_alone(shard_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(shard_folder, tmp_path / "shards")
    audit.audit_shards(folder)
    for path in folder.glob("*.bins.csv"):
        path.unlink()
    assert sample_filter.filter_samples(folder, "train", "chroma >= 0").all(), (
        "what was measured of each sample still counts"
    )
    assert color_prior.prior_command(MeasurePrior(folder)) == 0


def test_an_audit_without_its_colors_is_named(shard_folder, tmp_path):
    folder = shutil.copytree(shard_folder, tmp_path / "shards")
    audit.audit_shards(folder, "train")
    path = audit.bins_path(folder, "train-000000.tar")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:9]))
    with pytest.raises(UserError, match=r"train-000000.bins.csv is damaged; delete it and run koala shards prior"):
        color_prior.prior_command(MeasurePrior(folder))


def test_all_bins_have_a_row(shard_folder, tmp_path):
    folder = shutil.copytree(shard_folder, tmp_path / "shards")
    color_prior.prior_command(MeasurePrior(folder))
    found = np.genfromtxt(color_prior.prior_path(folder), delimiter=",", names=True, skip_header=1)
    assert np.array_equal(np.stack([found["a"], found["b"]], 1), ab_bins.centers().numpy())


def test_shards_without_training_pictures_have_no_prior(photo_folder, tmp_path):
    recipe = ShardRecipe(split=SplitRule(val_share=1.0))
    shard_writer.write_shards(WriteShards(photo_folder, tmp_path / "shards", recipe))
    with pytest.raises(UserError, match='holds no whole "train" shard'):
        color_prior.prior_command(MeasurePrior(tmp_path / "shards"))

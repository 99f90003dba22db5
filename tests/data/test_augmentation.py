"""Old photographs: what is drawn, what it does to what the network sees, and that the true colours stay."""

import numpy as np
import pytest
import torch

from koala.config.data import DataSettings
from koala.data import augmentation, loader
from koala.data.sampler import SamplePositions
from koala.data.shards import Shards
from koala.imaging import color

DATA = {"geometry": "crop", "size": 40, "threads": 2}


@pytest.fixture(scope="module")
def train(shard_folder):
    return Shards.open(shard_folder, "train")


def batch_of(shards, samples, epoch=0, **data) -> loader.Batch:
    places = [SamplePositions(np.array(samples), np.full(len(samples), epoch))]
    (batch,) = loader.load_batches(shards, places, DataSettings(**DATA | data), "cpu", batch=len(samples))
    return batch


def lightness_of(shards, monkeypatch, age: augmentation.Aging) -> torch.Tensor:
    """A photo that was aged so, in levels of grey."""
    monkeypatch.setattr(augmentation, "draw_aging", lambda *_: age)
    table = color.to_lightness(np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, 2))[:, 0, 0]
    lightness = batch_of(shards, [3], aging=1.0).lightness[0, 0]
    return torch.from_numpy(np.abs(table - lightness.numpy()[..., None]).argmin(-1))


def test_colors_stay_and_the_share_is_kept(train):
    samples = range(len(train))
    plain, old = batch_of(train, samples), batch_of(train, samples, aging=0.5)
    assert torch.equal(plain.ab, old.ab)
    changed = [not torch.equal(*pair) for pair in zip(plain.lightness, old.lightness, strict=True)]
    drawn = [augmentation.draw_aging(np.random.default_rng([0, 0, n, 1]), 0.5).aged for n in samples]
    assert changed == drawn
    assert 10 <= sum(drawn) <= 30


def test_what_is_drawn_depends_on_seed_epoch_and_sample_alone(train):
    whole = batch_of(train, range(8), epoch=2, aging=1.0)
    parts = [batch_of(train, some, epoch=2, aging=1.0) for some in ([0, 1, 2], [3, 4, 5, 6, 7])]
    assert torch.equal(whole.lightness, torch.cat([part.lightness for part in parts]))
    assert not torch.equal(whole.lightness, batch_of(train, range(8), epoch=3, aging=1.0).lightness)


def test_crops_are_those_of_photos_that_do_not_age(train):
    plain, old = (batch_of(train, range(8), geometry="random_crop", aging=share) for share in (0.0, 1.0))
    assert torch.equal(plain.ab, old.ab)


def test_no_age_changes_nothing(train, monkeypatch):
    plain = batch_of(train, [3]).lightness
    monkeypatch.setattr(augmentation, "draw_aging", lambda *_: augmentation.Aging())
    assert torch.equal(batch_of(train, [3], aging=1.0).lightness, plain)


def test_toning_and_fading_are_a_curve(train, monkeypatch):
    """Black to 0.2, white to 0.7, squared between; JPEG of quality 100 is off by a level or two."""
    plain = lightness_of(train, monkeypatch, augmentation.Aging())
    faded = lightness_of(train, monkeypatch, augmentation.Aging(aged=True, black=0.2, white=0.7, gamma=2.0))
    expected = 255 * (0.2 + 0.5 * (plain / 255) ** 2)
    assert (faded - expected).abs().max() <= 3
    assert abs(float((faded - expected).mean())) < 0.25, "neither brighter nor darker"


def test_blur_takes_detail_and_grain_brings_noise(train, monkeypatch):
    plain = lightness_of(train, monkeypatch, augmentation.Aging()).double()
    blurred = lightness_of(train, monkeypatch, augmentation.Aging(aged=True, blur=1.5)).double()
    grainy = lightness_of(train, monkeypatch, augmentation.Aging(aged=True, grain=0.05)).double()
    edges = [float((picture[1:] - picture[:-1]).abs().mean()) for picture in (blurred, plain, grainy)]
    assert edges[0] < edges[1] < edges[2]
    inner = (plain > 40) & (plain < 215)  # where noise is not cut off
    assert float((grainy - plain)[inner].std()) == pytest.approx(0.05 * 255, rel=0.2)


def test_exposure_is_uneven_and_smooth(train, monkeypatch):
    plain = lightness_of(train, monkeypatch, augmentation.Aging()).double()
    field = np.ones((4, 4), np.float32)
    field[:, 2:] = 0.5
    uneven = lightness_of(train, monkeypatch, augmentation.Aging(aged=True, exposure=field)).double()
    ratio = (uneven.sum(0) / plain.sum(0)).numpy()
    assert ratio[:8] == pytest.approx(1.0, abs=0.1)
    assert ratio[-8:] == pytest.approx(0.5, abs=0.1)


def test_compression_leaves_its_blocks(train, monkeypatch):
    plain = lightness_of(train, monkeypatch, augmentation.Aging()).double()
    rough, fine = (
        (lightness_of(train, monkeypatch, augmentation.Aging(aged=True, quality=quality)).double() - plain).abs().mean()
        for quality in (10.0, 100.0)
    )
    assert float(fine) < 1 < float(rough)


@pytest.mark.parametrize("seed", range(200))
def test_what_is_drawn_stays_a_photograph(seed):
    age = augmentation.draw_aging(np.random.default_rng(seed), 1.0)
    assert 0 <= age.black < age.white <= 1
    assert age.white - age.black > 0.25, "a picture can still be made out"
    assert age.blur >= 0.1 and age.grain >= 0 and 30 <= age.quality <= 100
    assert np.abs(age.field() - 1).max() <= 0.25

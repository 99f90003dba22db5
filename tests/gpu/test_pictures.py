"""Pictures on a GPU: the CPU's pixels and greys, batches that stay as they are, photos of any shape."""

import numpy as np
import pytest
import torch

import koala
from koala.config.data import DataSettings
from koala.data.loader import load_batches
from koala.data.sampler import sequential_batches
from koala.data.shards import Shards
from koala.imaging import color


def batches(shard_folder, device, batch, **changes):
    shards = Shards.open(shard_folder, "train")
    data = DataSettings(shard_folder, "squash", 32, threads=2, **{"decoder": "cpu", **changes})
    places = sequential_batches(len(shards), batch, rank=0, world_size=1)
    return load_batches(shards, places, data, {"cuda": "gpu"}.get(device, device), batch=batch, with_rgb=True)


def joined(found, name):
    return torch.cat([getattr(batch, name).cpu() for batch in found])


@pytest.mark.parametrize("name", ["rgb", "lightness", "ab"])
def test_pixels_decoded_by_the_cpu_do_not_depend_on_the_batch(shard_folder, device, name):
    assert torch.equal(*(joined(batches(shard_folder, device, size), name) for size in (3, 8)))


def test_pixels_are_the_cpus(shard_folder, gpu):
    """But for rounding while they are resized."""
    here, there = (joined(batches(shard_folder, device, 8), "rgb").int() for device in (gpu, "cpu"))
    assert (here - there).abs().max() <= 1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_lab_is_that_of_the_pixels(shard_folder, device, share):
    """By NumPy in float64, in units of L*a*b*."""
    changes = {"decoder": "gpu", "hardware_share": share} if device == "cuda" else {}
    for batch in batches(shard_folder, device, 8, **changes):
        rgb = batch.rgb.permute(0, 2, 3, 1).cpu().numpy()
        lightness, ab = (part.permute(0, 2, 3, 1).cpu().numpy() for part in (batch.lightness, batch.ab))
        assert np.abs(lightness - color.to_lightness(rgb)).max() * 50 < 2e-4
        assert np.abs(ab - color.to_ab(rgb)).max() * 127 < 2e-4


def test_a_slow_consumer_finds_its_batches_as_they_were(shard_folder, gpu):
    """What is held while the device has yet to read it is not written over."""
    seen = []
    for batch in batches(shard_folder, gpu, 2):
        torch.cuda._sleep(50_000_000)  # cycles: some hundredths of a second in which others are decoded
        seen.append(batch.ab.clone())
    assert torch.equal(torch.cat(seen).cpu(), joined(batches(shard_folder, gpu, 2), "ab"))


def test_greys_are_pillows_for_all_colors(gpu):
    """ITU-R 601 in 16 bits, as Pillow's C code has it."""
    levels = torch.arange(256, device=gpu, dtype=torch.uint8)
    green, blue = torch.meshgrid(levels, levels, indexing="ij")
    for red in range(256):
        rgb = torch.stack([torch.full_like(green, red), green, blue])
        whole = rgb.int()
        expected = (whole[0] * 19595 + whole[1] * 38470 + whole[2] * 7471 + 32768) >> 16
        assert torch.equal(color.to_grey(rgb)[0].int(), expected)


@pytest.mark.parametrize("shape", [(2400, 9), (9, 2400), (1, 1), (3, 700)])
def test_photos_of_any_shape_are_colored(run, device, shape):
    photo = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert koala.colorize(photo, str(run), device=device, size=64).shape == (*shape, 3)

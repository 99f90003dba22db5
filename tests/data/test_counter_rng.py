"""Random numbers that are a function of seed, epoch and sample."""

import numpy as np
import pytest

from koala.data.counter_rng import philox, uniforms


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_numbers(counter, key, expected):
    """Golden: "kat_vectors" of Random123, the reference implementation of Salmon et al."""
    assert philox(np.array([counter], np.uint32), key).tolist() == [list(expected)]


def test_numbers_do_not_depend_on_the_batch():
    epochs, samples = np.arange(12) % 3, np.arange(12) * 1_000_003
    together = uniforms(7, epochs, samples)
    apart = [uniforms(7, epochs[[row]], samples[[row]])[0] for row in range(12)]
    assert np.array_equal(together, apart)


def test_seed_epoch_and_sample_each_make_a_difference():
    numbers = [
        tuple(uniforms(seed, np.array([epoch]), np.array([sample]))[0])
        for seed in (0, 1, 2**40)
        for epoch in (0, 1)
        for sample in (0, 1, 2**33)
    ]
    assert len(set(numbers)) == len(numbers)


def test_numbers_are_uniform():
    """Mean and variance of 400,000 numbers in [0, 1), within five standard errors."""
    numbers = uniforms(0, np.zeros(100_000, np.int64), np.arange(100_000))
    assert numbers.min() >= 0 and numbers.max() < 1
    assert numbers.mean() == pytest.approx(0.5, abs=5 * np.sqrt(1 / 12 / 400_000))
    assert numbers.var() == pytest.approx(1 / 12, abs=5 * np.sqrt(1 / 180 / 400_000))
    assert np.abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 5 / np.sqrt(100_000)


def test_crops_never_change():
    """Golden: made by this code at 0.2.0; a change here gives every resumed run other crops."""
    numbers = uniforms(3, np.array([0, 5]), np.array([11, 1_281_166]))
    assert (numbers * 2**32).astype(np.int64).tolist() == [
        [1077753954, 1829961144, 1035606353, 1911343063],
        [3277767920, 1516949139, 2361018555, 496421110],
    ]

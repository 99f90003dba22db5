"""Parts of long work: kept for the same key, dropped for another."""

import numpy as np

from koala.evaluation.partial_results import PartialResults


def test_parts_are_kept_for_their_key_only(tmp_path):
    parts = PartialResults(tmp_path / "parts")
    parts.begin("one")
    parts.write("a-1", {"x": np.arange(3), "y z": np.ones((2, 2))})
    assert "a-1" in parts and "a-2" not in parts
    again = PartialResults(tmp_path / "parts")
    again.begin("one")
    (found,) = again.read(["a-1"])
    assert found["x"].tolist() == [0, 1, 2] and found["y z"].shape == (2, 2)
    again.begin("two")
    assert "a-1" not in again
    again.remove()
    assert not (tmp_path / "parts").exists()


def test_a_part_that_a_power_cut_left_short_is_not_there(tmp_path):
    parts = PartialResults(tmp_path / "parts")
    parts.begin("key")
    parts.write("a", {"x": np.arange(1000)})
    path = tmp_path / "parts/a.npz"
    for length in (path.stat().st_size - 1, 100, 0):
        path.write_bytes(path.read_bytes()[:length])
        assert "a" not in parts
    parts.write("a", {"x": np.arange(2)})
    assert "a" in parts


def test_an_array_may_have_any_name(tmp_path):
    """Also one that NumPy's writer has an argument of."""
    parts = PartialResults(tmp_path / "parts")
    parts.begin("key")
    parts.write("a", {"file name": np.zeros(1), "allow": np.ones(1)})
    (found,) = parts.read(["a"])
    assert set(found) == {"file name", "allow"}

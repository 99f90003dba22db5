"""What a run says of itself."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from koala.data.loader import Batch
from koala.imaging import color
from koala.training import metric_log


def batch_of(rgb: np.ndarray) -> Batch:
    """Photos as the network sees them: `(B, H, W, 3)` uint8."""
    pictures = torch.from_numpy(rgb).permute(0, 3, 1, 2)
    return Batch(color.to_lightness(pictures), color.to_ab(pictures), np.arange(len(rgb)))


@pytest.fixture
def photos() -> Batch:
    return batch_of(np.random.default_rng(0).integers(1, 255, (2, 8, 8, 3), np.uint8))


def test_colors_of_a_half_saturated_and_of_a_grey_prediction(photos):
    assert metric_log.color_statistics(photos, photos.ab / 2)["chroma_ratio"] == pytest.approx(0.5, abs=1e-6)
    grey = metric_log.color_statistics(photos, torch.zeros_like(photos.ab))
    assert grey == {"chroma_ratio": 0.0, "out_of_gamut": 0.0, "saturated": 0.0}


def test_black_padding_is_not_out_of_gamut(photos):
    padding = replace(photos, lightness=torch.full_like(photos.lightness, -1))
    assert metric_log.color_statistics(padding, photos.ab)["out_of_gamut"] == 0.0


def test_colors_that_srgb_cannot_show(photos):
    """a* = b* = 127 at every lightness lies outside sRGB; the ratio says nothing of a photo without colour."""
    assert metric_log.color_statistics(photos, torch.ones_like(photos.ab))["out_of_gamut"] == 1.0
    assert "chroma_ratio" not in metric_log.color_statistics(
        batch_of(np.full((1, 8, 8, 3), 99, np.uint8)), photos.ab[:1]
    )


def test_ab_at_the_end_of_the_scale(photos):
    ab = torch.zeros_like(photos.ab)
    ab[:, 1, :, :2] = -0.995
    assert metric_log.color_statistics(photos, ab)["saturated"] == pytest.approx(1 / 8)


def test_speed_and_model_flops_utilization():
    """1,000 images in 2 s on 4 devices at 2 GFLOP each: 1 TFLOP/s, 0.25 a device, a quarter of a peak of 1."""
    found = metric_log.speed(1000, 2.0, 4, 2_000_000_000, peak_tflops=1.0)
    assert found == {
        "speed/images_per_second": 500.0,
        "speed/images_per_second_per_device": 125.0,
        "speed/tflops_per_device": 0.25,
        "speed/mfu": 0.25,
    }
    assert "speed/mfu" not in metric_log.speed(1000, 2.0, 4, 1, peak_tflops=0.0)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A40", 149.7),
        ("NVIDIA RTX A4000", 0.0),  # no A40
        ("NVIDIA L40S", 362.0),
        ("Tesla T4", 65.0),
        ("NVIDIA T400", 0.0),
    ],
)
def test_a_gpu_is_known_by_its_whole_name(name, peak, monkeypatch):
    monkeypatch.setattr(metric_log.torch.cuda, "get_device_name", lambda _: name)
    assert metric_log.peak_tflops(metric_log.torch.device("cuda"), "bf16") == peak


def test_what_is_not_finite_is_not_written(tmp_path):
    with metric_log.MetricLogger(tmp_path, 0, write=True) as log:
        log.add(8, {"train/loss": float("inf"), "train/learning_rate": 0.5, "train/gradient_norm": float("nan")})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["train/learning_rate"] == 0.5
    assert "loss" not in line


def test_shares_of_the_time_leave_validation_out(monkeypatch):
    now = iter([0.0, 0.0, 1.0, 1.0, 3.0, 3.0, 7.0, 10.0])  # began, data 1 s, saving 2 s, validating 4 s, asked at 10 s
    monkeypatch.setattr(metric_log.time, "perf_counter", lambda: next(now))
    window = metric_log.MetricWindow()
    window.add(0.5, 1.0, 4)
    for activity in ("data", "saving", "validating"):
        with window.during(activity):
            pass
    shares = {name: value for name, value in window.means().items() if name.startswith("time/")}
    assert shares == {"time/data": 1 / 6, "time/saving": 2 / 6, "time/device": pytest.approx(3 / 6)}


def test_an_entry_in_words():
    entry = {"train/gradient_norm": 0.034, "train/chroma_ratio": 0.623, "time/data": 0.004, "speed/mfu": 0.41}
    assert metric_log.format_entry(entry) == "gradient 0.034, chroma 0.62, data 0.4 %, MFU 41 %"

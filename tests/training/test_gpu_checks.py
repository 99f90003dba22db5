"""What `koala doctor` finds in a GPU, told by a driver that is played here."""

import ctypes
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from koala.config.data import DataSettings
from koala.config.training import TrainSettings
from koala.training import gpu_checks, metric_log
from koala.training.process_store import ProcessStore

SETTINGS = TrainSettings()


@pytest.fixture
def store() -> ProcessStore:
    return ProcessStore(host="n1")


@pytest.fixture
def with_gpu(monkeypatch) -> None:
    monkeypatch.setattr(gpu_checks, "on_cpu", lambda device, precision: device == "cpu")


def nvjpeg(engines: int, failed: int = 0) -> SimpleNamespace:
    """A library that tells of so many engines, or fails."""

    def tell(handle, number, cores) -> int:
        ctypes.cast(number, ctypes.POINTER(ctypes.c_uint))[0] = engines
        return failed

    return SimpleNamespace(
        nvjpegCreateSimple=lambda _: 0, nvjpegGetHardwareDecoderInfo=tell, nvjpegDestroy=lambda _: None
    )


@pytest.mark.parametrize(
    ("library", "cuvid", "status", "text"),
    [
        (nvjpeg(7), True, "ok", "7 JPEG engines of the GPU, for 65% of the JPEGs"),
        (nvjpeg(7), False, "warning", "libnvcuvid.so.1 of the driver is not to be found"),
        (nvjpeg(0), True, "ok", "this GPU has none"),
        (nvjpeg(7, failed=1), True, "ok", "this GPU has none"),
        (None, True, "warning", "cannot be loaded"),
    ],
)
def test_jpeg_engine(store, with_gpu, monkeypatch, library, cuvid, status, text):
    monkeypatch.setattr(gpu_checks, "_nvjpeg", lambda: library)
    monkeypatch.setattr(gpu_checks, "_loads", lambda _: cuvid or None)
    found = gpu_checks.jpeg_engine(SETTINGS, store)
    assert (found.status, text in found.text) == (status, True), found
    assert bool(found.remedy) == (status == "warning")


@pytest.mark.parametrize("change", [{"device": "cpu"}, {"data": DataSettings(decoder="cpu")}])
def test_no_engine_is_looked_for_where_the_cpu_decodes(store, with_gpu, change):
    assert gpu_checks.jpeg_engine(replace(SETTINGS, **change), store).text == "not used: the CPU decodes"


@pytest.mark.parametrize(
    ("tflops", "peak", "status", "text"),
    [
        (798.0, 989.0, "ok", "81% of the 989 in the data sheet"),
        (120.0, 989.0, "warning", "12% of the 989"),
        (120.0, 0.0, "ok", "120 TFLOP/s in a matrix product"),
    ],
)
def test_a_slow_gpu_is_found_before_the_night(store, with_gpu, monkeypatch, tflops, peak, status, text):
    monkeypatch.setattr(gpu_checks, "matmul_tflops", lambda device: tflops)
    monkeypatch.setattr(metric_log, "peak_tflops", lambda device, precision: peak)
    found = gpu_checks.arithmetic(SETTINGS, store)
    assert (found.status, text in found.text) == (status, True), found


def test_tflops_are_counted_as_two_for_each_multiplication(monkeypatch):
    """Ten products of 32^3 multiplications and as many additions, in one second by this clock."""
    ticks = iter((10.0, 11.0))
    monkeypatch.setattr(gpu_checks.time, "perf_counter", lambda: next(ticks))
    assert gpu_checks.matmul_tflops(torch.device("cpu"), side=32) == pytest.approx(10 * 2 * 32**3 / 1e12)

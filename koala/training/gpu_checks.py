"""What `koala doctor` looks at in a GPU: its JPEG engine, and how fast it multiplies."""

import ctypes
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from koala.config.training import TrainSettings
from koala.core.devices import on_cpu
from koala.core.wording import counted
from koala.training.findings import Finding
from koala.training.machine_checks import device_there
from koala.training.process_store import ProcessStore

if TYPE_CHECKING:
    import torch

SLOW_SHARE = 0.5  # of its data sheet's peak; a healthy GPU reaches more in a large product
_SIDE = 8192  # of the matrices: 1.1 TFLOP, 0.4 GB in bf16
_PRODUCTS = 10
_LIBRARY = "libnvcuvid.so.1"  # of the driver: without it the engine is out of reach
_NO_ENGINE = "with --data.decoder gpu its other cores decode: set --data.hardware-share 0"


def jpeg_engine(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether the GPU's JPEG engine can be used, where JPEGs are to be decoded by it."""
    if on_cpu(device_there(settings), "no") or settings.data.decoder == "cpu":
        return Finding("ok", "not used: the CPU decodes")
    engines = jpeg_engines()
    if engines is None:
        return Finding("warning", "nvJPEG, which would tell, cannot be loaded", "install another nvidia-dali")
    if not engines:
        return Finding("ok", "this GPU has none; its other cores decode")
    text = f"{counted(engines, 'JPEG engine')} of the GPU, for {settings.data.hardware_share:.0%} of the JPEGs"
    if _loads(_LIBRARY):
        return Finding("ok", text)
    remedy = f"let the container have it: NVIDIA_DRIVER_CAPABILITIES=compute,utility,video; {_NO_ENGINE}"
    return Finding("warning", f"{text}, but {_LIBRARY} of the driver is not to be found", remedy)


def jpeg_engines() -> int | None:
    """How many JPEG engines the current GPU has, by nvJPEG; none where that cannot be loaded or does not say."""
    library = _nvjpeg()
    if library is None:
        return None
    handle, engines, cores = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint()
    if library.nvjpegCreateSimple(ctypes.byref(handle)):
        return None
    try:
        failed = library.nvjpegGetHardwareDecoderInfo(handle, ctypes.byref(engines), ctypes.byref(cores))
        return 0 if failed else engines.value  # it fails where there is none
    finally:
        library.nvjpegDestroy(handle)


@cache
def _nvjpeg() -> ctypes.CDLL | None:
    """The nvJPEG that DALI brings, or the system's."""
    import nvidia

    names = (f"libnvjpeg.so.{major}" for major in (12, 13))
    places = [path for root in nvidia.__path__ for path in sorted(Path(root).glob("*/lib/libnvjpeg.so.*"))]
    return next((found for name in (*places, *names) if (found := _loads(str(name)))), None)


def _loads(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def arithmetic(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether each GPU multiplies about as fast as its kind can: one that is slow makes all others wait."""
    import torch

    from koala.training.metric_log import peak_tflops

    if on_cpu(device_there(settings), "no"):
        return Finding("ok", "no GPU to be timed")
    device = torch.device("cuda", store.local_rank)
    tflops, peak = matmul_tflops(device), peak_tflops(device, "bf16")
    text = f"{tflops:.0f} TFLOP/s in a matrix product in 16 bits"
    if not peak:
        return Finding("ok", text, measure=tflops)
    text = f"{text}, {tflops / peak:.0%} of the {peak:g} in the data sheet"
    if tflops >= SLOW_SHARE * peak:
        return Finding("ok", text, measure=tflops)
    remedy = "see with nvidia-smi -q whether it is in use, too hot, or held down in clock or power"
    return Finding("warning", text, remedy, measure=tflops)


def matmul_tflops(device: "torch.device", side: int = _SIDE) -> float:
    """TFLOP/s of products of large random matrices in 16 bits."""
    import torch

    dtype = torch.bfloat16 if device.type == "cpu" or torch.cuda.is_bf16_supported() else torch.float16
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = left @ right
    _synchronize(device)
    began = time.perf_counter()
    for _ in range(_PRODUCTS):
        torch.mm(left, right, out=out)
    _synchronize(device)
    return 2 * side**3 * _PRODUCTS / (time.perf_counter() - began) / 1e12


def _synchronize(device: "torch.device") -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)

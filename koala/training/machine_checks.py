"""What `koala doctor` looks at in the machine: installation, driver, GPUs, processors, limits, clocks."""

import ctypes
import importlib
import os
import platform
import shutil
import time
from collections import Counter

from koala.config.training import TrainSettings
from koala.core.errors import first_line
from koala.core.extras import require_dali
from koala.core.version import __version__
from koala.core.wording import counted
from koala.training.findings import Finding, Status, format_bytes
from koala.training.process_store import ProcessStore

_MODULES = {"torch": "torch", "DALI": "nvidia.dali", "timm": "timm", "accelerate": "accelerate"}
_SLOW_IMPORTS_S = 60.0
_BUSY_SHARE = 0.25  # of a GPU's memory that others may hold
_FEW_FILES = 512  # shards and embeddings (64 each), and what torch, DALI and NCCL hold
_FILES_PER_PROCESS = 8  # sockets to each of the others
_SMALL_SHARED_MEMORY = 1e9  # bytes; containers are given 64 MB unless they ask for more
_CLOCK_SKEW_S = 1.0


def imports(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether what koala stands on can be imported, and how long that takes."""
    require_dali("training")
    began = time.monotonic()
    for name, module in _MODULES.items():
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:
            return Finding("failed", f"{name} cannot be imported: {first_line(error)}", "install koala anew")
    seconds = time.monotonic() - began
    text = f"{', '.join(_MODULES)} in {seconds:.0f} s"
    if seconds < _SLOW_IMPORTS_S:
        return Finding("ok", text, measure=-seconds)
    return Finding("warning", text, "install koala on a disk of the node, or in a container", measure=-seconds)


def versions(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether all processes have the same versions."""
    mine = {"koala": __version__, "Python": platform.python_version()}
    mine |= {name: importlib.import_module(module).__version__ for name, module in _MODULES.items()}
    first = store.broadcast("versions", lambda: mine)
    others = [f"{name} {version}, not {first[name]}" for name, version in mine.items() if version != first[name]]
    if others:
        text = f"{' and '.join(others)} as the first process has"
        return Finding("failed", text, "install the same versions everywhere, best in a folder that all nodes see")
    return Finding("ok", ", ".join(f"{name} {version}" for name, version in mine.items()))


def driver(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether the NVIDIA driver is new enough for the CUDA that torch and DALI are built for."""
    import torch
    from nvidia import dali

    built = {"torch": int((torch.version.cuda or "0").partition(".")[0]), "DALI": dali.__cuda_version__ // 1000}
    needs = " and ".join(
        f"{name} for CUDA {major}" if major else f"{name} without CUDA" for name, major in built.items()
    )
    found = driver_cuda()
    if found is None:
        if settings.device == "cuda":
            return Finding("failed", f"no NVIDIA driver; {needs}", "install the driver, or choose a node that has it")
        return Finding("ok", f"none, which is all that a CPU needs; {needs}")
    text = f"the driver is for CUDA {found[0]}.{found[1]}, {needs}"
    if settings.device == "cpu":
        return Finding("ok", text)
    if not built["torch"]:
        return Finding("failed", text, "install a torch with CUDA, or choose --device cpu")
    if found[0] < max(built.values()):
        remedy = f"update the driver to one for CUDA {max(built.values())}, or install a torch for CUDA {found[0]}"
        return Finding("failed", text, remedy)
    return Finding("ok", text)


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the NVIDIA driver serves, major and minor; none without a driver."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return None
    return None if failed else (version.value // 1000, version.value % 1000 // 10)


def gpus(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether each process of the node has a GPU, and each GPU its memory free."""
    import torch

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not number and settings.device == "cuda":
        return Finding("failed", "none that torch can use", "look at nvidia-smi, and at CUDA_VISIBLE_DEVICES")
    if not number:
        remedy = "to try koala that will do; to train on ImageNet choose a machine with an NVIDIA GPU"
        return Finding("warning", "none: training on the CPU is slow", remedy)
    names = Counter(torch.cuda.get_device_properties(index).name for index in range(number))
    memory = [torch.cuda.mem_get_info(index) for index in range(number)]  # free and all, in bytes
    text = f"{' and '.join(f'{many} x {name}' for name, many in names.items())}, {format_bytes(memory[0][1])} each"
    if settings.device == "cpu":
        return Finding("warning", f"{text}, which --device cpu leaves idle", "leave --device at auto")
    if store.local_size != number:
        status: Status = "failed" if store.local_size > number else "warning"
        remedy = "start one for each GPU; --num_processes of accelerate launch counts those of all nodes"
        return Finding(status, f"{text}, for {counted(store.local_size, 'process')}", remedy)
    busy = [index for index, (free, total) in enumerate(memory) if free < (1 - _BUSY_SHARE) * total]
    if busy:
        text = f"{text}; GPU {', '.join(map(str, busy))} in use: {format_bytes(memory[busy[0]][0])} free"
        return Finding("warning", text, "see with nvidia-smi by whom, or choose others with CUDA_VISIBLE_DEVICES")
    return Finding("ok", text)


def precision(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether the device computes in the precision that is asked for."""
    from koala.core.devices import on_cpu, supports_bf16

    cpu = on_cpu(device_there(settings), settings.mixed_precision)
    asked = "fp32" if settings.mixed_precision == "no" else settings.mixed_precision
    text = f"{asked} on the {'CPU' if cpu else 'GPU'}"
    if settings.mixed_precision == "bf16" and not supports_bf16(cpu):
        return Finding("warning", f"{text}, which only imitates it, slowly", "choose another --mixed-precision")
    return Finding("ok", text)


def device_there(settings: TrainSettings) -> str:
    """The CPU where a GPU is asked for and absent; that was said."""
    return "cpu" if settings.device == "cpu" else "auto"


def processors(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether there is a CPU for each thread that decodes."""
    cpus, threads = len(os.sched_getaffinity(0)), settings.data.threads
    text = f"{cpus} CPUs, and {threads * store.local_size} threads that decode"
    if cpus >= threads * store.local_size:
        return Finding("ok", text, measure=cpus)
    remedy = f"choose --data.threads {max(1, cpus // store.local_size)}, or ask for more CPUs (Slurm: --cpus-per-task)"
    return Finding("warning", text, remedy, measure=cpus)


def open_files(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether a process may open enough files and sockets."""
    import resource  # which Windows does not have

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _FEW_FILES + _FILES_PER_PROCESS * store.size
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return Finding("ok", f"{'any number' if limit == resource.RLIM_INFINITY else limit} in each process")
    return Finding("warning", f"{limit} in each process, of about {needed}", f"run ulimit -n {needed} before, or more")


def shared_memory(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether there is room in /dev/shm, through which NCCL moves data between the processes of a node."""
    remedy = "give the container more: docker run --shm-size 8g, or mount -o remount,size=8g /dev/shm"
    try:
        room = shutil.disk_usage("/dev/shm")
    except OSError as error:
        return Finding("warning", f"/dev/shm: {error.strerror}", remedy)
    text = f"{format_bytes(room.free)} of {format_bytes(room.total)} free in /dev/shm"
    enough = room.free >= _SMALL_SHARED_MEMORY
    return Finding("ok", text, measure=room.free) if enough else Finding("warning", text, remedy, measure=room.free)


def clock(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether the nodes' clocks agree; they look at them when the first process says so."""
    behind = store.broadcast("clock", time.time) - time.time()
    if store.nodes == 1:
        return Finding("ok", "one node has one clock")
    if abs(behind) <= _CLOCK_SKEW_S:
        return Finding("ok", f"within {abs(behind):.2f} s of the first node's", measure=-abs(behind))
    text = f"{abs(behind):.2f} s {'behind' if behind > 0 else 'ahead of'} the first node's"
    remedy = "start a time service there (chronyd or ntpd): logs and files bear wrong times"
    return Finding("warning", text, remedy, measure=-abs(behind))

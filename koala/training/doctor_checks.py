"""What `koala doctor` looks at: a function for each line of its page.

A check finds out one thing, in the process that calls it, and says it in a `Finding`. Where something must be the same
in all processes, each compares its own with what the first one has.
"""

import hashlib
import io
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from koala.config.data import DataSettings, ResizeRule, for_evaluation
from koala.config.training import TrainSettings
from koala.core.errors import UserError, first_line
from koala.core.wording import counted
from koala.training.findings import Finding, format_bytes
from koala.training.machine_checks import device_there
from koala.training.process_store import PATIENCE_S, ProcessStore

if TYPE_CHECKING:  # imported where they are used, so that a damaged installation is a finding, too
    import torch

    from koala.config.fields import Location
    from koala.data.shards import Shards


INTERFACES = (
    'name the interface that reaches the other nodes ("ip address" lists them) in NCCL_SOCKET_IFNAME or, on the CPU, '
    "in GLOO_SOCKET_IFNAME; NCCL_DEBUG=INFO tells what NCCL tries"
)

_ORANGE = (230, 120, 40)
_COLOR_TOLERANCE = 0.05  # on the network's scale: a JPEG of quality 95 stays within
_SAMPLES = 8  # that are read at random
_SLOW_SAVE_S = 10.0
_LATE_S = 5.0  # a network file system may show a new file late
_ROUNDS = 5  # of all-reduce that are timed
_SLOW_BUS = 1e9  # bytes/s between GPUs: less than 10 Gbit/s Ethernet gives


# ---------------------------------------------------------------- the machine


# ---------------------------------------------------------------- the training


def batch(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether the global batch can be shared out."""
    from koala.data.sampler import EpochSampler, micro_batches

    order = EpochSampler((settings.batch_size,), settings.seed)
    pieces = max(1, settings.gradient_accumulation_steps)  # 0 is found out when it trains
    part = next(micro_batches(order, 0, settings.batch_size, rank=0, world_size=store.size, accumulation=pieces))
    processes = counted(store.size, "process")
    return Finding("ok", f"{settings.batch_size} images = {processes} x {counted(pieces, 'piece')} x {len(part)}")


def decoding(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether DALI decodes a picture on the device, and its colours are right."""
    import numpy as np
    import torch
    from PIL import Image

    from koala.core.devices import on_cpu
    from koala.data.dali_pipeline import build_graph
    from koala.imaging import color

    device = "cpu" if on_cpu(device_there(settings), "no") else "gpu"
    if device == "gpu":
        torch.cuda.set_device(store.local_rank)
    picture = Image.new("RGB", (96, 64), _ORANGE)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95, subsampling=0)
    jpeg, square = np.frombuffer(buffer.getvalue(), np.uint8), settings.data.size
    whole = ([0, 0], [64, 96], [square, square], [0, 0])  # start, end, shape and position of the window
    source = [([jpeg], *(np.array([part], np.float32) for part in whole), np.zeros(1, np.int32))]
    pipeline = build_graph(iter(source), for_evaluation(settings.data), 1, device)
    pipeline.build()
    decoded = torch.cat([torch.from_dlpack(output.as_tensor()) for output in pipeline.run()], dim=1).cpu()
    rgb = torch.tensor(_ORANGE, dtype=torch.uint8).view(1, 3, 1, 1)
    expected = torch.cat([color.to_lightness(rgb, settings.data.lightness), color.to_ab(rgb)], dim=1)
    distance = float((decoded - expected).abs().max())
    text = f"a JPEG by DALI on the {device.upper()}"
    if distance < _COLOR_TOLERANCE:
        return Finding("ok", text)
    return Finding("failed", f"{text} has wrong colours, by {distance:.2f} of 1", "install another nvidia-dali")


def extractor(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether the extractor can be built, or where its weights would have to be fetched, whether they can."""
    from koala.models.build import build_network, extractor_within
    from koala.models.extractor import bytes_to_download

    wanted = settings.extractor
    if settings.network.name == "pyramid":
        build_network(settings, pretrained=False)  # whether there are such feature maps
        wanted = extractor_within(settings)
    elif wanted.name == "none":
        return Finding("ok", "none is asked for")
    elif wanted.cache:
        return Finding("ok", f"{wanted.name} is not needed, with its embeddings at hand")
    try:
        missing = bytes_to_download(wanted)
    except UserError as error:
        if not _nothing_to_train_on(settings):
            raise
        fact, _, remedy = str(error).partition("; ")
        return Finding("warning", fact, remedy)
    if missing is not None:
        return Finding("ok", f"the weights of {wanted.name} will be fetched: {format_bytes(missing)}")
    return Finding("ok", f"{wanted.name} with {_built(replace(settings, extractor=wanted))}")


def _built(settings: TrainSettings) -> str:
    """What the extractor gives, once it is built with its weights."""
    from koala.models.extractor import build_extractor, build_feature_maps, weights_sha256

    wanted, rate = settings.extractor, settings.network.extractor_rate
    if settings.network.name == "pyramid":
        channels = build_feature_maps(wanted, settings.seed, size=settings.data.size).channels
        manner = f"trained at {rate:g} of the learning rate" if rate else "frozen"
        return f"feature maps of {', '.join(map(str, channels))} channels, {manner}"
    built = build_extractor(wanted, settings.seed)
    assert built is not None, "there is one but for the name none"
    return f"{built.embedding_size} features, weights {weights_sha256(built)[:8]}"


def initial_weights(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether the weights that the training begins with are there, and fit its network."""
    if not settings.init:
        return Finding("ok", "drawn at random")
    from koala.models.build import build_network
    from koala.models.extractor import bytes_to_download
    from koala.models.pretrained import find_model
    from koala.training.initial_weights import plan_start

    is_fusion = settings.network.name == "fusion"
    if is_fusion and not settings.extractor.cache and bytes_to_download(settings.extractor) is not None:
        found = find_model(settings.init)
        return Finding("ok", f"{settings.init} ({found.images_seen} images seen); whether it fits, the extractor tells")
    size, sha256 = _embedding(settings) if is_fusion else (0, "")
    origin, _ = plan_start(settings, build_network(settings, size, pretrained=False), sha256)
    return Finding("ok", str(origin))


def _embedding(settings: TrainSettings) -> tuple[int, str]:
    """Size of what a fusion network is given, and the fingerprint of the extractor that it comes from."""
    from koala.data.embedding_cache import find_cache
    from koala.models.extractor import build_extractor, weights_sha256

    if settings.extractor.cache and not settings.data.synthetic:
        key = find_cache(settings.extractor, settings.data, settings.seed).key
        return key.embedding_size, key.extractor_sha256
    built = build_extractor(settings.extractor, settings.seed)
    return (built.embedding_size, weights_sha256(built)) if built is not None else (0, "")


def objective(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether what the objective needs is at hand: the prior of colours, the network that judges."""
    from koala.data import color_prior
    from koala.models.extractor import bytes_to_download
    from koala.models.objectives import needs_prior
    from koala.models.perceptual import FLAG, extractor_settings

    wanted, at_hand = settings.objective, []
    if needs_prior(wanted) and settings.data.synthetic:
        at_hand.append("an even prior")
    elif needs_prior(wanted):
        color_prior.read_prior(settings.data.shards)
        at_hand.append("prior")
    if wanted.perceptual:
        missing = bytes_to_download(extractor_settings(wanted), FLAG)
        at_hand.append(
            wanted.perceptual_network + (f" will be fetched: {format_bytes(missing)}" if missing is not None else "")
        )
    return Finding("ok", ", ".join([wanted.name, *at_hand]))


def _nothing_to_train_on(settings: TrainSettings) -> bool:
    """Whether no shards were named, nor lie where they do by default: then it is the machine that is looked at."""
    usual = DataSettings().shards
    return settings.data.shards == usual and not Path(usual).exists()


def shards(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether the shards are there and whole, can be read, and are the same everywhere."""
    from koala.data.mirror import local_folder
    from koala.data.sample_filter import open_filtered
    from koala.data.shards import SPLITS, read_manifest
    from koala.data.verification import verify_shards

    folder = settings.data.shards
    if settings.data.synthetic:
        return Finding("ok", f"none are needed: {settings.data.synthetic} images of noise")
    if _nothing_to_train_on(settings):
        return Finding("warning", f"none at {folder}", "name them with --data.shards, or make some: koala shards write")
    manifest = read_manifest(folder)
    faults = verify_shards(folder, quick=True, show=False)
    if faults:
        text = f"{counted(len(faults), 'fault')}: {faults[0]}{', ...' if len(faults) > 1 else ''}"
        remedy = f"koala shards verify {folder} tells all; koala shards repair {folder} --source DIR writes them again"
        return Finding("failed", text, remedy)
    splits = {
        split: open_filtered(folder, split, settings.data.filter)
        for split in SPLITS
        if split == "train" or manifest.samples(split)
    }
    for split, found in splits.items():
        _read_some(folder, split, found)
    sha256 = hashlib.sha256((local_folder(folder) / "manifest.json").read_bytes()).hexdigest()
    if sha256 != store.broadcast("manifest", lambda: sha256):
        text = f"{folder} holds other shards here than on the first node"
        return Finding("failed", text, "copy them anew, or name a folder that all nodes see")
    counts = " and ".join(f"{len(found)} {split}" for split, found in splits.items())
    number = counted(sum(map(len, manifest.splits.values())), "shard")
    return Finding("ok", f"{folder}: {counts} samples in {number}; some were read at random")


def _read_some(folder: "Location", split: str, shards: "Shards") -> None:
    """Read and decode some samples at random.

    Raises:
        UserError: one is damaged.
    """
    import numpy as np

    from koala.imaging.errors import UnreadableImageError
    from koala.imaging.jpeg_intake import validate_or_transcode

    for sample in map(int, np.random.default_rng().integers(len(shards), size=_SAMPLES)):
        try:
            validate_or_transcode(shards.read(sample).tobytes(), ResizeRule())
        except UnreadableImageError as reason:
            raise UserError(
                f"{folder}: sample {sample} of {split} does not decode: {reason}; koala shards verify {folder} tells "
                "all, koala shards repair writes bad shards again"
            ) from None


def embeddings(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether the embeddings that the training wants are there and whole, and can be read."""
    if not settings.extractor.cache or settings.data.synthetic:
        return Finding("ok", "none are asked for" if not settings.extractor.cache else "noise takes their place")
    import numpy as np

    from koala.data.embedding_cache import CachedEmbeddings, find_cache
    from koala.data.shards import Shards, read_manifest

    cache, folder = find_cache(settings.extractor, settings.data, settings.seed), settings.data.shards
    shards = Shards.open(folder, "train")
    kept = CachedEmbeddings(cache, read_manifest(folder).splits["train"], shards)
    kept.read(np.random.default_rng().integers(len(shards), size=_SAMPLES), np.zeros(_SAMPLES, np.bool_))
    return Finding("ok", f"{cache.folder}: complete; some were read at random")


def run_folder(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether the checkpoints find room where the run is to be, and how fast they are written."""
    folder, number = (
        _place_of(settings),
        settings.keep_checkpoints + 2,
    )  # and the best, and the one that is being written
    checkpoint = checkpoint_bytes(settings)
    free = shutil.disk_usage(folder).free
    if free < number * checkpoint:
        text = f"{folder}: {format_bytes(free)} free, {number} checkpoints need {format_bytes(number * checkpoint)}"
        return Finding("failed", text, "make room, keep fewer with --keep-checkpoints, or choose another --run")
    seconds = _seconds_to_write(folder, checkpoint)
    text = (
        f"{folder}: {format_bytes(free)} free; a checkpoint of {format_bytes(checkpoint)} is written in "
        f"{seconds:.1f} s ({format_bytes(checkpoint / seconds)}/s)"
    )
    if seconds <= _SLOW_SAVE_S:
        return Finding("ok", text)
    return Finding(
        "warning", text, "choose a faster disk with --run, or save more rarely: one checkpoint waits for the other"
    )


def checkpoint_bytes(settings: TrainSettings) -> int:
    """How large a checkpoint is, near enough: weights, Adam's two moments, and the weights' moving average."""
    weights, trained = weights_bytes(settings)
    return (2 if settings.ema else 1) * weights + 2 * trained


def _place_of(settings: TrainSettings) -> Path:
    """The run folder, or that folder above it that is there already."""
    from koala.training.run_folder import RUNS

    folder = (settings.run or RUNS).absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _seconds_to_write(folder: Path, length: int) -> float:
    """How long it takes until so many bytes are on the disk."""
    from koala.core.atomic_io import fsync

    block = os.urandom(1 << 20)  # nothing that a file system could make smaller
    with _temporary(folder) as path:
        began = time.monotonic()
        with path.open("wb") as file:
            for _ in range(-(-length // len(block))):
                file.write(block)
            fsync(file)
        return time.monotonic() - began


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """An empty file that is gone afterwards.

    Raises:
        UserError: the folder is not to be written to.
    """
    path = folder / f".koala-doctor-{os.urandom(8).hex()}"
    try:
        path.touch()
        yield path
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; make it writable, or choose another --run") from None
    finally:
        path.unlink(missing_ok=True)


def same_folder(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether what the first process writes into the run folder is seen by the others."""
    folder = _place_of(settings)
    with ExitStack() as stack:
        name = store.broadcast("token", lambda: stack.enter_context(_temporary(folder)).name)
        there = _comes(folder / name)
        store.gather("token was seen", there, PATIENCE_S / 2)  # before it goes
    if there:
        return Finding("ok", f"seen by {counted(store.size, 'process')} on {counted(store.nodes, 'node')}")
    text = f"{folder} is not the folder that the first process writes to"
    return Finding("failed", text, "name with --run a folder on a file system that all nodes share")


def _comes(path: Path) -> bool:
    """Whether a file is there, or comes within seconds; a network file system may be late."""
    until = time.monotonic() + _LATE_S
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


# ---------------------------------------------------------------- the network


def network(settings: TrainSettings, store: ProcessStore) -> Finding:
    """Whether the processes find each other as the training's will, and how fast they sum gradients."""
    from koala.core.distributed import open_accelerator

    # beyond all patience, since torch's own watchdog would end the process before the page is written
    timeout = timedelta(seconds=2 * PATIENCE_S)
    try:
        with open_accelerator(device_there(settings), "no", settings.processes, timeout) as accelerator:
            if accelerator.num_processes == 1:
                return Finding("ok", "one process, which needs none")
            return _reduced(settings, accelerator.device)
    except RuntimeError as error:
        return Finding("failed", f"the processes do not reach each other: {first_line(error)}", INTERFACES)


def _reduced(settings: TrainSettings, device: "torch.device") -> Finding:
    """All-reduce as much as the gradients are: whether the sum is right, and how long it takes."""
    import torch
    from torch import distributed as dist

    length, world_size = weights_bytes(settings)[1], dist.get_world_size()
    values = torch.full((length // 4,), dist.get_rank() + 1.0, device=device)
    dist.all_reduce(values)  # the first one also makes the connections
    if not bool((values == world_size * (world_size + 1) / 2).all()):
        remedy = "see whether NCCL_P2P_DISABLE=1 or NCCL_IB_DISABLE=1 mends it, which names the faulty link"
        return Finding("failed", "all-reduce gives wrong sums", remedy)
    seconds = _seconds_to_reduce(values.zero_())
    bus = bus_bandwidth(length, seconds, world_size)
    text = (
        f"{dist.get_backend()} all-reduces gradients of {format_bytes(length)} in {1000 * seconds:.1f} ms: "
        f"algorithm bandwidth {format_bytes(length / seconds)}/s, bus bandwidth {format_bytes(bus)}/s "
        f"(times 2 (n - 1) / n, n = {world_size})"
    )
    if device.type == "cuda" and bus < _SLOW_BUS:
        return Finding("warning", text, f"see whether NCCL takes the fast network; {INTERFACES}")
    return Finding("ok", text)


def _seconds_to_reduce(values: "torch.Tensor") -> float:
    """The median of some rounds, in the process where it is the longest."""
    import torch
    from torch import distributed as dist

    seconds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        dist.all_reduce(values)
        if values.is_cuda:
            torch.cuda.synchronize(values.device)
        seconds.append(time.perf_counter() - began)
    median = torch.tensor(sorted(seconds)[_ROUNDS // 2], device=values.device)
    dist.all_reduce(median, dist.ReduceOp.MAX)
    return float(median)


def bus_bandwidth(length: int, seconds: float, world_size: int) -> float:
    """Bytes/s through each process's link, whatever the number of processes, in an all-reduce of `length` bytes.

    References:
        nccl-tests, PERFORMANCE.md: a ring sends 2 (n - 1) / n of the bytes through each link.
    """
    return length / seconds * 2 * (world_size - 1) / world_size


def weights_bytes(settings: TrainSettings) -> tuple[int, int]:
    """How large the network's weights are in fp32, and those of them that are trained, as their gradients are.

    A fusion network's depend on the extractor; this is near enough.
    """
    from koala.models.build import blank_network

    sizes = [(4 * each.numel(), each.requires_grad) for each in blank_network(settings, 1000).parameters()]
    return sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)


# ---------------------------------------------------------------- in words

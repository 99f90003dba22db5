"""Embeddings kept beside the shards, so that training need not run the extractor.

    DIR/embeddings/NAME/key.json           what they were made with: extractor, its weights, geometry, size, lightness
    DIR/embeddings/NAME/train-000000.npy   (samples, 2, E) float16: of each sample, and of its mirror image
    DIR/embeddings/NAME/train-000000.json  the record; written last, so that it marks the file beside it as whole

Files are written under another name and renamed when they are whole; what is whole is kept when the command is run
again.
"""

import hashlib
import io
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from koala.config.data import DataSettings, EmbedShards
from koala.config.fields import Geometry, LightnessSource, MixedPrecision, SplitName
from koala.config.load import load_toml
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.core import atomic_io
from koala.core.distributed import dali_device, main_process_first, on_main_process, open_accelerator
from koala.core.errors import UserError
from koala.core.progress import Progress
from koala.data.dali_pipeline import load_batches
from koala.data.sampler import SamplePositions
from koala.data.shards import SPLITS, ShardEntry, ShardManifest, Shards, read_manifest
from koala.models import extractor
from koala.models.extractor import Extractor

FORMAT = "koala-embeddings/1"
_ROWS = 2  # embeddings of each sample: plain and mirrored
_BYTES = 2  # of a float16


@dataclass(frozen=True)
class CacheKey:
    """What embeddings were made with.

    Attributes:
        format: `FORMAT`.
        extractor: timm's name.
        features: what was taken from it.
        weights: "pretrained", "random" or the file, as it was named then.
        extractor_sha256: fingerprint of the weights.
        embedding_size: E.
        geometry: how a photo became a square.
        size: of the square.
        lightness: of what.
        mixed_precision: of the computation.
    """

    format: str
    extractor: str
    features: str
    weights: str
    extractor_sha256: str
    embedding_size: int
    geometry: Geometry
    size: int
    lightness: LightnessSource
    mixed_precision: MixedPrecision

    @classmethod
    def of(cls, settings: EmbedShards, built: Extractor) -> Self:
        """What `koala shards embed` is to make."""
        return cls(
            format=FORMAT,
            extractor=settings.extractor.name,
            features=settings.extractor.features,
            weights=settings.extractor.weights,
            extractor_sha256=extractor.weights_sha256(built),
            embedding_size=built.embedding_size,
            geometry=settings.data.geometry,
            size=settings.data.size,
            lightness=settings.data.lightness,
            mixed_precision=settings.mixed_precision,
        )

    @property
    def name(self) -> str:
        """A folder's name, another for each key but for the precision."""
        parts = (self.extractor, self.features, self.geometry, self.size, self.lightness, self.extractor_sha256[:8])
        return "-".join(map(str, parts))


@dataclass(frozen=True)
class CacheRecord:
    """What is known of the embeddings of one shard.

    Attributes:
        shard_sha256: of the tar that they were made of.
        bytes: the file's length.
        sha256: of the file.
    """

    shard_sha256: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class EmbeddingCache:
    """A folder of embeddings.

    Attributes:
        folder: where they are.
        key: what they were made with.
    """

    folder: Path
    key: CacheKey

    def fault(self, entry: ShardEntry, thorough: bool = False) -> str:
        """Why a shard's embeddings cannot be used; empty when all is well.

        Args:
            entry: the shard.
            thorough: read the whole file, too.
        """
        path = self._path(entry)
        try:
            record = self._record(entry)
            found = path.stat().st_size
            if record.shard_sha256 != entry.sha256:
                return f"{path} was made of another {entry.shard}"
            if found != record.bytes:
                return f"{path} is {found} bytes long, its record says {record.bytes}"
            if thorough and hashlib.sha256(path.read_bytes()).hexdigest() != record.sha256:
                return f"{path}: sha256 differs from its record"
        except OSError:
            return f"there are no embeddings of {entry.shard} in {self.folder}"
        except ValidationError:
            return f"the record of {path} is damaged"
        return ""

    def put(self, entry: ShardEntry, rows: NDArray[np.float16]) -> None:
        """Write a shard's embeddings, `(samples, 2, E)`: the file, then its record."""
        buffer = io.BytesIO()
        np.save(buffer, rows)
        data = buffer.getvalue()
        path = self._path(entry)
        path.with_suffix(".json").unlink(missing_ok=True)  # of what the file was before
        atomic_io.write_atomic(path, data)
        record = CacheRecord(entry.sha256, len(data), hashlib.sha256(data).hexdigest())
        atomic_io.write_atomic(path.with_suffix(".json"), json.dumps(asdict(record)).encode())

    def open(self, entry: ShardEntry) -> "_OpenFile":
        """The file of a shard's embeddings.

        Raises:
            UserError: it is not whole.
        """
        if fault := self.fault(entry):
            raise UserError(f"{fault}; run koala shards embed again")
        return _OpenFile(self._path(entry), self._record(entry).bytes, entry.samples, self.key.embedding_size)

    def _path(self, entry: ShardEntry) -> Path:
        return (self.folder / entry.shard).with_suffix(".npy")

    def _record(self, entry: ShardEntry) -> CacheRecord:
        return TypeAdapter(CacheRecord).validate_json(self._path(entry).with_suffix(".json").read_bytes())


# ---------------------------------------------------------------- reading


class CachedEmbeddings:
    """The embeddings of one split, read by sample number; safe from several threads.

    Args:
        cache: where they are.
        entries: the split's shards, as the manifest lists them.
        shards: the samples, which know their places.
    """

    def __init__(self, cache: EmbeddingCache, entries: Sequence[ShardEntry], shards: Shards) -> None:
        self._shards = shards
        self._open = lru_cache(maxsize=64)(lambda shard: cache.open(entries[shard]))

    def read(self, sample: int, mirror: bool) -> NDArray[np.float32]:
        """The embedding of a sample, or of its mirror image, `(E,)`.

        Raises:
            UserError: there is none.
        """
        shard, number = self._shards.place(sample)
        return self._open(shard).row(_ROWS * number + mirror)


class _OpenFile:
    """An open file of embeddings; read and not mapped, so that one that grows shorter ends no process."""

    def __init__(self, path: Path, length: int, samples: int, embedding_size: int) -> None:
        self._path, self._row_bytes = path, embedding_size * _BYTES
        self._begin = length - samples * _ROWS * self._row_bytes  # after NumPy's header
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def row(self, number: int) -> NDArray[np.float32]:
        data = os.pread(self._descriptor, self._row_bytes, self._begin + number * self._row_bytes)
        if len(data) != self._row_bytes:
            raise UserError(f"{self._path} ends before row {number}; run koala shards embed again")
        return np.frombuffer(data, "<f2").astype(np.float32)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


# ---------------------------------------------------------------- finding those that a training wants


def find_cache(settings: TrainSettings) -> EmbeddingCache:
    """The embeddings that a training would compute itself.

    The extractor is built only where its weights are at hand; else the key's word is taken for them.

    Raises:
        UserError: there are none, they were made with something else, or they are not complete.
    """
    _check_fixed(settings.extractor, settings.data.geometry)
    _check_unaged(settings.data)
    folder = settings.data.shards
    remedy = f"run {_command(settings)}, or leave out --extractor.cache"
    nearest: list[str] = []
    # those first whose weights were named alike: for the others the extractor may have to be built
    for cache in sorted(_caches(folder), key=lambda cache: cache.key.weights != settings.extractor.weights):
        differences = _differences(cache.key, settings)
        if not differences:
            return _complete(cache, remedy)
        nearest = min(nearest or differences, differences, key=len)
    if nearest:
        raise UserError(f"the cached embeddings were made with {' and '.join(nearest)}; {remedy}")
    raise UserError(f"{folder} holds no cached embeddings; {remedy}")


def _complete(cache: EmbeddingCache, remedy: str) -> EmbeddingCache:
    """The cache, if all its shards' embeddings are there."""
    entries = _entries(read_manifest(cache.folder.parent.parent))
    faults = [fault for fault in map(cache.fault, entries) if fault]
    if faults:
        raise UserError(
            f"the cached embeddings of {len(faults)} of {len(entries)} shards cannot be used: {faults[0]}; {remedy}"
        )
    return cache


def _caches(folder: Path) -> list[EmbeddingCache]:
    return [EmbeddingCache(path.parent, _read_key(path)) for path in sorted(folder.glob("embeddings/*/key.json"))]


def _read_key(path: Path) -> CacheKey:
    try:
        key = TypeAdapter(CacheKey).validate_json(path.read_bytes())
    except ValidationError:
        key = None
    if key is None or key.format != FORMAT:
        raise UserError(
            f"{path} is damaged, or of another koala; delete {path.parent} and run koala shards embed again"
        )
    return key


def _differences(key: CacheKey, settings: TrainSettings) -> list[str]:
    """In what the embeddings that a training wants are others, in words."""
    wanted, data = settings.extractor, settings.data
    parts = (
        ("extractor.name", key.extractor, wanted.name),
        ("extractor.features", key.features, wanted.features),
        ("data.geometry", key.geometry, data.geometry),
        ("data.size", key.size, data.size),
        ("data.lightness", key.lightness, data.lightness),
    )
    named = [f"{name} = {was}, not {now}" for name, was, now in parts if was != now]
    return named or _other_weights(key, settings)


def _other_weights(key: CacheKey, settings: TrainSettings) -> list[str]:
    """Whether the extractor's weights are others: by their hash where they are at hand, else by their name."""
    now = settings.extractor.weights
    if {key.weights, now} == {"pretrained", "random"}:
        return [f"extractor.weights = {key.weights}, not {now}"]
    if now == key.weights and (now == "pretrained" or not (now == "random" or Path(now).exists())):
        return []
    built = extractor.build_extractor(settings.extractor, settings.seed)
    sha256 = extractor.weights_sha256(built) if built is not None else ""
    if sha256 == key.extractor_sha256:
        return []
    return [f"other weights of {key.extractor} (sha256 {key.extractor_sha256[:8]}, not {sha256[:8]})"]


def _command(settings: TrainSettings) -> str:
    """The command that makes the embeddings a training wants, with the flags that are not as by default."""
    wanted, data, usual = settings.extractor, settings.data, EmbedShards(settings.data.shards)
    flags = (
        ("--extractor.name", wanted.name, usual.extractor.name),
        ("--extractor.features", wanted.features, usual.extractor.features),
        ("--extractor.weights", wanted.weights, usual.extractor.weights),
        ("--data.geometry", data.geometry, usual.data.geometry),
        ("--data.size", data.size, usual.data.size),
        ("--data.lightness", data.lightness, usual.data.lightness),
        ("--seed", settings.seed if wanted.weights == "random" else usual.seed, usual.seed),
    )
    words = [word for flag, value, default in flags if value != default for word in (flag, str(value))]
    return shlex.join(["koala", "shards", "embed", str(data.shards), *words])


def _check_fixed(settings: ExtractorSettings, geometry: Geometry) -> None:
    """Refuse embeddings that are another each time."""
    if settings.name == "none":
        raise UserError("without extractor there are no embeddings to keep; name one with --extractor.name")
    if geometry == "random_crop":
        raise UserError(
            "random_crop shows another part of a photo each time, so that its embeddings cannot be kept; "
            "choose another --data.geometry, with --data.mirror for variety"
        )
    if settings.batch_statistics:
        raise UserError(
            "with --extractor.batch-statistics embeddings depend on the rest of the batch, so that they cannot be "
            "kept; leave it out"
        )


def _check_unaged(data: DataSettings) -> None:
    if data.aging:
        raise UserError(
            "with --data.aging a photo looks otherwise each time, so that its embeddings cannot be kept; leave it out"
        )


# ---------------------------------------------------------------- making


def embed_command(settings: EmbedShards) -> int:
    """`koala shards embed`: make the embeddings that are not there yet, on any number of processes.

    Returns:
        0.

    Raises:
        UserError: the geometry is not fixed, or shards or extractor are not to be had.
    """
    settings = _for_training(settings)
    _check_fixed(settings.extractor, settings.data.geometry)
    with open_accelerator(settings.device, settings.mixed_precision) as accelerator:
        EmbeddingJob(settings, accelerator).run()
    return 0


def _for_training(settings: EmbedShards) -> EmbedShards:
    """What the training's file says, where one is named; flags that say the same things are refused."""
    if settings.training is None:
        return settings
    usual = EmbedShards(settings.shards)
    view = replace(settings.data, threads=usual.data.threads)
    if replace(settings, training=None, data=view, batch=usual.batch, device=usual.device) != usual:
        raise UserError(
            f"{settings.training} says which extractor, view, precision and seed; leave out the flags for these"
        )
    return embed_settings_for(load_toml(TrainSettings, settings.training), settings)


def embed_settings_for(training: TrainSettings, settings: EmbedShards | None = None) -> EmbedShards:
    """What must be embedded for a training; `settings` say where and how, by default as the training."""
    data = training.data
    _check_unaged(data)
    settings = settings or EmbedShards(data.shards, device=training.device)
    return replace(
        settings,
        extractor=replace(training.extractor, cache=False),
        data=replace(settings.data, geometry=data.geometry, size=data.size, lightness=data.lightness),
        mixed_precision=training.mixed_precision,
        seed=training.seed,
    )


class EmbeddingJob:
    """The making of embeddings.

    Args:
        settings: of what, with which extractor.
        accelerator: processes and device.
    """

    def __init__(self, settings: EmbedShards, accelerator: Accelerator) -> None:
        self.settings, self.accelerator = settings, accelerator
        self.manifest = read_manifest(settings.shards)
        # the first process fetches the extractor's weights, the others find them
        built = main_process_first(accelerator, lambda: extractor.build_extractor(settings.extractor, settings.seed))
        assert built is not None, "a training without extractor was refused"
        key = CacheKey.of(settings, built)
        self.cache = EmbeddingCache(settings.shards / "embeddings" / key.name, key)
        self.extractor = built.to_device(accelerator.device, settings.mixed_precision)

    def run(self) -> None:
        """Make this process's share of the shards: whole ones, and without waiting for the others."""
        unfinished = on_main_process(self.accelerator, lambda: _begin(self.cache, self.manifest))
        mine = unfinished[self.accelerator.process_index :: self.accelerator.num_processes]
        total = sum(self.manifest.splits[split][number].samples for split, number in mine)
        with Progress(total, "embedding", show=self.accelerator.is_main_process) as progress:
            for split in SPLITS:
                if numbers := [number for of, number in mine if of == split]:
                    self._make(split, numbers, progress)
        if not any(map(self.cache.fault, _entries(self.manifest))):
            print(f"{self.cache.folder}: the embeddings are complete")

    def _make(self, split: SplitName, numbers: Sequence[int], progress: Progress) -> None:
        """Make the embeddings of some shards of a split, in one stream."""
        settings, view = self.settings, self.settings.data
        data = DataSettings(
            settings.shards, geometry=view.geometry, size=view.size, lightness=view.lightness, threads=view.threads
        )
        shards = Shards.open(settings.shards, split)
        pieces = {number: _pieces(shards.shard_sizes, number, settings.batch) for number in numbers}
        places = (piece for of_shard in pieces.values() for piece in of_shard)
        stream = load_batches(shards, places, data, dali_device(self.accelerator), batch=settings.batch)
        for number, of_shard in pieces.items():
            rows = []
            for piece in of_shard:
                rows.append(self._rows(next(stream).lightness))
                progress.advance(len(piece))
            self.cache.put(self.manifest.splits[split][number], np.concatenate(rows))

    def _rows(self, lightness: Tensor) -> NDArray[np.float16]:
        """`(B, 1, H, W)` lightness to `(B, 2, E)`: of the pictures, and of their mirror images."""
        both = torch.cat([lightness, lightness.flip(3)])
        with self.accelerator.autocast():
            embedding = self.extractor(both.contiguous(memory_format=torch.channels_last))
        rows = embedding.unflatten(0, (_ROWS, -1)).transpose(0, 1).to(torch.float16).cpu().numpy()
        if not np.isfinite(rows).all():
            raise UserError(
                f"embeddings of {self.settings.extractor.name} are beyond what float16 holds; choose "
                "--mixed-precision no, or other --extractor.features"
            )
        return rows


def _all_shards(manifest: ShardManifest) -> list[tuple[SplitName, int]]:
    """The shards that hold samples: split, and number in it."""
    return [
        (split, number)
        for split in SPLITS
        for number, entry in enumerate(manifest.splits.get(split, []))
        if entry.samples
    ]


def _entries(manifest: ShardManifest) -> list[ShardEntry]:
    return [manifest.splits[split][number] for split, number in _all_shards(manifest)]


def _begin(cache: EmbeddingCache, manifest: ShardManifest) -> list[tuple[SplitName, int]]:
    """Write down the key, and find the shards that have no embeddings yet: split and number in it."""
    path = cache.folder / "key.json"
    for part in cache.folder.glob("*.part"):  # of a run that was killed
        part.unlink(missing_ok=True)
    if path.exists():
        before = _read_key(path)
        if before.mixed_precision != cache.key.mixed_precision:
            raise UserError(
                f"{cache.folder} was begun with mixed_precision = {before.mixed_precision}, not "
                f"{cache.key.mixed_precision}; go on with that, or delete the folder"
            )
    else:
        cache.folder.mkdir(parents=True, exist_ok=True)
        atomic_io.write_atomic(path, json.dumps(asdict(cache.key), indent=1).encode())
    return [
        (split, number)
        for split, number in _all_shards(manifest)
        if cache.fault(manifest.splits[split][number], thorough=True)
    ]


def _pieces(shard_sizes: Sequence[int], number: int, batch: int) -> list[SamplePositions]:
    """A shard's samples in order, `batch` at the most; no piece reaches into the next shard."""
    first = sum(shard_sizes[:number])
    end = first + shard_sizes[number]
    parts = [np.arange(start, min(end, start + batch)) for start in range(first, end, batch)]
    return [SamplePositions(samples, np.zeros_like(samples)) for samples in parts]

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
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from koala.config.data import DataSettings, EmbedShards
from koala.config.fields import Geometry, LightnessSource, MixedPrecision, SplitName
from koala.config.models import ExtractorSettings
from koala.core.errors import UserError
from koala.core.readers import parse_json
from koala.data.mirror import bring, local_folder, remove_file, write_file
from koala.data.shards import SPLITS, ShardEntry, ShardManifest, Shards, read_manifest
from koala.models import extractor
from koala.models.extractor import Extractor

FORMAT = "koala-embeddings/1"
ROWS = 2  # embeddings of each sample: plain and mirrored
_BYTES = 2  # of a float16
_MOST_HEADER = 1024  # bytes that NumPy writes before the numbers


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
            rows = entry.samples * ROWS * self.key.embedding_size * _BYTES
            if found != record.bytes or not 0 < found - rows <= _MOST_HEADER:
                return f"{path} is {found} bytes long, its record says {record.bytes}, its embeddings take {rows}"
            if thorough and hashlib.sha256(path.read_bytes()).hexdigest() != record.sha256:
                return f"{path}: sha256 differs from its record"
        except OSError:
            return f"there are no embeddings of {entry.shard} in {self.folder}"
        except UserError:
            return f"the record of {path} is damaged"
        return ""

    def put(self, entry: ShardEntry, rows: NDArray[np.float16]) -> None:
        """Write a shard's embeddings, `(samples, 2, E)`: the file, then its record."""
        buffer = io.BytesIO()
        np.save(buffer, rows)
        data = buffer.getvalue()
        path = self._path(entry)
        remove_file(path.with_suffix(".json"))  # of what the file was before
        write_file(path, data)
        record = CacheRecord(entry.sha256, len(data), hashlib.sha256(data).hexdigest())
        write_file(path.with_suffix(".json"), json.dumps(asdict(record)).encode())

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
        path = self._path(entry).with_suffix(".json")
        return parse_json(CacheRecord, path.read_bytes(), path, "run koala shards embed again")


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
        bring(cache.folder.parent.parent, f"embeddings/{cache.folder.name}/*")
        self._open = lru_cache(maxsize=64)(lambda shard: cache.open(entries[shard]))

    def read(self, samples: NDArray[np.int64], mirror: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The embeddings of `(N,)` samples, or of their mirror images, `(N, E)`.

        Raises:
            UserError: there is none.
        """
        return np.stack([self._row(*place) for place in zip(samples.tolist(), mirror.tolist(), strict=True)])

    def _row(self, sample: int, mirror: bool) -> NDArray[np.float32]:
        shard, number = self._shards.place(sample)
        return self._open(shard).row(ROWS * number + mirror)


class _OpenFile:
    """An open file of embeddings; read and not mapped, so that one that grows shorter ends no process."""

    def __init__(self, path: Path, length: int, samples: int, embedding_size: int) -> None:
        self._path, self._row_bytes = path, embedding_size * _BYTES
        self._begin = length - samples * ROWS * self._row_bytes  # after NumPy's header
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


def find_cache(wanted: ExtractorSettings, data: DataSettings, seed: int = 0) -> EmbeddingCache:
    """The embeddings that a training would compute itself.

    The extractor is built only where its weights are at hand; else the key's word is taken for them.

    Args:
        wanted: the extractor.
        data: the shards, and how a photo becomes a square.
        seed: of random weights.

    Raises:
        UserError: there are none, they were made with something else, or they are not complete.
    """
    check_fixed(wanted, data.geometry)
    check_unaged(data)
    folder = data.shards
    remedy = f"run {_command(wanted, data, seed)}, or leave out --extractor.cache"
    nearest: list[str] = []
    # those first whose weights were named alike: for the others the extractor may have to be built
    for cache in sorted(_caches(local_folder(folder)), key=lambda cache: cache.key.weights != wanted.weights):
        differences = _differences(cache.key, wanted, data, seed)
        if not differences:
            return _complete(cache, remedy)
        nearest = min(nearest or differences, differences, key=len)
    if nearest:
        raise UserError(f"the cached embeddings were made with {' and '.join(nearest)}; {remedy}")
    raise UserError(f"{folder} holds no cached embeddings; {remedy}")


def _complete(cache: EmbeddingCache, remedy: str) -> EmbeddingCache:
    """The cache, if all its shards' embeddings are there."""
    shards = cache.folder.parent.parent
    bring(shards, f"embeddings/{cache.folder.name}/*")
    entries = embedded_entries(read_manifest(shards))
    faults = [fault for fault in map(cache.fault, entries) if fault]
    if faults:
        raise UserError(
            f"the cached embeddings of {len(faults)} of {len(entries)} shards cannot be used: {faults[0]}; {remedy}"
        )
    return cache


def _caches(folder: Path) -> list[EmbeddingCache]:
    bring(folder, "embeddings/*/key.json")
    return [EmbeddingCache(path.parent, read_key(path)) for path in sorted(folder.glob("embeddings/*/key.json"))]


def read_key(path: Path) -> CacheKey:
    """Read a key.

    Raises:
        UserError: it is damaged.
    """
    remedy = f"delete {path.parent} and run koala shards embed again"
    key = parse_json(CacheKey, path.read_bytes(), path, remedy)
    if key.format != FORMAT:
        raise UserError(f"{path} is of another koala; {remedy}")
    return key


def _differences(key: CacheKey, wanted: ExtractorSettings, data: DataSettings, seed: int) -> list[str]:
    """In what the embeddings that a training wants are others, in words."""
    parts = (
        ("extractor.name", key.extractor, wanted.name),
        ("extractor.features", key.features, wanted.features),
        ("data.geometry", key.geometry, data.geometry),
        ("data.size", key.size, data.size),
        ("data.lightness", key.lightness, data.lightness),
    )
    named = [f"{name} = {was}, not {now}" for name, was, now in parts if was != now]
    return named or _other_weights(key, wanted, seed)


def _other_weights(key: CacheKey, wanted: ExtractorSettings, seed: int) -> list[str]:
    """Whether the extractor's weights are others: by their hash where they are at hand, else by their name."""
    now = wanted.weights
    if {key.weights, now} == {"pretrained", "random"}:
        return [f"extractor.weights = {key.weights}, not {now}"]
    if now == key.weights and (now == "pretrained" or not (now == "random" or Path(now).exists())):
        return []
    built = extractor.build_extractor(wanted, seed)
    sha256 = extractor.weights_sha256(built) if built is not None else ""
    if sha256 == key.extractor_sha256:
        return []
    return [f"other weights of {key.extractor} (sha256 {key.extractor_sha256[:8]}, not {sha256[:8]})"]


def _command(wanted: ExtractorSettings, data: DataSettings, seed: int) -> str:
    """The command that makes the embeddings a training wants, with the flags that are not as by default."""
    usual = EmbedShards(data.shards)
    flags = (
        ("--extractor.name", wanted.name, usual.extractor.name),
        ("--extractor.features", wanted.features, usual.extractor.features),
        ("--extractor.weights", wanted.weights, usual.extractor.weights),
        ("--data.geometry", data.geometry, usual.data.geometry),
        ("--data.size", data.size, usual.data.size),
        ("--data.lightness", data.lightness, usual.data.lightness),
        ("--seed", seed if wanted.weights == "random" else usual.seed, usual.seed),
    )
    words = [word for flag, value, default in flags if value != default for word in (flag, str(value))]
    return shlex.join(["koala", "shards", "embed", str(data.shards), *words])


def check_fixed(settings: ExtractorSettings, geometry: Geometry) -> None:
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


def check_unaged(data: DataSettings) -> None:
    """Refuse embeddings of photos that look otherwise each time."""
    if data.aging:
        raise UserError(
            "with --data.aging a photo looks otherwise each time, so that its embeddings cannot be kept; leave it out"
        )


def nonempty_shards(manifest: ShardManifest) -> list[tuple[SplitName, int]]:
    """The shards that hold samples: split, and number in it."""
    return [
        (split, number)
        for split in SPLITS
        for number, entry in enumerate(manifest.splits.get(split, []))
        if entry.samples
    ]


def embedded_entries(manifest: ShardManifest) -> list[ShardEntry]:
    """The manifest's entries of these, in order."""
    return [manifest.splits[split][number] for split, number in nonempty_shards(manifest)]

"""`koala shards embed`: the extractor's embeddings of all samples and of their mirror images, made once and kept."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from koala.config.data import DataSettings, EmbedShards
from koala.config.fields import SplitName
from koala.config.load import load_toml
from koala.config.training import TrainSettings
from koala.core.distributed import (
    dali_device,
    main_process_first,
    on_main_process,
    open_accelerator,
    wait_for_all,
)
from koala.core.errors import UserError
from koala.core.folder_lock import lock_folder
from koala.core.progress import Progress
from koala.data.embedding_cache import (
    ROWS,
    CacheKey,
    EmbeddingCache,
    check_fixed,
    check_unaged,
    embedded_entries,
    nonempty_shards,
    read_key,
)
from koala.data.loader import load_batches
from koala.data.mirror import bring, local_folder, write_file
from koala.data.sampler import SamplePositions
from koala.data.shards import SPLITS, ShardManifest, Shards, read_manifest
from koala.models import extractor


def embed_command(settings: EmbedShards) -> int:
    """`koala shards embed`: make the embeddings that are not there yet, on any number of processes.

    Returns:
        0.

    Raises:
        UserError: the geometry is not fixed, or shards or extractor are not to be had.
    """
    settings = _for_training(settings)
    check_fixed(settings.extractor, settings.data.geometry)
    with open_accelerator(settings.device, settings.mixed_precision) as accelerator:
        EmbeddingJob(settings, accelerator).run()
    return 0


def _for_training(settings: EmbedShards) -> EmbedShards:
    """What the training's file says, where one is named; flags that say the same things are refused."""
    if settings.training is None:
        return settings
    usual = EmbedShards(settings.shards)
    view = replace(settings.data, threads=usual.data.threads)
    if replace(settings, training=None, data=view, batch_size=usual.batch_size, device=usual.device) != usual:
        raise UserError(
            f"{settings.training} says which extractor, view, precision and seed; leave out the flags for these"
        )
    return embed_settings_for(load_toml(TrainSettings, settings.training), settings)


def embed_settings_for(training: TrainSettings, settings: EmbedShards | None = None) -> EmbedShards:
    """What must be embedded for a training; `settings` say where and how, by default as the training."""
    data = training.data
    check_unaged(data)
    settings = settings or EmbedShards(data.shards, device=training.device)
    return replace(
        settings,
        extractor=replace(training.extractor, cache=False),
        data=replace(settings.data, geometry=data.geometry, size=data.size, lightness=data.lightness),
        mixed_precision=training.mixed_precision,
        seed=training.seed,
    )


_BATCHES = {"gpu": 256, "cpu": 32}  # images at a time; each is embedded with its mirror image


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
        self.cache = EmbeddingCache(local_folder(settings.shards) / "embeddings" / key.name, key)
        bring(local_folder(settings.shards), f"embeddings/{key.name}/*")
        self.batch = settings.batch_size or _BATCHES[dali_device(accelerator)]
        self.extractor = built.to_device(accelerator.device, settings.mixed_precision)

    def run(self) -> None:
        """Make this process's share of the shards: whole ones, and without waiting for the others before the end.

        Raises:
            UserError: another command is making them.
        """
        with ExitStack() as held:
            unfinished = on_main_process(self.accelerator, lambda: _begin(self.cache, self.manifest, held))
            mine = unfinished[self.accelerator.process_index :: self.accelerator.num_processes]
            total = sum(self.manifest.splits[split][number].samples for split, number in mine)
            with Progress(total, "embedding", show=self.accelerator.is_main_process) as progress:
                for split in SPLITS:
                    if numbers := [number for of, number in mine if of == split]:
                        self._make(split, numbers, progress)
            wait_for_all(self.accelerator)  # the lock is for all of them
        if self.accelerator.is_main_process and not any(map(self.cache.fault, embedded_entries(self.manifest))):
            print(f"{self.settings.shards}/embeddings/{self.cache.folder.name}: the embeddings are complete")

    def _make(self, split: SplitName, numbers: Sequence[int], progress: Progress) -> None:
        """Make the embeddings of some shards of a split, in one stream."""
        settings, view = self.settings, self.settings.data
        data = DataSettings(
            settings.shards, geometry=view.geometry, size=view.size, lightness=view.lightness, threads=view.threads
        )
        shards = Shards.open(settings.shards, split)
        pieces = {number: _pieces(shards.shard_sizes, number, self.batch) for number in numbers}
        places = (piece for of_shard in pieces.values() for piece in of_shard)
        stream = load_batches(shards, places, data, dali_device(self.accelerator), batch=self.batch)
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
        rows = embedding.unflatten(0, (ROWS, -1)).transpose(0, 1).to(torch.float16).cpu().numpy()
        if not np.isfinite(rows).all():
            raise UserError(
                f"embeddings of {self.settings.extractor.name} are beyond what float16 holds; choose "
                "--mixed-precision no, or other --extractor.features"
            )
        return rows


def _begin(cache: EmbeddingCache, manifest: ShardManifest, held: ExitStack) -> list[tuple[SplitName, int]]:
    """Lock the folder, write down the key, and find the shards without embeddings: split and number in it."""
    held.enter_context(lock_folder(cache.folder, "koala shards embed"))
    path = cache.folder / "key.json"
    for part in cache.folder.glob("*.part"):  # of a run that was killed
        part.unlink(missing_ok=True)
    if path.exists():
        before = read_key(path)
        if before.mixed_precision != cache.key.mixed_precision:
            raise UserError(
                f"{cache.folder} was begun with mixed_precision = {before.mixed_precision}, not "
                f"{cache.key.mixed_precision}; use that precision, or delete the folder"
            )
    else:
        write_file(path, json.dumps(asdict(cache.key), indent=1).encode())
    return [
        (split, number)
        for split, number in nonempty_shards(manifest)
        if cache.fault(manifest.splits[split][number], thorough=True)
    ]


def _pieces(shard_sizes: Sequence[int], number: int, batch: int) -> list[SamplePositions]:
    """A shard's samples in order, `batch` at the most; no piece reaches into the next shard."""
    first = sum(shard_sizes[:number])
    end = first + shard_sizes[number]
    parts = [np.arange(start, min(end, start + batch)) for start in range(first, end, batch)]
    return [SamplePositions(samples, np.zeros_like(samples)) for samples in parts]

"""`koala train --dry-run`: what a training will take, also before there are shards.

Nothing is written, nothing is fetched, and no GPU is needed: the extractor is built with random weights.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from koala.config.data import ShardRecipe
from koala.config.load import flat, load_toml, to_dict
from koala.config.training import TrainSettings
from koala.core.templates import template_path
from koala.data.mirror import holds_shards
from koala.data.sample_filter import open_filtered
from koala.data.sampler import EpochSampler, micro_batches
from koala.data.shards import read_manifest
from koala.models.build import build_network
from koala.models.extractor import build_extractor
from koala.training import estimate
from koala.training.run_folder import lasting
from koala.training.schedule import total_images

IMAGENET = 1_281_167  # training images, by https://image-net.org/challenges/LSVRC/2012


@dataclass(frozen=True)
class ImageCounts:
    """How many images there are.

    Attributes:
        train: in an epoch.
        val: to validate on; none where that is not known.
        origin: where the numbers are from, if not from the shards.
    """

    train: int
    val: int | None = None
    origin: str = ""


def describe_training(settings: TrainSettings, processes: int) -> str:
    """All settings, and what training takes with them, for people.

    Args:
        settings: of the training.
        processes: that share the batch.

    Raises:
        UserError: the settings do not fit together.
    """
    images = count_images(settings)
    total = total_images(images.train, settings.epochs, settings.batch_size)
    fused = settings.network.name == "fusion"
    extractor = build_extractor(replace(settings.extractor, weights="random")) if fused else None
    size = extractor.embedding_size if extractor is not None else 0
    network = build_network(settings, size, pretrained=False)
    sampler, pieces = EpochSampler((settings.batch_size,), settings.seed), max(1, settings.gradient_accumulation_steps)
    piece = len(next(micro_batches(sampler, 0, settings.batch_size, rank=0, world_size=processes, accumulation=pieces)))
    facts = {
        "images": _images(images, total),
        "steps": f"{total // settings.batch_size:,} of {settings.batch_size} images, {piece} at a time in each of "
        f"{processes} processes",
        **estimate.training_facts(settings, network, None if settings.extractor.cache else extractor, piece, total),
    }
    if settings.images_per_second:
        hours = total / settings.images_per_second / 3600
        facts["time"] = f"{hours:,.1f} hours at {settings.images_per_second:,g} images/s, without validation"
    lines = [f"{name} = {json.dumps(value)}" for name, value in flat(to_dict(lasting(settings))).items()]
    return "\n".join([*lines, "", *(f"{name:10}  {fact}" for name, fact in facts.items())])


def count_images(settings: TrainSettings) -> ImageCounts:
    """How many images a training will see: as said, as in its shards, as in their recipe, or as in ImageNet."""
    shards = settings.data.shards
    if settings.dry_run_images:
        return ImageCounts(settings.dry_run_images, origin="--dry-run-images")
    if settings.data.synthetic:
        return ImageCounts(settings.data.synthetic, origin="--data.synthetic")
    if holds_shards(shards):
        splits = [split for split in ("train", "val") if read_manifest(shards).samples(split)]
        counts = {split: len(open_filtered(shards, split, settings.data.filter)) for split in splits}
        return ImageCounts(counts.get("train", 0), counts.get("val", 0))
    path = next((path for path in _recipes(shards.name) if path.exists()), None)
    recipe = load_toml(ShardRecipe, path) if path is not None else ShardRecipe()
    if recipe.limit:
        val = recipe.split.val_count or round(recipe.limit * recipe.split.val_share)
        return ImageCounts(recipe.limit - val, val, f"by {path}, for there are no shards at {shards} yet")
    return ImageCounts(
        IMAGENET,
        origin=f"assumed, as in ImageNet, for there are no shards at {shards} yet; --dry-run-images N says otherwise",
    )


def _recipes(name: str) -> tuple[Path, ...]:
    """Where the recipe of a folder of shards may lie: that of its name."""
    return Path("shards") / f"{name}.toml", template_path(f"shards/{name}.toml")


def _images(images: ImageCounts, total: int) -> str:
    val = "" if images.val is None else f", {images.val:,} to validate on"
    origin = f" ({images.origin})" if images.origin else ""
    return f"{images.train:,} in an epoch{val}, {total:,} in all{origin}"

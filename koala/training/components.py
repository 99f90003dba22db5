"""What a training is made of: data, embedder, network, loss; each built once, from the few values it needs."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from koala.config.data import DataSettings
from koala.config.fields import Location, MixedPrecision, SplitName
from koala.config.models import ExtractorSettings, ObjectiveSettings
from koala.config.training import TrainSettings
from koala.core.distributed import dali_device, main_process_first, on_main_process
from koala.core.errors import UserError
from koala.data import color_prior, sample_filter
from koala.data.embedding_cache import CachedEmbeddings, EmbeddingCache, find_cache
from koala.data.loader import Batch, load_batches
from koala.data.sampler import EpochSampler, micro_batches
from koala.data.shards import Shards, read_manifest
from koala.imaging import ab_bins
from koala.models.build import build_network
from koala.models.extractor import Extractor, build_extractor, weights_sha256
from koala.models.network import ColorNetwork
from koala.models.objectives import Objective, needs_prior
from koala.models.perceptual import PerceptualLoss
from koala.training.synthetic import SyntheticSamples, synthetic_batches


@dataclass(frozen=True)
class TrainingData:
    """What is trained and validated on.

    Attributes:
        settings: shards, and how a photo becomes a square.
        train: the samples of an epoch.
        val: those of a validation, if there are any.
        sampler: which sample comes when.
        sha256: of the training shards, and of the selection from them; a run stays with it.
    """

    settings: DataSettings
    train: Shards | SyntheticSamples
    val: Shards | None
    sampler: EpochSampler
    sha256: list[str]

    def describe(self, images_seen: int, count: int) -> list[dict[str, Any]]:
        """What is known of the samples that come next."""
        samples = map(int, self.sampler.positions(images_seen, count).samples)
        return [{"sample": sample, **asdict(self.train.describe(sample))} for sample in samples]


@dataclass(frozen=True)
class Embedder:
    """What gives the network its embedding of each picture: the extractor, its cache, or nothing.

    Attributes:
        extractor: run in each step, on its device.
        cache: of what it gave, which is read with the batches.
        size: E.
        sha256: of the extractor's weights; empty without extractor.
    """

    extractor: Extractor | None = None
    cache: EmbeddingCache | None = None
    size: int = 0
    sha256: str = ""

    def embed(self, lightness: Tensor, cached: Tensor | None) -> Tensor | None:
        """`(B, 1, H, W)` to `(B, E)`: computed now, or as it was cached."""
        return self.extractor(lightness) if self.extractor is not None else cached

    def reader(self, folder: Location, split: SplitName, shards: Shards) -> CachedEmbeddings | None:
        """Where the batches of a split find their embeddings, if these are cached."""
        if self.cache is None:
            return None
        return CachedEmbeddings(self.cache, read_manifest(folder).splits[split], shards)


@dataclass(frozen=True)
class Loss:
    """What is made small, with the hashes of what it depends on; a run stays with these, too.

    Attributes:
        objective: a function of a batch and its prediction.
        prior: `(Q,)` of colours, where one is used.
        prior_sha256: of it; empty where none is used.
        perceptual_sha256: of the perceptual network's weights; empty without that term.
    """

    objective: Objective
    prior: Tensor | None = None
    prior_sha256: str = ""
    perceptual_sha256: str = ""


@dataclass(frozen=True)
class Components:
    """All of them."""

    data: TrainingData
    embedder: Embedder
    network: ColorNetwork
    loss: Loss


def build_components(settings: TrainSettings, accelerator: Accelerator) -> Components:
    """Build them as the settings say.

    Raises:
        UserError: shards, embeddings, weights or prior are not to be had, or the settings do not fit together.
    """
    data = open_data(settings.data, settings.seed, settings.deterministic)
    embedder = Embedder()  # a pyramid holds its extractor itself
    if settings.network.name == "fusion":
        embedder = build_embedder(
            settings.extractor, settings.data, settings.mixed_precision, settings.seed, accelerator
        )
    torch.manual_seed(settings.seed)
    # the first process fetches the extractor's weights, the others find them
    network = main_process_first(accelerator, lambda: build_network(settings, embedder.size))
    loss = build_loss(settings.objective, settings.data, accelerator)
    if network.prior is not None and loss.prior is not None:
        network.prior.copy_(loss.prior)
    return Components(data, embedder, network, loss)


def open_data(data: DataSettings, seed: int, deterministic: bool = False) -> TrainingData:
    """Open both splits; validation may be absent.

    Args:
        data: which shards, and how a photo becomes a square.
        seed: of the order.
        deterministic: decode on the CPU, whose pixels depend on nothing but the bytes, where nothing else is said.
    """
    if data.synthetic:
        noise = SyntheticSamples(data.synthetic)
        return TrainingData(data, noise, None, EpochSampler(noise.shard_sizes, seed), [f"noise {data.synthetic}"])
    if data.aging and data.lightness == "color":
        raise UserError("an old photograph has no L* of colours; leave out --data.aging or --data.lightness color")
    manifest = read_manifest(data.shards)
    train = sample_filter.open_filtered(data.shards, "train", data.filter)
    val = sample_filter.open_filtered(data.shards, "val", data.filter) if manifest.samples("val") else None
    sha256 = [entry.sha256 for entry in manifest.splits["train"]]
    selection = [train.selection] if data.filter else []
    if data.decoder == "auto" and deterministic:
        data = replace(data, decoder="cpu")
    return TrainingData(data, train, val, EpochSampler(train.shard_sizes, seed), [*sha256, *selection])


def build_embedder(
    settings: ExtractorSettings,
    data: DataSettings,
    mixed_precision: MixedPrecision,
    seed: int,
    accelerator: Accelerator,
) -> Embedder:
    """Find the cached embeddings, or build the extractor that computes them in each step."""
    if settings.cache and data.synthetic:
        built = build_extractor(replace(settings, weights="random"), seed)
        return Embedder(size=built.embedding_size if built is not None else 0)
    if settings.cache:
        cache = on_main_process(accelerator, lambda: find_cache(settings, data, seed))
        return Embedder(None, cache, cache.key.embedding_size, cache.key.extractor_sha256)
    # the first process fetches the extractor's weights, the others find them
    built = main_process_first(accelerator, lambda: build_extractor(settings, seed))
    if built is None:
        return Embedder()
    sha256 = weights_sha256(built)
    return Embedder(built.to_device(accelerator.device, mixed_precision), None, built.embedding_size, sha256)


def build_loss(settings: ObjectiveSettings, data: DataSettings, accelerator: Accelerator) -> Loss:
    """The objective, with the weights of rare colours and the perceptual network that it needs."""
    device, prior, prior_sha256, weights, perceptual = accelerator.device, None, "", None, None
    if needs_prior(settings):
        if data.synthetic:
            prior = ab_bins.even_prior()
        else:
            prior = on_main_process(accelerator, lambda: color_prior.read_prior(data.shards))
        prior_sha256 = color_prior.prior_sha256(prior)
        weights = ab_bins.rebalancing_weights(prior, settings.rebalancing).to(device)
    if settings.perceptual:
        # the first process fetches the weights, the others find them
        perceptual = main_process_first(
            accelerator, lambda: PerceptualLoss(settings, data.size, accelerator.mixed_precision)
        ).to(device)
    objective = Objective(settings, weights, perceptual)
    return Loss(objective, prior, prior_sha256, perceptual.sha256 if perceptual is not None else "")


def training_batches(
    settings: TrainSettings, components: Components, images_seen: int, accelerator: Accelerator
) -> Iterator[Batch]:
    """This process's micro-batches, for ever, from a place in the data on."""
    data, world_size = components.data, accelerator.num_processes
    places = micro_batches(
        data.sampler,
        images_seen,
        settings.batch_size,
        rank=accelerator.process_index,
        world_size=world_size,
        accumulation=settings.gradient_accumulation_steps,
    )
    if isinstance(data.train, SyntheticSamples):
        size = components.embedder.size if components.embedder.extractor is None else 0
        return synthetic_batches(places, data.settings.size, size, accelerator.device, settings.seed)
    return load_batches(
        data.train,
        places,
        data.settings,
        dali_device(accelerator),
        batch=max(1, settings.batch_size // (world_size * settings.gradient_accumulation_steps)),
        seed=settings.seed,
        embeddings=components.embedder.reader(data.settings.shards, "train", data.train),
    )

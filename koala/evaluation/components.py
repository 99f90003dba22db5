"""What an evaluation is made of: protocol, images, pictures to judge, judges; each built once."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from koala.config.data import DataSettings, for_evaluation
from koala.config.evaluation import EvaluateSettings, EvaluationProtocol, ImageIds
from koala.config.fields import Location
from koala.config.models import ExtractorWeightsOrCache
from koala.core.distributed import dali_device, main_process_first, on_main_process
from koala.core.errors import UserError
from koala.data import sample_filter
from koala.data.embedding_cache import CachedEmbeddings, EmbeddingCache, find_cache
from koala.data.shards import Shards, read_manifest
from koala.evaluation import baselines, features, metrics, protocol, results
from koala.evaluation.baselines import MeanColor
from koala.evaluation.features import FeatureNetwork, Lpips, SkippedMetric
from koala.evaluation.folder_pictures import FolderPictures, picture_files
from koala.evaluation.predictions import NetworkPictures, PictureSource
from koala.evaluation.recognition import Classifier, build_classifier
from koala.models.checkpoint import Checkpoint
from koala.models.pretrained import PretrainedColorizer, find_model


@dataclass(frozen=True)
class Images:
    """The photos that pictures are judged against.

    Attributes:
        shards: those that are judged by.
        reference: those whose features are compared with, where they are others.
        data: how each is seen.
        split: which part of the shards.
        embeddings: cached, of the photos that are judged by.
    """

    shards: Shards
    reference: Shards | None
    data: DataSettings
    split: str
    embeddings: CachedEmbeddings | None = None


@dataclass(frozen=True)
class Judges:
    """Networks that judge pictures.

    Attributes:
        features: between whose features distances are taken.
        lpips: a perceptual distance.
        classifier: recognises the pictures.
        skipped: metrics that are left out, and why.
    """

    features: FeatureNetwork | None
    lpips: Lpips | None
    classifier: Classifier | None = None
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Components:
    """All of them.

    Attributes:
        protocol: how pictures are judged.
        images: the photos.
        pictures: what is judged.
        cache: of the embeddings that the network is given, if they are cached.
        judges: networks that judge.
        constant: the mean colour of the training pictures; None where it is not known.
        title: what the pictures are called.
        out: folder for what is written.
    """

    protocol: EvaluationProtocol
    images: Images
    pictures: PictureSource
    cache: EmbeddingCache | None
    judges: Judges
    constant: MeanColor | None
    title: str
    out: Path


def build_components(
    settings: EvaluateSettings, accelerator: Accelerator, constant: MeanColor | None = None
) -> Components:
    """Build them as the settings say; the constant colour, too, where none is given.

    Raises:
        UserError: checkpoint, shards or protocol are not whole, or do not fit together.
    """
    found = find_checkpoint(settings.model)
    rules = choose_protocol(settings, found)
    data = _view(settings, rules)
    images = _open_images(settings, rules, data, accelerator)
    cache = _find_cache(settings.extractor, found, data, accelerator) if found is not None else None
    model = _load(found, settings, cached=cache is not None, of=accelerator) if found is not None else None
    if cache is not None:
        entries = read_manifest(settings.shards).splits[settings.split]
        images = replace(images, embeddings=CachedEmbeddings(cache, entries, images.shards))
    if model is None:
        pictures: PictureSource = _of_folder(settings, rules, images, dali_device(accelerator))
        title = settings.model.resolve().name
    else:
        _check_size(rules.size, model.network.stride, settings.model)
        pictures = NetworkPictures(model, rules.assembly, accelerator.autocast)
        title = "koala"
    judges = build_judges(settings, found, rules, images, accelerator.device)
    constant = constant or _constant(settings, model)
    out = settings.out or results.default_folder(settings.model, trained=found is not None)
    return Components(rules, images, pictures, cache, judges, constant, title, out)


def _of_folder(settings: EvaluateSettings, rules: EvaluationProtocol, images: Images, device: str) -> FolderPictures:
    """The pictures of a folder."""
    if settings.preset or settings.temperature is not None:
        raise UserError(f"{settings.model} holds pictures, no network; leave out --preset and --temperature")
    if settings.saturation != 1 and rules.judged == "pictures":
        raise UserError("--saturation changes colours alone, but the pictures are judged as they are; add --judged ab")
    assembly = rules.assembly if rules.judged == "ab" else None
    return FolderPictures(settings.model, images.shards, images.data, device, assembly, settings.saturation)


def _check_size(size: int, stride: int, model: Path) -> None:
    """Refuse pictures that the network does not take."""
    if size % stride:
        raise UserError(
            f"{model} colours pictures whose sides are multiples of {stride}, not of {size} pixels; choose another "
            "--size or --protocol"
        )


def _constant(settings: EvaluateSettings, model: PretrainedColorizer | None) -> MeanColor | None:
    """The mean colour of the training: by its shards, by what the network keeps, or by the shards that judge it."""
    own = [model.found.settings.data.shards] if model is not None else []
    known = baselines.training_color(settings.training_shards, own)
    if known is None and model is not None and model.network.prior is not None:
        known = baselines.color_of_prior(model.network.prior)
    return known or baselines.training_color(None, [settings.shards])


def find_checkpoint(model: Path) -> Checkpoint | None:
    """The checkpoint that is to be judged; None for a folder of pictures."""
    trained = (model / "checkpoint.json").exists() or (model / "checkpoints").exists()
    return find_model(model) if trained or not picture_files(model) else None


def choose_protocol(settings: EvaluateSettings, found: Checkpoint | None) -> EvaluationProtocol:
    """The protocol that the settings name, or what the network saw in training."""
    if settings.protocol:
        named = protocol.find_protocol(settings.protocol)
    elif found is None:
        known = ", ".join(protocol.protocol_names())
        raise UserError(
            f"{settings.model} holds pictures, no checkpoint; say with --protocol how to judge them ({known})"
        )
    else:
        data = for_evaluation(found.settings.data)
        named = EvaluationProtocol("as in training", geometry=data.geometry, size=data.size, lightness=data.lightness)
    changes = {key: getattr(settings, key) for key in ("geometry", "size", "lightness", "assembly", "judged")}
    return protocol.choose_images(protocol.override(named, **changes), settings.ids, settings.limit)


def view_of(settings: EvaluateSettings) -> DataSettings:
    """How an evaluation sees its photos.

    Raises:
        UserError: there is no checkpoint, or no such protocol.
    """
    return _view(settings, choose_protocol(settings, find_checkpoint(settings.model)))


def _view(settings: EvaluateSettings, rules: EvaluationProtocol) -> DataSettings:
    return DataSettings(
        settings.shards, rules.geometry, rules.size, rules.lightness, settings.threads, decoder=settings.decoder
    )


def _open_images(
    settings: EvaluateSettings, rules: EvaluationProtocol, data: DataSettings, accelerator: Accelerator
) -> Images:
    """The samples that the protocol names."""

    def opened(ids: ImageIds, condition: str) -> Shards:
        return open_photos(settings.shards, settings.split, ids, condition, rules.name, accelerator)

    reference = opened(rules.reference, "") if rules.reference != ImageIds() else None
    return Images(opened(rules.ids, settings.filter), reference, data, settings.split)


def open_photos(  # noqa: PLR0917  (what is opened, and what is said of it)
    folder: Location, split: str, ids: ImageIds, condition: str, what: str, accelerator: Accelerator
) -> Shards:
    """The photos that are judged.

    Args:
        folder: of shards.
        split: "train" or "val".
        ids: which images.
        condition: on the audit's columns.
        what: the protocol, named in errors.
        accelerator: of all processes, the first of which looks for the images.

    Raises:
        UserError: the shards or some images are not there, or images are chosen in two ways.
    """
    wanted = protocol.image_names(ids, what)
    if wanted is None:
        shards = sample_filter.open_filtered(folder, split, condition)
    elif condition:
        raise UserError(f"{what} names its images; leave --filter out, or write a protocol of your own")
    else:
        some = bool(ids.limit)
        keep = on_main_process(accelerator, lambda: protocol.select_samples(folder, split, wanted, what, some=some))
        shards = Shards.open(folder, split, keep)
    if ids.limit:
        total = read_manifest(folder).samples(split)
        return Shards.open(folder, split, protocol.draw_samples(shards, total, ids.limit))
    if ids.count and len(shards) != ids.count:
        raise UserError(
            f'{what} judges {ids.count} images, but {folder} (split "{split}") holds {len(shards)}; '
            "name other shards, judge fewer with --limit, or judge by another --protocol"
        )
    return shards


def images_sha256(folder: Location, split: str, shards: Shards) -> str:
    """Of the bytes of a split, and of which of its samples there are."""
    entries = [entry.sha256 for entry in read_manifest(folder).splits[split]]
    return hashlib.sha256(json.dumps([*entries, shards.selection]).encode()).hexdigest()


def _find_cache(
    asked: ExtractorWeightsOrCache, found: Checkpoint, data: DataSettings, accelerator: Accelerator
) -> EmbeddingCache | None:
    """Where the network's embeddings are cached, when they are to be taken from there."""
    if not found.extractor_sha256 or not asked.cache:
        return None
    trained = found.settings.extractor
    wanted = replace(trained, weights=asked.weights or trained.weights)
    cache = on_main_process(accelerator, lambda: find_cache(wanted, data, found.settings.seed))
    if cache.key.extractor_sha256 != found.extractor_sha256:
        raise UserError(f"{cache.folder} was made with other weights than {found.path}; leave out --extractor.cache")
    return cache


def _load(found: Checkpoint, settings: EvaluateSettings, *, cached: bool, of: Accelerator) -> PretrainedColorizer:
    """The network, with its extractor where embeddings are not cached."""
    if cached:
        model = PretrainedColorizer(found, None)
    else:
        # the first process fetches the extractor's weights, the others find them
        model = main_process_first(of, lambda: PretrainedColorizer.of(found, settings.extractor.weights))
    model.preset = model.find_preset(settings.preset, settings.temperature, settings.saturation)
    return model.to(of.device)


def build_judges(
    settings: EvaluateSettings,
    found: Checkpoint | None,
    rules: EvaluationProtocol,
    images: Images,
    device: torch.device,
) -> Judges:
    """The networks that judge; what is not to be had is skipped, with the reason."""
    skipped: dict[str, str] = {}
    wanted = settings.features != "none"
    count = min(len(shards) for shards in (images.shards, images.reference or images.shards))
    network = _feature_network(rules, settings.inception, count, device, skipped) if wanted else None
    if not wanted and rules.features != "none":
        skipped[features.NAMES[rules.features][0]] = "--features none"
    perceptual = None
    try:
        if not wanted:
            raise SkippedMetric("--features none")
        if rules.size < features.LPIPS_SIDE:
            raise SkippedMetric(f"{rules.size} pixels are less than the {features.LPIPS_SIDE} that it needs")
        perceptual = features.build_lpips(settings.lpips, device)
    except SkippedMetric as reason:
        skipped["lpips"] = str(reason)
    if rules.size < metrics.SSIM_WINDOW:
        skipped["ssim"] = f"{rules.size} pixels are less than its window of {metrics.SSIM_WINDOW}"
    classifier = _classifier(settings, found, images.shards, device) if settings.classifier else None
    return Judges(network, perceptual, classifier, skipped)


def _classifier(
    settings: EvaluateSettings, found: Checkpoint | None, photos: Shards, device: torch.device
) -> Classifier:
    """The network that recognises the pictures."""
    if found is not None and found.settings.extractor.name == settings.classifier:
        raise UserError(
            f"{settings.classifier} is the extractor of {settings.model}, and would judge what it helped to colour; "
            "name another --classifier"
        )
    return build_classifier(settings.classifier, settings.classifier_weights, photos, device)


def _feature_network(
    rules: EvaluationProtocol, weights: Path | None, count: int, device: torch.device, skipped: dict[str, str]
) -> FeatureNetwork | None:
    """The protocol's network, or else EfficientNet-Lite0; why one is skipped is written into `skipped`."""
    if rules.features == "none":
        return None
    for candidate in dict.fromkeys((rules.features, "tf_efficientnet_lite0")):
        frechet, _, size = features.NAMES[candidate]
        try:
            if count < size:
                raise SkippedMetric(f"{count} pictures are too few to know the covariance of {size} features")
            own = weights if candidate == rules.features else None
            return features.build_feature_network(candidate, rules.normalization, own, device)
        except SkippedMetric as reason:
            skipped[frechet] = str(reason)
    return None

"""The network that a training's settings name."""

import contextlib
from dataclasses import replace

import torch

from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.models.extractor import build_feature_maps
from koala.models.network import ColorNetwork, FusionNetwork
from koala.models.objectives import required_head


def build_network(settings: TrainSettings, embedding_size: int = 0, *, pretrained: bool = True) -> ColorNetwork:
    """Make the network, with weights drawn from torch's generator.

    Args:
        settings: of the training.
        embedding_size: E of what a fusion network is given.
        pretrained: give a pyramid's extractor the weights that the settings say, unless those of `--init` follow; else
            random ones.

    Raises:
        UserError: the settings do not fit together, or the extractor's weights are not to be had.
    """
    head, network, extractor = required_head(settings.objective), settings.network, settings.extractor
    if network.name == "fusion":
        if network.hints or network.extractor_rate:
            raise UserError("only a pyramid takes hints or trains its extractor; choose --network pyramid")
        return FusionNetwork(embedding_size, head)
    from koala.models.pyramid import PyramidNetwork

    if extractor.cache or extractor.batch_statistics:
        raise UserError(
            "a pyramid uses no cached embeddings and no batch statistics; leave out --extractor.cache and "
            "--extractor.batch-statistics"
        )
    if settings.data.size % PyramidNetwork.stride:
        raise UserError(f"a pyramid needs --data.size to be a multiple of {PyramidNetwork.stride}")
    maps = build_feature_maps(extractor_within(settings, pretrained=pretrained), settings.seed, size=settings.data.size)
    return PyramidNetwork(maps, head, tuned=network.extractor_rate > 0, hints=network.hints)


def extractor_within(settings: TrainSettings, *, pretrained: bool = True) -> ExtractorSettings:
    """A pyramid's extractor; with random weights where those of a checkpoint, or of the model of `--init`, follow."""
    follow = not pretrained or (settings.init and not settings.init_partial)
    return replace(settings.extractor, weights="random") if follow else settings.extractor


def blank_network(settings: TrainSettings, embedding_size: int) -> ColorNetwork:
    """The network without its weights, for those of a checkpoint; arguments as of `build_network`."""
    # a fusion network takes no memory, whatever sizes a checkpoint's description names
    with torch.device("meta") if settings.network.name == "fusion" else contextlib.nullcontext():
        return build_network(settings, embedding_size, pretrained=False)

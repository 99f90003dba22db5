"""The optimizer, by its name in timm, for any network with named parameters."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from koala.config.training import OptimizerSettings
from koala.core.errors import UserError, first_line

_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)  # all arithmetic in one pass over the weights


def build_optimizer(
    network: nn.Module, settings: OptimizerSettings, learning_rate: float, extractor_rate: float = 1.0
) -> torch.optim.Optimizer:
    """Make the optimizer that the settings name.

    Args:
        network: on its device.
        settings: which, and how weights decay.
        learning_rate: to begin with.
        extractor_rate: share of it that an extractor has which is part of the network and trained.

    Raises:
        UserError: timm has no such optimizer, it needs what is not installed, or an option does not fit.
    """
    from timm.optim import create_optimizer_v2

    cls = _optimizer_class(settings.name)
    options: dict[str, Any] = {"fused": True} if cls in _FUSED else {}
    groups = list(parameter_groups(network, settings.weight_decay, settings.layer_decay, extractor_rate))
    decay = {"weight_decay": settings.weight_decay}
    try:
        return create_optimizer_v2(groups, settings.name, learning_rate, **decay, **options, **settings.options)
    except (TypeError, ValueError, AssertionError, ImportError, RuntimeError) as error:
        raise UserError(
            f"the optimizer {settings.name} cannot be made ({first_line(error)}); change --optimizer or "
            "[optimizer.options]"
        ) from None


def _optimizer_class(name: str) -> type:
    from timm.optim import get_optimizer_info, list_optimizers

    if name not in list_optimizers():
        near = list_optimizers(f"*{name}*")[:3]
        hint = f"did you mean {', '.join(near)}?" if near else "timm.optim.list_optimizers() has all"
        raise UserError(f"timm has no optimizer {name}; {hint}")
    found = get_optimizer_info(name)
    if found.second_order:
        raise UserError(f"the optimizer {name} needs second derivatives, which koala does not compute; choose another")
    return found.opt_class


def parameter_groups(
    network: nn.Module, weight_decay: float, layer_decay: float, extractor_rate: float = 1.0
) -> Iterator[dict[str, Any]]:
    """The weights that are trained, in groups of one decay and one rate.

    Biases and weights of normalisation, which have one dimension, do not decay. A layer is a module with weights of its
    own; the last one learns at the whole rate, and each before it at `layer_decay` times that of the next. They come as
    they were made, or as the network's method `in_order` says.

    Yields:
        `params`, `weight_decay`, and `lr_scale`: the group's share of the learning rate.
    """
    extractor = {weight for name, weight in network.named_parameters() if name.startswith("extractor.")}
    modules = [network] if layer_decay == 1 else [*getattr(network, "in_order", network.modules)()]
    layers = [_trained(module, recurse=layer_decay == 1) for module in modules]
    layers = [layer for layer in layers if layer]
    for number, layer in enumerate(layers):
        scale = layer_decay ** (len(layers) - 1 - number)
        for share, inside in ((1.0, False), (extractor_rate, True)):
            chosen = [weight for weight in layer if (weight in extractor) == inside]
            for decay, weights in _by_decay(chosen, weight_decay):
                yield {"params": weights, "weight_decay": decay, "lr_scale": share * scale}


def _trained(module: nn.Module, recurse: bool) -> list[nn.Parameter]:
    return [weight for weight in module.parameters(recurse) if weight.requires_grad]


def _by_decay(weights: list[nn.Parameter], weight_decay: float) -> Iterator[tuple[float, list[nn.Parameter]]]:
    thick = [weight for weight in weights if weight_decay and weight.ndim > 1]
    thin = [weight for weight in weights if not weight_decay or weight.ndim < 2]
    yield from ((decay, chosen) for decay, chosen in ((weight_decay, thick), (0.0, thin)) if chosen)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let each group learn at its share of a rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def skips_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it leaves a step out itself where `found_inf` says so, so that nobody waits to decide it."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def fits(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> bool:
    """Whether what an optimizer keeps of a weight is that weight's."""
    kept = optimizer.state[weight]
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        return all(kept[name].shape == weight.shape for name in ("exp_avg", "exp_avg_sq"))
    return True  # what others keep is known to them alone

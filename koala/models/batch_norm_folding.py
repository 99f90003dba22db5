"""Batch normalisation of a frozen network, folded into the convolutions before it: the same function, fewer passes."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

_SIDE = 96  # pixels of the picture by which the convolutions are found and the result is compared
_TOLERANCE = 1e-4  # of the largest output


@torch.no_grad()
def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Fold what can be folded.

    A batch normalisation is folded that was given a convolution's very output. Whether something else was given that
    output, too, is not seen, so that the result is compared with the network as it was.

    Args:
        model: in evaluation mode, in fp32; it stays as it is.

    Returns:
        A folded copy, or the model itself where nothing can be folded.
    """
    picture = torch.rand(2, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    folded = deepcopy(model)
    try:
        pairs = _pairs(folded, picture)
        expected = model(picture)
    except (RuntimeError, AssertionError, ValueError):  # a network that takes pictures of its own size only
        return model
    for convolution, name in pairs:
        norm: Any = folded.get_submodule(name)
        _fold(convolution, norm)
        parent, _, child = name.rpartition(".")
        setattr(folded.get_submodule(parent), child, _rest(norm))
    same = all(map(_close, _outputs(folded(picture)), _outputs(expected)))
    return folded if pairs and same else model


def _outputs(output: Tensor | list[Tensor]) -> list[Tensor]:
    return output if isinstance(output, list) else [output]


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max())


def _pairs(model: nn.Module, picture: Tensor) -> list[tuple[nn.Conv2d, str]]:
    """Convolutions, and the names of the batch normalisations that follow them, each pair once."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # tensors are held, so that no other gets their number
    pairs: list[tuple[nn.Conv2d, str]] = []

    def after(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        outputs[id(output)] = module, output

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:

            def before(_: nn.Module, inputs: tuple[Tensor], name: str = name) -> None:
                if (found := outputs.get(id(inputs[0]))) is not None:
                    pairs.append((found[0], name))

            handles.append(module.register_forward_pre_hook(before))
    try:
        model(picture)
    finally:
        for handle in handles:
            handle.remove()
    return pairs


def _fold(convolution: nn.Conv2d, norm: Any) -> None:
    scale = torch.rsqrt(norm.running_var + norm.eps) * (norm.weight if norm.affine else 1)
    bias = convolution.bias if convolution.bias is not None else torch.zeros_like(norm.running_mean)
    shift = norm.bias if norm.affine else torch.zeros_like(norm.running_mean)
    convolution.weight.mul_(scale.view(-1, 1, 1, 1))
    convolution.bias = nn.Parameter((bias - norm.running_mean) * scale + shift, requires_grad=False)


def _rest(norm: Any) -> nn.Module:
    """What a normalisation does besides: timm's has the activation in it."""
    return nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()

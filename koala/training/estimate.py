"""What a training will take, found without computing anything: shapes, parameters, FLOPs, memory, steps.

The modules run on torch's meta device, where tensors have shapes and no content.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from koala.config.training import TrainSettings
from koala.models.network import ColorNetwork

Module = TypeVar("Module", bound=nn.Module)
_IMAGES = 2  # in the batch that is thought through: batch normalisation refuses a single one


def flops_per_image(network: ColorNetwork, extractor: nn.Module | None, size: int) -> int:
    """Floating-point operations of one training step, for each image of it.

    Multiplications and additions of convolutions and matrices are counted, as is usual: forward and backward through
    the network, forward only through the frozen extractor.
    """
    counter = FlopCounterMode(display=False)
    network, lightness = _shadow(network), _lightness(size)
    with counter:
        if extractor is not None:
            with torch.no_grad():
                _shadow(extractor)(lightness)
        network(lightness, _embedding(network)).sum().backward()
    return counter.get_total_flops() // _IMAGES


def activation_bytes(network: ColorNetwork, size: int) -> int:
    """Bytes of fp32 that the forward pass keeps of each image for the backward pass."""
    network, kept = _shadow(network), dict[int, Tensor]()
    weights = {id(weight) for weight in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in weights and tensor.grad_fn is not None:
            kept[id(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(_lightness(size), _embedding(network))
    return sum(tensor.numel() * tensor.element_size() for tensor in kept.values()) // _IMAGES


def layer_shapes(network: ColorNetwork, size: int) -> Mapping[str, str]:
    """Output shape of each part of the network, without the batch; several of one that gives several."""
    network, found = _shadow(network), dict[str, str]()
    with _watching(network, found), torch.no_grad():
        network(_lightness(size), _embedding(network))
    return found


def training_facts(
    settings: TrainSettings, network: ColorNetwork, extractor: nn.Module | None, piece: int, total: int
) -> dict[str, str]:
    """What a training takes, in words: shapes, parameters, arithmetic, memory.

    Args:
        settings: of the training.
        network: what is trained.
        extractor: what is run in each step, or none.
        piece: images at a time in a process.
        total: images that are seen in all.
    """
    size = settings.data.size
    flops = flops_per_image(network, extractor, size)
    trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    inside = [weight for weight in network.parameters() if not weight.requires_grad]  # a pyramid's extractor
    frozen = [*inside, *(extractor.parameters() if extractor is not None else [])]
    averaged = inside if settings.ema else []  # a moving average is a whole copy
    # weights, their gradients, two moments of Adam, and the moving average
    state = trained * 4 * (5 if settings.ema else 4)
    state += sum(weight.numel() * weight.element_size() for weight in [*frozen, *averaged])
    activations = activation_bytes(network, size) * piece // (1 if settings.mixed_precision == "no" else 2)
    return {
        "input": f"lightness (1, {size}, {size}), embedding ({network.embedding_size})",
        **layer_shapes(network, size),
        "parameters": f"{trained:,} trained, {sum(weight.numel() for weight in frozen):,} frozen",
        "arithmetic": f"{flops / 1e9:.1f} GFLOP an image, {flops * total:.3g} FLOP in all",
        **({"without": "what the perceptual term takes"} if settings.objective.perceptual else {}),
        "memory": f"about {(state + activations) / 2**30:.2f} GiB a device, of which {activations / 2**30:.2f} are "
        "activations; decoding and the workspace of convolutions come on top",
    }


@contextmanager
def _watching(network: nn.Module, found: dict[str, str]) -> Iterator[None]:
    handles = [
        part.register_forward_hook(lambda _, __, output, name=name: found.update({name: _shapes(output)}))
        for name, part in _parts(network)
    ]
    yield
    for handle in handles:
        handle.remove()


def _parts(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """A network's parts by their names; those of a list one by one."""
    for name, part in network.named_children():
        if isinstance(part, nn.ModuleList):
            yield from ((f"{name}.{place}", one) for place, one in part.named_children())
        else:
            yield name, part


def _shapes(output: Tensor | list[Tensor]) -> str:
    """Without the batch."""
    return ", ".join(str(tuple(one.shape[1:])) for one in ([output] if isinstance(output, Tensor) else output))


def _shadow(module: Module) -> Module:
    return deepcopy(module).to("meta").float()


def _lightness(size: int) -> Tensor:
    return torch.empty(_IMAGES, 1, size, size, device="meta")


def _embedding(network: ColorNetwork) -> Tensor | None:
    size = network.embedding_size
    return torch.empty(_IMAGES, size, device="meta") if size else None

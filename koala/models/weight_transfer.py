"""Weights of one network as the start of another: by name and shape, whatever the networks are. Pure.

A network's class may say which weights the embedding enters, and from which column on, in an attribute
`embedding_columns`, as in `{"fusion.mix.weight": 256}`. Columns that were learnt with another extractor mean nothing
with this one. They become zero, so that the network begins as what the rest of it has learnt.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Transfer:
    """What becomes of given weights.

    Attributes:
        weights: for each weight that is taken, its value, in the shape that the network has.
        new: weights of the network that are not given, or not in its shape; and in words, why.
        unused: given weights that have no place in the network.
        cleared: weights whose columns of the embedding are zero.
    """

    weights: Mapping[str, Tensor]
    new: Mapping[str, str]
    unused: tuple[str, ...]
    cleared: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether the network becomes what the given weights are, and nothing is left over."""
        return not (self.new or self.unused or self.cleared)

    def faults(self) -> Iterator[str]:
        """What does not fit, in a few words each."""
        yield from (f"{name} ({reason})" for name, reason in self.new.items())
        yield from (f"{name} (no place for it)" for name in self.unused)
        yield from (f"{name} (columns of another extractor)" for name in self.cleared)


def plan_transfer(network: nn.Module, given: Mapping[str, Tensor], same_extractor: bool) -> Transfer:
    """See which of the given weights and buffers a network can take.

    Args:
        network: that takes them; it is left as it is.
        given: by their names.
        same_extractor: whether they were learnt with the network's own extractor.
    """
    own = network.state_dict()
    first = {} if same_extractor else {name: column for name, column in _columns(network).items() if name in given}
    fitted = {name: _fitted(value, own[name], first.get(name)) for name, value in given.items() if name in own}
    new = {name: _reason(value, given.get(name)) for name, value in own.items() if fitted.get(name) is None}
    return Transfer(
        weights={name: value for name, value in fitted.items() if value is not None},
        new=new,
        unused=tuple(name for name in given if name not in own),
        cleared=tuple(name for name in first if name in own and name not in new),
    )


def take_weights(network: nn.Module, transfer: Transfer) -> None:
    """Give a network the weights that it can take; the others stay as they are."""
    network.load_state_dict({**network.state_dict(), **transfer.weights})


def _columns(network: nn.Module) -> Mapping[str, int]:
    return getattr(network, "embedding_columns", {})


def _fitted(value: Tensor, own: Tensor, first: int | None) -> Tensor | None:
    """A given weight in the shape of the network's own, or none; columns from `first` on are zero."""
    if first is not None and value.shape[0] == own.shape[0] and min(value.shape[1], own.shape[1]) >= first:
        return torch.cat([value[:, :first], torch.zeros_like(own[:, first:])], dim=1)
    return value if value.shape == own.shape else None


def _reason(own: Tensor, given: Tensor | None) -> str:
    if given is None:
        return "not given"
    return f"{tuple(given.shape)} is given, {tuple(own.shape)} needed"

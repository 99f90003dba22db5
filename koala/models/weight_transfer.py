"""Weights of one network as the start of another: by name and shape, whatever the networks are. Pure.

A network may say which weights the extractor's features enter, and how many columns there are before theirs and after
them, in an attribute `feature_columns`, as in `{"fusion.mix.weight": (256, 0)}`. Columns that were learnt with another
extractor mean nothing with this one. They become zero, so that the network begins as what the rest of it has learnt. An
extractor that is part of the network, by the name `extractor`, keeps its own weights.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_EXTRACTOR = "extractor."  # what the weights of an extractor begin with that is part of a network
_ANOTHERS = "another extractor's"


@dataclass(frozen=True)
class Transfer:
    """What becomes of given weights.

    Attributes:
        weights: for each weight that is taken, its value, in the shape that the network has.
        new: weights of the network that are not given, or not in its shape; and in words, why.
        unused: given weights that have no place in the network.
        cleared: weights whose columns of the extractor's features are zero.
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
        yield from dict.fromkeys(f"{_shown(name, reason)} ({reason})" for name, reason in self.new.items())
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
    columns = {} if same_extractor else _columns(network)
    fitted = {name: _fitted(value, own[name], columns.get(name)) for name, value in given.items() if name in own}
    if not same_extractor:
        fitted = {name: value for name, value in fitted.items() if not name.startswith(_EXTRACTOR)}
    new = {
        name: _reason(name, value, given.get(name), same_extractor)
        for name, value in own.items()
        if fitted.get(name) is None
    }
    return Transfer(
        weights={name: value for name, value in fitted.items() if value is not None},
        new=new,
        unused=tuple(name for name in given if name not in own),
        cleared=tuple(name for name in columns if fitted.get(name) is not None),
    )


def take_weights(network: nn.Module, transfer: Transfer) -> None:
    """Give a network the weights that it can take; the others stay as they are."""
    network.load_state_dict({**network.state_dict(), **transfer.weights})


def _columns(network: nn.Module) -> Mapping[str, tuple[int, int]]:
    return getattr(network, "feature_columns", {})


def _fitted(value: Tensor, own: Tensor, around: tuple[int, int] | None) -> Tensor | None:
    """A given weight in the shape of the network's own, or none; all but so many columns around are zero."""
    if around is None:
        return value if value.shape == own.shape else None
    before, after = around
    if value.shape[:1] + value.shape[2:] != own.shape[:1] + own.shape[2:] or value.shape[1] < before + after:
        return None
    fitted = torch.zeros_like(own)
    fitted[:, :before] = value[:, :before]
    fitted[:, own.shape[1] - after :] = value[:, value.shape[1] - after :]
    return fitted


def _reason(name: str, own: Tensor, given: Tensor | None, same_extractor: bool) -> str:
    if given is None:
        return "not given"
    if not same_extractor and name.startswith(_EXTRACTOR):
        return _ANOTHERS
    return f"{tuple(given.shape)} is given, {tuple(own.shape)} needed"


def _shown(name: str, reason: str) -> str:
    """An extractor's weights are named as one."""
    return _EXTRACTOR.rstrip(".") if reason == _ANOTHERS else name

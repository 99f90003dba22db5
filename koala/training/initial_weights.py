"""Fine-tuning: a run that begins with the weights of a trained network, by `--init`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from koala.config.models import Preset
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.models.checkpoint import Checkpoint
from koala.models.network import ColorNetwork
from koala.models.pretrained import find_model
from koala.models.weight_transfer import Transfer, plan_transfer, take_weights
from koala.training.components import Components

_SHOWN = 4  # weights that do not fit and are named


@dataclass(frozen=True)
class Origin:
    """What a run's weights began as; its checkpoints keep it.

    Attributes:
        name: as it was given.
        sha256: of the file of weights.
        images_seen: in its own training.
        left_out: what did not fit, in a few words each.
        presets: ways in which the model's colours can look, which the run keeps where all fits.
    """

    name: str
    sha256: str
    images_seen: int
    left_out: tuple[str, ...] = ()
    presets: Mapping[str, Preset] = field(default_factory=dict)

    def __str__(self) -> str:
        taken = f"beginning with {self.name} ({self.images_seen} images seen, sha256 {self.sha256[:12]})"
        return f"{taken} without {_listed(self.left_out)}" if self.left_out else taken


def start_from(settings: TrainSettings, components: Components) -> Origin:
    """Give the network, which is on the CPU, the weights that `--init` names.

    Returns:
        What they are.

    Raises:
        UserError: there is no such model, or it does not fit and `--init-partial` does not allow that.
    """
    origin, transfer = plan_start(settings, components.network, components.embedder.sha256)
    take_weights(components.network, transfer)
    return origin


def plan_start(settings: TrainSettings, network: ColorNetwork, extractor_sha256: str) -> tuple[Origin, Transfer]:
    """What a network's weights will begin as, and which it takes; it is left as it is.

    Args:
        settings: of the training, with `--init`.
        network: on the CPU.
        extractor_sha256: fingerprint of the weights of its extractor, where that is outside of it.

    Raises:
        UserError: there is no such model, or it does not fit and `--init-partial` does not allow that.
    """
    found = find_model(settings.init)
    same_extractor = (
        found.extractor_sha256 == extractor_sha256 and found.settings.extractor.name == settings.extractor.name
    )
    transfer = plan_transfer(network, _given(found.network(), network, same_extractor), same_extractor)
    _check(settings, found, transfer, same_extractor)
    presets = found.presets if transfer.whole else {}
    origin = Origin(settings.init, found.weights_sha256, found.images_seen, tuple(transfer.faults()), presets)
    return origin, transfer


def _given(other: ColorNetwork, network: ColorNetwork, same_extractor: bool) -> dict[str, Tensor]:
    """A model's weights, with this training's prior of colours in place of its own.

    Those that features of another extractor enter beside other things than here, such as no hints, are left out.
    """
    given = other.state_dict()
    if not same_extractor:
        theirs, own = other.feature_columns, network.feature_columns
        given = {name: weight for name, weight in given.items() if theirs.get(name) == own.get(name)}
    return given if network.prior is None else {**given, "prior": network.prior}


def _check(settings: TrainSettings, found: Checkpoint, transfer: Transfer, same_extractor: bool) -> None:
    if not transfer.weights:
        raise UserError(f"{settings.init} has no weight that this network has; leave out --init, or name another model")
    if transfer.whole or settings.init_partial:
        return
    ways = [*([] if same_extractor else [_as_extractor(found)]), *_as_trained(settings, found)]
    wanted = f"train with {' and '.join(ways)}, or take" if ways else "take"
    raise UserError(
        f"{settings.init} does not fit this network: {_listed(tuple(transfer.faults()))}; {wanted} what fits with "
        "--init-partial"
    )


def _as_extractor(found: Checkpoint) -> str:
    """Flags that give a training the extractor of a model."""
    extractor = found.settings.extractor
    features = f" --extractor.features {extractor.features}" if extractor.features != "logits" else ""
    return f"--extractor.name {extractor.name}{features} with the weights it had"


def _as_trained(settings: TrainSettings, found: Checkpoint) -> list[str]:
    """Flags that give a training the network and the output of a model."""
    tables = ((name, getattr(found.settings, name), getattr(settings, name)) for name in ("network", "objective"))
    ways = [f"--{name} {given.name}" for name, given, own in tables if given.name != own.name]
    hints = found.settings.network.hints
    return ways if hints == settings.network.hints else [*ways, f"--network.hints {str(hints).lower()}"]


def _listed(faults: tuple[str, ...]) -> str:
    more = [f"{len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
    return ", ".join([*faults[:_SHOWN], *more])

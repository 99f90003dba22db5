"""Signs that a network's colours have gone wrong: what training and evaluation warn of. Pure."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from koala.config.training import TrainSettings
from koala.imaging import color
from koala.models.objectives import needs_prior

GREY = color.from_units(2.0)  # mean chroma of photos on the network's scale, below which a ratio to it says nothing
PATIENCE = 5  # entries of a training in a row
_CHILDHOOD = 10_000  # images, in which every network is grey


@dataclass(frozen=True)
class FailureSign:
    """Something that is wrong with colours.

    Attributes:
        name: what it is called.
        measure: in which it shows.
        above: whether it shows in what is above the limit, or below.
        limit: of the measure.
        text: what the measure says, with a place for its value.
        remedies: what often helps a training of these settings.
    """

    name: str
    measure: str
    above: bool
    limit: float
    text: str
    remedies: Callable[[TrainSettings], list[str]]

    def shows(self, value: float) -> bool:
        """Whether a value of the measure is on the wrong side."""
        return value > self.limit if self.above else value < self.limit

    def warning(self, value: float, trained: TrainSettings | None) -> str:
        """In words; with what often helps, where it is known how the network was trained."""
        fact = f"{self.name}: {self.text.format(value)}"
        return f"{fact}; {' or '.join(self.remedies(trained))} often helps" if trained is not None else fact


def _against_grey(trained: TrainSettings) -> list[str]:
    return ["a lower --learning-rate" + ("" if trained.warmup_images else " with --warmup-images")]


def _against_colors_outside(trained: TrainSettings) -> list[str]:
    objective, found = trained.objective, []
    if objective.colorfulness:
        found.append("a smaller --objective.colorfulness")
    if needs_prior(objective) and objective.rebalancing:
        found.append("a smaller --objective.rebalancing")
    if objective.name == "classification":
        found.append("a higher --temperature where it colours")
    return found or ["a lower --learning-rate"]


def _against_dead_tanh(trained: TrainSettings) -> list[str]:
    return ["a lower --learning-rate", *([] if trained.clip_grad_norm else ["--clip-grad-norm 1"])]


SIGNS = (
    FailureSign(
        "grey collapse",
        "chroma_ratio",
        above=False,
        limit=0.1,
        text="predicted chroma is {:.2f} of the true",
        remedies=_against_grey,
    ),
    FailureSign(
        "out of gamut",
        "out_of_gamut",
        above=True,
        limit=0.3,
        text="{:.0%} of the colours are none that sRGB can show",
        remedies=_against_colors_outside,
    ),
    FailureSign(
        "dead tanh",
        "saturated",
        above=True,
        limit=0.05,
        text="{:.0%} of the predicted ab lie at the end of the scale, where no gradient brings them back",
        remedies=_against_dead_tanh,
    ),
)


def warnings(measures: Mapping[str, float], trained: TrainSettings | None = None) -> list[str]:
    """What measures show, in words; with what often helps, where it is known how the network was trained."""
    return [sign.warning(measures[sign.measure], trained) for sign in SIGNS if _shows(sign, measures)]


class FailureWatch:
    """Notices, while a network is trained, what stays wrong; and says it once, until it is well again.

    Args:
        settings: of the training.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self._settings = settings
        self._last: dict[str, deque[bool]] = {sign.name: deque(maxlen=PATIENCE) for sign in SIGNS}
        self._said: set[str] = set()

    def warnings(self, images_seen: int, measures: Mapping[str, float]) -> list[str]:
        """What has been wrong in each of the last entries, and was not said yet."""
        said = []
        for sign in SIGNS if images_seen >= _CHILDHOOD else ():
            if sign.measure not in measures:
                continue
            last = self._last[sign.name]
            last.append(_shows(sign, measures))
            if not all(last) or len(last) < PATIENCE:
                self._said.discard(sign.name)
            elif sign.name not in self._said:
                self._said.add(sign.name)
                said.append(
                    f"warning: after {images_seen} images, {sign.warning(measures[sign.measure], self._settings)}"
                )
        return said


def _shows(sign: FailureSign, measures: Mapping[str, float]) -> bool:
    return sign.measure in measures and sign.shows(measures[sign.measure])

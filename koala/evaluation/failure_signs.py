"""Signs that a network's colours have gone wrong: what training and evaluation warn of. Pure."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from koala.imaging import color

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
        remedy: what often helps.
    """

    name: str
    measure: str
    above: bool
    limit: float
    text: str
    remedy: str

    def shows(self, value: float) -> bool:
        """Whether a value of the measure is on the wrong side."""
        return value > self.limit if self.above else value < self.limit

    def warning(self, value: float, remedy: bool = True) -> str:
        """In words."""
        return f"{self.name}: {self.text.format(value)}" + (f"; {self.remedy}" if remedy else "")


SIGNS = (
    FailureSign(
        "grey collapse",
        "chroma_ratio",
        above=False,
        limit=0.1,
        text="predicted chroma is {:.2f} of the true",
        remedy="a lower --learning-rate with --warmup often helps",
    ),
    FailureSign(
        "out of gamut",
        "out_of_gamut",
        above=True,
        limit=0.3,
        text="{:.0%} of the colours are none that sRGB can show",
        remedy="a smaller --objective.colorfulness, or a higher --temperature, often helps",
    ),
    FailureSign(
        "dead tanh",
        "saturated",
        above=True,
        limit=0.05,
        text="{:.0%} of the predicted ab lie at the end of the scale, where no gradient brings them back",
        remedy="a lower --learning-rate or --clip-norm 1 often helps",
    ),
)


def warnings(measures: Mapping[str, float], remedies: bool = True) -> list[str]:
    """What measures show, in words."""
    return [sign.warning(measures[sign.measure], remedies) for sign in SIGNS if _shows(sign, measures)]


class FailureWatch:
    """Notices, while a network is trained, what stays wrong; and says it once, until it is well again."""

    def __init__(self) -> None:
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
                said.append(f"warning: after {images_seen} images, {sign.warning(measures[sign.measure])}")
        return said


def _shows(sign: FailureSign, measures: Mapping[str, float]) -> bool:
    return sign.measure in measures and sign.shows(measures[sign.measure])

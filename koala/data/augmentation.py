"""Making what the network sees of a photo look like an old photograph; its true colours stay as they are.

What age did to a print is drawn in Python from (seed, epoch, sample) and enters the DALI graph as arguments, as crops
do: the graph holds no random state. In the order in which it happens to a print:

- the lens blurs, and exposure is uneven;
- the emulsion is grainy;
- toning and fading: black is no longer black, white no longer white, and the curve between them is another. What is
  toned (sepia, cyanotype) is seen after it was turned grey, where a tone between a colour for black and a colour for
  white is such a curve, whatever the colours;
- the scan is compressed.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from koala.imaging import color

_FIELD = 4  # exposure is drawn on a grid of 4 x 4 and is smooth between
_PLATE = 256  # pixels of grain, from which each photo's is cut
# colours of black and of white, sRGB: where what is toned begins and ends
_TONES = np.array(
    [
        [[0, 0, 0], [255, 255, 255]],  # none
        [[45, 25, 10], [250, 235, 205]],  # sepia
        [[60, 45, 35], [235, 215, 185]],  # faded sepia
        [[5, 25, 65], [235, 245, 250]],  # cyanotype
        [[30, 20, 40], [245, 235, 240]],  # selenium
    ],
    np.uint8,
)


@dataclass(frozen=True)
class Aging:
    """What age did to a photo; by default nothing.

    Attributes:
        aged: whether anything.
        blur: standard deviation in pixels.
        grain: standard deviation, of 0..1.
        grain_size: pixels of the photo that a grain takes.
        grain_place: `(y, x)` where the plate is cut, of 0..1.
        black: what black became, of 0..1.
        white: what white became.
        gamma: of the curve between them.
        quality: of the JPEG.
        exposure: `(4, 4)` factors.
    """

    aged: bool = False
    blur: float = 0.1
    grain: float = 0.0
    grain_size: float = 1.0
    grain_place: tuple[float, float] = (0.0, 0.0)
    black: float = 0.0
    white: float = 1.0
    gamma: float = 1.0
    quality: float = 100.0
    exposure: NDArray[np.float32] | None = None

    def numbers(self) -> NDArray[np.float32]:
        """All but the exposure, as `apply_aging` takes them: `(10,)`."""
        values = (self.aged, self.blur, self.grain, self.grain_size, *self.grain_place)
        return np.array([*values, self.black, self.white, self.gamma, self.quality], np.float32)

    def field(self) -> NDArray[np.float32]:
        """The exposure, `(4, 4, 1)`."""
        return np.ones((_FIELD, _FIELD, 1), np.float32) if self.exposure is None else self.exposure[..., None]


def draw_aging(rng: np.random.Generator, share: float) -> Aging:
    """Draw what age did to a photo.

    Args:
        rng: of all that is drawn.
        share: probability that it did anything.
    """
    if rng.random() >= share:
        return Aging()
    black, white = color.to_grey(_TONES[rng.integers(len(_TONES))][None])[0, :, 0] / 255.0
    fading = rng.uniform(0, 0.3, 2) * rng.integers(0, 2, 2)
    return Aging(
        aged=True,
        blur=max(0.1, rng.uniform(-1, 1.5)),
        grain=max(0.0, rng.uniform(-0.04, 0.08)),
        grain_size=rng.uniform(1, 2.5),
        grain_place=(rng.random(), rng.random()),
        black=black + fading[0] * (0.5 - black),
        white=white - fading[1] * (white - 0.5),
        gamma=float(np.exp(rng.uniform(-0.4, 0.4))),
        quality=float(rng.integers(30, 101)),
        exposure=1 + rng.uniform(0, 0.25) * rng.uniform(-1, 1, (_FIELD, _FIELD)).astype(np.float32),
    )


def apply_aging(grey: Any, numbers: Any, field: Any, shape: Any, device: str) -> Any:
    """The nodes of a DALI graph that age a photo.

    Args:
        grey: node of uint8 greys, HWC, on the device.
        numbers: node of `Aging.numbers`, on the CPU.
        field: node of `Aging.field`, on the CPU.
        shape: node of the photo's height and width, on the CPU.
        device: "cpu" or "gpu".

    Returns:
        Node of uint8 greys, HWC, on the device.
    """
    from nvidia.dali import fn, math, types

    is_aged, blur, grain, grain_size, y, x, black, white, gamma, quality = (numbers[place] for place in range(10))

    def here(node: Any) -> Any:
        return node.gpu() if device == "gpu" else node

    exposure = fn.resize(here(field), size=shape, interp_type=types.INTERP_CUBIC)
    cut = fn.stack(shape[0] / grain_size, shape[1] / grain_size)
    cut = math.min(cut, np.float32(_PLATE))
    corner = fn.stack(y, x) * (np.float32(_PLATE) - cut)
    plate = here(types.Constant(_plate(), layout="HWC", device="cpu"))
    grains = fn.resize(plate, size=shape, roi_start=corner, roi_end=corner + cut, interp_type=types.INTERP_LINEAR)

    seen = fn.gaussian_blur(grey, sigma=blur, dtype=types.FLOAT) / 255.0 * exposure + grains * here(grain)
    seen = math.clamp(seen, 0.0, 1.0)
    print_ = here(black) + here(white - black) * math.fpow(seen, here(gamma))
    scanned = fn.cast(math.clamp(print_ * 255.0, 0.0, 255.0), dtype=types.UINT8)
    compressed = fn.jpeg_compression_distortion(
        fn.cat(scanned, scanned, scanned, axis=2), quality=fn.cast(quality, dtype=types.INT32)
    )
    old = color.to_grey(compressed)
    mask = here(fn.cast(is_aged, dtype=types.UINT8))
    return fn.cast(old * mask + grey * (np.uint8(1) - mask), dtype=types.UINT8)


@cache
def _plate() -> NDArray[np.float32]:
    """Grain: `(256, 256, 1)` of standard deviation 1."""
    return np.random.default_rng(0).standard_normal((_PLATE, _PLATE, 1), np.float32)

"""A network's colours, made to keep to things before they are painted.

They wander within what is one thing, run over its edges, and are too strong in the shadows; and where the network
does not know a colour, it gives a faint one of any hue. What this changes is measured in docs/results.md.

Shapes: B pictures of h x w pixels. Lightness and ab are on the network's scale.
"""

from torch import Tensor

from koala.imaging import color, guided_filter

_SHADOWS = 20.0  # L* below which colours fade
_PIVOT = 24.0  # chroma that coring leaves as it is, so that pictures are about as colourful as before
_REACH = 14  # the short side holds it so often: how far around a hint the network's own colours stay


def settle(lightness: Tensor, ab: Tensor, hints: Tensor | None = None, coring: float = 0.0) -> Tensor:
    """Let colours change where lightness does, and fade in the shadows and where they are faint.

    But not at hints, which are to be followed.

    Args:
        lightness: `(B, 1, h, w)`.
        ab: `(B, 2, h, w)`, as predicted.
        hints: `(B, 3, h, w)`: ab, and 1 where there is a hint, else 0.
        coring: chroma, in units of L*a*b*, that fades to about half; fainter ones fade more. 0 leaves all.

    Returns:
        `(B, 2, h, w)` ab.
    """
    shadows = (color.to_lab(lightness, ab)[:, :1] / _SHADOWS).clamp(0, 1)
    settled = shadows * _core(guided_filter.smooth(lightness, ab), coring)
    return settled if hints is None else settled.lerp(ab, _nearness(hints[:, 2:]))


def _core(ab: Tensor, coring: float) -> Tensor:
    """Faint colours made fainter, as a Wiener filter does with noise whose deviation is the coring; others stronger."""
    if coring == 0:
        return ab
    power = color.to_units(ab).square().sum(dim=1, keepdim=True)
    return ab * (1 + (coring / _PIVOT) ** 2) * power / (power + coring**2)


def _nearness(given: Tensor) -> Tensor:
    """1 at hints, 0 from twice the reach on: `(B, 1, h, w)` to the same."""
    radius = max(1, min(given.shape[-2:]) // _REACH)
    reached = guided_filter.box_mean(given, radius) > 0
    return guided_filter.box_mean(reached.float(), radius)

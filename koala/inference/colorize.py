"""A photo -> a colour photo, at its own size, in its own depth and with its own lightness.

The network sees the photo small and in grey; the ab it predicts is brought to the photo's size and joined with the
photo's own lightness, some rows at a time, so that a hundred megapixels need little more memory than their pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from os import PathLike
from pathlib import Path
from typing import Any, get_args, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from koala.config.fields import Device
from koala.config.inference import ColorizeOptions
from koala.config.load import validate
from koala.config.models import Preset
from koala.core.devices import fp32_products, on_cpu
from koala.core.errors import UserError
from koala.imaging import color, guided_filter, photo_io, toning
from koala.inference.hints import HintsInput, place_hints, read_hints
from koala.inference.photo_input import PhotoInput, read_pixels
from koala.inference.settle import settle
from koala.models.network import STRIDE, Colorizer
from koala.models.pretrained import load_model

Model = Colorizer | str | PathLike[str] | None

MOST_SIDES = 8  # how often the short side may go into the long one: the network's work grows with it
_THUMBNAIL = 128  # pixels of the short side by which at least the kind of a photo is told
_STRIP = 1 << 20  # pixels that are coloured at a time


@dataclass(frozen=True, eq=False)
class View:
    """What the network gets to see of a photo.

    Attributes:
        kind: whether it is grey, toned or in colour.
        reduction: of its colours to grey.
        lightness: `(1, 1, h, w)`, at the network's working size.
    """

    kind: toning.Kind
    reduction: toning.GrayConversion
    lightness: Tensor


@overload
def colorize(  # type: ignore[overload-overlap]  # a str is a sequence of str, and is a path
    photo: PhotoInput,
    model: Model = ...,
    *,
    device: str | torch.device | None = ...,
    recolor: bool = ...,
    size: int = ...,
    saturation: float = ...,
    strength: float = ...,
    temperature: float | None = ...,
    flip: bool = ...,
    hints: HintsInput | None = ...,
    preset: str = ...,
) -> NDArray[Any]: ...


@overload
def colorize(
    photo: Sequence[PhotoInput],
    model: Model = ...,
    *,
    device: str | torch.device | None = ...,
    recolor: bool = ...,
    size: int = ...,
    saturation: float = ...,
    strength: float = ...,
    temperature: float | None = ...,
    flip: bool = ...,
    hints: None = ...,
    preset: str = ...,
) -> list[NDArray[Any]]: ...


def colorize(
    photo: PhotoInput | Sequence[PhotoInput],
    model: Model = None,
    *,
    device: str | torch.device | None = None,
    recolor: bool = False,
    size: int = 0,
    saturation: float = 1.0,
    strength: float = 1.0,
    temperature: float | None = None,
    flip: bool = False,
    hints: HintsInput | None = None,
    preset: str = "",
) -> NDArray[Any] | list[NDArray[Any]]:
    """Colour a photo, or a list of photos. One that is in colour already comes back as it is.

    Args:
        photo: a path, a file's bytes, a file object, a PIL image, an array `(H, W)` or `(H, W, 3)`, a tensor
            `(3, H, W)` or `(H, W, 3)` (both of uint8, uint16, or floats in 0..1), all sRGB; or a list of these.
        model: from `load_model`, or what that takes: a run folder, a checkpoint folder, "builtin", USER/NAME on the
            Hugging Face hub. By default the built-in model.
        device: where to compute, "auto", "cpu", "cuda" or torch's; a model that is given is moved there. By default
            where that is, or else on a GPU if there is one.
        recolor: give photos that are in colour already new colours.
        size: short side at which the network sees the photo, in pixels; 0 takes the preset's, or that of its training.
        saturation: factor of the colours' strength, 0..4.
        strength: share of the coloured photo in the result, 0..1; the rest is the original.
        temperature: of a network trained by classification: 1 gives the mean colour, less gives the likeliest; by
            default the model's own.
        flip: colour the photo and its mirror image, and take the mean.
        hints: dabs of colour that the network is to follow, of the one photo: a path of a picture with transparency or
            of an OpenRaster file with a layer `hints`, a PIL image, or an array `(H, W, 4)` uint8. The photo is then
            coloured also if it is in colour already.
        preset: name of one of the model's ways in which colours can look; by default its first.

    Returns:
        `(H, W, 3)` sRGB of the photo's own type: uint8, uint16, or float32 in 0..1; for a list, a list. L* is that of
        the photo to within rounding: of a grey one its own, of a toned one that of
        `koala.imaging.toning.gray_conversion`. Transparency is left out.

    Raises:
        UserError: a photo or its hints cannot be read or have another shape, there is no such model or device, an
            option is out of range, or the model takes no hints.
        TypeError: it is no photo, or no model, or the hints are none.
    """
    given = {"size": size, "saturation": saturation, "strength": strength, "temperature": temperature, "flip": flip}
    options = validate(ColorizeOptions, {**given, "preset": preset}, "colorize")
    network = _network(model, device)
    network.find_preset(preset)
    check_hints(network, hints)
    if isinstance(photo, list | tuple):
        if hints is not None:
            raise UserError("hints are of one photo; give the photos one at a time")
        return [_colorize(one, network, options, recolor) for one in photo]
    return _colorize(photo, network, options, recolor or hints is not None, hints)


def _colorize(
    photo: Any, model: Colorizer, options: ColorizeOptions, recolor: bool, hints: HintsInput | None = None
) -> NDArray[Any]:
    pixels = read_pixels(photo)
    levels = pixels if pixels.dtype != np.float32 else np.rint(pixels * 65535).astype(np.uint16)
    view = look(levels, size_for(model, options), model.network.stride)
    if view.kind == "color" and not recolor:
        return pixels.copy()
    placed = placed_hints(hints, levels, view)
    with fp32_products():
        ab = predict(model, view.lightness, options, placed)
    painted = paint(levels, view, ab, options)
    return painted if levels is pixels else painted.astype(np.float32) / 65535


def _network(model: Model, device: str | torch.device | None) -> Colorizer:
    """The network that is meant, where it is to compute."""
    if isinstance(model, Colorizer):
        return model if device is None else model.to(_device(device))
    if model is not None and not isinstance(model, str | PathLike):
        raise TypeError(f"a model comes from load_model, or is a path, a name or None; got {type(model).__name__}")
    return (_built_in() if model is None else load_model(Path(model))).to(_device(device or "auto"))


@cache
def _built_in() -> Colorizer:
    """The built-in model, kept for the next photo."""
    return load_model()


def _device(device: str | torch.device) -> str | torch.device:
    if isinstance(device, str) and device in get_args(Device):
        return device_for(device)
    try:
        return torch.device(device)
    except RuntimeError:
        raise UserError(f"there is no device {device!r}; name cpu, cuda, cuda:1 or auto") from None


def check_hints(model: Colorizer, hints: object) -> None:
    """Refuse hints to a model that takes none.

    Raises:
        UserError: it takes none.
    """
    if hints is not None and not model.network.hints:
        raise UserError("this model was not trained to take hints; leave them out, or choose another model")


def placed_hints(hints: HintsInput | None, pixels: NDArray[Any], view: View) -> Tensor | None:
    """A photo's hints as the network takes them, `(1, 3, h, w)`; none where there are none.

    Raises:
        UserError: they cannot be read, or are not of the photo's size.
    """
    if hints is None:
        return None
    height, width = view.lightness.shape[-2:]
    return place_hints(read_hints(hints, pixels.shape), height, width)


def look(pixels: NDArray[Any], short_side: int, stride: int = STRIDE) -> View:
    """See a photo as the network will.

    Args:
        pixels: `(H, W, 3)` sRGB, uint8 or uint16.
        short_side: at which the network works, in pixels.
        stride: of the network: it takes multiples of it.
    """
    height, width, _ = pixels.shape
    small = _reduced(pixels, _size(height, width, max(short_side, _THUMBNAIL), STRIDE))
    thumbnail = small[0].permute(1, 2, 0).numpy()
    kind = toning.classify_tone(thumbnail)
    reduction = toning.gray_conversion(thumbnail, kind)
    lightness = _resize(_lightness_of_grey(reduction(small)), _size(height, width, short_side, stride))
    return View(kind, reduction, lightness)


def preset_for(model: Colorizer, options: ColorizeOptions) -> Preset:
    """How the colours are to look: the model's preset, changed as the options say.

    Raises:
        UserError: the model has no preset of the name.
    """
    return model.find_preset(options.preset, options.temperature, options.saturation)


def size_for(model: Colorizer, options: ColorizeOptions) -> int:
    """The short side at which the network is to see photos: as the options say, the preset, or the training.

    Raises:
        UserError: the model has no preset of the name.
    """
    return options.size or preset_for(model, options).size or model.size


def predict(model: Colorizer, lightness: Tensor, options: ColorizeOptions, hints: Tensor | None = None) -> Tensor:
    """Let the network colour photos of one size, and its colours keep to things.

    Args:
        model: on any device.
        lightness: `(B, 1, h, w)`.
        options: of which preset, temperature, saturation and flip matter here.
        hints: `(B, 3, h, w)`, for a network that takes them.

    Returns:
        `(B, 2, h, w)` ab, on the model's device.
    """
    lightness = lightness.to(device_of(model))
    hints = hints.to(lightness.device) if hints is not None else None
    preset = preset_for(model, options)
    look = partial(model, preset=preset)
    ab = look(lightness, hints=hints)
    if options.flip:
        mirrored = hints.flip(-1) if hints is not None else None
        ab = (ab + look(lightness.flip(-1), hints=mirrored).flip(-1)) / 2
    stronger = max(options.saturation, 1e-3)  # than the preset says: whatever it is, the same colours are faint
    return stronger * settle(lightness, ab / stronger, hints, preset.coring)


def paint(
    pixels: NDArray[Any], view: View, ab: Tensor, options: ColorizeOptions, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Bring ab to a photo's size and join it with the photo's own lightness.

    Args:
        pixels: `(H, W, 3)` sRGB, uint8 or uint16.
        view: of them.
        ab: `(1, 2, h, w)`, on the device that is to do it.
        options: of which strength matters here.
        out: array to paint into, where memory is short: the photo's own may be painted over.

    Returns:
        `(H, W, 3)` of the same dtype.
    """
    lines = guided_filter.fit(view.lightness.to(ab.device), ab)
    painted = np.empty_like(pixels) if out is None else out
    top = np.iinfo(pixels.dtype).max
    for rows in _strips(*pixels.shape[:2]):
        strip = _tensor(pixels[rows], ab.device)
        lightness = _own_lightness(strip, view)
        lab = color.to_lab(lightness, guided_filter.apply(lines, lightness, rows.start, len(pixels)))
        if options.strength < 1:
            lab = color.rgb_to_lab(strip).lerp(lab, options.strength)
        rgb = color.lab_to_rgb(lab, outside="fade")[0].permute(1, 2, 0)
        painted[rows] = (rgb * top).round().cpu().numpy()
    return painted


def grey(pixels: NDArray[Any], view: View) -> NDArray[Any]:
    """A photo's own lightness as `(H, W)` greys of the same dtype: what is coloured, before it is."""
    return paint(pixels, view, view.lightness.new_zeros(1, 2, *view.lightness.shape[-2:]), ColorizeOptions())[..., 0]


def _own_lightness(strip: Tensor, view: View) -> Tensor:
    """`(1, 1, H, W)`: of a grey photo and of one in colour its L*, of a toned one that along its tones."""
    if view.kind == "toned":
        return _lightness_of_grey(view.reduction(_in_unit(strip)))
    return color.to_lightness(strip, "color")


def _lightness_of_grey(grey: Tensor) -> Tensor:
    """Of `(..., 1, H, W)` greys in 0..1."""
    return color.to_lightness(grey.expand(*grey.shape[:-3], 3, *grey.shape[-2:]), "color")


def _tensor(pixels: NDArray[Any], device: torch.device) -> Tensor:
    """`(H, W, 3)` as `(1, 3, H, W)`: 8 bits as they are, 16 bits in 0..1."""
    strip = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
    strip = strip.to(device).permute(2, 0, 1)[None]
    return strip if pixels.dtype == np.uint8 else strip.float() / np.iinfo(pixels.dtype).max


def _in_unit(strip: Tensor) -> Tensor:
    return strip if strip.is_floating_point() else strip.float() / 255


def _strips(height: int, width: int) -> Iterator[slice]:
    rows = max(1, _STRIP // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _reduced(pixels: NDArray[Any], size: tuple[int, int]) -> Tensor:
    """A photo made small: `(1, 3, h, w)` float in 0..1."""
    return _resize(_tensor(photo_io.convert_depth(pixels, np.uint8), torch.device("cpu")), size).float() / 255


def _resize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(picture, size, mode="bilinear", antialias=True, align_corners=False)


def _size(height: int, width: int, short_side: int, stride: int) -> tuple[int, int]:
    """Height and width of a photo made small: its proportions, in multiples of the network's stride."""
    shortest = min(height, width)
    sides = (short_side * min(length / shortest, MOST_SIDES) for length in (height, width))
    height, width = (max(stride, round(side / stride) * stride) for side in sides)
    return height, width


def device_of(model: Colorizer) -> torch.device:
    """Where a network is."""
    return next(model.parameters()).device


def device_for(name: str) -> str:
    """Where a network runs that is not trained.

    Args:
        name: "auto", "cpu" or "cuda".

    Raises:
        UserError: there is no such device.
    """
    return "cpu" if on_cpu(name, "no") else "cuda"

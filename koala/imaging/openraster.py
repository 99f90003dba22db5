"""A grey photo's colours on a layer of their own, to retouch by hand.

`write_ora` writes an OpenRaster file, which Krita and GIMP open: the grey photo, and on it the coloured one in mode
"color". Painting on that layer colours the photo, erasing it bares the grey. A layer `hints`, which is hidden, may hold
the dabs of colour that the network followed. What stays of the grey differs:

- Krita, as all programs with W3C's formula, keeps luma. `blend` is that formula, and fills `mergedimage.png`; from the
  coloured photo, whose L* is the grey's, it differs where colours are strong, and there by little.
- GIMP calls it "HSL Color" and keeps the mean of the strongest and the weakest primary, so that strong colours come out
  darker. Its mode "LCh Color" keeps L*, and shows the coloured photo itself; only XCF files remember it.

`write_layer` writes a transparent PNG for any program that can lay one picture over another: over the photo as it was,
in normal mode, it gives the coloured photo. Each pixel is as transparent as that allows: wholly, where nothing changed.

References:
    OpenRaster baseline, layer stack and file layout, version 0.0.5, https://www.openraster.org; W3C, "Compositing and
    Blending Level 1" (2015), 10.2, non-separable blend modes.
"""

import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from koala.config.imaging import PictureLimits
from koala.core.atomic_io import open_atomic
from koala.core.errors import UserError, first_line
from koala.imaging import photo_io
from koala.imaging.errors import UnreadableImageError, check_bytes, check_pixels
from koala.imaging.samples import convert_depth

HINTS = "hints"  # name of the layer of dabs
_LUMA = np.array([0.3, 0.59, 0.11], np.float32)  # W3C's Lum, of gamma-encoded sRGB
_THUMBNAIL = (256, 256)  # the largest that OpenRaster allows
_EFFORT = 3  # of zlib's 0 to 9: photos take 7 % more than at its usual 6, in less than half the time
_NO_ROOM = 1e-6  # of black downwards, of white upwards: a number to divide by
_STACK_BYTES = 1 << 22  # of a stack.xml, which has some hundred for each layer
_STRIP = 1 << 18  # pixels at a time, for large photos' sake

Picture = NDArray[np.uint8]
Floats = NDArray[np.floating]


def write_ora(
    path: Path,
    grey: Picture,
    color: Picture,
    dpi: tuple[float, float] | None = None,
    hints: Picture | None = None,
) -> None:
    """Write an OpenRaster file, there whole or not at all; see `save_ora`."""
    with open_atomic(path) as file:
        save_ora(file, grey, color, dpi, hints)


def save_ora(
    file: IO[bytes],
    grey: Picture,
    color: Picture,
    dpi: tuple[float, float] | None = None,
    hints: Picture | None = None,
) -> None:
    """Write an OpenRaster file: the grey photo, and the coloured one in mode "color" on it.

    Both layers are RGB of 8 bits: a layer of greys alone cannot be painted on in colour everywhere, and Krita and GIMP
    open every OpenRaster file as a picture of 8 bits. The layer of colours has an alpha channel, to erase from.

    Args:
        file: where to.
        grey: `(H, W)` uint8.
        color: `(H, W, 3)` uint8 sRGB, the same photo coloured.
        dpi: pixels per inch across and down, where known.
        hints: `(H, W, 4)` uint8 sRGB with alpha, for a hidden layer on top.

    Raises:
        ValueError: the arrays are not of these shapes and types.
    """
    _check(grey, color, [color.shape[:2]])
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("mimetype"), b"image/openraster")  # must be first, and not be compressed
        archive.writestr(zipfile.ZipInfo("stack.xml"), _stack(color.shape[1], color.shape[0], dpi, hints is not None))
        if hints is not None:
            _add(archive, "data/hints.png", Image.fromarray(hints))
        _add(archive, "data/color.png", Image.fromarray(color).convert("RGBA"))
        _add(archive, "data/grey.png", Image.fromarray(grey).convert("RGB"))
        merged = Image.fromarray(blend(grey, color))
        _add(archive, "mergedimage.png", merged)
        merged.thumbnail(_THUMBNAIL)
        _add(archive, "Thumbnails/thumbnail.png", merged)


def write_layer(path: Path, photo: Picture, color: Picture) -> None:
    """Write `color_layer` as a PNG, there whole or not at all."""
    layer = Image.fromarray(color_layer(photo, color))
    with open_atomic(path) as file:
        _save(layer, file)


def read_layer(file: Path | IO[bytes], name: str, limits: PictureLimits | None = None, called: str = "") -> Picture:
    """A layer of an OpenRaster file, at its place in the whole picture.

    Args:
        file: its path, or the open file.
        name: of the layer, in any case.
        limits: to what the layer and the picture may ask for.
        called: what errors call the file; by default its path.

    Returns:
        `(H, W, 4)` uint8 sRGB with alpha, of the whole picture's size.

    Raises:
        UserError: it is no OpenRaster file, or holds no such layer.
    """
    place = called or str(file)
    try:
        with zipfile.ZipFile(file) as archive:
            return _placed_layer(archive, name, limits or PictureLimits())
    except _NoLayerError:
        raise UserError(
            f'{place} has no layer named "{name}"; name the layer so that holds the dabs of colour'
        ) from None
    except UnreadableImageError as error:
        raise UserError(f'{place}: the layer "{name}" cannot be read: {error}') from None
    except Exception as error:  # archives, XML and numbers each fail in their own way
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{place} cannot be read: {error.strerror}") from None
        reason = first_line(error)
        raise UserError(f"{place} is no OpenRaster file that can be read ({reason}); save it again") from None


class _NoLayerError(Exception):
    """No layer has the name that is sought."""


def _placed_layer(archive: zipfile.ZipFile, name: str, limits: PictureLimits) -> Picture:
    image = ET.fromstring(_read(archive, "stack.xml", PictureLimits(max_bytes=_STACK_BYTES)))
    named = (layer for layer in image.iter("layer") if layer.get("name", "").lower() == name)
    if (found := next(named, None)) is None:
        raise _NoLayerError
    layer = photo_io.decode_photo(_read(archive, found.attrib["src"], limits), limits)
    width, height, left, top = (int(place) for place in (image.attrib["w"], image.attrib["h"], *_corner(found)))
    check_pixels(width, height, limits)
    pixels, alpha = layer.pixels, layer.alpha
    if alpha is None:
        alpha = np.full(pixels.shape[:2], np.iinfo(pixels.dtype).max, pixels.dtype)
    whole = Image.new("RGBA", (width, height))
    whole.paste(Image.fromarray(convert_depth(np.dstack([pixels, alpha]), np.uint8)), (left, top))
    return np.array(whole)


def _read(archive: zipfile.ZipFile, member: str, limits: PictureLimits) -> bytes:
    """A member's bytes, of no more than it may have; the archive gives no more than it says."""
    check_bytes(archive.getinfo(member).file_size, limits)
    return archive.read(member)


def _corner(layer: ET.Element) -> tuple[str, str]:
    """X and y of a layer's corner in the whole picture."""
    return layer.get("x", "0"), layer.get("y", "0")


def blend(grey: Picture, color: Picture) -> Picture:
    """Lay colours over greys in W3C's blend mode "color": their hue and chroma, the greys' luma.

    Args:
        grey: `(H, W)` uint8.
        color: `(H, W, 3)` uint8 sRGB.

    Returns:
        `(H, W, 3)` uint8 sRGB.

    Raises:
        ValueError: the arrays are not of these shapes and types.
    """
    return _in_strips(_blended, grey, color, channels=3)


def color_layer(photo: Picture, color: Picture) -> Picture:
    """The most transparent picture that gives the coloured photo when it is laid over the photo in normal mode.

    Args:
        photo: `(H, W)` greys or `(H, W, 3)` sRGB, uint8.
        color: `(H, W, 3)` uint8 sRGB.

    Returns:
        `(H, W, 4)` uint8 RGBA, alpha not multiplied in.

    Raises:
        ValueError: the arrays are not of these shapes and types.
    """
    return _in_strips(_transparent, photo, color, channels=4)


def _blended(grey: Floats, color: Floats) -> Floats:
    """W3C's SetLum and ClipColor: what would leave 0..255 loses chroma until it fits."""
    chroma = color - (color @ _LUMA)[..., None]
    return grey + chroma / np.maximum(_share(grey, chroma), 1)


def _transparent(photo: Floats, color: Floats) -> Floats:
    """Solve color = photo + alpha (layer - photo) for the least alpha that has a layer within 0..255."""
    change = 255 * (color - photo)
    alpha = np.ceil(_share(photo, change))
    return np.concatenate([photo + change / np.maximum(alpha, 1), alpha], axis=-1)


def _share(photo: Floats, change: Floats) -> Floats:
    """How much of the room that levels have within 0..255 a change takes up, `(..., 1)`; above 1 it does not fit."""
    down, up = -change / np.maximum(photo, _NO_ROOM), change / np.maximum(255 - photo, _NO_ROOM)
    return np.maximum(down, up).max(axis=-1, keepdims=True)


def _in_strips(formula: Callable, photo: Picture, color: Picture, channels: int) -> Picture:
    """A formula of pixels over a picture, some rows at a time: floats of all would take many times its memory."""
    _check(photo, color, [color.shape[:2], color.shape] if formula is _transparent else [color.shape[:2]])
    height, width = color.shape[:2]
    out = np.empty((height, width, channels), np.uint8)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        strip = slice(top, top + rows)
        below, above = (picture[strip].reshape(-1, width, picture[0, 0].size) for picture in (photo, color))
        out[strip] = np.rint(formula(below.astype(np.float32), above.astype(np.float32)))
    return out


def _check(photo: Picture, color: Picture, shapes: Sequence[tuple[int, ...]]) -> None:
    fit = color.ndim == 3 and color.shape[-1] == 3 and photo.shape in shapes
    if not fit or photo.dtype != np.uint8 or color.dtype != np.uint8 or not color.size:
        raise ValueError(
            f"layers are made of a photo and (H, W, 3) colours of its size, uint8, "
            f"got {photo.shape} {photo.dtype} and {color.shape} {color.dtype}"
        )


def _stack(width: int, height: int, dpi: tuple[float, float] | None, has_hints: bool) -> bytes:
    """`stack.xml`: the layers from the top down; the colours are the layer that is chosen when the file is opened."""
    image = ET.Element("image", version="0.0.5", w=str(width), h=str(height))
    if dpi and min(dpi) >= 1:  # 0 is how some files say that they do not know
        image.attrib |= {"xres": str(round(dpi[0])), "yres": str(round(dpi[1]))}
    stack = ET.SubElement(image, "stack")
    if has_hints:
        hidden = {"composite-op": "svg:src-over", "visibility": "hidden"}
        ET.SubElement(stack, "layer", {"name": HINTS, "src": "data/hints.png", **hidden})
    upper = {"composite-op": "svg:color", "selected": "true"}
    ET.SubElement(stack, "layer", {"name": "Colours", "src": "data/color.png", **upper})
    ET.SubElement(stack, "layer", {"name": "Photo", "src": "data/grey.png", "composite-op": "svg:src-over"})
    return ET.tostring(image, encoding="UTF-8", xml_declaration=True)


def _add(archive: zipfile.ZipFile, name: str, image: Image.Image) -> None:
    with archive.open(zipfile.ZipInfo(name), "w") as file:
        _save(image, file)


def _save(image: Image.Image, file: IO[bytes]) -> None:
    """A PNG that says that it is sRGB."""
    info = PngInfo()
    info.add(b"sRGB", b"\0")  # rendering intent: perceptual
    image.save(file, "PNG", pnginfo=info, compress_level=_EFFORT)

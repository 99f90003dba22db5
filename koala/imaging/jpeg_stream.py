"""The segments of a JPEG: what kind it is, what it says, and whether all of its pixels are there.

libjpeg warns of damage and of slips that cost no pixel: stray bytes before a marker, parameters that a sequential scan
does not use, an Adobe transform that it does not know, no end marker. `sound` takes such slips out, without touching
the compressed data; what libjpeg still warns of is missing or damaged.

References:
    ITU-T T.81 (JPEG), annex B, and T.87 (JPEG-LS); Adobe, "Supporting the DCT Filters in PostScript Level 2", 1992.
"""

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import simplejpeg
from PIL import Image

from koala.imaging.errors import UnreadableImageError

_SOI, _EOI, _SOS, _DNL, _COM = 0xD8, 0xD9, 0xDA, 0xDC, 0xFE
_APP0, _APP2, _APP14, _JPEG_LS = 0xE0, 0xE2, 0xEE, 0xF7
_ALONE = (0x01, _SOI, *range(0xD0, 0xD8))  # markers without a segment, which stand here by mistake
_FRAMES = {  # by the marker of a frame; its number is SOF's
    **{0xC0: "", 0xC1: "", 0xC2: "progressive ", 0xC3: "lossless "},
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical "),
    **{0xC9: "arithmetic-coded ", 0xCA: "arithmetic-coded ", 0xCB: "arithmetic-coded lossless "},
    _JPEG_LS: "JPEG-LS ",
}
_SEQUENTIAL = (0xC0, 0xC1, 0xC9)
_COMMON = (0xC0, 0xC1, 0xC2)  # which every decoder reads, and of which libjpeg says what is missing
_KNOWN_TRANSFORMS = {1: 0, 3: 1, 4: 2}  # by the number of channels: what libjpeg takes an unknown one for
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_SCAN_END = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_STRAYS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_MOST_SCANS = 500  # an honest one has some ten; a small file of many takes minutes
_END = bytes([0xFF, _EOI])


class Segment(NamedTuple):
    """A marker, what belongs to it, and the compressed data that follows it."""

    marker: int
    payload: bytes
    scan: bytes = b""

    def encoded(self) -> bytes:
        """As it is in a file, without the compressed data."""
        return struct.pack(">BBH", 0xFF, self.marker, len(self.payload) + 2) + self.payload


@dataclass(frozen=True)
class Frame:
    """What a JPEG's header says of its pixels.

    Attributes:
        marker: which stands for how they are compressed.
        precision: bits of each sample.
        height: in pixels; 0 where it stands behind the pixels.
        width: in pixels.
        sampling: of each channel, how often it is sampled across and down, compared with each other.
    """

    marker: int
    precision: int
    height: int
    width: int
    sampling: tuple[tuple[int, int], ...]

    @property
    def is_common(self) -> bool:
        """Whether every decoder of JPEGs reads its kind: Huffman-coded, of 8 bits, grey or with three channels."""
        return self.marker in _COMMON and self.precision == 8 and len(self.sampling) in (1, 3)

    def __str__(self) -> str:
        """What it is, in words."""
        kind = "" if self.precision == 8 else f"{self.precision}-bit "
        kind += f"{_FRAMES[self.marker]}JPEG".replace("JPEG-LS JPEG", "JPEG-LS")
        if len(self.sampling) not in (1, 3, 4):
            return f"{kind} of {len(self.sampling)} channels"
        unusual = any(across not in (1, 2) or down not in (1, 2) for across, down in self.sampling)
        unusual |= len(set(self.sampling[1:])) > 1
        sampled = ", ".join(f"{across}x{down}" for across, down in self.sampling)
        return f"{kind} sampled {sampled}" if unusual else kind


class JpegStream:
    """A JPEG's segments.

    Args:
        data: the file; what follows the end marker is passed over.

    Raises:
        UnreadableImageError: it has no frame, or far more scans than one needs.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._head = list(_segments(data, head_alone=True))
        self.frame = self._frame()
        if "progressive" in str(self.frame) or self.frame.marker == 0xCA:
            scans = sum(segment.marker == _SOS for segment in _segments(data))
            if scans > _MOST_SCANS:
                raise UnreadableImageError(f"JPEG of {scans} scans, more than {_MOST_SCANS}")

    @property
    def is_closed(self) -> bool:
        """Whether it has an end marker."""
        if self.frame.marker == _JPEG_LS:  # whose compressed data may look like markers
            return self._data.rfind(_END) > 0
        return any(segment.marker == _EOI for segment in _segments(self._data))

    @property
    def comments(self) -> tuple[bytes, ...]:
        """What its comment segments hold."""
        return tuple(segment.payload for segment in self._head if segment.marker == _COM)

    def words(self) -> Image.Image:
        """What it says beside its pixels, as Pillow reads it: a picture of one pixel with its `info`."""
        kept = (
            segment.encoded()
            for segment in self._head
            if segment.marker & 0xF0 == _APP0
            and (segment.marker != _APP2 or segment.payload.startswith(b"ICC_PROFILE"))
        )
        try:
            return Image.open(io.BytesIO(b"".join([_PIXEL[:2], *kept, _PIXEL[2:]])), formats=["JPEG"])
        except Exception:  # the pixels may be fine
            return Image.open(io.BytesIO(_PIXEL), formats=["JPEG"])

    def sound(self) -> bytes | None:
        """The JPEG without what libjpeg warns of though no pixel is missing; the file itself where it warns of nothing.

        Returns:
            None where libjpeg cannot tell, because the kind is unusual.

        Raises:
            UnreadableImageError: pixels are missing or damaged.
        """
        if self.frame.marker not in _COMMON or self.frame.precision != 8:
            return None
        if self._complaint(self._data) is None:
            return self._data
        try:
            simplejpeg.decode_jpeg_header(self.tidied(), strict=False)
        except ValueError:
            return None
        made = bytes([0xFF, _SOI])
        for segment in self._tidy_segments():
            made += segment.encoded()
            scan = segment.scan
            while strays := _STRAYS.search(self._complaint(made + scan + _END) or ""):
                scan = scan[: -int(strays[1])]
            made += scan
        if complaint := self._complaint(made + _END):
            ending = ": it ends too early" if "premature end" in complaint.lower() else ""
            raise UnreadableImageError(f"damaged {self.frame}{ending}")
        return made + _END

    def tidied(self) -> bytes:
        """The JPEG with no slips between its scans and with an end marker."""
        pieces = (piece for segment in self._tidy_segments() for piece in (segment.encoded(), segment.scan))
        return b"".join([bytes([0xFF, _SOI]), *pieces, _END])

    def _tidy_segments(self) -> Iterator[Segment]:
        """As they ought to be."""
        for marker, payload, scan in _segments(self._data):
            if marker == _SOS and self.frame.marker in _SEQUENTIAL:
                yield Segment(marker, payload[:-3] + b"\0\x3f\0", scan)
            elif marker in _FRAMES:
                yield Segment(marker, payload[:1] + struct.pack(">H", self.frame.height) + payload[3:])
            elif marker == _APP0 and payload.startswith(b"JFIF\0"):
                yield Segment(marker, payload[:5] + b"\1" + payload[6:])
            elif marker == _APP14 and payload.startswith(b"Adobe") and len(payload) >= 12:
                yield Segment(marker, payload[:11] + bytes([self._transform(payload[11])]) + payload[12:])
            elif marker not in (_DNL, _EOI):
                yield Segment(marker, payload, scan)

    def _transform(self, said: int) -> int:
        """Adobe's number of the colours' transform, or what libjpeg takes one for that it does not know."""
        assumed = _KNOWN_TRANSFORMS.get(len(self.frame.sampling), 0)
        return said if said in (0, assumed) else assumed

    def _frame(self) -> Frame:
        for marker, payload, _ in self._head:
            if marker in _FRAMES and len(payload) >= 6:
                precision, height, width, channels = struct.unpack(">BHHB", payload[:6])
                factors = payload[7 : 6 + 3 * channels : 3]
                if not height:
                    behind = (segment.payload for segment in _segments(self._data) if segment.marker == _DNL)
                    height = int.from_bytes(next(behind, b"")[:2], "big")
                return Frame(marker, precision, height, width, tuple((each >> 4, each & 15) for each in factors))
        raise UnreadableImageError("damaged JPEG: it has no header")

    def _complaint(self, jpeg: bytes) -> str | None:
        """What libjpeg says first of a JPEG that it reads to the end, at an eighth of its size for less arithmetic."""
        colors = "CMYK" if len(self.frame.sampling) == 4 else "GRAY"
        try:
            simplejpeg.decode_jpeg(jpeg, colors, min_height=1, min_width=1, min_factor=8, strict=True)
        except ValueError as error:
            return str(error)
        return None


def _segments(data: bytes, head_alone: bool = False) -> Iterator[Segment]:
    """One after the other, with what lies between them passed over, to the end marker or that of the file.

    Args:
        data: the file.
        head_alone: stop where the first compressed data begin.
    """
    at = data.find(b"\xff\xd8") + 2
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _EOI:
            yield Segment(marker, b"")
            return
        if marker in _ALONE:
            continue
        length = max(2, int.from_bytes(data[at : at + 2], "big"))
        payload, at = data[at + 2 : at + length], at + length
        scan = b""
        if marker == _SOS and not head_alone:
            end = _SCAN_END.search(data, at)
            stop = end.start() if end else len(data)
            scan, at = data[at:stop], stop
        yield Segment(marker, payload, scan)
        if marker == _SOS and head_alone:
            return


def _encoded_pixel() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "JPEG")
    return buffer.getvalue()


_PIXEL = _encoded_pixel()

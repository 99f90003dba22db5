"""The chunks of a PNG: whether they are whole, which of them its pixels need, and what they say.

References:
    W3C, "Portable Network Graphics (PNG) Specification (Third Edition)", 2025: chunks (5.3), their checksums (5.5) and
    order of precedence of colour (4.3, 12.1); ITU-T H.273 (07/2024), code points of colour.
"""

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from koala.imaging.color_profile import BT709, SRGB_CURVE, Curve, Primaries, profile_of, profile_of_code_points
from koala.imaging.errors import UnreadableImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")

_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # by the pixels
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the type of colour
_PASSES = (  # of an interlaced one: where each begins, and its steps across and down
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
_LARGEST_PROFILE = 16 << 20
_PIECE = 1 << 20  # bytes that are inflated at a time
_XMP = b"XML:com.adobe.xmp\0"
_KEPT_ELSEWHERE = (_XMP, *(f"Raw profile type {kind}\0".encode() for kind in ("exif", "APP1", "xmp", "icc", "icm")))

_SRGB_GAMMA, _GAMMA_NEAR = 0.45455, 0.05  # a gamma so near stands for sRGB's curve, as libpng has it


class Chunk(NamedTuple):
    """A chunk, and whether its checksum is that of its bytes."""

    kind: bytes
    payload: bytes
    sound: bool

    @property
    def is_critical(self) -> bool:
        """Whether a PNG cannot be shown without it."""
        return not self.kind[0] & 32

    def check(self) -> None:
        """Believe its checksum.

        Raises:
            UnreadableImageError: it differs.
        """
        if not self.sound:
            name = f" of its {self.kind.decode()} chunk" if self.kind.isalpha() else ""
            raise UnreadableImageError(f"damaged PNG: the checksum{name} differs")

    def encoded(self) -> bytes:
        """As it is in a file, with the right checksum."""
        body = self.kind + self.payload
        return struct.pack(">I", len(self.payload)) + body + struct.pack(">I", zlib.crc32(body))


class PngChunks:
    """What a PNG consists of.

    Args:
        data: the file.

    Raises:
        UnreadableImageError: it does not begin as PNGs do, or a chunk without which nothing is known is damaged.
    """

    def __init__(self, data: bytes) -> None:
        self._chunks = list(read_chunks(data))
        if self._chunks and self._chunks[0].kind == b"CgBI":
            raise UnreadableImageError("PNG of Apple's own kind (CgBI): not supported; save it as a plain PNG")
        for chunk in self._chunks:
            if chunk.is_critical and chunk.kind != b"IDAT":
                chunk.check()
        if not self._chunks or self._chunks[0].kind != b"IHDR" or len(self._chunks[0].payload) != 13:
            raise UnreadableImageError("damaged PNG: it does not begin with its size")
        self.width, self.height, self.depth, self._color, *_, self._interlaced = struct.unpack(
            ">IIBBBBB", self._chunks[0].payload
        )

    @property
    def is_animation(self) -> bool:
        """Whether it has more than one frame."""
        return any(chunk.kind == b"acTL" and chunk.payload[:4] > b"\0\0\0\1" for chunk in self._chunks)

    def still(self) -> bytes:
        """The PNG of its first frame, without what is damaged and not needed."""
        return self._rebuilt(lambda chunk: chunk.is_critical or (chunk.sound and chunk.kind not in _ANIMATION))

    def bare(self) -> bytes:
        """The PNG of its pixels alone."""
        return self._rebuilt(lambda chunk: chunk.kind in _NEEDED)

    def mended(self) -> bytes:
        """The PNG of its pixels alone, compressed anew: Pillow leaves rows black before a checksum that differs.

        Raises:
            UnreadableImageError: some of its pixels are not there.
        """
        size, raw = self._raw_size(), b""
        with suppress(zlib.error):  # raw deflate, behind zlib's header and without its checksum
            raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(b"".join(self._pixels())[2:], size)
        if len(raw) < size:
            raise UnreadableImageError("damaged PNG: its pixels end too early")
        kept = [chunk for chunk in self._chunks if chunk.kind in _NEEDED[:3]]
        made = [*kept, Chunk(b"IDAT", zlib.compress(raw, 1), True), Chunk(b"IEND", b"", True)]
        return SIGNATURE + b"".join(chunk.encoded() for chunk in made)

    def texts(self) -> tuple[tuple[bytes, bytes], ...]:
        """The kind and payload of each chunk of text, but for EXIF, XMP and profiles."""
        return tuple(
            (chunk.kind, chunk.payload)
            for chunk in self._chunks
            if chunk.kind in TEXTS and chunk.sound and not chunk.payload.startswith(_KEPT_ELSEWHERE)
        )

    def check(self) -> None:
        """Believe all checksums that its pixels have.

        Raises:
            UnreadableImageError: one differs, or the end is missing.
        """
        for chunk in self._chunks:
            if chunk.is_critical:
                chunk.check()
        if self._chunks[-1].kind != b"IEND":
            raise UnreadableImageError("damaged PNG: it ends too early")
        check_zlib(self._pixels(), self._raw_size(), "PNG")

    def profile(self) -> bytes | None:
        """The ICC profile of its colours: its own, or one that does what cICP, or gAMA and cHRM say.

        The first that can be read counts, in the specification's order: cICP, iCCP, sRGB, gAMA and cHRM.

        Returns:
            None where its colours are sRGB's.

        Raises:
            UnreadableImageError: they are of high dynamic range.
        """
        said = {chunk.kind: chunk.payload for chunk in reversed(self._chunks) if chunk.sound}
        readers = ((b"cICP", _of_code_points), (b"iCCP", _embedded), (b"sRGB", lambda _: b""))
        for kind, read in readers:
            if kind in said and (profile := read(said[kind])) is not None:
                return profile or None
        return _of_gamma(said.get(b"gAMA"), said.get(b"cHRM"))

    def _pixels(self) -> Iterator[bytes]:
        return (chunk.payload for chunk in self._chunks if chunk.kind == b"IDAT")

    def _rebuilt(self, is_kept: Callable[[Chunk], bool]) -> bytes:
        return SIGNATURE + b"".join(chunk.encoded() for chunk in self._chunks if is_kept(chunk))

    def _raw_size(self) -> int:
        """Bytes of its pixels and of a filter for each row."""
        bits = _CHANNELS.get(self._color, 4) * self.depth
        passes = _PASSES if self._interlaced else ((0, 0, 1, 1),)
        sizes = ((-(-(self.width - x) // across), -(-(self.height - y) // down)) for x, y, across, down in passes)
        return sum((-(-width * bits // 8) + 1) * height for width, height in sizes if width > 0 and height > 0)


def check_zlib(pieces: Iterable[bytes], size: int, kind: str) -> None:
    """Inflate a zlib stream to its checksum, without keeping what comes out.

    Args:
        pieces: of the stream.
        size: bytes that come out, about.
        kind: what the file is.

    Raises:
        UnreadableImageError: the stream is damaged, ends too early or holds much more.
    """
    inflate, room = zlib.decompressobj(), size + _PIECE
    for piece in pieces:
        waiting, made = piece, _PIECE
        while (waiting or made == _PIECE) and not inflate.eof:
            try:
                made = len(inflate.decompress(waiting, _PIECE))
            except zlib.error:
                raise UnreadableImageError(f"damaged {kind}: the checksum of its pixels differs") from None
            waiting, room = inflate.unconsumed_tail, room - made
            if room < 0:
                raise UnreadableImageError(f"damaged {kind}: it holds more than its pixels")
    if not inflate.eof:
        raise UnreadableImageError(f"damaged {kind}: its pixels end too early")


def read_chunks(data: bytes) -> Iterator[Chunk]:
    """All chunks to the end; of one that is cut off what there is."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        payload, end = data[at + 8 : at + 8 + length], at + 12 + length
        sound = data[end - 4 : end] == struct.pack(">I", zlib.crc32(payload, zlib.crc32(kind)))
        yield Chunk(kind, payload, sound)
        if kind == b"IEND":
            return
        at = end


# ---------------------------------------------------------------- colours


def _of_code_points(payload: bytes) -> bytes | None:
    """Of cICP; in RGB and in full range, as PNGs have to be."""
    primaries, transfer, matrix, full_range = payload.ljust(4, b"\0")[:4]
    return profile_of_code_points(primaries, transfer) if (matrix, full_range) == (0, 1) else None


def _embedded(payload: bytes) -> bytes | None:
    """Of iCCP: a name, a byte for zlib, and the profile."""
    try:
        profile = zlib.decompressobj().decompress(payload[payload.index(b"\0") + 2 :], _LARGEST_PROFILE)
    except (ValueError, zlib.error):
        return None
    return profile if profile[36:40] == b"acsp" else None


def _of_gamma(gamma: bytes | None, chromaticities: bytes | None) -> bytes | None:
    """Of gAMA and cHRM, of which one may be missing: then sRGB's stands in its place."""
    curve, primaries = SRGB_CURVE, BT709
    with suppress(struct.error, ZeroDivisionError):
        if gamma is not None:
            power = 100_000 / struct.unpack(">I", gamma)[0]
            curve = curve if abs(power * _SRGB_GAMMA - 1) < _GAMMA_NEAR else Curve(power)
        if chromaticities is not None:
            white, red, green, blue = np.array(struct.unpack(">8I", chromaticities)).reshape(4, 2) / 100_000
            primaries = Primaries(tuple(red), tuple(green), tuple(blue), tuple(white))
    return None if (curve, primaries) == (SRGB_CURVE, BT709) else profile_of(primaries, curve)

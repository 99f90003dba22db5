"""Damaged pictures of every format, through both ways of reading: no exception but those that say so, no hang, little
memory."""

import io
import resource
import sys
import zlib
from collections import Counter
from collections.abc import Callable

import numpy as np
import tifffile
from PIL import Image

from koala.config.data import ResizeRule
from koala.core.errors import UserError
from koala.imaging import jpeg_intake, photo_io
from koala.imaging.errors import UnreadableImageError
from koala.imaging.png_chunks import SIGNATURE, Chunk, _chunks
from tests.photographs import encoded, make_photo, packet, swapped_profile

MUTATIONS = int(__import__("os").environ.get("N", "500"))  # of each format
MOST_BYTES = 1_500_000_000
MOST_SECONDS = 600  # for all of a format; some five are taken

PHOTO = make_photo(3, 20, 14)
PILLOWS = (
    *("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "BMP", "GIF", "JPEG2000", "PPM", "MPO"),
    *("TGA", "ICO", "BLP", "DDS", "PCX", "SGI", "IM", "ICNS", "QOI", "MSP", "SPIDER", "XBM"),
)
MODES = {"BLP": "P", "MSP": "1", "XBM": "1", "SPIDER": "F"}


def _tiff(**options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.asarray(PHOTO) * np.uint16(257), **{"photometric": "rgb", **options})
    return buffer.getvalue()


def _animation(kind: str) -> bytes:
    return encoded(PHOTO, kind, save_all=True, append_images=[make_photo(4, 20, 14)])


def _special() -> dict[str, bytes]:
    import imagecodecs

    deep = np.asarray(PHOTO) * np.uint16(257)
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a description", 6
    exif[0x8769] = {0x9003: "1936:05:01 12:00:00"}
    words = {"exif": exif.tobytes(), "icc_profile": swapped_profile(), "xmp": packet()}
    return {
        "progressive JPEG": encoded(PHOTO, "JPEG", progressive=True),
        "CMYK JPEG": encoded(PHOTO.convert("CMYK"), "JPEG"),
        "12-bit JPEG": imagecodecs.jpeg8_encode(deep >> 4, bitspersample=12),
        "JPEG with words": encoded(PHOTO, "JPEG", comment=b"a comment", **words),
        "PNG of 16 bits": imagecodecs.png_encode(deep),
        "PNG with words": encoded(PHOTO, "PNG", **words),
        "APNG": _animation("PNG"),
        "TIFF of 16 bits": _tiff(),
        "deflated TIFF": _tiff(compression="zlib", predictor=True),
        "LZW TIFF": _tiff(compression="lzw"),
        "tiled BigTIFF": _tiff(bigtiff=True, byteorder=">", tile=(16, 16)),
        "TIFF of pages": _animation("TIFF"),
        "animated WEBP": _animation("WEBP"),
        "animated GIF": _animation("GIF"),
    }


def seeds() -> dict[str, bytes]:
    """A tiny picture of each format that can be written here."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    return {kind: encoded(PHOTO.convert(MODES.get(kind, "RGB")), kind) for kind in PILLOWS} | _special()


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """Some bytes changed, cut out, doubled or made extreme."""
    made = bytearray(data)
    for _ in range(int(random.integers(1, 5))):
        at, length = int(random.integers(len(made))), int(random.integers(1, 9))
        match random.integers(7):
            case 0:
                made[at] ^= 1 << int(random.integers(8))
            case 1:
                made[at : at + length] = random.bytes(length)
            case 2:
                made[at : at + length] = bytes([random.choice([0, 1, 0x7F, 0x80, 0xFF])]) * length
            case 3:
                del made[at : at + length]
            case 4:
                made[at:at] = made[at : at + 16 * length]
            case 5:
                del made[max(at, 16) :]
            case _:
                there = int(random.integers(len(made)))
                made[at : at + length] = made[there : there + length]
        made = made or bytearray(b"\0")
    return bytes(made)


def mutated_png(data: bytes, random: np.random.Generator) -> bytes:
    """The same within chunks, whose checksums are right again."""
    chunks = list(_chunks(data))
    at = int(random.integers(len(chunks) - 1))
    payload = chunks[at].payload
    if chunks[at].kind == b"IDAT":
        payload = zlib.compress(mutated(zlib.decompress(payload), random))
    chunks[at] = Chunk(chunks[at].kind, mutated(payload or b"\0", random), True)
    return SIGNATURE + b"".join(chunk.encoded() for chunk in chunks)


def read_all(kind: str, data: bytes, count: int) -> tuple[Counter, list[str]]:
    """What became of mutations, and those at which something else was raised than an error that says so."""
    random = np.random.default_rng([*kind.encode(), int(__import__("os").environ.get("SEED", "0"))])
    mutate = mutated_png if kind.endswith("PNG with words") else mutated
    outcomes, wrong = Counter(), []
    for number in range(count):
        broken = mutate(data, random)
        for name, read in WAYS.items():
            try:
                read(broken)
                outcomes[f"{name}: read"] += 1
            except (UserError, UnreadableImageError) as error:
                outcomes[f"{name}: refused"] += 1
                if "\n" in str(error) or len(str(error)) > 200:
                    wrong.append(f"mutation {number} of {kind} by {name}: {error}")
            except Exception as error:
                wrong.append(f"mutation {number} of {kind} by {name}: {type(error).__name__}: {error}")
    return outcomes, wrong


def _read_as_photo(data: bytes) -> None:
    for photo in photo_io.PhotoFile(data):
        photo_io.encode_photo(
            photo.pixels[:8, :8], photo_io.Photo(photo.pixels[:8, :8], None, photo.exif, photo.xmp), ".tif"
        )


WAYS: dict[str, Callable[[bytes], object]] = {
    "photo": _read_as_photo,
    "shard": lambda data: jpeg_intake.validate_or_transcode(data, ResizeRule()),
}


if __name__ == "__main__":
    import time

    for kind, data in seeds().items():
        if len(sys.argv) > 1 and kind not in sys.argv[1:]:
            continue
        start = time.time()
        outcomes, wrong = read_all(kind, data, MUTATIONS)
        print(
            kind,
            len(data),
            dict(outcomes),
            round(time.time() - start, 1),
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "MB",
            *wrong[:5],
            sep="  ",
            flush=True,
        )

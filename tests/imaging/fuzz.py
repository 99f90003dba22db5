"""Damages tiny pictures of a format in many ways, and reads them as photos and for shards.

    python -m tests.imaging.fuzz FORMAT [COUNT]

prints a line of JSON: what became of them, errors that should not be, and the memory that it took.
"""

import io
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pillow_heif
import tifffile
from PIL import Image

from koala.config.data import ResizeRule
from koala.imaging.errors import UnreadableImageError
from koala.imaging.jpeg_intake import validate_or_transcode
from koala.imaging.photo_io import PhotoFile, encode_photo
from koala.imaging.png_chunks import SIGNATURE, Chunk, read_chunks
from tests.imaging.odd_jpegs import ODD_JPEGS
from tests.photographs import encoded, make_photo, packet, swapped_profile

COUNT = 500

PHOTO, NEXT = make_photo(3, 20, 14), make_photo(4, 20, 14)
DEEP = np.asarray(PHOTO) * np.uint16(257)


def words() -> dict[str, bytes]:
    """EXIF, a profile and XMP."""
    exif = Image.Exif()
    exif[0x010E], exif[0x0112], exif[0x011A] = "a description", 6, 300.0
    exif[0x8769] = {0x9003: "1936:05:01 12:00:00", 0x829D: 5.6}
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 14.5)}
    return {"exif": exif.tobytes(), "icc_profile": swapped_profile(), "xmp": packet()}


def tiff(**options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, DEEP, photometric="rgb", **options)
    return buffer.getvalue()


def pages(kind: str) -> bytes:
    return encoded(PHOTO, kind, save_all=True, append_images=[NEXT])


def by_pillow(kind: str, mode: str = "RGB") -> Callable[[], bytes]:
    return lambda: encoded(PHOTO.convert(mode), kind)


SEEDS: dict[str, Callable[[], bytes]] = {
    **{kind: by_pillow(kind) for kind in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "BMP", "GIF", "JPEG2000")},
    **{kind: by_pillow(kind) for kind in ("PPM", "MPO", "TGA", "ICO", "DDS", "PCX", "SGI", "QOI")},
    **{"BLP": by_pillow("BLP", "P"), "MSP": by_pillow("MSP", "1"), "XBM": by_pillow("XBM", "1")},
    "progressive JPEG": lambda: encoded(PHOTO, "JPEG", progressive=True),
    "CMYK JPEG": by_pillow("JPEG", "CMYK"),
    "12-bit JPEG": lambda: imagecodecs.jpeg8_encode(DEEP >> 4, bitspersample=12),
    "JPEG-LS": lambda: imagecodecs.jpegls_encode(np.asarray(PHOTO)),
    "arithmetic-coded JPEG": lambda: ODD_JPEGS["-arithmetic"],
    "JPEG sampled 3x1": lambda: ODD_JPEGS["-sample 3x1"],
    "JPEG with words": lambda: encoded(PHOTO, "JPEG", comment=b"a comment", **words()),
    "PNG of 16 bits": lambda: imagecodecs.png_encode(DEEP),
    "PNG with words": lambda: encoded(PHOTO, "PNG", **words()),
    "APNG": lambda: pages("PNG"),
    "WEBP with words": lambda: encoded(PHOTO, "WEBP", **words()),
    "TIFF of 16 bits": tiff,
    "TIFF with words": lambda: encoded(PHOTO, "TIFF", exif=words()["exif"], icc_profile=swapped_profile()),
    "deflated TIFF": lambda: tiff(compression="zlib", predictor=True),
    "LZW TIFF": lambda: tiff(compression="lzw"),
    "tiled BigTIFF": lambda: tiff(bigtiff=True, byteorder=">", tile=(16, 16)),
    "TIFF of pages": lambda: pages("TIFF"),
    "animated WEBP": lambda: pages("WEBP"),
    "animated GIF": lambda: pages("GIF"),
    "animated AVIF": lambda: pages("AVIF"),
}


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
        made = made or bytearray(1)
    return bytes(made)


def mutated_png(data: bytes, random: np.random.Generator) -> bytes:
    """The same within chunks and within their compressed pixels, with checksums that are right again."""
    chunks = list(read_chunks(data))
    at = int(random.integers(len(chunks)))
    kind, payload, _ = chunks[at]
    if kind == b"IDAT" and random.integers(2):
        payload = zlib.compress(mutated(zlib.decompress(payload), random))
    else:
        payload = mutated(payload or bytes(1), random)
    chunks[at] = Chunk(kind, payload, True)
    return SIGNATURE + b"".join(chunk.encoded() for chunk in chunks)


def read_as_photo(data: bytes) -> None:
    """Read all pages, and write what they say into files of other formats."""
    for photo in PhotoFile(data):
        corner = replace(photo, pixels=photo.pixels[:8, :8], alpha=None)
        for suffix in (".tif", ".jpg", ".png"):
            encode_photo(corner.pixels, corner, suffix)


WAYS: dict[str, Callable[[bytes], object]] = {
    "photo": read_as_photo,
    "shard": lambda data: validate_or_transcode(data, ResizeRule()),
}


def read_mutations(kind: str, count: int) -> tuple[Counter[str], list[str]]:
    """What became of mutations, and what was raised but for a sentence."""
    random = np.random.default_rng(list(kind.encode()))
    data, mutate = SEEDS[kind](), mutated_png if kind == "PNG with words" else mutated
    outcomes, wrong = Counter(), []
    for number in range(count):
        broken = mutate(data, random)
        for way, read in WAYS.items():
            try:
                read(broken)
                outcomes[f"{way} read"] += 1
            except UnreadableImageError as error:
                outcomes[f"{way} refused"] += 1
                if "\n" in str(error) or len(str(error)) > 150 or not str(error).isprintable():
                    wrong.append(f"{way} {number}: {error!r}")
            except Exception as error:
                wrong.append(f"{way} {number}: {error!r}")
    return outcomes, wrong


def peak_bytes() -> int:
    """The most memory that this process had; getrusage would tell of the process that started it as well."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def main(kind: str, count: str = str(COUNT)) -> None:
    pillow_heif.register_heif_opener()
    outcomes, wrong = read_mutations(kind, int(count))
    print(json.dumps({"kind": kind, "outcomes": outcomes, "wrong": wrong[:5], "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main(*sys.argv[1:])

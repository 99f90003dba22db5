"""Photographs of every kind are read, and written back in their format and depth with what they said of themselves."""

import io
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational

from koala import __version__
from koala.core.errors import UserError
from koala.imaging import photo_io
from koala.imaging.errors import UnreadableImageError
from tests.photographs import encoded, events, make_photo, packet, swapped_profile

WRITTEN = [".jpg", ".png", ".tif", ".webp", ".avif"]
Tag, IFD = ExifTags.Base, ExifTags.IFD


def pixels(photo: Image.Image) -> np.ndarray:
    return np.asarray(photo, int)


def deep(channels: int = 3, height: int = 24, width: int = 36) -> np.ndarray:
    """All kinds of 16-bit values, of which no two neighbours are alike."""
    return np.random.default_rng(channels).integers(0, 65536, (height, width, channels), np.uint16)


def tiff(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **{"photometric": "rgb", "metadata": None, "software": False, **options})
    return buffer.getvalue()


def png(array: np.ndarray, **words) -> bytes:
    """A PNG of 16 bits with the chunks that Pillow writes."""
    pixels, chunks = imagecodecs.png_encode(array.squeeze()), chunks_of(**words)
    return pixels[:33] + chunks + pixels[33:]


def chunks_of(**words) -> bytes:
    """The chunks of a PNG that hold neither its size nor its pixels."""
    whole = encoded(Image.new("L", (1, 1)), "PNG", **words)
    return whole[33 : whole.rindex(b"IDAT") - 4]


def titled(packet: bytes) -> PngInfo:
    """How Pillow is given a PNG's XMP."""
    words = PngInfo()
    words.add_itxt("XML:com.adobe.xmp", packet.decode())
    return words


def read(data: bytes, folder: Path) -> photo_io.Photo:
    path = folder / "photo"
    path.write_bytes(data)
    return photo_io.read_photo(path)


def rewritten(photo: photo_io.Photo, path: Path) -> Image.Image:
    """What Pillow reads of a photo's file, with all chunks."""
    photo_io.write_photo(photo.pixels, photo, path)
    image = Image.open(path)
    image.load()
    return image


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "BMP", "GIF", "JPEG2000", "PPM", "MPO"]
)
def test_every_format_is_read(kind, tmp_path):
    pillow_heif.register_heif_opener()
    photo = make_photo(1, 64, 48)
    data = encoded(photo, kind)
    read_photo = read(data, tmp_path)
    assert read_photo.pixels.dtype == np.uint8 and read_photo.alpha is None
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.abs(read_photo.pixels.astype(int) - pixels(expected)).max() <= 2, "another decoder may round elsewhere"
    assert np.abs(read_photo.pixels.astype(int) - pixels(photo)).mean() < (12 if kind == "GIF" else 6)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_every_format_is_written(suffix, tmp_path):
    photo = make_photo(2, 64, 48)
    image = rewritten(photo_io.Photo(np.asarray(photo)), tmp_path / "new" / f"photo{suffix}")
    assert image.mode == "RGB" and image.size == (64, 48)
    assert np.abs(pixels(image) - pixels(photo)).mean() < {".png": 1e-9, ".tif": 1e-9, ".webp": 6}.get(suffix, 3)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    assert "sRGB" in ImageCms.getProfileDescription(profile)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"photo{suffix}"], "nothing half-written is left"


@pytest.mark.parametrize(("suffix", "most"), [(".jpg", 65_500), (".webp", 16_383), (".avif", 32_768)])
def test_what_a_format_cannot_hold_is_refused_and_all_else_written(suffix, most, tmp_path):
    path, pixels = tmp_path / f"long{suffix}", np.zeros((1, most + 1, 3), np.uint8)
    like = photo_io.Photo(pixels)
    photo_io.write_photo(pixels[:, 1:], like, path)
    assert photo_io.read_photo(path).pixels.shape == (1, most, 3)
    with pytest.raises(UnreadableImageError, match=rf"a side of {most + 1} pixels; a \w+ has {most} at most; make it"):
        photo_io.write_photo(pixels, like, path)


def test_jpegs_keep_their_chroma(tmp_path):
    image = rewritten(photo_io.Photo(np.asarray(make_photo(2))), tmp_path / "photo.jpg")
    assert image.layer[0][1:3] == (1, 1), "no chroma subsampling"


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1)])
def test_the_smallest_pictures(suffix, dtype, shape, tmp_path):
    path = tmp_path / f"photo{suffix}"
    grey = np.full((*shape, 3), np.iinfo(dtype).max // 5 * 3, dtype)
    photo_io.write_photo(grey, photo_io.Photo(grey, grey[..., 0]), path)
    again = photo_io.read_photo(path)
    depth = dtype if suffix in (".png", ".tif") else np.uint8
    assert again.pixels.shape == (*shape, 3) and again.pixels.dtype == depth
    assert np.abs(again.pixels.astype(float) / np.iinfo(depth).max - 0.6).max() < 0.02
    assert (again.alpha is None) == (suffix == ".jpg")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("transparent", [True, False])
def test_16_bits_are_written_exactly(suffix, transparent, tmp_path):
    picture = deep(4, height=600)
    photo = photo_io.Photo(picture[..., :3], picture[..., 3] if transparent else None)
    photo_io.write_photo(photo.pixels, photo, tmp_path / f"photo{suffix}")
    data = (tmp_path / f"photo{suffix}").read_bytes()
    other = imagecodecs.png_decode(data) if suffix == ".png" else tifffile.imread(io.BytesIO(data))
    assert other.dtype == np.uint16 and np.array_equal(other, picture[..., : 3 + transparent])
    again = photo_io.read_photo(tmp_path / f"photo{suffix}")
    assert np.array_equal(again.pixels, photo.pixels)
    assert np.array_equal(again.alpha, photo.alpha) if transparent else again.alpha is None


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pngs_of_16_bits_are_read_exactly(channels, tmp_path):
    picture = deep(channels)
    photo = read(png(picture), tmp_path)
    assert np.array_equal(photo.pixels, np.broadcast_to(picture[..., : channels - (channels % 2 == 0)], (24, 36, 3)))
    assert np.array_equal(photo.alpha, picture[..., -1]) if channels % 2 == 0 else photo.alpha is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"compression": "lzw", "predictor": True},
        {"compression": "zlib", "predictor": True, "rowsperstrip": 5},
        {"compression": "zlib", "tile": (16, 16)},
        {"compression": "zstd"},
    ],
    ids=str,
)
def test_tiffs_of_16_bits_are_read_exactly(options, tmp_path):
    picture = deep()
    assert np.array_equal(read(tiff(picture, **options), tmp_path).pixels, picture)


def test_tiffs_of_16_bits_in_planes(tmp_path):
    picture = deep()
    data = tiff(picture.transpose(2, 0, 1), planarconfig="separate")
    assert np.array_equal(read(data, tmp_path).pixels, picture)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_greys_whose_zero_is_white(dtype, tmp_path):
    grey = np.array([[0, 1, 100, 255]], dtype)
    expected = np.iinfo(dtype).max - grey
    assert np.array_equal(read(tiff(grey, photometric="miniswhite"), tmp_path).pixels[..., 1], expected)
    assert np.array_equal(read(tiff(grey, photometric="minisblack"), tmp_path).pixels[..., 1], grey)


@pytest.mark.parametrize("bits", [8, 16])
def test_alpha_that_was_multiplied_in(bits, tmp_path):
    """Half of white under an alpha of a half is white; where alpha is 0 nothing can be known."""
    half, dtype = 1 << (bits - 1), np.dtype(f"uint{bits}")
    stored = np.array([[[half, half // 2, 0, half], [0, 0, 0, 0]]], dtype)
    photo = read(tiff(stored, extrasamples=["assocalpha"]), tmp_path)
    most = np.iinfo(dtype).max
    assert np.abs(photo.pixels[0, 0].astype(int) - (most, most // 2, 0)).max() <= 1
    assert photo.alpha.tolist() == [[half, 0]]
    plain = read(tiff(stored, extrasamples=["unassalpha"]), tmp_path)
    assert plain.pixels[0, 0].tolist() == [half, half // 2, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_channels_of_no_meaning_are_no_alpha(dtype, tmp_path):
    """A selection that an editor saved."""
    stored = np.full((3, 4, 4), 7, dtype)
    assert read(tiff(stored, extrasamples=["unspecified"]), tmp_path).alpha is None


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_modes(mode, tmp_path):
    photo = make_photo(5).convert(mode)
    read_photo = read(encoded(photo, "TIFF" if mode == "CMYK" else "PNG"), tmp_path)
    assert np.array_equal(read_photo.pixels, np.asarray(photo.convert("RGB")))
    assert (read_photo.alpha is not None) == (mode in ("LA", "RGBA"))


def test_a_palette_with_a_transparent_color(tmp_path):
    photo = make_photo(5).convert("P")
    photo.info["transparency"] = int(np.asarray(photo)[0, 0])
    alpha = read(encoded(photo, "GIF"), tmp_path).alpha
    assert alpha[0, 0] == 0 and alpha.max() == 255


def test_greys_of_16_bits_in_other_formats(tmp_path):
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16
    photo = read(encoded(Image.fromarray(ramp), "JPEG2000"), tmp_path)
    assert photo.pixels.dtype == np.uint16 and np.array_equal(photo.pixels[..., 1], ramp)


def test_alpha_follows_the_pictures_depth(tmp_path):
    opaque = photo_io.Photo(np.zeros((4, 4, 3), np.uint16), np.full((4, 4), 65535, np.uint16))
    photo_io.write_photo(np.zeros((4, 4, 3), np.uint8), opaque, tmp_path / "photo.png")
    assert photo_io.read_photo(tmp_path / "photo.png").alpha.tolist() == [[255] * 4] * 4
    opaque = photo_io.Photo(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 255, np.uint8))
    photo_io.write_photo(np.zeros((4, 4, 3), np.uint16), opaque, tmp_path / "photo.tif")
    assert photo_io.read_photo(tmp_path / "photo.tif").alpha.tolist() == [[65535] * 4] * 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright(orientation, tmp_path):
    photo = make_photo(3, 60, 40)
    exif = Image.Exif()
    exif[Tag.Orientation] = orientation
    marked = photo.copy()
    marked.info["exif"] = exif.tobytes()
    expected = np.asarray(ImageOps.exif_transpose(marked))
    array = np.asarray(photo)
    for data in (
        encoded(photo, "PNG", exif=exif),
        encoded(photo, "TIFF", exif=exif),
        encoded(photo, "TIFF", exif=exif, compression="tiff_lzw"),
        png(array * np.uint16(257), exif=exif),
        tiff(array * np.uint16(257), extratags=[(int(Tag.Orientation), "H", 1, orientation, True)]),
    ):
        read_photo = read(data, tmp_path)
        assert np.array_equal(read_photo.pixels // (257 if read_photo.pixels.dtype == np.uint16 else 1), expected)
        assert Tag.Orientation not in rewritten(read_photo, tmp_path / "photo.png").getexif()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_profiles_of_8_bits_are_converted(kind, tmp_path):
    red = Image.new("RGB", (32, 300), (200, 20, 20))
    photo = read(encoded(red, kind, icc_profile=swapped_profile()), tmp_path)
    assert np.abs(photo.pixels.astype(int) - (20, 20, 200)).max() < 12


@pytest.mark.parametrize("kind", [png, lambda array, icc_profile: tiff(array, iccprofile=icc_profile)])
def test_profiles_of_16_bits_are_converted_in_16_bits(kind, tmp_path):
    """A ramp in one colour keeps more levels than 8 bits have."""
    picture = np.full((300, 100, 3), 5000, np.uint16)
    picture[..., 0] = np.linspace(20_000, 60_000, 30_000).reshape(300, 100)
    photo = read(kind(picture, icc_profile=swapped_profile()), tmp_path)
    assert photo.pixels.dtype == np.uint16
    assert len(np.unique(photo.pixels[..., 2])) > 20_000
    assert np.abs(photo.pixels[..., 2].astype(int) - picture[..., 0]).max() < 1500
    eight = (picture // 257).astype(np.uint8)
    other = read(encoded(Image.fromarray(eight), "PNG", icc_profile=swapped_profile()), tmp_path)
    assert np.abs(photo.pixels / 257 - other.pixels).max() < 3, "as Pillow converts it"


def linear_grey() -> bytes:
    """A profile of greys as they are in light: of a gamma of 1."""
    return imagecodecs.cms_profile("gray", gamma=1.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_profiles_of_greys_are_converted(dtype, tmp_path):
    """A fifth of the light is 0.485 in sRGB (IEC 61966-2-1): 1.055 x 0.2^(1 / 2.4) - 0.055."""
    most = np.iinfo(dtype).max
    grey = np.full((5, 7), most // 5, dtype)
    photo = read(tiff(grey, photometric="minisblack", iccprofile=linear_grey()), tmp_path)
    assert np.abs(photo.pixels / most - 0.485).max() < 0.005
    assert len(np.unique(photo.pixels)) == 1


def test_printers_colors_are_converted_by_their_profile(tmp_path):
    """Without one they are what Pillow makes of them; a profile that is none of CMYK is passed over."""
    photo = make_photo(1).convert("CMYK")
    data = encoded(photo, "JPEG", icc_profile=swapped_profile(), quality=95)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.array_equal(read(data, tmp_path).pixels, np.asarray(expected))


def described(kind: str, folder: Path) -> photo_io.Photo:
    """A photo with words, read from a file of that kind."""
    exif = Image.Exif()
    exif[Tag.Artist] = "Zoë Müller".encode()
    exif[Tag.Software] = "SilverFast"
    exif[Tag.Orientation] = 6
    exif[IFD.Exif] = {
        Tag.DateTimeOriginal: "1936:05:01 12:00:00",
        Tag.FNumber: IFDRational(56, 10),
        Tag.ExifImageWidth: 60,
        Tag.ExifImageHeight: 40,
        Tag.ColorSpace: 65535,
    }
    exif[IFD.GPSInfo] = {1: "N", 2: (48.0, 8.0, 14.5)}
    words = {"dpi": (300, 300), "exif": exif.tobytes(), "xmp": packet(), "pnginfo": titled(packet())}
    photo = make_photo(1, 60, 40)
    return read(
        png(np.asarray(photo) * np.uint16(257), **words) if kind == "deep" else encoded(photo, kind, **words), folder
    )


@pytest.mark.parametrize(("kind", "suffix"), [("deep", ".png"), ("deep", ".tif"), *[("JPEG", s) for s in WRITTEN]])
def test_what_a_photo_says_is_kept(kind, suffix, tmp_path):
    """Also when what was written is read and written once more."""
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    check_words(rewritten(described(kind, tmp_path), first), first, notes=1)
    check_words(rewritten(photo_io.read_photo(first), second), second, notes=2)


def check_words(image: Image.Image, path: Path, notes: int) -> None:
    exif = image.getexif()
    assert exif[Tag.Artist].encode("latin-1") == "Zoë Müller".encode()
    assert exif[Tag.Software] == "SilverFast", "the photographer's tool"
    assert Tag.Orientation not in exif
    shot = exif.get_ifd(IFD.Exif)
    assert shot[Tag.DateTimeOriginal] == "1936:05:01 12:00:00" and float(shot[Tag.FNumber]) == pytest.approx(5.6)
    assert (shot[Tag.ColorSpace], shot[Tag.ExifImageWidth], shot[Tag.ExifImageHeight]) == (1, 40, 60)
    assert [float(value) for value in exif.get_ifd(IFD.GPSInfo)[2]] == [48.0, 8.0, 14.5]
    assert photo_io.read_photo(path).dpi == pytest.approx((300, 300), abs=0.1)
    words = image.info["xmp"].decode()
    assert "Großmutter, 1936" in words and 'CreatorTool="Adobe Photoshop 21.0"' in words
    assert "Orientation" not in words
    assert [event["softwareAgent"] for event in events(image.info["xmp"])] == [f"koala {__version__}"] * notes


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
def test_words_are_read_from_every_format(kind, tmp_path):
    pillow_heif.register_heif_opener()
    photo = described(kind, tmp_path)
    assert photo.xmp.startswith(b"<?xpacket") and b"SilverFast" in photo.exif
    assert photo.pixels.shape == (60, 40, 3), "upright"


@pytest.mark.parametrize(("unit", "dpi"), [(2, 300), (3, 762)])
def test_resolutions_are_in_inches(unit, dpi, tmp_path):
    for data in (
        tiff(deep(), resolution=(300, 300), resolutionunit=unit),
        tiff(np.uint8(deep() >> 8), resolution=(300, 300), resolutionunit=unit),
    ):
        assert read(data, tmp_path).dpi == pytest.approx((dpi, dpi))


def test_a_file_that_says_nothing_gets_the_note_alone(tmp_path):
    photo = read(encoded(make_photo(1), "PNG"), tmp_path)
    assert (photo.exif, photo.xmp, photo.dpi) == (b"", b"", None)
    image = rewritten(photo, tmp_path / "photo.jpg")
    assert not image.getexif() and "dpi" not in image.info
    (event,) = events(image.info["xmp"])
    assert event["action"] == "edited" and event["parameters"].startswith("coloured by software")


def test_words_behind_a_pngs_pixels_are_read(tmp_path):
    """Where exiftool puts them."""
    for data in (png(deep()), encoded(make_photo(1), "PNG")):
        late = data[:-12] + chunks_of(pnginfo=titled(packet())) + data[-12:]
        assert read(late, tmp_path).xmp == packet()


def test_what_is_too_long_for_a_jpeg_is_left_out(tmp_path):
    exif = Image.Exif()
    exif[Tag.ImageDescription] = "x" * 70_000
    words = packet(f"<tiff:Make>{'x' * 70_000}</tiff:Make>")
    photo = photo_io.Photo(np.asarray(make_photo(1)), exif=exif.tobytes(), xmp=words)
    image = rewritten(photo, tmp_path / "photo.jpg")
    assert len(image.info["xmp"]) < 1000 and not image.getexif()
    image = rewritten(photo, tmp_path / "photo.png")
    assert len(image.info["xmp"]) > 70_000 and len(image.getexif()[Tag.ImageDescription]) == 70_000


@pytest.mark.parametrize(
    "garbage", [b"garbage", b"II*\0\xff\xff\xff\xff" + b"garbage" * 9, b"MM\0*\0\0\0\x08\0\x09abc"]
)
def test_exif_that_cannot_be_read_harms_nothing(garbage, tmp_path):
    photo = read(encoded(make_photo(1), "JPEG", exif=b"Exif\0\0" + garbage), tmp_path)
    assert photo.pixels.shape == (40, 60, 3)
    rewritten(photo, tmp_path / "photo.jpg")


@pytest.mark.parametrize("suffix", WRITTEN)
def test_the_same_photo_gives_the_same_bytes(suffix, tmp_path):
    photo = photo_io.Photo(np.asarray(make_photo(1)), exif=b"", xmp=packet(), dpi=(300, 300))
    for name in ("one", "two"):
        photo_io.write_photo(photo.pixels, photo, tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_the_first_of_several_pages_is_read(tmp_path):
    pages = np.stack([deep(), deep() // 2])
    assert np.array_equal(read(tiff(pages), tmp_path).pixels, pages[0])
    buffer = io.BytesIO()
    make_photo(1).save(buffer, "TIFF", save_all=True, append_images=[make_photo(2)])
    assert np.array_equal(read(buffer.getvalue(), tmp_path).pixels, np.asarray(make_photo(1)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"text" * 100, "not an image"),
        (b"II*\0" + bytes(100), "photo: damaged TIFF"),
        (b"II*\0\x08\0\0\0\xff\xff" + b"garbage" * 50, "photo: damaged TIFF"),
        (
            tiff(np.zeros((8, 8, 3), np.float32)),
            "TIFF of float32, whose range is not known; save it with 8 or 16 bits",
        ),
        (tiff(np.zeros((8, 8), np.float32), photometric="minisblack"), "float32"),
        (tiff(np.zeros((8, 8), np.int32), photometric="minisblack"), "int32"),
        (tiff(deep(), subfiletype=1), "TIFF of previews alone, as in a camera's raw file; save it as a plain TIFF"),
    ],
)
def test_what_is_no_photo_is_refused_in_one_sentence(data, reason, tmp_path):
    with pytest.raises(UserError, match=reason) as error:
        read(data, tmp_path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "photo"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "BMP", "JPEG2000"])
def test_truncated_files_are_refused(kind, tmp_path):
    pillow_heif.register_heif_opener()
    data = encoded(make_photo(0, 640, 480), kind)
    with pytest.raises(UserError):
        read(data[: len(data) // 2], tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        png(deep(height=300)),
        tiff(deep(height=300)),
        tiff(deep(height=300), compression="lzw"),
        tiff(deep(height=300), compression="zlib", rowsperstrip=9),
    ],
    ids=["png", "tiff", "lzw", "zlib"],
)
def test_truncated_files_of_16_bits_are_refused(data, tmp_path):
    for broken in (data[: len(data) // 2], data[:400]):
        with pytest.raises(UserError):
            read(broken, tmp_path)


def bomb() -> bytes:
    """A TIFF whose header speaks of 65,000 x 65,000 pixels."""
    data = bytearray(tiff(np.zeros((1, 1, 3), np.uint16)))
    for tag in (Tag.ImageWidth, Tag.ImageLength):
        entry = data.index(int(tag).to_bytes(2, "little"), 8)
        data[entry + 2 : entry + 12] = b"\x04\0\x01\0\0\0" + (65_000).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("data", [encoded(Image.new("1", (20_000, 10_000)), "PNG"), bomb()], ids=["png", "tiff"])
def test_bombs_are_refused(data, tmp_path):
    with pytest.raises(UserError, match=r"decompression bomb|pixels are more than"):
        read(data, tmp_path)


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UserError, match=r"missing.png: No such file"):
        photo_io.read_photo(tmp_path / "missing.png")
    with pytest.raises(UserError, match="Is a directory"):
        photo_io.read_photo(tmp_path)


@pytest.mark.parametrize(
    ("package", "data"),
    [
        ("imagecodecs", png(deep())),
        ("imagecodecs", tiff(deep(), compression="lzw")),
        ("imagecodecs", tiff(deep(), iccprofile=swapped_profile())),
        ("pillow_heif", b"\0\0\0\x18ftypheic" + bytes(40)),
    ],
)
def test_missing_packages_are_named(package, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"photo: .* need {package.replace('_', '-')}; pip install .*\[photos\]"):
        read(data, tmp_path)


def test_plain_tiffs_of_16_bits_need_no_other_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    photo_io.write_photo(deep(), photo_io.Photo(deep()), tmp_path / "photo.tif")
    assert np.array_equal(photo_io.read_photo(tmp_path / "photo.tif").pixels, deep())


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *[(f"photo{suffix}", suffix) for suffix in WRITTEN],
        *[
            ("photo.JPEG", ".jpg"),
            ("photo.TIFF", ".tif"),
            ("photo.heic", ".png"),
            ("photo.bmp", ".png"),
            ("photo", ".png"),
        ],
    ],
)
def test_suffixes(name, suffix):
    assert photo_io.suffix_for(Path(name)) == suffix

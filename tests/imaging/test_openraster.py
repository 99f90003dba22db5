"""Layers to go on colouring by hand, read and laid over one another by others: pyora (OpenRaster) and Pillow."""

import zipfile

import numpy as np
import pytest
from PIL import Image
from pyora import Project
from skimage.color import deltaE_ciede2000, rgb2lab

from koala.imaging import color, openraster
from tests.photographs import make_photo


def make_pair(width: int = 300, height: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """A grey photo, and it coloured as koala colours: with the grey's L*."""
    photo = np.asarray(make_photo(0, width, height))
    lab = color.to_lab(color.to_lightness(photo, "grey"), 0.5 * color.to_ab(photo))
    return color.to_grey(photo)[..., 0], np.rint(color.lab_to_rgb(lab) * 255).astype(np.uint8)


def make_unrelated() -> tuple[np.ndarray, np.ndarray]:
    """Every grey with 300 colours that have nothing to do with it, the extreme ones among them."""
    colors = np.random.default_rng(0).integers(0, 256, (256, 300, 3), np.uint8)
    colors[:, :8] = np.stack(np.meshgrid([0, 255], [0, 255], [0, 255]), axis=-1).reshape(8, 3)
    return np.repeat(np.arange(256, dtype=np.uint8)[:, None], 300, axis=1), colors


def threefold(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def test_a_reader_of_openraster_finds_the_photo_and_its_colors(tmp_path):
    grey, colored = make_pair()
    openraster.write_ora(tmp_path / "photo.ora", grey, colored, dpi=(600, 300.4))
    project = Project.load(str(tmp_path / "photo.ora"))
    assert project.dimensions == (300, 200)
    assert project.ppi == ("600", "300")
    colors, photo = project.children  # from the top down
    assert (photo.name, photo.composite_op) == ("Photo", "svg:src-over")
    assert (colors.name, colors.composite_op) == ("Colours", "svg:color")
    for layer, expected in ((photo, threefold(grey)), (colors, colored)):
        assert (layer.visible, layer.opacity, layer.offsets) == (True, 1.0, (0, 0))
        assert np.array_equal(rgb(layer.get_image_data()), expected)


def test_dabs_lie_on_a_hidden_layer_on_top(tmp_path):
    """Hidden, so that the picture looks as it is coloured; `mergedimage.png` is the same with and without them."""
    dabs = np.zeros((200, 300, 4), np.uint8)
    dabs[90:110, 40:60] = 200, 30, 30, 255
    with (tmp_path / "photo.ora").open("wb") as file:
        openraster.save_ora(file, *make_pair(), hints=dabs)
    openraster.write_ora(tmp_path / "plain.ora", *make_pair())
    layers = [(layer.name, layer.visible) for layer in Project.load(str(tmp_path / "photo.ora")).children]
    assert layers == [("hints", False), ("Colours", True), ("Photo", True)]
    assert np.array_equal(openraster.read_layer(tmp_path / "photo.ora", openraster.HINTS), dabs)
    with zipfile.ZipFile(tmp_path / "photo.ora") as photo, zipfile.ZipFile(tmp_path / "plain.ora") as plain:
        assert photo.read("mergedimage.png") == plain.read("mergedimage.png")


def test_the_merged_picture_is_what_a_reader_composes(tmp_path):
    openraster.write_ora(tmp_path / "photo.ora", *make_pair())
    project = Project.load(str(tmp_path / "photo.ora"))
    merged, composed = (rgb(project.get_image_data(use_original=stored)).astype(int) for stored in (True, False))
    assert np.abs(merged - composed).max() <= 1  # pyora takes 0.299, 0.587, 0.114 for W3C's 0.3, 0.59, 0.11


def test_mode_color_is_w3cs():
    """Its pseudo-code, line by line: SetLum, and ClipColor for what leaves 0..1."""
    grey, colors = make_unrelated()
    lum = np.array([0.3, 0.59, 0.11])
    goal, c = grey[..., None] / 255, colors / 255
    c = c + (goal - (c @ lum)[..., None])
    n, x = c.min(axis=-1, keepdims=True), c.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):  # in the branches that are not taken
        c = np.where(n < 0, goal + (c - goal) * goal / (goal - n), c)
        c = np.where(x > 1, goal + (c - goal) * (1 - goal) / (x - goal), c)
    assert np.abs(openraster.blend(grey, colors) - 255 * c).max() < 0.501


def test_in_mode_color_the_photo_looks_as_koala_colored_it():
    grey, colored = make_pair()
    truth = rgb2lab(colored)
    difference = deltaE_ciede2000(rgb2lab(openraster.blend(grey, colored)), truth)
    uncolored = deltaE_ciede2000(rgb2lab(threefold(grey)), truth)
    assert difference.mean() < uncolored.mean() / 10  # L* or luma is kept, which strong colours tell apart


def test_the_file_is_laid_out_as_openraster_asks(tmp_path):
    path = tmp_path / "photo.ora"
    openraster.write_ora(path, *make_pair(), dpi=(0, 0))
    assert path.read_bytes()[30:].startswith(b"mimetypeimage/openraster")  # 30 bytes of zip before the first name
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        with archive.open("Thumbnails/thumbnail.png") as file:
            thumbnail = Image.open(file)
            assert (thumbnail.format, thumbnail.size) == ("PNG", (256, 171))
        with archive.open("data/color.png") as file:
            assert Image.open(file).mode == "RGBA"  # what is erased is transparent in every program
        assert b"xres" not in archive.read("stack.xml")  # 0 pixels an inch are none


@pytest.mark.parametrize("make", [make_pair, make_unrelated])
def test_laid_over_the_photo_the_transparent_layer_gives_the_colors(make, tmp_path):
    grey, colors = make()
    openraster.write_layer(tmp_path / "layer.png", grey, colors)
    layer = Image.open(tmp_path / "layer.png")
    laid = Image.alpha_composite(Image.fromarray(grey).convert("RGBA"), layer)
    assert np.array_equal(rgb(laid), colors)


def test_the_layer_is_as_transparent_as_can_be():
    grey, colors = make_unrelated()
    alpha = openraster.color_layer(grey, colors)[..., 3].astype(int)
    change = colors.astype(int) - threefold(grey)
    room = np.where(change > 0, 255 - threefold(grey), threefold(grey))  # black or white, laid over wholly
    assert (abs(change) * 255 <= alpha[..., None] * room).all()
    assert (abs(change) * 255 > (alpha - 1)[..., None] * room)[alpha > 0].any(axis=-1).all()
    assert not openraster.color_layer(grey, threefold(grey))[..., 3].any()


def test_strips_do_not_show(monkeypatch):
    pair = make_pair(width=70, height=45)
    whole = openraster.color_layer(*pair), openraster.blend(*pair)
    monkeypatch.setattr(openraster, "_STRIP", 200)  # two rows, and one in the end
    assert np.array_equal(openraster.color_layer(*pair), whole[0])
    assert np.array_equal(openraster.blend(*pair), whole[1])


def test_the_same_photo_becomes_the_same_bytes(tmp_path):
    for name in ("a.ora", "b.ora"):
        openraster.write_ora(tmp_path / name, *make_pair(40, 30))
    assert (tmp_path / "a.ora").read_bytes() == (tmp_path / "b.ora").read_bytes()


@pytest.mark.parametrize("write", [openraster.write_ora, openraster.write_layer])
def test_what_cannot_be_written_leaves_the_old_file(write, tmp_path, monkeypatch):
    path = tmp_path / "photo"
    path.write_bytes(b"old")

    def fill_disk(image, file, *_, **__):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fill_disk)
    with pytest.raises(OSError, match="No space left"):
        write(path, *make_pair(40, 30))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("photo", b"old")]


@pytest.mark.parametrize(
    ("grey", "colored"),
    [
        (np.zeros((4, 5), np.uint16), np.zeros((4, 5, 3), np.uint8)),
        (np.zeros((4, 5), np.uint8), np.zeros((5, 4, 3), np.uint8)),
        (np.zeros((4, 5, 1), np.uint8), np.zeros((4, 5, 3), np.uint8)),
        (np.zeros((0, 5), np.uint8), np.zeros((0, 5, 3), np.uint8)),
    ],
)
def test_arrays_that_are_no_pair_are_refused(grey, colored, tmp_path):
    for write in (openraster.write_ora, openraster.write_layer):
        with pytest.raises(ValueError, match=r"\(H, W, 3\) colours of its size, uint8, got"):
            write(tmp_path / "photo", grey, colored)
    assert not list(tmp_path.iterdir())

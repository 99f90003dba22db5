"""Hints in the gallery: dabs of colour, what is suggested for them and made of them, and the page with them."""

import io
import json
import re
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from koala.config.inference import GallerySettings
from koala.config.models import ExtractorSettings, Preset
from koala.imaging import ab_bins, color, openraster
from koala.inference import colorize
from koala.inference.gallery import painting, server
from koala.inference.gallery.wishes import SIZES, Dab, draw_dabs, find_dabs, read_dabs
from koala.inference.hints import place_hints
from koala.models.extractor import build_feature_maps
from koala.models.network import Colorizer, FusionNetwork
from koala.models.pyramid import PyramidNetwork
from tests import web
from tests.photographs import encoded, jpeg, make_photo

HERE = "http://127.0.0.1:8001"
DABS = [[0.25, 0.5, "#2060e0"], [0.75, 0.5, "#e02020"]]


@pytest.fixture(scope="module")
def model() -> Colorizer:
    """A network that takes hints, of random weights."""
    torch.manual_seed(0)
    maps = build_feature_maps(ExtractorSettings("tf_efficientnet_lite0", weights="random"), 0)
    return Colorizer(PyramidNetwork(maps, "bins", hints=True), None, 64).eval()


def app_of(model: Colorizer):
    return server.create_app(GallerySettings(), painting.options_for(model), painting.makers_for(model))


@pytest.fixture(scope="module")
def client(model) -> TestClient:
    return TestClient(app_of(model), HERE, raise_server_exceptions=False)


def send(client: TestClient, to: str, photo: bytes, dabs=(), name: str = "aunt Marie.tiff", **fields):
    return client.post(to, files={"photo": (name, photo)}, data={"dabs": json.dumps(dabs), **fields})


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def suffix_of(response) -> str:
    return re.search(r"''(.+)$", response.headers["content-disposition"])[1]


# ---------------------------------------------------------------- dabs


def test_dabs_are_read():
    assert read_dabs('[[0, 1, "#00ff7f"], [0.5, 0.25, "#102030"]]') == (
        Dab(0, 1, "#00ff7f"),
        Dab(0.5, 0.25, "#102030"),
    )
    assert read_dabs('[[0, 1, "#00ff7f", "large"]]') == (Dab(0, 1, "#00ff7f", "large"),)
    assert read_dabs("[]") == ()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "1", "{}x", '{"a": 1}', "[1]", "[[0, 0]]", '[[0, 0, "#000000", 1]]', '[[0, -0.1, "#000000"]]'),
        *('[[1.1, 0, "#000000"]]', '[[NaN, 0, "#000000"]]', '[[0, 0, "red"]]', '[[0, 0, "#00000g"]]', "[[0, 0, 5]]"),
        *('[[0, 0, "#000000", "huge"]]', '[[0, 0, "#000000", []]]', '[[0, 0, "#000000", "small", 1]]'),
        *('[[null, 0, "#000000"]]', '[[1e999, 0, "#000000"]]', "[" * 100_000, '[[0, 0, "#000000\\n"]]'),
    ],
)
def test_what_are_no_dabs_is_refused_in_a_sentence(client, text):
    with pytest.raises(ValueError, match="dabs must be a list of"):
        read_dabs(text)
    response = client.post("/colored", files={"photo": jpeg(make_photo(0))}, data={"dabs": text})
    assert response.status_code == 400
    sentence = 'dabs must be a list of [x, y, "#rrggbb", size], x and y from 0 to 1, sizes small, medium, large\n'
    assert response.text == sentence


def test_dabs_beyond_counting_are_refused():
    assert len(read_dabs(json.dumps([[0, 0, "#000000"]] * 200))) == 200
    with pytest.raises(ValueError, match="there are 201 dabs, more than 200; remove some"):
        read_dabs(json.dumps([[0, 0, "#000000"]] * 201))


def test_a_dab_is_a_disc_of_a_twenty_fifth_of_the_short_side():
    drawn = draw_dabs([Dab(0.25, 0.5, "#2060e0")], 200, 400)
    rows, columns = np.nonzero(drawn[..., 3])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (96, 104, 96, 104)  # 8 pixels, about 100, 100
    assert set(map(tuple, drawn[rows, columns])) == {(0x20, 0x60, 0xE0, 255)}
    assert len(rows) == pytest.approx(np.pi * 4.5**2, rel=0.1)


def test_dabs_have_three_sizes():
    drawn = (draw_dabs([Dab(0.5, 0.5, "#2060e0", size)], 300, 400)[150, :, 3] for size in SIZES)
    assert [int((row > 0).sum()) for row in drawn] == [7, 13, 23]  # 2 * 300 * (1/100, 1/50, 1/28) + 1


@pytest.mark.parametrize(("x", "y"), [(0, 0), (1, 1), (0.999, 0)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 17), (50, 40)])
def test_every_dab_leaves_something_where_it_lies(x, y, height, width):
    drawn = draw_dabs([Dab(x, y, "#2060e0")], height, width)
    assert drawn[min(int(y * height), height - 1), min(int(x * width), width - 1)].tolist() == [0x20, 0x60, 0xE0, 255]


def test_later_dabs_lie_over_earlier_ones():
    drawn = draw_dabs([Dab(0.5, 0.5, "#ff0000"), Dab(0.5, 0.5, "#00ff00")], 100, 100)
    assert set(map(tuple, drawn[drawn[..., 3] > 0])) == {(0, 255, 0, 255)}


MANY = (
    *(Dab(0.3, 0.2, "#2060e0", "large"), Dab(0.3, 0.2, "#ff0000", "small"), Dab(0.5, 0.7, "#ff0000")),
    *(Dab(0, 0.4, "#102030"), Dab(0.999, 0.6, "#102030", "large"), Dab(0.8, 1, "#fefefe", "small")),
)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (601, 333), (100, 100)])
def test_dabs_are_found_in_what_was_drawn(height, width):
    """Also at the border, and one upon another; the order is that in which they are drawn."""
    drawn = draw_dabs(MANY, height, width)
    found = find_dabs(drawn)
    assert sorted(dab.color for dab in found) == sorted(dab.color for dab in MANY)
    assert np.array_equal(draw_dabs(found, height, width), drawn)


def test_a_dab_that_another_lies_over_is_found_near():
    """Its middle is that of what is seen, and it lies below again."""
    found = find_dabs(draw_dabs([Dab(0.5, 0.5, "#ff0000"), Dab(0.505, 0.5, "#00ff00")], 500, 1000))
    assert [(dab.color, dab.size) for dab in found] == [("#ff0000", "medium"), ("#00ff00", "medium")]
    assert found[0].x == pytest.approx(0.5, abs=0.01) and found[0].y == pytest.approx(0.5, abs=0.01)


def test_noise_takes_no_memory():
    """A patch a pixel, of which none is a dab: an object of each would be 120 MB here, and 10 GB of a photo."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 4), np.uint8)
    noise[..., 3] = 255
    noise[100:120, 50:70, :3] = 255, 0, 0
    tracemalloc.start()
    (dab,) = find_dabs(noise)
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()
    assert dab.color == "#ff0000"


def test_what_somebody_else_painted_becomes_dabs():
    """Patches of one colour; the thin and the nearly transparent edge of a brush's stroke is none."""
    painted = np.zeros((400, 600, 4), np.uint8)
    painted[99:122, 199:222] = 10, 20, 30, 60
    painted[100:121, 200:221] = 10, 20, 30, 255
    painted[300, 100:102] = 200, 100, 50, 255
    (dab,) = find_dabs(painted)
    assert (dab.place(400, 600), dab.color, dab.size) == ((110, 210), "#0a141e", "medium")
    grid = np.zeros((400, 600, 4), np.uint8)
    for place in range(201):
        row, column = divmod(place, 20)
        grid[20 * row : 20 * row + 12, 20 * column : 20 * column + 12] = 255
    with pytest.raises(ValueError, match="there are 201 patches of colour, more than 200; paint fewer"):
        find_dabs(grid)


# ---------------------------------------------------------------- what is made of a photo


def near(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two pictures are the same to a level: threads may add in another order."""
    return bool(np.abs(first.astype(int) - second).max() <= 1)


def test_the_picture_follows_the_dabs_as_colorize_does(client, model):
    photo = make_photo(1, 96, 64)
    made = pixels(send(client, "/colored", encoded(photo, "PNG"), DABS).content)
    hints = draw_dabs(read_dabs(json.dumps(DABS)), 64, 96)
    assert near(made, colorize.colorize(np.asarray(photo), model, hints=hints))
    assert not np.array_equal(made, pixels(send(client, "/colored", encoded(photo, "PNG")).content))


def test_the_hints_to_keep_give_the_same_picture(client, model, tmp_path):
    photo = make_photo(2, 96, 64)
    made = pixels(send(client, "/colored", encoded(photo, "PNG"), DABS).content)
    hints = send(client, "/hints", encoded(photo, "PNG"), DABS)
    assert suffix_of(hints) == "aunt%20Marie-hints.png"
    (tmp_path / "dabs.png").write_bytes(hints.content)
    assert near(made, colorize.colorize(np.asarray(photo), model, hints=tmp_path / "dabs.png"))


def test_the_layers_to_keep_give_the_same_picture(client, model, tmp_path):
    photo = make_photo(3, 96, 64)
    layers = send(client, "/layers", encoded(photo, "PNG", dpi=(300, 300)), DABS)
    assert (suffix_of(layers), layers.headers["content-type"]) == ("aunt%20Marie-koala.ora", "image/openraster")
    path = tmp_path / "layers.ora"
    path.write_bytes(layers.content)
    made = pixels(send(client, "/colored", encoded(photo, "PNG"), DABS).content)
    assert np.array_equal(openraster.read_layer(path, "colours")[..., :3], made)
    assert np.array_equal(openraster.read_layer(path, "hints"), draw_dabs(read_dabs(json.dumps(DABS)), 64, 96))
    assert near(colorize.colorize(np.asarray(photo), model, hints=path), made)


def test_a_photo_is_made_small_as_it_is(client):
    photo = make_photo(4, 1600, 400)
    small = send(client, "/reduced", encoded(photo, "TIFF"))
    assert suffix_of(small) == "aunt%20Marie-small.jpg"
    expected = np.asarray(photo.resize((1000, 250), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(pixels(small.content) - expected).mean() < 2


def test_a_small_photo_keeps_its_size_its_turn_and_its_transparency(client):
    photo = make_photo(5, 80, 40)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held on its side
    assert pixels(send(client, "/reduced", jpeg(photo, exif=turned)).content).shape == (80, 40, 3)
    photo.putalpha(Image.linear_gradient("L").resize((80, 40)))
    small = pixels(send(client, "/reduced", encoded(photo, "PNG")).content)
    assert np.array_equal(small, np.asarray(photo))


# ---------------------------------------------------------------- suggestions


def suggested(client: TestClient, photo: bytes, dabs) -> list:
    response = send(client, "/suggested", photo, dabs)
    assert response.headers["content-type"] == "application/json"
    return response.json()


def lab_of(found: list[tuple[str, float]]) -> np.ndarray:
    levels = np.array([list(bytes.fromhex(given.removeprefix("#"))) for given, _ in found], np.uint8)
    return color.rgb_to_lab(levels[None])[0]


def test_the_likeliest_colors_are_those_of_the_bins():
    """Red is likely, and so is blue; what lies beside red and looks like it is not offered as well."""
    bins = ab_bins.centers()
    red, beside, blue = (int((bins == torch.tensor(ab)).all(dim=1).nonzero()) for ab in ([50, 40], [50, 30], [20, -50]))
    shares = np.zeros(len(bins))
    shares[[red, beside, blue]] = 0.5, 0.2, 0.3
    found = painting.likely_colors(shares, 50)
    assert [share for _, share in found[:3]] == [0.5, 0.3, 0]
    assert len(found) == 8
    assert np.abs(lab_of(found[:2]) - [[50, 50, 40], [50, 20, -50]]).max() < 1


def test_no_two_suggestions_look_alike():
    """Of bins that are all likely, in a dark place, where sRGB shows many of them in one colour."""
    seen = lab_of(painting.likely_colors(np.linspace(1, 0, len(ab_bins.centers())), 0))[:, 1:]
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    assert len(seen) == 8 and apart[~np.eye(8, dtype=bool)].min() > 18


@pytest.mark.parametrize(("lightness", "shown"), [(0, 40), (60, 60), (100, 80)])
def test_suggestions_are_of_the_photos_lightness_where_colors_can_be_told_apart(lightness, shown):
    shares = np.arange(len(ab_bins.centers()), dtype=np.float64)
    assert np.abs(lab_of(painting.likely_colors(shares, lightness))[:, 0] - shown).max() < 1


def test_suggestions_are_of_the_place_and_follow_the_other_dabs(client, model):
    photo = make_photo(6, 96, 64)
    data = encoded(photo, "PNG")
    found = suggested(client, data, [[0.9, 0.1, "#808080"]])
    view = colorize.look(np.asarray(photo), 64, model.network.stride)
    with torch.inference_mode():
        shares = model.network(view.lightness)[0].softmax(dim=0)
    assert found[0][1] == pytest.approx(float(shares[:, 1, 21].max()), abs=1e-4)  # of 16 x 24 places
    assert found == suggested(client, data, [[0.9, 0.1, "#00ff00"]]), "its own colour does not matter"
    assert found != suggested(client, data, [[0.8, 0.1, "#00ff00"], [0.9, 0.1, "#808080"]])


def test_nothing_is_suggested_for_no_dab_or_by_a_network_without_bins(client):
    photo = encoded(make_photo(7), "PNG")
    assert suggested(client, photo, []) == []
    maps = build_feature_maps(ExtractorSettings("tf_efficientnet_lite0", weights="random"), 0)
    other = Colorizer(PyramidNetwork(maps, "ab", hints=True), None, 64).eval()
    assert suggested(TestClient(app_of(other), HERE), photo, DABS) == []


def test_a_suggested_color_is_what_the_network_is_told():
    """From the bin to the colour on the page and back to the network's scale, nothing but rounding is lost."""
    shares = np.zeros(len(ab_bins.centers()))
    shares[100] = 1
    ((given, _), *_) = painting.likely_colors(shares, 60)
    placed = place_hints(draw_dabs([Dab(0.5, 0.5, given)], 64, 64), 64, 64)[0, :, 32, 32]
    assert np.abs(color.to_units(placed[:2]).numpy() - ab_bins.centers()[100].numpy()).max() < 1
    assert placed[2] == 1


# ---------------------------------------------------------------- dabs of a file


@pytest.mark.parametrize("address", ["/hints", "/layers"])
def test_what_was_kept_is_loaded_again(client, address):
    dabs = [[*DABS[0], "small"], [*DABS[1], "large"]]
    kept = send(client, address, encoded(make_photo(11, 360, 240), "PNG"), dabs).content
    loaded = send(client, "/dabs", kept, name="aunt Marie-hints").json()
    assert (loaded["width"], loaded["height"]) == (360, 240)
    found = sorted(loaded["dabs"])
    assert [dab[2:] for dab in found] == [["#2060e0", "small"], ["#e02020", "large"]]
    assert np.allclose([dab[:2] for dab in found], [dab[:2] for dab in dabs], atol=1 / 240)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"Dear diary", "kept.png cannot be read: not an image"),
        (b"PK\3\4", "kept.png is no OpenRaster file that can be read"),
        (jpeg(make_photo(12)), "kept.png has no transparency; paint the hints on a transparent picture"),
        (encoded(Image.new("RGBA", (40, 30)), "PNG"), "kept.png holds no dabs of colour; choose another file"),
        (encoded(Image.new("RGBA", (9000, 9000)), "PNG"), "are allowed"),
    ],
)
def test_a_file_without_dabs_is_one_sentence(client, data, sentence):
    response = send(client, "/dabs", data, name="kept.png")
    assert response.status_code == 400
    assert sentence in response.text and len(response.text.splitlines()) == 1


# ---------------------------------------------------------------- the page


def test_a_model_without_hints_has_a_page_without_them():
    client = TestClient(app_of(Colorizer(FusionNetwork(0, "bins"), None, 16).eval()), HERE)
    page = client.get("/").text
    assert not re.search(r"\bdabs?\b|\bhints?\b", re.sub(r"<script.*", "", page), flags=re.IGNORECASE)
    assert "Download layers" in page
    for address in ("/hints", "/suggested", "/dabs"):
        assert client.post(address).status_code == 404
    plain, with_dabs = (send(client, "/colored", jpeg(make_photo(8)), dabs) for dabs in ([], DABS))
    assert plain.content == with_dabs.content, "they are passed over"


@pytest.mark.parametrize("address", ["/reduced", "/layers", "/hints", "/suggested", "/dabs"])
def test_other_sites_get_nothing(client, address):
    response = client.post(address, files={"photo": jpeg(make_photo(9))}, headers={"origin": "https://evil.example"})
    assert response.status_code == 403


@pytest.mark.parametrize("address", ["/reduced", "/layers", "/hints", "/suggested"])
def test_a_file_that_is_no_photo_is_one_sentence(client, address):
    response = send(client, address, b"Dear diary", DABS, "notes.txt")
    assert (response.status_code, response.text) == (
        400,
        "notes.txt cannot be read: not an image; choose another photo\n",
    )


def test_the_options_are_explained(client, model):
    page = client.get("/").text
    for slider in painting.options_for(model).sliders:
        assert f'aria-describedby="{slider.name}-help"' in page
        assert f'id="{slider.name}-help" class="note">{slider.help}<' in page


def test_the_presets_of_a_model_are_offered(model, monkeypatch):
    presets = {"natural": Preset(0.38, saturation=0.9), "faithful": Preset(1.0, saturation=0.5)}
    monkeypatch.setattr(model, "presets", presets)
    client, photo = TestClient(app_of(model), HERE), make_photo(10, 96, 64)
    page = client.get("/").text
    assert re.findall(r'<option data-temperature="([\d.]+)">(\w+)<', page) == [("0.38", "natural"), ("1.0", "faithful")]
    expected = colorize.colorize(np.asarray(photo), model, recolor=True, preset="faithful")
    for more in ({"temperature": "1"}, {}):  # a form that says nothing of it means the preset's
        made = send(client, "/colored", encoded(photo, "PNG"), preset="faithful", **more)
        assert np.array_equal(pixels(made.content), expected)
    refused = send(client, "/colored", encoded(photo, "PNG"), preset="loud")
    assert (refused.status_code, refused.text) == (400, "there is no such preset; choose one that is on the page\n")


def test_a_model_of_one_preset_leaves_no_choice(client):
    assert "preset" not in client.get("/").text


def test_there_is_a_grey_photo_to_begin_with(client):
    assert 'href="sample" download="coffee.jpg"' in client.get("/").text
    sample = Image.open(io.BytesIO(client.get("/sample").content))
    assert (sample.format, sample.mode, sample.size) == ("JPEG", "L", (600, 400))


def test_a_page_without_a_sample_offers_none(model, monkeypatch):
    monkeypatch.setattr(painting, "_SAMPLE", ("skimage", "data/absent.png"))
    client = TestClient(app_of(model), HERE)
    assert "sample" not in client.get("/").text
    assert client.get("/sample").status_code == 404


# ---------------------------------------------------------------- a real browser


@pytest.mark.slow
def test_dabs_in_a_real_browser(model, tmp_path, monkeypatch):
    """By mouse, by keyboard and by touch: dabs are put, coloured, moved, removed, undone; what they make is kept."""
    from tests.study import chromium

    if not (chromium.BROWSER and chromium.DRIVER):
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    monkeypatch.setattr(model, "presets", {"natural": Preset(), "faithful": Preset(0.9, saturation=0.5)})
    names = ("aunt Marie.png", "uncle Jo.png")
    for seed, name in enumerate(names):
        make_photo(20 + seed, 400, 300).save(tmp_path / name)
    with web.serving(app_of(model), proxy_headers=False) as (_, port), chromium.chromium(1200, 1300) as driver:
        visitor = Visitor(driver, f"http://127.0.0.1:{port}/", tmp_path)
        visitor.choose(*names)
        visitor.put_a_dab_by_mouse()
        visitor.move_it_by_keyboard()
        visitor.drag_it()
        visitor.undo_and_remove()
        visitor.choose_a_size()
        visitor.keep_all(names[0], model)
        visitor.load_what_was_kept()
        visitor.see_the_other_photo()
        visitor.choose_a_preset()
        visitor.reset()
        visitor.look_at_a_phone()
        assert driver.get_log("browser") == [], "no violation of the content security policy either"


class Visitor:
    """Somebody in front of the page."""

    def __init__(self, driver, address: str, folder) -> None:
        self.driver, self.folder = driver, folder
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
        driver.get(address)

    def find(self, name):
        return self.driver.find_element("id", name)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def wait(self, condition):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 60, 0.05).until(lambda _: condition())

    def wait_for_another(self, picture):
        self.wait(lambda: self.find("after").get_attribute("src") != picture and not self.find("status").text)

    def picture(self):
        return self.find("after").get_attribute("src")

    def dabs(self) -> list[str]:
        return [dab.get_attribute("aria-label") for dab in self.all("#dabs button")]

    def press(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def actions(self):
        from selenium.webdriver.common.action_chains import ActionChains

        return ActionChains(self.driver)

    def choose(self, *names):
        self.driver.find_element("name", "photo").send_keys("\n".join(str(self.folder / name) for name in names))
        self.wait(lambda: self.find("after").is_displayed() and not self.find("status").text)
        assert [button.get_attribute("aria-pressed") for button in self.all("#photos button")] == ["true", "false"]
        assert not self.find("palette").is_displayed()

    def put_a_dab_by_mouse(self):
        before = self.picture()
        self.actions().move_to_element_with_offset(self.find("after"), -100, 0).click().perform()
        (name,) = self.dabs()
        assert re.fullmatch(r"Dab 1, [a-z ]+, medium, 25 % across, 50 % down", name)
        assert self.driver.switch_to.active_element == self.all("#dabs button")[0]
        self.wait(lambda: len(self.all("#suggestions button")) == 8)
        self.all("#suggestions button")[5].click()
        self.wait_for_another(before)
        assert self.all("#suggestions button")[5].get_attribute("aria-pressed") == "true"
        word = self.all("#suggestions button")[5].get_attribute("aria-label").partition(",")[0]
        assert self.dabs() == [f"Dab 1, {word}, medium, 25 % across, 50 % down"]
        self.driver.save_screenshot(str(self.folder / "dab.png"))

    def move_it_by_keyboard(self):
        from selenium.webdriver.common.keys import Keys

        before = self.picture()
        self.all("#dabs button")[0].send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_UP)
        self.press(Keys.SHIFT, Keys.ARROW_DOWN)
        assert self.dabs()[0].endswith("27 % across, 54 % down")
        self.wait_for_another(before)

    def drag_it(self):
        before = self.picture()
        self.actions().drag_and_drop_by_offset(self.all("#dabs button")[0], 92, -12).perform()
        assert self.dabs()[0].endswith("50 % across, 50 % down")
        self.wait_for_another(before)

    def undo_and_remove(self):
        from selenium.webdriver.common.keys import Keys

        self.find("undo").click()
        assert self.dabs()[0].endswith("27 % across, 54 % down")
        self.press(Keys.CONTROL, "z")
        assert self.dabs()[0].endswith("25 % across, 50 % down"), "what was pressed on end is undone together"
        self.find("add").click()
        assert len(self.dabs()) == 2
        assert self.dabs()[1].endswith("50 % across, 50 % down")
        self.press(Keys.DELETE)
        assert len(self.dabs()) == 1
        assert self.driver.switch_to.active_element == self.all("#dabs button")[0]
        self.find("remove").click()
        assert self.dabs() == []
        assert self.driver.switch_to.active_element == self.find("add")
        self.find("undo").click()
        assert len(self.dabs()) == 1

    def choose_a_size(self):
        before = self.picture()
        self.all("#dabs button")[0].click()
        self.find("dab-size").send_keys("large")
        self.wait_for_another(before)
        assert ", large, " in self.dabs()[0]

    def load_what_was_kept(self):
        """By keyboard's button from a file, and dropped on the page; what is not alike is refused in words."""
        (kept,) = self.dabs()
        for give in (self.find("hints-file").send_keys, self.drop_file):
            for name in ("aunt Marie-hints.png", "aunt Marie-koala.ora"):
                self.all("#dabs button")[0].click()
                self.find("remove").click()
                assert self.dabs() == []
                give(str(self.folder / name))
                self.wait(lambda: self.dabs() == [kept])
        assert len(self.all("#photos button")) == 2, "hints are no photos"
        self.driver.save_screenshot(str(self.folder / "loaded.png"))
        Image.fromarray(draw_dabs([Dab(0.5, 0.5, "#ff0000")], 300, 300)).save(self.folder / "other-hints.png")
        before = self.picture()
        self.driver.execute_script("window.soon = setTimeout; setTimeout = (job, wait) => soon(job, wait + 2000)")
        self.find("undo").click()  # which is painted after the refusal, and does not take its words away
        self.drop_file(str(self.folder / "other-hints.png"))
        refused = "belongs to a photo of another shape, 300 x 300 pixels"
        self.wait(lambda: self.picture() != before and refused in self.find("status").text)
        assert self.dabs() == []
        self.driver.execute_script("setTimeout = soon")
        self.drop_file(str(self.folder / "aunt Marie-hints.png"))
        self.wait(lambda: self.dabs() == [kept])
        assert refused not in self.find("status").text

    def drop_file(self, path: str):
        """Drop a file on the page, as a person's hand would."""
        data = {"items": [], "files": [path], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            event = {"type": kind, "x": 300, "y": 60, "data": data}
            self.driver.execute_cdp_cmd("Input.dispatchDragEvent", event)

    def keep_all(self, name: str, model: Colorizer):
        for button in self.all("#downloads button[value]"):
            button.click()
        picture, layers, hints = (
            self.folder / f"aunt Marie-{ending}" for ending in ("koala.png", "koala.ora", "hints.png")
        )
        self.wait(lambda: picture.exists() and layers.exists() and hints.exists() and not self.find("status").text)
        made = np.asarray(Image.open(picture))
        for given in (layers, hints):
            assert np.array_equal(made, colorize.colorize(self.folder / name, model, hints=given))
        assert not np.array_equal(made, colorize.colorize(self.folder / name, model, recolor=True))

    def see_the_other_photo(self):
        before = self.picture()
        first, other = self.all("#photos button")
        other.click()
        self.wait_for_another(before)
        assert other.get_attribute("aria-pressed") == "true"
        assert self.dabs() == []
        before = self.picture()
        first.click()
        self.wait_for_another(before)
        assert len(self.dabs()) == 1, "each photo keeps its own"

    def choose_a_preset(self):
        before = self.picture()
        self.find("preset").send_keys("faithful")
        self.wait_for_another(before)
        assert self.find("temperature").get_attribute("value") == "0.9"

    def reset(self):
        from selenium.webdriver.common.keys import Keys

        before = self.picture()
        self.find("strength").send_keys(Keys.HOME)
        self.wait_for_another(before)
        before = self.picture()
        self.find("reset").click()
        self.wait_for_another(before)
        assert [self.find(name).get_attribute("value") for name in ("strength", "temperature")] == ["1", "0.38"]
        assert self.find("preset").get_attribute("value") == "natural"
        assert self.dabs() == []
        self.find("undo").click()
        assert len(self.dabs()) == 1

    def look_at_a_phone(self):
        phone = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 1})
        assert self.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        self.driver.execute_script("after.scrollIntoView({ block: 'center' })")
        for axis in "XY":  # WebKit, and with it every iPhone, says so of fingers
            still = f"Object.defineProperty(MouseEvent.prototype, 'movement{axis}', {{ get: () => 0 }})"
            self.driver.execute_script(still)
        box = self.driver.execute_script("return after.getBoundingClientRect().toJSON()")
        self.touch("touchStart", box["left"] + 0.8 * box["width"], box["top"] + 0.2 * box["height"])
        self.touch("touchEnd")
        self.wait(lambda: len(self.dabs()) == 2)
        assert self.dabs()[1].endswith("80 % across, 20 % down")
        self.touch("touchStart", box["left"] + 0.8 * box["width"], box["top"] + 0.2 * box["height"])
        self.touch("touchMove", box["left"] + 0.6 * box["width"], box["top"] + 0.4 * box["height"])
        self.touch("touchEnd")
        self.wait(lambda: self.dabs()[1].endswith("60 % across, 40 % down"))
        assert all(dab.rect["width"] >= 44 for dab in self.all("#dabs button")), "as large as a finger"
        self.driver.save_screenshot(str(self.folder / "phone.png"))

    def touch(self, kind: str, *place: float):
        points = [dict(zip("xy", place, strict=True))] if place else []
        self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

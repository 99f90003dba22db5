"""The gallery: what its page gives for a photo, what it refuses, and who may use it."""

import asyncio
import base64
import gc
import io
import random
import re
import socket
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from koala import cli
from koala.config.inference import GallerySettings
from koala.inference.colorize import colorize
from koala.inference.gallery import painting, server
from koala.inference.gallery.painting import Made
from koala.inference.gallery.wishes import Options, Slider
from koala.models.network import Colorizer, FusionNetwork
from koala.models.pretrained import load_model
from tests import web
from tests.photographs import jpeg, make_photo

HERE = "http://127.0.0.1:8001"
OPTIONS = Options((Slider("saturation", "Saturation", "How strong.", 0, 2, 0.05, 1),))
EVIL = "https://evil.example"


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def paint_as(paint):
    """What a gallery makes, where only pictures are made: a photo's bytes and the sliders' values -> a picture's."""
    return {"colored": lambda data, wishes: Made.picture(paint(data, wishes.values))}


def unchanged(data, sliders):
    return data


def visit(paint=unchanged, **limits) -> TestClient:
    """Somebody in front of a gallery that paints so."""
    return before(server.create_app(GallerySettings(**limits), OPTIONS, paint_as(paint)))


def visit_model(model: Colorizer) -> TestClient:
    """Somebody in front of the gallery of a model."""
    return before(server.create_app(GallerySettings(), painting.options_for(model), painting.makers_for(model)))


def before(app) -> TestClient:
    return TestClient(app, HERE, raise_server_exceptions=False)


def send(client: TestClient, photo: bytes, name: str = "aunt Marie.jpg", to: str = "/colored", **options):
    return client.post(to, files={"photo": (name, photo)}, **options)


def never(data, sliders):
    pytest.fail("this photo must not be coloured")


@pytest.fixture(scope="module")
def model(run) -> Colorizer:
    return load_model(run)


@pytest.fixture(scope="module")
def client(model) -> TestClient:
    return visit_model(model)


# ---------------------------------------------------------------- a photo


def test_the_picture_is_what_colorize_makes(client, model):
    photo = make_photo(1, 72, 56)
    response = send(client, png(photo), "aunt Marie.tiff")
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-disposition"] == "attachment; filename*=UTF-8''aunt%20Marie-koala.png"
    assert np.array_equal(pixels(response.content), colorize(np.asarray(photo), model, recolor=True))


def test_the_sliders_are_obeyed(client, model):
    photo = make_photo(2, 72, 56)
    response = send(client, png(photo), data={"saturation": "0.5", "size": "32"})
    expected = colorize(np.asarray(photo), model, recolor=True, size=32, saturation=0.5)
    assert np.array_equal(pixels(response.content), expected)
    assert not np.array_equal(expected, colorize(np.asarray(photo), model, recolor=True)), "they make a difference"


def test_without_saturation_a_photo_is_grey(model):
    colored = colorize(np.asarray(make_photo(3)), model, recolor=True, saturation=0)
    assert np.ptp(colored.astype(int), axis=-1).max() <= 1


def test_jpegs_stay_jpegs(client):
    response = send(client, jpeg(make_photo(4)), "no suffix")
    assert response.headers["content-type"] == "image/jpeg"
    assert "''no%20suffix-koala.jpg" in response.headers["content-disposition"]
    assert Image.open(io.BytesIO(response.content)).format == "JPEG"


def test_there_is_a_slider_for_the_temperature_of_a_model_that_has_one():
    def names(head):
        return [slider.name for slider in painting.options_for(Colorizer(FusionNetwork(0, head), None, 224)).sliders]

    assert names("ab") == ["saturation", "strength", "size"]
    assert names("bins") == ["saturation", "strength", "temperature", "size"]


def test_the_temperature_is_obeyed():
    model = Colorizer(FusionNetwork(0, "bins"), None, 16).eval()
    photo = make_photo(5)
    made = send(visit_model(model), png(photo), data={"temperature": "0.05"}).content
    assert np.array_equal(pixels(made), colorize(np.asarray(photo), model, recolor=True, temperature=0.05))


def test_without_javascript_the_picture_is_on_the_page(client):
    photo = jpeg(make_photo(6))
    page = send(client, photo, to="/", headers={"accept": "text/html"})
    (shown,) = re.findall('src="data:image/jpeg;base64,([^"]+)"', page.text)
    assert base64.b64decode(shown) == send(client, photo).content
    assert "aunt Marie-koala.jpg" in page.text


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"Dear diary", "notes.txt cannot be read: not an image; choose another photo"),
        (jpeg(make_photo(7))[:600], "notes.txt cannot be read: "),
        (b"", "there is no photo in the form; choose one"),
    ],
)
def test_a_file_that_is_no_photo_is_one_sentence(client, data, sentence):
    response = send(client, data, "notes.txt")
    assert response.status_code == 400
    assert response.text.startswith(sentence)
    assert len(response.text.splitlines()) == 1


@pytest.mark.parametrize(
    ("photo", "limits", "sentence"),
    [
        (b"x" * 1_000_000, {"megabytes": 1}, "this photo is larger than 1 MB; take a smaller one, or start with"),
        (
            png(Image.new("L", (1001, 1000))),
            {"megapixels": 1},
            "aunt Marie.jpg has 1001 x 1000 pixels, more than 1 mill",
        ),
        (
            png(Image.new("L", (9, 1))),
            {},
            "aunt Marie.jpg has 9 x 1 pixels, a side more than 8 times the other; cut it",
        ),
    ],
)
def test_a_photo_beyond_the_limits_is_one_sentence(photo, limits, sentence):
    response = send(visit(never, **limits), photo)
    assert response.status_code == 413
    assert response.text.startswith(sentence)
    assert len(response.text.splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [("EPS", "is of format EPS; choose one of JPEG, "), ("PPM", "is of format PPM; choose one of JPEG, ")],
)
def test_formats_that_are_not_for_browsers_are_refused(kind, sentence):
    """EPS above all, which Pillow would hand to Ghostscript."""
    buffer = io.BytesIO()
    make_photo(14).save(buffer, kind)
    response = send(visit(never), buffer.getvalue())
    assert response.status_code == 415
    assert response.text.startswith(f"aunt Marie.jpg {sentence}")


def test_photos_at_the_limit_are_taken():
    photo = png(Image.new("L", (1000, 1000)))
    assert send(visit(megapixels=1, megabytes=1), photo).content == photo


@pytest.mark.parametrize("value", ["2.1", "-1", "nan", "inf", "", "much"])
def test_a_slider_that_is_moved_too_far(value):
    response = send(visit(never), png(make_photo(8)), data={"saturation": value})
    assert response.status_code == 400
    assert response.text == "saturation must be a number from 0 to 2\n"


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("application/x-www-form-urlencoded", b"photo=x", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"no boundary", 400),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="photo"\r\n\r\nx\r\n--b--\r\n',
            400,
        ),
    ],
)
def test_what_is_no_form_with_a_photo(kind, body, status):
    response = visit(never).post("/colored", content=body, headers={"content-type": kind})
    assert response.status_code == status
    assert len(response.text.splitlines()) == 1


def form(disposition: str = 'name="photo"; filename="x.png"', data: bytes = b"", boundary: bytes = b"b") -> bytes:
    """A form with one file, as it goes over the wire."""
    head = b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n" % (boundary, disposition.encode())
    return head + (data or png(make_photo(15))) + b"\r\n--%s--\r\n" % boundary


@pytest.mark.parametrize(
    ("charset", "status"),
    [("utf-8", 200), ("UTF8", 200), ("iso-8859-1", 200), ("us-ascii", 200)]
    + [(name, 400) for name in ("idna", "undefined", "utf-7", "utf-16", "base64", "unicode_escape", "klingon", "")],
)
def test_a_form_in_an_odd_charset(charset, status):
    kind = f'multipart/form-data; boundary=b; charset="{charset}"'
    response = visit().post("/colored", content=form('name="photo"; filename="é.png"'), headers={"content-type": kind})
    assert response.status_code == status
    if status == 400:
        assert response.text == f"the form is written in {charset!r}; send it in UTF-8, as browsers do\n"


@pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")  # starlette lets go of what a cut form began
def test_no_form_whatever_ends_in_a_traceback():
    """500 forms with bytes changed, cut or repeated: each is refused in a sentence."""
    rng, client, statuses = random.Random(0), visit(), set()
    kind = b'multipart/form-data; boundary=b; charset="utf-8"'
    for _ in range(500):
        head = web.mutated(kind, rng) if rng.random() < 0.5 else kind
        head = bytes(byte for byte in head if 32 <= byte < 127) or b"x"  # what HTTP lets through
        body = web.mutated(form(data=b"\x89PNG\r\n"), rng)
        response = client.post("/colored", content=body, headers={"content-type": head.decode()})
        statuses.add(response.status_code)
        assert len(response.text.splitlines()) == 1
    assert {400, 415} <= statuses <= {400, 413, 415}
    gc.collect()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")
def test_no_request_whatever_ends_in_a_traceback(caplog):
    """500 requests with bytes changed, cut or repeated, as they go over the wire."""
    app = server.create_app(GallerySettings(), OPTIONS, paint_as(unchanged))
    body, accept = form(), (b"text/html", b"*/*")
    requests = [
        b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\norigin: http://127.0.0.1\r\naccept: %s\r\ncontent-length: %d\r\n"
        b"content-type: multipart/form-data; boundary=b\r\n\r\n%s" % (path, kind, len(body), body)
        for path, kind in zip((b"/", b"/colored"), accept, strict=True)
    ]
    requests.append(b"GET /line HTTP/1.1\r\nhost: localhost\r\n\r\n")
    with web.serving(app, proxy_headers=False) as (_, port):
        statuses = web.statuses_of_mutated(port, requests, 500)
    assert statuses.keys() <= {"", "200", "400", "403", "404", "405", "413", "415", "421"}
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    gc.collect()


def test_browsers_are_told_on_the_page_and_nothing_is_taken_for_html(client):
    page = send(client, b"x", "<b>.jpg", to="/", headers={"accept": "text/html,*/*"})
    assert page.status_code == 400
    assert "&lt;b&gt;.jpg cannot be read: not an image" in page.text
    assert "<b>" not in page.text
    assert "<form" in page.text


def test_a_fault_of_koala_is_a_sentence_without_traceback():
    def broken(data, sliders):
        raise RuntimeError("secret")

    response = send(visit(broken), png(make_photo(9)))
    assert response.status_code == 500
    assert response.text == "koala failed at this photo; the terminal it runs in says why\n"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_no_photo_touches_the_disk(monkeypatch):
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", lambda file: pytest.fail("written to the disk"))
    photo = png(Image.fromarray(np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)))
    assert len(photo) > 2_500_000
    assert send(visit(), photo).content == photo


# ---------------------------------------------------------------- the line


def test_photos_are_coloured_one_at_a_time(monkeypatch):
    monkeypatch.setattr(server, "_LONGEST_LINE", 3)
    inside, go, most = [], threading.Event(), []

    def slow(data, sliders):
        inside.append(data)
        most.append(len(inside))
        assert go.wait(30)
        inside.remove(data)
        return data

    with visit(slow) as client:
        statuses = []
        people = [
            threading.Thread(target=lambda: statuses.append(send(client, png(make_photo(10))).status_code))
            for _ in range(3)
        ]
        for number, person in enumerate(people):
            person.start()
            wait_until(lambda number=number: client.get("/line").text == str(number + 1))
        refused = send(client, png(make_photo(10)))
        assert refused.status_code == 503
        assert refused.text == "3 photos are waiting; try again in a moment\n"
        assert refused.headers["retry-after"] == "10"
        go.set()
        for person in people:
            person.join()
        assert statuses == [200, 200, 200]
        assert most == [1, 1, 1]
        assert client.get("/line").text == "0"


@contextmanager
def uploads(app, *bodies: bytes):
    """Uploads that have begun and do not go on, in a loop of their own; the loop, and their answers so far."""

    async def upload(body: bytes) -> None:
        messages, statuses = [{"type": "http.request", "body": body, "more_body": True}], []
        answers.append(statuses)

        async def receive():
            return messages.pop() if messages else await asyncio.Event().wait()

        async def send(message):
            statuses.append(message.get("status"))

        headers = {b"host": b"127.0.0.1", b"content-type": b"multipart/form-data; boundary=b"}
        scope = {"type": "http", "method": "POST", "path": "/colored", "query_string": b"", "headers": headers.items()}
        await app(scope, receive, send)

    async def begin() -> list[asyncio.Task]:
        tasks = [asyncio.create_task(upload(body)) for body in bodies]
        await asyncio.sleep(0.01)
        return tasks

    answers: list[list[int]] = []
    with asyncio.Runner() as runner:
        tasks = runner.run(begin())
        yield answers
        for task in tasks:
            task.cancel()


def test_who_sends_slowly_holds_nobodys_place():
    """What is not here yet takes no place in the line, and no more memory than it has bytes."""
    app = server.create_app(GallerySettings(megabytes=1), OPTIONS, paint_as(unchanged))
    with uploads(app, *[form(data=b"x")[:-8]] * 50) as answers:
        assert answers == [[]] * 50
        client = TestClient(app, HERE)
        assert client.get("/line").text == "0"
        assert send(client, png(make_photo(10))).status_code == 200


def test_photos_on_their_way_fill_no_memory():
    app = server.create_app(GallerySettings(megabytes=1), OPTIONS, paint_as(never))
    with uploads(app, *[form(data=b"x" * 900_000)[:-8]] * 10) as answers:
        assert sorted(answers, key=len) == [[]] * 8 + [[503, None]] * 2
        refused = send(TestClient(app, HERE), png(make_photo(10)) + b"x" * 900_000)
        assert refused.status_code == 503
        assert refused.text == "too many photos are on their way; try again in a moment\n"


def test_health():
    assert visit().get("/health").json() == {"status": "ok"}


def wait_until(condition) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail("it did not come about")


@pytest.mark.parametrize("whole", [True, False])
def test_nothing_is_coloured_for_who_went_away(whole):
    """A slider that is moved on ends the request before, also in the middle of its upload."""
    body = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="x.png"\r\n\r\n' + png(make_photo(11))
    body = body + b"\r\n--b--\r\n" if whole else body
    messages = [{"type": "http.request", "body": body, "more_body": not whole}, {"type": "http.disconnect"}]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    headers = {b"host": b"127.0.0.1", b"content-type": b"multipart/form-data; boundary=b"}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/colored",
        "query_string": b"",
        "headers": list(headers.items()),
    }
    asyncio.run(server.create_app(GallerySettings(), OPTIONS, paint_as(never))(scope, receive, send))
    assert sent[0]["status"] == 408
    assert messages == []


# ---------------------------------------------------------------- who may use it


@pytest.mark.parametrize("address", ["/", "/script.js", "/line", "/absent"])
def test_every_response_has_the_headers_that_keep_it_safe(client, address):
    headers = client.get(address).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "headers",
    [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": EVIL}, {"origin": "null"}],
)
@pytest.mark.parametrize("to", ["/", "/colored"])
def test_other_sites_cannot_have_photos_coloured(headers, to):
    response = send(visit(never), png(make_photo(12)), to=to, headers=headers)
    assert response.status_code == 403
    assert "does not come from the gallery's own page" in response.text


@pytest.mark.parametrize("headers", [{}, {"sec-fetch-site": "same-origin"}, {"origin": HERE}])
def test_its_own_page_and_programs_can(headers):
    assert send(visit(), png(make_photo(12)), headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost:8001", "LOCALHOST", "127.0.0.1", "[::1]:8001", "192.168.1.5:8001", "attic:8001"]
)
def test_hosts_that_are_its_own(host):
    assert visit(host="Attic").get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8001", "attic", "", "["]
)
def test_a_name_that_leads_here_from_elsewhere_is_refused(host):
    for address in ("/", "/script.js", "/line"):
        assert visit().get(address, headers={"host": host}).status_code == 421
    assert send(visit(never), png(make_photo(12)), headers={"host": host}).status_code == 421


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_who_lets_others_in_is_told(run, host, warned, monkeypatch, capsys):
    served = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: served.append(sockets))
    assert cli.main(["gallery", "--model", str(run), "--host", host, "--port", "0"]) == 0
    printed = capsys.readouterr()
    assert len(served) == 1
    assert re.match(r"http://[\d.]+:\d+/  drop a photo there", printed.out)
    assert ("everybody who can reach this address" in printed.err) == warned


def test_what_cannot_be_served_is_one_sentence(run, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["gallery", "--model", str(run), "--port", port]) == 2
    assert "cannot be listened at (Address already in use); choose another --port" in capsys.readouterr().err
    assert cli.main(["gallery", "--model", "/nowhere", "--port", "0"]) == 2
    assert "there is no folder /nowhere" in capsys.readouterr().err


def test_the_page_needs_nothing_from_elsewhere():
    page = Path(server.__file__).parent / "page"
    text = "".join(path.read_text() for path in page.iterdir()).replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "//" not in re.sub(r"^\s*//.*$|;\s+// .*$", "", text, flags=re.MULTILINE)
    assert not re.search(r"<style|style=|\son\w+=", text), "the policy forbids them"


# ---------------------------------------------------------------- a real browser


@pytest.mark.slow
def test_in_a_real_browser(run, model, tmp_path):
    """A photo is dropped, compared by keyboard, coloured again by a slider, and downloaded; it fits on a phone."""
    from tests.processes import start
    from tests.study import chromium

    if not (chromium.BROWSER and chromium.DRIVER):
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    photo = make_photo(13, 640, 480)
    process = start("gallery", "--model", str(run), "--port", "0", "--device", "cpu")
    try:
        address = process.stdout.readline().split()[0]
        with chromium.chromium() as driver:
            through_the_gallery(driver, address, photo, model, tmp_path)
        with chromium.chromium(javascript=False) as driver:
            through_the_plain_form(driver, address, tmp_path)
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


def through_the_plain_form(driver, address: str, folder: Path) -> None:
    from selenium.webdriver.common.by import By

    driver.get(address)
    driver.find_element(By.NAME, "photo").send_keys(str(folder / "aunt Marie-koala.png"))
    driver.find_element(By.CSS_SELECTOR, "button").click()
    picture = driver.find_element(By.CSS_SELECTOR, ".result img")
    assert picture.get_attribute("alt") == "aunt Marie-koala-koala.png"
    assert picture.size["width"] / picture.size["height"] == pytest.approx(640 / 480, rel=0.01)
    driver.find_element(By.CSS_SELECTOR, "input[type=checkbox]").click()
    assert picture.value_of_css_property("filter") == "grayscale(1)"
    driver.save_screenshot(str(folder / "plain.png"))


def through_the_gallery(driver, address: str, photo: Image.Image, model: Colorizer, folder: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def find(name):
        return driver.find_element(By.ID, name)

    def wait(condition):
        WebDriverWait(driver, 60, 0.05).until(lambda _: condition())

    def shown(script):
        return driver.execute_script(f"return {script}")

    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    driver.get(address)
    data = base64.b64encode(png(photo)).decode()
    driver.execute_script(
        """
        const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], "aunt Marie.png", { type: "image/png" }));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        """,
        data,
    )
    wait(lambda: find("downloads").is_displayed() and shown("after.complete && after.naturalWidth === 640"))
    assert find("status").text == ""
    assert find("before").size == find("after").size, "one lies exactly on the other"
    first = find("after").get_attribute("src")

    find("split").send_keys(*[Keys.ARROW_RIGHT] * 5)
    assert "55%" in shown("getComputedStyle(after).clipPath")

    find("saturation").send_keys(Keys.END)
    wait(lambda: find("after").get_attribute("src") != first and find("status").text == "")
    driver.find_element(By.CSS_SELECTOR, "button[value=colored]").click()
    saved = folder / "aunt Marie-koala.png"
    wait(saved.exists)
    assert np.array_equal(pixels(saved.read_bytes()), colorize(np.asarray(photo), model, recolor=True, saturation=2))
    driver.save_screenshot(str(folder / "screen.png"))

    phone = {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    assert shown("document.documentElement.scrollWidth <= innerWidth")
    assert find("after").rect["width"] > 300
    driver.save_screenshot(str(folder / "phone.png"))

    tree = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = {(node["role"]["value"], node.get("name", {}).get("value")) for node in tree if not node.get("ignored")}
    sliders = {("slider", name) for name in ("Saturation", "Working size", "Percentage that shows the photo as it was")}
    others = {("image", "The photo in koala\u2019s colours"), ("button", "Download the picture")}
    assert sliders | others <= named
    assert driver.get_log("browser") == [], "no violation of the content security policy either"

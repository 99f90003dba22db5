"""The study in a real Chromium, with people to whom things happen on the way."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest

pytestmark = pytest.mark.slow

chromium = pytest.importorskip("tests.study.chromium", reason="needs selenium")
if not (chromium.BROWSER and chromium.DRIVER):
    pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)", allow_module_level=True)

from koala.config.study import ReportStudy  # noqa: E402
from koala.study.analysis import Analysis  # noqa: E402
from koala.study.answers import read_study  # noqa: E402
from koala.study.folder import StudyFolder  # noqa: E402
from tests.study.serving import served  # noqa: E402


@pytest.fixture(scope="module")
def browser():
    with chromium.chromium() as driver:
        yield driver


def answers(study: StudyFolder, participant: int) -> list[str]:
    query = "SELECT answer FROM trial WHERE participant = ? ORDER BY position"
    with closing(sqlite3.connect(study.answers_path)) as database:
        return [answer for (answer,) in database.execute(query, (participant,))]


@pytest.mark.parametrize("mishap", chromium.MISHAPS)
def test_whatever_happens_each_answer_counts_once(study, browser, mishap):
    def choose(picture: str | None, text: str) -> str:
        if picture is None:
            return "real" if "“Real”" in text else "fake"
        return "fake" if study.manifest.find_picture(picture).version == "koala" else "real"

    with served(study.path) as server:
        person = chromium.Person(browser, server.address, study.answers_path, choose, mishap)
        person.take_part()
        assert answers(study, 1) == person.given
        assert len(person.given) == 9
        assert answers(study, 2) == []
    with closing(sqlite3.connect(study.answers_path)) as database:
        assert database.execute("SELECT count(*) FROM trial WHERE time_ms BETWEEN 1 AND 20000").fetchone() == (9,)
    messages = [entry for entry in browser.get_log("browser") if "ERR_INTERNET_DISCONNECTED" not in entry["message"]]
    assert messages == [], "also no violation of the content security policy"


def test_thirty_people_and_the_planted_effect(study, browser):
    """Whatever happens to them, every answer is kept, and the report gives what they were made to think."""
    rng, chance = np.random.default_rng(0), {"original": 0.8, "koala": 0.25, "other": 0.6}
    given = {}

    def choose(picture: str | None, text: str) -> str:
        if picture is None:
            return "real" if "“Real”" in text else "fake"
        return "real" if rng.random() < chance[study.manifest.find_picture(picture).version] else "fake"

    with served(study.path) as server:
        for number in range(30):
            mishap = chromium.MISHAPS[number % len(chromium.MISHAPS)]
            person = chromium.Person(browser, server.address, study.answers_path, choose, mishap)
            person.take_part()
            given[number + 1] = person.given
    assert {participant: answers(study, participant) for participant in given} == given
    collected = read_study(study)
    found = Analysis(collected, collected, [], ReportStudy(draws=999)).comparisons
    rows = {(row["version"], row["other"]): row for row in found.to_dict("records")}
    for (version, other), row in rows.items():
        assert row["difference"] == pytest.approx(chance[version] - chance[other], abs=0.25)
    assert rows["koala", "original"]["high"] < 0
    assert rows["koala", "original"]["p_holm"] < 0.05


def test_without_javascript(study):
    with served(study.path) as server, chromium.chromium(javascript=False) as driver:
        person = chromium.Person(driver, server.address, study.answers_path, lambda *_: "real", "none")
        person.keyboard = False
        person.take_part()
        assert answers(study, 1) == ["real"] * 9


def test_a_picture_comes_before_it_is_asked_for(study, browser):
    """While one picture is judged the next is loaded."""
    with served(study.path) as server:
        person = chromium.Person(browser, server.address, study.answers_path, lambda *_: "real", "none")
        person.begin()
        following = person.find(".trial").get_attribute("data-next")
        if following:
            script = "return performance.getEntriesByType('resource').some(e => e.name.endsWith(arguments[0]))"
            person.wait_until(lambda: browser.execute_script(script, following))


def test_a_time_limit_passes(study, browser):
    path = study.path / "study.toml"
    path.write_text(path.read_text().replace("time_limit_s = 0.0", "time_limit_s = 0.4"))
    with served(study.path) as server:
        person = chromium.Person(browser, server.address, study.answers_path, lambda *_: "real", "none")
        person.begin()
        person.wait_for("Thank you!")
        assert answers(study, 1) == ["none"] * 9


@pytest.mark.parametrize(("width", "height"), [(360, 640), (640, 360), (1280, 800)])
def test_everything_fits_on_the_screen(study, browser, width, height):
    """No page is wider than the screen, and a picture to judge has its buttons below it without scrolling."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
    )
    inside = "return document.documentElement.scrollWidth <= innerWidth"
    with served(study.path) as server:
        browser.get(f"{server.address}/")
        assert browser.execute_script(inside)
        person = chromium.Person(browser, server.address, study.answers_path, lambda *_: "real", "none")
        person.begin()
        assert browser.execute_script(inside)
        for selector in (".trial img", "button[value=real]", "button[value=fake]"):
            place = person.find(selector).rect
            assert place["x"] >= 0
            assert place["y"] >= 0
            assert place["x"] + place["width"] <= width
            assert place["y"] + place["height"] <= height
        assert person.find("button[value=real]").rect["height"] >= 44, "as large as a finger"
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_screen_reader_has_names_for_everything(study, browser):
    with served(study.path) as server:
        person = chromium.Person(browser, server.address, study.answers_path, lambda *_: "real", "none")
        person.begin()
        tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        named = {(node["role"]["value"], node.get("name", {}).get("value")) for node in tree if not node.get("ignored")}
        wanted = {
            ("heading", "Picture 1 of 9"),
            ("image", "The picture to judge"),
            ("button", "Real"),
            ("button", "Fake"),
        }
        assert wanted <= named
        assert browser.execute_script("return document.activeElement.textContent") == "Picture 1 of 9"

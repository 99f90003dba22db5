"""People who take part in a study with a real Chromium, and to whom things happen."""

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISHAPS = ("none", "reload", "back", "double", "offline", "closed")
_KEYS = {"real": Keys.ARROW_LEFT, "fake": Keys.ARROW_RIGHT}


@contextmanager
def chromium(width: int = 1200, height: int = 850, javascript: bool = True) -> Iterator[webdriver.Chrome]:
    """A browser without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"):
        options.add_argument(word)
    options.add_argument("--lang=en")
    if not javascript:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


class Person:
    """Somebody in front of a browser.

    Args:
        driver: the browser; a visit of somebody else before is forgotten.
        address: of the study.
        answers: the study's database, which tells what is really shown.
        choose: given a picture's name in the study (None in a check) and the page's text, "real" or "fake".
        mishap: what happens to them on their way, one of `MISHAPS`.
    """

    def __init__(
        self,
        driver: webdriver.Chrome,
        address: str,
        answers: Path,
        choose: Callable[[str | None, str], str],
        mishap: str,
    ) -> None:
        self.driver, self.address, self.answers, self.choose, self.mishap = driver, address, answers, choose, mishap
        self.keyboard = True
        self.given: list[str] = []

    def take_part(self) -> None:
        """From the first page to the last."""
        self.begin()
        while self.heading() != "Thank you!":
            self.judge()

    def begin(self) -> None:
        """To the first picture that counts."""
        self.driver.get(f"{self.address}/")
        self.driver.delete_all_cookies()
        self.driver.get(f"{self.address}/")
        self.find("input[name=agree]").click()
        self.find("button").click()
        for name in ("expert", "color_vision"):
            self.find(f"input[name={name}]").click()
        self.find("button").click()
        self.wait_for("To practise")
        self._seen()
        self.find("button[value=fake]").click()
        self.wait_until(lambda: self.heading().startswith("Picture 1 "))
        self._seen()

    def judge(self) -> None:
        """One picture, with what happens to this person in the middle."""
        heading = self.heading()
        position = int(heading.split()[1])
        answer = self.choose(self.shown(position), self.find("#question").text)
        self.given.append(answer)
        self._seen()
        if position == 3 and self.mishap != "none":
            getattr(self, f"_{self.mishap}")(answer)
        elif position % 2 or not self.keyboard:
            self.find(f"button[value={answer}]").click()
        else:
            ActionChains(self.driver).send_keys(_KEYS[answer]).perform()
        self.wait_until(lambda: self.heading() != heading)

    def _reload(self, answer: str) -> None:
        self.driver.refresh()
        self._seen()
        self.find(f"button[value={answer}]").click()

    def _back(self, answer: str) -> None:
        heading = self.heading()
        self.driver.back()
        self.wait_for(heading)
        self._seen()
        self.find(f"button[value={answer}]").click()

    def _double(self, answer: str) -> None:
        ActionChains(self.driver).double_click(self.find(f"button[value={answer}]")).perform()

    def _offline(self, answer: str) -> None:
        self.driver.set_network_conditions(offline=True, latency=0, throughput=0)
        self.find(f"button[value={answer}]").click()
        self.wait_until(lambda: "no connection" in self.find("#status").text)
        self.driver.delete_network_conditions()

    def _closed(self, answer: str) -> None:
        old = self.driver.current_window_handle
        self.driver.switch_to.new_window("tab")
        new = self.driver.current_window_handle
        self.driver.switch_to.window(old)
        self.driver.close()
        self.driver.switch_to.window(new)
        self.driver.get(f"{self.address}/")
        self._seen()
        self.find(f"button[value={answer}]").click()

    def shown(self, position: int) -> str | None:
        """What the study shows this person at a position."""
        session = hashlib.sha256(self.driver.get_cookie("study")["value"].encode()).digest()
        query = "SELECT picture FROM trial JOIN participant ON id = participant WHERE session = ? AND position = ?"
        with closing(sqlite3.connect(self.answers)) as database:
            return database.execute(query, (session, position)).fetchone()[0]

    def find(self, selector: str):
        self.wait_until(lambda: self.driver.find_elements(By.CSS_SELECTOR, selector))
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def heading(self) -> str:
        """The page's heading; asked again where the page goes away meanwhile."""
        wait = WebDriverWait(self.driver, 20, 0.02, ignored_exceptions=(WebDriverException,))
        return wait.until(lambda driver: driver.find_element(By.CSS_SELECTOR, "h1").text)

    def wait_for(self, heading: str) -> None:
        self.wait_until(lambda: self.heading() == heading)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        WebDriverWait(self.driver, 20, 0.02).until(lambda _: condition())

    def _seen(self) -> None:
        """Wait until the picture is there, as people do."""
        self.wait_until(lambda: self.driver.find_elements(By.CSS_SELECTOR, ".trial button:enabled"))

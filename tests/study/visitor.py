"""Somebody who takes part in a study with a browser that has no JavaScript."""

from collections.abc import Callable
from html.parser import HTMLParser

REPLIES = {"expert": "no", "color_vision": "good"}


class Page(HTMLParser):
    """What is on a page.

    Attributes:
        text: all of it.
        action: where its form goes.
        fields: the form's hidden fields.
        picture: address of the picture, if there is one.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.action, self.fields, self.picture = text, None, {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "form":
            self.action = values["action"]
        elif tag == "input" and values.get("type") == "hidden":
            self.fields[values["name"]] = values["value"]
        elif tag == "img":
            self.picture = values["src"]


class Visitor:
    """One person.

    Args:
        client: anything with the `get` and `post` of httpx.
    """

    def __init__(self, client) -> None:
        self.client, self.page, self.url = client, None, None

    def open(self, address: str = "/") -> Page:
        """Open a page, and land wherever the study sends its visitor."""
        return self._see(self.client.get(address))

    def send(self, **fields: str) -> Page:
        """Send the page's form."""
        return self._see(self.client.post(self.url.join(self.page.action), data={**self.page.fields, **fields}))

    def look(self, picture: str | None = None) -> bytes:
        """A picture's bytes; by default that of the page."""
        return self.client.get(self.url.join(picture or self.page.picture)).content

    def begin(self, **replies: str) -> Page:
        """Come, agree, and say something about oneself; the practice is next."""
        self.open()
        self.send(agree="yes")
        return self.send(**{**REPLIES, **replies})

    def judge(self, answer: Callable[[str | None, str], str]) -> Page:
        """Go through to the end.

        Args:
            answer: given the address of a picture (or None in a check) and the page's text, "real" or "fake".
        """
        while self.page.action in ("practice", "answer"):
            self.send(answer=answer(self.page.picture, self.page.text))
        return self.page

    def _see(self, response) -> Page:
        assert response.status_code == 200, response.text
        self.page, self.url = Page(response.text), response.url
        return self.page


def attentive(answer: Callable[[str], str]) -> Callable[[str | None, str], str]:
    """Answers checks rightly, and pictures as it is told."""

    def answered(picture: str | None, text: str) -> str:
        if picture is None:
            return "real" if "press “Real”" in text else "fake"
        return answer(picture)

    return answered

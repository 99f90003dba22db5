"""The pages of a study, as a browser without JavaScript goes through them."""

import re

from tests.study.visitor import Visitor, attentive


def test_the_way_through(browser, site):
    person = Visitor(browser())
    assert "You are about to see photographs" in person.open().text
    assert "About you" in person.send(agree="yes").text
    assert "To practise" in person.send(expert="hobby", color_vision="good").text
    assert "Picture 1 of 9" in person.send(answer="fake").text
    page = person.judge(attentive(lambda picture: "real"))
    assert "Thank you!" in page.text
    assert re.search(r"You judged 4 of 8 pictures rightly", page.text), "half of them are originals"

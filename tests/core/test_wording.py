"""Numbers of things, as people say them."""

import pytest

from koala.core.wording import counted


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((1, "picture"), "1 picture"),
        ((0, "picture"), "0 pictures"),
        ((2, "process"), "2 processes"),
        ((1200, "person", "people"), "1,200 people"),
    ],
)
def test_numbers_of_things(given, said):
    assert counted(*given) == said

"""What a photograph says of itself is kept, and that it was coloured is added."""

import pytest

from koala import __version__
from koala.imaging.metadata import xmp_with_note
from tests.photographs import RDF, events, packet


def test_the_note_is_the_last_of_the_history():
    earlier = f'<rdf:li stEvt:action="created" stEvt:softwareAgent="Scanner" xmlns:rdf="{RDF}"/>'
    packed = xmp_with_note(packet(f"<xmpMM:History><rdf:Seq>{earlier}</rdf:Seq></xmpMM:History>"))
    assert [event["softwareAgent"] for event in events(packed)] == ["Scanner", f"koala {__version__}"]
    assert packed.count(b"<xmpMM:History>") == 1, "a property comes once"
    again = xmp_with_note(packed)
    assert [event["softwareAgent"] for event in events(again)] == ["Scanner", *[f"koala {__version__}"] * 2]


@pytest.mark.parametrize("broken", [b"", b"no packet", b"<x>", packet()[:700], b"<!DOCTYPE x []>" + packet()])
def test_packets_that_cannot_be_read_are_replaced(broken):
    assert [event["softwareAgent"] for event in events(xmp_with_note(broken))] == [f"koala {__version__}"]


def test_outdated_properties_are_dropped():
    packed = xmp_with_note(packet("<xmp:Thumbnails>grey</xmp:Thumbnails><tiff:Make>Leica</tiff:Make>"))
    assert b"Thumbnails" not in packed and b"Orientation" not in packed and b"Leica" in packed

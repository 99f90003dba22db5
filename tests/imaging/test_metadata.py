"""What a photograph says of itself is kept, and that it was coloured is added."""

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image, IptcImagePlugin
from PIL.PngImagePlugin import PngInfo

from koala import __version__
from koala.imaging.metadata import xmp_with_note
from koala.imaging.photo_io import Photo, decode_photo, encode_photo
from tests.photographs import RDF, encoded, events, jpeg, make_photo, packet


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


@pytest.mark.parametrize(
    "inside", ["<xmp:a>" * 3000 + "</xmp:a>" * 3000, "<xmp:a>" * 200_000, "<rdf:li>" * 101 + "</rdf:li>" * 101]
)
def test_packets_nested_without_end_are_replaced(inside):
    assert [event["softwareAgent"] for event in events(xmp_with_note(packet(inside)))] == [f"koala {__version__}"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_type_is_none_of_xmps(encoding):
    bomb = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE x [<!ENTITY a "{"ha" * 9}">]><x>&a;</x>'.encode(
        encoding
    )
    assert b"haha" not in xmp_with_note(bomb)


def test_an_outdated_property_around_everything_stays():
    """It is no property of the photo there: only children of a description are."""
    around = packet().replace(b"<rdf:RDF", b'<xmp:Thumbnails xmlns:xmp="http://ns.adobe.com/xap/1.0/"><rdf:RDF', 1)
    packed = xmp_with_note(around.replace(b"</rdf:RDF>", b"</rdf:RDF></xmp:Thumbnails>"))
    assert "Großmutter, 1936".encode() in packed
    assert len(events(packed)) == 1


# ---------------------------------------------------------------- IPTC, comments, texts

IPTC = (
    bytes.fromhex("1c025a00") + b"\4Kiev" + bytes.fromhex("1c0278000c") + b"Wedding 1932"
)  # city and caption, IIM 4.2


def resources(iptc: bytes) -> bytes:
    """Photoshop's: a resolution, a name of odd length, and IPTC."""
    blocks = ((0x03ED, b"", bytes(16)), (0x03F3, b"abc", b"odd"), (0x0404, b"", iptc))
    return b"".join(
        b"8BIM" + struct.pack(">HB", number, len(name)) + name + bytes((len(name) + 1) % 2)
        + struct.pack(">I", len(data)) + data + bytes(len(data) % 2)
        for number, name, data in blocks
    )  # fmt: skip


def with_segment(data: bytes, marker: int, payload: bytes) -> bytes:
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + data[2:]


def tiff_with(*tags: tuple) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((9, 9), np.uint8), metadata=None, extratags=tags)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        with_segment(jpeg(make_photo(0)), 0xED, b"Photoshop 3.0\0" + resources(IPTC)),
        tiff_with((33723, 7, len(IPTC), IPTC, True)),
        tiff_with((33723, 4, 7, np.frombuffer(IPTC.ljust(28, b"\0"), "<u4"), True)),
        tiff_with((34377, 1, len(resources(IPTC)), resources(IPTC), True)),
    ],
    ids=["JPEG", "TIFF", "TIFF as numbers", "TIFF of Photoshop"],
)
def test_iptc_is_kept_by_every_format_that_has_a_place_for_it(data):
    photo = decode_photo(data)
    assert photo.iptc.rstrip(b"\0") == IPTC
    for suffix in (".jpg", ".tif"):
        again = encode_photo(photo.pixels, photo, suffix)
        assert decode_photo(again).iptc.rstrip(b"\0") == IPTC
        assert IptcImagePlugin.getiptcinfo(Image.open(io.BytesIO(again)))[2, 120] == b"Wedding 1932", "Pillow finds it"
    text = Image.open(io.BytesIO(encode_photo(photo.pixels, photo, ".png"))).text["Raw profile type iptc"]
    assert bytes.fromhex("".join(text.split()[2:])).rstrip(b"\0") == IPTC, "as ImageMagick writes it"


def test_comments_of_jpegs_are_kept():
    """Byte by byte: nobody knows in what encoding they are."""
    comments = (b"Gro\xdfmutter", "Oma, 1936".encode("utf-16"))
    data = with_segment(with_segment(jpeg(make_photo(0)), 0xFE, comments[1]), 0xFE, comments[0])
    photo = decode_photo(data)
    assert photo.comments == comments
    assert decode_photo(encode_photo(photo.pixels, photo, ".jpg")).comments == comments


def test_a_gifs_comment_becomes_a_pngs_text():
    photo = decode_photo(encoded(make_photo(0), "GIF", comment="Großmutter".encode()))
    assert Image.open(io.BytesIO(encode_photo(photo.pixels, photo, ".png"))).text == {
        "Comment": "Großmutter", "XML:com.adobe.xmp": xmp_with_note(b"").decode()
    }  # fmt: skip


@pytest.mark.parametrize("bits", [8, 16])
def test_texts_of_pngs_are_kept(bits):
    """Of all three kinds, with their languages, and two of one name."""
    words = PngInfo()
    words.add_text("Title", "A wedding")
    words.add_text("Comment", "one")
    words.add_text("Comment", "another", zip=True)
    words.add_itxt("Description", "Größe", lang="de", tkey="Beschreibung", zip=True)
    words.add_itxt("XML:com.adobe.xmp", packet().decode())
    data = encoded(make_photo(0), "PNG", pnginfo=words)
    photo = decode_photo(data)
    assert len(photo.texts) == 4 and photo.xmp == packet()
    picture = photo.pixels if bits == 8 else photo.pixels * np.uint16(257)
    again = encode_photo(picture, photo, ".png")
    assert decode_photo(again).texts == photo.texts
    image = Image.open(io.BytesIO(again))
    assert image.text["Title"] == "A wedding" and image.text["Description"].lang == "de"
    assert again.count(b"XML:com.adobe.xmp") == 1


@pytest.mark.parametrize("broken", [resources(IPTC)[:-5], b"8BIM\4\4\0\0\xff\xff\xff\xff", b"8BIM"])
def test_resources_that_are_cut_off_harm_nothing(broken):
    assert decode_photo(tiff_with((34377, 1, len(broken), broken, True))).pixels.shape == (9, 9, 3)


def test_what_is_too_long_for_a_jpeg_is_left_out_of_it():
    photo = Photo(np.zeros((8, 8, 3), np.uint8), iptc=bytes(70_000), comments=(bytes(70_000), b"short"))
    again = decode_photo(encode_photo(photo.pixels, photo, ".jpg"))
    assert again.iptc == b"" and again.comments == (b"short",)

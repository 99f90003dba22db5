"""What a photograph's file says beside its pixels: EXIF, XMP, IPTC, resolution.

What cannot be read of it, whatever the reason, is left out: the pixels are fine.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any
from xml.dom import minidom
from xml.parsers import expat

from PIL import ExifTags, Image

from koala.core.version import __version__

ORIENTATION = int(ExifTags.Base.Orientation)  # 1 is upright
XMP_TAG, IPTC_TAG, RESOURCES_TAG = int(ExifTags.Base.XMLPacket), 33723, 34377  # in TIFFs; the last are Photoshop's

_Tag = ExifTags.Base
_WORDS = (  # what EXIF's first directory says of the photo, not of how its file is made
    *(_Tag.ImageDescription, _Tag.DocumentName, _Tag.PageName, _Tag.Make, _Tag.Model, _Tag.Software, _Tag.HostComputer),
    *(_Tag.DateTime, _Tag.Artist, _Tag.Copyright, _Tag.Rating, _Tag.RatingPercent),
    *(_Tag.XPTitle, _Tag.XPComment, _Tag.XPAuthor, _Tag.XPKeywords, _Tag.XPSubject),
)
_INCH, _CENTIMETRE = 2, 3  # EXIF's and TIFF's units of resolution

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_MEDIA = "http://ns.adobe.com/xap/1.0/mm/"
_NOTE = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">
<rdf:Description xmlns:rdf="{_RDF}" xmlns:xmpMM="{_MEDIA}" rdf:about=""><xmpMM:History><rdf:Seq>
<rdf:li xmlns:rdf="{_RDF}" xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#" stEvt:action="edited"
 stEvt:softwareAgent="koala {__version__}"
 stEvt:parameters="coloured by software: the colours are a neural network's guess"/>
</rdf:Seq></xmpMM:History></rdf:Description></rdf:RDF></x:xmpmeta>"""
_OUTDATED = (  # properties that were true of the photo before it was turned, converted and coloured
    ("http://ns.adobe.com/tiff/1.0/", "Orientation"),
    ("http://ns.adobe.com/exif/1.0/", "ColorSpace"),
    ("http://ns.adobe.com/photoshop/1.0/", "ColorMode"),
    ("http://ns.adobe.com/photoshop/1.0/", "ICCProfile"),
    ("http://ns.adobe.com/xap/1.0/", "Thumbnails"),
)

_MOST_NESTED = 100  # elements of XMP in each other; honest ones have some ten

_RESOURCE, _IPTC = b"8BIM", 0x0404  # Photoshop's image resources, and the one that is IPTC's


def exif_of(image: Image.Image) -> Image.Exif:
    """A picture's EXIF; none where it is damaged, which is taken away: the pixels are fine."""
    try:
        return image.getexif()
    except Exception:
        image.info.pop("exif", None)
        return Image.Exif()


def add_orientation(exif: Image.Exif, xmp: bytes) -> None:
    """Take XMP's orientation where EXIF has none, as Pillow does when it reads a file itself."""
    if ORIENTATION not in exif and (found := re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)):
        exif[ORIENTATION] = int(found[1])


def orientation_of(exif: Image.Exif) -> int:
    """EXIF's orientation, 1 to 8; 1, upright, where it does not say one of these."""
    found = exif.get(ORIENTATION, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def updated_exif(exif: Image.Exif, width: int, height: int) -> bytes:
    """What EXIF says of a photo, now that it is upright, in sRGB, and without a thumbnail.

    Args:
        exif: as the file has it.
        width: of the upright photo, in pixels.
        height: of the upright photo, in pixels.

    Returns:
        EXIF as Pillow takes it; empty where there is none that can be read.
    """
    try:
        kept = _words(exif)
        if shot := kept.get(ExifTags.IFD.Exif):
            shot.pop(_Tag.ExifInteroperabilityOffset, None)  # may speak of Adobe RGB
            now = {_Tag.ColorSpace: 1, _Tag.ExifImageWidth: width, _Tag.ExifImageHeight: height}
            shot |= {tag: value for tag, value in now.items() if tag in shot}
        return kept.tobytes() if kept else b""
    except Exception:
        return b""


def exif_with_resolution(exif: bytes, dpi: tuple[float, float] | None) -> Image.Exif:
    """What EXIF says of a photo, with its dots per inch along x and y."""
    found = Image.Exif()
    found.load(exif)
    words = _words(found)
    if dpi:
        words.update({_Tag.XResolution: dpi[0], _Tag.YResolution: dpi[1], _Tag.ResolutionUnit: _INCH})
    return words


def _words(exif: Image.Exif) -> Image.Exif:
    """What EXIF says of a photo, without how its file is made."""
    words = Image.Exif()
    words.update({tag: _text(exif[tag]) for tag in _WORDS if tag in exif})
    for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if values := {tag: _text(value) for tag, value in exif.get_ifd(directory).items()}:
            words[directory] = values
    return words


def _text(value: Any) -> Any:
    """A value of EXIF with its own bytes: Pillow reads them as Latin 1 and writes ASCII, and many are UTF-8."""
    return value.encode("latin-1") if isinstance(value, str) and not value.isascii() else value


def resolution(exif: Image.Exif, info: dict[Any, Any]) -> tuple[float, float] | None:
    """Dots per inch along x and y, as Pillow's `info` of the format says or else EXIF, where they make sense."""
    try:
        x, y = info.get("dpi") or (exif[_Tag.XResolution], exif[_Tag.YResolution])
        per_inch = 1 if "dpi" in info else {_INCH: 1, _CENTIMETRE: 2.54}[exif.get(_Tag.ResolutionUnit, _INCH)]
        dpi = round(float(x) * per_inch, 2), round(float(y) * per_inch, 2)
    except Exception:
        return None
    return dpi if all(1 < value < 100_000 for value in dpi) else None


def xmp_with_note(xmp: bytes) -> bytes:
    """An XMP packet that says in its history that koala coloured the photo; what else it said stays.

    Args:
        xmp: a packet; one that is empty or cannot be read is replaced.

    References:
        ISO 16684-1:2019 (XMP); XMP Specification Part 2, xmpMM:History and ResourceEvent.
    """
    try:
        packet = _noted(xmp)
    except Exception:
        packet = minidom.parseString(_NOTE)
    text = packet.documentElement.toxml()  # type: ignore[union-attr]
    return f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n{text}\n<?xpacket end="w"?>'.encode()


def _noted(xmp: bytes) -> minidom.Document:
    """A packet's tree with the note.

    Raises:
        Exception: it is no packet.
    """
    xmp = xmp.strip(b"\0 \r\n\t")
    _check_nesting(xmp)
    packet, note = minidom.parseString(xmp), minidom.parseString(_NOTE)
    rdf = packet.getElementsByTagNameNS(_RDF, "RDF")[0]
    _drop_outdated(rdf)
    events = [
        event
        for history in rdf.getElementsByTagNameNS(_MEDIA, "History")
        for event in history.getElementsByTagNameNS(_RDF, "Seq")
    ]
    new = note.getElementsByTagNameNS(_RDF, "li" if events else "Description")[0]
    (events or [rdf])[0].appendChild(packet.importNode(new, deep=True))
    return packet


def _check_nesting(xml: bytes) -> None:
    """Refuse what attacks readers of XML: elements nested without end, and a document type, which no XMP has.

    Raises:
        ValueError: it has them.
        expat.ExpatError: it is no XML.
    """
    depth = 0

    def open_element(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > _MOST_NESTED:
            raise ValueError("nested too deeply")

    def close_element(_: object) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*_: object) -> None:
        raise ValueError("it has a document type")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = open_element, close_element
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(xml, True)


def _drop_outdated(rdf: minidom.Element) -> None:
    """Take properties away that hold no longer: attributes and children of descriptions."""
    for description in rdf.getElementsByTagNameNS(_RDF, "Description"):
        for namespace, name in _OUTDATED:
            if description.hasAttributeNS(namespace, name):
                description.removeAttributeNS(namespace, name)
            for element in description.getElementsByTagNameNS(namespace, name):
                if element.parentNode is description:
                    description.removeChild(element)


# ---------------------------------------------------------------- IPTC


def iptc_of_jpeg(info: dict[Any, Any]) -> bytes:
    """IPTC's records (IIM), from what Pillow found in a JPEG; empty where there are none."""
    found = (info.get("photoshop") or {}).get(_IPTC, b"")
    return found if isinstance(found, bytes) else b""


def iptc_of_tiff(tags: Mapping[int, bytes]) -> bytes:
    """IPTC's records (IIM), from the bytes of their own tag of a TIFF or of Photoshop's; empty where there are none."""
    try:
        return tags.get(IPTC_TAG) or dict(_resources(tags.get(RESOURCES_TAG, b""))).get(_IPTC, b"")
    except struct.error:
        return b""


def jpeg_segments(iptc: bytes, comments: tuple[bytes, ...], room: int) -> bytes:
    """The segments of a JPEG that hold IPTC and comments; without those that are longer than `room` bytes."""
    resource = _RESOURCE + struct.pack(">HHI", _IPTC, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)
    segments = [(0xED, b"Photoshop 3.0\0" + resource)] if iptc else []
    segments += [(0xFE, comment) for comment in comments]
    return b"".join(
        struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload
        for marker, payload in segments
        if len(payload) <= room
    )


def png_texts(iptc: bytes, comments: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes]]:
    """The kind and payload of a PNG's chunks that hold IPTC, as ImageMagick and ExifTool do it, and comments."""
    if iptc:
        lines = [iptc.hex()[at : at + 72] for at in range(0, 2 * len(iptc), 72)]
        text = "\n".join(["", "iptc", f"{len(iptc):8}", *lines, ""])
        yield b"tEXt", b"Raw profile type iptc\0" + text.encode()
    for comment in comments:
        yield b"iTXt", b"Comment\0\0\0\0\0" + comment.decode("utf-8", "replace").encode()


def _resources(block: bytes) -> Iterator[tuple[int, bytes]]:
    """Photoshop's image resources: a number, a name, and what they hold."""
    at = 0
    while block[at : at + 4] == _RESOURCE:
        (number,) = struct.unpack_from(">H", block, at + 4)
        at += 6 + (block[at + 6] + 2) // 2 * 2  # the name and its length, made even
        (length,) = struct.unpack_from(">I", block, at)
        yield number, block[at + 4 : at + 4 + length]
        at += 4 + length + length % 2

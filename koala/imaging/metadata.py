"""What a photograph's file says beside its pixels: EXIF, XMP, resolution."""

import struct
from typing import Any
from xml.dom import minidom
from xml.parsers.expat import ExpatError

from PIL import ExifTags, Image

from koala.core.version import __version__

ORIENTATION = int(ExifTags.Base.Orientation)  # 1 is upright

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

_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, struct.error)  # Pillow's, on EXIF


def exif_of(image: Image.Image) -> Image.Exif:
    """A picture's EXIF; none where it is damaged, which is taken away: the pixels are fine."""
    try:
        return image.getexif()
    except _DAMAGED:
        image.info.pop("exif", None)
        return Image.Exif()


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
    except _DAMAGED:
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
    except _DAMAGED:
        return None
    return dpi if all(1 < value < 100_000 for value in dpi) else None


def xmp_with_note(xmp: bytes) -> bytes:
    """An XMP packet that says in its history that koala coloured the photo; what else it said stays.

    Args:
        xmp: a packet; one that is empty or cannot be read is replaced.

    References:
        ISO 16684-1:2019 (XMP); XMP Specification Part 2, xmpMM:History and ResourceEvent.
    """
    note = minidom.parseString(_NOTE)
    packet = _parsed(xmp) or note
    _drop_outdated(packet)
    if packet is not note:
        rdf = packet.getElementsByTagNameNS(_RDF, "RDF")[0]
        events = [
            event
            for history in packet.getElementsByTagNameNS(_MEDIA, "History")
            for event in history.getElementsByTagNameNS(_RDF, "Seq")
        ]
        new = note.getElementsByTagNameNS(_RDF, "li" if events else "Description")[0]
        (events or [rdf])[0].appendChild(packet.importNode(new, deep=True))
    text = packet.documentElement.toxml()  # type: ignore[union-attr]
    return f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n{text}\n<?xpacket end="w"?>'.encode()


def _parsed(xmp: bytes) -> minidom.Document | None:
    """A packet's tree, if it is one."""
    if b"<!DOCTYPE" in xmp:  # no XMP has one, but attacks on XML readers do
        return None
    try:
        packet = minidom.parseString(xmp.strip(b"\0 \r\n\t"))
    except (ExpatError, ValueError):
        return None
    return packet if packet.getElementsByTagNameNS(_RDF, "RDF") else None


def _drop_outdated(packet: minidom.Document) -> None:
    for namespace, name in _OUTDATED:
        for description in packet.getElementsByTagNameNS(_RDF, "Description"):
            if description.hasAttributeNS(namespace, name):
                description.removeAttributeNS(namespace, name)
        for element in packet.getElementsByTagNameNS(namespace, name):
            element.parentNode.removeChild(element)  # type: ignore[union-attr]

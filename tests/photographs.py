"""Small photographs, made here."""

import io
from xml.dom import minidom

import numpy as np
from PIL import Image, ImageCms

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
EVENT = "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"


def make_photo(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    """A smooth, colourful picture: random colours on a coarse grid, enlarged."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def swapped_profile() -> bytes:
    """sRGB's profile with red and blue exchanged, and another name."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {
        bytes(data[at : at + 4]): int.from_bytes(data[at + 4 : at + 8], "big")
        for at in range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12)
    }
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    data[red : red + 20], data[blue : blue + 20] = data[blue : blue + 20], data[red : red + 20]
    return bytes(data).replace("sRGB".encode("utf-16-be"), "Swap".encode("utf-16-be")).replace(b"sRGB", b"Swap")


def packet(inside: str = "") -> bytes:
    """As editors write it, with the tool's name, what is outdated when the photo is upright, and padding."""
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about=""
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
 xmlns:stEvt="{EVENT}" xmp:CreatorTool="Adobe Photoshop 21.0" tiff:Orientation="6">
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">Großmutter, 1936</rdf:li></rdf:Alt></dc:title>{inside}
</rdf:Description></rdf:RDF></x:xmpmeta>
{" " * 2000}
<?xpacket end="w"?>""".encode()


def events(xmp: bytes) -> list[dict[str, str]]:
    """The history of an XMP packet."""
    return [
        {name: element.getAttributeNS(EVENT, name) for name in ("action", "softwareAgent", "parameters")}
        for element in minidom.parseString(xmp.strip(b"\0")).getElementsByTagNameNS(RDF, "li")
        if element.hasAttributeNS(EVENT, "softwareAgent")
    ]

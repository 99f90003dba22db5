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


def scene(seed: int) -> np.ndarray:
    """Lightness of a picture with light and shade, `(150, 200)` in 0..100."""
    grey = np.asarray(make_photo(seed, 200, 150).convert("L"), np.float64)
    grain = np.random.default_rng(seed).normal(0, 2, grey.shape)
    return ((grey - grey.min()) / np.ptp(grey) * 90 + 5 + grain).clip(0, 100)


def drawn_sea(seed: int, height: int = 200, width: int = 300) -> np.ndarray:
    """A blue sea with waves and foam under a blue sky, `(H, W, 3)` uint8: light colours of one hue over dark ones."""
    random = np.random.default_rng(seed)
    sky, horizon = random.integers((60, 120, 190), (120, 170, 230)), random.integers((150, 190, 220), (210, 225, 245))
    trough, crest = random.integers((0, 40, 90), (40, 90, 140)), random.integers((50, 120, 160), (110, 170, 210))
    rows = int(height * random.uniform(0.25, 0.6))
    down, across = np.mgrid[: height - rows, :width]
    near = down / len(down)
    waves = [
        random.uniform(0.3, 1)
        * np.sin(across / random.uniform(3, 20) + down / random.uniform(2, 8) * (1 + near) + random.uniform(0, 6))
        for _ in range(8)
    ]
    wave = (sum(waves) - np.min(sum(waves))) / np.ptp(sum(waves))
    sea = trough + (crest - trough) * (0.6 * wave + 0.4 * (1 - near))[..., None]
    sea[wave > random.uniform(0.85, 0.97)] = (235, 242, 245)
    air = np.broadcast_to(sky + (horizon - sky) * np.linspace(0, 1, rows)[:, None, None], (rows, width, 3))
    picture = np.concatenate([air, sea]) + random.normal(0, 2, (height, width, 3))
    return picture.clip(0, 255).round().astype(np.uint8)


# colours of black and of white, sRGB; between them a straight ramp
TONES = {
    "sepia": ((45, 25, 10), (250, 235, 205)),
    "strong sepia": ((30, 10, 0), (255, 215, 150)),
    "faded sepia": ((60, 45, 35), (235, 215, 185)),
    "yellowed": ((50, 45, 40), (225, 218, 195)),
    "cyanotype": ((5, 25, 65), (235, 245, 250)),
    "blueprint": ((0, 30, 90), (200, 225, 255)),
    "selenium": ((30, 20, 40), (245, 235, 240)),
}
# what image editors call sepia multiplies grey by the sums of its matrix's rows, and cuts off what is too light
SEPIA_FILTER = "sepia filter", (0.393 + 0.769 + 0.189, 0.349 + 0.686 + 0.168, 0.272 + 0.534 + 0.131)


def toned(grey: np.ndarray, tone: str, quality: int = 0, noise: float = 2.0) -> np.ndarray:
    """`(H, W)` uint8 greys toned, with noise of some levels, and through a JPEG of this quality if one is given."""
    if tone == SEPIA_FILTER[0]:
        rgb = np.minimum(grey[..., None] * np.array(SEPIA_FILTER[1]), 255)
    else:
        black, white = np.array(TONES[tone], np.float64)
        rgb = black + (white - black) * grey[..., None] / 255
    rgb += np.random.default_rng(0).normal(0, noise, rgb.shape)
    picture = Image.fromarray(rgb.clip(0, 255).round().astype(np.uint8))
    return np.asarray(Image.open(io.BytesIO(jpeg(picture, quality=quality))) if quality else picture)

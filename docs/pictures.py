"""Makes the pictures of README and gallery: the built-in model on photographs that it never saw.

    python docs/pictures.py

The photographs come in packages of the extra "demo". Each becomes grey first; the model sees nothing else of it.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import koala
from koala.imaging import contact_sheet

HERE = Path(__file__).parent
MVTB, SKIMAGE, SKLEARN = ("mvtbdata", "images"), ("skimage", "data"), ("sklearn", "datasets/images")
COLUMNS = ("grey", "koala", "original")
SIZE = (198, 148)  # of a picture on a sheet

README = (
    *((MVTB, "eiffel-2.png"), (SKIMAGE, "chelsea.png"), (SKLEARN, "china.jpg")),
    *((SKIMAGE, "coffee.png"), (SKLEARN, "flower.jpg"), (MVTB, "road.png")),
)
SHEETS = {
    "good": ((MVTB, "eiffel-1.png"), (SKLEARN, "china.jpg"), (MVTB, "road.png")),
    "pale": ((SKIMAGE, "coffee.png"), (SKIMAGE, "astronaut.png"), (MVTB, "walls-l.png"), (SKIMAGE, "chelsea.png")),
    "wrong": (
        (MVTB, "rocks2-l.png"),
        (SKLEARN, "flower.jpg"),
        (MVTB, "tomato_35.png"),
        (MVTB, "flowers5.png"),
        (MVTB, "parks.png"),
    ),
}


def row(package: str, folder: str, name: str, model: koala.PretrainedColorizer) -> np.ndarray:
    """A photograph in each column: `(3, H, W, 3)`."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, f"{package} is in the extra demo"
    photo = Image.open(Path(spec.origin).parent / folder / name).convert("RGB")
    grey = photo.convert("L")
    made = (grey.convert("RGB"), Image.fromarray(koala.colorize(np.asarray(grey), model)), photo)
    return np.stack([np.asarray(ImageOps.fit(image, SIZE)) for image in made])


def main() -> None:
    """Make all sheets."""
    model = koala.load_model()
    for name, photos in SHEETS.items():
        rows = np.stack([row(*place, file, model) for place, file in photos], axis=1)
        save(contact_sheet.contact_sheet(rows, COLUMNS), name)
    rows = np.stack([row(*place, file, model) for place, file in README], axis=1)
    halves = np.concatenate(np.split(rows, 2, axis=1))  # two photographs beside each other
    save(contact_sheet.contact_sheet(halves, COLUMNS * 2), "built-in-model")


def save(sheet: Image.Image, name: str) -> None:
    """Write a sheet among the documentation's pictures."""
    contact_sheet.save_image(sheet, HERE / "images" / f"{name}.jpg", quality=70)


if __name__ == "__main__":
    main()

"""The main job on an embedded default: photographs -> shards -> training -> scores -> coloured pictures.

Nothing is fetched: the photographs come in packages of the extra "demo".
"""

import importlib.util
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from koala.config.data import ShardRecipe, WriteShards
from koala.config.demo import DemoSettings
from koala.config.evaluation import EvaluateSettings
from koala.config.inference import ColorizeSettings
from koala.config.load import load_toml
from koala.config.training import TrainSettings
from koala.core.devices import on_cpu, supports_bf16
from koala.core.templates import template_path as kit_path
from koala.data import shard_writer, shards
from koala.evaluation import evaluate
from koala.imaging import contact_sheet, photo_io
from koala.inference import batch
from koala.models import checkpoint
from koala.training import trainer

# package, folder in it, photographs (or patterns), licence
PHOTOGRAPHS = (
    (
        "mvtbdata",
        "images",
        (
            *(f"flowers{number}.png" for number in range(1, 9)),
            *("butterfly.jpg", "church.jpg", "eiffel-1.png", "monalisa.png", "notre-dame.png"),
            *("58060.png", "building2-3.png", "parks.png", "tomato_54.png", "campus/P*.png"),
        ),
        "mvtb-data by Peter Corke, MIT",
    ),
    (
        "skimage",
        "data",
        ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"),
        "scikit-image, CC0 or public domain",
    ),
    (
        "sklearn",
        "datasets/images",
        ("china.jpg", "flower.jpg"),
        "scikit-learn, by danielbuechele and vultilion, CC BY 2.0",
    ),
)
_COLUMNS = ("grey", "learnt here", "built-in model", "original")
_SHEET_ROWS = 10  # of photographs that were trained on; those held out come below
_THUMBNAIL = (240, 180)  # width, height


def demo(settings: DemoSettings) -> int:
    """`koala demo`: do it all, and name what was made.

    Returns:
        0 when it is done, 128 + the signal's number when training was interrupted.

    Raises:
        UserError: NVIDIA DALI is not installed, or the folder cannot be used.
    """
    began = time.monotonic()
    folder = settings.dir
    count = gather_photographs(folder / "photos")
    print(f"{count} photographs from {'; '.join(licence for *_, licence in PHOTOGRAPHS)}")
    recipe = load_toml(ShardRecipe, kit_path("shards/demo.toml"))
    shard_writer.write_command(WriteShards(folder / "photos", folder / "shards", recipe))
    run = _run(folder)
    if code := trainer.train(run, "the same koala demo command"):
        return code
    newest = checkpoint.latest_checkpoint(folder / "run" / "checkpoints")
    assert newest is not None
    for split in shards.SPLITS:
        print(f"\nScores on the photographs {'trained on' if split == 'train' else 'held out'}:")
        evaluate.evaluate(
            EvaluateSettings(
                newest.path,
                folder / "shards",
                out=folder / "evaluation" / split,
                split=split,
                mixed_precision=run.mixed_precision,
            )
        )
    for name, model in (("colored", newest.path), ("built-in", None)):
        batch.colorize_command(ColorizeSettings((folder / "photos",), folder / name, model, recolor=True))
    held_out = shards.Shards.open(folder / "shards", "val")
    _write_sheet(folder, held_out.sources())
    print(_farewell(folder, len(held_out), time.monotonic() - began))
    return 0


def gather_photographs(folder: Path) -> int:
    """Copy the photographs out of the packages of the extra "demo" that carry them, and count them."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for package, inside, names, _ in PHOTOGRAPHS:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None, f"the command line looks for {package}"
        for source in (found for name in names for found in (Path(spec.origin).parent / inside).glob(name)):
            shutil.copyfile(source, folder / source.name)
            count += 1
    return count


def _run(folder: Path) -> TrainSettings:
    """The demo's training; a CPU without bf16 gets half the epochs, to end in time."""
    run = load_toml(TrainSettings, kit_path("launch/demo.toml"))
    run = replace(run, data=replace(run.data, shards=folder / "shards"), run=folder / "run")
    if supports_bf16(on_cpu(run.device, run.mixed_precision)):
        return replace(run, mixed_precision="bf16")
    return replace(run, epochs=run.epochs / 2)


def _write_sheet(folder: Path, held_out: list[str]) -> None:
    """Lay photographs out in columns: some that were trained on, then those held out."""
    names = sorted(path.name for path in (folder / "photos").iterdir())
    trained = [name for name in names if name not in held_out]
    chosen = [*trained[:: -(-len(trained) // _SHEET_ROWS)], *held_out]
    columns = np.stack([_row(folder, Path(name)) for name in chosen], axis=1)
    contact_sheet.save_image(contact_sheet.contact_sheet(columns, _COLUMNS), folder / "sheet.png")


def _row(folder: Path, name: Path) -> NDArray[np.uint8]:
    """One photograph in each column: `(4, H, W, 3)`."""
    original = _thumbnail(folder / "photos" / name)
    made = (
        _thumbnail(folder / place / name.with_suffix(photo_io.suffix_for(name))) for place in ("colored", "built-in")
    )
    return np.stack([np.asarray(image) for image in (original.convert("L").convert("RGB"), *made, original)])


def _thumbnail(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.fit(image.convert("RGB"), _THUMBNAIL)


def _farewell(folder: Path, held_out: int, seconds: float) -> str:
    return f"""
In {seconds:.0f} s koala made:
  {folder}/sheet.png          grey | learnt here | built-in model | original
  {folder}/colored/           the photographs in the colours that were learnt here, at their own size
  {folder}/built-in/          the same by the built-in model, which has seen none of them
  {folder}/evaluation/        scores and pictures, of the photographs trained on and of those held out
  {folder}/run/checkpoints/   the network, for koala evaluate and koala colorize
  {folder}/run/               for tensorboard --logdir {folder}/run

These few photographs are learnt by heart: that shows that all of it works, not that this network can colour other
photographs. The last {held_out} rows of the sheet were held out, and neither network has seen them.

Next, your own: koala colorize PHOTO --out colored"""

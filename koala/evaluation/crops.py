"""`koala shards export`: the pictures that a protocol judges, for another colouriser.

OUT/NAME.png      each photo cut and resized as it is judged, without padding, under its source's name
OUT/crops.json    of which photos and which protocol they are
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from koala.config.data import DataSettings
from koala.config.evaluation import ExportCrops
from koala.core.atomic_io import write_atomic
from koala.core.distributed import open_accelerator
from koala.core.errors import UserError
from koala.core.progress import Progress
from koala.core.wording import counted
from koala.data.loader import Batch, load_batches
from koala.data.sampler import SamplePositions
from koala.data.shards import Shards
from koala.evaluation import protocol
from koala.evaluation.components import images_sha256, open_photos
from koala.evaluation.measuring import picture_name
from koala.evaluation.predictions import evaluation_window, true_photos
from koala.imaging import contact_sheet

_BATCH = 32  # photos at a time


def export_command(settings: ExportCrops) -> int:
    """`koala shards export`: write what is not there yet.

    Returns:
        0.

    Raises:
        UserError: shards or protocol are not whole, or do not fit together, or OUT holds other crops.
    """
    rules = protocol.choose_images(protocol.find_protocol(settings.protocol), settings.ids, settings.limit)
    with open_accelerator("cpu", "no") as accelerator:
        photos = open_photos(settings.shards, settings.split, rules.ids, settings.filter, rules.name, accelerator)
    hashes, judged = asdict(protocol.protocol_hashes(rules)), images_sha256(settings.shards, settings.split, photos)
    facts = {"protocol": rules.name, **hashes, "photos": judged, "grey": settings.grey}
    _begin(settings.out, json.dumps(facts, indent=1) + "\n")
    paths = [settings.out / picture_name(source) for source in photos.sources()]
    left = np.array([sample for sample, path in enumerate(paths) if not path.exists()], np.int64)
    data = DataSettings(settings.shards, rules.geometry, rules.size, rules.lightness, settings.threads, decoder="cpu")
    with Progress(len(paths), "writing pictures", start=len(paths) - len(left)) as progress:
        for batch in _batches(photos, left, data):
            _write(batch, paths, photos, data, settings.grey)
            progress.advance(len(batch.ab))
    print(f"{settings.out}: {counted(len(paths), 'picture')} of the protocol {rules.name}")
    return 0


def _begin(out: Path, facts: str) -> None:
    """Refuse a folder with other crops, and say what is in this one."""
    path = out / "crops.json"
    if path.exists() and path.read_text() != facts:
        raise UserError(f"{out} holds crops of another protocol or of other photos; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(path, facts.encode())


def _batches(photos: Shards, samples: NDArray[np.int64], data: DataSettings) -> Iterator[Batch]:
    parts = (samples[start : start + _BATCH] for start in range(0, len(samples), _BATCH))
    places = (SamplePositions(part, np.zeros_like(part)) for part in parts)
    return load_batches(photos, places, data, "cpu", batch=_BATCH, with_rgb=True)


def _write(batch: Batch, paths: Sequence[Path], photos: Shards, data: DataSettings, grey: bool) -> None:
    """Write the pictures of a batch, without their padding."""
    shown = contact_sheet.lightness_to_rgb(batch.lightness) if grey else true_photos(batch)
    for square, sample in zip(shown.permute(0, 2, 3, 1).cpu().numpy(), batch.samples, strict=True):
        picture = Image.fromarray(square[evaluation_window(photos, int(sample), data)])
        contact_sheet.save_image(picture.convert("L") if grey else picture, paths[sample])

"""Coloured pictures x validation shards -> scores, pictures, a page that shows them.

What is scored, on which images and how, is the protocol's (`koala.evaluation.protocol`). Pictures are compared in 8-bit
sRGB: the photo in the protocol's geometry against predicted ab joined with the L* that the protocol names.

Each process scores whole batches and keeps what it measured of each in a file of its own; the first process puts them
together. So an interrupted evaluation resumes where it stopped, memory does not grow with the number of pictures, and
scores do not depend on the number of processes.

    OUT/scores.json       scores, intervals, what was left out and why, the protocol, all hashes; written last
    OUT/per_image.csv     the measures of each picture
    OUT/convincing.txt    pictures' names, those first that could best pass for photos (`scoring.rank_by_realism`)
    OUT/report.html       all of it on a page
    OUT/sheet.png         the first pictures: grey, coloured, original
    OUT/protocol.toml     the protocol, to judge others by
    OUT/pictures/         coloured pictures under the images' names
"""

import hashlib
import json
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from accelerate import Accelerator

from koala.config.evaluation import EvaluateSettings
from koala.core import terminal
from koala.core.distributed import dali_device, on_main_process, open_accelerator, wait_for_all
from koala.core.folder_lock import lock_folder
from koala.core.version import __version__
from koala.evaluation import protocol, results, summary, text_report
from koala.evaluation.baselines import MeanColor
from koala.evaluation.components import Components, build_components, images_sha256
from koala.evaluation.folder_pictures import FolderPictures
from koala.evaluation.measuring import Measuring
from koala.evaluation.partial_results import PartialResults

_BATCHES = {"gpu": 128, "cpu": 32}  # images at a time
_WRITTEN = ("report.html", "scores.json", "per_image.csv", "convincing.txt", "sheet.png", "pictures")


def evaluate(settings: EvaluateSettings, constant: MeanColor | None = None) -> int:
    """`koala evaluate`: score every image once, on any number of processes, and write what is seen of it.

    Args:
        settings: what is judged, and how.
        constant: the baseline's colour; by default it is found as the settings say.

    Returns:
        0.

    Raises:
        UserError: checkpoint, shards or protocol are not whole, or do not fit together.
    """
    with open_accelerator(settings.device, settings.mixed_precision) as accelerator:
        components = build_components(settings, accelerator, constant)
        Evaluation(settings, components, accelerator).run()
        if accelerator.is_main_process:
            colored = terminal.has_colors(sys.stdout)
            print("\n".join(text_report.lines(results.read_scores(components.out), colored)))
            written = ", ".join(name for name in _WRITTEN if (components.out / name).exists())
            print(f"{components.out}: {written}")
    return 0


class Evaluation:
    """An evaluation from its parts to what it leaves.

    Args:
        settings: how much of it is written, and how many images are judged at a time.
        components: what it is made of.
        accelerator: processes and device.
    """

    def __init__(self, settings: EvaluateSettings, components: Components, accelerator: Accelerator) -> None:
        batch = settings.batch_size or _BATCHES[dali_device(accelerator)]
        self._settings = replace(settings, batch_size=batch)
        self._components, self._accelerator = components, accelerator
        self._kept = PartialResults(components.out / "parts")
        self.measuring = Measuring(
            components,
            self._kept,
            accelerator,
            batch=batch,
            threads=settings.threads,
            pictures=_picture_count(settings.pictures, components),
        )

    def run(self) -> None:
        """Measure what is not measured yet, put it together, and write it; what is whole is left alone."""
        with ExitStack() as held:
            if on_main_process(self._accelerator, lambda: self._begin(held)):
                if self._accelerator.is_main_process:
                    print(f"{self._components.out} holds this evaluation already")
                return
            self.measuring.run()
            wait_for_all(self._accelerator)
            on_main_process(self._accelerator, self._finish)

    def _begin(self, held: ExitStack) -> bool:
        """See what is there already, and hold the folder while the rest is made; for the first process.

        Returns:
            Whether all of it is there.
        """
        out, settings, skipped = self._components.out, self._settings, self._components.judges.skipped
        wanted = {"pictures": settings.pictures, "sheet_rows": settings.sheet_rows, "left_out": skipped}
        self._facts = provenance(settings, self._components)
        self._facts["key"] = hashlib.sha256(json.dumps({**self._facts, **wanted}).encode()).hexdigest()
        if results.read_scores(out).get("key") == self._facts["key"]:
            return True
        held.enter_context(lock_folder(out, "koala evaluate"))
        (out / "scores.json").unlink(missing_ok=True)
        self._kept.begin(self._facts["key"])
        return False

    def _finish(self) -> None:
        """Put the parts together and write all that there is to see; for the first process."""
        judges, images = self._components.judges, self._components.images
        measures = summary.gather(self._kept, images, judges.features, self._settings.batch_size)
        summary.write(self._components, measures, self.measuring, self._facts, self._settings.sheet_rows)
        self._kept.remove()


def provenance(settings: EvaluateSettings, components: Components) -> dict[str, Any]:
    """All that the scores depend on."""
    rules, judges = components.protocol, components.judges
    named: dict[str, Any] = {"lpips": judges.lpips}
    named |= {judges.features.frechet: judges.features} if judges.features else {}
    named |= {judges.classifier.name: judges.classifier} if judges.classifier else {}
    return {
        **components.pictures.provenance(),
        "shards": str(settings.shards),
        "split": settings.split,
        "filter": settings.filter,
        "shards_sha256": images_sha256(settings.shards, settings.split, components.images.shards),
        "input_lightness": rules.lightness,
        "protocol": {**asdict(rules), **asdict(protocol.protocol_hashes(rules))},
        "judges": {
            name: {"sha256": judge.sha256, "published": judge.published} for name, judge in named.items() if judge
        },
        "mixed_precision": settings.mixed_precision,
        "constant_known": asdict(components.constant) if components.constant is not None else None,
        "embeddings": asdict(components.cache.key) if components.cache is not None else None,
        "preset": settings.preset,
        "temperature": settings.temperature,
        "saturation": settings.saturation,
        "batch_size": settings.batch_size,
        "koala": __version__,
    }


def _picture_count(asked: int | None, components: Components) -> int:
    """How many coloured pictures are written: by default all that a network made."""
    if asked is not None:
        return asked
    return 0 if isinstance(components.pictures, FolderPictures) else len(components.images.shards)

"""Coloured pictures x validation shards -> scores, pictures, a page that shows them.

What is scored, on which images and how, is the protocol's (`koala.evaluation.protocol`). Pictures are compared in 8-bit
sRGB: the photo in the protocol's geometry against predicted ab joined with the L* that the protocol names.

Each process scores whole batches and keeps what it measured of each in a file of its own; the first process puts them
together. So an interrupted evaluation goes on where it stopped, memory does not grow with the number of pictures, and
scores do not depend on the number of processes.

    OUT/scores.json       scores, intervals, what was left out and why, the protocol, all hashes; written last
    OUT/per_image.csv     the measures of each picture
    OUT/convincing.txt    pictures' names, those first that could best pass for photos (`scoring.rank_by_realism`)
    OUT/report.html       all of it on a page
    OUT/sheet.png         the first pictures: grey, coloured, original
    OUT/protocol.toml     the protocol, to judge others by
    OUT/pictures/         coloured pictures under the images' names
"""

import ctypes
import hashlib
import json
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from koala.config.data import DataSettings, for_evaluation
from koala.config.evaluation import EvaluateSettings, EvaluationProtocol, ImageIds
from koala.config.load import save_toml
from koala.core.atomic_io import write_atomic
from koala.core.distributed import dali_device, main_process_first, on_main_process, open_accelerator
from koala.core.errors import UserError
from koala.core.progress import Progress
from koala.core.version import __version__
from koala.data import audit, embedding_cache
from koala.data.dali_pipeline import Batch, load_batches
from koala.data.sampler import SamplePositions, seeded_permutation
from koala.data.shards import Shards, read_manifest
from koala.evaluation import failure_signs, features, html_report, metrics, protocol, results, scoring
from koala.evaluation.features import FeatureNetwork, Lpips, SkippedMetric
from koala.evaluation.metrics import Histograms, Moments
from koala.evaluation.partial_results import PartialResults
from koala.evaluation.predictions import (
    FolderPictures,
    NetworkPictures,
    PictureSource,
    Prediction,
    crop_padding,
    evaluation_window,
    picture_files,
    true_photos,
)
from koala.evaluation.scoring import Table
from koala.imaging import contact_sheet
from koala.models import checkpoint
from koala.models.checkpoint import Checkpoint

COLUMNS = ("grey", "koala", "original")
KERNEL_PICTURES = 5000  # whose features the kernel distance is taken of, drawn by a fixed seed where there are more
_PARTS_AT_ONCE = 20  # batches whose features are summed together
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEPT, _FROM_SYSTEM = 1 << 30, 1 << 25  # bytes of free memory that are kept; larger pieces are not
_EXAMPLES = 6  # in each group on the page


class Evaluation:
    """What is scored, on what.

    Args:
        settings: of the evaluation.
        accelerator: processes and device.
    """

    def __init__(self, settings: EvaluateSettings, accelerator: Accelerator) -> None:
        self.settings, self.accelerator = settings, accelerator
        found = _checkpoint(settings.model)
        self.protocol = _protocol(settings, found)
        self.hashes = protocol.protocol_hashes(self.protocol)
        self.shards = self._open(self.protocol.ids, settings.where)
        # the true images whose features are compared with, where they are others
        reference = self.protocol.reference
        self.reference = self._open(reference, "") if reference != ImageIds() else None
        self.data = _seen(settings, self.protocol)
        self.cache = self._cache(found)
        self.colorist = self._colorist(found)
        self.left_out: dict[str, str] = {}
        self.features, self.perceptual = self._features(), self._perceptual()
        if self.protocol.size < metrics.SSIM_WINDOW:
            self.left_out["ssim"] = f"{self.protocol.size} pixels are less than its window of {metrics.SSIM_WINDOW}"
        self.out = settings.out or _default_out(settings.model, found)
        self.parts = PartialResults(self.out / "parts")

    # ------------------------------------------------------------ what there is

    def _open(self, ids: ImageIds, where: str) -> Shards:
        """The samples that the protocol names."""
        folder, split, what = self.settings.shards, self.settings.split, self.protocol.name
        wanted = protocol.image_names(ids, what)
        if wanted is None:
            shards = audit.open_filtered(folder, split, where)
        elif where:
            raise UserError(f"{what} names its images; leave --where out, or write a protocol of your own")
        else:
            keep = on_main_process(self.accelerator, lambda: protocol.select_samples(folder, split, wanted, what))
            shards = Shards.open(folder, split, keep)
        if ids.count and len(shards) != ids.count:
            raise UserError(
                f'{what} judges {ids.count} images, but {folder} (split "{split}") holds {len(shards)}; '
                "name other shards, or judge by another --protocol"
            )
        return shards

    def _cache(self, found: Checkpoint | None) -> embedding_cache.EmbeddingCache | None:
        """Where what the extractor sees of the pictures is kept, when it is to be taken from there."""
        if found is None or not found.extractor_sha256 or not self.settings.extractor.cache:
            return None
        trained = found.settings.extractor
        weights = self.settings.extractor.weights or trained.weights
        wanted = replace(found.settings, data=self.data, extractor=replace(trained, weights=weights))
        cache = on_main_process(self.accelerator, lambda: embedding_cache.find_cache(wanted))
        if cache.key.extractor_sha256 != found.extractor_sha256:
            raise UserError(
                f"{cache.folder} was made with other weights than {found.path}; leave out --extractor.cache"
            )
        return cache

    def _colorist(self, found: Checkpoint | None) -> PictureSource:
        if found is None:
            return FolderPictures(self.settings.model, self.shards, self.data)
        if self.cache is not None:
            model = checkpoint.PretrainedColorizer(found, None)
        else:
            weights = self.settings.extractor.weights
            # the first process fetches the extractor's weights, the others find them
            model = main_process_first(self.accelerator, lambda: checkpoint.PretrainedColorizer.of(found, weights))
        model.temperature = self.settings.temperature or model.temperature
        model = model.to(self.accelerator.device)
        return NetworkPictures(
            found, model, self.settings.saturation, self.protocol.assembly, self.accelerator.autocast
        )

    def _features(self) -> FeatureNetwork | None:
        """The network between whose features distances are taken; where there is none, why."""
        name = self.protocol.features
        if name == "none":
            return None
        if self.settings.features == "none":
            self.left_out[features.NAMES[name][0]] = "--features none"
            return None
        count = min(len(shards) for shards in (self.shards, self.reference or self.shards))
        for candidate in dict.fromkeys((name, "tf_efficientnet_lite0")):
            frechet, _, size = features.NAMES[candidate]
            try:
                if count < size:
                    raise SkippedMetric(f"{count} pictures are too few to know the covariance of {size} features")
                weights = self.settings.inception if candidate == name else None
                return features.build_feature_network(
                    candidate, self.protocol.normalization, weights, self.accelerator.device
                )
            except SkippedMetric as reason:
                self.left_out[frechet] = str(reason)
        return None

    def _perceptual(self) -> Lpips | None:
        try:
            if self.settings.features == "none":
                raise SkippedMetric("--features none")
            if self.protocol.size < features.LPIPS_SIDE:
                raise SkippedMetric(
                    f"{self.protocol.size} pixels are less than the {features.LPIPS_SIDE} that it needs"
                )
            return features.build_lpips(self.settings.lpips, self.accelerator.device)
        except SkippedMetric as reason:
            self.left_out["lpips"] = str(reason)
            return None

    def provenance(self) -> dict[str, Any]:
        """All that the scores depend on."""
        judges = {"lpips": self.perceptual, **({self.features.frechet: self.features} if self.features else {})}
        return {
            **self.colorist.provenance(),
            "shards": str(self.settings.shards),
            "split": self.settings.split,
            "where": self.settings.where,
            "shards_sha256": _shards_sha256(self.settings.shards, self.settings.split, self.shards),
            "input_lightness": self.protocol.lightness,
            "protocol": {**asdict(self.protocol), **asdict(self.hashes)},
            "judges": {
                name: {"sha256": judge.sha256, "published": judge.published} for name, judge in judges.items() if judge
            },
            "mixed_precision": self.settings.mixed_precision,
            "embeddings": asdict(self.cache.key) if self.cache is not None else None,
            "temperature": self.settings.temperature,
            "saturation": self.settings.saturation,
            "batch": self.settings.batch,
            "koala": __version__,
        }

    # ------------------------------------------------------------ measuring

    def begin(self) -> bool:
        """See what is there already; for the first process.

        Returns:
            Whether all of it is.
        """
        wanted = {"pictures": self.settings.pictures, "sheet_rows": self.settings.sheet_rows, "left_out": self.left_out}
        self.what = self.provenance()
        self.key = hashlib.sha256(json.dumps({**self.what, **wanted}).encode()).hexdigest()
        if results.read_scores(self.out).get("key") == self.key:
            return True
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "scores.json").unlink(missing_ok=True)
        self.parts.begin(self.key)
        return False

    def run(self) -> None:
        """Measure this process's share of the batches that are not measured yet, and write their pictures."""
        for kind, shards in (("scores", self.shards), ("reference", self._reference_to_measure())):
            if shards is not None:
                self._run(kind, shards)

    def _reference_to_measure(self) -> Shards | None:
        return self.reference if self.features is not None else None

    def _run(self, kind: str, shards: Shards) -> None:
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        mine = _batches(len(shards), self.settings.batch)[rank::world_size]
        left = [samples for samples in mine if _part(kind, samples) not in self.parts]
        total, left_total = (sum(len(samples) for samples in some) for some in (mine, left))
        what = "evaluating" if kind == "scores" else "looking at true pictures"
        with (
            Progress(total, what, start=total - left_total, show=self.accelerator.is_main_process) as progress,
            # batches are scored in threads of their own while the next ones are coloured
            ThreadPoolExecutor(
                self.settings.threads, "koala-scorer", _begin_scoring, (self.accelerator.device,)
            ) as pool,
        ):
            under_way: deque[Future[int]] = deque()
            for samples, photos in zip(left, self._photos(shards, left), strict=True):
                if kind == "scores":
                    work = pool.submit(self._score, _part(kind, samples), self.colorist.predict(photos))
                else:
                    work = pool.submit(self._look, _part(kind, samples), photos)
                under_way.append(work)
                if len(under_way) > self.settings.threads:
                    progress.advance(under_way.popleft().result())
            for work in under_way:
                progress.advance(work.result())

    def _score(self, part: str, prediction: Prediction) -> int:
        """Write a batch's pictures and keep what is measured of it."""
        self._write_pictures(prediction)
        self.parts.write(part, self._measure(prediction))
        return len(prediction.photos)

    def _look(self, part: str, photos: Batch) -> int:
        """Keep the features of a batch's true pictures."""
        self.parts.write(part, {"true": self._seen(true_photos(photos))})
        return len(photos.ab)

    def _photos(self, shards: Shards, some: Sequence[NDArray]) -> Iterator[Batch]:
        places = (SamplePositions(samples, np.zeros_like(samples)) for samples in some)
        kept = None
        if self.cache is not None and shards is self.shards:
            kept = embedding_cache.CachedEmbeddings(
                self.cache, read_manifest(self.settings.shards).splits[self.settings.split], shards
            )
        return load_batches(
            shards,
            places,
            self.data,
            dali_device(self.accelerator),
            batch=self.settings.batch,
            embeddings=kept,
            with_rgb=True,
        )

    def predictions(self, some: Sequence[NDArray]) -> Iterator[Prediction]:
        """The predictions of samples, batch after batch."""
        return (self.colorist.predict(photos) for photos in self._photos(self.shards, some))

    def _measure(self, prediction: Prediction) -> dict[str, NDArray]:
        """All that is measured of a batch."""
        weight = self._weight(prediction)
        perceptual = self.perceptual.distance if self.perceptual else None
        scores = scoring.score_batch(prediction, weight, perceptual)
        histograms = [Histograms.of(lab, weight) for lab in (prediction.lab, prediction.photo_lab)]
        measured = {
            "names": np.array(list(scores)),
            "scores": torch.stack(list(scores.values())).cpu().numpy(),
            "hues": np.stack([colors.hue for colors in histograms]),
            "chromas": np.stack([colors.chroma for colors in histograms]),
        }
        if self.features is not None:
            measured["predicted"] = self._seen(prediction.pictures)
            if self.reference is None:
                measured["true"] = self._seen(prediction.photos)
        return measured

    @torch.no_grad()
    def _seen(self, shown: Tensor) -> NDArray[np.float32]:
        """The features of pictures."""
        assert self.features is not None
        return self.features.extract(shown).cpu().numpy()

    def _weight(self, prediction: Prediction) -> Tensor | None:
        """Which pixels count, `(B, 1, H, W)`; None where all do."""
        if self.protocol.padding == "counted" or self.protocol.geometry not in ("pad", "legacy"):
            return None
        weight = np.zeros((len(prediction.ab), 1, self.data.size, self.data.size), np.float32)
        for square, sample in zip(weight[:, 0], prediction.batch.samples, strict=True):
            crop_padding(square, evaluation_window(self.shards, int(sample), self.data))[...] = 1
        return None if weight.all() else torch.from_numpy(weight).to(prediction.ab.device)

    def _write_pictures(self, prediction: Prediction) -> None:
        """Each picture under its source's name, without what was padded."""
        limit = self.settings.pictures
        if limit is None:
            limit = 0 if isinstance(self.colorist, FolderPictures) else len(self.shards)
        wanted = [(row, int(sample)) for row, sample in enumerate(prediction.batch.samples) if sample < limit]
        if not wanted:
            return
        colors = prediction.pictures.permute(0, 2, 3, 1).cpu().numpy()
        for row, sample in wanted:
            path = self.out / "pictures" / picture_name(self.shards.describe(sample).source)
            contact_sheet.save_image(Image.fromarray(self._without_padding(colors[row], sample)), path)

    def _without_padding(self, square: NDArray, sample: int) -> NDArray:
        return crop_padding(square, evaluation_window(self.shards, sample, self.data))

    # ------------------------------------------------------------ putting together

    def finish(self) -> None:
        """Put the parts together and write all that there is to see; for the first process."""
        table, predicted, true = self._together()
        sources = self.shards.sources()
        order = scoring.rank_by_realism(table)
        scores, intervals = scoring.aggregate_scores(table, self.protocol)
        result = {
            "scores": scores | self._distances(),
            "intervals": intervals,
            "warnings": self._warnings(scores),
            "left_out": self.left_out,
            "pictures": len(self.shards),
            **self.what,
            "geometry": self.protocol.geometry,
            "size": self.protocol.size,
            "scale": "mse and chroma on the network's scale, ab / 127; psnr in dB on 8-bit sRGB",
            "key": self.key,
        }
        names = [picture_name(source).as_posix() for source in sources]
        self._write("per_image.csv", results.per_image_csv(sources, table))
        self._write("convincing.txt", "".join(f"{names[row]}\n" for row in order))
        self._write_protocol()
        colored = order[~scoring.is_pale(table)[order]]
        groups = _groups(colored if len(colored) else order)
        rows = range(min(self.settings.sheet_rows, len(self.shards)))
        shown = self._triptychs({*rows, *(sample for samples in groups.values() for sample in samples)})
        columns = (COLUMNS[0], _title(self.settings.model, self.colorist), COLUMNS[2])
        if rows:
            sheet = contact_sheet.contact_sheet(np.stack([shown[row] for row in rows], axis=1), columns)
            contact_sheet.save_image(sheet, self.out / "sheet.png")
        examples = [
            self._example(group, sample, table, sources[sample], shown[sample])
            for group, samples in groups.items()
            for sample in samples
        ]
        page = html_report.render(result, table, predicted=predicted, true=true, examples=examples, columns=columns)
        self._write("report.html", page)
        self._write("scores.json", json.dumps(result, indent=1) + "\n")
        self.parts.remove()

    def _warnings(self, scores: Mapping[str, float]) -> list[str]:
        """What is wrong with the colours; for a network of koala, with what often helps."""
        colorful = scores["chroma_true"] >= failure_signs.GREY
        measures = {name: value for name, value in scores.items() if colorful or name != "chroma_ratio"}
        return failure_signs.warnings(measures, remedies=not isinstance(self.colorist, FolderPictures))

    def _write(self, name: str, content: str) -> None:
        write_atomic(self.out / name, content.encode("utf-8", "surrogateescape"))

    def _together(self) -> tuple[Table, Histograms, Histograms]:
        """The measures of all pictures, and the colours predicted and true."""
        every = _batches(len(self.shards), self.settings.batch)
        names, scores = [], []
        colors = [Histograms.empty(), Histograms.empty()]
        for part in self.parts.read(_part("scores", samples) for samples in every):
            names = part["names"].tolist()
            scores.append(part["scores"])
            more = zip(part["hues"], part["chromas"], strict=True)
            colors = [one + Histograms(*other) for one, other in zip(colors, more, strict=True)]
        table = dict(zip(names, np.concatenate(scores, axis=1), strict=True))
        predicted, true = colors
        return table, predicted, true

    def _distances(self) -> dict[str, float]:
        """Distances between the features of predicted and true pictures."""
        if self.features is None:
            return {}
        predicted, some_predicted = self._gathered("scores", "predicted", self.shards)
        kind, shards = ("scores", self.shards) if self.reference is None else ("reference", self.reference)
        true, some_true = self._gathered(kind, "true", shards)
        return {
            self.features.frechet: metrics.frechet_distance(predicted, true),
            self.features.kernel: metrics.kernel_distance(some_predicted, some_true),
        }

    def _gathered(self, kind: str, which: str, shards: Shards) -> tuple[Moments, NDArray]:
        """The moments of features, and the features of some pictures."""
        assert self.features is not None
        moments, kept = Moments.empty(self.features.size), []
        drawn = np.zeros(len(shards), np.bool_)
        drawn[seeded_permutation(len(shards), 0)[:KERNEL_PICTURES]] = True
        every = _batches(len(shards), self.settings.batch)
        for start in range(0, len(every), _PARTS_AT_ONCE):
            some = every[start : start + _PARTS_AT_ONCE]
            parts = self.parts.read(_part(kind, samples) for samples in some)
            seen = np.concatenate([part[which] for part in parts])
            moments += Moments.of(seen)
            kept.append(seen[drawn[np.concatenate(some)]])
        return moments, np.concatenate(kept)

    def _write_protocol(self) -> None:
        """The protocol as a file, with the lists of images that it takes from files."""
        written = self.protocol
        for key in ("ids", "reference"):
            ids = getattr(written, key)
            if ids.file:
                self._write(
                    f"{key}.txt", "".join(f"{name}\n" for name in protocol.image_names(ids, written.name) or ())
                )
                written = replace(written, **{key: replace(ids, file=f"{key}.txt")})
        save_toml(written, self.out / "protocol.toml")

    # ------------------------------------------------------------ showing

    def _triptychs(self, samples: Collection[int]) -> dict[int, NDArray[np.uint8]]:
        """Grey, coloured and original of samples, `(3, H, W, 3)` each."""
        wanted, batch = np.array(sorted(samples), np.int64), self.settings.batch
        shown: dict[int, NDArray[np.uint8]] = {}
        for prediction in self.predictions([wanted[start : start + batch] for start in range(0, len(wanted), batch)]):
            columns = torch.stack(
                [contact_sheet.lightness_to_rgb(prediction.batch.lightness), prediction.pictures, prediction.photos]
            )
            rows = columns.permute(1, 0, 3, 4, 2).cpu().numpy()
            shown |= {int(sample): row for sample, row in zip(prediction.batch.samples, rows, strict=True)}
        return shown

    def _example(self, group: str, sample: int, table: Table, name: str, shown: NDArray) -> html_report.PictureExample:
        """A picture for the page."""
        measured = ("ciede2000", "psnr", "ssim", "chroma_predicted", "chroma_true")
        measures = {name: float(table[name][sample]) for name in measured if name in table}
        ratio = measures.pop("chroma_predicted") / max(measures.pop("chroma_true"), 1e-6)
        squares = [self._without_padding(square, sample) for square in shown]
        return html_report.PictureExample(group, name, measures | {"chroma ratio": ratio}, squares)


def evaluate(settings: EvaluateSettings) -> int:
    """`koala evaluate`: score every image once, on any number of processes, and write what is seen of it.

    Returns:
        0.

    Raises:
        UserError: checkpoint, shards or protocol are not whole, or do not fit together.
    """
    with open_accelerator(settings.device, settings.mixed_precision) as accelerator:
        evaluation = Evaluation(settings, accelerator)
        if not on_main_process(accelerator, evaluation.begin):
            evaluation.run()
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                evaluation.finish()
        elif accelerator.is_main_process:
            print(f"{evaluation.out} holds this evaluation already")
        if accelerator.is_main_process:
            print("\n".join(lines(results.read_scores(evaluation.out))))
            written = ("report.html", "scores.json", "per_image.csv", "convincing.txt", "sheet.png", "pictures")
            print(f"{evaluation.out}: {', '.join(name for name in written if (evaluation.out / name).exists())}")
    return 0


def lines(result: Mapping[str, Any]) -> list[str]:
    """The headline scores in lines, with their intervals, and what was left out."""
    named = result["protocol"]
    said = [
        f"{result['pictures']} pictures; protocol {named['name']} (sha256 {named['sha256'][:8]}): "
        f"L* of the {named['lightness']} picture in, of the {named['assembly']} picture out; padding {named['padding']}"
    ]
    for name in (name for name in result["scores"] if name in scoring.HEADLINE):
        value, interval = result["scores"][name], result["intervals"].get(name)
        said.append(f"{name:26} {value:10.5f}" + (f"   [{interval[0]:.5f}, {interval[1]:.5f}]" if interval else ""))
    said += [f"warning: {warning}" for warning in result["warnings"]]
    said += [f"left out: {name}: {why}" for name, why in result["left_out"].items()]
    for name, judge in result["judges"].items():
        if not judge["published"]:
            said.append(f"{name}: its weights are not the published ones (sha256 {judge['sha256'][:8]})")
    return said


# ---------------------------------------------------------------- what is asked for


def _checkpoint(model: Path) -> Checkpoint | None:
    """The checkpoint that is to be judged; None for a folder of pictures."""
    trained = (model / "checkpoint.json").exists() or (model / "checkpoints").exists()
    return checkpoint.find_checkpoint(model) if trained or not picture_files(model) else None


def _default_out(model: Path, found: Checkpoint | None) -> Path:
    """Within a run; beside a folder of pictures, which stays as it is."""
    return model / "evaluation" if found is not None else model.with_name(f"{model.resolve().name}-evaluation")


def _protocol(settings: EvaluateSettings, found: Checkpoint | None) -> EvaluationProtocol:
    """The protocol that the settings name, or what the network saw in training."""
    if settings.protocol:
        named = protocol.find_protocol(settings.protocol)
    elif found is None:
        known = ", ".join(protocol.protocol_names())
        raise UserError(
            f"{settings.model} holds pictures, no checkpoint; say with --protocol how to judge them ({known})"
        )
    else:
        data = for_evaluation(found.settings.data)
        named = EvaluationProtocol("as in training", geometry=data.geometry, size=data.size, lightness=data.lightness)
    ids = replace(named.ids, file=str(settings.ids)) if settings.ids is not None else None
    changes = {key: getattr(settings, key) for key in ("geometry", "size", "lightness", "assembly")}
    changed = protocol.override(named, **changes)
    if changed.geometry == "random_crop":
        raise UserError("random_crop is another picture each time; judge with --geometry crop")
    return replace(changed, ids=ids) if ids is not None else changed


def seen(settings: EvaluateSettings) -> DataSettings:
    """How an evaluation sees its photos.

    Raises:
        UserError: there is no checkpoint, or no such protocol.
    """
    return _seen(settings, _protocol(settings, _checkpoint(settings.model)))


def _seen(settings: EvaluateSettings, named: EvaluationProtocol) -> DataSettings:
    return DataSettings(settings.shards, named.geometry, named.size, named.lightness, settings.threads)


def _shards_sha256(folder: Path, split: str, shards: Shards) -> str:
    """Of the bytes of a split, and of which of its samples there are."""
    entries = [entry.sha256 for entry in read_manifest(folder).splits[split]]
    return hashlib.sha256(json.dumps([*entries, shards.selection]).encode()).hexdigest()


def _begin_scoring(device: torch.device) -> None:
    """In a thread that scores: one core for its arithmetic, and the process's GPU."""
    torch.set_num_threads(1)
    _keep_freed_memory()
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _keep_freed_memory() -> None:
    """Let glibc keep what torch frees; taking pages from the system anew costs scoring a sixth of its time."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
        libc.mallopt(_M_MMAP_THRESHOLD, _FROM_SYSTEM)


def _batches(count: int, batch: int) -> list[NDArray[np.int64]]:
    """Sample numbers, a batch at a time: the same batches for any number of processes."""
    return [np.arange(start, min(start + batch, count)) for start in range(0, count, batch)]


def _part(kind: str, samples: NDArray) -> str:
    """What the part of a batch is called."""
    return f"{kind}-{samples[0]:09d}"


# ---------------------------------------------------------------- what is written


def _title(model: Path, colorist: PictureSource) -> str:
    return model.resolve().name if isinstance(colorist, FolderPictures) else COLUMNS[1]


def _groups(order: NDArray) -> dict[str, list[int]]:
    """Which pictures are shown, of those in order."""
    each = min(_EXAMPLES, max(len(order) // 3, 1))
    middle = (len(order) - each) // 2
    groups = {"best": order[:each], "median": order[middle : middle + each], "worst": order[::-1][:each]}
    return {name: [int(sample) for sample in samples] for name, samples in groups.items()}


def picture_name(source: str) -> Path:
    """A source's name as a path of a PNG that cannot leave the folder it is put in."""
    parts = [part for part in PurePosixPath(source).parts if part not in ("/", "..")]
    return Path(*parts[:-1], f"{parts[-1]}.png")

"""What was measured of all batches, put together: scores, distances, and all that an evaluation shows of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from koala.config.load import save_toml
from koala.core.atomic_io import write_atomic
from koala.data.sampler import seeded_permutation
from koala.data.shards import Shards
from koala.evaluation import baselines, failure_signs, html_report, metrics, protocol, recognition, results, scoring
from koala.evaluation.components import Components, Images
from koala.evaluation.features import FeatureNetwork
from koala.evaluation.measuring import Kind, Measuring, part_name, picture_name, sample_batches
from koala.evaluation.metrics import Histograms, Moments
from koala.evaluation.partial_results import PartialResults
from koala.evaluation.predictions import NetworkPictures, PictureSource
from koala.evaluation.scoring import Table
from koala.imaging import color, contact_sheet
from koala.imaging.hues import HUES

SHEET_COLUMNS = 3  # grey, coloured, original
KERNEL_PICTURES = 5000  # whose features the kernel distance is taken of, drawn by a fixed seed where there are more
_PARTS_AT_ONCE = 20  # batches whose features are summed together
_EXAMPLES = 6  # in each group on the page


@dataclass(frozen=True)
class Measures:
    """What was measured of all pictures.

    Attributes:
        table: names to `(N,)` measures of each picture.
        predicted: colours of the pictures.
        true: colours of the photos.
        distances: between the features of both.
        constant: the baseline's, `(2,)` ab on the network's scale.
    """

    table: Table
    predicted: Histograms
    true: Histograms
    distances: dict[str, float]
    constant: NDArray[np.float64]


def gather(kept: PartialResults, images: Images, network: FeatureNetwork | None, batch: int) -> Measures:
    """Put together what was measured of each batch."""
    names, scores, constant = [], [], np.zeros(2)
    colors = [Histograms.empty(), Histograms.empty()]
    for part in kept.read(part_name("scores", samples) for samples in sample_batches(len(images.shards), batch)):
        names = part["names"].tolist()
        scores.append(part["scores"])
        constant = part["constant"]
        more = zip(part["hues"], part["chromas"], part["named"], strict=True)
        colors = [one + Histograms(*other) for one, other in zip(colors, more, strict=True)]
    table = dict(zip(names, np.concatenate(scores, axis=1), strict=True))
    predicted, true = colors
    distances = _distances(kept, images, network, batch) if network is not None else {}
    return Measures(table, predicted, true, distances, constant)


def _distances(kept: PartialResults, images: Images, network: FeatureNetwork, batch: int) -> dict[str, float]:
    """Distances between the features of predicted and true pictures."""
    predicted, some_predicted = _features(kept, "scores", "predicted", images.shards, network.size, batch)
    kind: Kind = "scores" if images.reference is None else "reference"
    true, some_true = _features(kept, kind, "true", images.reference or images.shards, network.size, batch)
    return {
        network.frechet: metrics.frechet_distance(predicted, true),
        network.kernel: metrics.kernel_distance(some_predicted, some_true),
    }


def _features(  # noqa: PLR0917  (which features, of what)
    kept: PartialResults, kind: Kind, which: str, shards: Shards, size: int, batch: int
) -> tuple[Moments, NDArray]:
    """The moments of features, and the features of some pictures."""
    moments, some = Moments.empty(size), []
    drawn = np.zeros(len(shards), np.bool_)
    drawn[seeded_permutation(len(shards), 0)[:KERNEL_PICTURES]] = True
    every = sample_batches(len(shards), batch)
    for start in range(0, len(every), _PARTS_AT_ONCE):
        group = every[start : start + _PARTS_AT_ONCE]
        seen = np.concatenate([part[which] for part in kept.read(part_name(kind, samples) for samples in group)])
        moments += Moments.of(seen)
        some.append(seen[drawn[np.concatenate(group)]])
    return moments, np.concatenate(some)


def write(
    components: Components, measures: Measures, measuring: Measuring, facts: Mapping[str, Any], sheet_rows: int
) -> None:
    """Write all that there is to see; scores.json last.

    Args:
        components: what the evaluation is made of.
        measures: what was measured.
        measuring: gives the pictures that are shown.
        facts: all that the scores depend on, and the key.
        sheet_rows: rows of the contact sheet.
    """
    table, sources = measures.table, components.images.shards.sources()
    order = scoring.rank_by_realism(table)
    result = _result(components, measures, facts)
    _write(components, "per_image.csv", results.per_image_csv(sources, table))
    names = [picture_name(source).as_posix() for source in sources]
    _write(components, "convincing.txt", "".join(f"{names[row]}\n" for row in order))
    _write_protocol(components)
    colored = order[~scoring.is_pale(table)[order]]
    groups = _groups(colored if len(colored) else order)
    rows = range(min(sheet_rows, len(sources)))
    shown = measuring.triptychs({*rows, *(sample for samples in groups.values() for sample in samples)})
    columns = ("grey", components.title, "original")
    if rows:
        sheet = contact_sheet.contact_sheet(np.stack([shown[row] for row in rows], axis=1), columns)
        contact_sheet.save_image(sheet, components.out / "sheet.png")
    examples = [
        _example(group, sources[sample], {name: values[sample] for name, values in table.items()}, squares)
        for group, samples in groups.items()
        for sample in samples
        for squares in ([measuring.without_padding(square, sample) for square in shown[sample]],)
    ]
    page = html_report.render(
        result, table, predicted=measures.predicted, true=measures.true, examples=examples, columns=columns
    )
    _write(components, "report.html", page)
    _write(components, "scores.json", json.dumps(result, indent=1) + "\n")


def _result(components: Components, measures: Measures, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What scores.json holds."""
    scores, intervals = scoring.aggregate_scores(measures.table, components.protocol)
    classifier = components.judges.classifier
    return {
        "scores": scores | measures.distances,
        "intervals": intervals,
        **baselines.facts(measures.table),
        "constant": _constant(components, measures),
        "hues": _hues(measures),
        "recognition": recognition.summarize(measures.table, classifier.name) if classifier else None,
        "warnings": [*_warnings(scores, components.pictures), *_limit_warning(components)],
        "left_out": components.judges.skipped,
        "pictures": len(components.images.shards),
        **facts,
        "geometry": components.protocol.geometry,
        "size": components.protocol.size,
        "scale": "mse and chroma on the network's scale, ab / 127; psnr in dB on 8-bit sRGB",
    }


def _constant(components: Components, measures: Measures) -> dict[str, Any]:
    """The baseline's one colour, and whence it is."""
    known = components.constant
    return {
        "ab": [round(float(value), 3) for value in color.to_units(measures.constant)],
        "of": known.origin if known is not None else baselines.FROM_TRUTH,
    }


def _hues(measures: Measures) -> dict[str, dict[str, float]]:
    """Shares of the coloured pixels by hue."""
    predicted, true = (colors.compute()["named"].tolist() for colors in (measures.predicted, measures.true))
    return {name: {"predicted": mine, "true": theirs} for name, mine, theirs in zip(HUES, predicted, true, strict=True)}


def _warnings(scores: Mapping[str, float], pictures: PictureSource) -> list[str]:
    """What is wrong with the colours; for a network of koala, with what often helps."""
    colorful = scores["chroma_true"] >= failure_signs.GREY
    measures = {name: value for name, value in scores.items() if colorful or name != "chroma_ratio"}
    trained = pictures.settings if isinstance(pictures, NetworkPictures) else None
    return failure_signs.warnings(measures, trained)


def _limit_warning(components: Components) -> list[str]:
    """That only some images were judged."""
    if not components.protocol.ids.limit:
        return []
    drawn = len(components.images.shards)
    return [f"limit: {drawn} images were drawn; scores of all images are others, and are not to be compared with these"]


def _write(components: Components, name: str, content: str) -> None:
    write_atomic(components.out / name, content.encode("utf-8", "surrogateescape"))


def _write_protocol(components: Components) -> None:
    """The protocol as a file, with the lists of images that it takes from files."""
    written = components.protocol
    for key in ("ids", "reference"):
        ids = getattr(written, key)
        if ids.file:
            names = protocol.image_names(ids, written.name) or ()
            _write(components, f"{key}.txt", "".join(f"{name}\n" for name in names))
            written = replace(written, **{key: replace(ids, file=f"{key}.txt")})
    save_toml(written, components.out / "protocol.toml")


def _groups(order: NDArray) -> dict[str, list[int]]:
    """Which pictures are shown, of those in order."""
    each = min(_EXAMPLES, max(len(order) // 3, 1))
    middle = (len(order) - each) // 2
    groups = {"best": order[:each], "median": order[middle : middle + each], "worst": order[::-1][:each]}
    return {name: [int(sample) for sample in samples] for name, samples in groups.items()}


def _example(
    group: str, name: str, measured: Mapping[str, float], squares: list[NDArray]
) -> html_report.PictureExample:
    """A picture for the page."""
    shown = ("ciede2000", "psnr", "ssim")
    measures = {key: float(measured[key]) for key in shown if key in measured}
    ratio = float(measured["chroma_predicted"]) / max(float(measured["chroma_true"]), 1e-6)
    return html_report.PictureExample(group, name, measures | {"chroma ratio": ratio}, squares)

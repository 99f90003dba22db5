"""What is in a data set: sizes, colour models, chroma, greys and sepia; and leaving samples out by it.

The audit of a shard lies beside it, `train-000000.audit.csv`: a first line that names the format and the sha256 of
the tar, then a table with a row per sample. Beside it lies `train-000000.bins.csv`: how much of the shard's pictures
has which colour. A shard whose audit names its sha256 is not looked at again, so that an audit resumes where it
stopped, and can run while shards are still being written.

Colours are measured on a smaller picture whose short side keeps at least `SHORT_SIDE` pixels: the JPEG is decoded at
a half, a quarter or an eighth, and averaged down from there. That costs colours of the size of a pixel, and makes
the audit of a million photographs a matter of hours on one core. What is exactly grey is made sure of at full size.
"""

import csv
import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from koala.config.data import AuditShards
from koala.core.errors import UserError, first_line
from koala.core.progress import Progress
from koala.core.readers import parse_csv, read_text
from koala.core.wording import counted
from koala.data.mirror import bring, local_folder, remove_file, send, shown, tar_names, write_file
from koala.data.shards import SPLITS, ShardRecord, Shards, read_record, record_path
from koala.imaging import ab_bins, color, toning
from koala.imaging.errors import UnreadableImageError, decoder_errors

FORMAT = "koala-audit/2"  # another number whenever a definition below changes
BINS_FORMAT = "koala-bins/1"
TABLES = "*.csv"  # in which all of it lies
SHORT_SIDE = 128  # pixels

FLAGS = ("grey", "near_grey", "sepia")
_SHEET_COLUMNS, _SHEET_ROWS, _THUMBNAIL = 8, 8, 128  # the last in pixels


@dataclass(frozen=True)
class ImageColors:
    """The colours of a picture.

    Attributes:
        color_model: what the JPEG stores, "grey" or "rgb".
        chroma: mean of sqrt(a*^2 + b*^2), in units of CIELAB.
        colorfulness: see `koala.imaging.color`.
        grey: one channel, or red = green = blue in every pixel.
        near_grey: see `koala.imaging.toning.is_near_grey`; what is grey is near grey too.
        sepia: see `koala.imaging.toning.is_toned`; never what is near grey.
        bins: `(Q,)` share of the pixels in each bin of the ab plane (`koala.imaging.ab_bins`).
    """

    color_model: str
    chroma: float
    colorfulness: float
    grey: bool
    near_grey: bool
    sepia: bool
    bins: NDArray[np.float64]


_DTYPES: dict[str, Any] = {  # texts as Python has them: a file's name may be no Unicode, which those of pandas are
    **{"sample": "int64", "key": object, "source": object, "width": "int64", "height": "int64", "color_model": object},
    **{"chroma": "float64", "colorfulness": "float64", "grey": bool, "near_grey": bool, "sepia": bool},
}
COLUMNS = tuple(_DTYPES)
_DESCRIBED = 5  # of the columns say which picture it is, not what is in it
BIN_COLUMNS = ("a", "b", "pictures")


# ---------------------------------------------------------------- of one picture


def measure_colors(jpeg: bytes) -> ImageColors:
    """Measure a picture's colours, on a smaller copy of it.

    Raises:
        OSError, SyntaxError, ValueError: the bytes do not decode.
    """
    image = _decoded(jpeg, SHORT_SIDE)
    if image.mode == "L":
        neutral = ab_bins.bin_shares(np.zeros(2))
        return ImageColors("grey", 0.0, 0.0, grey=True, near_grey=True, sepia=False, bins=neutral)
    rgb = np.asarray(image)
    lab = color.rgb_to_lab(rgb)
    near_grey = toning.is_near_grey(lab)
    return ImageColors(
        "rgb",
        mean_chroma(lab),
        float(color.colorfulness(rgb)),
        grey=toning.is_grey(rgb) and toning.is_grey(np.asarray(_decoded(jpeg))),
        near_grey=near_grey,
        sepia=not near_grey and toning.is_toned(lab),
        bins=ab_bins.bin_shares(lab[..., 1:]),
    )


def _decoded(jpeg: bytes, short_side: int = 0) -> Image.Image:
    """A picture in RGB or grey, made smaller by a whole factor where that leaves `short_side` pixels or more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt EXIF, many pixels: it was admitted
        image: Image.Image = Image.open(io.BytesIO(jpeg))
        if short_side:
            image.draft(None, (short_side, short_side))
        image.load()
    factor = min(image.size) // short_side if short_side else 1
    return image.reduce(factor) if factor > 1 else image


def mean_chroma(lab: NDArray) -> float:
    """Mean of sqrt(a*^2 + b*^2) over `(H, W, 3)` L*a*b*."""
    return float(np.hypot(lab[..., 1], lab[..., 2]).mean())


# ---------------------------------------------------------------- of a folder of shards


def audit_shards(folder: Path, split: str | None = None, workers: int = 1, *, with_bins: bool = False) -> list[str]:
    """Audit the shards that are whole, those with an audit of the same bytes left out.

    Args:
        folder: of shards, with or without a manifest.
        split: "train" or "val"; None takes both.
        workers: processes.
        with_bins: look again at those of whose colours nothing is kept (an audit of koala before it trained by them).

    Returns:
        The names of all whole shards; each has an audit.

    Raises:
        UserError: there is no whole shard, or one is damaged.
    """
    bring(folder, TABLES)
    found = _whole_shards(folder, split)
    if not found:
        which = "shard" if split is None else f'"{split}" shard'
        raise UserError(f"{shown(folder)} holds no whole {which}; make some with koala shards write")
    records = [read_record(record_path(folder, shard)) for shard in found]
    left = [record for record in records if not _is_done(folder, record, with_bins)]
    total, left_total = (sum(len(record.size) for record in some) for some in (records, left))
    with Progress(total, "auditing", start=total - left_total) as progress:
        if workers == 1 or len(left) < 2:
            for record in left:
                _write_audit(folder, record)
                progress.advance(len(record.size))
        else:
            _audit_in_company(folder, left, workers, progress)
    return found


def _whole_shards(folder: Path, split: str | None) -> list[str]:
    """The tars that have a record."""
    splits = SPLITS if split is None else (split,)
    return [tar for name in splits for tar in tar_names(folder, name) if record_path(folder, tar).exists()]


def _audit_in_company(folder: Path, records: Sequence[ShardRecord], workers: int, progress: Progress) -> None:
    """Audit in several processes, which stop at their next picture when this one is interrupted."""
    context = get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(min(workers, len(records)), context, _begin_worker, (stop,)) as pool:
        try:
            futures = {pool.submit(_write_audit, folder, record): len(record.size) for record in records}
            for future in as_completed(futures):
                future.result()
                progress.advance(futures[future])
        except BrokenProcessPool:
            raise UserError("a process of the audit was killed, perhaps for memory; take fewer --workers") from None
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


_stop: Any = None  # in a worker, the event that asks it to stop


def _begin_worker(stop: Any) -> None:
    import signal

    global _stop  # what a pool gives its workers has no other place  # noqa: PLW0603
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked


def _write_audit(folder: Path, record: ShardRecord) -> None:
    """Audit a shard; its file is there whole or not at all."""
    rows, shares = [], np.zeros(len(ab_bins.centers()))
    for row, colors in _measured(Shards(folder, [record])):
        rows.append(row)
        shares += colors.bins
    of_bins = zip(*ab_bins.centers().long().T.tolist(), shares.round(6).tolist(), strict=True)
    sha256 = record.sha256
    write_file(bins_path(folder, record.shard), _csv(_stamp(sha256, BINS_FORMAT), BIN_COLUMNS, of_bins))
    write_file(audit_path(folder, record.shard), _csv(_stamp(sha256), COLUMNS, rows))


def _csv(stamp: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A CSV table below a line that names the shard's bytes."""
    text = io.StringIO(newline="")
    text.write(stamp)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _measured(shard: Shards) -> Iterator[tuple[list[Any], ImageColors]]:
    """The rows of one shard's table, with the colours that they tell of."""
    for sample in range(len(shard)):
        if _stop is not None and _stop.is_set():
            raise InterruptedError
        found = shard.describe(sample)
        jpeg = shard.read(sample).tobytes()
        try:
            with decoder_errors("JPEG"):
                colors = measure_colors(jpeg)
        except UnreadableImageError as error:
            raise UserError(
                f"{found.shard}: {found.key} ({found.source}) does not decode: {error}; "
                "check the folder with koala shards verify"
            ) from None
        values = (getattr(colors, name) for name in COLUMNS[_DESCRIBED:])
        measures = [round(value, 3) if isinstance(value, float) else value for value in values]
        yield [sample, found.key, found.source, int(shard.width[sample]), int(shard.height[sample]), *measures], colors


def audit_path(folder: Path, shard: str) -> Path:
    """Where a shard's audit lies."""
    return (folder / shard).with_suffix(".audit.csv")


def bins_path(folder: Path, shard: str) -> Path:
    """Where the colours of a shard's pictures lie."""
    return (folder / shard).with_suffix(".bins.csv")


def bin_frequencies(folder: Path, shards: Sequence[str]) -> NDArray[np.float64]:
    """How much of the pictures of audited shards lies in each bin of the ab plane, `(Q,)`; a picture adds 1.

    Raises:
        UserError: a file of an audit is damaged.
    """
    total = np.zeros(len(ab_bins.centers()))
    for shard in shards:
        path = bins_path(folder, shard)
        try:
            total += read_bins(path, BIN_COLUMNS[-1])
        except (OSError, ValueError):
            raise UserError(f"{path} is damaged; delete it and run koala shards prior {folder}") from None
    return total


def read_bins(path: Path, name: str) -> NDArray[np.float64]:
    """A column of shares in a CSV table that has a row for each bin, `(Q,)`; its first line is passed over.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such table.
    """
    _, _, table = read_text(path).partition("\n")  # the first line is the stamp
    values = np.array([float(row[name]) for row in parse_csv(table, path, [name])])
    if len(values) != len(ab_bins.centers()) or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"no share of 0 or more for each of the {len(ab_bins.centers())} bins")
    return values


def _stamp(sha256: str, of: str = FORMAT) -> str:
    """A table's first line."""
    return f"# {of} of the tar with sha256 {sha256}\n"


def is_current(folder: Path, shard: str, sha256: str) -> bool:
    """Whether a shard has an audit, and of these bytes."""
    return _has_stamp(audit_path(folder, shard), _stamp(sha256))


def _is_done(folder: Path, record: ShardRecord, with_bins: bool) -> bool:
    if with_bins and not _has_stamp(bins_path(folder, record.shard), _stamp(record.sha256, BINS_FORMAT)):
        return False
    return is_current(folder, record.shard, record.sha256)


def _has_stamp(path: Path, stamp: str) -> bool:
    """Whether a table is there that begins with this line."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            return file.readline() == stamp
    except FileNotFoundError:
        return False


def read_audit(folder: Path, shard: str, columns: Sequence[str]) -> Any:
    """Columns of a shard's audit, as a pandas.DataFrame.

    Raises:
        UserError: it is no such table.
    """
    import pandas

    path = audit_path(folder, shard)
    try:
        return pandas.read_csv(
            path,
            skiprows=1,
            usecols=list(columns),
            dtype={name: _DTYPES[name] for name in columns},
            keep_default_na=False,
            encoding_errors="surrogateescape",
        )
    except Exception as error:  # pandas has many kinds
        raise UserError(
            f"{path} is damaged ({first_line(error)}); delete it and run koala shards audit {folder}"
        ) from None


# ---------------------------------------------------------------- the report


def audit_command(settings: AuditShards) -> int:
    """`koala shards audit`: audit, say what was found, and draw it."""
    folder = local_folder(settings.shards)
    found = audit_shards(folder, settings.split, settings.workers)
    columns = [name for name in COLUMNS if name not in ("key", "source")]
    table = _table(folder, found, columns)
    print("\n".join(summary_lines(table, len(found))))
    draw_report(folder, table)
    print(f"{settings.shards}/audit: histograms, and sheets of what is flagged; the table lies beside each shard")
    return 0


def _table(folder: Path, shards: Sequence[str], columns: Sequence[str]) -> Any:
    """The audits of several shards, with the column `shard`."""
    import pandas

    return pandas.concat(
        [read_audit(folder, shard, columns).assign(shard=shard) for shard in shards], ignore_index=True
    )


def summary_lines(table: Any, shard_count: int) -> list[str]:
    """The shares of what is flagged, and the quartiles of chroma and colourfulness, in lines."""
    count = len(table)
    flagged = {name: int(table[name].sum()) for name in FLAGS}
    shares = {"one channel": int((table["color_model"] == "grey").sum()), **flagged}
    lines = [f"{counted(count, 'image')} in {counted(shard_count, 'shard')}"]
    lines += [f"{name.replace('_', ' '):13} {n:8} {100 * n / max(count, 1):8.2f} %" for name, n in shares.items()]
    lines.append(f"{'':13} {'25 %':>8} {'50 %':>8} {'75 %':>8}")
    for name in ("chroma", "colorfulness"):
        quartiles = table[name].quantile([0.25, 0.5, 0.75])
        lines.append(f"{name:13} " + " ".join(f"{value:8.2f}" for value in quartiles))
    return lines


def draw_report(folder: Path, table: Any) -> None:
    """Histograms, and a contact sheet of each flag that some sample has, into the shards' folder `audit`."""
    short_side = np.minimum(table["width"], table["height"])
    _draw(folder, "chroma", _histogram(table["chroma"], "mean chroma (CIELAB)"))
    _draw(folder, "colorfulness", _histogram(table["colorfulness"], "colourfulness (Hasler and Süsstrunk)"))
    _draw(folder, "short_side", _histogram(short_side, "short side (pixels)"))
    for name in FLAGS:
        flagged = table[table[name]]
        title = f"{name.replace('_', ' ')}: {len(flagged)} of {len(table)}"
        _draw(folder, name, _sheet(folder, flagged, title) if len(flagged) else None)


def _draw(folder: Path, name: str, image: Image.Image | None) -> None:
    """Write a picture of the report; where there is none, remove that of an audit before."""
    from koala.imaging import contact_sheet

    path = folder / "audit" / f"{name}.png"
    if image is None:
        remove_file(path)
    else:
        contact_sheet.save_image(image, path)
        send(path)


def _histogram(values: Any, name: str) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = FigureCanvasAgg(Figure(figsize=(8, 4.5), layout="constrained"))
    axes = canvas.figure.subplots()
    axes.hist(values, bins=100)
    axes.set_xlabel(name)
    axes.set_ylabel("images")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _sheet(folder: Path, flagged: Any, name: str) -> Image.Image:
    """Pictures spread evenly over the flagged ones."""
    from koala.imaging import contact_sheet

    columns = min(_SHEET_COLUMNS, len(flagged))
    rows = min(_SHEET_ROWS, -(-len(flagged) // columns))
    chosen = np.unique(np.linspace(0, len(flagged) - 1, columns * rows).astype(int))
    cells = np.full((rows * columns, _THUMBNAIL, _THUMBNAIL, 3), 255, np.uint8)
    for cell, (shard, sample) in zip(cells, flagged[["shard", "sample"]].to_numpy()[chosen], strict=False):
        picture = Shards(folder, [read_record(record_path(folder, shard))]).read(int(sample)).tobytes()
        thumbnail = _decoded(picture, _THUMBNAIL).convert("RGB")
        thumbnail.thumbnail((_THUMBNAIL, _THUMBNAIL))
        cell[: thumbnail.height, : thumbnail.width] = np.asarray(thumbnail)
    grid = cells.reshape(rows, columns, _THUMBNAIL, _THUMBNAIL, 3).swapaxes(0, 1)
    return contact_sheet.contact_sheet(grid, [name])

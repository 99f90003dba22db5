"""Parquet files of images, as the Hugging Face hub has data sets.

Bytes come from the field `bytes` of a column, or from a column such as `image`. A row is named by its number, and by
the last part of the field `path` where there is one; its class is in the column `label`. To read one image the rows of
its group before it are decoded, so that random access costs more than in a tar.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from koala.core.errors import UserError, first_line
from koala.core.extras import pip_line
from koala.data.places import MAX_BYTES, FolderPlace, SourceItem, check_size

_IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes")  # what columns of bytes are called
_LABEL = "label"
_ROWS = 8  # decoded at a time
_MOST_PACKED = 20  # times that images become larger when they are unpacked: they are packed already


@dataclass(frozen=True, slots=True)
class ParquetRow:
    """The bytes in a row of a Parquet file.

    Attributes:
        path: the file.
        column: that holds the bytes.
        group: number of the row group.
        row: number in the row group.
    """

    path: Path
    column: str
    group: int
    row: int

    def read(self, name: str, max_bytes: int) -> bytes:
        """The row's bytes."""
        try:
            value = self._value()
        except Exception as error:  # of a page that is damaged; pyarrow has a dozen kinds
            raise OSError(f"its row group cannot be read: {first_line(error)}") from None
        if not value.is_valid:
            raise OSError("its row holds no bytes")
        buffer = value.as_buffer()
        check_size(buffer.size, max_bytes)
        return buffer.to_pybytes()

    def _value(self) -> Any:
        left = self.row
        batches = _open(self.path).iter_batches(_ROWS, [self.group], [self.column], use_threads=False)
        for batch in batches:
            if left < len(batch):
                column = batch.column(0)
                return (column.flatten()[0] if "." in self.column else column)[left]
            left -= len(batch)
        raise EOFError(f"it has no row {self.row}")


@lru_cache(maxsize=16)
def _open(path: Path) -> Any:
    from pyarrow.parquet import ParquetFile

    return ParquetFile(path, buffer_size=2**20)


def scan_parquet(path: Path, prefix: str = "") -> Iterator[SourceItem]:
    """The rows of a Parquet file of images, or the file itself where it holds none or pyarrow is not installed.

    Raises:
        UserError: the file is damaged.
    """
    fault, column, others = "", "", list[str]()
    try:
        with _damage_named(path):
            schema = _open(path).schema
            kinds = {schema.column(number).path: schema.column(number).physical_type for number in range(len(schema))}
        column = next((name for name, kind in kinds.items() if _is_image(name, kind)), "")
        others = [name for name in (_path_of(column), _LABEL) if name in kinds]
        fault = f"a Parquet file without a column of images; its columns: {', '.join(list(kinds)[:8])}"
    except ModuleNotFoundError:
        fault = f"a Parquet file, which needs pyarrow; {pip_line('parquet')}"
    if column:
        yield from _rows(path, prefix, column, others)
    else:
        yield SourceItem(prefix.rstrip("/") or path.name, FolderPlace(path.parent), fault)


def _is_image(name: str, kind: str) -> bool:
    """Whether a column holds bytes, and of images."""
    return kind == "BYTE_ARRAY" and (name in _IMAGES or (name.endswith(".bytes") and name.count(".") == 1))


def _path_of(column: str) -> str:
    return column.removesuffix("bytes") + "path"


def _rows(path: Path, prefix: str, column: str, others: list[str]) -> Iterator[SourceItem]:
    number = 0
    for group in range(_open(path).num_row_groups):
        with _damage_named(path):
            count, told = _told(path, group, column, others)
        for row in range(count):
            name = PurePosixPath(told[_path_of(column)][row] or "").name if _path_of(column) in told else ""
            label = told[_LABEL][row] if _LABEL in told else None
            yield SourceItem(
                f"{prefix}{number:06d}{'-' if name else ''}{name}",
                ParquetRow(path, column, group, row),
                label="" if label in (None, -1) else str(label),  # the hub has -1 for what is not known
            )
            number += 1


def _told(path: Path, group: int, column: str, others: list[str]) -> tuple[int, dict[str, list[Any]]]:
    """How many rows a row group has, and what other columns tell of them."""
    found = _open(path).metadata.row_group(group)
    chunks = {chunk.path_in_schema: chunk for chunk in map(found.column, range(found.num_columns))}
    packed, unpacked = chunks[column].total_compressed_size, chunks[column].total_uncompressed_size
    if unpacked > _MOST_PACKED * packed + MAX_BYTES:
        raise UserError(
            f"{path}: row group {group} unpacks from {packed} to {unpacked} bytes, as images do not; take the file out "
            "of the source"
        )
    table = _open(path).read_row_group(group, others, use_threads=False).flatten() if others else None
    told = {name: table.column(name).to_pylist() for name in others} if table else {}
    if {found.num_rows} != {chunks[column].num_values, *map(len, told.values())}:
        raise ValueError("its columns are of other lengths")
    return found.num_rows, told


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Whatever pyarrow says of a damaged file, it has a dozen kinds of errors, in a sentence with the file's name."""
    try:
        yield
    except (UserError, ModuleNotFoundError):
        raise
    except Exception as error:
        raise UserError(
            f"{path} is no Parquet file, or damaged ({first_line(error)}); fetch it again, or take it out of the source"
        ) from None

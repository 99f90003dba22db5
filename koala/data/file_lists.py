"""Lists of images: one name a line, or tables whose first lines show which column holds the names.

Names are relative to the list's folder. A table is separated by commas, semicolons or tabs, or is as Caffe has it: a
name, a blank, and an index of a class.
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

from koala.core.errors import UserError
from koala.core.readers import read_text
from koala.data.places import FolderPlace, SourceItem, is_file

_LOOKED_AT = 50  # lines
_LABEL = re.compile(r"n\d{8}|\d{1,9}")  # a WordNet id, or an index
_LABELS = {"label", "class", "class_index", "wnid", "synset", "target"}  # what headers call it

_Rows = Iterable[list[str]]


def read_list(path: Path) -> tuple[list[SourceItem], Counter[str]]:
    """The images that a list names, and how many lines it has that name none.

    Raises:
        OSError: the list cannot be read.
        UserError: it is no text.
    """
    text = read_text(path)
    try:
        rows, column = _read_as(text, path)
        return _items(rows, column, path.parent)
    except csv.Error as error:
        raise UserError(f"{path} is no table of names ({error}); write one name a line") from None


def _read_as(text: str, path: Path) -> tuple[Iterator[list[str]], int]:
    """The rows, and the column of names: read so that most of the names in the first lines are files."""
    readings: list[Callable[[str], _Rows]] = [_lines, *map(_separated, ",;\t"), _by_last_blank]
    if path.suffix.lower() == ".csv":
        readings[0], readings[1] = readings[1], readings[0]
    best, found = (readings[0], 0), 0
    for reading in readings:
        rows = list(islice(reading(text), _LOOKED_AT))
        for column in range(max(map(len, rows), default=0)):
            files = sum(is_file(path.parent / row[column]) for row in rows if len(row) > column)
            if files > found:
                best, found = (reading, column), files
    return iter(best[0](text)), best[1]


def _lines(text: str) -> Iterator[list[str]]:
    return ([line] for line in re.split(r"\r\n|\r|\n", text) if line.strip())


def _separated(separator: str) -> Callable[[str], _Rows]:
    return lambda text: ([cell.strip() for cell in row] for row in _table(text, separator) if any(row))


def _table(text: str, separator: str) -> Iterator[list[str]]:
    return csv.reader(re.split(r"(?<=\n)|(?<=\r)(?!\n)", text), delimiter=separator)


def _by_last_blank(text: str) -> Iterator[list[str]]:
    return (line.rsplit(maxsplit=1) for (line,) in _lines(text))


def _items(rows: Iterator[list[str]], column: int, folder: Path) -> tuple[list[SourceItem], Counter[str]]:
    place = FolderPlace(folder)
    items: list[SourceItem] = []
    passed_over: Counter[str] = Counter()
    header: list[str] = []
    for number, row in enumerate(rows):
        name = row[column] if len(row) > column else ""
        if number == 0 and len(row) > 1 and not PurePosixPath(name).suffix and not is_file(folder / name):
            header = row
            passed_over["line of headings"] += 1
        elif name:
            items.append(SourceItem(name, place, label=_label(row, column, header)))
        else:
            passed_over["lines without a name"] += 1
    return items, passed_over


def _label(row: list[str], column: int, header: list[str]) -> str:
    """What a row says of the class: in the column that is called so, or in the only other one."""
    for number, cell in enumerate(row):
        called = len(header) > number and header[number].lower() in _LABELS
        if number != column and (called or (not header and len(row) == 2)) and _LABEL.fullmatch(cell):
            return cell
    return ""

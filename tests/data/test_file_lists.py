"""Lists of images, in the shapes that people have them."""

import random
from contextlib import suppress

import pytest

from koala.core.errors import UserError
from koala.data.file_lists import read_list
from tests.packing import lay_out, mutated

NAMES = [f"{number}.JPEG" for number in range(6)] + ["two words.JPEG"]


@pytest.fixture
def folder(tmp_path):
    return lay_out(tmp_path, dict.fromkeys(NAMES, b"image"))


def read(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    items, passed_over = read_list(path)
    return [item.name for item in items], [item.label for item in items], dict(passed_over)


def rows(form):
    return "".join(form.format(name, number) + "\n" for number, name in enumerate(NAMES))


INDEXES = [str(number) for number in range(7)]
NONE = [""] * 7
HEADINGS = {"line of headings": 1}


@pytest.mark.parametrize(
    ("name", "text", "labels", "passed_over"),
    [
        ("list.txt", rows("{0}"), NONE, {}),
        ("list.txt", rows("{0}").replace("\n", "\r\n").rstrip(), NONE, {}),
        ("list.txt", rows("{0}").replace("\n", "\n\n"), NONE, {}),
        ("list.csv", rows("{0}"), NONE, {}),
        ("caffe.txt", rows("{0} {1}"), INDEXES, {}),
        ("caffe", rows("{0}\t{1}"), INDEXES, {}),
        ("list.csv", rows("{0},{1}"), INDEXES, {}),
        ("list.csv", rows('"{0}",n0144076{1}'), [f"n0144076{number}" for number in range(7)], {}),
        ("list.csv", "name,class\n" + rows("{0},{1}"), INDEXES, HEADINGS),
        ("list.csv", "file_name;width;label\n" + rows("{0};640;{1}"), INDEXES, HEADINGS),
        ("list.csv", "id,file\n" + rows("{1},{0}"), NONE, HEADINGS),
        ("list.tsv", "id\tfile\n" + rows("{1}\t{0}"), NONE, HEADINGS),
        ("list.txt", rows("{0}; {1}"), INDEXES, {}),
        ("list.csv", rows("{0},") + ",3\n", NONE, {"lines without a name": 1}),
    ],
)
def test_the_names_are_found_where_they_are(folder, name, text, labels, passed_over):
    assert read(folder / name, text) == (NAMES, labels, passed_over)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_byte_order_mark_costs_no_image(folder, name, encoding):
    assert read(folder / name, rows("{0}").encode(encoding))[0] == NAMES


def test_the_first_line_is_no_heading_because_its_file_is_missing(folder):
    names, _, passed_over = read(folder / "list.csv", "gone.JPEG,1\n" + rows("{0},{1}"))
    assert (names, passed_over) == (["gone.JPEG", *NAMES], {})


def test_names_of_files_that_are_not_there_are_kept(folder):
    assert read(folder / "list.txt", "gone 1.jpg\ngone 2.jpg")[0] == ["gone 1.jpg", "gone 2.jpg"]
    assert read(folder / "list.txt", "x" * 5000 + "\n")[0] == ["x" * 5000]


def test_names_of_other_folders(folder, tmp_path_factory):
    other = lay_out(tmp_path_factory.mktemp("other"), {"a.jpg": b"a"})
    (item,), _ = read_list(lay_out(folder, {"list.txt": f"{other}/a.jpg\n".encode()}) / "list.txt")
    assert item.read() == b"a"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a\0.jpg\n0.JPEG\n", r"list.csv is no text: it holds a NUL in line 1"),
        (b"gr\xfcn.jpg\n", r"list.csv is no text in UTF-8 \(line 1\); save it as UTF-8"),
        (b"x" * 200_000, r"list.csv is no table of names \(field larger than"),
    ],
)
def test_what_is_no_list_is_named(folder, data, message):
    with pytest.raises(UserError, match=message):
        read(folder / "list.csv", data)


def test_whatever_is_in_a_list_it_is_read_or_named(folder):
    """Five hundred mutations; no name is opened that is no file."""
    data, rng = rows("{0};{1}").encode(), random.Random(1)
    for number in range(500):
        path = folder / ("list.csv" if number % 2 else "list.txt")
        path.write_bytes(
            mutated(data, rng, len(data)) + rng.choice([b"", b'"', b"\xef\xbb\xbf", b"/dev/zero\n", b"../../\n"])
        )
        try:
            items, _ = read_list(path)
        except UserError as error:
            assert str(path) in str(error)
            continue
        for item in items:
            with suppress(OSError):
                assert item.read() == b"image"

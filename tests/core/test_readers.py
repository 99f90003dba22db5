"""Files that others wrote: what is read, and how what cannot be is named."""

from dataclasses import dataclass

import pytest

from koala.core import readers
from koala.core.errors import UserError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_how_a_text_is_encoded(tmp_path, encoding):
    (tmp_path / "list.txt").write_bytes("Süß 1.jpg\n€ 2.jpg".encode(encoding))
    assert readers.read_text(tmp_path / "list.txt") == "Süß 1.jpg\n€ 2.jpg"
    (tmp_path / "a.toml").write_bytes('name = "Süß"\n'.encode(encoding))
    assert readers.read_toml(tmp_path / "a.toml") == {"name": "Süß"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("one\nSüß".encode("cp1252"), r"list.txt is no text in UTF-8 \(line 2\); save it as UTF-8"),
        ("one\ntwo".encode("utf-16-le"), r"list.txt is no text: it holds a NUL in line 1"),
        (b"one\nt\0wo", r"list.txt is no text: it holds a NUL in line 2; save it as text in UTF-8"),
        (b"\xff\xfeo", r"list.txt is no text in UTF-16 \(line 1\)"),
    ],
)
def test_what_is_no_text_is_named(data, message):
    with pytest.raises(UserError, match=message):
        readers.decode_text(data, "list.txt")


def test_toml_that_is_none_or_nested_too_deep(tmp_path):
    for text in ("a = ", "a = " + "[" * 5000 + "]" * 5000):
        (tmp_path / "a.toml").write_text(text)
        with pytest.raises(UserError, match=r"a.toml is not TOML"):
            readers.read_toml(tmp_path / "a.toml")


@dataclass(frozen=True)
class Shape:
    number: int
    column: list[int]

    def __post_init__(self) -> None:
        if len(self.column) != self.number:
            raise ValueError("the column is short")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe\xff", "codec"),
        (b"[" * 100_000, "recursion"),
        (b"[]", "dictionary or an instance"),
        (b'{"number": 1}', "column: Field required"),
        (b'{"number": "x", "column": []}', "number: Input should be a valid integer"),
        (b'{"number": 2, "column": [1]}', "the column is short"),
        (b'{"number": ' + b"1" * 5000 + b"}", "limit"),
    ],
)
def test_json_that_is_damaged_or_of_another_shape(data, message):
    with pytest.raises(UserError, match=rf"some.json is damaged \(.*{message}.*\); write it again"):
        readers.parse_json(Shape, data, "some.json", "write it again")


def test_rows_of_a_table():
    text = 'b,a\r\n"x, y",1\r\n"two\nlines",2\r\n'
    assert list(readers.parse_csv(text, "t.csv", ["a", "b"])) == [
        {"a": "1", "b": "x, y"},
        {"a": "2", "b": "two\nlines"},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv has no column a, but none"),
        ("b,c\n1,2\n", "t.csv has no column a, but b, c"),
        ("b,a\n1,2\n3\n", "t.csv: line 3 is short"),
        ("a\n" + "x" * 200_000, "t.csv is no CSV after line 1"),
    ],
)
def test_tables_of_another_shape(text, message):
    with pytest.raises(UserError, match=message):
        list(readers.parse_csv(text, "t.csv", ["a"]))

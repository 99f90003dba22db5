"""Parquet files as the Hugging Face hub has data sets of images."""

import json
import random
import sys
import tarfile
from contextlib import suppress

import pyarrow as pa
import pytest
from pyarrow import parquet

from koala.config.data import ShardRecipe, SplitRule, WriteShards
from koala.core.errors import UserError
from koala.data import parquet as scanning
from koala.data import shard_writer
from koala.data.sources import list_source
from tests.packing import lay_out
from tests.photographs import jpeg, make_photo

PHOTOS = [jpeg(make_photo(number)) for number in range(25)]


def write(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=10, **options)
    return path


def hub_rows(photos, label=lambda number: number % 3):
    """imagenet-1k's columns."""
    return [
        {"image": {"bytes": photo, "path": f"n01440764_{number}_n01440764.JPEG"}, "label": label(number)}
        for number, photo in enumerate(photos)
    ]


def test_a_data_set_of_the_hub_becomes_shards(tmp_path):
    source = tmp_path / "imagenet-1k"
    write(source / "data/train-00000-of-00001.parquet", hub_rows(PHOTOS[:20]))
    write(source / "data/validation-00000-of-00001.parquet", hub_rows(PHOTOS[20:], lambda _: -1))
    lay_out(source, {"README.md": b"# imagenet", ".gitattributes": b""})
    recipe = ShardRecipe(split=SplitRule("data/train-*", "data/validation-*"))
    manifest = shard_writer.write_shards(WriteShards(source, tmp_path / "out", recipe))
    assert (manifest.samples("train"), manifest.samples("val"), manifest.quarantined) == (20, 5, 0)
    found = {}
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"out/{split}-000000.tar") as tar:
            data = [tar.extractfile(member).read() for member in tar]
        for photo, text in zip(data[::2], map(json.loads, data[1::2]), strict=True):
            found[text["source"]] = (photo, text.get("class_index"))
    assert found == {
        **{
            f"data/train-00000-of-00001/{n:06}-n01440764_{n}_n01440764.JPEG": (photo, n % 3)
            for n, photo in enumerate(PHOTOS[:20])
        },
        **{
            f"data/validation-00000-of-00001/{n:06}-n01440764_{n}_n01440764.JPEG": (photo, None)
            for n, photo in enumerate(PHOTOS[20:])
        },
    }


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_a_column_of_bytes_and_rows_without(tmp_path, compression):
    rows = [
        {"jpg": photo if number % 2 else None, "label": f"n0144076{number}"} for number, photo in enumerate(PHOTOS[:4])
    ]
    images = list_source(write(tmp_path / "a.parquet", rows, compression=compression)).images
    assert [(item.name, item.label) for item in images] == [(f"{n:06}", f"n0144076{n}") for n in range(4)]
    assert [images[n].read() for n in (1, 3)] == [PHOTOS[1], PHOTOS[3]]
    with pytest.raises(OSError, match="its row holds no bytes"):
        images[0].read()
    with pytest.raises(OSError, match="bytes are more than the 100 that are allowed"):
        images[1].read(100)


def test_a_row_without_an_image(tmp_path):
    rows = [*hub_rows(PHOTOS[:1]), {"image": None, "label": 1}]
    images = list_source(write(tmp_path / "a.parquet", rows)).images
    assert [item.name for item in images] == ["000000-n01440764_0_n01440764.JPEG", "000001"]
    with pytest.raises(OSError, match="its row holds no bytes"):
        images[1].read()


def test_tables_without_images_are_set_aside(tmp_path):
    write(tmp_path / "data/00000.parquet", [{"url": "a", "caption": "b", "ids": [1, 2]}])
    lay_out(tmp_path / "data", {"1.jpg": PHOTOS[1]})
    listing = list_source(tmp_path / "data")
    reason = "a Parquet file without a column of images; its columns: url, caption, ids.list.element"
    assert listing.set_aside == [("00000", reason)]


def test_without_pyarrow_it_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", hub_rows(PHOTOS[:2]))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"1 set aside: a Parquet file, which needs pyarrow; pip install .*parquet"):
        list_source(path)


def test_a_row_group_that_would_fill_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "MAX_BYTES", 2**20)
    rows = [{"image": {"bytes": bytes(2**22)}}] * 3
    path = write(tmp_path / "a.parquet", rows, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 2**16
    with pytest.raises(UserError, match=r"a.parquet: row group 0 unpacks from \d+ to \d+ bytes, as images do not"):
        list_source(path)


def test_damage_is_named_or_an_error_of_its_image(tmp_path):
    """Three hundred mutations, half of them in the footer."""
    data = write(tmp_path / "a.parquet", hub_rows(PHOTOS[:25]), compression="none").read_bytes()
    rng, refused = random.Random(3), 0
    for number in range(300):
        begin = rng.randrange(len(data)) if number % 2 else len(data) - rng.randrange(1, 3000)
        other = rng.randbytes(rng.choice([1, 1, 4, 100]))
        path = tmp_path / f"{number}.parquet"
        path.write_bytes(data[:begin] + other + data[begin + len(other) :])
        try:
            images = list_source(path).images
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        for item in images[::7]:
            with suppress(OSError):
                item.read()
    assert 20 < refused < 280

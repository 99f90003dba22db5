"""Sources: the same images from folders, lists and archives, and an account of all that lies there."""

import json
import os
import socket
import tarfile
import zipfile
from pathlib import Path

import pytest

from koala.config.data import ShardRecipe, WriteShards
from koala.core.errors import UserError
from koala.data import shard_writer, shards, sources
from koala.data.sources import list_source
from tests.packing import lay_out, tar_bytes, zip_bytes
from tests.photographs import jpeg, make_photo

NAMES = ["a/one.jpg", "a/two words.jpg", "b/über.dot.jpg", "b/" + "long" * 30 + ".jpg"]
PHOTOS = {name: jpeg(make_photo(number)) for number, name in enumerate(NAMES)}


@pytest.fixture
def folder(tmp_path):
    return lay_out(tmp_path / "folder", PHOTOS)


def list_names(folder, name, text):
    (folder / name).write_text(text, "utf-8")
    return folder / name


def pack(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda folder, tmp: folder,
        lambda folder, tmp: pack(tmp / "images.tar", tar_bytes(PHOTOS, form=tarfile.PAX_FORMAT)),
        lambda folder, tmp: pack(tmp / "IMAGES.TAR", tar_bytes(PHOTOS, form=tarfile.GNU_FORMAT)),
        lambda folder, tmp: pack(tmp / "no-suffix", tar_bytes(PHOTOS, form=tarfile.PAX_FORMAT)),
        lambda folder, tmp: pack(tmp / "images.zip", zip_bytes(PHOTOS)),
        lambda folder, tmp: lay_out(tmp / "one", {"images.tar": tar_bytes(PHOTOS, form=tarfile.GNU_FORMAT)}),
        lambda folder, tmp: list_names(folder, "list.txt", "".join(f"{name}\n" for name in reversed(NAMES))),
    ],
    ids=["folder", "tar", "upper case", "by content", "zip", "tar in a folder", "list"],
)
def test_every_kind_of_source_gives_the_same_images(folder, tmp_path, make):
    listing = list_source(make(folder, tmp_path))
    assert {item.name: item.read() for item in listing.images} == PHOTOS
    assert not listing.set_aside


def test_the_same_images_make_the_same_shards_from_a_folder_and_from_a_tar(folder, tmp_path):
    for number, path in enumerate((folder, pack(tmp_path / "images.tar", tar_bytes(PHOTOS, form=tarfile.GNU_FORMAT)))):
        shard_writer.write_shards(WriteShards(path, tmp_path / f"out{number}"))
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / f"out{n}").iterdir()} for n in (0, 1))
    assert first == second


def test_a_webdataset_is_a_source(shard_folder, tmp_path):
    manifest = shard_writer.write_shards(WriteShards(shard_folder, tmp_path))
    again = shards.Shards.open(tmp_path, "train")
    before = {
        opened.read(n).tobytes()
        for opened in (shards.Shards.open(shard_folder, split) for split in shards.SPLITS)
        for n in range(len(opened))
    }
    assert {again.read(n).tobytes() for n in range(48)} == before
    assert manifest.written == 48 and manifest.passed_over == {".json of images": 53, ".idx of images": 5}
    names = {json.loads(line)["source"] for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()}
    assert names == {"manifest.json", "plan.json", "quarantine.jsonl"}


# ---------------------------------------------------------------- everything is accounted for


def test_archives_in_a_folder_are_read_below_their_names_beside_its_images(tmp_path):
    one = jpeg(make_photo(1))
    lay_out(tmp_path, {"train/n01440764/0.JPEG": one, "kit.tar": tar_bytes({"readme.txt": b"hello", "x.JPEG": one})})
    lay_out(tmp_path, {"deep/er/b.zip": zip_bytes({"y.JPEG": one}), "c.tar.gz": b"\x1f\x8b", "d.tgz": b"\x1f\x8b"})
    listing = list_source(tmp_path)
    assert [item.name for item in listing.images] == ["deep/er/b/y.JPEG", "kit/x.JPEG", "train/n01440764/0.JPEG"]
    packed = "packed, and not read in place; unpack it first"
    assert listing.set_aside == [
        ("c.tar.gz", packed),
        ("d.tgz", packed),
        ("kit/readme.txt", "not an image by its name"),
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_captions_take_no_part_in_counts_and_limits(tmp_path, packed):
    """img2dataset's layout: an image, its caption and its JSON."""
    files = {"notes.txt": b"of none"}
    for number in range(10):
        files |= {f"{number:09}.jpg": jpeg(make_photo(number)), f"{number:09}.txt": b"a caption"}
        files |= {f"{number:09}.json": b'{"caption": "a"}', f"labels/{number:09}.xml": b"<box/>"}
    source = lay_out(tmp_path / "source", {"00000.tar": tar_bytes(files)} if packed else files)
    manifest = shard_writer.write_shards(WriteShards(source, tmp_path / "out", ShardRecipe(limit=8)))
    assert (manifest.read, manifest.written, manifest.quarantined) == (9, 8, 1)
    assert manifest.passed_over == {
        ".txt of images": 10,
        ".json of images": 10,
        ".xml of images": 10,
        "beyond the recipe's limit": 2,
    }


def test_hidden_files_are_counted_in_folders_and_archives_alike(tmp_path):
    files = {
        ".DS_Store": b"",
        "a/._1.jpg": b"",
        "__MACOSX/a/._1.jpg": b"",
        "a/1.jpg": b"1",
        "..jpg": b"2",
        ".git/x": b"",
    }
    lay_out(tmp_path / "folder", files)
    pack(tmp_path / "a.tar", tar_bytes({f"./{name}": data for name, data in files.items()}))
    for source in (tmp_path / "folder", tmp_path / "a.tar"):
        listing = list_source(source)
        assert [item.name for item in listing.images] == ["a/1.jpg"]
        assert listing.passed_over == {"hidden": 5}


def test_what_is_no_file_is_named_and_not_waited_for(folder):
    os.mkfifo(folder / "pipe.jpg")
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "round.jpg").symlink_to("round.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listing = list_source(folder)
    assert [item.name for item in listing.images] == sorted(NAMES)
    assert listing.set_aside == [
        ("dangling.jpg", "a link to nowhere.jpg: No such file or directory"),
        ("pipe.jpg", "a named pipe"),
        ("round.jpg", "a link to round.jpg: Too many levels of symbolic links"),
        ("socket", "a socket"),
        ("zero.jpg", "a device"),
    ]


@pytest.mark.parametrize("name", ["pipe.jpg", "zero.jpg", "a"])
def test_what_is_no_file_is_not_opened_where_a_list_names_it(folder, name):
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    images = list_source(list_names(folder, "list.txt", f"{name}\na/one.jpg\n")).images
    (item,) = (item for item in images if item.name == name)
    with pytest.raises(OSError, match=r"a named pipe|a device|a folder"):
        item.read()


def test_folders_that_are_links_are_read_once(tmp_path):
    one = jpeg(make_photo(1))
    lay_out(tmp_path / "scratch/n01440765", {"1.JPEG": one})
    data = lay_out(tmp_path / "data", {"train/n01440764/0.JPEG": one})
    (data / "train/n01440765").symlink_to(tmp_path / "scratch/n01440765")
    (data / "again").symlink_to(tmp_path / "scratch/n01440765")
    (data / "train/up").symlink_to("..")
    (data / "val").symlink_to("train")
    listing = list_source(data)
    assert [item.name for item in listing.images] == ["again/1.JPEG", "train/n01440764/0.JPEG"]
    read = "a link to a folder that is read already"
    assert listing.set_aside == [("train/n01440765/", read), ("train/up/", read), ("val/", read)]


def test_a_source_that_is_a_link_is_followed(folder, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train").symlink_to(folder)
    assert len(list_source(tmp_path / "data").images) == 4
    assert len(list_source(tmp_path / "data/train").images) == 4


def test_folders_that_may_not_be_read_are_named(folder, monkeypatch):
    """Root may read everything, so the refusal is made here."""
    scandir = os.scandir

    def refused(path):
        if path == folder / "b":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    listing = list_source(folder)
    assert [item.name for item in listing.images] == ["a/one.jpg", "a/two words.jpg"]
    assert listing.set_aside == [("b/", "a folder that cannot be read: Permission denied")]


def test_a_name_that_comes_twice_is_set_aside(tmp_path):
    one, two = jpeg(make_photo(1)), jpeg(make_photo(2))
    pack(tmp_path / "twice.tar", tar_bytes({"same.jpg": one}) + tar_bytes({"same.jpg": two}))
    manifest = shard_writer.write_shards(WriteShards(tmp_path / "twice.tar", tmp_path / "out"))
    assert (manifest.read, manifest.written, manifest.quarantined) == (2, 1, 1)
    (line,) = map(json.loads, (tmp_path / "out/quarantine.jsonl").read_text().splitlines())
    assert (line["source"], line["reason"]) == ("same.jpg", "another image has this name")
    assert shards.Shards.open(tmp_path / "out", "train").read(0).tobytes() == one


def test_files_larger_than_the_recipe_allows_are_set_aside_unread(folder, tmp_path):
    with (folder / "disk.img").open("wb") as file:
        file.truncate(2**40)
    manifest = shard_writer.write_shards(WriteShards(folder, tmp_path / "out"))
    assert (manifest.written, manifest.quarantined) == (4, 1)
    assert (
        "1099511627776 bytes are more than the 268435456 that are allowed"
        in (tmp_path / "out/quarantine.jsonl").read_text()
    )


def test_shards_in_the_source_are_no_part_of_it(folder):
    for _ in range(2):
        manifest = shard_writer.write_shards(WriteShards(folder, folder / "shards"))
        assert (manifest.read, manifest.written) == (4, 4)
    with pytest.raises(UserError, match="is the source itself; choose another folder"):
        shard_writer.write_shards(WriteShards(folder, folder))


# ---------------------------------------------------------------- sources that hold nothing to read


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no file; name a folder of images"),
        ({"a.tar": tar_bytes({})}, "holds no file; name a folder of images"),
        (
            {"a.tar.gz": b"\x1f\x8b", "b.tgz": b"", "c.txt": b""},
            r"3 set aside: packed, .* \(2\), not an image by its name \(1\)",
        ),
        ({"a.tar": b"\x1f\x8b" + bytes(100)}, r"1 set aside: gzip, packed, and not read in place; unpack it first"),
        ({"a.tar": tar_bytes({"b.zip": b""})}, r"1 set aside: an archive within an archive; unpack the outer one"),
        ({"a.tar": b"no tar"}, "a.tar: it is cut off: it ends at byte 6"),
        ({"a.zip": b"no zip"}, "the directory at the end of .*a.zip is damaged"),
    ],
)
def test_a_source_without_images_is_refused_with_the_reason(tmp_path, files, message):
    lay_out(tmp_path, files)
    with pytest.raises(UserError, match=message):
        list_source(tmp_path)


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_refused(tmp_path, compression):
    with tarfile.open(tmp_path / "images.tar", f"w:{compression}") as tar:
        tar.add(__file__, "a.jpg")
    with pytest.raises(UserError, match=r"images.tar holds no image; 1 set aside: \w+, packed, and not read in place"):
        list_source(tmp_path / "images.tar")


def test_what_is_no_source_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    pack(tmp_path / "photo.jpg", jpeg(make_photo(1)))
    for name, message in (
        ("nowhere", "does not exist; name a folder of images"),
        ("pipe", "is a named pipe, no source of images; name a folder"),
        ("photo.jpg", "is no text.*, if it is a list; else name a folder of images"),
    ):
        with pytest.raises(UserError, match=f"{name} {message}"):
            list_source(tmp_path / name)


def test_where_most_cannot_be_used_the_commonest_reasons_are_said(tmp_path, capsys):
    files = {f"{number}.jpg": b"no image" for number in range(5)} | {f"{number}.png": b"" for number in range(2)}
    source = lay_out(tmp_path / "source", {**files, "good.jpg": jpeg(make_photo(1))})
    assert shard_writer.write_command(WriteShards(source, tmp_path / "out")) == 1
    assert "7 of 8 could not be used: not an image (5), empty file (2); mend the source" in capsys.readouterr().out
    (source / "good.jpg").unlink()
    assert shard_writer.write_command(WriteShards(source, tmp_path / "none")) == 1
    assert "7 read = 0 written + 7 set aside" in capsys.readouterr().out
    lay_out(source, {f"good{number}.jpg": jpeg(make_photo(number)) for number in range(7)})
    assert shard_writer.write_command(WriteShards(source, tmp_path / "half")) == 0, "no more than half"


def test_no_file_is_kept_open(tmp_path):
    """A data set may have more tars than a process may have files."""
    lay_out(tmp_path, {f"{number}.tar": tar_bytes({"1.jpg": b"1"}) for number in range(20)})
    lay_out(tmp_path, {f"z{number}.zip": zip_bytes({"1.jpg": b"1"}) for number in range(20)})
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert [item.read() for item in list_source(tmp_path).images] == [b"1"] * 40
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_reasons_that_differ_in_numbers_are_one():
    reasons = ["4 bytes", "5 bytes", "a", "b", "b", "a link to x: gone", "a link to y: gone", "6 bytes"]
    assert sources.commonest_reasons(reasons) == "4 bytes (3), b (2), a link to x: gone (2)"


def test_a_zip_without_suffix_is_told_by_its_content(tmp_path):
    pack(tmp_path / "images", zip_bytes(PHOTOS, zipfile.ZIP_STORED))
    assert len(list_source(tmp_path / "images").images) == 4

"""Sources: folders, lists, archives, webdatasets, ImageNet's own layout."""

import io
import json
import tarfile
import zipfile
from dataclasses import asdict

import pytest

from koala.config.data import ShardRecipe, SplitRule, WriteShards
from koala.core.errors import UserError
from koala.data import shard_writer, shards, sources
from koala.data.sources import ClassLabel, FolderSource, ListSource, TarSource, ZipSource
from tests.photographs import jpeg, make_photo

NAMES = ["a/one.jpg", "a/two words.jpg", "b/über.dot.jpg", "b/" + "long" * 30 + ".jpg"]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "folder"
    for number, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(make_photo(number)))
    (root / ".hidden.jpg").write_bytes(b"passed over")
    return root


def pack_tar(folder, path, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name in NAMES:
            tar.add(folder / name, name)
    return path


def pack_zip(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in NAMES:
            archive.write(folder / name, name)
    return path


def list_names(folder, name, header=""):
    path = folder / name
    path.write_text(header + "".join(f"{name}{',x' if path.suffix == '.csv' else ''}\n" for name in reversed(NAMES)))
    return path


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (FolderSource, lambda folder, _: folder),
        (TarSource, lambda folder, tmp: pack_tar(folder, tmp / "images.tar")),
        (ZipSource, lambda folder, tmp: pack_zip(folder, tmp / "images.zip")),
        (ListSource, lambda folder, _: list_names(folder, "list.txt")),
        (ListSource, lambda folder, _: list_names(folder, "list.csv")),
        (ListSource, lambda folder, _: list_names(folder, "header.csv", "name,class\n")),
    ],
)
def test_every_kind_of_source_gives_the_same_images(folder, tmp_path, kind, make):
    path = make(folder, tmp_path)
    source = sources.open_source(path)
    assert isinstance(source, kind)
    images = {item.name: source.read(item) for item in sources.list_items(source) if item.name in NAMES}
    assert images == {name: (folder / name).read_bytes() for name in NAMES}


def test_the_same_images_make_the_same_shards_from_a_folder_and_from_a_tar(folder, tmp_path):
    for number, path in enumerate((folder, pack_tar(folder, tmp_path / "images.tar"))):
        shard_writer.write_shards(WriteShards(path, tmp_path / f"out{number}"))
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / f"out{n}").iterdir()} for n in (0, 1))
    assert first == second


def test_a_webdataset_is_a_source(shard_folder, tmp_path):
    shard_writer.write_shards(WriteShards(shard_folder, tmp_path))
    again = shards.Shards.open(tmp_path, "train")
    assert len(again) == 48
    before = {
        opened.read(n).tobytes()
        for opened in (shards.Shards.open(shard_folder, split) for split in shards.SPLITS)
        for n in range(len(opened))
    }
    assert {again.read(n).tobytes() for n in range(48)} == before


def test_a_compressed_tar_is_refused(folder, tmp_path):
    path = pack_tar(folder, tmp_path / "images.tar.gz", "w:gz")
    with pytest.raises(UserError, match="is no uncompressed tar"):
        sources.list_items(sources.open_source(path))


def test_a_name_that_comes_twice_is_set_aside(folder, tmp_path):
    with tarfile.open(tmp_path / "twice.tar", "w") as tar:
        for number in (1, 2):
            data = jpeg(make_photo(number))
            info = tarfile.TarInfo("same.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    manifest = shard_writer.write_shards(WriteShards(tmp_path / "twice.tar", tmp_path / "out"))
    assert (manifest.read, manifest.written, manifest.quarantined) == (2, 1, 1)
    (line,) = (tmp_path / "out/quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "another image has this name"


def test_a_file_that_a_list_names_in_vain_is_set_aside(folder, tmp_path):
    listing = list_names(folder, "list.txt")
    listing.write_text(listing.read_text() + "gone.jpg\n")
    manifest = shard_writer.write_shards(WriteShards(listing, tmp_path / "out"))
    assert (manifest.written, manifest.quarantined) == (4, 1)
    assert "No such file" in (tmp_path / "out/quarantine.jsonl").read_text()


# ---------------------------------------------------------------- ImageNet


@pytest.fixture
def imagenet(tmp_path):
    """Kaggle's layout, small: train by class folder, val flat with its list."""
    root = tmp_path / "imagenet"
    base = root / "ILSVRC/Data/CLS-LOC"
    for number, wnid in enumerate(("n01440764", "n02085620", "n07753592")):
        path = base / f"train/{wnid}/{wnid}_{number}.JPEG"
        path.parent.mkdir(parents=True)
        path.write_bytes(jpeg(make_photo(number)))
    (base / "val").mkdir()
    for number in (1, 2):
        (base / f"val/ILSVRC2012_val_{number:08d}.JPEG").write_bytes(jpeg(make_photo(10 + number)))
    (root / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000001,n07753592 1 2 3 4 n07753592 5 6 7 8 \n"
        "ILSVRC2012_val_00000002,n01440764 1 2 3 4 \n"
    )
    (root / "LOC_synset_mapping.txt").write_text(
        "n01440764 tench, Tinca tinca\nn02085620 Chihuahua\nn03000684 chain saw\nn07753592 banana\n"
    )
    return root


def labels_of(source_path):
    source = sources.open_source(source_path)
    items = sources.list_items(source)
    labels = sources.find_labels(source, items)
    return {item.name.rpartition("/")[2]: labels.of(item.name) for item in items}


def test_classes_of_train_and_val(imagenet):
    found = labels_of(imagenet)
    assert found["n02085620_1.JPEG"] == ClassLabel("n02085620", 1)
    assert found["ILSVRC2012_val_00000001.JPEG"] == ClassLabel("n07753592", 3)
    assert found["ILSVRC2012_val_00000002.JPEG"] == ClassLabel("n01440764", 0)


def test_the_lists_are_found_above_the_validation_folder(imagenet):
    found = labels_of(imagenet / "ILSVRC/Data/CLS-LOC/val")
    assert found["ILSVRC2012_val_00000001.JPEG"] == ClassLabel("n07753592", 3)


def test_classes_without_a_list_are_numbered_in_order(imagenet):
    (imagenet / "LOC_synset_mapping.txt").unlink()
    (imagenet / "LOC_val_solution.csv").unlink()
    found = labels_of(imagenet)
    assert [found[f"{w}_{n}.JPEG"].class_index for n, w in enumerate(("n01440764", "n02085620", "n07753592"))] == [
        0,
        1,
        2,
    ]
    assert found["ILSVRC2012_val_00000001.JPEG"] is None


def test_labels_are_kept_in_the_samples_json(imagenet, tmp_path):
    split = SplitRule(train_folder="ILSVRC/Data/CLS-LOC/train", val_folder="ILSVRC/Data/CLS-LOC/val")
    shard_writer.write_shards(WriteShards(imagenet, tmp_path / "out", ShardRecipe(split=split)))
    with tarfile.open(tmp_path / "out/val-000000.tar") as tar:
        members = [json.loads(tar.extractfile(member).read()) for member in tar if member.name.endswith(".json")]
    expected = {
        "ILSVRC2012_val_00000001": asdict(ClassLabel("n07753592", 3)),
        "ILSVRC2012_val_00000002": asdict(ClassLabel("n01440764", 0)),
    }
    assert {
        m["source"].rpartition("/")[2].removesuffix(".JPEG"): {key: m[key] for key in ("wnid", "class_index")}
        for m in members
    } == expected


def test_classes_of_a_webdataset_are_kept(tmp_path):
    """Beside the image as "cls", as webdataset's own tools write it, or in the JSON, as koala does."""
    import webdataset

    (tmp_path / "source").mkdir()
    with webdataset.TarWriter(str(tmp_path / "source/some.tar")) as tar:
        tar.write({"__key__": "first", "jpg": jpeg(make_photo(1)), "cls": 7})
        tar.write({"__key__": "second", "jpg": jpeg(make_photo(2)), "json": {"wnid": "n01440764", "class_index": 0}})
        tar.write({"__key__": "third", "jpg": jpeg(make_photo(3))})
    shard_writer.write_shards(WriteShards(tmp_path / "source", tmp_path / "out"))
    with tarfile.open(tmp_path / "out/train-000000.tar") as tar:
        found = [json.loads(tar.extractfile(member).read()) for member in tar if member.name.endswith(".json")]
    classes = {sample["source"]: (sample.get("wnid"), sample.get("class_index")) for sample in found}
    assert classes == {"first.jpg": (None, 7), "second.jpg": ("n01440764", 0), "third.jpg": (None, None)}

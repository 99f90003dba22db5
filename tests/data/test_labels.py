"""The classes of images: of ImageNet in all its layouts, of webdatasets, of lists."""

import io
import json
import tarfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from koala.config.data import ShardRecipe, SplitRule, WriteShards
from koala.config.load import load_toml
from koala.core.errors import UserError
from koala.data import shard_writer
from koala.data.labels import ClassLabel, find_labels
from koala.data.sources import list_source
from tests.packing import lay_out, tar_bytes
from tests.photographs import jpeg, make_photo

WNIDS = ("n01440764", "n02085620", "n07753592")
SYNSETS = "n01440764 tench, Tinca tinca\nn02085620 Chihuahua\nn03000684 chain saw\nn07753592 banana\n"
SOLUTION = (
    "ImageId,PredictionString\nILSVRC2012_val_00000001,n07753592 1 2 3 4 n07753592 5 6 7 8 \n"
    "ILSVRC2012_val_00000002,n01440764 1 2 3 4 \n"
)
TRAIN = {f"{wnid}_{number}.JPEG": jpeg(make_photo(number)) for number, wnid in enumerate(WNIDS)}
VAL = {f"ILSVRC2012_val_{number:08d}.JPEG": jpeg(make_photo(10 + number)) for number in (1, 2)}
RECIPE = Path(__file__).parents[2] / "shards/imagenet-full.toml"


@pytest.fixture
def kaggle(tmp_path):
    """Kaggle's layout, small: train by class folder, val flat with its list."""
    base = "ILSVRC/Data/CLS-LOC"
    files = {f"{base}/train/{name.partition('_')[0]}/{name}": data for name, data in TRAIN.items()}
    files |= {f"{base}/val/{name}": data for name, data in VAL.items()}
    files |= {"LOC_val_solution.csv": SOLUTION.encode(), "LOC_synset_mapping.txt": SYNSETS.encode()}
    return lay_out(tmp_path / "imagenet", files)


@pytest.fixture
def tars(tmp_path):
    """What image-net.org gives, small: a tar of the classes' tars, and one of the validation images."""
    classes = {f"{name.partition('_')[0]}.tar": tar_bytes({name: data}) for name, data in TRAIN.items()}
    files = {"ILSVRC2012_img_train.tar": tar_bytes(classes), "ILSVRC2012_img_val.tar": tar_bytes(VAL)}
    return lay_out(tmp_path / "tars", files)


def devkit_files():
    """Numbers of classes that are in no order of WordNet ids, as in ILSVRC2012_devkit_t12."""
    kinds = [("ILSVRC2012_ID", "i4"), ("WNID", object), ("words", object)]
    synsets = np.array([(1, WNIDS[2], "banana"), (2, WNIDS[0], "tench"), (3, WNIDS[1], "Chihuahua")], kinds)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    folder = "ILSVRC2012_devkit_t12/data"
    return {
        f"{folder}/ILSVRC2012_validation_ground_truth.txt": b"1\n2\n",
        f"{folder}/meta.mat": meta.getvalue(),
    }


def devkit_tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in devkit_files().items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def labels_of(source):
    listing = list_source(source)
    labels = find_labels(source, listing.images, listing.lists)
    return {item.name.rpartition("/")[2]: labels.describe(item) for item in listing.images}


def written(out):
    """The JSON of every sample, by its source."""
    found = {}
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    text = json.loads(tar.extractfile(member).read())
                    found[text.pop("source")] = text
    return found


TRAIN_LABELS = {f"{wnid}_{number}.JPEG": ClassLabel(wnid, number) for number, wnid in enumerate(WNIDS)}
VAL_LABELS = {
    "ILSVRC2012_val_00000001.JPEG": ClassLabel("n07753592", 2),
    "ILSVRC2012_val_00000002.JPEG": ClassLabel("n01440764", 0),
}
EXPECTED = {name: asdict(label) for name, label in (TRAIN_LABELS | VAL_LABELS).items()}


# ---------------------------------------------------------------- Kaggle's layout


def test_classes_of_train_and_val(kaggle):
    found = labels_of(kaggle)
    assert found["n02085620_1.JPEG"] == asdict(ClassLabel("n02085620", 1))
    assert found["ILSVRC2012_val_00000001.JPEG"] == asdict(ClassLabel("n07753592", 3)), "numbered as in the list"
    assert found["ILSVRC2012_val_00000002.JPEG"] == asdict(ClassLabel("n01440764", 0))


def test_the_lists_are_found_above_the_validation_folder(kaggle):
    found = labels_of(kaggle / "ILSVRC/Data/CLS-LOC/val")
    assert found["ILSVRC2012_val_00000001.JPEG"] == asdict(ClassLabel("n07753592", 3))


def test_classes_without_a_list_are_numbered_in_order(kaggle):
    (kaggle / "LOC_synset_mapping.txt").unlink()
    (kaggle / "LOC_val_solution.csv").unlink()
    found = labels_of(kaggle)
    assert {name: found[name] for name in TRAIN} == {name: EXPECTED[name] for name in TRAIN}
    assert found["ILSVRC2012_val_00000001.JPEG"] == {}


def test_the_class_of_a_folder_above(kaggle):
    """Tiny ImageNet has train/n01443537/images/n01443537_0.JPEG."""
    before = labels_of(kaggle)
    photo = next(kaggle.rglob("n*/*.JPEG"))
    (photo.parent / "images").mkdir()
    photo.rename(photo.parent / "images" / photo.name)
    assert before[photo.name]["wnid"] == photo.parent.name
    assert labels_of(kaggle) == before


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_saved_by_a_spreadsheet(kaggle, encoding):
    for name in ("LOC_val_solution.csv", "LOC_synset_mapping.txt"):
        text = (kaggle / name).read_text()
        (kaggle / name).write_bytes(text.encode(encoding))
    assert labels_of(kaggle)["ILSVRC2012_val_00000001.JPEG"] == asdict(ClassLabel("n07753592", 3))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("LOC_val_solution.csv", b"id,class\n1,2\n", "has no column ImageId, but id, class"),
        ("LOC_val_solution.csv", b"ImageId,PredictionString\nx\n", "line 2 is short"),
        ("LOC_val_solution.csv", b"\x89PNG\xff\0", "is no text"),
        ("LOC_synset_mapping.txt", "n1 Süß".encode("cp1252"), r"is no text in UTF-8 \(line 1\)"),
    ],
)
def test_damaged_lists_are_named(kaggle, name, data, message):
    (kaggle / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name} in or above {kaggle}.*{message}"):
        labels_of(kaggle)


# ---------------------------------------------------------------- image-net.org's


@pytest.mark.parametrize("layout", ["kaggle", "tars", "folders", "class tars"])
def test_each_layout_of_imagenet_is_the_full_data_set(kaggle, tars, tmp_path, layout):
    """With the recipe as it is: the training and the validation images, with their classes; test images are no part."""
    if layout == "kaggle":
        source = lay_out(kaggle, {"ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG": TRAIN["n01440764_0.JPEG"]})
        (source / "LOC_synset_mapping.txt").unlink()
    elif layout == "tars":
        source = lay_out(tars, {"ILSVRC2012_devkit_t12.tar.gz": devkit_tar()})
        lay_out(
            tars, {"ILSVRC2012_img_test.tar": tar_bytes({"ILSVRC2012_test_00000001.JPEG": TRAIN["n01440764_0.JPEG"]})}
        )
    elif layout == "folders":
        files = {f"train/{name.partition('_')[0]}/{name}": data for name, data in TRAIN.items()}
        files |= {f"val/{EXPECTED[name]['wnid']}/{name}": data for name, data in VAL.items()}
        source = lay_out(tmp_path / "torch", {**files, "test/1.JPEG": TRAIN["n01440764_0.JPEG"]})
    else:
        files = {f"train/{name.partition('_')[0]}.tar": tar_bytes({name: data}) for name, data in TRAIN.items()}
        source = lay_out(
            tmp_path / "unpacked", {**files, "val.tar": tar_bytes(VAL), "test/1.JPEG": b"", **devkit_files()}
        )
    manifest = shard_writer.write_shards(WriteShards(source, tmp_path / "out", load_toml(ShardRecipe, RECIPE)))
    assert (manifest.samples("train"), manifest.samples("val"), manifest.quarantined) == (3, 2, 0)
    assert manifest.passed_over["outside the folders of the split"] == 1
    found = written(tmp_path / "out")
    kept = ("wnid", "class_index")
    assert {name.rpartition("/")[2]: {key: text[key] for key in kept} for name, text in found.items()} == EXPECTED


def test_nothing_is_unpacked_from_a_tar_of_tars(tars):
    names = [item.name for item in list_source(tars / "ILSVRC2012_img_train.tar").images]
    assert names == [f"{name.partition('_')[0]}/{name}" for name in TRAIN]
    found = labels_of(tars / "ILSVRC2012_img_train.tar")
    assert found == {name: EXPECTED[name] for name in TRAIN}
    assert sorted(path.name for path in tars.iterdir()) == ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"]


@pytest.mark.parametrize("beside", ["kaggle", "kit", "packed kit", "plain"])
def test_classes_of_the_validation_tar_come_from_what_lies_beside_it(tars, beside):
    if beside == "kaggle":
        lay_out(tars, {"LOC_val_solution.csv": SOLUTION.encode()})
    elif beside == "kit":
        lay_out(tars, devkit_files())
    elif beside == "packed kit":
        lay_out(tars, {"ILSVRC2012_devkit_t12.tar.gz": devkit_tar()})
    else:
        lay_out(tars, {name.rpartition("/")[2]: data for name, data in devkit_files().items()})
    found = labels_of(tars / "ILSVRC2012_img_val.tar")
    assert {name: label["wnid"] for name, label in found.items()} == {name: EXPECTED[name]["wnid"] for name in VAL}


def test_numbers_of_classes_without_the_kit_are_not_taken_for_classes(tars, capsys):
    lay_out(tars, {"ILSVRC2012_validation_ground_truth.txt": b"1\n2\n"})
    assert labels_of(tars / "ILSVRC2012_img_val.tar") == {name: {} for name in VAL}
    assert "to know the classes put meta.mat or ILSVRC2012_devkit_t12.tar.gz beside it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ILSVRC2012_devkit_t12.tar.gz", "meta.mat"])
def test_a_damaged_kit_is_named(tars, name):
    files = {"ILSVRC2012_devkit_t12.tar.gz": devkit_tar()[:200]}
    if name == "meta.mat":
        files = {path.rpartition("/")[2]: data[:200] for path, data in devkit_files().items()}
    lay_out(tars, files)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        labels_of(tars / "ILSVRC2012_img_val.tar")


# ---------------------------------------------------------------- other data sets


def test_labels_are_kept_in_the_samples_json(kaggle, tmp_path):
    split = SplitRule(train_folder="ILSVRC/Data/CLS-LOC/train", val_folder="ILSVRC/Data/CLS-LOC/val")
    shard_writer.write_shards(WriteShards(kaggle, tmp_path / "out", ShardRecipe(split=split)))
    found = written(tmp_path / "out")
    assert len(found) == 5
    val = found["ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG"]
    assert (val["wnid"], val["class_index"]) == ("n07753592", 3)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["7", "0"], [{"class_index": 7}, {"class_index": 0}]),
        (["n02085620", "n01440764"], [asdict(ClassLabel("n02085620", 1)), asdict(ClassLabel("n01440764", 0))]),
    ],
)
def test_labels_of_a_list_are_kept(tmp_path, labels, expected):
    lines = "".join(f"{number}.jpg {label}\n" for number, label in enumerate(labels))
    lay_out(tmp_path, {"0.jpg": b"0", "1.jpg": b"1", "list.txt": lines.encode()})
    assert list(labels_of(tmp_path / "list.txt").values()) == expected


def test_classes_of_a_webdataset_are_kept(tmp_path):
    """Beside the image as "cls", as webdataset's own tools write it, or in the JSON, as koala does; damage is none."""
    import webdataset

    (tmp_path / "source").mkdir()
    with webdataset.TarWriter(str(tmp_path / "source/some.tar"), encoder=False) as tar:
        tar.write({"__key__": "first", "jpg": jpeg(make_photo(1)), "cls": b"7"})
        tar.write({"__key__": "second", "jpg": jpeg(make_photo(2)), "json": b'{"wnid": "n01440764", "class_index": 0}'})
        tar.write({"__key__": "third", "jpg": jpeg(make_photo(3))})
        tar.write({"__key__": "fourth", "jpg": jpeg(make_photo(4)), "json": b"[" * 100_000})
        tar.write({"__key__": "fifth", "jpg": jpeg(make_photo(5)), "json": b"\xff\xfe\0", "cls": b"x"})
    shard_writer.write_shards(WriteShards(tmp_path / "source", tmp_path / "out"))
    found = written(tmp_path / "out")
    classes = {name: (text.get("wnid"), text.get("class_index")) for name, text in found.items()}
    none = (None, None)
    assert classes == {
        "first.jpg": (None, 7),
        "second.jpg": ("n01440764", 0),
        **{f"{name}.jpg": none for name in ("third", "fourth", "fifth")},
    }

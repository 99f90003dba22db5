"""Shards: what is written, what other readers make of it, what is found when it is damaged."""

import gc
import hashlib
import io
import json
import os
import shutil
import tarfile
import warnings

import numpy as np
import pytest
from PIL import Image

from koala.config.data import ShardRecipe, SplitRule, VerifyShards, WriteShards
from koala.core.errors import UserError
from koala.data import shard_writer, shards, verification
from tests.photographs import jpeg, make_photo


def write(source, out, **recipe):
    return shard_writer.write_shards(WriteShards(source, out, ShardRecipe(**recipe)))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_image_is_written_once_and_bytes_are_kept(photo_folder, shard_folder):
    sources = {}
    for tar in shard_folder.glob("*.tar"):
        with tarfile.open(tar) as file:
            members = {member.name: file.extractfile(member).read() for member in file}
        for name in (name for name in members if name.endswith(".json")):
            source = json.loads(members[name])["source"]
            assert source not in sources
            sources[source] = members[name.replace(".json", ".jpg")]
    assert sources == {
        path.relative_to(photo_folder).as_posix(): path.read_bytes() for path in photo_folder.rglob("*.jpg")
    }


def test_training_and_validation_are_disjoint_and_shuffled(shard_folder):
    split = {name: shards.Shards.open(shard_folder, name) for name in shards.SPLITS}
    names = {name: [opened.describe(i).source for i in range(len(opened))] for name, opened in split.items()}
    assert (len(names["train"]), len(names["val"])) == (40, 8)
    assert not set(names["train"]) & set(names["val"])
    assert names["train"] != sorted(names["train"])


def test_the_same_input_gives_the_same_bytes(photo_folder, shard_folder, tmp_path):
    write(photo_folder, tmp_path / "again", samples_per_shard=10, split=SplitRule(val_count=8))
    assert contents(tmp_path / "again") == contents(shard_folder)


def test_records_and_manifest_agree_with_the_tars(shard_folder):
    manifest = json.loads((shard_folder / "manifest.json").read_text())
    assert (manifest["read"], manifest["written"], manifest["quarantined"]) == (48, 48, 0)
    assert [entry["samples"] for entry in manifest["splits"]["train"]] == [10, 10, 10, 10]
    for entry in manifest["splits"]["train"] + manifest["splits"]["val"]:
        data = (shard_folder / entry["shard"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])


def test_samples_are_read_back_with_their_sizes(shard_folder):
    opened = shards.Shards.open(shard_folder, "train")
    for sample in (0, 9, 10, 39):
        with Image.open(io.BytesIO(opened.read(sample).tobytes())) as image:
            assert (image.height, image.width) == (opened.height[sample], opened.width[sample])
        assert opened.describe(sample).shard == f"train-{sample // 10:06d}.tar"


def test_webdataset_reads_the_shards(shard_folder):
    import webdataset

    opened = shards.Shards.open(shard_folder, "train")
    url = str(shard_folder / "train-{000000..000003}.tar")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its last file to the collector
        samples = list(webdataset.WebDataset(url, shardshuffle=False, empty_check=False))
        gc.collect()
    assert len(samples) == 40
    for number, sample in enumerate(samples):
        assert sample["jpg"] == opened.read(number).tobytes()
        assert json.loads(sample["json"])["source"] == opened.describe(number).source
        assert sample["__key__"] == opened.describe(number).key


def test_dalis_own_reader_reads_the_shards(shard_folder):
    from nvidia.dali import Pipeline, fn

    tars = sorted(map(str, shard_folder.glob("train-*.tar")))
    pipeline = Pipeline(batch_size=40, num_threads=1, device_id=None)
    with pipeline:
        jpg, description = fn.readers.webdataset(
            paths=tars, index_paths=[tar.replace(".tar", ".idx") for tar in tars], ext=["jpg", "json"]
        )
        pipeline.set_outputs(jpg, description)
    pipeline.build()
    jpgs, descriptions = pipeline.run()
    opened = shards.Shards.open(shard_folder, "train")
    for number in range(40):
        assert np.array_equal(np.array(jpgs[number]), opened.read(number))
        assert json.loads(bytes(np.array(descriptions[number])))["source"] == opened.describe(number).source


def test_bad_images_are_set_aside_counted_and_named(photo_folder, tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    whole = jpeg(make_photo(1, 300, 200))
    (source / "good.jpg").write_bytes(whole)
    (source / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (source / "empty.jpg").write_bytes(b"")
    (source / "text.jpg").write_text("not a picture at all")
    assert shard_writer.write_command(WriteShards(source, tmp_path / "out")) == 1, "more than half"
    captured = capsys.readouterr()
    assert "4 read = 1 written + 3 set aside" in captured.out
    assert "3 of 4 could not be used: " in captured.out and "not an image (1)" in captured.out
    for name, reason in (
        ("truncated", "damaged JPEG: it ends too early"),
        ("empty", "empty file"),
        ("text", "not an image"),
    ):
        assert f"set aside {name}.jpg" in captured.err
        record = shards.read_record(tmp_path / "out/train-000000.json")
        assert reason in dict(record.quarantined)[f"{name}.jpg"]


def test_splits_by_sub_folder(photo_folder, tmp_path):
    split = SplitRule(train_folder="first", val_folder="second")
    write(photo_folder, tmp_path, split=split)
    for name, folder in (("train", "first"), ("val", "second")):
        opened = shards.Shards.open(tmp_path, name)
        assert {opened.describe(i).source.split("/")[0] for i in range(len(opened))} == {folder}
        assert len(opened) == 24
    write(photo_folder, tmp_path / "rest", split=SplitRule(val_folder="second"))
    assert len(shards.Shards.open(tmp_path / "rest", "train")) == 24, "all others are the other set"
    with pytest.raises(UserError, match='no image lies below "third"'):
        write(photo_folder, tmp_path / "no", split=SplitRule(train_folder="third"))


def test_a_list_of_images_and_a_limit(photo_folder, tmp_path):
    names = sorted(path.relative_to(photo_folder).as_posix() for path in photo_folder.rglob("*.jpg"))
    listing = photo_folder / "list.txt"
    listing.write_text("\n".join(names[:20]))
    try:
        manifest = write(listing, tmp_path, limit=9, split=SplitRule(val_share=1 / 3))
    finally:
        listing.unlink()
    assert [len(shards.Shards.open(tmp_path, split)) for split in ("train", "val")] == [6, 3]
    assert manifest.written == 9


def test_an_interrupted_write_goes_on_and_ends_the_same(photo_folder, shard_folder, tmp_path, monkeypatch):
    shutil.copytree(shard_folder, tmp_path / "out")
    for name in ("manifest.json", "train-000002.json", "train-000003.json", "train-000003.tar"):
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out/train-000003.tar.99.part").write_bytes(b"half a shard")
    kept = (tmp_path / "out/train-000001.tar").stat().st_mtime_ns
    write(photo_folder, tmp_path / "out", samples_per_shard=10, split=SplitRule(val_count=8))
    assert contents(tmp_path / "out") == contents(shard_folder)
    assert (tmp_path / "out/train-000001.tar").stat().st_mtime_ns == kept


def test_another_recipe_is_not_written_over(photo_folder, shard_folder):
    with pytest.raises(UserError, match="another recipe or source; choose another --out"):
        write(photo_folder, shard_folder, samples_per_shard=10, seed=1, split=SplitRule(val_count=8))


@pytest.fixture
def copied(shard_folder, tmp_path):
    return shutil.copytree(shard_folder, tmp_path / "copied")


def test_verify_finds_whole_shards_well(shard_folder, capsys):
    assert verification.verify_command(VerifyShards(shard_folder)) == 0
    assert "all is well" in capsys.readouterr().out


def test_verify_finds_a_flipped_bit_anywhere(copied):
    tar = copied / "train-000002.tar"
    data = bytearray(tar.read_bytes())
    for place in (0, 700, len(data) // 2, len(data) - 1):
        data[place] ^= 1
        tar.write_bytes(data)
        assert any(fault.startswith("train-000002.tar: sha256") for fault in verification.verify_shards(copied)), place
        data[place] ^= 1


def test_verify_finds_an_index_that_would_mislead(copied):
    (copied / "train-000000.idx").write_text("v1.2 0\n")
    (copied / "train-000001.idx").unlink()
    faults = verification.verify_shards(copied)
    assert [fault.partition(":")[0] for fault in faults] == ["train-000000.idx", "train-000001.idx"]


def test_verify_names_the_key_of_a_bad_sample(copied):
    opened = shards.Shards.open(copied, "train")
    found, jpeg_bytes = opened.describe(12), opened.read(12).tobytes()
    tar = copied / "train-000001.tar"
    tar.write_bytes(tar.read_bytes().replace(jpeg_bytes, b"x" * len(jpeg_bytes)))
    assert any(f"{found.key} ({found.source}) does not decode" in fault for fault in verification.verify_shards(copied))


def test_verify_names_what_is_missing_or_short(copied, capsys):
    (copied / "train-000000.tar").unlink()
    (copied / "train-000001.json").unlink()
    tar = copied / "val-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-10240])
    assert verification.verify_command(VerifyShards(copied)) == 1
    printed = capsys.readouterr().out
    assert "train-000000.tar" in printed and "train-000001.json is missing" in printed
    assert "val-000000.tar: sha256" in printed and "bytes long, its record says" in printed


def test_reading_a_shortened_shard_names_it(copied):
    tar = copied / "train-000003.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"train-000003.tar is 5000 bytes long, its record says \d+"):
        shards.Shards.open(copied, "train").read(35)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "holds no manifest.json"),
        ("{", "manifest.json is damaged"),
        ("[]", "manifest.json is damaged"),
        ('{"format": "koala-shards/1"}', "manifest.json is damaged"),
        ('{"format": "other"}', "has format 'other'"),
    ],
)
def test_what_is_no_shard_folder_is_said(tmp_path, manifest, message):
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match=message):
        shards.Shards.open(tmp_path, "train")


def test_a_split_without_samples_is_said(photo_folder, tmp_path):
    write(photo_folder, tmp_path)
    with pytest.raises(UserError, match='holds no "val" samples'):
        shards.Shards.open(tmp_path, "val")


def test_names_that_are_no_text_are_kept(tmp_path):
    name = os.fsdecode(b"gr\xfcn.jpg")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / name).write_bytes(jpeg(make_photo(1)))
    (tmp_path / "source" / os.fsdecode(b"\xff.jpg")).write_text("no picture")
    assert shard_writer.write_command(WriteShards(tmp_path / "source", tmp_path / "out")) == 0
    assert shards.Shards.open(tmp_path / "out", "train").describe(0).source == name
    assert verification.verify_shards(tmp_path / "out") == []


def test_missing_source_is_said(tmp_path):
    with pytest.raises(UserError, match="is no text"):
        (tmp_path / "photo.jpg").write_bytes(jpeg(make_photo(1)))
        write(tmp_path / "photo.jpg", tmp_path / "out")
    with pytest.raises(UserError, match="does not exist"):
        write(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no file"):
        write(tmp_path / "empty", tmp_path / "out")


@pytest.mark.slow
def test_real_photographs(real_photos, tmp_path):
    manifest = write(real_photos, tmp_path, samples_per_shard=128)
    assert (manifest.read, manifest.written, manifest.quarantined) == (600, 600, 0)
    assert verification.verify_shards(tmp_path) == []

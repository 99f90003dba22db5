"""Damage to a folder of shards beside its tars: each is found and named, and repaired from the source."""

import json
import random
import re
import shutil

import pytest

from koala import cli
from koala.config.data import VerifyShards, WriteShards
from koala.core.errors import UserError
from koala.data import shard_writer, shards, verification
from tests.packing import lay_out, mutated


@pytest.fixture
def copied(shard_folder, tmp_path):
    return shutil.copytree(shard_folder, tmp_path / "copied")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


RECORD, MANIFEST, PLAN = "train-000001.json", "manifest.json", "plan.json"
EDITS = {
    "another folder": (RECORD, lambda r: r.update(shard="../train-000001.tar"), "String should match pattern"),
    "another shard": (RECORD, lambda r: r.update(shard="train-000002.tar"), "it is the record of train-000002.tar"),
    "a negative offset": (
        RECORD,
        lambda r: r["offset"].__setitem__(3, -512),
        "offset.3: Input should be greater than 0",
    ),
    "an offset beyond the end": (RECORD, lambda r: r["offset"].__setitem__(3, 10**11), "are not in a tar of"),
    "a size of 10^11": (RECORD, lambda r: r["size"].__setitem__(3, 10**11), "size.3: Input should be less than"),
    "a height of 0": (RECORD, lambda r: r["height"].__setitem__(3, 0), "height.3: Input should be greater than 0"),
    "a short column": (RECORD, lambda r: r["width"].pop(), "width has 9 entries for 10 samples"),
    "a column less": (RECORD, lambda r: r.pop("width"), "width: Field required"),
    "a text for a number": (RECORD, lambda r: r.update(bytes="many"), "bytes: Input should be a valid integer"),
    "fewer samples": (RECORD, lambda r: r.update(samples=9), "offset has 10 entries for 9 samples"),
    "another plan": (
        RECORD,
        lambda r: r.update(plan="0" * 64),
        "lacks train-000001 of 5 shards",
    ),
    "more set aside": (RECORD, lambda r: r["quarantined"].append(["a", "b"]), "lacks train-000001 of 5 shards"),
    "another sum": (
        RECORD,
        lambda r: r.update(sha256="0" * 64),
        "train-000001.tar: its record differs from manifest.json",
    ),
}
BYTES = {
    "a record that is binary": (RECORD, b"\xff\xfe\0\1", "train-000001.json is damaged"),
    "a record that is empty": (RECORD, b"", r"train-000001.json is damaged \(Expecting value"),
    "a record that is deep": (RECORD, b"[" * 100_000, "train-000001.json is damaged"),
    "an index that is binary": ("train-000001.idx", b"\xff\xfe\0\1", "train-000001.idx: does not describe"),
    "an index that is empty": ("train-000001.idx", b"", "train-000001.idx: does not describe"),
    "a plan that is binary": (PLAN, b"\xff\xfe\0\1", "plan.json is damaged"),
    "a plan that is deep": (PLAN, b"[" * 100_000, "plan.json is damaged"),
    "a shard that is no tar": ("train-000001.tar", b"x" * 5000, "train-000001.tar: sha256 differs from manifest.json"),
    "a list of more that was set aside": (
        "quarantine.jsonl",
        b"{}\n",
        "quarantine.jsonl does not name what was set aside",
    ),
}
PLANS = {
    "an empty plan": (lambda p: p.update(shards={}), r"plan.json is damaged \(it plans no shards\)"),
    "a plan with a shard less": (
        lambda p: p["shards"].pop("train-000001"),
        "manifest.json is not what plan.json and the records make",
    ),
    "a plan with another hash": (
        lambda p: p["shards"]["train-000001"].__setitem__(0, "0" * 64),
        "lacks train-000001 of 5 shards",
    ),
    "a plan of another recipe": (
        lambda p: p["recipe"].update(seed=9),
        "manifest.json is not what plan.json and the records make",
    ),
    "a plan without format": (
        lambda p: p.pop("format"),
        "plan.json names no format, this koala reads 'koala-shards/1'",
    ),
}


@pytest.mark.parametrize("name", [*EDITS, *BYTES, *PLANS, "no plan", "no list"])
def test_damage_is_found_named_and_repaired(copied, shard_folder, photo_folder, capsys, name):
    if name in EDITS:
        file, change, message = EDITS[name]
        edit(copied / file, change)
    elif name in BYTES:
        file, data, message = BYTES[name]
        (copied / file).write_bytes(data)
    elif name in PLANS:
        change, message = PLANS[name]
        edit(copied / PLAN, change)
    else:
        file, message = {"no plan": (PLAN, "holds no plan.json"), "no list": ("quarantine.jsonl", "is missing")}[name]
        (copied / file).unlink()
    assert any(re.search(message, fault) for fault in verification.verify_shards(copied))
    assert cli.main(["shards", "verify", str(copied)]) == 1
    assert cli.main(["shards", "repair", str(copied), "--source", str(photo_folder)]) == 0
    assert "written again: " in capsys.readouterr().out
    assert contents(copied) == contents(shard_folder)
    assert cli.main(["shards", "verify", str(copied)]) == 0


MANIFESTS = {
    "binary": (b"\xff\xfe\0\1", "damaged"),
    "deep": (b"[" * 100_000, "damaged"),
    "another number written": (
        lambda m: m.update(written=47),
        r"damaged \(written is 47, but the shards hold 48 samples\)",
    ),
    "another number read": (lambda m: m.update(read=50), r"damaged \(read is 50, but 48 written and 0 set aside\)"),
    "below zero": (lambda m: m.update(read=-1), r"damaged \(read: Input should be greater than or equal to 0\)"),
    "a shard twice": (
        lambda m: m["splits"]["train"].append(m["splits"]["train"][0]) or m.update(written=58, read=58),
        r"damaged \(a shard is listed twice\)",
    ),
    "another folder": (
        lambda m: m["splits"]["train"][0].update(shard="../train-000000.tar"),
        r"damaged \(splits.train.0.shard: String should match pattern",
    ),
    "no shards": (lambda m: m.pop("splits"), r"damaged \(splits: Field required\)"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_damaged_manifest_is_named_and_made_again(copied, shard_folder, capsys, name):
    change, message = MANIFESTS[name]
    if isinstance(change, bytes):
        (copied / MANIFEST).write_bytes(change)
    else:
        edit(copied / MANIFEST, change)
    for read in (shards.read_manifest, verification.verify_shards):
        with pytest.raises(UserError, match=rf"manifest.json.*{message}.*; write it anew with koala shards finish"):
            read(copied)
    assert cli.main(["shards", "finish", str(copied)]) == 0
    assert contents(copied) == contents(shard_folder)


def test_a_manifest_without_a_version_is_named(copied):
    edit(copied / MANIFEST, lambda m: m.pop("format"))
    with pytest.raises(UserError, match=r"manifest.json names no format, this koala reads 'koala-shards/1'"):
        shards.read_manifest(copied)


def test_a_sum_that_the_manifest_alone_has_otherwise_is_repaired(copied, shard_folder, photo_folder):
    edit(copied / MANIFEST, lambda m: m["splits"]["train"][1].update(sha256="0" * 64))
    assert verification.verify_shards(copied) == [
        "manifest.json is not what plan.json and the records make; run koala shards repair, or finish",
        "train-000001.tar: its record differs from manifest.json",
    ]
    with pytest.raises(UserError, match=r"train-000001.tar: its record differs from manifest.json; check with koala"):
        shards.Shards.open(copied, "train")
    assert cli.main(["shards", "repair", str(copied), "--source", str(photo_folder)]) == 0
    assert contents(copied) == contents(shard_folder)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda m: m["splits"].update(other=m["splits"].pop("val")), "repair"),
        (lambda m: m["splits"]["train"].reverse(), "repair"),
        (lambda m: m.update(passed_over={"hidden": 3}), "repair"),
        (lambda m: m["recipe"].update(name="others"), "finish"),
    ],
)
def test_a_manifest_that_is_whole_and_of_other_shards_is_named(copied, shard_folder, photo_folder, change, remedy):
    edit(copied / MANIFEST, change)
    fault = "manifest.json is not what plan.json and the records make; run koala shards repair, or finish"
    assert verification.verify_shards(copied) == [fault]
    words = ["--source", str(photo_folder)] if remedy == "repair" else []
    assert cli.main(["shards", remedy, str(copied), *words]) == 0
    assert contents(copied) == contents(shard_folder)


def test_shards_that_the_manifest_does_not_list_are_named(copied):
    shutil.copy(copied / "train-000000.tar", copied / "train-000009.tar")
    assert verification.verify_shards(copied) == ["train-000009.tar: manifest.json does not list it"]


def test_a_set_of_nothing_is_not_well(tmp_path, capsys):
    source = lay_out(tmp_path / "source", {"1.jpg": b"no image"})
    assert shard_writer.write_command(WriteShards(source, tmp_path / "out")) == 1
    assert verification.verify_command(VerifyShards(tmp_path / "out")) == 1
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'out'} holds no sample" in printed and "all is well" not in printed


def test_a_shard_that_is_replaced_while_it_is_read_is_named(copied):
    """By another of the same length, as a file system may show it to a training that has read the records."""
    opened = shards.Shards.open(copied, "train")
    tar = copied / "train-000001.tar"
    data = bytearray(tar.read_bytes())
    tar.write_bytes(data[1024:] + data[:1024])
    for read in (opened.read, opened.describe):
        with pytest.raises(
            UserError, match=r"train-000001.tar does not hold what its record says: .*koala shards verify"
        ):
            read(12)
    assert opened.describe(3).shard == "train-000000.tar"


@pytest.mark.parametrize("text", [b"[" * 3000, b"{}", b"[]", b"\xff\xfe"])
def test_a_description_that_is_damaged_is_named(copied, text):
    opened = shards.Shards.open(copied, "train")
    tar = copied / "train-000001.tar"
    data = tar.read_bytes()
    begin = data.index(b'{"source"', 512)
    end = data.index(b"}", begin) + 1
    tar.write_bytes(data[:begin] + text.ljust(end - begin)[: end - begin] + data[end:])
    with pytest.raises(UserError, match=r"train-000001.tar does not hold what its record says"):
        opened.describe(10)
    assert any("train-000001.tar" in fault for fault in verification.verify_shards(copied))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        (RECORD, lambda folder: shards.read_record(folder / RECORD)),
        ("train-000001.idx", lambda folder: (folder / "train-000001.idx").read_bytes()),
        (PLAN, shards.read_plan),
        (MANIFEST, shards.read_manifest),
    ],
)
def test_whatever_is_changed_in_a_side_file_is_noticed(copied, name, read):
    """A hundred mutations: where none is found what is read is the same."""
    data, before, rng = (copied / name).read_bytes(), read(copied), random.Random(name)
    for _ in range(100):
        (copied / name).write_bytes(mutated(data, rng, len(data)))
        try:
            assert verification.verify_shards(copied, show=False) or read(copied) == before
        except UserError as error:
            assert name in str(error)

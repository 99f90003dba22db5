"""koala shards stage: the order, interruptions, what is refused."""

import json
import shutil

import pytest

from koala import cli
from koala.core.errors import UserError
from koala.core.object_store import open_store
from koala.data import staging
from koala.data.sampler import EpochSampler
from koala.data.shards import read_manifest
from tests.data.conftest import forget


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def stage(shards, to, *more):
    return cli.main(["shards", "stage", str(shards), "--to", str(to), *more])


@pytest.mark.parametrize("seed", [0, 7])
def test_the_order_is_that_in_which_a_training_comes_to_the_shards(shard_folder, seed):
    manifest = read_manifest(shard_folder)
    sampler = EpochSampler((10, 10, 10, 10), seed, shards_per_block=1)
    met = dict.fromkeys(int(sample) // 10 for sample in sampler.positions(0, 40).samples)
    staged = [entry.shard for entry in staging.in_order(manifest, seed)]
    assert staged == [*(f"train-{number:06d}.tar" for number in met), "val-000000.tar"]


def test_a_store_is_staged_and_an_interrupted_command_resumed(shards_url, shard_folder, s3, tmp_path, monkeypatch):
    first, second, third, *_ = (entry.shard for entry in staging.in_order(read_manifest(shard_folder), 0))
    monkeypatch.setenv("KOALA_STORE_PATIENCE", "0.1")
    forget()
    s3.faults += [(third, 503)] * 9
    assert stage(shards_url, tmp_path / "here", "--workers", "1") == 2
    assert not (tmp_path / "here/manifest.json").exists()
    s3.faults.clear()
    before = s3.asked.copy()
    assert stage(shards_url, tmp_path / "here") == 0
    assert files(tmp_path / "here") == files(shard_folder)
    again = {path.rpartition("/")[2] for path in s3.asked - before}
    assert third in again and not again & {first, second}


def test_a_shared_folder_is_staged_with_all_that_lies_in_it(shard_folder, tmp_path):
    shared = shutil.copytree(shard_folder, tmp_path / "shared")
    (shared / "prior.csv").write_text("a prior")
    (shared / "embeddings/some").mkdir(parents=True)
    (shared / "embeddings/some/key.json").write_text("{}")
    (shared / "train-000009.tar.123.part").write_text("left by a process that was killed")
    assert stage(shared, tmp_path / "here") == 0
    expected = {name: data for name, data in files(shared).items() if not name.endswith(".part")}
    assert files(tmp_path / "here") == expected
    assert (tmp_path / "here/embeddings/some/key.json").read_text() == "{}"


def test_a_damaged_shard_is_not_staged(shards_url, tmp_path, capsys):
    store = open_store(shards_url)
    tar = bytearray(store.read("train-000001.tar"))
    tar[5000] ^= 1
    store.write("train-000001.tar", bytes(tar))
    assert stage(shards_url, tmp_path / "here") == 2
    assert "train-000001.tar: sha256 differs from manifest.json; check it with" in capsys.readouterr().err
    assert not (tmp_path / "here/train-000001.tar").exists()


def test_shards_are_not_staged_over_others_or_themselves(shard_folder, tmp_path):
    with pytest.raises(UserError, match="is what is to be copied; choose another folder with --to"):
        staging.stage_command(staging.StageShards(shard_folder, shard_folder))
    other = shutil.copytree(shard_folder, tmp_path / "other")
    text = (other / "manifest.json").read_text()
    sha256 = read_manifest(shard_folder).entries[0].sha256
    (other / "manifest.json").write_text(text.replace(sha256, "0" * 64))
    with pytest.raises(UserError, match="holds other shards; choose another folder with --to, or empty it"):
        staging.stage_command(staging.StageShards(shard_folder, other))
    (other / "manifest.json").unlink()  # unfinished ones
    record = other / "train-000001.json"
    record.write_text(record.read_text().replace(json.loads(record.read_text())["sha256"], "0" * 64))
    with pytest.raises(UserError, match="holds other shards; choose another folder with --to, or empty it"):
        staging.stage_command(staging.StageShards(shard_folder, other))


def test_shards_are_not_staged_into_a_folder_that_is_named_as_a_store(shard_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert stage(shard_folder, "s3://bucket/copy") == 2
    assert "s3://bucket/copy lies in a store; name a folder or file on this machine here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert cli.main(["shards", "write", "--source", "s3://bucket/photos", "--out", "shards"]) == 2
    told = capsys.readouterr().err
    assert "s3://bucket/photos lies in a store" in told and "value error" not in told

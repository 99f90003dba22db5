"""Shards in a store: read, written, checked and trained on there, with errors, slow answers, kills, small caches."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.server import SimpleHTTPRequestHandler

import numpy as np
import pytest

from koala import cli
from koala.config.data import AuditShards, DataSettings, ShardRecipe, SplitRule, VerifyShards, WriteShards
from koala.config.fields import StoreUrl
from koala.config.load import load_toml
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.core.object_store import open_store
from koala.data import audit, loader, mirror, range_cache, shard_writer, verification
from koala.data.sampler import EpochSampler, micro_batches
from koala.data.shards import Shards
from tests.data.conftest import forget, upload
from tests.processes import start
from tests.runs import same_weights, weights
from tests.stores import web_server

RECIPE = ShardRecipe(samples_per_shard=10, split=SplitRule(val_count=8))
FLAGS = ("--recipe.samples-per-shard", "10", "--recipe.split.val-count", "8")


def contents(url):
    store = open_store(url)
    return {name: store.read(name) for name in store.list()}


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def bytes_of(folder, split="train"):
    shards = Shards.open(folder, split)
    return [jpeg.tobytes() for jpeg in shards.read_many(np.arange(len(shards)))]


def training(shards, run, epochs=0.2):
    settings = DataSettings(shards, size=16, threads=2)
    return TrainSettings(data=settings, extractor=ExtractorSettings("none"), batch_size=4, epochs=epochs, run=run)


def without_dates(handler, name, value):
    if name != "Last-Modified":
        SimpleHTTPRequestHandler.send_header(handler, name, value)


def train(*settings, **more):
    from koala.training import trainer

    return trainer.train(training(*settings, **more))


# ---------------------------------------------------------------- reading


def test_samples_are_the_same_bytes_and_come_from_the_cache_afterwards(shards_url, shard_folder, s3):
    assert bytes_of(shards_url) == bytes_of(shard_folder)
    forget()
    before = {path: count for path, count in s3.asked.items() if path.endswith(".tar")}
    assert bytes_of(shards_url) == bytes_of(shard_folder)
    assert {path: count for path, count in s3.asked.items() if path.endswith(".tar")} == before


def test_a_training_from_a_store_is_the_same_to_the_bit_and_goes_on_from_a_folder(
    shards_url, shard_folder, run, tmp_path
):
    assert train(shards_url, tmp_path / "run") == 0
    assert same_weights(weights(tmp_path / "run", 8), weights(run, 8))
    assert load_toml(TrainSettings, tmp_path / "run/config.toml").data.shards == shards_url
    assert train(shard_folder, tmp_path / "run", epochs=0.3) == 0
    assert train(shards_url, tmp_path / "run", epochs=0.4) == 0
    assert train(shard_folder, tmp_path / "local", epochs=0.4) == 0
    assert same_weights(weights(tmp_path / "run", 16), weights(tmp_path / "local", 16))


def test_what_is_read_ahead_comes_in_the_same_order(shards_url, shard_folder, s3):
    def batches(folder):
        shards = Shards.open(folder, "train")
        places = micro_batches(EpochSampler(shards.shard_sizes, 3), 5, 8, rank=1, world_size=2)
        data = DataSettings(folder, size=16, threads=1)
        with closing(loader.load_batches(shards, places, data, "cpu", batch=4)) as stream:
            return [next(stream).samples.tolist() for _ in range(12)]

    assert batches(shards_url) == batches(shard_folder)
    until = time.monotonic() + 20
    while any(thread.name == "koala-read-ahead" for thread in threading.enumerate()):
        assert time.monotonic() < until, "the threads that read ahead did not end"
        time.sleep(0.02)


def test_a_manifest_that_changed_is_seen_and_stale_records_are_dropped(shards_url, photo_folder, tmp_path):
    bytes_of(shards_url)
    shard_writer.write_shards(WriteShards(photo_folder, tmp_path / "other", ShardRecipe(samples_per_shard=25)))
    for name in open_store(shards_url).list():
        open_store(shards_url).delete(name)
    upload(tmp_path / "other", shards_url)
    forget()
    assert bytes_of(shards_url) == bytes_of(tmp_path / "other")
    records = mirror.local_folder(shards_url).glob("train-*.json")
    assert sorted(path.name for path in records) == ["train-000000.json", "train-000001.json"]


def test_a_tar_that_changed_under_us_is_named(shards_url):
    shards = Shards.open(shards_url, "train")
    open_store(shards_url).write("train-000000.tar", b"something else")
    with pytest.raises(UserError, match=r"train-000000.tar is 14 bytes long, its record says .*; check with koala"):
        shards.read(0)
    open_store(shards_url).delete("train-000001.tar")
    with pytest.raises(UserError, match=r"train-000001.tar is not there; check the folder with koala shards verify"):
        shards.read(10)


def test_shards_are_read_from_a_plain_web_server(shard_folder, s3):
    with web_server(shard_folder) as url:
        assert bytes_of(StoreUrl(url)) == bytes_of(shard_folder)
        assert verification.verify_shards(StoreUrl(url)) == []
        with pytest.raises(UserError, match="can only be read"):
            audit.audit_command(AuditShards(StoreUrl(url)))


def test_a_web_server_that_tells_no_versions_is_asked_for_the_file_each_time(tmp_path, monkeypatch):
    pytest.importorskip("obstore")
    monkeypatch.setattr("tests.stores.Ranges.send_header", without_dates)
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "manifest.json").write_text('{"splits": {}}')
    with web_server(tmp_path) as url:
        assert open_store(url).stat("manifest.json").version == ""
        here = mirror.local_folder(StoreUrl(url))
        (tmp_path / "manifest.json").write_text('{"splits": {"a": []}}')
        mirror.bring(here, "*.json")
        assert (here / "manifest.json").read_text() == '{"splits": {"a": []}}'


# ---------------------------------------------------------------- faults


def test_a_full_cache_disk_is_no_fault_of_the_shards(shards_url, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(verification, "whole_tar", full)
    with pytest.raises(OSError, match="No space left on device"):
        verification.verify_shards(shards_url)


def test_errors_slow_answers_and_cut_ones_are_asked_again(shards_url, shard_folder, s3):
    s3.faults += [("GET /koala", 503), (".tar", 500), (".tar", "cut"), (".tar", 0.3), (".json", "cut"), (".json", 429)]
    assert bytes_of(shards_url) == bytes_of(shard_folder)
    assert not s3.faults


def test_a_store_that_is_away_longer_is_said_in_a_sentence_and_nothing_is_lost(
    shards_url, s3, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("KOALA_STORE_PATIENCE", "0.5")
    run = tmp_path / "run"
    words = ["train", "--data.shards", shards_url, "--data.size", "16", "--extractor.name", "none"]
    words += ["--batch-size", "4", "--epochs", "0.2", "--run", str(run), "--checkpoint-every", "4"]
    s3.faults += [(".tar", 503)] * 200
    assert cli.main(words) == 2
    assert "has not answered for" in capsys.readouterr().err
    s3.faults.clear()
    forget()
    assert cli.main(words) == 0
    assert weights(run, 8)


@pytest.mark.parametrize(
    ("status", "what"), [(403, "may not be read with these credentials"), (400, "the store refuses the request")]
)
def test_a_refusal_is_said_at_once(shards_url, s3, status, what):
    s3.faults.append(("GET /koala", status))
    with pytest.raises(UserError, match=what):
        Shards.open(shards_url, "train")


def test_a_bucket_that_is_not_there_is_named(s3, capsys):
    assert cli.main(["shards", "verify", "s3://nobody/shards"]) == 2
    assert capsys.readouterr().err == (
        "koala: s3://nobody/shards: there is no such bucket; correct the name, or make it first\n"
    )


@pytest.mark.parametrize("url", ["https://user:secret@host/shards", "az://shards?sig=secret"])
def test_secrets_in_an_address_are_refused_and_written_nowhere(s3, tmp_path, url):
    with pytest.raises(UserError, match="keys and passwords go into the environment") as refused:
        Shards.open(StoreUrl(url), "train")
    assert "secret" not in str(refused.value)
    assert not (tmp_path / "cache").exists()


# ---------------------------------------------------------------- the cache


def test_a_damaged_block_is_fetched_again(shards_url, shard_folder, tmp_path):
    bytes_of(shards_url)
    blocks = [path for path in (tmp_path / "cache/blocks").glob("??/*") if path.parent.name != "locks"]
    assert len(blocks) == 4
    for number, block in enumerate(blocks):
        data = block.read_bytes()
        block.write_bytes(data[: len(data) // 2] if number % 2 else data[:999] + b"\0\1" + data[1001:])
    forget()
    assert bytes_of(shards_url) == bytes_of(shard_folder)


def test_the_cache_holds_its_bound(shards_url, shard_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(range_cache, "BLOCK", 4096)
    monkeypatch.setenv("KOALA_CACHE_GIB", str(20 * 4096 / 2**30))
    assert bytes_of(shards_url) == bytes_of(shard_folder)
    held = [path.stat().st_size for path in (tmp_path / "cache/blocks").glob("??/*")]
    assert 10 * 4096 < sum(held) <= 20 * 4096


def test_a_cache_that_is_deleted_while_it_is_in_use_is_filled_again(tmp_path):
    cache = range_cache.RangeCache(tmp_path / "blocks", 2**26)
    data = bytes(range(256)) * 40
    for _ in range(2):
        assert cache.read("ab" * 32, 5, 9000, len(data), lambda begin, end: data[begin:end]) == data[5:9000]
        cache.prefetch("cd" * 32, 0, len(data), lambda begin, end: data[begin:end])
        assert len(list((tmp_path / "blocks").glob("??/*"))) == 2
        shutil.rmtree(tmp_path / "blocks")
        cache._open.cache_clear()  # what is held open is read on


def test_a_cache_on_a_full_disk_says_what_to_set(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    cache = range_cache.RangeCache(tmp_path / "blocks", 2**30)
    with pytest.raises(UserError, match="the disk is full before the cache takes its 1 GiB; make room, or set KOALA_C"):
        cache.read("ab" * 32, 0, 10, 10, lambda begin, end: bytes(end - begin))


def test_a_cache_that_is_too_small_is_refused(shards_url, monkeypatch):
    monkeypatch.setenv("KOALA_CACHE_GIB", "0.01")
    with pytest.raises(UserError, match=r"KOALA_CACHE_GIB = 0.01 is too small a cache; give it at least 0.0625"):
        Shards.open(shards_url, "train")


def start_reading(url):
    """A process that reads all training samples, and says when it has opened them and when it has read them."""
    read = (
        "import numpy; from koala.config.fields import StoreUrl; from koala.data.shards import Shards;"
        f"shards = Shards.open(StoreUrl('{url}'), 'train'); print('open', flush=True);"
        "shards.read_many(numpy.arange(len(shards))); print('read')"
    )
    return subprocess.Popen([sys.executable, "-c", read], stdout=subprocess.PIPE, text=True)


def test_two_processes_fetch_each_block_once(shards_url, shard_folder, s3):
    before = s3.asked.copy()
    s3.faults += [(".tar", 1.5)]  # so that the second comes while the first one fetches
    both = [start_reading(shards_url) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == ["open\nread\n"] * 2
    got = {path.rpartition("/")[2]: n for path, n in (s3.asked - before).items() if path.endswith(".tar")}
    assert got == {path.name: 1 for path in shard_folder.glob("train-*.tar")}


def test_a_process_that_is_killed_while_it_fetches_leaves_nothing_wrong(shards_url, shard_folder, s3):
    process = start_reading(shards_url)
    s3.faults += [("train-000002.tar", 60.0)]
    assert process.stdout.readline() == "open\n"
    while s3.faults:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert bytes_of(shards_url) == bytes_of(shard_folder)


# ---------------------------------------------------------------- writing


def test_shards_are_written_to_a_store_with_the_same_bytes(photo_folder, shard_folder, new_url, s3):
    settings = WriteShards(photo_folder, new_url, RECIPE, workers=2)
    shard_writer.write_shards(settings)
    assert contents(new_url) == files(shard_folder)
    assert not list(mirror.local_folder(new_url).glob("*.tar*"))
    before = s3.asked.copy()
    forget()
    shard_writer.write_shards(settings)
    assert not [request for request in s3.asked - before if request.startswith("GET") and ".json" in request]
    assert not [request for request in s3.asked - before if request.startswith("PUT") and ".tar" in request]


def test_parts_from_two_machines_are_finished_by_a_third(photo_folder, shard_folder, new_url, tmp_path, monkeypatch):
    for part in ("1/2", "2/2"):
        monkeypatch.setenv("KOALA_CACHE", str(tmp_path / part[0]))
        forget()
        assert (
            cli.main(["shards", "write", "--source", str(photo_folder), "--out", new_url, *FLAGS, "--part", part]) == 0
        )
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "third"))
    forget()
    assert cli.main(["shards", "finish", new_url]) == 0
    assert contents(new_url) == files(shard_folder)


def test_writing_that_is_killed_is_resumed_by_the_same_command(photo_folder, shard_folder, new_url, s3):
    words = ("shards", "write", "--source", str(photo_folder), "--out", new_url, *FLAGS)
    s3.faults += [("PUT /koala" + new_url.removeprefix("s3://koala") + "/train-000002.tar", 60.0)]
    process = start(*words)
    while s3.faults:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert {"train-000000.json", "train-000001.json"} <= set(contents(new_url))
    before = s3.asked.copy()
    assert cli.main(list(words)) == 0
    assert contents(new_url) == files(shard_folder)
    again = [request.rpartition("/")[2] for request in s3.asked - before if "PUT" in request and ".tar" in request]
    assert sorted(again) == ["train-000002.tar", "train-000003.tar", "val-000000.tar"]


def test_a_folder_that_was_emptied_is_written_anew(photo_folder, shard_folder, new_url):
    shard_writer.write_shards(WriteShards(photo_folder, new_url, RECIPE))
    for name in open_store(new_url).list():
        open_store(new_url).delete(name)
    forget()
    shard_writer.write_shards(WriteShards(photo_folder, new_url, RECIPE))
    assert contents(new_url) == files(shard_folder)


def test_a_store_that_may_not_be_written_to_says_so(photo_folder, new_url, s3, capsys):
    s3.faults.append(("PUT", 403))
    assert cli.main(["shards", "write", "--source", str(photo_folder), "--out", new_url, *FLAGS]) == 2
    assert "plan.json may not be written with these credentials; see who may" in capsys.readouterr().err


# ---------------------------------------------------------------- what else is done with shards


def test_damage_at_the_store_is_found_and_repaired(shards_url, shard_folder, photo_folder, capsys):
    store = open_store(shards_url)
    tar = bytearray(store.read("train-000001.tar"))
    tar[5000] ^= 1
    store.write("train-000001.tar", bytes(tar))
    store.delete("val-000000.idx")
    faults = verification.verify_shards(shards_url)
    assert "train-000001.tar: sha256 differs from manifest.json" in faults
    assert any(fault.startswith("val-000000.idx: does not describe") for fault in faults)
    assert cli.main(["shards", "repair", shards_url, "--source", str(photo_folder)]) == 0
    assert contents(shards_url) == files(shard_folder)
    forget()
    assert verification.verify_command(VerifyShards(shards_url, quick=True)) == 0


def test_audit_prior_and_filter_work_at_a_store(shards_url, tmp_path, monkeypatch):
    assert cli.main(["shards", "audit", shards_url]) == 0
    assert cli.main(["shards", "prior", shards_url]) == 0
    assert {"train-000000.audit.csv", "prior.csv", "audit/chroma.png"} <= set(contents(shards_url))
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "another node"))
    forget()
    settings = ["--data.shards", shards_url, "--data.filter", "chroma > 1", "--objective.name", "weighted-mse"]
    more = ["--data.size", "16", "--extractor.name", "none", "--batch-size", "4", "--epochs", "0.1"]
    assert cli.main(["train", *settings, *more, "--run", str(tmp_path / "run")]) == 0


def test_embeddings_are_kept_at_the_store(shards_url, tmp_path, monkeypatch):
    extractor = ["--extractor.name", "resnet18", "--extractor.weights", "random"]
    view = ["--data.size", "32", "--data.threads", "1"]
    assert cli.main(["shards", "embed", shards_url, *extractor, *view, "--device", "cpu"]) == 0
    kept = [name for name in contents(shards_url) if name.startswith("embeddings/")]
    assert len(kept) == 11  # the key, and two files for each of five shards
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "another node"))
    forget()
    more = ["--extractor.cache", "--batch-size", "4", "--epochs", "0.1", "--run", str(tmp_path / "run")]
    assert cli.main(["train", "--data.shards", shards_url, *extractor, *view, *more]) == 0


def test_the_doctor_looks_at_a_store(shards_url, tmp_path, s3, monkeypatch):
    from koala.training import doctor_checks
    from koala.training.process_store import ProcessStore

    settings, alone = training(shards_url, tmp_path / "run"), ProcessStore(host="n1")
    finding = doctor_checks.shards(settings, alone)
    assert finding.text == f"{shards_url}: 40 train and 8 val samples in 5 shards; some were read at random"
    monkeypatch.setenv("KOALA_STORE_PATIENCE", "0.1")
    forget()
    s3.faults += [("GET /koala", 503)] * 3
    with pytest.raises(UserError, match="has not answered for"):
        doctor_checks.shards(settings, alone)


def test_an_evaluation_scores_the_same_from_a_store(shards_url, shard_folder, run, tmp_path):
    def scores(shards, out):
        words = ["evaluate", str(run), "--shards", str(shards), "--out", str(out), "--features", "none"]
        assert cli.main([*words, "--threads", "1", "--device", "cpu"]) == 0
        return json.loads((out / "scores.json").read_text())

    local, remote = scores(shard_folder, tmp_path / "local"), scores(shards_url, tmp_path / "remote")
    assert remote["scores"] == local["scores"]
    assert remote["shards_sha256"] == local["shards_sha256"]
    assert remote["shards"] == shards_url

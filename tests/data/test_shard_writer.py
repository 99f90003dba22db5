"""Writing shards at scale: in parallel, in parts, killed, on a full disk, repaired."""

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from koala import cli
from koala.config.data import FinishShards, RepairShards, ShardRecipe, SplitRule, WriteShards
from koala.core.errors import UserError
from koala.core.folder_lock import lock_folder
from koala.data import shard_writer, verification
from koala.data.places import FolderPlace
from tests.processes import finish, start, wait_for

RECIPE = ShardRecipe(samples_per_shard=10, split=SplitRule(val_count=8))
FLAGS = ("--recipe.samples-per-shard", "10", "--recipe.split.val-count", "8")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_workers_change_nothing(photo_folder, shard_folder, tmp_path):
    shard_writer.write_shards(WriteShards(photo_folder, tmp_path, RECIPE, workers=3))
    assert contents(tmp_path) == contents(shard_folder)


def test_parts_and_finish_equal_one_run(photo_folder, shard_folder, tmp_path, capsys):
    words = ["shards", "write", "--source", str(photo_folder), "--out", str(tmp_path), *FLAGS]
    assert cli.main([*words, "--part", "2/3"]) == 0
    assert "part 2/3 is written" in capsys.readouterr().out
    assert cli.main(["shards", "finish", str(tmp_path)]) == 2
    assert "lacks train-000000, train-000002, train-000003 of 5 shards" in capsys.readouterr().err
    for part in ("1/3", "3/3"):
        assert cli.main([*words, "--part", part]) == 0
    assert cli.main(["shards", "finish", str(tmp_path)]) == 0
    assert "48 read = 48 written + 0 set aside" in capsys.readouterr().out
    assert contents(tmp_path) == contents(shard_folder)


@pytest.mark.slow
def test_parts_written_at_the_same_time(photo_folder, shard_folder, tmp_path):
    words = ("shards", "write", "--source", str(photo_folder), "--out", str(tmp_path), *FLAGS)
    both = [start(*words, "--part", part) for part in ("1/2", "2/2")]
    for process in both:
        finish(process)
    finish(start("shards", "finish", str(tmp_path)))
    assert contents(tmp_path) == contents(shard_folder)


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_parts_that_do_not_exist(photo_folder, tmp_path, part):
    with pytest.raises(UserError, match="is not I/N"):
        shard_writer.write_shards(WriteShards(photo_folder, tmp_path, RECIPE, part=part))


def test_one_folder_is_written_by_one_command_at_a_time(photo_folder, shard_folder, tmp_path):
    """But by different parts of one plan: those may run side by side, and nothing else beside them."""
    settings = WriteShards(photo_folder, tmp_path / "out", RECIPE)
    refused = pytest.raises(UserError, match=r"out is in use: koala shards write runs there as process \d+")
    with lock_folder(settings.out, "koala shards write", 1, 3):
        shard_writer.write_shards(replace(settings, part="2/3"))
        for command in (
            lambda: shard_writer.write_shards(settings),
            lambda: shard_writer.write_shards(replace(settings, part="1/3")),
            lambda: shard_writer.write_shards(replace(settings, part="1/2")),
            lambda: shard_writer.finish_command(FinishShards(settings.out)),
        ):
            with refused:
                command()
    shard_writer.write_shards(settings)
    assert contents(settings.out) == contents(shard_folder)
    with lock_folder(settings.out, "koala shards write"), refused:
        shard_writer.repair_shards(RepairShards(settings.out, photo_folder))


def test_a_damaged_record_is_written_again(photo_folder, shard_folder, tmp_path):
    out = shutil.copytree(shard_folder, tmp_path / "out")
    (out / "train-000001.json").write_bytes(b"\xff\0")
    with pytest.raises(UserError, match=r"train-000001.json is damaged"):
        shard_writer.finish_shards(out)
    shard_writer.write_shards(WriteShards(photo_folder, out, RECIPE))
    assert contents(out) == contents(shard_folder)


@pytest.mark.slow
def test_killed_twenty_times_the_bytes_are_the_same(photo_folder, shard_folder, tmp_path):
    """SIGKILL at random moments, with one worker and with two, start-up and last files included."""
    rng = random.Random(7)
    words = ("shards", "write", "--source", str(photo_folder), "--out", str(tmp_path / "out"), *FLAGS)
    kills = 0
    while kills < 20:
        process = start(*words, "--workers", rng.choice("12"), start_new_session=True)
        time.sleep(rng.uniform(0.1, 4.0))
        if process.poll() is None:
            process.kill()
            kills += 1
        process.communicate()
        if (tmp_path / "out/manifest.json").exists():
            assert contents(tmp_path / "out") == contents(shard_folder)
            shutil.rmtree(tmp_path / "out")
    finish(start(*words))
    assert contents(tmp_path / "out") == contents(shard_folder)


@pytest.mark.slow
def test_workers_end_with_their_parent(photo_folder, tmp_path):
    source = tmp_path / "many.txt"  # long enough to be killed in the middle
    names = [str(path) for path in photo_folder.rglob("*.jpg")]
    source.write_text("".join(f"{name[:1]}{'/' * repeat}{name[1:]}\n" for repeat in range(200) for name in names))
    words = ("shards", "write", "--source", str(source), "--out", str(tmp_path), *FLAGS, "--workers", "2")
    process = start(*words, start_new_session=True)
    wait_for(tmp_path / "train-000000.json", process)
    family = descendants(process.pid)
    assert len(family) >= 3, "a fork server and two workers"
    process.kill()
    process.communicate()
    until = time.monotonic() + 10
    while (left := [pid for pid in family if Path(f"/proc/{pid}").exists()]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left


def descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [below for child in children for below in descendants(child)]


def test_a_full_disk_leaves_no_half_shard_and_goes_on_later(photo_folder, shard_folder, tmp_path):
    """A limit on the size of files stands in for the disk: write(2) fails in the middle of a shard."""
    limit = max(path.stat().st_size for path in shard_folder.glob("*.tar")) // 2
    words = [sys.executable, "-m", "koala", "shards", "write", "--source", str(photo_folder), "--out", str(tmp_path)]

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    result = subprocess.run([*words, *FLAGS], preexec_fn=small_files, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "File too large" in result.stderr and "Traceback" not in result.stderr
    assert not list(tmp_path.glob("*.part")) and not (tmp_path / "manifest.json").exists()
    shard_writer.write_shards(WriteShards(photo_folder, tmp_path, RECIPE))
    assert contents(tmp_path) == contents(shard_folder)


def test_files_that_may_not_be_read_are_set_aside(photo_folder, tmp_path, monkeypatch):
    """Root may read everything, so the refusal is made here."""
    read = FolderPlace.read

    def refused(place, name, max_bytes):
        if name == "first/photo 11.jpg":
            raise PermissionError(13, "Permission denied", name)
        return read(place, name, max_bytes)

    monkeypatch.setattr(FolderPlace, "read", refused)
    manifest = shard_writer.write_shards(WriteShards(photo_folder, tmp_path / "out", RECIPE))
    assert (manifest.written, manifest.quarantined) == (47, 1)
    assert "Permission denied" in (tmp_path / "out/quarantine.jsonl").read_text()


# ---------------------------------------------------------------- verify and repair


@pytest.fixture
def damaged(shard_folder, tmp_path):
    """A shard with a flipped bit, one without its record, one without its tar."""
    copied = shutil.copytree(shard_folder, tmp_path / "damaged")
    tar = copied / "train-000001.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 3] ^= 4
    tar.write_bytes(data)
    (copied / "train-000002.json").unlink()
    (copied / "val-000000.tar").unlink()
    return copied


@pytest.mark.parametrize("workers", [1, 2])
def test_verify_names_each_bad_shard(damaged, workers):
    faults = verification.verify_shards(damaged, workers=workers)
    for name in ("train-000001", "train-000002", "val-000000"):
        assert any(name in fault for fault in faults)
    assert not any("train-000000" in fault or "train-000003" in fault for fault in faults)


def test_quick_looks_at_records_and_sizes(damaged, capsys):
    assert cli.main(["shards", "verify", str(damaged), "--quick"]) == 1
    printed = capsys.readouterr().out
    assert "train-000002" in printed and "val-000000" in printed
    assert "train-000001" not in printed, "a flipped bit needs the whole check"


def test_repair_writes_only_what_is_bad(damaged, photo_folder, shard_folder, capsys):
    before = {name: (damaged / name).stat().st_mtime_ns for name in ("train-000000.tar", "train-000003.tar")}
    assert cli.main(["shards", "repair", str(damaged), "--source", str(photo_folder)]) == 0
    assert "written again: train-000001.tar, train-000002.tar, val-000000.tar" in capsys.readouterr().out
    assert contents(damaged) == contents(shard_folder)
    assert {name: (damaged / name).stat().st_mtime_ns for name in before} == before
    assert cli.main(["shards", "repair", str(damaged), "--source", str(photo_folder)]) == 0
    assert "all is well" in capsys.readouterr().out


def test_repair_from_another_source_is_refused(damaged, photo_folder, tmp_path):
    other = shutil.copytree(photo_folder, tmp_path / "other")
    next(other.rglob("*.jpg")).rename(other / "renamed.jpg")
    with pytest.raises(UserError, match="another recipe or source"):
        shard_writer.repair_shards(RepairShards(damaged, other))


def test_repair_from_changed_images_is_refused(damaged, photo_folder, tmp_path):
    other = shutil.copytree(photo_folder, tmp_path / "other")
    photos = sorted(other.rglob("*.jpg"))
    for photo, source in zip(photos, [photos[-1], *photos[:-1]], strict=True):
        photo.write_bytes((photo_folder / source.relative_to(other)).read_bytes())
    with pytest.raises(UserError, match="have changed; write all shards to another --out"):
        shard_writer.repair_shards(RepairShards(damaged, other))


def test_what_was_set_aside_is_listed(photo_folder, tmp_path):
    source = shutil.copytree(photo_folder, tmp_path / "source")
    (source / "zero.jpg").write_bytes(b"")
    (source / "list.txt").write_text("no picture")
    manifest = shard_writer.write_shards(WriteShards(source, tmp_path / "out", RECIPE))
    lines = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert manifest.read == manifest.written + manifest.quarantined == 50
    assert {line["source"]: line["reason"] for line in lines} == {
        "zero.jpg": "empty file",
        "list.txt": "not an image by its name",
    }

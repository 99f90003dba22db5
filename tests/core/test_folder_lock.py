"""Folders held by one process at a time."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest

from koala.core import folder_lock
from koala.core.errors import UserError
from koala.core.folder_lock import lock_folder

HOLD = """
import sys, time
from pathlib import Path
from koala.core.folder_lock import lock_folder
with lock_folder(Path(sys.argv[1]), "koala train"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_who_holds_a_folder_is_named(holder, tmp_path):
    with pytest.raises(UserError) as error, lock_folder(tmp_path, "koala train"):
        pass
    assert f"{tmp_path} is in use: koala train runs there as process {holder.pid} on {socket.gethostname()}" in str(
        error.value
    )


def test_the_lock_of_a_killed_process_is_gone(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert list(tmp_path.iterdir()), "its file is left"
    with lock_folder(tmp_path, "koala train"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_is_made_and_left_empty(tmp_path):
    with lock_folder(tmp_path / "new/run", "koala train"):
        assert (tmp_path / "new/run").is_dir()
    with lock_folder(tmp_path / "new/run", "koala train"):
        pass
    assert not list((tmp_path / "new/run").iterdir())


@pytest.mark.parametrize(
    ("held", "wanted", "free"),
    [
        ((1, 4), (2, 4), True),
        ((1, 4), (1, 4), False),
        ((1, 4), (2, 3), False),  # whose parts overlap with these
        ((1, 4), (1, 1), False),
        ((1, 1), (2, 4), False),
    ],
)
def test_parts_of_one_work_go_side_by_side(tmp_path, held, wanted, free):
    with lock_folder(tmp_path, "koala shards write", *held):
        if free:
            with lock_folder(tmp_path, "koala shards write", *wanted):
                pass
        else:
            with pytest.raises(UserError, match="is in use"), lock_folder(tmp_path, "koala shards write", *wanted):
                pass
    with lock_folder(tmp_path, "koala shards write"):
        pass


def test_what_killed_parts_left_does_not_stay(tmp_path):
    for name in (".lock-1-of-3", ".lock-3-of-3", ".lock-1-of-1"):
        (tmp_path / name).write_text("of a process that was killed")
    with lock_folder(tmp_path, "koala shards finish"):
        assert [path.name for path in tmp_path.iterdir()] == [".lock-1-of-1"]


def test_where_there_are_no_locks_it_is_said(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with lock_folder(tmp_path, "koala train"):
        pass
    assert "there are no locks there (No locks available); let nothing else write into it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mount", "local"),
    [
        ("nfs server:/data rw,vers=4.2,local_lock=none,addr=10.0.0.1", False),
        ("nfs server:/data rw,vers=3,nolock,local_lock=all,addr=10.0.0.1", True),
        ("lustre 10.0.0.1@tcp:/fs rw,localflock", True),
        ("ext4 /dev/vda rw", False),
    ],
)
def test_locks_that_stay_on_a_machine_are_recognised(mount, local, tmp_path):
    """Lines as Linux writes them, see proc_pid_mountinfo(5)."""
    found = tmp_path.stat().st_dev
    lines = (
        f"36 35 98:0 / /mnt rw - nfs other:/x rw,nolock\n40 35 {os.major(found)}:{os.minor(found)} / / rw - {mount}\n"
    )
    (tmp_path / "mountinfo").write_text(lines)
    assert folder_lock._is_local(tmp_path, tmp_path / "mountinfo") is local

"""Asking a store with patience; the Hugging Face hub's file system is stood in for by one in memory."""

import pytest

from koala.core import object_store
from koala.core.errors import UserError
from koala.core.object_store import FsspecBackend, ObjectStore, StoredFile, open_store


class Moody:
    """A store that raises some errors before it answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def get(self, name, begin, end):
        if self.errors:
            raise self.errors.pop(0)
        return b"answer", StoredFile(6, "")


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """How long was waited, in a time that goes on by waiting alone."""
    waited: list[float] = []
    monkeypatch.setattr(object_store._ending, "wait", waited.append)
    monkeypatch.setattr(object_store.time, "monotonic", lambda: sum(waited))
    monkeypatch.setattr(object_store.random, "uniform", lambda low, high: high)
    return waited


def test_waits_grow_to_twenty_seconds(waits):
    store = ObjectStore("s3://b/x", Moody(*[ConnectionError("gone")] * 9), 600)
    assert store.read("name") == b"answer"
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 20, 20]


def test_patience_ends_in_a_sentence_without_secrets(waits, capsys):
    error = ConnectionError("error sending request for https://host/x?sig=secret: refused\n\nDebug source: secret")
    with pytest.raises(UserError) as away:
        ObjectStore("s3://b/x", Moody(*[error] * 99), 30).read("name")
    assert str(away.value) == (
        "s3://b/x has not answered for 25 s (error sending request for https://host/x refused); when it does, run "
        "the same command again, or allow more seconds with KOALA_STORE_PATIENCE"
    )
    assert "secret" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("no"), "s3://b/x/name may not be read with these credentials; see who may, or set others"),
        (OSError("status code: 403"), "s3://b/x/name may not be read with these credentials; see who may"),
        (OSError("GET http://169.254.169.254/latest"), "s3://b/x: no credentials were found; set AWS_ACCESS_KEY_ID"),
        (OSError("404 NoSuchBucket"), "s3://b/x: there is no such bucket; correct the name, or make it first"),
        (OSError("Server returned status code: 301"), ""),
        (OSError("status code: 400 Bad"), r"s3://b/x/name: the store refuses the request \(status code: 400 Bad\)"),
    ],
)
def test_what_asking_again_cannot_mend_is_said_at_once(waits, error, message):
    store = ObjectStore("s3://b/x", Moody(error), 600)
    if not message:
        assert store.read("name") == b"answer"
        return
    with pytest.raises(UserError, match=message):
        store.read("name")
    assert not waits


def test_a_command_that_is_to_end_does_not_wait(waits):
    object_store.stop_waiting()
    try:
        with pytest.raises(UserError, match="s3://b/x has not answered for 0 s"):
            ObjectStore("s3://b/x", Moody(ConnectionError("gone")), 600).read("name")
    finally:
        object_store.stop_waiting(False)
    assert not waits


@pytest.mark.parametrize("text", ["long", "nan", "inf", "1e400"])
def test_patience_must_be_a_number(monkeypatch, text):
    monkeypatch.setenv("KOALA_STORE_PATIENCE", text)
    with pytest.raises(UserError, match=f"KOALA_STORE_PATIENCE = {text} is no number; correct it, or unset it"):
        open_store("s3://b/x")


def test_settings_that_are_missing_are_asked_for(monkeypatch):
    pytest.importorskip("obstore")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(UserError, match=r"az://b/x cannot be opened .*; set AZURE_STORAGE_ACCOUNT_NAME with"):
        open_store("az://b/x")


def test_without_the_extra_its_pip_line_is_said(monkeypatch):
    monkeypatch.setitem(object_store.extras.EXTRAS, "remote", ("no_such_module",))
    with pytest.raises(UserError, match=r"^a folder at s3:// needs no_such_module; pip install .*\[remote\]"):
        open_store("s3://b/x")


def test_a_file_system_of_fsspec_serves_as_a_store():
    from fsspec.implementations.memory import MemoryFileSystem

    store = ObjectStore("hf://buckets/koala", FsspecBackend(MemoryFileSystem(), "/koala-test"), 0)
    assert store.list() == {}
    store.write("train-000000.tar", b"0123456789")
    store.write("embeddings/some/key.json", b"{}")
    assert {name: file.size for name, file in store.list().items()} == {
        "train-000000.tar": 10,
        "embeddings/some/key.json": 2,
    }
    assert store.read_range("train-000000.tar", 2, 5, 10) == b"234"
    with pytest.raises(FileNotFoundError):
        store.read("nothing")
    with pytest.raises(UserError, match=r"train-000000.tar is 10 bytes long, its record says 11; check with koala"):
        store.read_range("train-000000.tar", 2, 5, 11)
    store.delete("train-000000.tar")
    assert list(store.list()) == ["embeddings/some/key.json"]


def test_what_is_not_there_may_be_deleted(waits, tmp_path):
    store = object_store.open_folder(tmp_path)
    store.write("there", b"1")
    store.delete("there")
    store.delete("there")
    assert store.list() == {}
    assert not waits

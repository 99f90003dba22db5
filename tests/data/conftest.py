"""Fixtures: stores with shards in them."""

from pathlib import Path
from uuid import uuid4

import pytest

from koala.config.fields import StoreUrl
from koala.core.object_store import open_store
from koala.data import mirror, tars


def forget() -> None:
    """What a process knows of stores, as in a new process."""
    mirror._mirror.cache_clear()
    mirror._opened.cache_clear()
    tars._cache.cache_clear()


@pytest.fixture(scope="session")
def s3_server():
    pytest.importorskip("obstore")
    from tests.stores import S3

    server = S3()
    yield server
    server.close()


@pytest.fixture
def s3(s3_server, tmp_path, monkeypatch):
    """An S3 server with an empty bucket `koala`, and an empty cache."""
    s3_server.faults.clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KOALA_STORE_PATIENCE", "20")
    s3_server.make_bucket("koala")
    forget()
    yield s3_server
    forget()


@pytest.fixture
def new_url(s3) -> StoreUrl:
    """A folder at the server in which nothing lies."""
    return StoreUrl(f"s3://koala/{uuid4().hex}")


def upload(folder: Path, url: StoreUrl) -> StoreUrl:
    store = open_store(url)
    for path in folder.iterdir():
        if path.is_file():
            store.write(path.name, path)
    return url


@pytest.fixture
def shards_url(shard_folder, new_url) -> StoreUrl:
    """The shards of `shard_folder`, at the server."""
    return upload(shard_folder, new_url)

"""Fixtures: small photographs, shards of them, and the real ones where they are at hand."""

import pickle
import tarfile
from pathlib import Path

import pytest

from koala.config.data import DataSettings, ShardRecipe, SplitRule, WriteShards
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.data import shard_writer
from tests.photographs import jpeg, make_photo

REAL_PHOTOS = Path(__file__).parents[2] / "shared/data/imagenet-photos-600.tar"


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory) -> Path:
    """48 small JPEGs of several sizes, one of them grey, in two sub-folders."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(48):
        photo = make_photo(number, width=48 + 8 * (number % 4), height=40 + 12 * (number % 3))
        path = folder / ("first" if number % 2 else "second") / f"photo {number:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(photo.convert("L") if number == 5 else photo))
    return folder


@pytest.fixture(scope="session")
def shard_folder(photo_folder, tmp_path_factory) -> Path:
    """The same as shards: 40 to train on in 4 shards, 8 to validate on."""
    out = tmp_path_factory.mktemp("shards")
    recipe = ShardRecipe(samples_per_shard=10, split=SplitRule(val_count=8))
    shard_writer.write_shards(WriteShards(photo_folder, out, recipe))
    return out


@pytest.fixture(scope="session")
def run(shard_folder, tmp_path_factory) -> Path:
    """A run folder: two steps of a network without extractor, at 16 x 16."""
    from koala.training import trainer

    folder = tmp_path_factory.mktemp("run")
    data = DataSettings(shard_folder, size=16, threads=2)
    trainer.train(TrainSettings(data=data, extractor=ExtractorSettings("none"), batch_size=4, epochs=0.2, run=folder))
    return folder


@pytest.fixture(scope="session")
def real_photos(tmp_path_factory) -> Path:
    """600 real photographs of ImageNet, full size."""
    if not REAL_PHOTOS.exists():
        pytest.skip(f"needs {REAL_PHOTOS.name}, which cannot be distributed")
    folder = tmp_path_factory.mktemp("imagenet")
    with tarfile.open(REAL_PHOTOS) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(autouse=True)
def _alone_in_the_world(monkeypatch):
    """Tests do not inherit a launcher's variables."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["bare", "zipped"])
def strangers_pickle(request, tmp_path) -> Path:
    """A file of weights whose unpickling would run code, and fail the test: a pickle, and what torch.save makes."""
    import torch

    class Stranger:
        def __reduce__(self):
            return (pytest.fail, ("code of a weights file ran",))

    path = tmp_path / "stranger.pth"
    if request.param == "bare":
        path.write_bytes(pickle.dumps({"weight": Stranger()}))
    else:
        torch.save({"weight": Stranger()}, path)
    return path

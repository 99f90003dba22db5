"""Cached embeddings: what is kept, going on after an interruption, and training that takes it."""

import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from koala.config.data import DataSettings, EmbedShards, ViewSettings, WriteShards
from koala.config.evaluation import EvaluateSettings
from koala.config.load import save_toml
from koala.config.models import ExtractorSettings, ExtractorWeightsOrCache
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.core.folder_lock import lock_folder
from koala.data import embed, embedding_cache, loader, shard_writer
from koala.data.counter_rng import uniforms
from koala.data.crop_windows import crop_windows
from koala.data.sampler import sequential_batches
from koala.data.shards import Shards
from koala.evaluation import evaluate, results
from koala.models import checkpoint, extractor, pretrained
from koala.training import trainer
from tests.photographs import jpeg, make_photo
from tests.processes import finish, start, start_two, wait_for
from tests.runs import same_weights, scalars, weights

EXTRACTOR = ExtractorSettings("tf_efficientnet_lite0", weights="random")
SIZE = 32


def embed_settings(folder: Path) -> EmbedShards:
    return EmbedShards(folder, EXTRACTOR, ViewSettings(size=SIZE, threads=2), batch_size=8)


@pytest.fixture(scope="module")
def embedded(shard_folder, tmp_path_factory) -> Path:
    """The shards, with the embeddings of a small extractor of random weights."""
    folder = tmp_path_factory.mktemp("embedded") / "shards"
    shutil.copytree(shard_folder, folder)
    assert embed.embed_command(embed_settings(folder)) == 0
    return folder


@pytest.fixture
def own(embedded, tmp_path) -> Path:
    """The same, to do with as a test likes."""
    return shutil.copytree(embedded, tmp_path / "shards")


@pytest.fixture
def settings(embedded, tmp_path) -> TrainSettings:
    """A training of 10 steps with cached embeddings."""
    return TrainSettings(
        data=DataSettings(embedded, size=SIZE, threads=2, mirror=True),
        extractor=replace(EXTRACTOR, cache=True),
        batch_size=4,
        epochs=1,
        log_every=1,
        log_pictures=0,
        run=tmp_path / "run",
    )


def side_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("embeddings/*/*"))}


def cache_folder(folder: Path) -> Path:
    (path,) = folder.glob("embeddings/*")
    return path


def live(settings: TrainSettings) -> TrainSettings:
    return replace(settings, extractor=EXTRACTOR)


# ---------------------------------------------------------------- what is kept


def test_every_sample_of_every_split_has_two_rows(embedded):
    folder = cache_folder(embedded)
    assert folder.name.startswith("tf_efficientnet_lite0-logits-pad-32-grey-")
    samples = {path.stem: len(np.load(path, mmap_mode="r")) for path in folder.glob("*.npy")}
    assert samples == {**{f"train-00000{number}": 10 for number in range(4)}, "val-000000": 8}
    rows = np.load(folder / "val-000000.npy", mmap_mode="r")
    assert (rows.shape, rows.dtype) == ((8, 2, 1000), np.float16)


@pytest.mark.parametrize("geometry", ["pad", "crop", "squash", "legacy"])
def test_what_is_mirrored_in_the_graph_is_the_mirror_image(tmp_path, geometry):
    """Also where the padding is odd, so that it is not the same on both sides."""
    (tmp_path / "photos").mkdir()
    for number in range(24):
        photo = make_photo(number, width=31 + number, height=60 if number < 12 else 35)
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(jpeg(photo))
    shard_writer.write_shards(WriteShards(tmp_path / "photos", tmp_path / "shards"))
    shards = Shards.open(tmp_path / "shards", "train")
    data = DataSettings(tmp_path / "shards", geometry=geometry, size=40, threads=2)

    def lightness(mirror: bool) -> torch.Tensor:
        places = sequential_batches(len(shards), 8, rank=0, world_size=1)
        stream = loader.load_batches(shards, places, replace(data, mirror=mirror), "cpu", batch=8, seed=5)
        return torch.cat([batch.lightness for batch in stream])

    plain, mirrored = lightness(False), lightness(True)
    random = uniforms(5, np.zeros(24, np.int64), np.arange(24))
    windows = crop_windows(geometry, shards.height, shards.width, 40, random, mirror=True)
    chosen = torch.from_numpy(windows.mirror)
    assert 5 < chosen.sum() < 20
    if geometry == "pad":
        left = windows.place[windows.mirror, 1]
        assert (left != 40 - left - windows.shape[windows.mirror, 1]).any()
    assert torch.equal(mirrored[chosen], plain[chosen].flip(3))
    assert torch.equal(mirrored[~chosen], plain[~chosen])


def test_rows_are_the_embeddings_of_what_is_seen(embedded):
    """In training's own batches, mirrored ones among them: what is read is what the extractor says of the lightness."""
    built = extractor.build_extractor(EXTRACTOR)
    shards = Shards.open(embedded, "train")
    cache = embedding_cache.find_cache(replace(EXTRACTOR, cache=True), DataSettings(embedded, size=SIZE))
    entries = embedding_cache.read_manifest(embedded).splits["train"]
    kept = embedding_cache.CachedEmbeddings(cache, entries, shards)
    data = DataSettings(embedded, size=SIZE, threads=2, mirror=True)
    for batch in loader.load_batches(
        shards, sequential_batches(40, 8, rank=0, world_size=1), data, "cpu", batch=8, embeddings=kept
    ):
        expected = built(batch.lightness)
        assert batch.embedding.dtype == torch.float32
        assert torch.allclose(batch.embedding, expected, rtol=2e-3, atol=1e-3 * float(expected.abs().max()))
        other = torch.from_numpy(kept.read(batch.samples, np.ones(len(batch.samples), np.bool_)))
        assert not torch.equal(batch.embedding, other)


def test_where_samples_are_left_out_the_others_keep_their_rows(embedded):
    cache = embedding_cache.find_cache(replace(EXTRACTOR, cache=True), DataSettings(embedded, size=SIZE))
    keep = np.arange(40) % 7 == 3
    chosen = Shards.open(embedded, "train", keep)
    kept = embedding_cache.CachedEmbeddings(cache, embedding_cache.read_manifest(embedded).splits["train"], chosen)
    rows = np.concatenate([np.load(path) for path in sorted(cache.folder.glob("train-*.npy"))])
    for mirror in (False, True):
        read = kept.read(np.arange(len(chosen)), np.full(len(chosen), mirror))
        assert np.array_equal(read, rows[keep, int(mirror)])


def test_what_is_whole_is_kept_and_what_is_not_is_made_again(own):
    before = side_files(own)
    folder = cache_folder(own)
    (folder / "train-000000.npy").unlink()
    (folder / "train-000001.json").unlink()
    for name in ("train-000002.npy", "val-000000.json"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-10])
    kept = (folder / "train-000003.npy").stat().st_mtime_ns
    embed.embed_command(embed_settings(own))
    assert side_files(own) == before
    assert (folder / "train-000003.npy").stat().st_mtime_ns == kept


def test_a_flipped_bit_is_found(own):
    before, path = side_files(own), cache_folder(own) / "train-000001.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    embed.embed_command(embed_settings(own))
    assert side_files(own) == before


def test_another_precision_does_not_mix_with_what_is_there(own):
    with pytest.raises(UserError, match=r"was begun with mixed_precision = no, not bf16; use that precision"):
        embed.embed_command(replace(embed_settings(own), mixed_precision="bf16"))


def test_bf16_is_near_fp32(own):
    path = cache_folder(own) / "val-000000.npy"
    full = np.load(path).astype(float)
    shutil.rmtree(own / "embeddings")
    embed.embed_command(replace(embed_settings(own), mixed_precision="bf16"))
    half = np.load(path).astype(float)
    assert 0 < np.abs(half - full).max() < 0.05 * np.abs(full).max()


def words(folder: Path) -> list[str]:
    named = ("--extractor.name", EXTRACTOR.name, "--extractor.weights", EXTRACTOR.weights)
    view = ["--data.size", str(SIZE), "--data.threads", "2"]
    return ["shards", "embed", str(folder), *named, *view, "--batch-size", "8"]


@pytest.mark.slow
def test_two_processes_make_the_files_of_one(own):
    shutil.rmtree(own / "embeddings")
    finish(start(*words(own)))
    one = side_files(own)
    shutil.rmtree(own / "embeddings")
    assert finish(start_two(*words(own))).count("the embeddings are complete") == 1
    assert side_files(own) == one


def test_a_trainings_file_says_what_is_to_be_made(own, settings, tmp_path):
    """The same files are made as by flags; flags beside the training's file would be forgotten, and are refused."""
    training = tmp_path / "run.toml"
    save_toml(replace(settings, run=None), training)
    before = side_files(own)
    shutil.rmtree(own / "embeddings")
    embed.embed_command(EmbedShards(own, batch_size=8, training=training))
    assert side_files(own) == before
    for flag in ({"data": ViewSettings(size=64)}, {"mixed_precision": "bf16"}):
        with pytest.raises(UserError, match=r"run\.toml says which extractor, view, precision and seed; leave out"):
            embed.embed_command(EmbedShards(own, training=training, **flag))


def test_embeddings_for_a_training_have_its_precision(settings):
    assert embed.embed_settings_for(replace(settings, mixed_precision="bf16")).mixed_precision == "bf16"
    asked = EmbedShards(settings.data.shards)
    assert embed.embed_settings_for(replace(settings, mixed_precision="bf16"), asked).mixed_precision == "bf16"


@pytest.mark.slow
def test_killed_and_run_again_the_files_are_those_of_one_run(own):
    folder = cache_folder(own)
    shutil.rmtree(own / "embeddings")
    finish(start(*words(own)))
    before = side_files(own)
    for name in ("train-000000.npy", "train-000002.json"):
        shutil.rmtree(own / "embeddings")
        process = start(*words(own))
        wait_for(folder / name, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        finish(start(*words(own)))
        assert side_files(own) == before


# ---------------------------------------------------------------- training with it


def test_cached_and_live_training_have_the_same_losses(settings, tmp_path):
    trainer.train(settings)
    trainer.train(replace(live(settings), run=tmp_path / "live"))
    for name in ("loss/train", "loss/val"):
        cached, computed = scalars(settings.run, name), scalars(tmp_path / "live", name)
        assert cached.keys() == computed.keys()
        assert max(abs(cached[step] - computed[step]) for step in cached) < 1e-3
    first, second = (checkpoint.find_checkpoint(run) for run in (settings.run, tmp_path / "live"))
    assert first.extractor_sha256 == second.extractor_sha256
    assert pretrained.load_model(settings.run).extractor is not None


def test_no_extractor_is_run_with_the_cache(settings, monkeypatch):
    def forward(*_: object) -> None:
        raise AssertionError("the extractor was run")

    size = extractor.build_extractor(EXTRACTOR).embedding_size
    monkeypatch.setattr(extractor.Extractor, "forward", forward)
    monkeypatch.setattr(extractor.Extractor, "_measure", lambda _: size)
    assert trainer.train(settings) == 0


def test_two_sittings_with_the_cache_equal_one(settings, tmp_path):
    trainer.train(replace(settings, run=tmp_path / "whole"))
    trainer.train(replace(settings, epochs=0.4))
    trainer.train(settings)
    assert same_weights(weights(tmp_path / "whole", 40), weights(settings.run, 40))


def test_the_cache_may_come_and_go_between_sittings(settings):
    trainer.train(replace(settings, epochs=0.3))
    trainer.train(live(replace(settings, epochs=0.6)))
    trainer.train(settings)
    assert checkpoint.latest_checkpoint(settings.run / "checkpoints").images_seen == 40


def test_mirroring_must_stay(settings):
    trainer.train(replace(settings, epochs=0.1))
    with pytest.raises(UserError, match=r"was begun with data\.mirror = True, not False"):
        trainer.train(replace(settings, data=replace(settings.data, mirror=False)))


def test_the_weights_need_not_be_there(own, settings, tmp_path):
    """Embeddings of a file's weights are taken where the file is not: the checkpoint keeps their fingerprint."""
    file = tmp_path / "weights.safetensors"
    built = extractor.build_extractor(EXTRACTOR, seed=1)
    save_file({name: value.contiguous() for name, value in built.model.state_dict().items()}, file)
    named = replace(EXTRACTOR, weights=str(file))
    embed.embed_command(replace(embed_settings(own), extractor=named))
    file.unlink()
    data = replace(settings.data, shards=own)
    trainer.train(replace(settings, data=data, extractor=replace(named, cache=True), epochs=0.1))
    assert checkpoint.latest_checkpoint(settings.run / "checkpoints").extractor_sha256 == extractor.weights_sha256(
        built
    )


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extractor.name": "tf_efficientnet_lite1"}, "extractor.name = tf_efficientnet_lite0, not tf_efficientnet_l"),
        ({"extractor.features": "pooled"}, "extractor.features = logits, not pooled;"),
        ({"extractor.weights": "pretrained"}, "extractor.weights = random, not pretrained;"),
        ({"seed": 1}, "other weights of tf_efficientnet_lite0 (sha256 "),
        ({"data.geometry": "crop"}, "data.geometry = pad, not crop;"),
        ({"data.size": 64}, "data.size = 32, not 64; run koala shards embed "),
        ({"data.lightness": "color"}, "data.lightness = grey, not color;"),
        ({"data.size": 64, "data.geometry": "crop"}, "data.geometry = pad, not crop and data.size = 32, not 64;"),
    ],
)
def test_a_cache_of_something_else_is_refused(settings, change, message):
    for name, value in change.items():
        section, _, field = name.rpartition(".")
        if section:
            settings = replace(settings, **{section: replace(getattr(settings, section), **{field: value})})
        else:
            settings = replace(settings, **{field: value})
    with pytest.raises(UserError, match=re.escape(f"the cached embeddings were made with {message}")) as error:
        trainer.train(settings)
    assert str(error.value).endswith(", or leave out --extractor.cache")
    assert not settings.run.exists()


def test_without_a_cache_the_command_is_named(shard_folder, settings):
    with pytest.raises(UserError) as error:
        trainer.train(replace(settings, data=replace(settings.data, shards=shard_folder)))
    assert str(error.value) == (
        f"{shard_folder} holds no cached embeddings; run koala shards embed {shard_folder} --extractor.name "
        "tf_efficientnet_lite0 --extractor.weights random --data.size 32, or leave out --extractor.cache"
    )


def test_a_cache_that_is_not_complete_is_refused(own, settings):
    settings = replace(settings, data=replace(settings.data, shards=own))
    folder = cache_folder(own)
    (folder / "train-000001.json").unlink()
    (folder / "train-000002.npy").write_bytes(b"short")
    with pytest.raises(UserError, match="of 2 of 5 shards cannot be used: there are no embeddings of train-000001"):
        trainer.train(settings)
    (folder / "train-000001.npy").unlink()
    embed.embed_command(embed_settings(own))
    record = folder / "train-000002.json"
    record.write_text(re.sub('"shard_sha256": "....', '"shard_sha256": "0000', record.read_text()))
    with pytest.raises(UserError, match=r"train-000002.npy was made of another train-000002.tar; run koala shards"):
        trainer.train(settings)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "key.json",
            ('"embedding_size": 1000', '"embedding_size": 1000000000'),
            r"train-000000.npy is \d+ bytes long, its",
        ),
        ("key.json", ('"format": "', '"format": "another '), "key.json is of another koala; delete"),
        ("key.json", ('"size": 32', '"size": "x"'), r"key.json is damaged \(size: Input should be a valid integer"),
        ("train-000002.json", ('"bytes": ', '"bytes": -'), r"train-000002.npy is \d+ bytes long, its record says -\d+"),
        ("train-000002.json", ("{", "[" * 5000), "the record of .*train-000002.npy is damaged"),
        ("train-000002.json", ("{", "\udcff"), "the record of .*train-000002.npy is damaged"),
    ],
)
def test_a_damaged_side_file_is_named(own, settings, file, change, message):
    path = cache_folder(own) / file
    text = path.read_text("utf-8")
    assert change[0] in text
    path.write_text(text.replace(*change), "utf-8", "surrogateescape")
    with pytest.raises(UserError, match=message):
        embedding_cache.find_cache(settings.extractor, replace(settings.data, shards=own))


def test_a_cache_is_made_by_one_command_at_a_time(own):
    with (
        lock_folder(cache_folder(own), "koala shards embed"),
        pytest.raises(UserError, match="is in use: koala shards"),
    ):
        embed.embed_command(embed_settings(own))
    assert embed.embed_command(embed_settings(own)) == 0
    assert not list(cache_folder(own).glob(".lock*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"geometry": "random_crop"}, "random_crop shows another part of a photo each time"),
        ({"name": "none"}, "without extractor there are no embeddings"),
        ({"batch_statistics": True}, "embeddings depend on the rest of the batch"),
    ],
)
def test_what_is_another_each_time_is_not_kept(settings, change, message):
    geometry = change.pop("geometry", "pad")
    named = replace(settings.extractor, **change)
    with pytest.raises(UserError, match=message):
        trainer.train(replace(settings, extractor=named, data=replace(settings.data, geometry=geometry)))
    view = ViewSettings(geometry=geometry, size=SIZE)
    with pytest.raises(UserError, match=message):
        embed.embed_command(EmbedShards(settings.data.shards, named, view))


def test_a_file_that_grows_shorter_while_it_is_read_is_said(own):
    cache = embedding_cache.find_cache(replace(EXTRACTOR, cache=True), DataSettings(own, size=SIZE))
    kept = embedding_cache.CachedEmbeddings(
        cache, embedding_cache.read_manifest(own).splits["val"], Shards.open(own, "val")
    )
    kept.read(np.array([0]), np.array([False]))
    path = cache.folder / "val-000000.npy"
    with path.open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(UserError, match=r"val-000000.npy ends before row 15; run koala shards embed again"):
        kept.read(np.array([7]), np.array([True]))


# ---------------------------------------------------------------- evaluating with them


def test_evaluation_takes_them_where_it_is_told_to(settings, tmp_path, monkeypatch):
    trainer.train(settings)
    common = {"size": SIZE, "features": "none", "threads": 2, "batch_size": 3}
    shards = settings.data.shards
    evaluate.evaluate(EvaluateSettings(settings.run, shards, out=tmp_path / "live", **common))
    monkeypatch.setattr(pretrained.PretrainedColorizer, "of", lambda *_: pytest.fail("the extractor was asked for"))
    cached = ExtractorWeightsOrCache(cache=True)
    evaluate.evaluate(EvaluateSettings(settings.run, shards, out=tmp_path / "cached", extractor=cached, **common))
    live, kept = (results.read_scores(tmp_path / name) for name in ("live", "cached"))
    assert kept["scores"] == pytest.approx(live["scores"], rel=0.02)
    assert (live["embeddings"], kept["embeddings"]["size"]) == (None, SIZE)


def test_photos_that_age_are_not_kept(settings):
    aging = replace(settings, data=replace(settings.data, aging=0.5))
    with pytest.raises(UserError, match=r"with --data.aging a photo looks otherwise each time"):
        embedding_cache.find_cache(aging.extractor, aging.data)
    with pytest.raises(UserError, match=r"with --data.aging a photo looks otherwise each time"):
        embed.embed_settings_for(aging)


def test_embeddings_of_another_view_are_not_taken(settings):
    trainer.train(settings)
    cached = ExtractorWeightsOrCache(cache=True)
    with pytest.raises(UserError, match=r"were made with data.lightness = grey, not color; run koala shards embed"):
        evaluate.evaluate(EvaluateSettings(settings.run, settings.data.shards, lightness="color", extractor=cached))

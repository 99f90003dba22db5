"""Training: the clock, resuming to the bit, several processes, stopping, refusing."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace

import numpy as np
import pytest
import tomli_w
import torch
from PIL import Image

from koala import cli
from koala.config.data import DataSettings, MeasurePrior, ShardRecipe, WriteShards
from koala.config.evaluation import EvaluateSettings
from koala.config.load import load_toml
from koala.config.models import ExtractorSettings, NetworkSettings, ObjectiveSettings
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.core.folder_lock import lock_folder
from koala.data import color_prior, loader, shard_writer
from koala.data.sampler import EpochSampler
from koala.data.shards import Shards
from koala.evaluation import evaluate, results
from koala.models import checkpoint, pretrained
from koala.training import components, trainer
from tests.photographs import jpeg, make_photo
from tests.processes import finish, start, start_two, wait_for
from tests.runs import same_weights, scalars, weights


@pytest.fixture
def settings(shard_folder, tmp_path) -> TrainSettings:
    """A training of a few seconds: 40 photos, steps of 4, no extractor."""
    return TrainSettings(
        data=DataSettings(shard_folder, size=16, threads=2, geometry="random_crop"),
        extractor=ExtractorSettings("none"),
        batch_size=4,
        epochs=1,
        log_every=1,
        log_pictures=2,
        run=tmp_path / "run",
    )


def command(settings: TrainSettings) -> list[str]:
    """The command line of a training."""
    data = settings.data
    return [
        "train",
        *("--data.shards", str(data.shards), "--data.size", str(data.size), "--data.threads", str(data.threads)),
        *("--data.geometry", data.geometry, "--extractor.name", settings.extractor.name),
        *("--batch-size", str(settings.batch_size), "--epochs", str(settings.epochs), "--run", str(settings.run)),
        *("--log-every", str(settings.log_every), "--checkpoint-every", str(settings.checkpoint_every)),
    ]


# ---------------------------------------------------------------- one process


def test_what_a_run_leaves(settings):
    assert trainer.train(settings) == 0
    run = settings.run
    assert load_toml(TrainSettings, run / "config.toml") == replace(settings, run=None)
    losses = scalars(run, "loss/train")
    assert list(losses) == list(range(4, 44, 4))
    assert set(scalars(run, "loss/val")) == {40}
    assert all(value == pytest.approx(1e-3) for value in scalars(run, "train/learning_rate").values())
    for name in ("data", "device", "saving"):
        assert all(0 <= value <= 1 for value in scalars(run, f"usage/time_{name}").values())
    assert all(value > 0 for value in scalars(run, "usage/speed_images_per_second").values())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["train/loss"] for line in lines[:-1]] == pytest.approx(list(losses.values()))
    assert lines[-1]["val/loss"] == pytest.approx(scalars(run, "loss/val")[40])
    assert all(line["train/gradient_norm"] > 0 for line in lines[:-1])
    found = checkpoint.find_checkpoint(run)
    assert (found.images_seen, found.settings.batch_size) == (40, 4)


def test_colors_are_learnt(settings, tmp_path):
    """Photographs that are all orange: the constant colour is learnt, to a tenth of the loss of grey."""
    (tmp_path / "orange").mkdir()
    for number in range(8):
        grey = np.asarray(make_photo(number).convert("L"), float)[..., None]
        orange = Image.fromarray((grey * [1.0, 0.6, 0.2]).astype(np.uint8))
        (tmp_path / "orange" / f"{number}.jpg").write_bytes(jpeg(orange))
    shard_writer.write_shards(WriteShards(tmp_path / "orange", tmp_path / "shards"))
    data = replace(settings.data, shards=tmp_path / "shards", geometry="crop")
    trainer.train(replace(settings, data=data, epochs=50, batch_size=8))
    losses = list(scalars(settings.run, "loss/train").values())
    assert losses[-1] < losses[0] / 10


def test_a_complete_run_is_left_alone(settings, capsys):
    trainer.train(settings)
    before = weights(settings.run, 40)
    assert trainer.train(settings) == 0
    assert "is complete" in capsys.readouterr().err
    assert same_weights(before, weights(settings.run, 40))


def test_two_sittings_equal_one(settings, tmp_path):
    whole = replace(settings, epochs=2, run=tmp_path / "whole")
    trainer.train(whole)
    trainer.train(settings)
    trainer.train(replace(settings, epochs=2))
    assert same_weights(weights(whole.run, 80), weights(settings.run, 80))
    assert scalars(whole.run, "loss/train") == scalars(settings.run, "loss/train")


def test_a_run_of_koala_0_1_is_resumed(settings, tmp_path, capsys):
    """Its settings had other names, in checkpoints and in its file; only of the file's the user is told."""
    whole, run = replace(settings, epochs=2, run=tmp_path / "whole"), settings.run
    trainer.train(whole)
    trainer.train(settings)
    (path,) = run.glob("checkpoints/*/checkpoint.json")
    described = json.loads(path.read_text())
    path.write_text(json.dumps(described | {"settings": with_old_names(described["settings"])}))
    (run / "config.toml").write_text(tomli_w.dumps(with_old_names(tomllib.loads((run / "config.toml").read_text()))))
    capsys.readouterr()
    assert cli.main(["train", str(run / "config.toml"), "--run", str(run), "--epochs", "2"]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 9 and all("config.toml: " in line for line in warnings)
    assert same_weights(weights(whole.run, 80), weights(run, 80))


def with_old_names(settings: dict) -> dict:
    """Settings of a training under the names that they had in koala 0.1."""
    old = {
        **{"batch_size": "batch", "gradient_accumulation_steps": "accumulation", "clip_grad_norm": "clip_norm"},
        **{"learning_rate_scaling": "scaling", "warmup_images": "warmup", "decay_rate": "decay"},
        **{"keep_checkpoints": "keep", "log_pictures": "pictures"},
    }
    data = settings["data"]
    renamed = {old.get(name, name): value for name, value in settings.items()}
    return renamed | {"data": {**{k: v for k, v in data.items() if k != "filter"}, "where": data["filter"]}}


def test_a_stop_between_entries_changes_no_entry(settings, tmp_path):
    """An entry is a mean over steps; those before the stop are not forgotten."""
    coarse = replace(settings, log_every=4, epochs=0.8)
    trainer.train(replace(coarse, run=tmp_path / "whole"))
    trainer.train(replace(coarse, epochs=0.6))  # six of eight steps: two into the second entry
    trainer.train(coarse)
    for name in ("loss/train", "train/gradient_norm"):
        assert scalars(settings.run, name) == scalars(tmp_path / "whole", name)
        assert list(scalars(settings.run, name)) == [16, 32]


def test_accumulation_changes_nothing_but_memory(settings, tmp_path):
    trainer.train(settings)
    pieces = replace(settings, gradient_accumulation_steps=2, run=tmp_path / "pieces")
    trainer.train(pieces)
    first, second = scalars(settings.run, "loss/train"), scalars(pieces.run, "loss/train")
    assert first.keys() == second.keys()
    assert all(second[step] == pytest.approx(first[step], abs=1e-5) for step in first)


def test_old_checkpoints_go_and_the_best_stays(settings):
    trainer.train(replace(settings, epochs=3, checkpoint_every=2, keep_checkpoints=2))
    kept = sorted(path.name for path in (settings.run / "checkpoints").iterdir())
    assert kept[-3:] == ["000000000112", "000000000120", "validation.json"]
    losses = scalars(settings.run, "loss/val")
    best = min(losses, key=losses.get)
    assert checkpoint.find_checkpoint(settings.run).images_seen == best


def test_a_damaged_newest_checkpoint_is_passed_over(settings, tmp_path, capsys):
    """The run goes on from the one before, and ends as if nothing had happened, however few are kept."""
    whole = replace(settings, epochs=3, run=tmp_path / "whole")
    trainer.train(whole)
    trainer.train(replace(settings, epochs=2))
    damaged = settings.run / "checkpoints" / "000000000080" / "training.pt"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    capsys.readouterr()
    trainer.train(replace(settings, epochs=1.5, keep_checkpoints=1))
    assert "training.pt is damaged" in capsys.readouterr().err
    assert checkpoint.latest_checkpoint(settings.run / "checkpoints").images_seen == 60
    trainer.train(replace(settings, epochs=3, keep_checkpoints=1))
    assert same_weights(weights(whole.run, 120), weights(settings.run, 120))


def test_a_validation_that_was_interrupted_is_made_up_for(settings):
    trainer.train(settings)
    (settings.run / "checkpoints" / "validation.json").unlink()
    trainer.train(settings)
    known = checkpoint.read_validation(settings.run / "checkpoints")
    assert (known.images_seen, known.best_images_seen) == (40, 40)
    assert known.best_loss == pytest.approx(scalars(settings.run, "loss/val")[40])


def test_resuming_with_an_extractor(settings, tmp_path):
    with_extractor = replace(
        settings, extractor=ExtractorSettings("tf_efficientnet_lite0", weights="random"), batch_size=8
    )
    trainer.train(replace(with_extractor, run=tmp_path / "whole"))
    trainer.train(replace(with_extractor, epochs=0.4))
    trainer.train(with_extractor)
    assert same_weights(weights(tmp_path / "whole", 40), weights(settings.run, 40))


def test_bf16_trains_weights_of_fp32(settings, tmp_path):
    extractor = ExtractorSettings("tf_efficientnet_lite0", weights="random")
    half = replace(settings, extractor=extractor, batch_size=8, seed=1, mixed_precision="bf16")
    trainer.train(half)
    trainer.train(replace(half, mixed_precision="no", run=tmp_path / "full"))
    assert all(value.dtype == torch.float32 for value in weights(half.run, 40).values())
    first, second = scalars(half.run, "loss/train"), scalars(tmp_path / "full", "loss/train")
    assert first != second
    assert all(first[step] == pytest.approx(second[step], rel=0.02) for step in first)


def test_runs_without_a_folder_are_new_each_time_and_resume_takes_the_newest(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    unnamed = replace(settings, name="small", run=None, epochs=0.2)
    trainer.train(unnamed)
    (first,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"small-\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", first.name)
    assert f"runs/{first.name}: a new run; to watch it: tensorboard --logdir runs\n" in capsys.readouterr().err
    trainer.train(unnamed)
    (second,) = set((tmp_path / "runs").iterdir()) - {first}
    trainer.train(replace(unnamed, name="other"))
    trainer.train(replace(unnamed, resume=True, epochs=0.4))
    assert checkpoint.latest_checkpoint(first / "checkpoints").images_seen == 8
    assert checkpoint.latest_checkpoint(second / "checkpoints").images_seen == 16


def test_resume_finds_runs_where_koala_0_1_put_them(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = tmp_path / "log/koala/2024-02-03_04-05-06"
    trainer.train(replace(settings, epochs=0.2, run=old))
    trainer.train(replace(settings, epochs=0.4, run=None, resume=True))
    assert checkpoint.latest_checkpoint(old / "checkpoints").images_seen == 16
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------- killed, stopped, shared


def test_who_stops_it_is_told_how_to_resume(settings, monkeypatch, capsys):
    monkeypatch.setattr(trainer.GracefulStop, "requested", lambda self: signal.SIGTERM)
    assert trainer.train(settings) == 128 + signal.SIGTERM
    expected = f"stopped after 4 images; to resume, run the same command with --run {settings.run}"
    assert expected in capsys.readouterr().err.splitlines()


@pytest.mark.slow
def test_killed_in_mid_epoch_the_run_ends_with_the_same_bits(settings, tmp_path):
    """SIGKILL twice, at different places; after 40 steps the weights are those of an uninterrupted run."""
    long = replace(settings, epochs=4, checkpoint_every=7)
    finish(start(*command(replace(long, run=tmp_path / "whole"))))
    for images_seen in (28, 84):
        process = start(*command(long))
        wait_for(long.run / "checkpoints" / f"{images_seen:012d}", process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(start(*command(long)))
    assert same_weights(weights(tmp_path / "whole", 160), weights(long.run, 160))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_stops(settings, number):
    long = replace(settings, epochs=2000, checkpoint_every=5)
    process = start(*command(long))
    wait_for(long.run / "checkpoints", process)
    process.send_signal(number)
    printed = finish(process, code=128 + number)
    seen = int(re.search(r"stopped after (\d+) images", printed).group(1))
    assert checkpoint.latest_checkpoint(long.run / "checkpoints").images_seen == seen
    assert "Traceback" not in printed


@pytest.mark.slow
def test_a_signal_to_launcher_and_processes_saves_in_both(settings):
    """Ctrl-C on a terminal reaches the launcher and its processes, and the launcher passes it on to them again."""
    long = replace(settings, epochs=2000, checkpoint_every=5)
    process = start_two(*command(long), start_new_session=True)
    wait_for(long.run / "checkpoints", process)
    os.killpg(process.pid, signal.SIGINT)
    printed = process.communicate(timeout=240)[0]
    seen = int(re.search(r"stopped after (\d+) images", printed).group(1))
    assert checkpoint.latest_checkpoint(long.run / "checkpoints").images_seen == seen


def test_two_trainings_do_not_share_a_folder(settings):
    with (
        lock_folder(settings.run, "koala train"),
        pytest.raises(UserError, match=r"run is in use: koala train runs there as process \d+ on .*; wait for its end"),
    ):
        trainer.train(settings)
    assert not (settings.run / "checkpoints").exists()
    assert trainer.train(settings) == 0


@pytest.mark.slow
def test_processes_whose_launcher_is_killed_save_and_end(settings):
    """Nobody else would end them, and the same command would train beside them."""
    long = replace(settings, epochs=2000, checkpoint_every=5)
    launcher = start_two(*command(long))
    wait_for(long.run / "checkpoints", launcher)
    launcher.kill()
    launcher.communicate(timeout=240)  # returns once nobody writes to its pipe: the processes have ended
    finish(start(*command(replace(settings, epochs=0.1))))


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(settings, tmp_path):
    """20 steps, fp32, gloo, in two pieces each: the same global batches, the same losses to 1e-5."""
    both = replace(settings, epochs=2)
    one = replace(both, run=tmp_path / "one")
    finish(start(*command(one)))
    finish(start_two(*command(both), "--processes", "2", "--gradient-accumulation-steps", "2"))
    first, second = scalars(one.run, "loss/train"), scalars(both.run, "loss/train")
    assert list(first) == list(second) == list(range(4, 84, 4))
    assert max(abs(first[step] - second[step]) for step in first) < 1e-5
    assert scalars(one.run, "loss/val")[80] == pytest.approx(scalars(both.run, "loss/val")[80], rel=1e-4)


@pytest.mark.slow
def test_saved_by_two_processes_the_run_goes_on_with_one(settings, tmp_path):
    """The same samples come, and the losses stay those of one process throughout."""
    one = replace(settings, epochs=2, run=tmp_path / "one")
    finish(start(*command(one)))
    finish(start_two(*command(replace(settings, epochs=0.9))))
    finish(start(*command(replace(settings, epochs=2))))
    first, second = scalars(one.run, "loss/train"), scalars(settings.run, "loss/train")
    assert first.keys() == second.keys()
    assert max(abs(first[step] - second[step]) for step in first) < 1e-5


@pytest.mark.slow
def test_processes_that_train_alone_are_refused(settings, tmp_path):
    """`accelerate launch --cpu` with two processes starts two worlds of one, and says nothing."""
    launcher = ("accelerate.commands.launch", "--cpu", "--num_machines", "2", "--num_processes", "2")
    alone = (*launcher, "--machine_rank", "0", "--main_process_ip", "127.0.0.1", "--main_process_port", "29511")
    printed = start(*command(settings), launcher=alone).communicate(timeout=240)[0]
    assert "this one is in a process group of 1; launch with one of the files in launch/" in printed
    assert not (settings.run / "checkpoints").exists()


@pytest.mark.slow
def test_what_the_first_process_cannot_do_is_said_by_all(settings):
    printed = start_two(
        *command(settings), "--extractor.name", "resnet18", "--extractor.weights", "/no/file"
    ).communicate(timeout=240)[0]
    assert printed.count("koala: /no/file does not exist") == 2
    assert "gloo" not in printed
    assert not settings.run.exists()


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "was begun with seed = 0, not 1; choose another run folder"),
        ({"data.size": 24}, "was begun with data.size = 16, not 24"),
        ({"data.lightness": "color"}, "was begun with data.lightness = grey, not color"),
    ],
)
def test_a_run_that_would_become_another_is_refused(settings, change, message):
    trainer.train(replace(settings, epochs=0.1))
    for name, value in change.items():
        section, _, field = name.rpartition(".")
        if section:
            settings = replace(settings, data=replace(settings.data, **{field: value}))
        else:
            settings = replace(settings, **{field: value})
    with pytest.raises(UserError, match=re.escape(message)):
        trainer.train(settings)


def test_other_shards_are_refused(settings, photo_folder, tmp_path):
    trainer.train(replace(settings, epochs=0.1))
    shard_writer.write_shards(WriteShards(photo_folder, tmp_path / "other", ShardRecipe(seed=9)))
    with pytest.raises(UserError, match="was begun on other shards"):
        trainer.train(replace(settings, data=replace(settings.data, shards=tmp_path / "other")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixed_precision": "fp16"}, "fp16 needs a GPU"),
        ({"device": "cuda"}, "there is no GPU"),
        ({"processes": 2}, "2 processes were asked for, but this one is in a process group of 1"),
        ({"batch_size": 5, "gradient_accumulation_steps": 2}, "choose --batch-size a multiple of 2"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU refuses")
def test_what_cannot_be_honoured_is_refused(settings, change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        trainer.train(replace(settings, **change))


def test_resume_without_a_run_is_refused(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="runs holds no run called train to resume"):
        trainer.train(replace(settings, run=None, resume=True))


# ---------------------------------------------------------------- objectives


@pytest.fixture
def with_prior(settings, tmp_path) -> TrainSettings:
    """The same on shards of its own, whose colours are measured."""
    shards = shutil.copytree(settings.data.shards, tmp_path / "shards")
    color_prior.prior_command(MeasurePrior(shards))
    return replace(settings, data=replace(settings.data, shards=shards))


@pytest.mark.parametrize(
    "objective",
    [
        ObjectiveSettings("huber"),
        ObjectiveSettings("weighted-mse"),
        ObjectiveSettings("classification"),
        ObjectiveSettings("classification", colorfulness=0.1),
    ],
    ids=str,
)
def test_every_objective_is_trained_saved_and_gone_on_with(with_prior, objective):
    """Gone on with after an epoch it has the losses of the second in one go; and the network colours."""
    whole = replace(with_prior, objective=objective, epochs=2, run=with_prior.run / "whole")
    half = replace(whole, run=with_prior.run / "half")
    assert trainer.train(whole) == 0
    shutil.copytree(whole.run / "checkpoints/000000000040", half.run / "checkpoints/000000000040")
    assert trainer.train(half) == 0
    losses, second = (scalars(run, "loss/train") for run in (whole.run, half.run))
    assert second == pytest.approx({seen: loss for seen, loss in losses.items() if seen > 40})
    assert min(list(losses.values())[-5:]) < losses[4], "it learns"
    model = pretrained.load_model(half.run)
    assert model(torch.zeros(1, 1, 16, 24)).shape == (1, 2, 16, 24)


def test_a_pyramid_that_takes_hints_is_trained_resumed_and_judged(with_prior, tmp_path):
    """In two sittings, the second with gradients of two pieces, as in one; its extractor is trained, too."""
    whole = replace(
        with_prior,
        data=replace(with_prior.data, size=32),
        extractor=ExtractorSettings("tf_efficientnet_lite0", weights="random"),
        network=NetworkSettings("pyramid", extractor_rate=0.1, hints=True),
        objective=ObjectiveSettings("classification", rebalancing=0.2, mean_error=10.0),
        epochs=0.4,
        ema=20,
        run=tmp_path / "whole",
    )
    assert trainer.train(whole) == 0
    assert trainer.train(replace(whole, epochs=0.2, run=tmp_path / "half")) == 0
    before = weights(tmp_path / "half", 8)
    assert trainer.train(replace(whole, run=tmp_path / "half", gradient_accumulation_steps=2)) == 0
    losses, resumed = (scalars(run, "loss/train") for run in (whole.run, tmp_path / "half"))
    assert resumed == pytest.approx(losses, rel=1e-4)
    after = weights(tmp_path / "half", 16)
    moved = {name.partition(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert {"extractor", "levels"} <= moved
    evaluate.evaluate(EvaluateSettings(tmp_path / "half", with_prior.data.shards, features="none", threads=2))
    judged = results.read_scores(tmp_path / "half/evaluation")
    assert judged["images_seen"] == 16
    assert judged["constant"]["of"] == f"the training samples of {with_prior.data.shards}"
    lightness, hints = torch.zeros(1, 1, 32, 64), torch.zeros(1, 3, 32, 64)
    hints[:, :, 8:16, 8:16] = 1
    model = pretrained.load_model(tmp_path / "half")
    assert not torch.equal(model(lightness), model(lightness, hints=hints))


def test_the_perceptual_term_joins_the_objective(with_prior):
    judge = {"perceptual_network": "resnet10t", "perceptual_weights": "random"}
    data = replace(with_prior.data, size=32)
    plain = replace(with_prior, data=data, epochs=0.1, run=with_prior.run / "plain")
    judged = replace(plain, objective=ObjectiveSettings(perceptual=1.0, **judge), run=with_prior.run / "judged")
    for settings in (plain, judged):
        assert trainer.train(settings) == 0
    assert scalars(judged.run, "loss/train")[4] > scalars(plain.run, "loss/train")[4]


def test_an_objective_by_the_prior_needs_one(settings):
    with pytest.raises(UserError, match=r"prior.csv is not there; measure it with koala shards prior"):
        trainer.train(replace(settings, objective=ObjectiveSettings("classification")))


def test_a_run_stays_with_its_prior_and_its_objective(with_prior):
    settings = replace(with_prior, objective=ObjectiveSettings("weighted-mse"), epochs=0.1)
    trainer.train(settings)
    with pytest.raises(UserError, match=r"begun with objective.name = weighted-mse, not classification"):
        trainer.train(replace(settings, objective=ObjectiveSettings("classification")))
    with pytest.raises(UserError, match=r"begun with objective.rebalancing = 0.5, not 0.2"):
        trainer.train(replace(settings, objective=ObjectiveSettings("weighted-mse", rebalancing=0.2)))
    path = color_prior.prior_path(settings.data.shards)
    stamp, head, *rows = path.read_text().splitlines()
    bins, shares = zip(*(row.rsplit(",", 1) for row in rows), strict=True)
    turned = [f"{place},{share}" for place, share in zip(bins, reversed(shares), strict=True)]
    path.write_text("\n".join([stamp, head, *turned, ""]))
    with pytest.raises(UserError, match="begun with another prior of colours"):
        trainer.train(settings)


def test_an_objective_in_a_word_is_one_in_a_table(tmp_path):
    """As run files and checkpoints of koala 0.1 have it."""
    word, table = tmp_path / "word.toml", tmp_path / "table.toml"
    word.write_text('objective = "huber"')
    table.write_text('[objective]\nname = "huber"')
    assert load_toml(TrainSettings, word) == load_toml(TrainSettings, table)


# ---------------------------------------------------------------- gradients that are not finite


@pytest.fixture
def poisoned(monkeypatch):
    """An objective that is infinite in one step: that whose batch holds sample 7."""

    def poison(trainer_batches, clean):
        for batch in trainer_batches:
            yield replace(batch, ab=batch.ab * math.inf) if 7 in batch.samples and not clean else batch

    def batches(shards, *arguments, **options):
        return poison(loader.load_batches(shards, *arguments, **options), clean="seed" not in options)

    monkeypatch.setattr(components, "load_batches", batches)


def place_of(sample: int, settings: TrainSettings) -> int:
    """Images seen before the step in which a sample comes in the first epoch."""
    order = EpochSampler(Shards.open(settings.data.shards, "train").shard_sizes, settings.seed)
    return int(np.flatnonzero(order.positions(0, 40).samples == sample)[0]) // settings.batch_size * settings.batch_size


def test_a_gradient_that_is_not_finite_stops_before_the_step(settings, poisoned):
    place = place_of(7, settings)
    with pytest.raises(UserError, match=rf"the gradient after {place} images is not finite .* --on-nan skip"):
        trainer.train(settings)
    found = checkpoint.latest_checkpoint(settings.run / "checkpoints")
    assert found.images_seen == place
    assert all(torch.isfinite(weight).all() for weight in found.network().parameters())
    written = json.loads((settings.run / f"not-finite-{place:012d}.json").read_text())
    assert 7 in [sample["sample"] for sample in written["samples"]]
    assert all(sample["source"].endswith(".jpg") for sample in written["samples"])


def test_a_gradient_that_is_not_finite_can_be_left_out(settings, poisoned, capsys):
    """The run stopped by it goes on with --on-nan skip, ends, and its weights are those without that step."""
    with pytest.raises(UserError):
        trainer.train(settings)
    stopped = weights(settings.run, place_of(7, settings))
    assert trainer.train(replace(settings, on_nan="skip", checkpoint_every=1, keep_checkpoints=20)) == 0
    assert "the step is left out" in capsys.readouterr().err
    assert same_weights(stopped, weights(settings.run, place_of(7, settings) + settings.batch_size))
    assert all(torch.isfinite(weight).all() for weight in weights(settings.run, 40).values())


POISONED = """
import math, sys
from dataclasses import replace
from koala import cli
from koala.data import loader
from koala.training import components

def poisoned(*given, **named):
    for batch in loader.load_batches(*given, **named):
        yield replace(batch, ab=batch.ab * math.inf) if 7 in batch.samples and "seed" in named else batch

components.load_batches = poisoned
sys.exit(cli.main())
"""


@pytest.mark.slow
def test_processes_of_which_one_meets_it_decide_the_same(settings, tmp_path):
    """Sample 7 comes to one of two; both stop before its step, and both go on together without it."""
    (tmp_path / "poisoned.py").write_text(POISONED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "--"]
    launch += [str(tmp_path / "poisoned.py"), *command(settings), "--device", "cpu"]
    place = place_of(7, settings)
    stopped = subprocess.run(launch, check=False, capture_output=True, text=True, timeout=240)
    assert stopped.returncode != 0
    assert stopped.stderr.count(f"the gradient after {place} images is not finite") == 2
    assert checkpoint.latest_checkpoint(settings.run / "checkpoints").images_seen == place
    subprocess.run([*launch, "--on-nan", "skip"], check=True, timeout=240)
    assert all(torch.isfinite(weight).all() for weight in weights(settings.run, 40).values())


# ---------------------------------------------------------------- what large trainings need


def test_a_moving_average_is_what_is_saved_and_resumed(settings, tmp_path):
    """Its half-life: after a batch of it, old and new weights count the same; resuming changes nothing."""
    averaged = replace(settings, ema=4, checkpoint_every=1, keep_checkpoints=20)
    trainer.train(replace(averaged, run=tmp_path / "whole"))
    trainer.train(replace(averaged, epochs=0.5))
    trainer.train(averaged)
    assert same_weights(weights(tmp_path / "whole", 40), weights(settings.run, 40))
    raw = torch.load(settings.run / "checkpoints/000000000008/training.pt", weights_only=True)["network"]
    before, after = weights(settings.run, 4), weights(settings.run, 8)
    name = "encoder.0.weight"
    torch.testing.assert_close(after[name], (before[name] + raw[name]) / 2)


def test_clipping_bounds_the_gradient_and_says_its_whole_length(settings, tmp_path):
    """Adam's first moment after one step is a tenth of the gradient that it was given."""
    trainer.train(replace(settings, epochs=0.1, run=tmp_path / "free"))
    trainer.train(replace(settings, epochs=0.1, clip_grad_norm=1e-3))
    free, clipped = (scalars(run, "train/gradient_norm")[4] for run in (tmp_path / "free", settings.run))
    assert free == pytest.approx(clipped)
    moments = torch.load(settings.run / "checkpoints/000000000004/training.pt", weights_only=True)["optimizer"]["state"]
    gradient = torch.cat([moment["exp_avg"].flatten() for moment in moments.values()]) / (1 - 0.9)
    assert float(gradient.norm()) == pytest.approx(1e-3, rel=1e-3)


def test_a_batch_that_does_not_fit_is_said_with_what_fits(settings, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nIf reserved but ...")

    monkeypatch.setattr(trainer, "train_step", full)
    with pytest.raises(
        UserError, match=r"^CUDA out of memory.*GiB.*; --gradient-accumulation-steps 4 needs about half"
    ):
        trainer.train(replace(settings, gradient_accumulation_steps=2))


def test_a_trace_of_some_steps_is_written(settings):
    trainer.train(replace(settings, profile=2))
    traces = list((settings.run / "profile").glob("*.pt.trace.json"))
    assert len(traces) == 1
    names = {event.get("name", "") for event in json.loads(traces[0].read_text())["traceEvents"]}
    assert "aten::conv2d" in names
    assert {"ProfilerStep#4", "ProfilerStep#5"} <= names


def test_deterministic_training_repeats_to_the_bit(settings, tmp_path):
    trainer.train(replace(settings, deterministic=True))
    assert torch.are_deterministic_algorithms_enabled()
    trainer.train(replace(settings, run=tmp_path / "free"))
    assert not torch.are_deterministic_algorithms_enabled()
    assert same_weights(weights(tmp_path / "free", 40), weights(settings.run, 40))


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(settings, tmp_path):
    pytest.importorskip("torch._inductor")
    trainer.train(replace(settings, epochs=0.3))
    trainer.train(replace(settings, epochs=0.3, compile=True, run=tmp_path / "compiled"))
    first, second = scalars(settings.run, "loss/train"), scalars(tmp_path / "compiled", "loss/train")
    assert [*second.values()] == pytest.approx([*first.values()], abs=1e-5)
    assert weights(tmp_path / "compiled", 12).keys() == weights(settings.run, 12).keys()


def test_the_log_of_samples_is_the_order(settings):
    trainer.train(replace(settings, log_samples=True, gradient_accumulation_steps=2))
    lines = [json.loads(line) for line in (settings.run / "samples/0.jsonl").read_text().splitlines()]
    assert [line["images_seen"] for line in lines] == [seen for seen in range(0, 40, 4) for _ in range(2)]
    order = EpochSampler(Shards.open(settings.data.shards, "train").shard_sizes, settings.seed)
    assert [n for line in lines for n in line["samples"]] == order.positions(0, 40).samples.tolist()


def test_numbers_after_the_checkpoint_are_taken_away(settings):
    """Of a run that was killed between checkpoints, metrics.jsonl keeps what was saved, and no half line."""
    trainer.train(replace(settings, epochs=0.5))
    path = settings.run / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"images_seen": 36, "train/loss": 9.0}\n{"images_seen": 38, "tra')
    trainer.train(settings)
    entries = [entry for entry in map(json.loads, path.read_text().splitlines()) if "train/loss" in entry]
    assert [entry["images_seen"] for entry in entries] == list(range(4, 44, 4))
    assert 9.0 not in [entry["train/loss"] for entry in entries]

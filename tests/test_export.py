"""A trained network for others."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from koala import checkpoint, config, export
from koala.errors import UserError


def test_what_is_exported_colors_as_the_run_does(run, tmp_path):
    assert export.export_command(config.Export(run, tmp_path / "model")) == 0
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["checkpoint.json", "model.safetensors"]
    assert {value.dtype for value in load_file(tmp_path / "model/model.safetensors").values()} == {torch.float16}
    lightness = torch.rand(1, 1, 24, 32, generator=torch.manual_seed(0))
    mine, theirs = (checkpoint.load_model(path)(lightness) for path in (run, tmp_path / "model"))
    torch.testing.assert_close(theirs, mine, atol=1e-3, rtol=0)


def test_no_place_of_a_file_is_told(run, shard_folder, tmp_path):
    export.export_command(config.Export(run, tmp_path / "model"))
    told = (tmp_path / "model/checkpoint.json").read_text()
    assert str(shard_folder.parent) not in told
    assert json.loads(told)["settings"]["data"]["shards"] == shard_folder.name


def test_weights_that_were_brought_along_are_not_named_by_their_place(run, tmp_path):
    found = checkpoint.find(run)
    objective = config.Objective("huber", perceptual=1.0, perceptual_weights="/home/me/vgg.pth")
    extractor = config.Extractor(weights="/home/me/inception.pth", cache=True)
    settings = replace(found.settings, objective=objective, extractor=extractor)
    checkpoint.publish(replace(found, settings=settings), tmp_path / "model")
    told = checkpoint.read(tmp_path / "model").settings
    assert (told.objective.perceptual_weights, told.extractor.weights) == ("pretrained", "pretrained")


def test_a_model_is_written_again_and_nothing_else_written_over(run, tmp_path):
    for _ in range(2):
        export.export_command(config.Export(run, tmp_path / "model"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="exists and is no exported model; name a new folder"):
        export.export_command(config.Export(run, tmp_path / "other"))


def test_a_checkpoint_of_a_training_is_not_written_over(run, tmp_path):
    own = shutil.copytree(run, tmp_path / "run")
    found = checkpoint.find(own)
    with pytest.raises(UserError, match="is no exported model"):
        export.export_command(config.Export(own, found.path))
    assert checkpoint.find(own).training()


def test_a_damaged_model_is_named(run, tmp_path):
    export.export_command(config.Export(run, tmp_path / "model"))
    with (tmp_path / "model/model.safetensors").open("r+b") as file:
        file.seek(1000)
        file.write(b"koala")
    with pytest.raises(UserError, match=r"model.safetensors is damaged: its sha256 differs"):
        checkpoint.load_model(tmp_path / "model")

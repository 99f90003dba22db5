"""A trained network for others."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import koala
from koala.config.inference import ExportSettings
from koala.config.models import ExtractorSettings, ObjectiveSettings
from koala.core.errors import UserError
from koala.imaging import color
from koala.inference import colorize, export
from koala.models import checkpoint, extractor, hub, pretrained
from koala.models.build import build_network
from koala.models.network import Colorizer, FusionNetwork
from tests.models.test_pyramid import SETTINGS as PYRAMID
from tests.photographs import make_photo

GUIDE = Path(__file__).parents[2] / "docs/guides/export.md"


def test_what_is_exported_colors_as_the_run_does(run, tmp_path, capsys):
    assert export.export_command(ExportSettings(run, tmp_path / "model")) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'model'}: {run} after ")
    assert {path.name for path in (tmp_path / "model").iterdir()} == set(hub.FILES)
    assert {value.dtype for value in load_file(tmp_path / "model/model.safetensors").values()} == {torch.float16}
    lightness = torch.rand(1, 1, 24, 32, generator=torch.manual_seed(0))
    mine, theirs = (pretrained.load_model(path)(lightness) for path in (run, tmp_path / "model"))
    torch.testing.assert_close(theirs, mine, atol=1e-3, rtol=0)


def test_no_place_of_a_file_is_told(run, shard_folder, tmp_path):
    export.export_command(ExportSettings(run, tmp_path / "model"))
    told = (tmp_path / "model/checkpoint.json").read_text()
    assert str(shard_folder.parent) not in told
    assert json.loads(told)["settings"]["data"]["shards"] == shard_folder.name


def test_a_command_that_is_told_of_the_training_is_not_published(run, tmp_path):
    """It may hold the key of a web hook."""
    found = checkpoint.find_checkpoint(run)
    settings = replace(found.settings, notify="curl https://hooks.example/KEY", run=Path("/home/me/run"))
    checkpoint.publish_weights(replace(found, settings=settings), tmp_path / "model")
    told = (tmp_path / "model/checkpoint.json").read_text()
    assert "KEY" not in told and "/home/me" not in told


def test_weights_that_were_brought_along_are_not_named_by_their_place(run, tmp_path):
    found = checkpoint.find_checkpoint(run)
    objective = ObjectiveSettings("huber", perceptual=1.0, perceptual_weights="/home/me/vgg.pth")
    extractor = ExtractorSettings(weights="/home/me/inception.pth", cache=True)
    settings = replace(found.settings, objective=objective, extractor=extractor)
    checkpoint.publish_weights(replace(found, settings=settings), tmp_path / "model")
    told = checkpoint.read_checkpoint(tmp_path / "model").settings
    assert (told.objective.perceptual_weights, told.extractor.weights) == ("pretrained", "pretrained")


def test_a_model_is_written_again_and_nothing_else_written_over(run, tmp_path):
    for _ in range(2):
        export.export_command(ExportSettings(run, tmp_path / "model"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="exists and is no exported model; name a new folder"):
        export.export_command(ExportSettings(run, tmp_path / "other"))


def test_the_folder_that_one_is_in_is_not_replaced(run, tmp_path, monkeypatch):
    export.export_command(ExportSettings(run, tmp_path / "model"))
    monkeypatch.chdir(tmp_path / "model")
    with pytest.raises(UserError, match=r"^\. is the folder that you are in, and is to be replaced; run this from"):
        export.export_command(ExportSettings(run, Path()))
    export.export_command(ExportSettings(run, tmp_path / "another"))


def test_a_card_that_was_gone_on_with_stays(run, tmp_path):
    export.export_command(ExportSettings(run, tmp_path / "model"))
    (tmp_path / "model/README.md").write_text("my own words")
    export.export_command(ExportSettings(run, tmp_path / "model"))
    assert (tmp_path / "model/README.md").read_text() == "my own words"


def test_a_checkpoint_of_a_training_is_not_written_over(run, tmp_path):
    own = shutil.copytree(run, tmp_path / "run")
    found = checkpoint.find_checkpoint(own)
    with pytest.raises(UserError, match="is no exported model"):
        export.export_command(ExportSettings(own, found.path))
    assert checkpoint.find_checkpoint(own).training()


def test_a_damaged_model_is_named(run, tmp_path):
    export.export_command(ExportSettings(run, tmp_path / "model"))
    with (tmp_path / "model/model.safetensors").open("r+b") as file:
        file.seek(1000)
        file.write(b"koala")
    with pytest.raises(UserError, match=r"model.safetensors is damaged: its sha256 differs"):
        pretrained.load_model(tmp_path / "model")


# ---------------------------------------------------------------- programs


def random_colorizer(name: str, head: str) -> Colorizer:
    """Of random weights, large enough that colours differ from place to place."""
    torch.manual_seed(0)
    frozen = extractor.build_extractor(ExtractorSettings(name, weights="random"))
    network = FusionNetwork(frozen.embedding_size if frozen else 0, head)
    for weight in network.parameters():
        if weight.dim() > 1:
            torch.nn.init.kaiming_normal_(weight)
    return Colorizer(network, frozen, size=64).eval()


@pytest.mark.slow
@pytest.mark.parametrize("head", ["ab", "bins"])
@pytest.mark.parametrize("name", ["none", "tf_efficientnet_lite0"])
def test_a_program_computes_what_the_model_does(name, head):
    """For one picture and for several, below the extractor's input size and above it."""
    model = random_colorizer(name, head)
    traced = export.trace(export.Program(model))
    programs = export.run_torch(export.to_torch(traced, {})), export.run_onnx(export.to_onnx(traced, {}))
    for shape in ((1, 1, 64, 64), (3, 1, 16, 40), (2, 1, 104, 232), (1, 1, 256, 328)):
        lightness = 100 * torch.rand(shape, generator=torch.Generator().manual_seed(1))
        expected = color.to_units(model(lightness / 50 - 1))
        assert expected.std(dim=(2, 3)).min() > 0.3
        for program in programs:
            with torch.no_grad():  # such weights enlarge what rounding does, more than trained ones
                torch.testing.assert_close(program(lightness), expected, atol=1e-2, rtol=0)


@pytest.mark.slow
def test_the_built_in_model_as_a_program():
    """Within a thousandth of a unit of a*b*, at three sizes; a pyramid that takes hints gets none here."""
    program = export.Program(koala.load_model())
    traced = export.trace(program)
    for run in (export.run_torch(export.to_torch(traced, {})), export.run_onnx(export.to_onnx(traced, {}))):
        assert export.largest_difference(run, program) < 1e-3


@pytest.mark.slow
def test_the_example_colors_as_koala_does(run, tmp_path, monkeypatch, capsys):
    """That of docs/guides/export.md, at a size that koala chooses alike; it runs without koala, and settles nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(colorize, "settle", lambda lightness, ab, *_: ab)
    files = ExportSettings(run, onnx=tmp_path / "new/../koala.onnx", program=tmp_path / "koala.pt2")
    assert export.export_command(files) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [str(files.program), str(files.onnx)]
    assert all("differs from PyTorch by" in line for line in lines)
    make_photo(3, width=75, height=52).save("photo.png")
    example = GUIDE.read_text().partition("```python\n")[2].partition("```")[0]
    exec(example, {})
    made, expected = (
        np.asarray(Image.open("colored.png")),
        koala.colorize("photo.png", koala.load_model(run), recolor=True),
    )
    assert np.abs(made.astype(int) - expected).max() <= 1


@pytest.mark.slow
def test_files_tell_what_they_are(run, tmp_path):
    from onnxruntime import InferenceSession

    export.export_command(ExportSettings(run, onnx=tmp_path / "koala.onnx", program=tmp_path / "koala.pt2"))
    session = InferenceSession(tmp_path / "koala.onnx")
    told = session.get_modelmeta().custom_metadata_map
    assert (told["trained_at"], told["extractor"], told["koala"]) == ("16", "none", koala.__version__)
    assert told["license"] == "koala: MIT"
    assert {"input", "output", "before", "after"} <= told.keys()
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape) == ("lightness", ["batch", 1, "height", "width"])
    assert (given.name, given.shape) == ("ab", ["batch", 2, "height", "width"])
    beside = {"koala.json": ""}
    torch.export.load(tmp_path / "koala.pt2", extra_files=beside)
    assert json.loads(beside["koala.json"]) == told


@pytest.mark.slow
def test_a_program_that_computes_something_else_is_not_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "run_torch", lambda _: lambda lightness: torch.full((1,), torch.nan))
    with pytest.raises(UserError, match="is not written: it would differ from PyTorch by nan"):
        export.export_command(ExportSettings(run, program=tmp_path / "koala.pt2"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "there is nothing to write; name a folder with --out"),
        ({"push": "me/model"}, "there is nothing to write"),
        ({"push": "me/model", "onnx": "koala.onnx"}, "--push puts the folder of --out on the hub; name one"),
        ({"push": "model", "out": "model"}, "--push model is no name on the Hugging Face hub; write USER/NAME"),
        ({"onnx": "photo.jpg"}, "photo.jpg does not end in .onnx; name the file so"),
        ({"program": "koala.onnx"}, "koala.onnx does not end in .pt2"),
        (
            {"out": "model", "model": "/nowhere"},
            "there is no folder /nowhere, and this is no name on the Hugging Face hub",
        ),
    ],
)
def test_what_cannot_be_exported_is_said_first(settings, message, run, tmp_path, monkeypatch, capsys):
    from koala.cli import main

    monkeypatch.chdir(tmp_path)
    words = {"model": str(run), **settings}
    assert main(["export", words.pop("model"), *(f"--{name}={value}" for name, value in words.items())]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_licence_of_an_extractor_is_told_also_where_it_is_part_of_the_network():
    """Timm's, of its EfficientNet-Lite0."""
    told = export._licences(Colorizer(build_network(PYRAMID), None, 64))
    assert told == "koala: MIT; the extractor's weights: apache-2.0"

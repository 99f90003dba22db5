"""Models found by name and put on the Hugging Face hub, whose servers these tests do not reach."""

import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import httpx2
import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

import koala
from koala.config.inference import ExportSettings
from koala.core.errors import UserError
from koala.inference import export
from koala.models import hub, pretrained
from koala.models.network import Colorizer


@pytest.fixture(scope="module")
def model_folder(run, tmp_path_factory) -> Path:
    """A model as `koala export` writes it."""
    out = tmp_path_factory.mktemp("exported") / "model"
    export.export_command(ExportSettings(run, out))
    return out


@pytest.fixture
def uploads(monkeypatch) -> dict[str, dict[str, bytes]]:
    """What is put on the hub, by repository."""
    found = {}

    def create(api, repo_id, **_):
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload(api, *, repo_id, folder_path, allow_patterns=None, **_):
        names = {path.name for path in Path(folder_path).iterdir()}
        taken = names & set(allow_patterns) if allow_patterns else names
        found[repo_id] = {name: (Path(folder_path) / name).read_bytes() for name in taken}
        return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    return found


def refusal(cls: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    request = httpx2.Request("POST", "https://huggingface.co/api/repos/create")
    return cls(f"{status} of the hub\nand a page of words", response=httpx2.Response(status, request=request))


def raising(error: Exception):
    def call(*_, **__):
        raise error

    return call


def weights(model) -> dict[str, torch.Tensor]:
    return model.network.state_dict()


# ---------------------------------------------------------------- finding


def test_a_name_is_looked_for_on_the_hub(model_folder, monkeypatch):
    asked = []

    def download(name, **options):
        asked.append((name, options))
        return str(model_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    taken = pretrained.PretrainedColorizer.from_pretrained("someone/koala", revision="v2")
    assert asked == [("someone/koala", {"revision": "v2", "allow_patterns": list(hub.FILES)})]
    expected = weights(koala.load_model(model_folder))
    assert all(torch.equal(value, expected[name]) for name, value in weights(taken).items())


def test_a_path_that_exists_comes_before_a_name(model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(AssertionError("the hub was asked")))
    (tmp_path / "someone").mkdir()
    (tmp_path / "someone/koala").symlink_to(model_folder)
    assert koala.load_model("someone/koala").size == 16


@pytest.mark.parametrize("name", ["koala", "/no/where", "./a/b", "a/b/c", "a b/c", "../model"])
def test_what_is_neither_path_nor_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(AssertionError("the hub was asked")))
    with pytest.raises(
        UserError, match=f"there is no folder {name}, and this is no name on the Hugging Face hub; name a folder"
    ):
        koala.load_model(name)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            refusal(RepositoryNotFoundError, 404),
            'the Hugging Face hub shows no such model; check the name, or run "hf auth',
        ),
        (refusal(HfHubHTTPError, 503), "the Hugging Face hub cannot be reached from here; check the path, or bring"),
        (OSError("no network"), "the Hugging Face hub cannot be reached from here; check the path, or bring"),
    ],
)
def test_why_a_name_is_not_found(error, message, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(error))
    with pytest.raises(UserError) as raised:
        koala.load_model("runs/45x")
    assert str(raised.value).startswith(f"there is no folder runs/45x, and {message}")
    assert "\n" not in str(raised.value)


def test_without_network(tmp_path, monkeypatch):
    """The hub's own client, told not to try."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="there is no folder someone/koala, and the Hugging Face hub cannot be reached"):
        hub.resolve_model("someone/koala", cache_dir=tmp_path)


def test_a_model_of_something_else(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(UserError, match=r"someone/bert on the Hugging Face hub has no checkpoint.json; name a model"):
        koala.load_model("someone/bert")


# ---------------------------------------------------------------- keeping


def test_what_is_saved_is_loaded_to_the_bit(run, tmp_path):
    model = koala.load_model(run)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(hub.FILES)
    again = koala.PretrainedColorizer.from_pretrained(tmp_path)
    assert weights(again).keys() == weights(model).keys()
    assert all(torch.equal(value, weights(model)[name]) for name, value in weights(again).items())
    lightness = torch.rand(1, 1, 24, 32) * 2 - 1
    assert torch.equal(again(lightness), model(lightness))


def test_what_lies_in_the_folder_stays(run, tmp_path):
    (tmp_path / "README.md").write_text("my own words")
    (tmp_path / "photo.jpg").touch()
    koala.load_model(run).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "my own words"
    assert (tmp_path / "photo.jpg").exists()


def test_an_exported_folder_is_pushed_as_it_is(run, tmp_path, uploads, capsys):
    export.export_command(ExportSettings(run, tmp_path / "model", push="me/koala"))
    assert uploads == {"me/koala": {name: (tmp_path / "model" / name).read_bytes() for name in hub.FILES}}
    assert capsys.readouterr().out.splitlines()[-1] == "https://huggingface.co/me/koala/commit/1"


def test_a_model_is_pushed_with_its_weights_and_card(run, tmp_path, uploads):
    model = koala.load_model(run)
    assert model.push_to_hub("me/koala") == "https://huggingface.co/me/koala/commit/1"
    for name, data in uploads["me/koala"].items():
        (tmp_path / name).write_bytes(data)
    again = koala.load_model(tmp_path)
    assert all(torch.equal(value, weights(model)[name]) for name, value in weights(again).items())
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("koala", "image-to-image")
    assert "| trained_at | 16 |" in card.text


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refusal(HfHubHTTPError, 401), 'lets you not write there; run "hf auth login" with a token that may write'),
        (refusal(HfHubHTTPError, 403), 'lets you not write there; run "hf auth login" with a token that may write'),
        (LocalTokenNotFoundError("no token"), 'lets you not write there; run "hf auth login"'),
        (refusal(HfHubHTTPError, 500), "does not take it (500 of the hub); try again later"),
        (httpx2.ConnectError("no network"), 'cannot be reached from here; from a machine that can, run "hf upload me/'),
    ],
)
def test_why_a_model_is_not_pushed(error, message, run, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", raising(error))
    for push in (
        lambda: export.export_command(ExportSettings(run, tmp_path / "model", push="me/koala")),
        lambda: koala.load_model(run).push_to_hub("me/koala"),
    ):
        with pytest.raises(UserError) as raised:
            push()
        assert str(raised.value).startswith(f"me/koala is not pushed: the Hugging Face hub {message}")
        assert "\n" not in str(raised.value)
    assert koala.load_model(tmp_path / "model").size == 16  # what was done before stays


# ---------------------------------------------------------------- for programs


def test_koala_is_imported_at_no_cost():
    script = (
        "import sys, koala; print({'torch', 'numpy', 'huggingface_hub'} & set(sys.modules), koala.load_model.__doc__)"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("set() Load a trained network")


def test_help_tells_types(capsys):
    help(koala.load_model)
    assert "USER/NAME on the Hugging Face hub" in capsys.readouterr().out
    expected = {"name_or_path": str | Path | None, "weights": str, "return": koala.PretrainedColorizer}
    assert get_type_hints(koala.load_model) == expected
    assert Colorizer in get_args(get_type_hints(koala.colorize)["model"])
    assert (Path(koala.__file__).parent / "py.typed").exists()

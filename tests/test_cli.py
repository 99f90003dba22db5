"""The command line and the settings: what users meet when they type."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from koala import cli
from koala.config.data import ShardRecipe
from koala.config.load import load_toml
from koala.config.models import ExtractorSettings, ObjectiveSettings
from koala.config.training import TrainSettings

ROOT = Path(__file__).parents[1]


def koala(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "koala", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", ["", "--help", "-h", "help"])
def test_help_names_every_command_and_imports_nothing_heavy(words):
    script = f"import sys, koala.cli; koala.cli.main({words.split()}); print(sorted(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    for command in cli.COMMANDS:
        assert command in printed
    for module in ("torch", "numpy", "nvidia", "tyro", "pydantic"):
        assert f"'{module}'" not in printed


@pytest.mark.parametrize("first", ["shards", "study"])
@pytest.mark.parametrize("form", ["{}", "{} --help", "{} -h", "help {}"])
def test_commands_of_two_words_are_listed_under_their_first(first, form, capsys):
    assert cli.main(form.format(first).split()) == 0
    printed = capsys.readouterr().out
    names = {line.strip().partition("  ")[0] for line in printed.splitlines() if line.startswith("  ")}
    assert names == {name for name in cli.COMMANDS if name.startswith(first)}


@pytest.mark.parametrize("command", cli.COMMANDS)
@pytest.mark.parametrize("form", ["{} --help", "{} --help-all", "help {}"])
def test_every_command_has_pages(command, form, capsys):
    assert cli.main(form.format(command).split()) == 0
    page = capsys.readouterr().out
    assert page.startswith(f"usage: koala {command} ")
    assert max(map(len, page.splitlines())) <= 100
    for blemish in ("None", "--no-", "`", "()", "  (default )", "\\"):
        assert blemish not in page


def test_help_needs_no_torch():
    script = "import sys, koala.cli; koala.cli.main(['train', '--help-all']); print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip().endswith("False")


def test_pages_fit_narrow_terminals(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    cli.main(["help", "colorize"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_its_function(command):
    from importlib import import_module

    module, function = cli.COMMANDS[command].function.split(":")
    assert callable(getattr(import_module(f"koala.{module}"), function))
    module, name = cli.COMMANDS[command].settings.split(":")
    assert isinstance(getattr(import_module(f"koala.config.{module}"), name), type)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "there is no command fly; koala --help lists all"),
        (["colorise", "a.jpg"], "there is no command colorise a.jpg; did you mean koala colorize?"),
        (["colourize"], "did you mean koala colorize?"),
        (["colourise"], "did you mean koala colorize?"),
        (["shards", "wirte"], "there is no command shards wirte; did you mean koala shards write?"),
        (["verify", "DIR"], "did you mean koala shards verify?"),
        (["help", "tarin"], "there is no command tarin; did you mean koala train?"),
        (["train", "nowhere.toml"], "nowhere.toml does not exist"),
        (["train", "/"], "/ is a folder; name a TOML file of settings"),
        (["train", "--batch-size", "0"], "batch_size = 0: input should be greater than 0"),
        (["train", "--data.size", "100"], "data.size = 100: input should be a multiple of 8"),
        (["shards", "verify", "/nowhere"], "/nowhere does not exist; make shards"),
        (["train", "--data.shards", "/nowhere", "--extractor.name", "none"], "/nowhere does not exist; make shards"),
        (["evaluate", "/nowhere", "--shards", "/nowhere"], "there is no folder /nowhere, and this is no name"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1


def test_nothing_is_left_where_a_run_could_not_begin(tmp_path):
    assert cli.main(["train", "--data.shards", "/nowhere", "--run", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("[!a]*.toml")), ids=lambda path: path.name)
def test_every_run_file_is_valid(path):
    """Those of ablations are looked at in test_ablate.py."""
    load_toml(TrainSettings, path)


@pytest.mark.parametrize("path", sorted((ROOT / "shards").glob("*.toml")), ids=lambda path: path.name)
def test_every_recipe_is_valid(path):
    load_toml(ShardRecipe, path)


def test_the_replication_is_the_reports():
    run = load_toml(TrainSettings, ROOT / "launch/replication-45k.toml")
    assert (run.batch_size, run.epochs, run.learning_rate, run.objective) == (50, 40, 1e-3, ObjectiveSettings("mse"))
    assert (run.data.geometry, run.data.size, run.data.lightness) == ("pad", 224, "grey")
    assert run.extractor == ExtractorSettings("inception_resnet_v2", "logits", "pretrained", batch_statistics=False)
    recipe = load_toml(ShardRecipe, ROOT / "shards/replication-45k.toml")
    assert (recipe.limit, recipe.split.val_count) == (45_000, 5_000)


def test_a_full_disk_is_one_sentence(photo_folder, tmp_path, monkeypatch, capsys):
    import errno

    from koala.data import shard_writer

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # write(2) names no file

    monkeypatch.setattr(shard_writer, "fsync", full)
    assert cli.main(["shards", "write", "--source", str(photo_folder), "--out", str(tmp_path)]) == 2
    assert "No space left on device; make room" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.tar"))


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        ("ENOSPC", "make room, or choose another place"),
        ("EACCES", "see who may read and write there"),
        ("ENOENT", "correct the path"),
        ("EISDIR", "a file and a folder are taken for each other"),
    ],
)
def test_what_the_system_refuses_has_the_remedy_that_fits(number, remedy, monkeypatch, capsys):
    import errno

    def refused(*_):
        raise OSError(getattr(errno, number), "No", "/some/place")

    monkeypatch.setattr(cli, "copy_templates", refused)
    assert cli.main(["kit", "anywhere"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"koala: No: /some/place; {remedy}")
    assert ("make room" in said) == (number == "ENOSPC")


def test_the_kit_is_copied_and_never_over_anything(tmp_path, capsys):
    assert cli.main(["kit", str(tmp_path / "kit")]) == 0
    for name in ("launch/cpu.yaml", "launch/presets/builtin.toml", "shards/demo.toml", "slurm/train.sbatch"):
        assert (tmp_path / "kit" / name).read_bytes() == (ROOT / name).read_bytes()
    assert os.access(tmp_path / "kit/slurm/submit.sh", os.X_OK)
    assert all(path.is_file() for path in (tmp_path / "kit/shards").iterdir()), "no data"
    assert cli.main(["kit", str(tmp_path / "kit")]) == 2
    assert "exists; choose another folder" in capsys.readouterr().err


def test_what_a_run_file_names_is_in_the_kit(tmp_path):
    """Each file that a comment or a setting of launch/ or shards/ names, but for data."""
    cli.main(["kit", str(tmp_path)])
    texts = [path.read_text() for folder in ("launch", "shards") for path in (tmp_path / folder).rglob("*.toml")]
    named = {name for text in texts for name in re.findall(r"\b(?:launch|shards|slurm)/(?!data/)[\w./-]+\.\w+", text)}
    assert {"launch/presets/builtin.toml", "slurm/train.sbatch"} <= named
    assert [name for name in sorted(named) if not (tmp_path / name).exists()] == []


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_version(flag):
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert pyproject["tool"]["hatch"]["version"]["path"] == "koala/core/version.py"
    assert koala(flag).stdout.startswith("koala 0.")


def test_who_has_read_enough_is_not_told_of_it():
    """As `koala train --help | head -n 1` does, once head has ended."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "koala", "train", "--help"]
    done = subprocess.run(command, check=False, stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")

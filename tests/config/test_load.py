"""Settings from files, and back; old names."""

from dataclasses import replace

import pytest

from koala.config import load
from koala.config.data import DataSettings
from koala.config.load import load_toml, save_toml, validate
from koala.config.training import AblationSettings, DoctorSettings, TrainSettings
from koala.core.errors import UserError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size = ", "is not TOML"),
        ("bach_size = 3", "there is no setting bach_size; did you mean batch_size?"),
        ("[data]\nsise = 64", "there is no setting data.sise; did you mean size?"),
        ("[objective]\ncolourfulness = 0.5", "there is no setting objective.colourfulness; did you mean colorfulness?"),
        ('[data]\ngeometry = "round"', "data.geometry = 'round': input should be 'pad', 'crop'"),
        (
            "zoom = 1\nflavour = 2\n[data]\nx = 3",
            "there is no setting zoom, flavour; known: name, data, extractor, network, objective, init",
        ),
        ("[data]\nx = 3", "there is no setting data.x; known: shards, geometry, size"),
        ('batch_size = "many"', "batch_size = 'many': input should be a valid integer"),
    ],
)
def test_errors_in_files_name_the_place(tmp_path, text, message):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_toml(TrainSettings, path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


def test_settings_survive_their_file(tmp_path):
    settings = replace(TrainSettings(), run=tmp_path, data=DataSettings(size=64), learning_rate=3e-4)
    save_toml(settings, tmp_path / "config.toml")
    assert load_toml(TrainSettings, tmp_path / "config.toml") == settings


# ---------------------------------------------------------------- old names


@pytest.fixture
def renamed(monkeypatch) -> None:
    """As if two settings had had other names before."""
    monkeypatch.setattr(load, "RENAMED", {"DataSettings": {"shape": "geometry"}, "TrainSettings": {"rate": "seed"}})


def test_old_names_are_taken_with_a_warning_in_a_sentence(renamed, capsys):
    values = {"rate": 3, "data": {"shape": "crop"}}
    assert validate(TrainSettings, values, "run.toml") == TrainSettings(seed=3, data=DataSettings(geometry="crop"))
    assert capsys.readouterr().err.splitlines() == [
        "koala: warning: run.toml: rate is now seed; the old name is taken in this release only",
        "koala: warning: run.toml: data.shape is now data.geometry; the old name is taken in this release only",
    ]


def test_old_names_are_taken_by_classes_that_inherit_or_hold_the_setting(renamed):
    assert validate(DoctorSettings, {"rate": 3}, "run.toml").seed == 3
    ablation = validate(AblationSettings, {"train": {"data": {"shape": "crop"}}}, "a.toml")
    assert ablation.train.data.geometry == "crop"


def test_of_what_koala_wrote_itself_nobody_is_warned(renamed, capsys):
    validate(TrainSettings, {"rate": 3}, "checkpoint.json", quiet=True)
    assert capsys.readouterr().err == ""


def test_other_processes_than_the_first_do_not_warn(renamed, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    validate(TrainSettings, {"rate": 3}, "run.toml")
    assert capsys.readouterr().err == ""


def test_a_setting_under_both_its_names_is_refused(renamed):
    with pytest.raises(UserError, match=r"^run.toml: data.shape is the old name of data.geometry; leave one of them"):
        validate(TrainSettings, {"data": {"shape": "crop", "geometry": "pad"}}, "run.toml")


def test_every_new_name_exists():
    """RENAMED leads to settings that there are, under names that no setting has."""
    from importlib import import_module

    modules = [
        import_module(f"koala.config.{name}") for name in ("data", "evaluation", "inference", "study", "training")
    ]
    for name, names in load.RENAMED.items():
        cls = next(getattr(module, name) for module in modules if hasattr(module, name))
        known = set(cls.__dataclass_fields__)
        assert set(names.values()) <= known and not set(names) & known

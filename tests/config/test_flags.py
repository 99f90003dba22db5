"""Settings from the words of a command line."""

from pathlib import Path

import pytest

from koala.config import flags, load
from koala.config.data import DataSettings, ResizeRule, ShardRecipe, SplitRule, WriteShards
from koala.config.inference import ColorizeSettings
from koala.config.study import PowerStudy
from koala.config.training import AblateSettings, TrainSettings
from koala.core.errors import UserError


def train(*words: object) -> TrainSettings:
    return flags.parse(TrainSettings, [str(word) for word in words], "koala train", ".")


def write(*words: object) -> WriteShards:
    return flags.parse(WriteShards, [str(word) for word in words], "koala shards write", "recipe")


@pytest.mark.parametrize("place", [0, 2, 4])
def test_flags_win_over_the_file_wherever_it_stands(tmp_path, place):
    path = tmp_path / "run.toml"
    path.write_text('batch_size = 7\nseed = 3\n[data]\nsize = 64\nlightness = "color"')
    words = ["--batch-size", "9", "--data.size", "32"]
    settings = train(*words[:place], path, *words[place:])
    assert (settings.batch_size, settings.seed) == (9, 3)
    assert settings.data == DataSettings(size=32, lightness="color")


def test_a_run_is_called_as_its_file(tmp_path):
    for text, name in (("", "mine"), ("name = 'yours'", "yours")):
        (tmp_path / "mine.toml").write_text(text)
        assert train(tmp_path / "mine.toml").name == name
    assert train().name == ""


@pytest.mark.parametrize("table", ["", "recipe"])
def test_a_recipe_fills_its_part_at_the_top_or_in_its_table(tmp_path, table):
    path = tmp_path / "recipe.toml"
    head, dot = (f"[{table}]\n", f"{table}.") if table else ("", "")
    path.write_text(f"{head}seed = 4\n[{dot}split]\nval_count = 2\n[{dot}resize]\nside = 'short'")
    settings = write(path, "--source", "here", "--out", "there", "--recipe.seed", "5")
    recipe = ShardRecipe(seed=5, split=SplitRule(val_count=2), resize=ResizeRule(side="short"))
    assert settings == WriteShards(Path("here"), Path("there"), recipe)


def test_an_ablation_may_say_its_seeds_in_its_table(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[ablation]\nseeds = [3, 4]\n[ablation.variants.one]\nseed = 3")
    settings = flags.parse(AblateSettings, [str(path), "--out", "there"], "koala ablate", "ablation")
    assert settings.ablation.seeds == (3, 4) and settings.ablation.variants == {"one": {"seed": 3}}


def test_what_stands_beside_the_table_of_a_part_is_refused(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("source = 'here'\n[recipe]\nseed = 4")
    message = r"recipe.toml: source stands beside \[recipe\]; move it .* or give it as a flag"
    with pytest.raises(UserError, match=message):
        write(path, "--source", "there", "--out", "there")


@pytest.mark.parametrize(
    "words", ["--data.size 32", "--data.size=32", "--data.size\t32", "--data.size 64 --data.size 32"], ids=repr
)
def test_forms_of_a_flag(words):
    assert train(*words.split()).data.size == 32


def test_underscores_and_keys_are_flags_too():
    assert train("--learning_rate", "0.5", "--objective.name", "huber").objective.name == "huber"
    assert train("--objective", "huber").objective.name == "huber"


def test_switches_are_named_to_be_on(tmp_path):
    """Also where a file says so already; false switches them off."""
    path = tmp_path / "run.toml"
    path.write_text("compile = true")
    assert train("--tf32").tf32 and train("--tf32", "true").tf32 and not train().tf32
    assert train(path).compile and train(path, "--compile").compile
    assert not train(path, "--compile", "false").compile and not train(path, "--compile=false").compile


def test_a_word_after_a_switch_is_not_its_value():
    settings = flags.parse(ColorizeSettings, ["--out", "there", "--recolor", "one.jpg", "two.jpg"], "koala colorize")
    assert settings.recolor and settings.photos == (Path("one.jpg"), Path("two.jpg"))


def test_several_values():
    assert flags.parse(PowerStudy, ["--participants", "10", "20"], "koala study power").participants == (10, 20)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--bach-size 3", "--bach-size is no option of koala train; did you mean --batch-size?"),
        ("--geometry pad", "did you mean --data.geometry?"),
        ("--lr 3", "did you mean --learning-rate?"),
        ("-x", "-x is no option of koala train; koala train --help shows what it takes"),
        ("--batch-size abc", "--batch-size abc is not a whole number; koala train --help"),
        ("--learning-rate fast", "--learning-rate fast is not a number;"),
        ("--data.geometry round", "--data.geometry round is not one of pad, crop, random_crop, squash, legacy;"),
        ("--tf32=maybe", "--tf32 maybe is not true or false;"),
        ("--batch-size", "--batch-size needs a value: a whole number;"),
        ("a.toml b.toml", "b.toml is a word too many;"),
    ],
)
def test_words_that_do_not_fit_are_told_of_in_a_sentence(words, message):
    with pytest.raises(UserError) as error:
        train(*words.split())
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match=r"^--source SOURCE and --out DIR\|URL must be given; koala shards write"):
        write()
    with pytest.raises(UserError, match=r"^PHOTO|DIR must be given"):
        flags.parse(ColorizeSettings, ["--out", "there"], "koala colorize")


def test_old_flags_are_taken_with_a_warning(monkeypatch, capsys):
    monkeypatch.setattr(load, "RENAMED", {"DataSettings": {"shape": "geometry"}})
    assert train("--data.shape", "crop").data.geometry == "crop"
    expected = "koala: warning: --data.shape is now --data.geometry; the old name is taken in this release only\n"
    assert capsys.readouterr().err == expected
    assert not train("--no-tf32").tf32
    assert "--no-tf32 is now --tf32 false" in capsys.readouterr().err

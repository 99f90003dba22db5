"""Settings as users meet them: the introspection behind help pages and the reference of the documentation."""

import pytest

from koala import cli
from koala.config import reference
from koala.config.data import WriteShards
from koala.config.inference import ColorizeSettings
from koala.config.training import AblateSettings, DoctorSettings, TrainSettings


def option(cls: type, key: str) -> reference.Option:
    return next(option for option in reference.options(cls) if option.key == key)


def test_tables_come_in_order_with_their_words():
    found = reference.sections(WriteShards)
    assert [section.key for section in found] == ["", "recipe", "recipe.split", "recipe.resize"]
    assert found[1].description == "How a folder of images becomes shards."


def test_what_is_told_of_a_setting():
    source = option(WriteShards, "source")
    assert (source.flag, source.required, source.positional, source.kind) == ("--source", True, False, "path")
    count = option(WriteShards, "recipe.split.val_count")
    assert (count.flag, count.metavar, count.default) == ("--recipe.split.val-count", "N", "0")
    assert count.description == "Number of validation images, drawn at random."
    kind = option(TrainSettings, "objective.name")
    assert (kind.flag, kind.choices[:2], kind.default) == ("--objective", ("mse", "huber"), "mse")
    tf32 = option(TrainSettings, "tf32")
    assert (tf32.kind, tf32.metavar, tf32.default) == ("switch", "", "")
    photos = option(ColorizeSettings, "photos")
    assert (photos.flag, photos.positional, photos.several, photos.required) == ("", True, True, True)
    assert option(TrainSettings, "learning_rate").default == "0.001"
    assert option(TrainSettings, "run").default == ""
    assert option(AblateSettings, "ablation.seeds").default == "0 1"
    assert option(AblateSettings, "ablation.variants").flag == "", "is said in a file alone"


def test_settings_that_are_inherited_have_their_words():
    assert option(DoctorSettings, "epochs") == option(TrainSettings, "epochs")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_setting_has_words_and_a_flag_of_its_own(command):
    options = reference.options(cli.settings_class(command))
    assert all(option.description.endswith(".") for option in options), [o.key for o in options if not o.description]
    flags = [option.flag for option in options if option.flag]
    assert len(set(flags)) == len(flags)


def test_what_few_people_need_is_marked():
    """By itself, or in a table that is marked as a whole."""
    assert option(TrainSettings, "tf32").advanced and not option(TrainSettings, "epochs").advanced
    assert option(AblateSettings, "ablation.train.data.size").advanced and not option(AblateSettings, "out").advanced

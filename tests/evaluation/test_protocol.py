"""Protocols: koala's own, a user's, the images they name, and their hashes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from koala.config.data import ShardRecipe, SplitRule, WriteShards
from koala.config.evaluation import EvaluationProtocol, ImageIds
from koala.core.errors import UserError
from koala.data import shard_writer
from koala.evaluation import protocol
from tests.photographs import jpeg, make_photo


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Shards of twelve images with ImageNet's validation names, 3 to 14."""
    folder = tmp_path_factory.mktemp("imagenet")
    for number in range(3, 15):
        (folder / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(jpeg(make_photo(number, 24, 24)))
    out = tmp_path_factory.mktemp("shards")
    recipe = ShardRecipe(samples_per_shard=5, split=SplitRule(val_count=12))
    shard_writer.write_shards(WriteShards(folder, out, recipe))
    return out


@pytest.mark.parametrize("name", protocol.protocol_names())
def test_every_protocol_is_valid_and_says_what_it_is(name):
    found = protocol.find_protocol(name)
    assert found.name == name
    assert found.about
    assert found.ids.count or name == "photos", "which judges whatever photographs there are"


def test_the_protocols_of_the_literature():
    """Names, geometry and size as their papers and programs have them."""
    val5k, val50k, ctest10k, coltran, report = (
        protocol.find_protocol(name) for name in ("val5k", "val50k", "ctest10k", "coltran", "report")
    )
    names = protocol.image_names(val5k.ids, "val5k")
    assert (names[0], names[-1], len(names)) == ("ILSVRC2012_val_00000001", "ILSVRC2012_val_00005000", 5000)
    assert len(protocol.image_names(val50k.ids, "val50k")) == 50_000
    assert (val5k.geometry, val50k.geometry, ctest10k.geometry, coltran.geometry) == (
        "crop",
        "squash",
        "squash",
        "crop",
    )
    assert {one.size for one in (val5k, val50k, ctest10k, coltran)} == {256}
    assert (val5k.features, val5k.normalization) == ("inception_torchvision", "ddcolor")
    assert coltran.features == ctest10k.features == "inception_2015"
    assert (val5k.colorfulness, val5k.dcf) == ("absolute", "of_means")
    reference = protocol.image_names(coltran.reference, "coltran")
    assert not set(reference) & set(protocol.image_names(coltran.ids, "coltran"))
    assert len(reference) == 5000
    assert (report.geometry, report.size, report.lightness, report.assembly) == ("pad", 224, "grey", "grey")
    assert report.padding == "counted"


def test_a_protocol_of_ones_own(tmp_path):
    (tmp_path / "mine.toml").write_text('size = 64\nassembly = "grey"\n[ids]\nfile = "list.txt"\n')
    (tmp_path / "list.txt").write_text("photos/b.JPEG\na.png\n\nc\n")
    found = protocol.find_protocol(str(tmp_path / "mine.toml"))
    assert (found.name, found.size, found.assembly, found.geometry) == ("mine", 64, "grey", "pad")
    assert protocol.image_names(found.ids, found.name) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("siz = 64", "there is no setting siz; did you mean size"),
        ("size = 100", "size = 100: input should be a multiple of 8"),
        ('features = "vgg"', "features = 'vgg'"),
    ],
)
def test_errors_in_a_protocol_name_the_place(tmp_path, text, message):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        protocol.find_protocol(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize("pattern", ["a_{}_{}", "a_{number}", "a_{", "a_{:q}", "a_{.name}"])
def test_a_pattern_that_takes_no_number_is_told(pattern):
    with pytest.raises(UserError, match=r"mine: ids.pattern = .* has no place for one number"):
        protocol.image_names(ImageIds(pattern, 1, 2), "mine")


def test_an_unknown_protocol_is_told_the_known_ones():
    with pytest.raises(UserError, match="there is no protocol val6k; known: coltran, ctest10k, imagenet64, photos"):
        protocol.find_protocol("val6k")


# ---------------------------------------------------------------- images


def ids(**values) -> ImageIds:
    return ImageIds(pattern="ILSVRC2012_val_{:08d}", **values)


def test_images_are_selected_by_name(shards):
    keep = protocol.select_samples(
        shards, "val", protocol.image_names(ids(first=5, last=8), "five to eight"), "five to eight"
    )
    opened = protocol.Shards.open(shards, "val", keep)
    names = sorted(protocol.image_stem(opened.describe(sample).source) for sample in range(len(opened)))
    assert names == [f"ILSVRC2012_val_{number:08d}" for number in range(5, 9)]


def test_a_limit_does_with_those_of_the_images_that_are_there(shards):
    wanted = protocol.image_names(ids(first=13, last=20), "thirteen to twenty")
    keep = protocol.select_samples(shards, "val", wanted, "thirteen to twenty", some=True)
    assert keep.sum() == 2
    there = protocol.Shards.open(shards, "val")
    drawn = protocol.draw_samples(there, len(there), 5)
    assert drawn.sum() == 5
    assert protocol.draw_samples(there, len(there), 50).sum() == 12
    few = protocol.Shards.open(shards, "val", keep)
    assert np.array_equal(protocol.draw_samples(few, len(keep), 5), keep)


def test_a_wrong_subset_is_refused(shards):
    wanted = protocol.image_names(protocol.find_protocol("val5k").ids, "val5k")
    message = (
        r"4988 of the 5000 images of val5k are not in .* \(split \"val\"\), such as ILSVRC2012_val_00000001; write"
    )
    with pytest.raises(UserError, match=message):
        protocol.select_samples(shards, "val", wanted, "val5k")


def test_a_name_that_stands_for_two_images_is_refused(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        (tmp_path / "photos" / folder / "cat.jpg").write_bytes(jpeg(make_photo(len(folder), 24, 24)))
    (tmp_path / "photos/two/cat.jpg").write_bytes(jpeg(make_photo(9, 24, 24)))
    recipe = ShardRecipe(split=SplitRule(val_count=2))
    shard_writer.write_shards(WriteShards(tmp_path / "photos", tmp_path / "shards", recipe))
    with pytest.raises(
        UserError, match=r"(one|two)/cat.jpg and (one|two)/cat.jpg in .* are both called cat; mine needs"
    ):
        protocol.select_samples(tmp_path / "shards", "val", ["cat"], "mine")


def test_a_list_must_be_of_the_right_length_range_and_hash(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("val/ILSVRC2012_val_00025275.JPEG\nILSVRC2012_val_00025280\n")
    whole = replace(protocol.find_protocol("ctest10k").ids, count=2)
    assert protocol.image_names(replace(whole, file=str(path)), "ctest") == [
        "ILSVRC2012_val_00025275",
        "ILSVRC2012_val_00025280",
    ]
    with pytest.raises(UserError, match=r"ctest10k is a choice of 10000 images; .*list.txt names 2"):
        protocol.image_names(replace(whole, count=10_000, file=str(path)), "ctest10k")
    with pytest.raises(UserError, match=r"ctest10k is a choice of 10000 images; name the file .* with --ids FILE"):
        protocol.image_names(protocol.find_protocol("ctest10k").ids, "ctest10k")
    with pytest.raises(UserError, match=r"the names' sha256 is [0-9a-f]{64}, ctest asks for 123"):
        protocol.image_names(replace(whole, file=str(path), sha256="123"), "ctest")
    sha256 = protocol.names_sha256(["ILSVRC2012_val_00025275", "ILSVRC2012_val_00025280"])
    assert protocol.image_names(replace(whole, file=str(path), sha256=sha256), "ctest")
    path.write_text("ILSVRC2012_val_00000001\nILSVRC2012_val_00025280\n")
    with pytest.raises(UserError, match=r"1 of the 2 names in .*list.txt are not from .*, such as .*_00000001"):
        protocol.image_names(replace(whole, file=str(path)), "ctest")
    path.write_text("a.jpg\nb/a.png\n")
    with pytest.raises(UserError, match=r"list.txt names a more than once"):
        protocol.image_names(ImageIds(file=str(path)), "mine")
    with pytest.raises(UserError, match=r"nowhere.txt cannot be read .*; --ids names a text file"):
        protocol.image_names(ImageIds(file=str(tmp_path / "nowhere.txt")), "mine")


@pytest.mark.parametrize(
    ("name", "stem"), [("a/b.JPEG", "b"), ("photo v1.2", "photo v1.2"), ("x.tar.png", "x.tar"), ("c", "c")]
)
def test_names_without_folder_and_suffix(name, stem):
    assert protocol.image_stem(name) == stem


# ---------------------------------------------------------------- hashes


def test_hashes_follow_what_scores_depend_on(tmp_path):
    plain = EvaluationProtocol("one")
    path = tmp_path / "list.txt"
    path.write_text("ILSVRC2012_val_00000002\nILSVRC2012_val_00000001.JPEG\n")
    assert protocol.protocol_hashes(plain) == protocol.protocol_hashes(replace(plain, name="two", about="another text"))
    listed, counted = ImageIds(file=str(path)), ids(first=1, last=2, count=2)
    assert protocol.protocol_hashes(replace(plain, ids=listed)) == protocol.protocol_hashes(replace(plain, ids=counted))
    assert protocol.protocol_hashes(replace(plain, ids=listed)) != protocol.protocol_hashes(plain)
    for change in ({"size": 64}, {"assembly": "grey"}, {"padding": "counted"}, {"dcf": "of_pictures"}):
        assert (
            protocol.protocol_hashes(replace(plain, **change)).judging_sha256
            != protocol.protocol_hashes(plain).judging_sha256
        )


def test_what_the_network_sees_does_not_change_how_it_is_judged():
    grey, colored = (
        protocol.protocol_hashes(EvaluationProtocol("x", lightness=lightness)) for lightness in ("grey", "color")
    )
    assert grey.sha256 != colored.sha256
    assert grey.judging_sha256 == colored.judging_sha256


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("coltran", "df6d8a2b8b29da34629907165689de62f3b7c76a6944f08789cac2ca7dbb9751"),
        ("report", "056c588ac8058f0d3922a9dd6455fea3ce2e82d314163838a6212a0bf16b4d1c"),
        ("val5k", "f609ea78436939f8f3c0632a4ab48444eba28f8c74dea7a19929051d4549224f"),
        ("val50k", "8bf0ea7f82438b4c0b8b20f98b3dee3987de9c260e6b1d152d705b6a1a0e0182"),
    ],
)
def test_the_hashes_stay(name, sha256):
    """Those of the first version: scores that name one mean the same for ever. A changed protocol is another one."""
    assert protocol.protocol_hashes(protocol.find_protocol(name)).sha256 == sha256


def test_the_hash_of_names_can_be_had_without_koala():
    r"""printf 'ILSVRC2012_val_%08d\n' $(seq 1 5000) | head -c -1 | sha256sum"""
    expected = "281e884ad255cbf2a3d1fe561f500b421796b869c36a7c44722765a7e08e5c22"
    assert protocol.protocol_hashes(protocol.find_protocol("val5k")).ids_sha256 == expected


def test_other_settings_change_the_name():
    changed = protocol.override(protocol.find_protocol("val5k"), lightness="grey", size=256, geometry=None)
    assert changed.name == "val5k, lightness grey"
    assert changed.lightness == "grey"

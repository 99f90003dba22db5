"""A study's folder: what is shown, and that nothing but the picture tells which is which."""

import io
import re
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from koala import cli
from koala.config.study import BuildStudy, StudySettings
from koala.core.errors import UserError
from koala.imaging import color
from koala.study import build
from koala.study.folder import StudyFolder
from tests.packing import member, tar_bytes
from tests.photographs import jpeg, make_photo


def pixels(study: StudyFolder, name: str) -> np.ndarray:
    return np.asarray(Image.open(study.path / "pictures" / f"{name}.jpg"))


def test_every_version_of_every_scene_is_there(built):
    study = StudyFolder.open(built)
    manifest = study.manifest
    assert manifest.versions == ("original", "koala", "other")
    assert len(manifest.pictures) == 12 * 3
    assert len({(picture.scene, picture.version) for picture in manifest.pictures}) == 36
    assert manifest.practice.version == "original"
    assert manifest.practice.scene not in manifest.scenes
    files = {path.stem for path in (built / "pictures").iterdir()}
    assert files == manifest.by_name.keys(), "no file lies there that is not of the study"


def test_pictures_are_what_they_are_said_to_be(built, hands):
    study = StudyFolder.open(built)
    for picture in study.manifest.pictures:
        (source,) = hands[picture.version].rglob(f"{picture.scene}.*")
        true = Image.open(source).convert("RGB").resize((picture.width, picture.height), Image.Resampling.LANCZOS)
        assert np.abs(pixels(study, picture.name) - np.asarray(true, float)).mean() < 4


def test_nothing_but_the_pixels_differs(built):
    """Names, lengths, sizes, metadata and compression."""
    study = StudyFolder.open(built)
    files = [study.read_picture(picture.name) for picture in study.manifest.pictures]
    assert len({len(data) for data in files}) == 1
    opened = [Image.open(io.BytesIO(data)) for data in files]
    assert len({str(image.quantization) for image in opened}) == 1
    assert {tuple(sorted(image.info.keys() - {"comment"})) for image in opened} == {
        ("jfif", "jfif_density", "jfif_unit", "jfif_version")
    }
    assert not any(image.getexif() for image in opened)
    assert all(re.fullmatch(r"[0-9a-f]{32}", picture.name) for picture in study.manifest.pictures)
    sizes = {(picture.scene, picture.width, picture.height) for picture in study.manifest.pictures}
    assert len(sizes) == 12, "one size for all versions of a scene"


def test_names_are_others_each_time(settings, tmp_path):
    for name in ("one", "two"):
        build.build_command(replace(settings, dir=tmp_path / name))
    one, two = (StudyFolder.open(tmp_path / name).manifest for name in ("one", "two"))
    assert one.scenes == two.scenes, "the seed draws the scenes"
    assert not one.by_name.keys() & two.by_name.keys(), "and nobody the names"


def test_scenes_are_drawn_by_the_seed_and_over_labels(settings, tmp_path):
    study = replace(settings.study, shown=4)
    drawn = []
    for seed in (0, 1, 2):
        folder = tmp_path / str(seed)
        build.build_command(replace(settings, dir=folder, scenes=4, seed=seed, study=study))
        manifest = StudyFolder.open(folder).manifest
        assert {picture.label for picture in manifest.pictures} == {f"n0000000{n}" for n in range(4)}
        drawn.append(manifest.scenes)
    assert len(set(drawn)) > 1


def test_curated_scenes_come_from_a_list(settings, tmp_path):
    listed = tmp_path / "best.txt"
    listed.write_text("val/scene07.JPEG\nnot there.JPEG\nscene02.JPEG.png\nscene11\n\nscene05.JPEG\nscene01.JPEG\n")
    study = replace(settings.study, shown=4)
    build.build_command(replace(settings, dir=tmp_path / "s", scenes=4, select="curated", list=listed, study=study))
    manifest = StudyFolder.open(tmp_path / "s").manifest
    assert manifest.scenes == ("scene02", "scene05", "scene07", "scene11")
    assert manifest.practice.scene == "scene01"


def test_lightness_can_be_shared(hands, tmp_path):
    """A model that predicts darker pictures is told apart by that, unless it is given the originals' lightness."""
    for path in hands["koala"].iterdir():
        (tmp_path / "dark").mkdir(exist_ok=True)
        ImageEnhance.Brightness(Image.open(path)).enhance(0.7).save(tmp_path / "dark" / path.name)

    def difference(lightness: str) -> float:
        folder = tmp_path / lightness
        study = StudySettings(shown=4)
        pictures = (f"dark={tmp_path / 'dark'}",)
        build.build_command(BuildStudy(folder, hands["original"], pictures, scenes=4, lightness=lightness, study=study))
        opened = StudyFolder.open(folder)
        assert opened.manifest.made["lightness_difference"]["dark"] > 5, "it is measured before it is mended"
        names = {(picture.scene, picture.version): picture.name for picture in opened.manifest.pictures}
        return np.mean(
            [
                np.abs(
                    color.rgb_to_lab(pixels(opened, names[scene, "dark"]))[..., 0]
                    - color.rgb_to_lab(pixels(opened, names[scene, "original"]))[..., 0]
                ).mean()
                for scene in opened.manifest.scenes
            ]
        )

    assert difference("own") > 5
    assert difference("shared") < 1.5


def test_a_picture_of_more_than_a_byte_for_each_pixel_is_encoded():
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    data = build.encode_jpeg(Image.fromarray(noise), 92)
    assert len(data) > max(300 * 300, 65_536), "what Pillow sets aside with optimize=True; it fails on more"
    assert Image.open(io.BytesIO(data)).size == (300, 300)


@given(st.integers(0, 300_000).filter(lambda lack: lack == 0 or lack >= 4))
def test_files_are_filled_up_to_any_length(lack):
    picture = jpeg(make_photo(0))
    filled = build.pad_jpeg(picture, len(picture) + lack)
    assert len(filled) == len(picture) + lack
    assert filled[:2] == picture[:2]
    assert filled.endswith(picture[2:])


def test_a_filled_picture_shows_the_same(tmp_path):
    for lack in (0, 4, 65_537, 65_538, 65_541, 200_000):
        picture = jpeg(make_photo(0))
        for name, data in (("a.jpg", picture), ("b.jpg", build.pad_jpeg(picture, len(picture) + lack))):
            (tmp_path / name).write_bytes(data)
        one, two = (np.asarray(Image.open(tmp_path / name)) for name in ("a.jpg", "b.jpg"))
        assert (one == two).all()


def test_bad_pictures_are_left_out_and_named(hands, settings, tmp_path, capsys):
    broken = shutil.copytree(hands["koala"], tmp_path / "koala")
    (broken / "scene03.JPEG.png").write_bytes(b"no picture")
    Image.new("RGB", (50, 50)).save(broken / "scene04.JPEG.png")
    chosen = replace(settings, dir=tmp_path / "s", pictures=(f"koala={broken}",), scenes=10)
    build.build_command(chosen)
    manifest = StudyFolder.open(tmp_path / "s").manifest
    used = {*manifest.scenes, manifest.practice.scene}
    assert not used & {"scene03", "scene04"}
    said = capsys.readouterr().err
    assert "scene03: its picture by koala cannot be read (not an image)" in said
    assert "scene04: original has 96x64 pixels and koala 50x50; take pictures of whole scenes" in said
    with pytest.raises(UserError, match=r"11 scenes can be shown of the 13 .* and 12 are needed"):
        build.build_command(replace(chosen, dir=tmp_path / "t", scenes=11))
    assert not (tmp_path / "t").exists()


def test_whatever_a_source_holds_beside_pictures_is_named(hands, settings, tmp_path, capsys):
    files = {path.name: path.read_bytes() for path in hands["koala"].iterdir()} | {"scores.json": b"{}", "a.heic": b"x"}
    packed = tar_bytes(files, member("scene99.png", tarfile.FIFOTYPE))
    (tmp_path / "koala.tar").write_bytes(packed)
    chosen = replace(settings, dir=tmp_path / "s", pictures=(f"koala={tmp_path / 'koala.tar'}",), scenes=10)
    build.build_command(chosen)
    said = capsys.readouterr().err
    for name, reason in (
        ("scene99.png", "a named pipe"),
        ("scores.json", "not an image by its name"),
        ("a.heic", "no picture by its name"),
    ):
        assert f"left out: {name} of {tmp_path / 'koala.tar'}: {reason}" in said
    (tmp_path / "koala.tar").write_bytes(packed[:5000])
    with pytest.raises(UserError, match=r"koala.tar: it is cut off, for .* ends at byte \d+ and the tar at 5000"):
        build.build_command(replace(chosen, dir=tmp_path / "t"))


def test_an_interrupted_build_is_begun_again(settings, tmp_path, monkeypatch):
    chosen = replace(settings, dir=tmp_path / "s")
    monkeypatch.setattr(build.StudyManifest, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build.build_command(chosen)
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        StudyFolder.open(tmp_path / "s")
    monkeypatch.undo()
    build.build_command(chosen)
    study = StudyFolder.open(tmp_path / "s")
    assert {path.stem for path in (tmp_path / "s/pictures").iterdir()} == study.manifest.by_name.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pictures": ()}, "name them with --pictures NAME=DIR"),
        ({"pictures": ("koala",)}, "--pictures koala is not NAME=DIR"),
        ({"pictures": ("original=x",)}, "the name original is taken"),
        ({"pictures": ("koala=/nowhere",)}, "/nowhere does not exist"),
        ({"scenes": 6}, "--shown 8 cannot be shown of --scenes 6"),
        ({"scenes": 13}, "13 scenes can be shown of the 13 .* and 14 are needed"),
        ({"select": "curated"}, "--select curated needs --list FILE"),
    ],
)
def test_bad_settings_are_one_sentence(settings, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        build.build_command(replace(settings, **{"dir": tmp_path / "s", **change}))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("name", "what"), [("original", "originals"), ("koala", "pictures of koala")])
def test_a_study_is_not_written_among_its_sources(hands, settings, tmp_path, name, what):
    folders = {each: shutil.copytree(hands[each], tmp_path / each) for each in ("original", "koala")}
    before = sorted(folders[name].iterdir())
    changed = replace(settings, originals=folders["original"], pictures=(f"koala={folders['koala']}",))
    with pytest.raises(UserError, match=f"{name} is the folder of the {what}; choose another one"):
        build.build_command(replace(changed, dir=folders[name]))
    assert sorted(folders[name].iterdir()) == before


def test_two_pictures_of_one_scene_are_refused(hands, settings, tmp_path):
    twice = shutil.copytree(hands["koala"], tmp_path / "koala")
    shutil.copy(twice / "scene01.JPEG.png", twice / "scene01.png")
    with pytest.raises(UserError, match="would be one scene; rename one of them"):
        build.build_command(replace(settings, dir=tmp_path / "s", pictures=(f"koala={twice}",)))


def test_pictures_against_themselves_are_refused(hands, settings, tmp_path):
    (tmp_path / "link").symlink_to(hands["original"])
    twice = (f"koala={hands['koala']}", f"again={hands['koala']}/../koala")
    for pictures, message in (
        ((f"koala={hands['original']}",), "these are the originals themselves; name a folder of pictures that a model"),
        ((f"koala={tmp_path / 'link'}",), "these are the originals themselves"),
        (twice, "these are the pictures of koala themselves"),
    ):
        with pytest.raises(UserError, match=message):
            build.build_command(replace(settings, dir=tmp_path / "s", pictures=pictures))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("lightness", ["own", "shared"])
def test_copies_of_the_originals_are_refused(hands, settings, tmp_path, lightness):
    """As koala colorize makes them of photos in colour."""
    copies = shutil.copytree(hands["original"], tmp_path / "koala")
    chosen = replace(settings, dir=tmp_path / "s", pictures=(f"koala={copies}",), lightness=lightness)
    message = r"^0 scenes can be shown of the 13 that original, koala .*its pictures by original and koala are the same"
    with pytest.raises(UserError, match=message):
        build.build_command(chosen)


def test_a_scene_of_which_two_versions_are_the_same_is_left_out(hands, settings, tmp_path, capsys):
    other = shutil.copytree(hands["other"], tmp_path / "other")
    shutil.copy(hands["koala"] / "scene03.JPEG.png", other / "scene03.JPEG.png")
    pictures = (f"koala={hands['koala']}", f"other={other}")
    build.build_command(replace(settings, dir=tmp_path / "s", pictures=pictures, scenes=11))
    assert "scene03" not in StudyFolder.open(tmp_path / "s").manifest.scenes
    assert "left out: scene03: its pictures by koala and other are the same" in capsys.readouterr().err


def test_one_scene_is_one_scene(hands, tmp_path, capsys):
    words = ["--originals", str(hands["original"]), "--pictures", f"koala={hands['koala']}", "--scenes", "1"]
    assert cli.main(["study", "build", str(tmp_path / "s"), *words, "--shown", "1"]) == 0
    assert "1 scene by original, koala, of 1 label; each" in capsys.readouterr().out


def test_a_study_is_never_written_over(settings, built, capsys):
    words = ["study", "build", str(built), "--originals", str(settings.originals), "--pictures", settings.pictures[0]]
    assert cli.main(words) == 2
    assert "holds a study already; choose another folder" in capsys.readouterr().err


def test_the_command_line_makes_the_same(hands, tmp_path, capsys):
    words = ["--originals", str(hands["original"]), "--pictures", f"koala={hands['koala']}"]
    words += ["--pictures", f"other={hands['other']}", "--scenes", "12", "--shown", "8"]
    words += ["--practice", "false", "--no-show-score"]
    assert cli.main(["study", "build", str(tmp_path / "s"), *words]) == 0
    study = StudyFolder.open(tmp_path / "s")
    assert (study.settings.shown, study.settings.practice, study.settings.show_score) == (8, False, False)
    assert study.manifest.practice is None
    printed = capsys.readouterr()
    assert "12 scenes by original, koala, other, of 4 labels" in printed.out
    assert "--no-show-score is now --show-score false" in printed.err

"""Pictures -> the folder of a study, in which nothing but the picture itself tells which is which.

All versions of a scene go the same way: upright, in sRGB, to the same size, into a JPEG of the same quality without
metadata. The files get random names and, filled up with random comments, one length. What else tells them apart is
measured and said: a model that predicts colours at another size also changes the lightness.
"""

import csv
import io
import re
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from koala.config.load import save_toml
from koala.config.study import BuildStudy
from koala.core.atomic_io import write_atomic
from koala.core.errors import UserError
from koala.core.progress import Progress
from koala.core.readers import read_text
from koala.core.version import __version__
from koala.core.wording import counted
from koala.data import labels, sources
from koala.data.places import SourceItem
from koala.imaging import color, jpeg_intake
from koala.imaging.errors import UnreadableImageError
from koala.study import languages, trials
from koala.study.folder import StudyManifest, StudyPicture
from koala.study.languages import PAGE_FOLDER

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,39}")
_ORIGINAL = "original"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".ppm", ".gif"}
_SEGMENT = 65_537  # bytes of a JPEG comment at most: marker, length and 65,533 others
_TELLING = 1.0  # mean difference in L* beyond which people may see more than colour


class _UnfitError(Exception):
    """A scene that cannot be shown, and why."""


@dataclass(frozen=True)
class VersionSource:
    """One of the hands that pictures come from.

    Attributes:
        name: "original", or the model.
        source: what lies where its pictures are.
        items: its pictures, by scene.
    """

    name: str
    source: sources.Listing
    items: dict[str, SourceItem]

    @classmethod
    def open(cls, name: str, path: Path) -> "VersionSource":
        """List the pictures of a source, and say what is left out.

        Raises:
            UserError: there is no such source, or two of its pictures show the same scene.
        """
        source = sources.list_source(path)
        left_out = list(source.set_aside)
        items: dict[str, SourceItem] = {}
        for item in source.images:
            scene, is_picture = _scene(item.name)
            if not is_picture:
                left_out.append((item.name, "no picture by its name"))
            elif scene in items:
                raise UserError(f"{items[scene].name} and {item.name} of {path} would be one scene; rename one of them")
            else:
                items[scene] = item
        for other, reason in left_out:
            print(f"left out: {other} of {path}: {reason}", file=sys.stderr)
        return cls(name, source, items)


@dataclass(frozen=True)
class EncodedPicture:
    """A picture of the study, made.

    Attributes:
        picture: what it is.
        jpeg: its bytes, not filled up yet.
        difference: mean difference in L* from the original, before anything was done about it.
    """

    picture: StudyPicture
    jpeg: bytes
    difference: float


def build_command(settings: BuildStudy) -> int:
    """`koala study build`: make the folder of a study.

    Returns:
        0.

    Raises:
        UserError: the folder is in use, or the sources do not give enough scenes.
    """
    if (settings.dir / "manifest.json").exists():
        raise UserError(f"{settings.dir} holds a study already; choose another folder, so that no answer is lost")
    if settings.study.shown > settings.scenes:
        raise UserError(
            f"--shown {settings.study.shown} cannot be shown of --scenes {settings.scenes}, for nobody sees a scene "
            "twice; choose more scenes"
        )
    versions = open_versions(settings)
    encoded = encode_study(settings, versions)
    manifest = make_manifest(settings, versions, encoded)
    write_study(settings, manifest, {each.picture.name: each.jpeg for each in encoded})
    _say(settings, manifest, [len(each.jpeg) for each in encoded])
    return 0


def open_versions(settings: BuildStudy) -> list[VersionSource]:
    """The originals and each model's pictures.

    Raises:
        UserError: a name or a source does not fit.
    """
    if not settings.pictures:
        raise UserError("a study needs coloured pictures; name them with --pictures NAME=DIR")
    versions = [VersionSource.open(_ORIGINAL, settings.originals)]
    taken = {settings.originals.resolve(): "originals"}
    for words in settings.pictures:
        name, _, path = words.partition("=")
        if not path or not _NAME.fullmatch(name):
            raise UserError(f"--pictures {words} is not NAME=DIR, as in koala=runs/45k/evaluation/pictures")
        if name in {version.name for version in versions}:
            raise UserError(f"--pictures {words}: the name {name} is taken; choose another")
        if (place := Path(path).resolve()) in taken:
            raise UserError(
                f"--pictures {words}: these are the {taken[place]} themselves; name a folder of pictures that a model "
                "coloured"
            )
        taken[place] = f"pictures of {name}"
        versions.append(VersionSource.open(name, Path(path)))
    if (place := settings.dir.resolve()) in taken:
        raise UserError(f"{settings.dir} is the folder of the {taken[place]}; choose another one for the study")
    return versions


def encode_study(settings: BuildStudy, versions: Sequence[VersionSource]) -> list[EncodedPicture]:
    """Choose scenes and encode their pictures; last comes the one to practise with, the original of one more scene.

    Raises:
        UserError: not enough scenes can be shown.
    """
    labels = _labels(versions[0])
    needed = settings.scenes + settings.study.practice
    candidates = _candidates(settings, versions, labels)
    made: list[list[EncodedPicture]] = []
    refused: list[str] = []
    with Progress(needed, "encoding", "scenes") as progress:
        for scene in candidates:
            if len(made) == needed:
                break
            try:
                made.append(encode_scene(settings, versions, scene, labels[scene]))
                progress.advance(1)
            except _UnfitError as error:
                refused.append(f"{scene}: {error}")
                progress.say(f"left out: {refused[-1]}")
    if len(made) < needed:
        hands, why = ", ".join(version.name for version in versions), f" ({refused[0]})" if refused else ""
        with_practice = " with the one to practise with" if settings.study.practice else ""
        raise UserError(
            f"{counted(len(made), 'scene')} can be shown of the {len(candidates)} that {hands} have in common{why}, "
            f"and {needed} are needed{with_practice}; choose fewer --scenes, or add pictures"
        )
    shown, practice = made[: settings.scenes], made[settings.scenes :]
    return [*(each for scene in shown for each in scene), *(scene[0] for scene in practice)]


def encode_scene(
    settings: BuildStudy, versions: Sequence[VersionSource], scene: str, label: str
) -> list[EncodedPicture]:
    """Every version of a scene, brought to one size.

    Raises:
        _UnfitError: one cannot be read, they do not show the same window of the scene, or two are the same picture.
    """
    pictures = [_read(version, scene) for version in versions]
    size = _common_size([picture.size for picture in pictures], [v.name for v in versions], settings.side)
    labs = [color.rgb_to_lab(np.asarray(_resized(picture, size))) for picture in pictures]
    lightness = labs[0][..., :1]
    encoded = []
    for version, picture, lab in zip(versions, pictures, labs, strict=True):
        shared = settings.lightness == "shared" and version is not versions[0]
        shown = _joined(lightness, lab[..., 1:]) if shared else _resized(picture, size)
        picture_of = StudyPicture(secrets.token_hex(16), scene, version.name, label, *size)
        difference = float(np.abs(lab[..., :1] - lightness).mean())
        encoded.append(EncodedPicture(picture_of, encode_jpeg(shown, settings.quality), difference))
    _check_differences([version.name for version in versions], labs)
    _check_differences([version.name for version in versions], [each.jpeg for each in encoded])
    return encoded


def make_manifest(
    settings: BuildStudy, versions: Sequence[VersionSource], encoded: Sequence[EncodedPicture]
) -> StudyManifest:
    """Which picture is which, and how they were made."""
    models = [version.name for version in versions[1:]]
    made = {
        "koala": __version__,
        **{name: getattr(settings, name) for name in ("select", "seed", "side", "quality", "lightness")},
        "lightness_difference": {
            model: float(np.median([each.difference for each in encoded if each.picture.version == model]))
            for model in models
        },
    }
    pictures = tuple(each.picture for each in encoded)
    count = settings.scenes * len(versions)
    return StudyManifest((_ORIGINAL, *models), pictures[:count], next(iter(pictures[count:]), None), made)


def encode_jpeg(picture: Image.Image, quality: int) -> bytes:
    """A picture as JPEG in 4:4:4, without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(picture)).save(buffer, "JPEG", quality=quality, subsampling="4:4:4")
    return buffer.getvalue()


def pad_jpeg(jpeg: bytes, length: int) -> bytes:
    """Bring a JPEG to a length with comments of random bytes, which no viewer shows and nothing can compress.

    Args:
        jpeg: the bytes.
        length: equal to theirs, or at least 4 more.
    """
    lack = length - len(jpeg)
    if lack and lack < 4:
        raise ValueError(f"a comment takes at least 4 bytes, {lack} are to be filled")
    comments = []
    while lack:
        size = min(_SEGMENT, lack) if not 0 < lack - _SEGMENT < 4 else _SEGMENT - 4  # what is left must hold one, too
        comments.append(b"\xff\xfe" + (size - 2).to_bytes(2, "big") + secrets.token_bytes(size - 4))
        lack -= size
    return jpeg[:2] + b"".join(comments) + jpeg[2:]


def write_study(settings: BuildStudy, manifest: StudyManifest, files: dict[str, bytes]) -> None:
    """Write the folder; the manifest comes last and says that it is whole."""
    pictures = settings.dir / "pictures"
    shutil.rmtree(pictures, ignore_errors=True)  # of a build that was interrupted
    pictures.mkdir(parents=True)
    length = max(map(len, files.values())) + 4
    for name, jpeg in files.items():
        write_atomic(pictures / f"{name}.jpg", pad_jpeg(jpeg, length), durable=False)
    (settings.dir / "languages").mkdir(exist_ok=True)
    for path in PAGE_FOLDER.glob("*.toml"):
        shutil.copyfile(path, settings.dir / "languages" / path.name)
    for path in PAGE_FOLDER.glob("consent.*.md"):
        shutil.copyfile(path, settings.dir / path.name)
    save_toml(settings.study, settings.dir / "study.toml")
    languages.load_languages(settings.dir, settings.study.questions)
    manifest.save(settings.dir / "manifest.json")


# ---------------------------------------------------------------- scenes


def _scene(name: str) -> tuple[str, bool]:
    """What a picture shows: its file's name without folders and suffixes; and whether it is a picture by these."""
    path, is_picture = PurePosixPath(name), False
    while path.suffix.lower() in _SUFFIXES:  # koala evaluate writes cat.JPEG.png
        path, is_picture = path.with_suffix(""), True
    return path.name, is_picture


def _labels(original: VersionSource) -> dict[str, str]:
    """The label of each scene; "" where none is known."""
    known = labels.find_labels(original.source.path, original.items.values(), original.source.lists)
    return {scene: label.wnid if (label := known.of(item.name)) else "" for scene, item in original.items.items()}


def _candidates(settings: BuildStudy, versions: Sequence[VersionSource], labels: Mapping[str, str]) -> list[str]:
    """The scenes that all versions have, in the order in which they are taken."""
    common = sorted(set.intersection(*(set(version.items) for version in versions)))
    if settings.select == "random":
        ranks = trials.rank_scenes([labels[scene] for scene in common], np.random.default_rng(settings.seed))
        return [common[place] for place in ranks]
    if settings.list is None:
        raise UserError("--select curated needs --list FILE, with one name a line, the best first")
    listed = dict.fromkeys(_scene(name)[0] for name in _names(settings.list))
    return [scene for scene in listed if scene in set(common)]


def _names(path: Path) -> list[str]:
    """The lines of a text, or the first column of a CSV."""
    text = read_text(path)
    if path.suffix.lower() == ".csv":
        return [row[0].strip() for row in csv.reader(io.StringIO(text)) if row]
    return [line.strip() for line in text.splitlines() if line.strip()]


# ---------------------------------------------------------------- pictures


def _read(version: VersionSource, scene: str) -> Image.Image:
    try:
        return jpeg_intake.decode_image(version.items[scene].read()).convert("RGB")
    except (UnreadableImageError, OSError, MemoryError) as error:
        raise _UnfitError(
            f"its picture by {version.name} cannot be read ({str(error) or 'no memory for it'})"
        ) from None


def _common_size(sizes: Sequence[tuple[int, int]], names: Sequence[str], side: int) -> tuple[int, int]:
    """Width and height for all versions of a scene: none is enlarged.

    Raises:
        _UnfitError: their proportions differ by more than rounding.
    """
    smallest = min(sizes, key=max)
    for (width, height), name in zip(sizes, names, strict=True):
        scale = max(smallest) / max(width, height)
        if max(abs(width * scale - smallest[0]), abs(height * scale - smallest[1])) > 1.5:
            other = names[sizes.index(smallest)]
            raise _UnfitError(
                f"{name} has {width}x{height} pixels and {other} {smallest[0]}x{smallest[1]}; take pictures of whole "
                "scenes, as koala colorize and koala evaluate --geometry pad make them"
            )
    scale = min(1.0, side / max(smallest))
    return max(1, round(smallest[0] * scale)), max(1, round(smallest[1] * scale))


def _check_differences(names: Sequence[str], pictures: Sequence[NDArray | bytes]) -> None:
    """Refuse a scene of which two versions are one and the same: nobody could tell them apart.

    Raises:
        _UnfitError: there are such.
    """
    for (one, picture), (other, same) in combinations(zip(names, pictures, strict=True), 2):
        if np.array_equal(picture, same):
            raise _UnfitError(
                f"its pictures by {one} and {other} are the same (koala colorize copies photos in colour, unless it is "
                "told to --recolor)"
            )


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _joined(lightness: NDArray, ab: NDArray) -> Image.Image:
    rgb = color.lab_to_rgb(np.concatenate([lightness, ab], axis=-1))
    return Image.fromarray((rgb * 255).round().astype(np.uint8))


# ---------------------------------------------------------------- words


def _say(settings: BuildStudy, manifest: StudyManifest, sizes: Sequence[int]) -> None:
    """What was made, and what is to be done next."""
    labels = {picture.label for picture in manifest.pictures} - {""}
    print(
        f"{settings.dir}: {counted(len(manifest.scenes), 'scene')} by {', '.join(manifest.versions)}"
        + (f", of {counted(len(labels), 'label')}" if labels else "")
        + f"; each participant judges {settings.study.shown}"
    )
    low, high = min(sizes) / 1e3, max(sizes) / 1e3
    print(f"every picture is filled up to {high:.1f} kB, so that its size tells nothing; the smallest was {low:.1f} kB")
    for model, difference in manifest.made["lightness_difference"].items():
        print(f"{model} differs from the originals by {difference:.2f} in lightness (L*), median of the scenes", end="")
        if settings.lightness == "shared":
            print("; it was given theirs")
        elif difference > _TELLING:
            print("; people may see that. --lightness shared gives all versions the same")
        else:
            print()
    print(f"edit consent.*.md, study.toml and languages/ there, then: koala study serve {settings.dir}")

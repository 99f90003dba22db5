"""Evaluation protocols: finding them by name, the images they name, and the hash of all that scores depend on.

Each is a TOML file in koala/evaluation/protocols/ (or a user's own) with the settings of `EvaluationProtocol`.
"""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from koala.config.evaluation import EvaluationProtocol, ImageIds
from koala.config.fields import Location
from koala.config.load import load_toml
from koala.core.errors import UserError
from koala.core.progress import Progress
from koala.core.readers import read_text
from koala.data.sampler import seeded_permutation
from koala.data.shards import Shards

_FOLDER = Path(__file__).parent / "protocols"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")  # of pictures


def protocol_names() -> list[str]:
    """The names of koala's own protocols."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def find_protocol(name: str) -> EvaluationProtocol:
    """The protocol of that name, or in that TOML file.

    Raises:
        UserError: there is none, or its file is not valid.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = _FOLDER / f"{name}.toml"
        if not path.exists():
            raise UserError(f"there is no protocol {name}; known: {', '.join(protocol_names())}, or name a TOML file")
    found = load_toml(EvaluationProtocol, path)
    ids, reference = (
        replace(part, file=str(path.parent / part.file)) if part.file else part for part in (found.ids, found.reference)
    )
    about, departures = (" ".join(text.split()) for text in (found.about, found.departures))
    return replace(
        found, name=found.name or path.stem, about=about, departures=departures, ids=ids, reference=reference
    )


def override(protocol: EvaluationProtocol, **changes: Any) -> EvaluationProtocol:
    """A protocol with other settings, where they are not None; its name tells of those that differ."""
    others = {key: value for key, value in changes.items() if value not in (None, getattr(protocol, key))}
    name = ", ".join([protocol.name, *(f"{key} {value}" for key, value in others.items())])
    return replace(protocol, name=name, **others)


def choose_images(protocol: EvaluationProtocol, ids: Path | None, limit: int) -> EvaluationProtocol:
    """A protocol with a list of its images, and with some of them alone; its name tells of the latter.

    Args:
        protocol: which may leave its images open.
        ids: file with their names; None leaves them as they are.
        limit: how many are judged; 0 judges all.

    Raises:
        UserError: its photos are not the same pictures each time.
    """
    if protocol.geometry == "random_crop":
        raise UserError("random_crop is another picture each time; judge with --geometry crop")
    named = replace(protocol.ids, file=str(ids)) if ids is not None else protocol.ids
    if not limit:
        return replace(protocol, ids=named)
    reference = protocol.reference
    return replace(
        protocol,
        name=f"{protocol.name}, limit {limit}",
        ids=replace(named, limit=limit),
        reference=replace(reference, limit=limit) if reference != ImageIds() else reference,
    )


# ---------------------------------------------------------------- images


def image_names(ids: ImageIds, what: str) -> list[str] | None:
    """The images' names, sorted; None for all of the split.

    Args:
        ids: which images.
        what: is named in errors.

    Raises:
        UserError: the file is absent, or does not hold the images that it should.
    """
    if not (ids.pattern or ids.file):
        return None
    in_range = _in_range(ids, what) if ids.pattern else None
    found = _listed(Path(ids.file)) if ids.file else sorted(in_range or ())
    if in_range is not None and (strange := [name for name in found if name not in in_range]):
        span = f"{ids.pattern.format(ids.first)} to {ids.pattern.format(ids.last)}"
        raise UserError(
            f"{len(strange)} of the {len(found)} names in {ids.file} are not from {span}, such as {strange[0]}; "
            f"name the list of {what}"
        )
    if ids.count and len(found) != ids.count:
        remedy = f"{ids.file} names {len(found)}" if ids.file else "name the file that lists them with --ids FILE"
        raise UserError(f"{what} is a choice of {ids.count} images; {remedy}")
    if ids.sha256 and names_sha256(found) != ids.sha256:
        raise UserError(f"{ids.file or what}: the names' sha256 is {names_sha256(found)}, {what} asks for {ids.sha256}")
    return found


def _in_range(ids: ImageIds, what: str) -> set[str]:
    """The names that a pattern stands for."""
    try:
        return {ids.pattern.format(number) for number in range(ids.first, ids.last + 1)}
    except (LookupError, ValueError, AttributeError):
        raise UserError(
            f'{what}: ids.pattern = "{ids.pattern}" has no place for one number; write it as in "val_{{:08d}}"'
        ) from None


def _listed(path: Path) -> list[str]:
    """The names in a text file, sorted."""
    try:
        lines = read_text(path).splitlines()
    except (OSError, UserError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); --ids names a text file with an image's name a line"
        ) from None
    counts = Counter(image_stem(line.strip()) for line in lines if line.strip())
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise UserError(f"{path} names {twice[0]} more than once; name each image once")
    return sorted(counts)


def image_stem(name: str) -> str:
    """An image's name without folder and suffix."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def names_sha256(sorted_names: list[str]) -> str:
    """sha256 of the names, joined by line feeds."""
    return hashlib.sha256("\n".join(sorted_names).encode("utf-8", "surrogateescape")).hexdigest()


def select_samples(
    folder: Location, split: str, wanted: list[str], what: str, *, some: bool = False
) -> NDArray[np.bool_]:
    """Which samples of a split have the wanted names.

    Args:
        folder: of shards.
        split: "train" or "val".
        wanted: names without folder and suffix.
        what: the protocol, named in errors.
        some: whether it does where only some of them are there.

    Returns:
        `(N,)` bool, N the samples of the split.

    Raises:
        UserError: some are not there, or none, or a name stands for several samples.
    """
    shards = Shards.open(folder, split)
    found: dict[str, int] = dict.fromkeys(wanted, -1)
    with Progress(len(shards), f"looking for the images of {what}") as progress:
        for sample in range(len(shards)):
            source = shards.describe(sample).source
            name = image_stem(source)
            if found.get(name, -1) >= 0:
                first = shards.describe(found[name]).source
                raise UserError(
                    f"{first} and {source} in {folder} are both called {name}; {what} needs names that differ"
                )
            if name in found:
                found[name] = sample
            progress.advance(1)
    left = [name for name, sample in found.items() if sample < 0]
    if left and not (some and len(left) < len(wanted)):
        fewer = "" if some else "judge fewer with --limit, "
        raise UserError(
            f'{len(left)} of the {len(wanted)} images of {what} are not in {folder} (split "{split}"), such as '
            f"{min(left)}; write shards that hold them all, {fewer}or name another --split or --protocol"
        )
    keep = np.zeros(len(shards), np.bool_)
    keep[[sample for sample in found.values() if sample >= 0]] = True
    return keep


def draw_samples(shards: Shards, total: int, limit: int) -> NDArray[np.bool_]:
    """Which samples of a split are judged where a limit is set, drawn by a fixed seed.

    Args:
        shards: those that may be.
        total: N, samples of the split.
        limit: how many are drawn at the most.

    Returns:
        `(N,)` bool.
    """
    keep = np.zeros(total, np.bool_)
    keep[shards.numbers[seeded_permutation(len(shards), 0)[:limit]]] = True
    return keep


# ---------------------------------------------------------------- hashes


@dataclass(frozen=True)
class ProtocolHashes:
    """What tells one protocol from another.

    Attributes:
        sha256: of all that scores depend on.
        judging_sha256: the same but for what the network sees: two networks that are fed otherwise are judged alike.
        ids_sha256: of the images' names; empty where they are all of the split.
    """

    sha256: str
    judging_sha256: str
    ids_sha256: str


def protocol_hashes(protocol: EvaluationProtocol) -> ProtocolHashes:
    """The hashes of a protocol.

    Raises:
        UserError: its images are not to be had.
    """
    values = asdict(protocol)
    for key in ("name", "about", "departures"):
        del values[key]
    if protocol.judged == "pictures":  # as all were before there was a choice: their hashes stay
        del values["judged"]
    for key in ("ids", "reference"):
        ids = getattr(protocol, key)
        listed = image_names(ids, protocol.name)
        values[key] = (
            {"sha256": names_sha256(listed), "count": len(listed)} if listed is not None else {"count": ids.count}
        )
        if ids.limit:
            values[key]["limit"] = ids.limit
    judging = {key: value for key, value in values.items() if key != "lightness"}
    return ProtocolHashes(_hash(values), _hash(judging), values["ids"].get("sha256", ""))


def _hash(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

"""What a checkpoint folder holds, and finding, loading and replacing such folders.

    RUN/checkpoints/000040000/      named by the images seen
        model.safetensors           the network's weights, fp32
        training.pt                 optimizer and loss scaler
        checkpoint.json             the clock, the settings, the extractor's fingerprint, the files' sha256
    RUN/checkpoints/best.json       which one has the lowest validation loss

A folder is written under another name and renamed when it is whole.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from koala import config, extractor
from koala.errors import UserError
from koala.model import Colorizer, Network

_PART = ".part-"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk.

    Attributes:
        path: its folder.
        images_seen: the clock.
        settings: of the training.
        embedding_size: E of the network.
        extractor_sha256: fingerprint of the extractor's weights; empty without extractor.
        state: what else the training keeps: plain values.
    """

    path: Path
    images_seen: int
    settings: config.Train
    embedding_size: int
    extractor_sha256: str
    state: dict[str, Any]

    def network(self) -> Network:
        """The trained network, in evaluation mode on the CPU."""
        network = Network(self.embedding_size)
        network.load_state_dict(load_file(self.path / "model.safetensors"))
        return network.eval()

    def training(self) -> dict[str, Any]:
        """States of the optimizer and the loss scaler."""
        return torch.load(self.path / "training.pt", map_location="cpu", weights_only=True)


def save(
    folder: Path,
    *,
    images_seen: int,
    settings: config.Train,
    network: Network,
    extractor_sha256: str,
    training: dict[str, Any],
    state: dict[str, Any],
    best: bool,
    keep: int,
) -> Path:
    """Write a checkpoint below `folder`, whole or not at all, and remove those that are too old.

    Args:
        folder: the run's folder of checkpoints.
        images_seen: the clock, which names it.
        settings: of the training.
        network: whose weights are kept.
        extractor_sha256: fingerprint of the extractor.
        training: states of optimizer and loss scaler.
        state: plain values that the training keeps.
        best: whether its validation loss is the lowest so far; it then becomes the best.
        keep: newest checkpoints that stay, besides the best.

    Returns:
        The checkpoint's folder.
    """
    path = folder / f"{images_seen:012d}"
    part = folder / f"{_PART}{path.name}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, part / "model.safetensors")
    torch.save(training, part / "training.pt")
    files = sorted(part.iterdir())
    description = {
        "images_seen": images_seen,
        "settings": config.dump(settings),
        "embedding_size": network.fusion.embedding_size,
        "extractor_sha256": extractor_sha256,
        "state": state,
        "sha256": {file.name: _sha256(file) for file in files},
    }
    (part / "checkpoint.json").write_text(json.dumps(description, indent=1), "utf-8")
    for file in (*files, part / "checkpoint.json"):
        _sync(file)
    shutil.rmtree(path, ignore_errors=True)
    part.rename(path)
    _sync(folder)
    if best:
        _mark_best(path)
    _prune(folder, keep)
    return path


def newest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint below a run's folder of checkpoints; a damaged one is passed over and named."""
    for path in reversed(_checkpoints(folder)):
        try:
            return read(path)
        except UserError as error:
            print(f"{error}; the one before is taken")
    return None


def find(path: Path) -> Checkpoint:
    """The checkpoint at `path`, or the best one (else the newest) of the run at `path`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if (path / "checkpoint.json").exists():
        return read(path)
    folder = path / "checkpoints"
    if (best := _best(folder)) is not None:
        return read(best)
    found = newest(folder)
    if found is None:
        raise UserError(f"{path} holds no checkpoint; name a run folder or a checkpoint folder of koala train")
    return found


def read(path: Path) -> Checkpoint:
    """Read a checkpoint's description and check its files.

    Raises:
        UserError: it is not whole.
    """
    try:
        description = json.loads((path / "checkpoint.json").read_bytes())
        for name, sha256 in description["sha256"].items():
            if _sha256(path / name) != sha256:
                raise UserError(f"{path / name} is damaged: its sha256 differs from checkpoint.json")
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a whole checkpoint ({error})") from None
    return Checkpoint(
        path=path,
        images_seen=description["images_seen"],
        settings=config.validate(config.Train, description["settings"], f"{path}/checkpoint.json"),
        embedding_size=description["embedding_size"],
        extractor_sha256=description["extractor_sha256"],
        state=description["state"],
    )


def build_extractor(settings: config.Train, expected_sha256: str | None = None) -> extractor.Extractor | None:
    """The extractor that a training was made with.

    Raises:
        UserError: its weights are not to be had, or are not those of the training.
    """
    built = extractor.build(settings.extractor, settings.seed)
    if expected_sha256 is not None and built is not None and extractor.fingerprint(built) != expected_sha256:
        raise UserError(
            f"the weights of the extractor {settings.extractor.name} are not those that the network was trained with; "
            "name the file of then with --extractor.weights FILE"
        )
    return built


def load_model(path: str | Path) -> Colorizer:
    """Load a trained network with its extractor, ready to colour.

    Args:
        path: run folder (its best checkpoint) or checkpoint folder.

    Returns:
        A module from `(B, 1, H, W)` lightness to `(B, 2, H, W)` ab, on the CPU; move it with `.to(device)`.

    Raises:
        UserError: there is no whole checkpoint, or the extractor's weights are not to be had.
    """
    return colorizer(find(Path(path)))


def colorizer(found: Checkpoint) -> Colorizer:
    """A checkpoint's network joined with its extractor."""
    built = build_extractor(found.settings, found.extractor_sha256)
    model = Colorizer(found.network(), built, found.settings.data.size)
    return model.eval().to(memory_format=torch.channels_last)


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    return sorted(path for path in folder.glob("*") if path.name.isdigit())


def _best(folder: Path) -> Path | None:
    try:
        return folder / json.loads((folder / "best.json").read_bytes())["checkpoint"]
    except (OSError, ValueError, KeyError):
        return None


def _mark_best(path: Path) -> None:
    part = path.parent / "best.json.part"
    part.write_text(json.dumps({"checkpoint": path.name}), "utf-8")
    part.replace(path.parent / "best.json")


def _prune(folder: Path, keep: int) -> None:
    best = _best(folder)
    for path in _checkpoints(folder)[:-keep]:
        if path != best:
            shutil.rmtree(path)
    for part in folder.glob(f"{_PART}*"):
        shutil.rmtree(part)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

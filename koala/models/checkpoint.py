"""What a checkpoint folder holds, and finding, loading and replacing such folders.

    RUN/checkpoints/000040000/      named by the images seen
        model.safetensors           the network's weights, fp32: their moving average, where there is one
        training.pt                 optimizer, loss scaler, and the weights themselves where the model is their average
        checkpoint.json             the clock, the settings, the extractor's fingerprint, the files' sha256
    RUN/checkpoints/validation.json when it was last validated, and which checkpoint has the lowest loss

Folders and files are written under another name and renamed when they are whole.
"""

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import torch as safetensors
from torch import Tensor
from torch.utils._pytree import tree_map

from koala.config.load import to_dict, validate
from koala.config.models import Preset
from koala.config.training import TrainSettings
from koala.core.atomic_io import sha256, write_atomic
from koala.core.errors import UserError
from koala.core.version import __version__
from koala.models import extractor, hub
from koala.models.build import blank_network
from koala.models.network import ColorNetwork

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
        presets: ways in which its colours can look, by name; the first one is taken where none is named.
    """

    path: Path
    images_seen: int
    settings: TrainSettings
    embedding_size: int
    extractor_sha256: str
    state: dict[str, Any]
    presets: dict[str, Preset] = field(default_factory=dict)

    @property
    def weights_sha256(self) -> str:
        """Of the file of weights."""
        return sha256(self.path / "model.safetensors")

    def network(self) -> ColorNetwork:
        """The trained network, in evaluation mode on the CPU.

        Raises:
            UserError: its weights cannot be read, or are those of another network.
        """
        path = self.path / "model.safetensors"
        network = blank_network(self.settings, self.embedding_size)
        read = extractor.read_tensors(path).items()
        weights = {name: weight.float() if weight.is_floating_point() else weight for name, weight in read}
        try:
            network.load_state_dict(weights, assign=True)
        except RuntimeError:
            raise UserError(f"{path} holds the weights of another network; name another checkpoint") from None
        if not all(torch.isfinite(weight).all() for weight in weights.values()):
            raise UserError(f"{path} holds weights that are not finite; name another checkpoint")
        return network.eval()

    def training(self) -> dict[str, Any]:
        """States of the optimizer and the loss scaler.

        Raises:
            UserError: they cannot be read.
        """
        return extractor.read_tensors(self.path / "training.pt")

    def facts(self) -> dict[str, str]:
        """What others are told of the network, in a word each."""
        settings = self.settings
        return {
            "koala": __version__,
            "trained_at": str(settings.data.size),
            "geometry": settings.data.geometry,
            "lightness": settings.data.lightness,
            "network": settings.network.name,
            "extractor": settings.extractor.name,
            "objective": settings.objective.name,
            "images_seen": str(self.images_seen),
        }


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint will hold, in memory.

    Attributes:
        images_seen: the clock, which names it.
        settings: of the training.
        weights: of the network.
        embedding_size: E of the network.
        extractor_sha256: fingerprint of the extractor.
        training: states of optimizer and loss scaler.
        state: plain values that the training keeps.
        presets: by name.
    """

    images_seen: int
    settings: TrainSettings
    weights: dict[str, Tensor]
    embedding_size: int
    extractor_sha256: str
    training: dict[str, Any]
    state: dict[str, Any]
    presets: dict[str, Preset] = field(default_factory=dict)


class AsyncSaver:
    """Writes checkpoints while the training goes on, one at a time: it waits for nothing but the copy to memory.

    Args:
        folder: the run's folder of checkpoints.
        keep: newest checkpoints that stay, besides the best.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[Path] | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Copy the snapshot's tensors and begin to write them, once the checkpoint before is written.

        Raises:
            OSError: the checkpoint before could not be written.
        """
        self.wait()
        copied = replace(snapshot, weights=_copied(snapshot.weights), training=_copied(snapshot.training))
        self._pending = self._writer.submit(save_checkpoint, self._folder, copied, self._keep)

    def wait(self) -> None:
        """Wait until the newest checkpoint is on the disk.

        Raises:
            OSError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def failed(self) -> bool:
        """Whether the newest checkpoint could not be written; `wait` then raises the reason."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def close(self) -> None:
        """Let what is being written become whole; its errors are passed over."""
        self._writer.shutdown()


def save_checkpoint(folder: Path, snapshot: Snapshot, keep: int) -> Path:
    """Write a checkpoint below `folder`, whole or not at all, and remove those that are too old.

    Args:
        folder: the run's folder of checkpoints.
        snapshot: what it holds.
        keep: newest checkpoints that stay, besides the best.

    Returns:
        The checkpoint's folder.
    """
    path = _path(folder, snapshot.images_seen)
    _write(path, _files(snapshot, {"training.pt": _pickled(snapshot.training)}))
    _prune(folder, snapshot.images_seen, keep)
    return path


def publish_weights(found: Checkpoint, path: Path) -> None:
    """Write a checkpoint for others to colour with: the weights alone, in half precision, and a card.

    Args:
        found: the checkpoint.
        path: the folder to write; what was there goes, but for a card, which its owner may have gone on with.
    """
    halves = {name: halved(weight) for name, weight in found.network().state_dict().items()}
    card = path / "README.md"
    text = card.read_bytes() if card.exists() else hub.model_card(found.facts()).encode()
    _write(path, {**public_files(found, halves), card.name: text})


def halved(weight: Tensor) -> Tensor:
    """A weight in half precision; counts, and what is beyond its range (65,504), as they are."""
    half = weight.half()
    return half if weight.is_floating_point() and half.isfinite().all() else weight


def public_files(found: Checkpoint, weights: dict[str, Tensor]) -> dict[str, bytes]:
    """A checkpoint's files with these weights alone, no place of any file, and no command, which may hold a secret."""
    settings = found.settings
    extractor, objective = settings.extractor, settings.objective
    settings = replace(
        settings,
        init=Path(settings.init).name,
        run=None,
        notify="",
        data=replace(settings.data, shards=Path(settings.data.shards.name)),
        extractor=replace(extractor, weights=_no_file(extractor.weights), cache=False),
        objective=replace(objective, perceptual_weights=_no_file(objective.perceptual_weights)),
    )
    return _files(
        Snapshot(
            found.images_seen, settings, weights, found.embedding_size, found.extractor_sha256, {}, {}, found.presets
        ),
        {},
    )


def _no_file(weights: str) -> str:
    """Which weights, without their place."""
    return weights if weights in ("pretrained", "random") else "pretrained"


def _files(snapshot: Snapshot, more: Mapping[str, bytes]) -> dict[str, bytes]:
    """What a checkpoint's files hold, by their names.

    Args:
        snapshot: whose weights and description they are.
        more: names and bytes of further files.
    """
    weights = safetensors.save({name: weight.contiguous() for name, weight in snapshot.weights.items()})
    files = {"model.safetensors": weights, **more}
    description = _Description(
        images_seen=snapshot.images_seen,
        settings=to_dict(snapshot.settings),
        embedding_size=snapshot.embedding_size,
        extractor_sha256=snapshot.extractor_sha256,
        state=snapshot.state,
        presets=snapshot.presets,
        sha256={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    return {**files, "checkpoint.json": json.dumps(asdict(description), indent=1).encode()}


def _write(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a checkpoint's folder, whole or not at all.

    Args:
        path: the folder.
        files: names and bytes.
    """
    path = path.resolve()  # of a link, the folder is replaced
    part = path.with_name(f"{_PART}{path.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for name, data in files.items():
            (part / name).write_bytes(data)
            _sync(part / name)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)  # on a full disk, half a checkpoint is in the way
        raise
    _sync(part)
    old = path.with_name(f"{_PART}old-{path.name}")
    shutil.rmtree(old, ignore_errors=True)  # of a command that was stopped between the two below
    if path.exists():  # a training's is damaged, or it would have been gone on from
        path.rename(old)
    part.rename(path)
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _copied(values: Any) -> Any:
    """Nested values whose tensors are copies on the CPU."""
    return tree_map(lambda value: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value, values)


@dataclass(frozen=True)
class ValidationRecord:
    """What is known of a run's validations.

    Attributes:
        images_seen: the clock at the last one.
        best_images_seen: the clock at the one with the lowest loss, which names its checkpoint.
        best_loss: the lowest loss.
    """

    images_seen: int
    best_images_seen: int
    best_loss: float


def save_validation(folder: Path, validation: ValidationRecord) -> None:
    """Remember when a run was last validated, and its best checkpoint."""
    write_atomic(folder / "validation.json", json.dumps(asdict(validation)).encode())


def read_validation(folder: Path) -> ValidationRecord | None:
    """What is known of a run's validations; none before the first."""
    try:
        return TypeAdapter(ValidationRecord).validate_json((folder / "validation.json").read_bytes())
    except (OSError, ValidationError):
        return None


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint below a run's folder of checkpoints; a damaged one is passed over and named."""
    for path in reversed(_checkpoints(folder)):
        try:
            return read_checkpoint(path)
        except UserError as error:
            print(f"{error}; the one before is taken", file=sys.stderr)
    return None


def find_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at `path`, or the best one (else the newest) of the run at `path`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if (path / "checkpoint.json").exists():
        return read_checkpoint(path)
    folder = path / "checkpoints"
    validation = read_validation(folder)
    if validation is not None and (best := _path(folder, validation.best_images_seen)).exists():
        return read_checkpoint(best)
    found = latest_checkpoint(folder)
    if found is None:
        raise UserError(f"{path} holds no checkpoint; name a run folder or a checkpoint folder of koala train")
    return found


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint's description and check its files.

    Raises:
        UserError: it is not whole.
    """
    try:
        description = TypeAdapter(_Description).validate_json((path / "checkpoint.json").read_bytes())
        if "model.safetensors" not in description.sha256:
            raise UserError(f"{path} holds no weights (model.safetensors); name another checkpoint")
        damaged = [name for name, expected in description.sha256.items() if sha256(path / name) != expected]
    except OSError as error:
        raise UserError(f"{path} is not a whole checkpoint: {error.strerror}: {error.filename}") from None
    except ValidationError:
        raise UserError(f"{path / 'checkpoint.json'} is damaged; name another checkpoint") from None
    if damaged:
        raise UserError(f"{path / damaged[0]} is damaged: its sha256 differs from checkpoint.json")
    return Checkpoint(
        path=path,
        images_seen=description.images_seen,
        settings=validate(TrainSettings, description.settings, f"{path}/checkpoint.json", quiet=True),
        embedding_size=description.embedding_size,
        extractor_sha256=description.extractor_sha256,
        state=description.state,
        presets=description.presets,
    )


@dataclass(frozen=True)
class _Description:
    """checkpoint.json."""

    images_seen: int
    settings: dict[str, Any]
    embedding_size: int
    extractor_sha256: str
    state: dict[str, Any]
    sha256: dict[str, str]
    presets: dict[str, Preset] = field(default_factory=dict)


def _path(folder: Path, images_seen: int) -> Path:
    return folder / f"{images_seen:012d}"


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    return sorted(path for path in folder.glob("*") if path.name.isdigit())


def _prune(folder: Path, images_seen: int, keep: int) -> None:
    """Remove old checkpoints, but the best, and newer ones: those were not gone on from, for they are damaged."""
    validation = read_validation(folder)
    best = _path(folder, validation.best_images_seen) if validation is not None else None
    current = _path(folder, images_seen)
    kept = [path for path in _checkpoints(folder) if path <= current][-keep:]
    for path in _checkpoints(folder):
        if path not in kept and path != best:
            shutil.rmtree(path)
    for part in folder.glob(f"{_PART}*"):
        shutil.rmtree(part)


def _pickled(states: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(states, buffer)
    return buffer.getvalue()


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk; Windows opens no folders."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Models by name: the built-in one, one in a folder or on the Hugging Face hub; and such a model as a module."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelCard, ModelHubMixin

from koala.core.atomic_io import write_atomic
from koala.core.errors import UserError
from koala.models import extractor, hub
from koala.models.checkpoint import Checkpoint, find_checkpoint, public_files
from koala.models.network import Colorizer

PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""The built-in model."""

BUILT_IN = "builtin"  # its name where models are named


class PretrainedColorizer(Colorizer, ModelHubMixin):
    """A `Colorizer` that knows its checkpoint: what `load_model` gives.

    `save_pretrained(FOLDER)` and `push_to_hub("USER/NAME")` keep it for others, with its weights as they are and a
    card; `koala.load_model` and `from_pretrained` take it from there.

    Args:
        found: its checkpoint.
        built: the extractor; without one, embeddings must be given where the network was trained with them.
    """

    def __init__(self, found: Checkpoint, built: extractor.Extractor | None) -> None:
        super().__init__(found.network(), built, found.settings.data.size)
        self.found = found
        self.presets = found.presets
        self.preset = next(iter(found.presets.values()), self.preset)
        self._hub_mixin_config = None  # checkpoint.json says all
        self.eval().to(memory_format=torch.channels_last)

    @classmethod
    def of(cls, found: Checkpoint, weights: str = "") -> Self:
        """A checkpoint's network joined with its extractor; see `load_model`."""
        return cls(found, _extractor(found, weights))

    @classmethod
    def from_pretrained(  # their settings go through as they are
        cls, pretrained_model_name_or_path: str | Path, *, weights: str = "", **options: Any
    ) -> Self:
        """Load a model from a folder, or from the Hugging Face hub.

        Args:
            pretrained_model_name_or_path: see `load_model`.
            weights: file of the extractor's weights; by default where the training found them.
            options: huggingface_hub's `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`.

        Raises:
            UserError: as `load_model`.
        """
        return cls.of(find_model(pretrained_model_name_or_path, **options), weights)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Put the model on the Hugging Face hub.

        Args:
            repo_id: USER/NAME.
            options: huggingface_hub's `private`, `token`, `commit_message`, `branch`, `create_pr`, ...

        Returns:
            The commit's address.

        Raises:
            UserError: nobody is logged in, or may not write there, or the hub cannot be reached.
        """
        with hub.explain_push_error(repo_id):
            return super().push_to_hub(repo_id, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        for name, data in public_files(self.found, self.network.state_dict()).items():
            write_atomic(save_directory / name, data)

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """The card that lies beside the weights."""
        return ModelCard(hub.model_card(self.found.facts()))


def find_model(name_or_path: str | Path, **options: Any) -> Checkpoint:
    """The checkpoint of a model, wherever one is named.

    Args:
        name_or_path: see `load_model`.
        options: for the hub, see `hub.resolve_model`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    is_built_in = str(name_or_path) == BUILT_IN and not Path(name_or_path).exists()
    return find_checkpoint(PRETRAINED if is_built_in else hub.resolve_model(name_or_path, **options))


def load_model(name_or_path: str | Path | None = None, weights: str = "") -> PretrainedColorizer:
    """Load a trained network with its extractor, ready to colour.

    Only tensors and plain values are read: a stranger's file cannot run code.

    Args:
        name_or_path: run folder (its best checkpoint), checkpoint folder, exported folder, "builtin", or a name
            USER/NAME on the Hugging Face hub; a path that exists is taken before a name. By default the built-in
            model (koala/pretrained/README.md).
        weights: file of the extractor's weights; by default where the training found them.

    Returns:
        A module from `(B, 1, H, W)` lightness to `(B, 2, H, W)` ab on the network's scale (see
        `koala.imaging.color`), H and W multiples of its `network.stride`, on the CPU; move it with
        `.to(device)`. `koala.colorize` does all around it.

    Raises:
        UserError: there is no whole checkpoint, or the extractor's weights are not to be had, or are others.
    """
    return PretrainedColorizer.from_pretrained(PRETRAINED if name_or_path is None else name_or_path, weights=weights)


def _extractor(found: Checkpoint, weights: str) -> extractor.Extractor | None:
    """The extractor that a network was trained with; none where it takes no embedding, or holds one itself."""
    if not found.embedding_size:
        return None
    settings = found.settings.extractor
    built = extractor.build_extractor(replace(settings, weights=weights or settings.weights), found.settings.seed)
    if built is not None and extractor.weights_sha256(built) != found.extractor_sha256:
        raise UserError(
            f"the weights of {settings.name} are not those that {found.path} was trained with; "
            "name their file with --extractor.weights FILE"
        )
    return built

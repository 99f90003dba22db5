"""Networks that judge: files of their formats with random weights, against the libraries that define the metrics."""

from pathlib import Path

import numpy as np
import pytest
import torch

from koala.config.models import ExtractorSettings
from koala.core.errors import UserError
from koala.evaluation import features
from koala.evaluation.features import SkippedMetric
from koala.models import extractor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), np.uint8))


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    """Weights that other programs left on this machine play no part."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory) -> Path:
    """A file in the format of pt_inception-2015-12-05: torch-fidelity's own network, with random weights."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    patched = pytest.MonkeyPatch()
    patched.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    patched.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = theirs.FeatureExtractorInceptionV3("random", ["2048"])
    patched.undo()
    torch.save(network.state_dict(), path)
    return path


def test_fids_inception_is_torch_fidelitys(inception_file, pictures):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    judge = features.build_feature_network("inception_2015", "own", inception_file, CPU)
    theirs = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(inception_file))
    found = judge.extract(pictures)
    assert (judge.frechet, judge.kernel, judge.size) == ("fid", "kid", 2048)
    assert torch.equal(found, theirs(pictures)[0])
    assert found.shape == (3, 2048) and found.std() > 0
    assert not judge.published, "random weights are not the published ones"


@pytest.fixture(scope="module")
def torchvision_file(tmp_path_factory) -> Path:
    """A file in the format of inception_v3_google: torchvision's own network, with random weights."""
    import torchvision

    path = tmp_path_factory.mktemp("weights") / "inception_v3.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.inception_v3(weights=None, init_weights=False)
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["own", "ddcolor"])
def test_torchvisions_inception_is_torchvisions(torchvision_file, pictures, normalization):
    """CT2 and DDColor bring pictures in 0..1 by x' = x / 2 + 1 / 2, then (std / 0.5) x' + (mean - 0.5) / 0.5."""
    import torchvision

    network = torchvision.models.inception_v3(weights=None, init_weights=False, transform_input=False)
    network.load_state_dict(torch.load(torchvision_file, weights_only=True))
    network.eval().fc = torch.nn.Identity()
    fed = torch.nn.functional.interpolate(pictures / 255, (299, 299), mode="bilinear")
    if normalization == "ddcolor":
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        fed = (fed * 0.5 + 0.5) * (std / 0.5) + (mean - 0.5) / 0.5
    else:
        fed = fed * 2 - 1
    with torch.no_grad():
        expected = network(fed)
    judge = features.build_feature_network("inception_torchvision", normalization, torchvision_file, CPU)
    assert judge.frechet == "fid_torchvision"
    assert torch.allclose(judge.extract(pictures), expected, rtol=1e-3, atol=1e-4 * expected.abs().max())


def test_efficientnets_features_are_never_called_fid(pictures):
    judge = features.build_feature_network("tf_efficientnet_lite0", "own", None, CPU)
    assert (judge.frechet, judge.kernel) == ("fd_efficientnet_lite0", "kd_efficientnet_lite0")
    assert judge.extract(pictures).shape == (3, judge.size) == (3, 1280)
    grey = pictures[:, :1]
    pooled = extractor.build_extractor(ExtractorSettings("tf_efficientnet_lite0", "pooled"))
    expected = pooled(grey / 127.5 - 1)
    assert torch.allclose(judge.extract(grey.expand(-1, 3, -1, -1)), expected, atol=1e-5)


@pytest.fixture(scope="module")
def alexnet_file(tmp_path_factory) -> Path:
    """A file in the format of alexnet-owt: torchvision's own network, with random weights."""
    import torchvision

    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    return path


def test_lpips_is_the_lpips_packages(alexnet_file, pictures, tmp_path, monkeypatch):
    """The package finds the same file where it looks for it itself."""
    import lpips

    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    (folder / "alexnet-owt-7be5be79.pth").write_bytes(alexnet_file.read_bytes())
    with pytest.warns(UserWarning, match=r"pretrained|weights"):  # of torchvision, about how the package calls it
        theirs = lpips.LPIPS(net="alex", verbose=False)
    other = pictures.flip(0)
    judge = features.build_lpips(alexnet_file, CPU)
    expected = theirs(pictures / 127.5 - 1, other / 127.5 - 1).flatten()
    assert torch.allclose(judge.distance(pictures, other), expected, atol=1e-6)
    assert judge.distance(pictures, pictures).abs().max() == 0
    assert not judge.published
    assert features.build_lpips(None, CPU).sha256 == judge.sha256, "and koala finds it there, too"


def test_what_is_not_at_hand_is_left_out():
    with pytest.raises(
        SkippedMetric, match=r"bring the file weights-inception-2015-12-05-6726825d.pth here .* --inception"
    ):
        features.build_feature_network("inception_2015", "own", None, CPU)
    with pytest.raises(SkippedMetric, match=r"bring the file inception_v3_google-1a9a5a14.pth here"):
        features.build_feature_network("inception_torchvision", "ddcolor", None, CPU)
    with pytest.raises(SkippedMetric, match=r"bring the file alexnet-owt-7be5be79.pth here and name it with --lpips"):
        features.build_lpips(None, CPU)


@pytest.mark.parametrize(("package", "network"), [("torch_fidelity", "inception_2015"), ("lpips", "lpips")])
def test_packages_that_are_not_installed_are_named(package, network, inception_file, monkeypatch):
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SkippedMetric, match=r'is not installed; pip install .*\[eval\]"$'):
        if network == "lpips":
            features.build_lpips(inception_file, CPU)
        else:
            features.build_feature_network(network, "own", inception_file, CPU)


@pytest.mark.parametrize("network", ["inception_2015", "inception_torchvision", "lpips"])
def test_a_file_that_was_named_must_be_the_right_one(network, tmp_path):
    def load(path: Path):
        return (
            features.build_lpips(path, CPU)
            if network == "lpips"
            else features.build_feature_network(network, "own", path, CPU)
        )

    flag = "--lpips" if network == "lpips" else "--inception"
    with pytest.raises(UserError, match=rf"nowhere.pth does not exist; {flag} names a file of weights"):
        load(tmp_path / "nowhere.pth")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=rf"other.pth does not hold the weights of .*; {flag} names the file"):
        load(tmp_path / "other.pth")


def test_a_pickle_cannot_run_code(strangers_pickle):
    with pytest.raises(UserError, match="holds no weights"):
        features.build_feature_network("inception_2015", "own", strangers_pickle, CPU)

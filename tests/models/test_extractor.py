"""The frozen extractor: its input, its output, and that it stays as it is."""

import pytest
import torch

from koala.config.models import ExtractorSettings as Settings
from koala.core.errors import UserError
from koala.models import extractor

LITE = Settings("tf_efficientnet_lite0")
RANDOM = Settings("tf_efficientnet_lite0", weights="random")


@pytest.fixture(scope="module")
def lite():
    return extractor.build_extractor(LITE)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_packaged_weights_classify(lite):
    """The weights are in their places: a photograph of a cat is one of ImageNet's five cats, 281 to 285."""
    from skimage import data

    from koala.imaging import color

    lightness = color.to_lightness(torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None])
    assert lite(lightness[..., :, 50:350]).argmax() in range(281, 286)


@pytest.mark.parametrize(("features", "size"), [("logits", 1000), ("pooled", 1280)])
def test_the_embedding_size_is_taken_from_the_model(features, size):
    built = extractor.build_extractor(Settings("tf_efficientnet_lite0", features=features, weights="random"))
    assert built.embedding_size == size
    assert built(torch.zeros(2, 1, 40, 56)).shape == (2, size)


def test_it_stays_frozen_in_training(lite):
    holder = torch.nn.ModuleList([lite]).train()
    before = state(lite)
    lightness = torch.rand(2, 1, 32, 32, requires_grad=True)
    assert not lite(lightness).requires_grad
    assert not any(module.training for module in lite.modules())
    assert not any(parameter.requires_grad for parameter in holder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in lite.state_dict().items())


def test_a_picture_does_not_depend_on_its_batch(lite):
    pictures = torch.rand(3, 1, 32, 32) * 2 - 1
    assert torch.allclose(lite(pictures)[1], lite(pictures[1:2])[0], atol=1e-4)


def test_batch_statistics_reproduce_the_reports_mistake():
    wrong = extractor.build_extractor(Settings("tf_efficientnet_lite0", weights="random", batch_statistics=True))
    pictures = torch.rand(3, 1, 32, 32) * 2 - 1
    assert not torch.allclose(wrong(pictures)[1], wrong(pictures[1:])[0], atol=1e-4)


def test_the_models_own_normalisation(lite):
    """With mean = std = 0.5 lightness enters as it is, three times, at 224 x 224."""
    seen = []
    handle = lite.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    lite(torch.full((1, 1, 16, 16), 0.25))
    handle.remove()
    assert seen[0].shape == (1, 3, 224, 224)
    assert torch.allclose(seen[0], torch.tensor(0.25), atol=1e-6)


def test_random_weights_follow_the_seed():
    first, same, other = (extractor.weights_sha256(extractor.build_extractor(RANDOM, seed)) for seed in (1, 1, 2))
    assert first == same != other


def test_a_weights_file_is_taken(tmp_path):
    from safetensors.torch import save_file

    model = extractor.build_extractor(RANDOM, seed=5)
    weights = {name: value.contiguous() for name, value in model.model.state_dict().items()}
    save_file(weights, tmp_path / "weights.safetensors")
    torch.save(weights, tmp_path / "weights.pth")
    for name in ("weights.safetensors", "weights.pth"):
        taken = extractor.build_extractor(Settings("tf_efficientnet_lite0", weights=str(tmp_path / name)))
        assert extractor.weights_sha256(taken) == extractor.weights_sha256(model)


def test_none_is_none():
    assert extractor.build_extractor(Settings("none")) is None


def test_weights_that_cannot_be_fetched(monkeypatch):
    import huggingface_hub

    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_network)
    with pytest.raises(UserError) as error:
        extractor.build_extractor(Settings("inception_resnet_v2"))
    assert "huggingface.co/timm/inception_resnet_v2.tf_in1k/resolve/main/model.safetensors" in str(error.value)
    assert "--extractor.weights FILE" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings("efficientnet_lite"), "timm has no model efficientnet_lite; did you mean"),
        (Settings("tf_efficientnet_lite0", weights="nowhere.pth"), "nowhere.pth does not exist"),
        (Settings("tf_efficientnet_lite0", weights=__file__), "holds no weights that can be read"),
    ],
)
def test_errors_name_the_remedy(settings, message):
    with pytest.raises(UserError, match=message):
        extractor.build_extractor(settings)


def test_a_pickle_cannot_run_code(strangers_pickle):
    with pytest.raises(UserError, match="holds no weights"):
        extractor.build_extractor(Settings("tf_efficientnet_lite0", weights=str(strangers_pickle)))


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not those of tf_efficientnet_lite0"):
        extractor.build_extractor(Settings("tf_efficientnet_lite0", weights=str(tmp_path / "other.pth")))

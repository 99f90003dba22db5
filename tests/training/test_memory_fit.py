"""How many pieces of a batch fit a GPU's memory."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from koala.config.data import DataSettings
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.models import checkpoint
from koala.training import trainer
from koala.training.components import build_components
from koala.training.memory_fit import fewest_pieces, with_fitting_pieces
from tests.runs import scalars


@pytest.mark.parametrize(("room", "pieces"), [(64, 1), (50, 1), (49, 2), (24, 5), (9, 10), (1, 50)])
def test_a_batch_of_50_is_cut_into_the_fewest_equal_pieces(room, pieces):
    """Divisors of 50 are 1, 2, 5, 10, 25, 50; a piece has at most as many images as there is room for."""
    assert fewest_pieces(50, lambda images: images <= room) == pieces


def test_what_never_fits_is_said():
    with pytest.raises(UserError, match=r"a single image does not fit the GPU's memory; choose a smaller --data.size"):
        fewest_pieces(4, lambda images: False)


@pytest.fixture
def settings(shard_folder, tmp_path) -> TrainSettings:
    data = DataSettings(shard_folder, size=16, threads=2)
    tried = TrainSettings(data=data, extractor=ExtractorSettings("none"), batch_size=4, epochs=0.2, log_every=1)
    return replace(tried, gradient_accumulation_steps=0, run=tmp_path / "run")


def test_on_the_cpu_a_batch_stays_whole(settings, tmp_path):
    trainer.train(replace(settings, device="cpu"))
    trainer.train(replace(settings, device="cpu", gradient_accumulation_steps=1, run=tmp_path / "one"))
    assert scalars(settings.run, "loss/train") == scalars(tmp_path / "one", "loss/train")
    assert checkpoint.find_checkpoint(settings.run).settings.gradient_accumulation_steps == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_trying_leaves_the_weights_alone(settings):
    accelerator = Accelerator()
    components = build_components(settings, accelerator)
    before = {name: value.clone() for name, value in components.network.state_dict().items()}
    assert with_fitting_pieces(settings, components, accelerator).gradient_accumulation_steps == 1
    after = components.network.state_dict()
    assert all(torch.equal(value.cpu(), before[name]) for name, value in after.items())
    assert all(weight.grad is None for weight in components.network.parameters())

import pytest
import torch

from fastgan.training import TrainConfig, Trainer


@pytest.fixture
def images():
    """40 images of 16x16 in one colour each."""
    return torch.arange(0, 240, 6, dtype=torch.uint8)[:, None, None, None].expand(40, 1, 16, 16).contiguous()


@pytest.fixture
def trainer(tmp_path, images):
    """Makes trainers of tiny networks on tiny images."""

    def make(out="run", data=images, networks=(None, None), **options):
        config = {"steps": 4, "batch_size": 8, "latent_dim": 6, "width": 2, "device": "cpu", "tensorboard": False}
        return Trainer(TrainConfig(out=str(tmp_path / out), **config | options), *networks, data=data)

    return make

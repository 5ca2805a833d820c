import pytest
import torch

import fastgan
from fastgan.data import to_uint8
from fastgan.errors import UserError
from fastgan.training import TrainConfig, Trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generation") / "run"
    images = torch.randint(0, 256, (20, 3, 16, 20), dtype=torch.uint8)
    config = TrainConfig(out=str(folder), steps=3, batch_size=4, latent_dim=5, width=2, device="cpu")
    Trainer(config, data=images).train()
    return folder


def test_images(run):
    gan = fastgan.load(run)
    images = gan.generate(5)
    assert images.shape == (5, 3, 16, 20) and images.dtype == torch.float32 and images.is_contiguous()
    assert images.abs().max() <= 1 and images.std() > 0
    assert (gan.image_size, gan.channels, gan.latent_shape, gan.step) == ((16, 20), 3, (5,), 3)
    assert not gan.generator.training and "16x20" in repr(gan)


def test_same_seed_same_images(run):
    gan, again = fastgan.load(run), fastgan.load(str(run))
    images = gan.generate(10, seed=1)
    assert torch.equal(images, again.generate(10, seed=1))
    assert not torch.equal(images, gan.generate(10, seed=2))
    for batch_size in (1, 3, 10, 64):
        torch.testing.assert_close(gan.generate(10, seed=1, batch_size=batch_size), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(gan.generate(4, seed=1), images[:4], rtol=0, atol=1e-5)


def test_leaves_the_global_generator_alone(run):
    gan = fastgan.load(run)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    gan.generate(3)
    assert torch.equal(torch.rand(3), expected)


def test_scores_are_probabilities_of_each_image_alone(run):
    gan = fastgan.load(run)
    images = gan.generate(6)
    scores = gan.score(images)
    assert scores.shape == (6,) and scores.dtype == torch.float32
    assert ((scores > 0) & (scores < 1)).all()
    torch.testing.assert_close(scores, gan.discriminator(images).sigmoid().detach())
    torch.testing.assert_close(gan.score(images, batch_size=1), scores)
    torch.testing.assert_close(gan.score(to_uint8(images)), scores, rtol=0, atol=0.02)


def test_a_generators_file_alone(run, tmp_path):
    gan = fastgan.load(run / "generator.safetensors")
    assert torch.equal(gan.generate(2), fastgan.load(run).generate(2))
    with pytest.raises(UserError, match="holds a generator only"):
        gan.score(gan.generate(2))


def test_missing(tmp_path):
    for path, words in ((tmp_path / "nowhere", "there is no run"), (tmp_path, "no generator.safetensors in")):
        with pytest.raises(FileNotFoundError, match=words) as caught:
            fastgan.load(path)
        assert isinstance(caught.value, UserError) and "\n" not in str(caught.value)


def test_other_files(run, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="damaged or no safetensors file"):
        fastgan.load(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="is not a generator of fastgan"):
        fastgan.load(next((run / "checkpoints").iterdir()))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda gan: gan.generate(0), "n must be"),
        (lambda gan: gan.generate(2.5), "n must be"),
        (lambda gan: gan.generate(2, seed=-1), "seed must be"),
        (lambda gan: gan.generate(2, batch_size=0), "batch_size must be"),
        (lambda gan: gan.score(torch.zeros(2, 1, 16, 20)), r"images must be .*\[N, 3, 16, 20\]"),
        (lambda gan: gan.score(torch.zeros(2, 3, 16, 20, dtype=torch.int64)), "images must be"),
        (lambda gan: gan.score([1, 2]), "images must be .* list"),
    ],
)
def test_argument_errors(run, call, words):
    with pytest.raises(UserError, match=words):
        call(fastgan.load(run))

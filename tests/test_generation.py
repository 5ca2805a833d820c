import shutil

import pytest
import torch
from runs import CLASSES, KINDS, arguments_for, build, write_run

import fastgan
from fastgan.data import ImageSet, to_float, to_uint8
from fastgan.data import load as load_data
from fastgan.errors import UserError
from fastgan.generation import TrainedGAN
from fastgan.losses import LOSSES
from fastgan.training import TrainConfig, Trainer
from fastgan.training.checkpoint import read_tensors, write_tensors
from fastgan.training.run_folder import RunFolder


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


@pytest.mark.parametrize("loss", LOSSES)
def test_scores_are_probabilities_only_where_the_loss_takes_them_for_such(tmp_path, loss):
    images = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8)
    options = {"loss": loss, "label_smoothing": 0, "steps": 2, "batch_size": 4, "latent_dim": 5, "width": 2}
    result = Trainer(TrainConfig(out=str(tmp_path / "run"), device="cpu", **options), data=images).train()
    gan = fastgan.load(result.folder)
    with torch.no_grad():
        gan.discriminator.main[-1].weight.mul_(1e5)  # far beyond probabilities
        output = gan.discriminator(to_float(images))
    assert output.abs().max() > 1
    expected = output.sigmoid() if loss in ("non_saturating", "minimax") else output
    torch.testing.assert_close(gan.score(images), expected)


def test_a_file_that_does_not_say_its_loss_gives_probabilities(tmp_path):
    generator, discriminator = build("dcgan")
    described = {"image_size": (28, 28), "channels": 1, "latent_shape": (6,), "step": 1, "data": "x"}
    gan = TrainedGAN(tmp_path, generator, lambda: discriminator, {**described, "from_logits": True})
    images = gan.generate(3)
    torch.testing.assert_close(gan.score(images), discriminator(images).sigmoid().detach())


@pytest.fixture
def copy(run, tmp_path):
    """The run, to be changed, and its checkpoint."""
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy", RunFolder(tmp_path / "copy").checkpoint(3)


def test_a_generator_needs_no_discriminator(copy):
    folder, checkpoint = copy
    checkpoint.write_bytes(b"nonsense")
    gan = fastgan.load(folder)
    images = gan.generate(2)
    with pytest.raises(UserError, match=r"step-000003.safetensors is damaged or no safetensors file"):
        gan.score(images)


def test_a_checkpoint_that_goes_while_the_generator_is_in_use(copy):
    folder, checkpoint = copy
    gan = fastgan.load(folder)
    checkpoint.unlink()
    with pytest.raises(FileNotFoundError, match=r"is gone, since its run was trained on or removed after .*; load the"):
        gan.score(gan.generate(2))
    assert fastgan.load(folder).discriminator is None


def test_scores_of_images_by_their_class(tmp_path):
    generator, discriminator = build("dcgan_conditional")
    described = {"image_size": (48, 64), "channels": 3, "latent_shape": (6,), "step": 1, "data": "x"}
    gan = TrainedGAN(tmp_path, generator, lambda: discriminator, {**described, "from_logits": True})
    images = gan.generate(3)
    scores = gan.score(images, label=[0, 1, 2])
    expected = discriminator(images, torch.tensor([0, 1, 2])).sigmoid().detach()
    torch.testing.assert_close(scores, expected)
    assert not torch.allclose(gan.score(images, label=0), scores)
    torch.testing.assert_close(gan.score(images, label=[0, 1, 2], batch_size=2), scores)
    with pytest.raises(UserError, match="label is not given, but the discriminator judges images by their class"):
        gan.score(images)
    with pytest.raises(UserError, match="label must be a class from 0 to 2"):
        gan.score(images, label=3)


def test_a_discriminator_of_pairs_gives_no_scores(tmp_path):
    generator, discriminator = build("encoder_decoder")
    described = {"image_size": (28, 36), "channels": 3, "latent_shape": None, "step": 1, "data": "x"}
    gan = TrainedGAN(tmp_path, generator, lambda: discriminator, {**described, "from_logits": True})
    with pytest.raises(UserError, match="judges pairs of images"):
        gan.score(torch.zeros(2, 3, 28, 36))


def test_a_generators_file_alone(run, tmp_path):
    gan = fastgan.load(run / "generator.safetensors")
    assert torch.equal(gan.generate(2), fastgan.load(run).generate(2))
    with pytest.raises(UserError, match="holds a generator only"):
        gan.score(gan.generate(2))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {kind: write_run(folder / kind, kind) for kind in KINDS}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "encoder" not in kind])
def test_every_family_gives_the_same_pictures_whatever_the_batch_size(runs, kind):
    gan = fastgan.load(runs[kind])
    images = gan.generate(9, seed=3)
    assert images.shape == (9, gan.channels, *gan.image_size) and images.std() > 0.05
    for batch_size in (1, 4, 64):
        torch.testing.assert_close(gan.generate(9, seed=3, batch_size=batch_size), images, rtol=0, atol=1e-5)
    latents = gan.latents(9, seed=3)
    torch.testing.assert_close(gan.images_of(latents), images)
    labels = (torch.arange(9) % CLASSES,) if gan.num_classes else ()
    torch.testing.assert_close(gan.generator(latents, *labels).detach(), images, rtol=0, atol=1e-5)


def test_a_change_of_the_weights_is_seen(runs):
    gan = fastgan.load(runs["dcgan"])
    before = gan.generate(2)
    with torch.no_grad():
        gan.generator.main[1].running_mean.add_(1)
    assert not torch.allclose(gan.generate(2), before)


def test_labels(runs):
    gan = fastgan.load(runs["dcgan_conditional"])
    assert gan.num_classes == CLASSES and fastgan.load(runs["dcgan"]).num_classes == 0
    every = torch.stack([gan.generate(4, label=label) for label in range(CLASSES)])
    assert not torch.allclose(every[0], every[1])
    torch.testing.assert_close(gan.generate(4), every[[0, 1, 2, 0], range(4)], rtol=0, atol=1e-5)
    for labels in ([2, 0, 1, 1], torch.tensor([2, 0, 1, 1])):
        torch.testing.assert_close(gan.generate(4, label=labels), every[[2, 0, 1, 1], range(4)], rtol=0, atol=1e-5)


def test_truncation_keeps_what_is_typical(runs):
    gan = fastgan.load(runs["mlp"])
    whole, part = gan.latents(500), gan.latents(500, truncation=0.5)
    assert whole.abs().max() > 2 and part.abs().max() <= 0.5
    assert torch.equal(part.flatten().argsort(), whole.flatten().argsort())  # the order of what was drawn stays
    images = gan.generate(20, truncation=0.5)
    assert images.std(0).mean() < gan.generate(20).std(0).mean()
    torch.testing.assert_close(images, gan.images_of(part[:20]), rtol=0, atol=1e-5)
    torch.testing.assert_close(gan.generate(5, truncation=50), gan.generate(5), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["encoder_decoder", "encoder_decoder_plain"])
def test_translate(runs, kind):
    gan = fastgan.load(runs[kind])
    (source,) = arguments_for(gan.generator, 5)
    images = gan.translate(source)
    assert images.shape == (5, gan.channels, *gan.image_size)
    torch.testing.assert_close(images, gan.generator(source).detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(gan.translate(source, batch_size=2), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(gan.translate(to_uint8(source)), images, rtol=0, atol=0.1)
    with pytest.raises(UserError, match=r"^.* maps images to images, .* translate\(\)"):
        gan.generate(4)
    with pytest.raises(UserError, match=r"images must be floats"):
        gan.translate(torch.zeros(2, 2, *gan.image_size))
    with pytest.raises(UserError, match="makes its images of latents; use generate"):
        fastgan.load(runs["mlp"]).translate(source)


def test_nearest(run):
    gan = fastgan.load(run)
    known = torch.randint(0, 256, (30, 3, 16, 20), dtype=torch.uint8)
    noisy = (known[[4, 17]].float() / 127.5 - 1 + 0.01 * torch.randn(2, 3, 16, 20)).clamp(-1, 1)
    found = gan.nearest(noisy, known, k=2)
    assert found.index[:, 0].tolist() == [4, 17] and found.index.shape == found.distance.shape == (2, 2)
    assert (found.distance[:, 0] < 0.02).all() and (found.distance[:, 1] > 0.2).all()
    assert torch.equal(found.images[:, 0], known[[4, 17]])
    assert gan.nearest(known[:3], ImageSet(known)).distance.eq(0).all()
    expected = (known[found.index].float() / 127.5 - 1 - noisy[:, None]).square().flatten(2).mean(2).sqrt()
    torch.testing.assert_close(found.distance, expected)
    for arguments, words in (
        ((noisy[:, :1], known), "images must be"),
        ((noisy, known[:, :1]), "data must be uint8"),
        ((noisy, known.float()), "data must be uint8"),
        ((noisy, "nowhere"), "nowhere does not exist"),
        ((noisy, known, 31), "k is 31, but data has 30 images"),
        ((noisy, known, 0), "k must be"),
    ):
        with pytest.raises(UserError, match=words):
            gan.nearest(*arguments[:2], k=arguments[2] if len(arguments) > 2 else 1)


def test_nearest_looks_in_what_train_takes(runs):
    gan = fastgan.load(runs["mlp"])  # 28x28, as the digits are
    digits = load_data("digits", image_size=28)
    found = gan.nearest(digits.images[[7, 4000]], "digits", k=3)
    assert found.index[:, 0].tolist() == [7, 4000] and found.distance[:, 0].eq(0).all()
    assert (found.distance.diff(dim=1) >= 0).all()


def test_missing(tmp_path):
    for path, words in ((tmp_path / "nowhere", "there is no run"), (tmp_path, "no generator.safetensors in")):
        with pytest.raises(FileNotFoundError, match=words) as caught:
            fastgan.load(path)
        assert isinstance(caught.value, UserError) and "\n" not in str(caught.value)


def test_what_is_no_path():
    with pytest.raises(UserError, match="run must be the path of a run or 'digits', but it is a int; give one of them"):
        fastgan.load(3)


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
        (lambda gan: gan.generate(10**12), "1,000,000,000,000 images take at least .* GiB of memory, and this machine"),
        (lambda gan: gan.latents(10**12), "1,000,000,000,000 latents take"),
        (lambda gan: gan.generate(2.5), "n must be"),
        (lambda gan: gan.generate(2, seed=-1), "seed must be"),
        (lambda gan: gan.generate(2, batch_size=0), "batch_size must be"),
        (lambda gan: gan.generate(2, truncation=0), "truncation must be a number above 0"),
        (lambda gan: gan.generate(2, truncation=float("nan")), "truncation must be"),
        (lambda gan: gan.generate(2, truncation="1"), "truncation must be"),
        (lambda gan: gan.generate(2, label=1), "label is 1, but .*run was trained without classes; leave it out"),
        (lambda gan: gan.images_of(torch.zeros(2, 6)), r"latents must be a tensor \[N, 5\], but .* \[2, 6\]"),
        (lambda gan: gan.images_of(torch.zeros(5)), r"latents must be a tensor \[N, 5\]"),
        (lambda gan: gan.images_of([1.0] * 5), "latents must be .* list"),
        (lambda gan: gan.score(torch.zeros(2, 1, 16, 20)), r"images must be .*\[N, 3, 16, 20\]"),
        (lambda gan: gan.score(torch.zeros(2, 3, 16, 20, dtype=torch.int64)), "images must be"),
        (lambda gan: gan.score([1, 2]), "images must be .* list"),
    ],
)
def test_argument_errors(run, call, words):
    with pytest.raises(UserError, match=words):
        call(fastgan.load(run))


@pytest.mark.parametrize("label", [CLASSES, -1, 1.0, True, "1", [0, 1], [0, 1, CLASSES]])
def test_a_label_out_of_range_is_said(runs, label):
    with pytest.raises(UserError, match=r"^label must be a class from 0 to 2, or 3 of them, but it is "):
        fastgan.load(runs["mlp_conditional"]).generate(3, label=label)


def test_a_file_of_another_family_than_it_says(runs, tmp_path):
    weights, _ = read_tensors(runs["mlp"] / "generator.safetensors", "generator")
    _, described = read_tensors(runs["dcgan"] / "generator.safetensors", "generator")
    write_tensors(tmp_path / "generator.safetensors", weights, described)
    with pytest.raises(UserError, match=r"generator.safetensors does not fit the network DCGANGenerator"):
        fastgan.load(tmp_path)


def test_weights_of_another_family(runs):
    other = fastgan.load(runs["mlp"]).generator
    with pytest.raises(UserError, match=r"generator.safetensors does not fit the network MLPGenerator"):
        fastgan.load(runs["dcgan"], generator=other)

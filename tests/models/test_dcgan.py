"""The DCGAN of any size: the paper's network at 64x64, and the same idea elsewhere."""

from __future__ import annotations

import itertools

import pytest
import torch

import fastgan.layers
from fastgan import models
from fastgan.errors import UserError
from fastgan.models._shapes import plan_stages

SIZES = [16, 28, 32, (48, 64), 64, 100, (16, 256), 256]
NAMES = ["generator", "discriminator"]


def pair(size):
    return (size, size) if isinstance(size, int) else size


def convolutions(network):
    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    return [module for module in network.main if isinstance(module, kinds)]


def tutorial(channels, latent_dim=100, width=64):
    """The 64x64 networks of PyTorch's DCGAN tutorial in plain torch.nn, the discriminator without its last sigmoid."""
    nn, up, down, bn = torch.nn, torch.nn.ConvTranspose2d, torch.nn.Conv2d, torch.nn.BatchNorm2d
    a, b, c, d = (width * n for n in (1, 2, 4, 8))
    generator = nn.Sequential(
        *(up(latent_dim, d, 4, 1, 0, bias=False), bn(d), nn.ReLU(True)),
        *(up(d, c, 4, 2, 1, bias=False), bn(c), nn.ReLU(True)),
        *(up(c, b, 4, 2, 1, bias=False), bn(b), nn.ReLU(True)),
        *(up(b, a, 4, 2, 1, bias=False), bn(a), nn.ReLU(True)),
        *(up(a, channels, 4, 2, 1, bias=False), nn.Tanh()),
    )
    discriminator = nn.Sequential(
        *(down(channels, a, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)),
        *(down(a, b, 4, 2, 1, bias=False), bn(b), nn.LeakyReLU(0.2, True)),
        *(down(b, c, 4, 2, 1, bias=False), bn(c), nn.LeakyReLU(0.2, True)),
        *(down(c, d, 4, 2, 1, bias=False), bn(d), nn.LeakyReLU(0.2, True)),
        down(d, 1, 4, 1, 0, bias=False),
    )
    return generator, discriminator


def shapes(network):
    return {name: (tuple(value.shape), value.dtype) for name, value in network.state_dict().items()}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_shapes(size, channels):
    generator, discriminator = models.build("dcgan", image_size=size, channels=channels, latent_dim=5, width=2)
    images = generator(torch.randn(3, 5))
    assert images.shape == (3, channels, *pair(size))
    assert images.abs().max() <= 1
    logits = discriminator(images)
    assert logits.shape == (3,)
    assert logits.isfinite().all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_generator_inverts_the_discriminator_stage_by_stage(size):
    def sizes(network, first):
        x, found = first, [tuple(first.shape[2:])]
        for layer in network.main:
            x = layer(x)
            found.append(tuple(x.shape[2:]))
        return [key for key, _ in itertools.groupby(found)]

    generator, discriminator = models.build("dcgan", image_size=size, channels=1, latent_dim=2, width=1)
    down = sizes(discriminator, torch.zeros(2, 1, *pair(size)))
    assert sizes(generator, torch.zeros(2, 2, 1, 1)) == down[::-1]
    for conv, transposed in zip(convolutions(discriminator), convolutions(generator)[::-1], strict=True):
        geometry = (conv.kernel_size, conv.stride, conv.padding)
        assert (transposed.kernel_size, transposed.stride, transposed.padding) == geometry


@pytest.mark.parametrize("width", [16, 31, 100, 256])
def test_stages_of_every_size_lead_down_to_a_few_pixels_and_back(width):
    for height in range(16, 257):
        stages = plan_stages((height, width))
        assert stages[0].large == (height, width)
        assert all(before.small == after.large for before, after in itertools.pairwise(stages))
        assert all(4 <= side < 8 for side in stages[-1].small)
        for stage in stages:
            for large, small, kernel, stride, padding, output_padding in zip(*stage, strict=True):
                assert small in (large, large // 2)
                assert small == (large + 2 * padding - kernel) // stride + 1  # Conv2d's
                assert large == (small - 1) * stride - 2 * padding + kernel + output_padding  # ConvTranspose2d's


@pytest.mark.parametrize("channels", [1, 3])
def test_64x64_has_the_tutorial_networks_parameters(channels):
    with torch.device("meta"):
        ours, theirs = models.build("dcgan", channels=channels), tutorial(channels)
    for our, their in zip(ours, theirs, strict=True):
        assert shapes(our.main) == shapes(their)
        assert [name for name, _ in our.main.named_parameters()] == [name for name, _ in their.named_parameters()]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_64x64_computes_what_the_tutorial_networks_do(training):
    torch.manual_seed(0)
    ours = models.build("dcgan", latent_dim=6, width=4)
    theirs = tutorial(3, latent_dim=6, width=4)
    latent = torch.randn(5, 6, dtype=torch.float64)
    images = torch.randn(5, 3, 64, 64, dtype=torch.float64)
    given = [(latent, latent[:, :, None, None]), (images, images)]
    for our, their, (to_ours, to_theirs) in zip(ours, theirs, given, strict=True):
        their.load_state_dict(our.main.state_dict())
        our.double().train(training), their.double().train(training)
        found, wanted = our(to_ours), their(to_theirs).reshape(-1, *our(to_ours).shape[1:])
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_a_latent_may_have_the_tutorials_shape():
    generator, _ = models.build("dcgan", image_size=16, latent_dim=6, width=2)
    latent = torch.randn(4, 6)
    assert torch.equal(generator.eval()(latent), generator(latent[:, :, None, None]))


def test_feature_maps_double_up_to_eight_times_the_width():
    generator, discriminator = models.build("dcgan", image_size=256, channels=3, latent_dim=7, width=2)
    assert [conv.out_channels for conv in convolutions(discriminator)] == [2, 4, 8, 16, 16, 16, 1]
    assert [conv.in_channels for conv in convolutions(generator)] == [7, 16, 16, 16, 8, 4, 2]


@pytest.mark.parametrize("name", NAMES)
def test_start_weights_are_the_papers(name):
    torch.manual_seed(0)
    network = dict(zip(NAMES, models.build("dcgan", image_size=32, channels=3, width=64), strict=True))[name]
    weights = [conv.weight for conv in convolutions(network)]
    for weight in weights:
        n = weight.numel()
        assert weight.mean().abs() < 5 * 0.02 / n**0.5
        assert (weight.std() / 0.02 - 1).abs() < 5 / (2 * n) ** 0.5
        assert weight.abs().max() > 0.05  # a normal distribution, not a uniform one, which ends at 0.035
    norms = [module for module in network.main if isinstance(module, torch.nn.BatchNorm2d)]
    gains = torch.cat([norm.weight for norm in norms])
    assert (gains.mean() - 1).abs() < 5 * 0.02 / len(gains) ** 0.5
    assert (gains.std() / 0.02 - 1).abs() < 5 / (2 * len(gains)) ** 0.5
    assert all((norm.bias == 0).all() for norm in norms)


def test_start_weights_follow_the_seed():
    def start(seed):
        torch.manual_seed(seed)
        generator, discriminator = models.build("dcgan", image_size=16, width=2)
        return torch.cat([p.flatten() for network in (generator, discriminator) for p in network.parameters()])

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


@pytest.mark.parametrize("index", [0, 1], ids=NAMES)
@pytest.mark.parametrize("size", [28, 64])
def test_state_dict_is_the_same_fused_and_unfused(size, index):
    fused = models.build("dcgan", image_size=size, channels=1, latent_dim=4, width=2)[index]
    assert isinstance(fused.main, fastgan.layers.Sequential)
    unfused = torch.nn.Sequential(*fused.main)
    assert list(unfused.state_dict(prefix="main.")) == list(fused.state_dict())

    fused(torch.randn(6, 4) if index == 0 else torch.randn(6, 1, size, size))  # a run leaves nothing behind in it
    assert list(unfused.state_dict(prefix="main.")) == list(fused.state_dict())
    kinds = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert {key.split(".")[-1] for key in fused.state_dict()} == kinds
    counted = [value.item() for key, value in fused.state_dict().items() if key.endswith("num_batches_tracked")]
    assert counted and set(counted) == {1}


@pytest.mark.parametrize("index", [0, 1], ids=NAMES)
def test_training_fused_is_training_unfused(index):
    torch.manual_seed(0)
    fused = models.build("dcgan", image_size=28, channels=1, latent_dim=4, width=2)[index].double()
    twin = models.build("dcgan", image_size=28, channels=1, latent_dim=4, width=2)[index].double()
    twin.load_state_dict(fused.state_dict())
    twin.main = torch.nn.Sequential(*twin.main)
    input = torch.randn(6, 4).double() if index == 0 else torch.randn(6, 1, 28, 28).double()
    for network in (fused, twin):
        network(input.clone()).square().mean().backward()
    for (name, ours), (_, theirs) in zip(fused.named_parameters(), twin.named_parameters(), strict=True):
        where = f"{name}: {{}}".format
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-14, msg=where)
    for ours, theirs in zip(fused.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_arguments_of_build_the_same_generator_again():
    generator, _ = models.build("dcgan", image_size=(20, 36), channels=4, latent_dim=3, width=2)
    arguments = models.arguments_of(generator)
    given = {"family": "dcgan", "image_size": (20, 36), "channels": 4, "latent_dim": 3, "width": 2}
    assert arguments == {**given, "head": "conv", "num_classes": 0}
    again, _ = models.build(**arguments)
    again.load_state_dict(generator.state_dict())


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"image_size": 8}, r"^image_size 8x8 .*16 to 256.*nearest size that works is 16x16\.$"),
        ({"image_size": (300, 64)}, r"^image_size 300x64 \(height x width\) .*nearest size that works is 256x64\.$"),
        ({"image_size": (8, 512)}, r"nearest size that works is 16x256\.$"),
        ({"image_size": "64"}, r"^image_size must be a whole number or a pair .*'64'.*64\.$"),
        ({"image_size": 64.0}, r"^image_size must be a whole number or a pair .*64\.0"),
        ({"image_size": True}, r"^image_size must be a whole number or a pair .*True"),
        ({"image_size": (64, 64, 64)}, r"^image_size must be a whole number or a pair .*\(64, 64, 64\)"),
        ({"channels": 2}, r"^channels must be 1 \(grey\), 3 \(RGB\) or 4 \(RGBA\), but it is 2\.$"),
        ({"channels": "auto"}, r"^channels must be .*'auto'"),
        ({"channels": True}, r"^channels must be .*True"),
        ({"latent_dim": 0}, r"^latent_dim must be a whole number of at least 1, but it is 0\.$"),
        ({"latent_dim": (100,)}, r"^latent_dim must be .*\(100,\)"),
        ({"width": -4}, r"^width must be a whole number of at least 1, but it is -4\.$"),
        ({"width": 1.5}, r"^width must be .*1\.5"),
        ({"width": True}, r"^width must be .*True"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_said(wrong, message):
    with pytest.raises(UserError, match=message):
        models.build("dcgan", **wrong)


def test_an_unknown_family_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match=r"^model 'dcgna' is unknown; choose one of: .*dcgan.*\.$"):
        models.build("dcgna")


def test_spectral_norm_bounds_the_discriminator_and_is_built_again():
    torch.manual_seed(0)
    generator, discriminator = models.build("dcgan", image_size=16, width=2, spectral_norm=True)
    discriminator(torch.randn(2, 3, 16, 16))
    layers = [module for module in discriminator.modules() if isinstance(module, torch.nn.Conv2d)]
    norms = [torch.linalg.matrix_norm(layer.eval().weight.flatten(1), ord=2).item() for layer in layers]
    assert norms == pytest.approx([1.0] * 3, rel=0.05)
    assert not any("parametrizations" in key for key in generator.state_dict())
    arguments = models.arguments_of(generator)
    assert arguments["spectral_norm"] is True
    models.build(**arguments)[1].load_state_dict(discriminator.state_dict())

"""Every family: shapes, classes, what it is built of, and that it trains."""

from __future__ import annotations

import copy

import pytest
import torch
from runs import KINDS, arguments_for, build

import fastgan.layers
from fastgan import models
from fastgan.errors import UserError
from fastgan.layers._groups import batch_groups, why_apart
from fastgan.training import AdversarialStep

OPTIONS = {
    "dcgan": [{}, {"head": "linear"}],
    "mlp": [{}],
    "lenet": [{}, {"pooling": "average"}],
    "encoder_decoder": [{}, {"skips": False, "in_channels": 1}],
}
FAMILIES = [(family, options) for family, rows in OPTIONS.items() for options in rows]
ODD = [((28, 28), 1), ((48, 64), 3), ((100, 100), 4)]


def size_id(size):
    return "x".join(map(str, (*size[0], size[1]))) if isinstance(size, tuple) else None


@pytest.mark.parametrize("size", [*ODD, ((16, 256), 3), ((16, 16), 1), ((255, 17), 4)], ids=size_id)
@pytest.mark.parametrize("family, options", FAMILIES, ids=str)
@torch.no_grad()
def test_shapes(family, options, size):
    image_size, channels = size
    for num_classes in (0, 3) if family != "encoder_decoder" else (0,):
        classes = {"num_classes": num_classes} if num_classes else {}
        generator, discriminator = models.build(
            family, image_size=image_size, channels=channels, latent_dim=5, width=2, **classes, **options
        )
        given = arguments_for(generator, 3)
        images = generator(*given)
        assert images.shape == (3, channels, *image_size) and images.abs().max() <= 1
        logits = discriminator(images, *(given if family == "encoder_decoder" else given[1:]))
        assert logits.isfinite().all()
        if family == "encoder_decoder":
            assert logits.dim() == 4 and logits.shape[:2] == (3, 1) and min(logits.shape[2:]) >= 2
        else:
            assert logits.shape == (3,)


class Paired(torch.nn.Module):
    """A generator's images with the sources they were made of, for a discriminator that sees both."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, source):
        return torch.cat([self.network(source), source], 1)


class OfPairs(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pairs):
        return self.network(*pairs.split([self.network.channels, self.network.in_channels], 1))


class OfLabels(torch.nn.Module):
    """A conditional network whose batches have always the same labels."""

    def __init__(self, network, labels):
        super().__init__()
        self.network, self.labels = network, labels
        self.latent_dim = getattr(network, "latent_dim", None)

    def forward(self, input):
        return self.network(input, self.labels)


@pytest.mark.parametrize("size", ODD, ids=size_id)
@pytest.mark.parametrize(
    "family, conditional", [(family, False) for family in OPTIONS] + [("dcgan", True), ("mlp", True), ("lenet", True)]
)
def test_trains_at_an_odd_size(family, conditional, size):
    torch.manual_seed(0)
    image_size, channels = size
    labels, latent = torch.tensor([0, 1, 2, 0]), None
    generator, discriminator = models.build(
        family, image_size=image_size, channels=channels, latent_dim=5, width=2, num_classes=3 * conditional
    )
    before = [p.clone() for network in (generator, discriminator) for p in network.parameters()]
    real = torch.rand(4, channels, *image_size) * 2 - 1
    if family == "encoder_decoder":
        latent = torch.rand(4, channels, *image_size) * 2 - 1
        real = torch.cat([real, latent], 1)
        networks = Paired(generator), OfPairs(discriminator)
    else:
        networks = [OfLabels(network, labels) if conditional else network for network in (generator, discriminator)]
    optimizers = [torch.optim.Adam(network.parameters(), 2e-3, (0.5, 0.999)) for network in networks]
    step = AdversarialStep(*networks, *optimizers, latent=latent.shape[1:] if latent is not None else None)
    rows = [step(real, latent) for _ in range(20)]
    assert all(value.isfinite() for row in rows for value in row.values())
    assert rows[-1]["loss_d"] < rows[0]["loss_d"]  # four images, which a discriminator soon knows
    after = [p for network in (generator, discriminator) for p in network.parameters()]
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_build_both_networks_again(kind):
    for index, network in enumerate(build(kind)):
        arguments = models.arguments_of(network)
        assert arguments["family"] == KINDS[kind]["family"]
        again = models.build(**arguments)[index]
        again.load_state_dict(network.state_dict())
        assert models.arguments_of(again) == arguments and type(again) is type(network)


def test_networks_of_ones_own_have_no_arguments():
    assert models.arguments_of(torch.nn.Linear(2, 2)) is None

    class Mine(models.DCGANGenerator):
        pass

    assert models.arguments_of(Mine(16, 1, 2, 1)) is None


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_folded_computes_the_same_without_batch_norm(kind):
    generator, _ = build(kind)
    folded = models.folded(generator)
    assert not any("BatchNorm" in type(module).__name__ for module in folded.modules())
    assert any("BatchNorm" in type(module).__name__ for module in generator.modules())
    given = arguments_for(generator, 5)
    images = generator(*given)
    assert images.std() > 0.05
    torch.testing.assert_close(folded(*given), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(models.folded(folded)(*given), images, rtol=0, atol=1e-5)


# ---- classes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(6, 4, 5, 3), (6, 4)], ids=str)
def test_conditional_batch_norm_is_batch_norm_then_the_classes_own_scale_and_shift(shape, training):
    torch.manual_seed(0)
    ours = models.ConditionalBatchNorm(4, 3).double().train(training)
    theirs = (torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d)(4, affine=False).double()
    theirs.train(training)
    torch.nn.init.normal_(ours.weight)
    torch.nn.init.normal_(ours.bias)
    labels = torch.tensor([0, 2, 1, 2, 2, 0])
    x = torch.randn(shape, dtype=torch.float64).requires_grad_()
    tail = (1,) * (len(shape) - 2)
    expected = theirs(x) * ours.weight[labels].reshape(6, 4, *tail) + ours.bias[labels].reshape(6, 4, *tail)
    expected, found = expected.relu(), ours(x, labels)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    leaves, grad = (x, ours.weight, ours.bias), torch.randn_like(found)
    for a, b in zip(torch.autograd.grad(found, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("family", ["dcgan", "mlp", "lenet"])
@torch.no_grad()
def test_the_class_matters(family):
    torch.manual_seed(0)
    generator, discriminator = models.build(family, image_size=16, channels=1, latent_dim=4, width=2, num_classes=2)
    for parameter in generator.eval().parameters():  # a new network's classes are alike
        torch.nn.init.normal_(parameter)
    latent, zeros, ones = torch.randn(3, 4), torch.tensor([0, 0, 0]), torch.tensor([1, 1, 1])
    mixed = generator(latent, torch.tensor([0, 1, 0]))
    torch.testing.assert_close(mixed[::2], generator(latent, zeros)[::2], rtol=0, atol=1e-6)
    torch.testing.assert_close(mixed[1], generator(latent, ones)[1], rtol=0, atol=1e-6)
    assert not torch.allclose(generator(latent, zeros), generator(latent, ones))
    assert not torch.allclose(discriminator(mixed, zeros), discriminator(mixed, ones))


@torch.no_grad()
def test_the_projection_is_an_inner_product_with_the_features_sum():
    torch.manual_seed(0)
    _, discriminator = models.build("dcgan", image_size=16, channels=1, width=2, num_classes=3)
    images, labels = torch.randn(4, 1, 16, 16), torch.tensor([0, 1, 2, 1])
    discriminator.eval()
    features = discriminator.main[:-1](images)
    expected = discriminator.main(images).flatten()
    expected = expected + torch.einsum("nchw,nc->n", features, discriminator.projection.weight[labels])
    torch.testing.assert_close(discriminator(images, labels), expected)


@pytest.mark.parametrize(
    "classes, labels, words",
    [
        (3, None, r"^labels must be int64 \[2\] with classes 0 to 2, but they are None; "),
        (3, torch.tensor([0.0, 1.0]), r"but they are torch.float32 \[2\]"),
        (3, torch.tensor([0, 1, 2]), r"but they are torch.int64 \[3\]"),
        (0, torch.tensor([0, 1]), r"^labels are given, but DCGAN\w+ knows no classes; "),
    ],
)
def test_labels_that_do_not_go_with_the_network_are_said(classes, labels, words):
    networks = models.build("dcgan", image_size=16, channels=1, latent_dim=4, width=2, num_classes=classes)
    for network, input in zip(networks, (torch.randn(2, 4), torch.randn(2, 1, 16, 16)), strict=True):
        with pytest.raises(UserError, match=words):
            network(input, labels)


# ---- what each is built of ------------------------------------------------------------------------------------------


def kinds(network):
    return [type(module).__name__ for module in network.main]


def test_mlp_is_input_hidden_layers_output():
    generator, discriminator = models.build("mlp", image_size=28, channels=1)
    units = [(m.in_features, m.out_features) for m in generator.main if isinstance(m, torch.nn.Linear)]
    assert units == [(100, 256), (256, 512), (512, 1024), (1024, 784)]
    assert kinds(discriminator) == ["Flatten", "Linear", "LeakyReLU", "Linear", "LeakyReLU", "Linear"]


@pytest.mark.parametrize("pooling, module", [("max", "MaxPool2d"), ("average", "AvgPool2d")])
def test_lenet_is_convolution_activation_pooling_then_full_connections(pooling, module):
    _, discriminator = models.build("lenet", image_size=32, channels=1, pooling=pooling)
    turn = ["Conv2d", "LeakyReLU", module]
    assert kinds(discriminator) == [*turn, *turn, *turn, "Flatten", "Linear", "LeakyReLU", "Linear"]


@torch.no_grad()
def test_the_linear_heads_are_full_connections_that_can_compute_what_the_convolutions_do():
    torch.manual_seed(0)
    options = {"image_size": (20, 36), "channels": 1, "latent_dim": 3, "width": 2}
    conv, linear = models.build("dcgan", **options), models.build("dcgan", **options, head="linear")
    first, last = linear[0].main[1], linear[1].main[-1][1]
    assert isinstance(first, torch.nn.Linear) and isinstance(last, torch.nn.Linear)
    last.weight.copy_(conv[1].main[-1].weight.flatten(1))
    first.weight.copy_(conv[0].main[0].weight.flatten(1).T)
    for ours, theirs in ((conv[1].main[:-1], linear[1].main[:-1]), (conv[0].main[1:], linear[0].main[3:])):
        theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    latent, images = torch.randn(2, 3), torch.randn(2, 1, 20, 36)
    torch.testing.assert_close(linear[0](latent), conv[0](latent))
    torch.testing.assert_close(linear[1](images), conv[1](images))


def test_skips_carry_what_the_encoder_found():
    torch.manual_seed(0)
    for skips in (True, False):
        generator, _ = models.build("encoder_decoder", image_size=32, channels=3, width=4, skips=skips)
        source = torch.rand(2, 3, 32, 32)
        with torch.no_grad():
            for parameter in generator.encoder[-1].parameters():  # nothing comes through the middle
                parameter.zero_()
        first, second = generator(source), generator(source.flip(0))
        assert torch.allclose(first, second) != skips


def test_the_patch_discriminator_sees_the_source_too():
    _, discriminator = models.build("encoder_decoder", image_size=64, channels=3, width=4, in_channels=1)
    images, source = torch.rand(2, 3, 64, 64), torch.rand(2, 1, 64, 64)
    assert not torch.allclose(discriminator(images, source), discriminator(images, -source))
    images.requires_grad_()
    (grad,) = torch.autograd.grad(discriminator.eval()(images, source)[0, 0, 0, 0], images)
    assert (grad[0].abs().sum(0) > 0).any(0).sum() < 64  # a patch, not the image


def test_convolutional_parts_run_fused():
    for family in ("dcgan", "lenet", "encoder_decoder"):
        for network in models.build(family, image_size=32, channels=1, width=2, latent_dim=4):
            sequentials = [module for module in network.modules() if isinstance(module, torch.nn.Sequential)]
            assert sequentials and all(isinstance(module, fastgan.layers.Sequential) for module in sequentials)


@pytest.mark.parametrize(
    "family, wrong, message",
    [
        ("dcgan", {"head": "dense"}, r"^head must be one of conv, linear, but it is 'dense'; choose one of them\.$"),
        ("lenet", {"pooling": "min"}, r"^pooling must be one of max, average, but it is 'min'"),
        ("dcgan", {"pooling": "max"}, r"^model 'dcgan' takes no pooling \(given: 'max'\); .* head, num_classes\.$"),
        ("mlp", {"head": "conv"}, r"^model 'mlp' takes no head .* num_classes\.$"),
        ("encoder_decoder", {"num_classes": 3}, r"^model 'encoder_decoder' takes no num_classes .* in_channels, skips"),
        (
            "encoder_decoder",
            {"in_channels": 2},
            r"^in_channels must be 1 \(grey\), 3 \(RGB\) or 4 \(RGBA\), but it is 2",
        ),
        ("dcgan", {"num_classes": 1}, r"^num_classes must be 0 \(no classes\) or at least 2, but it is 1\.$"),
        ("dcgan", {"num_classes": -1}, r"^num_classes must be a whole number of at least 0, but it is -1\.$"),
        ("mlp", {"num_classes": 2.5}, r"^num_classes must be a whole number of at least 0, but it is 2\.5\.$"),
        *((family, {"image_size": 12}, r"nearest size that works is 16x16\.$") for family in OPTIONS),
        *((family, {"image_size": (64, 257)}, r"nearest size that works is 64x256\.$") for family in OPTIONS),
        *((family, {"channels": 2}, r"^channels must be 1 \(grey\)") for family in OPTIONS),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_said(family, wrong, message):
    with pytest.raises(UserError, match=message):
        models.build(family, **wrong)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("family, options", [row for row in FAMILIES if row[0] != "encoder_decoder"], ids=str)
def test_discriminators_are_known_to_treat_every_image_by_itself(family, options, classes):
    _, discriminator = models.build(family, image_size=28, channels=1, width=2, num_classes=classes, **options)
    assert why_apart(discriminator) is None
    images, labels = torch.randn(4, 1, 28, 28), (torch.tensor([0, 1, 2, 0]),) if classes else ()
    together = copy.deepcopy(discriminator)
    with batch_groups(2):
        found = together(images, *labels)
    parts = [discriminator(images[i : i + 2], *(each[i : i + 2] for each in labels)) for i in (0, 2)]
    torch.testing.assert_close(found, torch.cat(parts))
    for ours, theirs in zip(together.buffers(), discriminator.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("family", OPTIONS)
def test_spectral_norm_of_every_family(family):
    torch.manual_seed(0)
    pair = models.build(family, image_size=28, channels=1, latent_dim=4, width=2, spectral_norm=True)
    given = arguments_for(pair[0], 4)
    images = pair[0](*given)
    for _ in range(20):
        pair[1](images, *(given if family == "encoder_decoder" else ()))
    layers = [m for m in pair[1].modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(layers) > 2
    for layer in layers:
        assert abs(torch.linalg.matrix_norm(layer.weight.flatten(1), 2) - 1) < 0.1
    for index, network in enumerate(pair):
        again = models.build(**models.arguments_of(network))[index]
        again.load_state_dict(network.state_dict())

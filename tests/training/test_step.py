import copy
from typing import ClassVar

import pytest
import torch
from torch import nn
from tutorial_networks import made, networks, optimizers, tutorial_step

import fastgan.layers
from fastgan import models
from fastgan.errors import UserError
from fastgan.training import AdversarialStep

METRICS = ["loss_d", "loss_g", "d_real", "d_fake_before", "d_fake_after"]


@pytest.mark.parametrize("namespace", [nn, fastgan.layers], ids=["torch.nn", "fastgan.layers"])
@pytest.mark.parametrize(
    ("sigmoid", "loss", "smoothing"),
    [(False, "non_saturating", 0.0), (True, "non_saturating", 0.0), (False, "minimax", 0.1), (True, "minimax", 0.1)],
)
def test_follows_the_tutorial_loop(namespace, sigmoid, loss, smoothing):
    """In two launches with torch's batch-norm, in one with ours."""
    plain, ours = made(sigmoid=sigmoid), made(namespace=namespace, sigmoid=sigmoid)
    opt_plain = optimizers(*plain)
    step = AdversarialStep(*ours, *optimizers(*ours), loss=loss, label_smoothing=smoothing)
    criterion = nn.BCELoss() if sigmoid else nn.BCEWithLogitsLoss()
    reals = [torch.rand(5, 1, 16, 16, dtype=torch.float64) * 2 - 1 for _ in range(50)]

    torch.manual_seed(1)
    expected = [
        tutorial_step(*plain, *opt_plain, real, criterion, minimax=loss == "minimax", smoothing=smoothing)
        for real in reals
    ]
    torch.manual_seed(1)
    for real, (loss_d, loss_g) in zip(reals, expected, strict=True):
        metrics = step(real)
        assert list(metrics) == METRICS
        assert metrics["loss_d"].item() == pytest.approx(loss_d, abs=1e-12)
        assert metrics["loss_g"].item() == pytest.approx(loss_g, abs=1e-12)
    launches = "two launches" if namespace is nn else "one launch"
    assert launches in fastgan.explain(ours[1]).note
    for network, reference in zip(ours, plain, strict=True):
        for key, tensor in reference.state_dict().items():
            torch.testing.assert_close(network.state_dict()[key], tensor, rtol=0, atol=1e-12, msg=key)


def test_metrics_are_detached_scalars_and_say_what_they_should():
    generator, discriminator = made()
    step = AdversarialStep(generator, discriminator, *optimizers(generator, discriminator))
    before = copy.deepcopy(discriminator)
    real, latent = torch.randn(4, 1, 16, 16, dtype=torch.float64), torch.randn(4, 6, 1, 1, dtype=torch.float64)
    fake = copy.deepcopy(generator)(latent).detach()
    metrics = step(real, latent)
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())
    assert metrics["d_real"].item() == pytest.approx(before(real).sigmoid().mean().item())
    assert metrics["d_fake_before"].item() == pytest.approx(before(fake).sigmoid().mean().item())
    assert metrics["d_fake_after"].item() == pytest.approx(discriminator(fake).sigmoid().mean().item())


class WantsToKnow(torch.autograd.Function):
    asked: ClassVar[list[bool]] = []

    @staticmethod
    def forward(ctx, input, weight):
        WantsToKnow.asked.append(ctx.needs_input_grad[1])
        ctx.save_for_backward(input, weight)
        return input * weight

    @staticmethod
    def backward(ctx, grad):
        input, weight = ctx.saved_tensors
        return grad * weight, (grad * input).sum() if ctx.needs_input_grad[1] else None


class Scaled(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones((), dtype=torch.float64)), inner

    def forward(self, images):
        return self.inner(WantsToKnow.apply(images, self.scale))


def test_generator_pass_asks_for_no_discriminator_gradients_and_restores():
    generator, inner = made()
    discriminator = Scaled(inner)
    discriminator.inner[0].weight.requires_grad_(False)  # the caller's own choice has to survive
    before = [parameter.requires_grad for parameter in discriminator.parameters()]
    step = AdversarialStep(generator, discriminator, *optimizers(generator, discriminator))
    WantsToKnow.asked.clear()
    step(torch.randn(4, 1, 16, 16, dtype=torch.float64))
    assert WantsToKnow.asked == [True, True, False]
    assert [parameter.requires_grad for parameter in discriminator.parameters()] == before


def test_flags_are_restored_after_an_error():
    generator, discriminator = made()
    step = AdversarialStep(generator, discriminator, *optimizers(generator, discriminator))
    calls = []

    def fail_in_third(*_):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("third")

    discriminator.register_forward_pre_hook(fail_in_third)
    with pytest.raises(RuntimeError, match="third"):
        step(torch.randn(4, 1, 16, 16, dtype=torch.float64))
    assert all(parameter.requires_grad for parameter in discriminator.parameters())


class FunctionalSigmoid(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return torch.sigmoid(self.inner(images)).view(-1)


@pytest.mark.parametrize(
    ("wrap", "from_logits"),
    [
        (lambda d: d, True),
        (lambda d: nn.Sequential(d, nn.Sigmoid()), False),
        (lambda d: fastgan.layers.Sequential(*d, nn.Sigmoid(), nn.Flatten(0)), False),
        (FunctionalSigmoid, False),
    ],
    ids=["logits", "module", "fused", "functional"],
)
def test_knows_probabilities_from_logits(wrap, from_logits):
    generator, inner = made()
    discriminator = wrap(inner)
    step = AdversarialStep(generator, discriminator, *optimizers(generator, discriminator))
    metrics = step(torch.randn(4, 1, 16, 16, dtype=torch.float64))
    assert step.from_logits is from_logits
    assert 0 < metrics["d_real"] < 1


def test_surrounding_autocast_sees_new_weights():
    """Autocast keeps low-precision copies of weights, which must not survive an update of the weights."""
    reals = [torch.randn(4, 1, 16, 16) for _ in range(3)]
    results = []
    for precision in ("auto", "bf16"):
        pair = made(dtype=torch.float32)
        step = AdversarialStep(*pair, *optimizers(*pair), precision=precision)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "auto"):
            results.append([step(real)["loss_d"].item() for real in reals])
    assert results[0] == pytest.approx(results[1], rel=1e-6)


class WithLatent(nn.Module):
    def __init__(self, inner, latent_dim, reshape=False):
        super().__init__()
        self.inner, self.latent_dim, self.reshape = inner, latent_dim, reshape

    def forward(self, latent):
        return self.inner(latent[:, :, None, None] if self.reshape else latent)


class FromLinear(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(7, 256), nn.Unflatten(1, (1, 16, 16)))


class Opaque(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 1, 3)


@pytest.mark.parametrize(
    ("generator", "latent", "shape"),
    [
        (lambda: networks()[0], None, (6, 1, 1)),
        (lambda: models.build("dcgan", image_size=16, channels=1, latent_dim=5, width=4)[0], None, (5,)),
        (lambda: WithLatent(networks()[0], 6), None, (6, 1, 1)),
        (lambda: WithLatent(networks()[0], 6, reshape=True), None, (6,)),
        (lambda: WithLatent(networks()[0], (6, 1, 1)), None, (6, 1, 1)),
        (FromLinear, None, (7,)),
        (Opaque, (3, 4), (3, 4)),
        (Opaque, 3, (3,)),
        (Opaque, lambda n: torch.zeros(n, 2), (2,)),
    ],
    ids=["transposed", "ours", "attribute", "reshaping", "shape attribute", "linear", "shape", "number", "callable"],
)
def test_latent_rules(generator, latent, shape):
    generator, discriminator = generator(), networks()[1]
    modes = [module.training for module in generator.modules()]
    step = AdversarialStep(generator, discriminator, *optimizers(generator, discriminator), latent=latent)
    assert step.draw_latents(3).shape == (3, *shape)
    assert [module.training for module in generator.modules()] == modes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "nonsense"}, "loss must be one of"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"capture": "always"}, "capture must be one of"),
        ({"label_smoothing": 0.7}, "label_smoothing must be"),
        ({"latent": (0, 1)}, "latent must be"),
        ({"latent": "x"}, "latent must be"),
    ],
)
def test_option_errors(options, words):
    pair = made()
    with pytest.raises(UserError, match=words):
        AdversarialStep(*pair, *optimizers(*pair), **options)


def test_optimizers_are_of_their_networks():
    generator, discriminator = made()
    opt_g, opt_d = optimizers(generator, discriminator)
    with pytest.raises(UserError, match=r"opt_g holds none of the generator's parameters, .* never learn; give opt_g"):
        AdversarialStep(generator, discriminator, opt_d, opt_g)
    with pytest.raises(UserError, match="opt_d holds none of the discriminator's parameters"):
        AdversarialStep(generator, discriminator, opt_g, opt_g)
    with pytest.raises(UserError, match="opt_g must be an optimizer of the generator's parameters, but it is a NoneT"):
        AdversarialStep(generator, discriminator, None, opt_d)
    others = list(generator.parameters())[1:]
    grouped = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    grouped.add_param_group({"params": others})
    AdversarialStep(torch.compile(generator), torch.compile(discriminator), grouped, opt_d)


def test_no_latent_is_an_error():
    generator, discriminator = Opaque(), networks()[1]
    with pytest.raises(UserError, match="latent is not given"):
        AdversarialStep(generator, discriminator, *optimizers(generator, discriminator))


@pytest.mark.parametrize(
    ("real", "words"),
    [
        (torch.zeros(2, 1, 16, 16, dtype=torch.uint8), "floating-point tensor"),
        (torch.zeros(2, 16, 16), "floating-point tensor"),
        (torch.zeros(0, 1, 16, 16), "N at least 1"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.float64), r"Given|real is \[2, 1, 32, 32\]"),
        (torch.zeros(2, 1, 16, 16, device="meta"), "real is on meta"),
        (torch.zeros(2, 1, 16, 16), r"real is torch\.float32, but .* weights are torch\.float64; give real\.to\("),
    ],
)
def test_real_errors(real, words):
    pair = made()
    step = AdversarialStep(*pair, *optimizers(*pair))
    with pytest.raises(UserError, match=words):
        step(real)

"""Real and generated images through the discriminator: in one launch where that is the same as two."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from tutorial_networks import made, optimizers, tutorial_step

import fastgan
import fastgan.layers
from fastgan import models
from fastgan.layers._groups import batch_groups, why_apart
from fastgan.training import AdversarialStep
from fastgan.training._split import judge_together

D = torch.float64


def discriminator(namespace, *more):
    torch.manual_seed(0)
    n = namespace
    return n.Sequential(
        n.Sequential(n.Conv2d(1, 4, 4, 2, 1), n.LeakyReLU(0.2, True)),
        *(n.Conv2d(4, 6, 3, 2, 1), n.BatchNorm2d(6, momentum=0.3), n.ReLU()),
        *(n.BatchNorm2d(6, affine=False), nn.AvgPool2d(2)),
        *(n.Conv2d(6, 6, 2), n.BatchNorm2d(6, track_running_stats=False), n.LeakyReLU(0.1)),
        *more,
    ).to(D)


def results(model, call):
    torch.manual_seed(1)
    real, fake = (torch.randn(3, 1, 16, 16, dtype=D) for _ in range(2))
    outputs = call(model, real, fake)
    sum(output.square().sum() * weight for output, weight in zip(outputs, (1, 2), strict=True)).backward()
    grads = [parameter.grad for parameter in model.parameters()]
    return [*outputs, *grads, *model.state_dict().values()]


def in_one_launch(model, real, fake):
    with batch_groups(2):
        return model(torch.cat([real, fake])).tensor_split(2)


@pytest.mark.parametrize("engine_mode", ["auto", "native", "aten"])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", ["ours", "torch.nn fused", "blocks"])
def test_one_launch_is_two_launches(kind, train, engine_mode, engine):
    engine(engine_mode)
    block = [fastgan.layers.ConvBNAct2d(6, 2, 1)] if kind == "blocks" else []
    model = discriminator(nn if kind == "torch.nn fused" else fastgan.layers, *block).train(train)
    if kind == "torch.nn fused":
        fastgan.fuse(model)
    apart = copy.deepcopy(model)
    assert why_apart(model) is None
    found = results(model, in_one_launch)
    expected = results(apart, lambda model, real, fake: (model(real), model(fake)))
    for value, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(value, truth, rtol=0, atol=1e-12)


def test_running_statistics_count_the_real_images_first():
    norm = fastgan.layers.BatchNorm2d(2, momentum=0.25)
    apart = copy.deepcopy(norm)
    real, fake = torch.zeros(4, 2, 3, 3), torch.full((4, 2, 3, 3), 8.0)
    in_one_launch(norm, real, fake)
    apart(real), apart(fake)
    assert norm.running_mean.tolist() == apart.running_mean.tolist() == [2.0, 2.0]  # 1.5 the other way round
    assert norm.num_batches_tracked == 2


def test_one_image_a_batch_is_torchs_error():
    model = fastgan.layers.Sequential(fastgan.layers.Conv2d(1, 2, 2), fastgan.layers.BatchNorm2d(2))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        in_one_launch(model, *torch.zeros(2, 1, 1, 2, 2))


class Own(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, input):
        for layer in self.layers:
            input = layer(input)
        return input


class Known(Own):
    per_sample = True

    def __init__(self, *layers):
        nn.Module.__init__(self)
        self.layers = fastgan.layers.Sequential(*layers)

    def forward(self, input):
        return self.layers(input)


class Counting(Known):
    def __init__(self, *layers):
        super().__init__(*layers)
        self.batches = []

    def forward(self, input):
        self.batches.append(len(input))
        return self.layers(input)


class Subclass(nn.Conv2d):
    pass


def hooked():
    conv = nn.Conv2d(1, 1, 1)
    conv.register_forward_hook(lambda *_: None)
    return conv


def compiled():
    conv = nn.Conv2d(1, 1, 1)
    conv._compiled_call_impl = conv._call_impl  # what Module.compile sets, without seconds of imports
    return conv


ours = fastgan.layers
shared = ours.BatchNorm2d(1)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: models.build("dcgan", image_size=16)[1], None),
        (lambda: Known(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), None),
        (lambda: ours.Sequential(nn.Flatten(), nn.Linear(4, 1), nn.Sigmoid()), None),
        (lambda: ours.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))), None),
        (lambda: nn.Sequential(ours.BatchNorm2d(1)), None),
        (lambda: Own(nn.Conv2d(1, 1, 1)), "Own is not known to treat every image by itself"),
        (lambda: ours.Sequential(nn.Dropout()), "Dropout is not known"),
        (lambda: ours.Sequential(nn.Flatten(0)), "Flatten is not known"),
        (lambda: ours.Sequential(Subclass(1, 1, 1)), "Subclass is not known"),
        (lambda: nn.Sequential(nn.BatchNorm2d(1)), "BatchNorm2d does not run fused"),
        (lambda: fastgan.unfuse(ours.Sequential(ours.BatchNorm2d(1))), "has a hook or a replaced forward"),
        (lambda: ours.Sequential(nn.BatchNorm2d(1, momentum=None)), "momentum=None"),
        (lambda: ours.Sequential(shared, nn.ReLU(), shared), "called more than once"),
        (lambda: ours.Sequential(hooked()), "has a hook"),
        (lambda: ours.Sequential(compiled()), "has a hook or a replaced forward"),
        (lambda: ours.Sequential(parametrizations.spectral_norm(nn.Conv2d(1, 1, 1))), "makes its weight anew"),
        (lambda: ours.Sequential(torch.nn.utils.spectral_norm(nn.Conv2d(1, 1, 1))), "has a hook"),
        (lambda: ours.Sequential(nn.SyncBatchNorm(1)), "SyncBatchNorm is not known"),
    ],
)
def test_what_needs_two_launches(model, reason):
    found = why_apart(model())
    assert found is None if reason is None else reason in found


def test_global_hooks_need_two_launches():
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert "hooks on every module" in why_apart(nn.Conv2d(1, 1, 1))
    finally:
        handle.remove()


@pytest.mark.parametrize("spectral", [False, True])
def test_the_step_makes_as_many_launches_as_explain_says(spectral):
    generator, inner = made(namespace=fastgan.layers)
    discriminator = Counting(*inner)
    assert fastgan.explain(discriminator).note == ""
    if spectral:
        parametrizations.spectral_norm(discriminator.layers[2])
    AdversarialStep(generator, discriminator, *optimizers(generator, discriminator))(torch.randn(4, 1, 16, 16, dtype=D))
    assert discriminator.batches == ([4, 4, 4] if spectral else [8, 4])
    explanation = fastgan.explain(discriminator)
    assert str(explanation).endswith(explanation.note)
    assert explanation.note == (
        "Real and generated images went through it in two launches, because ParametrizedConv2d makes its weight anew "
        "in every call."
        if spectral
        else "Real and generated images went through it in one launch, batch-norm's statistics apart."
    )


def test_subclasses_of_tensor_go_through_by_themselves():
    class Image(torch.Tensor):
        pass

    generator, discriminator = made(namespace=fastgan.layers)
    plain = copy.deepcopy((generator, discriminator))
    real, latent = torch.randn(4, 1, 16, 16, dtype=D), torch.randn(4, 6, 1, 1, dtype=D)
    AdversarialStep(generator, discriminator, *optimizers(generator, discriminator))(real.as_subclass(Image), latent)
    AdversarialStep(*plain, *optimizers(*plain))(real, latent)
    for found, expected in zip(discriminator.state_dict().values(), plain[1].state_dict().values(), strict=True):
        torch.testing.assert_close(found.as_subclass(torch.Tensor), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["spectral norm", "dropout"])
def test_two_launches_follow_the_tutorial_loop(kind):
    """Power iterations and random numbers come in the order of the loop: real, latents, generated."""
    pairs = []
    for namespace in (nn, fastgan.layers):
        generator, discriminator = made(namespace=namespace)
        if kind == "dropout":
            discriminator.insert(2, nn.Dropout(0.3))
        else:
            torch.manual_seed(2)
            for position in (0, 2, 5):
                parametrizations.spectral_norm(discriminator[position])
        pairs.append((generator, discriminator))
    plain, ours = pairs
    opt_plain, step = optimizers(*plain), AdversarialStep(*ours, *optimizers(*ours))
    reals = [torch.rand(5, 1, 16, 16, dtype=D) * 2 - 1 for _ in range(10)]
    torch.manual_seed(1)
    expected = [tutorial_step(*plain, *opt_plain, real, nn.BCEWithLogitsLoss()) for real in reals]
    torch.manual_seed(1)
    for real, values in zip(reals, expected, strict=True):
        metrics = step(real)
        assert [metrics[name].item() for name in ("loss_d", "loss_g")] == pytest.approx(values, abs=1e-12)
    for network, reference in zip(ours, plain, strict=True):
        for key, tensor in reference.state_dict().items():
            torch.testing.assert_close(network.state_dict()[key], tensor, rtol=0, atol=1e-12, msg=key)


@pytest.mark.parametrize(
    ("judge", "dtype"),
    [
        (lambda: models.build("dcgan", image_size=16, channels=1, width=4)[1], torch.bfloat16),
        (lambda: nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 4)), nn.Flatten()), torch.bfloat16),
        (lambda: nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 4, 4), nn.Flatten()), torch.float32),
    ],
    ids=["dcgan", "sequential", "pooled first"],
)
def test_images_are_joined_in_the_dtype_in_which_they_are_read(judge, dtype, monkeypatch):
    torch.manual_seed(0)
    model, joined, cat = judge(), [], torch.cat
    monkeypatch.setattr(torch, "cat", lambda *args: joined.append(cat(*args)) or joined[-1])
    real, fake = torch.randn(3, 1, 16, 16), torch.randn(3, 1, 16, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = judge_together(model, real, fake)
        with batch_groups(2):
            expected = model(cat([real, fake])).tensor_split(2)
    assert joined[0].dtype == dtype
    for output, truth in zip(outputs, expected, strict=True):
        assert torch.equal(output, truth)

"""The step's objectives and options, each against the formulas written out in plain torch."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from tutorial_networks import made, optimizers

import fastgan
import fastgan.layers
from fastgan import losses
from fastgan.errors import UserError
from fastgan.training import AdversarialStep

D = torch.float64


def mean_of(*tensors):
    return sum(tensor.mean() for tensor in tensors)


DISCRIMINATOR = {
    "non_saturating": lambda real, fake: -mean_of(F.logsigmoid(real), F.logsigmoid(-fake)),
    "minimax": lambda real, fake: -mean_of(F.logsigmoid(real), F.logsigmoid(-fake)),
    "hinge": lambda real, fake: mean_of(F.relu(1 - real), F.relu(1 + fake)),
    "least_squares": lambda real, fake: mean_of((real - 1) ** 2 / 2, fake**2 / 2),
    "wgan_gp": lambda real, fake: fake.mean() - real.mean(),
}
GENERATOR = {
    "non_saturating": lambda fake: -F.logsigmoid(fake).mean(),
    "minimax": lambda fake: F.logsigmoid(-fake).mean(),
    "hinge": lambda fake: -fake.mean(),
    "least_squares": lambda fake: ((fake - 1) ** 2 / 2).mean(),
    "wgan_gp": lambda fake: -fake.mean(),
}


def gradients(discriminator, images):
    images = images.detach().requires_grad_()
    (found,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return found.flatten(1)


def plain_step(
    pair, opt_g, opt_d, real, call, loss, d_steps=1, accumulate=1, penalty_weight=10, r1_gamma=0, r1_every=16
):
    generator, discriminator = pair
    for part in real.chunk(d_steps):
        opt_d.zero_grad()
        rows, latents = [], []
        for images in part.chunk(accumulate):
            latents.append(torch.randn(len(images), 6, 1, 1, dtype=D))
            fake = generator(latents[-1])
            outputs = discriminator(images), discriminator(fake.detach())
            total = DISCRIMINATOR[loss](*outputs)
            row = [
                total,
                *(o.mean() if loss not in ("non_saturating", "minimax") else o.sigmoid().mean() for o in outputs),
            ]
            if loss == "wgan_gp":
                place = torch.rand(len(images), 1, 1, 1, dtype=D)
                between = place * images + (1 - place) * fake
                row.append(((gradients(discriminator, between).norm(dim=1) - 1) ** 2).mean())
                total = total + penalty_weight * row[-1]
            elif r1_gamma and call % r1_every == 0:
                row.append((gradients(discriminator, images) ** 2).sum(1).mean())
                total = total + r1_gamma / 2 * r1_every * row[-1]
            (total / accumulate).backward()
            rows.append(row)
        opt_d.step()
    opt_g.zero_grad()
    deceived = []
    for latent in latents:
        output = discriminator(generator(latent) if accumulate > 1 else fake)
        total = GENERATOR[loss](output)
        (total / accumulate).backward()
        after = output.sigmoid() if loss in ("non_saturating", "minimax") else output
        deceived.append([total, after.mean()])
    opt_g.step()
    judged, (loss_g, after) = ([sum(c).item() / len(c) for c in zip(*r, strict=True)] for r in (rows, deceived))
    loss_d, d_real, before, *penalty = judged
    names = ["loss_d", "loss_g", "d_real", "d_fake_before", "d_fake_after", "penalty"]
    return dict(zip(names, [loss_d, loss_g, d_real, before, after, *penalty], strict=False))


@pytest.mark.parametrize("namespace", [nn, fastgan.layers], ids=["torch.nn", "fastgan.layers"])
@pytest.mark.parametrize(
    "options",
    [
        *({"loss": loss} for loss in losses.LOSSES),
        {"loss": "wgan_gp", "d_steps": 3, "penalty_weight": 2.5},
        {"loss": "non_saturating", "r1_gamma": 0.5, "r1_every": 3},
        {"loss": "hinge", "accumulate": 3},
        {"loss": "minimax", "accumulate": 2, "d_steps": 2, "r1_gamma": 3, "r1_every": 1},
        {"loss": "wgan_gp", "accumulate": 2},
    ],
    ids=lambda options: "-".join(f"{value}" for value in options.values()),
)
def test_follows_the_formulas(options, namespace):
    plain, ours = made(), made(namespace=namespace)
    opt_plain = optimizers(*plain)
    step = AdversarialStep(*ours, *optimizers(*ours), **options)
    reals = [torch.rand(12, 1, 16, 16, dtype=D) * 2 - 1 for _ in range(4)]
    torch.manual_seed(1)
    expected = [plain_step(plain, *opt_plain, real, call, **options) for call, real in enumerate(reals)]
    torch.manual_seed(1)
    for real, values in zip(reals, expected, strict=True):
        metrics = step(real)
        assert list(metrics) == list(values)
        assert all(value.shape == () and not value.requires_grad for value in metrics.values())
        assert {name: value.item() for name, value in metrics.items()} == pytest.approx(values, abs=1e-10)
    for network, reference in zip(ours, plain, strict=True):
        for key, tensor in reference.state_dict().items():
            torch.testing.assert_close(network.state_dict()[key], tensor, rtol=0, atol=1e-10, msg=key)


def test_micro_batches_give_the_whole_batchs_gradients():
    """Of networks that treat every image by itself; without a batch-norm the tutorial's are such."""
    pairs = []
    for accumulate in (1, 4):
        pair = [nn.Sequential(*(m for m in net if not isinstance(m, nn.BatchNorm2d))) for net in made()]
        pairs.append(pair)
        step = AdversarialStep(*pair, *optimizers(*pair), accumulate=accumulate)
        torch.manual_seed(1)
        for _ in range(3):
            step(torch.randn(8, 1, 16, 16, dtype=D), torch.randn(8, 6, 1, 1, dtype=D))
    for once, parts in zip(*pairs, strict=True):
        for a, b in zip(once.parameters(), parts.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_penalties_by_hand():
    """D(x) = w x has the gradient w everywhere."""
    weight = torch.tensor([3.0, 4.0], dtype=D, requires_grad=True)
    real, fake = torch.randn(5, 2, dtype=D), torch.randn(5, 2, dtype=D)
    penalty = losses.gradient_penalty(lambda images: images @ weight, real, fake)
    assert penalty.item() == pytest.approx((5 - 1) ** 2)
    (found,) = torch.autograd.grad(penalty, weight)
    assert found.tolist() == pytest.approx([2 * (5 - 1) * 3 / 5, 2 * (5 - 1) * 4 / 5])
    penalty = losses.r1_penalty(lambda images: images @ weight, real)
    assert penalty.item() == pytest.approx(25)
    assert torch.autograd.grad(penalty, weight)[0].tolist() == pytest.approx([6, 8])


def test_the_gradient_penalty_is_taken_between_the_images():
    seen = []
    real, fake = torch.zeros(200, 1, 2, 2), torch.ones(200, 1, 2, 2)
    losses.gradient_penalty(lambda images: seen.append(images) or images.square(), real, fake)
    places = seen[0].flatten(1)
    assert (places == places[:, :1]).all()  # one place for all pixels of an image
    assert 0 <= places.min() < 0.1 < 0.4 < places.mean() < 0.6 < 0.9 < places.max() <= 1


def test_metrics_have_memory_of_their_own():
    pair = made(namespace=fastgan.layers)
    step = AdversarialStep(*pair, *optimizers(*pair), loss="wgan_gp", accumulate=2)
    first = step(torch.randn(4, 1, 16, 16, dtype=D))
    values = {name: value.item() for name, value in first.items()}
    step(torch.randn(4, 1, 16, 16, dtype=D))
    assert {name: value.item() for name, value in first.items()} == values


# ---- fp16 -----------------------------------------------------------------------------------------------------------


def fp16_step(precision="fp16", **options):
    pair = made(namespace=fastgan.layers, dtype=torch.float32)
    adams = [torch.optim.Adam(m.parameters(), lr=2e-3, betas=(0.5, 0.999), fused=True) for m in pair]
    return pair, AdversarialStep(*pair, *adams, precision=precision, **options)


@pytest.mark.parametrize("options", [{}, {"loss": "wgan_gp", "d_steps": 2}, {"r1_gamma": 1.0, "accumulate": 2}])
def test_fp16_is_close_to_fp32(options):
    found = []
    for precision in ("fp16", "fp32"):
        _, step = fp16_step(precision, **options)
        if precision == "fp16":  # torch's first scale lets the first updates overflow
            low = [{**values, "scale": 1024.0} for values in step.state_dict()["scalers"]]
            step.load_state_dict({"calls": 0, "scalers": low})
        torch.manual_seed(1)
        found.append([{name: v.item() for name, v in step(torch.randn(8, 1, 16, 16)).items()} for _ in range(4)])
    for half, full in zip(*found, strict=True):
        assert half == pytest.approx(full, rel=2e-2, abs=5e-3)


def test_fp16_leaves_out_an_update_that_overflows_and_lowers_its_scale():
    pair, step = fp16_step()
    state = step.state_dict()
    state["scalers"][0]["scale"] = 2.0**120
    step.load_state_dict(state)
    before = copy.deepcopy([network.state_dict() for network in pair])
    step(torch.randn(4, 1, 16, 16))
    weights = [
        [torch.equal(m.state_dict()[k], v) for k, v in s.items() if k.endswith("0.weight")]
        for m, s in zip(pair, before, strict=True)
    ]
    assert weights == [[False], [True]]
    assert step.state_dict()["scalers"][0]["scale"] == 2.0**119
    assert step.state_dict()["scalers"][1] == {**state["scalers"][1], "_growth_tracker": 1}


def test_state_round_trips_as_json():
    step = fp16_step(r1_gamma=1.0, r1_every=2)[1]
    assert "penalty" in step(torch.randn(4, 1, 16, 16))
    state = json.loads(json.dumps(step.state_dict()))
    again = fp16_step(r1_gamma=1.0, r1_every=2)[1]
    again.load_state_dict(state)
    assert again.state_dict() == step.state_dict()
    assert again.calls == 1
    assert "penalty" not in again(torch.randn(4, 1, 16, 16))
    with pytest.raises(UserError, match="another precision than 'fp32'"):
        fp16_step("fp32")[1].load_state_dict(state)


# ---- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "wgan"}, "loss must be one of non_saturating, minimax, hinge, least_squares, wgan_gp"),
        ({"d_steps": 0}, "d_steps must be a whole number of at least 1, but it is 0"),
        ({"accumulate": 1.5}, "accumulate must be a whole number"),
        ({"r1_every": True}, "r1_every must be a whole number"),
        ({"r1_gamma": -1}, "r1_gamma must be a number of at least 0, but it is -1"),
        ({"penalty_weight": float("nan")}, "penalty_weight must be a number of at least 0"),
        ({"loss": "wgan_gp", "r1_gamma": 1.0}, "r1_gamma is 1, but loss 'wgan_gp' has a gradient penalty of its own"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing is 0.1, but loss 'hinge' has no labels"),
    ],
)
def test_option_errors(options, words):
    pair = made()
    with pytest.raises(UserError, match=words) as caught:
        AdversarialStep(*pair, *optimizers(*pair), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "hinge"}, "loss 'hinge' is one of scores, but the discriminator ends in a sigmoid"),
        ({"r1_gamma": 1.0}, "r1_gamma is 1, but the discriminator ends in a sigmoid"),
        ({"d_steps": 2, "accumulate": 3}, "real has 4 images, which 2 discriminator updates of 3 micro-batches cannot"),
    ],
)
def test_step_errors(options, words):
    pair = made(sigmoid=True)
    step = AdversarialStep(*pair, *optimizers(*pair), **options)
    with pytest.raises(UserError, match=words):
        step(torch.randn(4, 1, 16, 16, dtype=D))


# ---- through the trainer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "wgan_gp", "d_steps": 2, "spectral_norm": True},
        {"loss": "hinge", "accumulate": 2, "precision": "fp16"},
        {"r1_gamma": 1.0, "r1_every": 2},
    ],
)
def test_the_trainer_passes_the_options_on(trainer, options):
    run = trainer(**options)
    result = run.train()
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    penalised = ["penalty" in row for row in rows]
    assert penalised == [options.get("loss") == "wgan_gp" or ("r1_gamma" in options and i % 2 == 0) for i in range(4)]
    assert run.state.images == 4 * 8 * options.get("d_steps", 1)
    assert run.config.label_smoothing == 0.0
    discriminator = fastgan.load(result.folder).discriminator
    assert hasattr(discriminator.main[0], "parametrizations") is options.get("spectral_norm", False)


def test_each_discriminator_update_gets_a_batch_of_its_own(trainer):
    run = trainer(d_steps=3)
    batches = [run.stream.batch(i, device=run.device, dtype=torch.float32) for i in range(6)]
    torch.testing.assert_close(run.task.batch(range(3, 6)).real, torch.cat(batches[3:]), rtol=0, atol=0)


def test_epochs_count_the_images_of_every_update(trainer):
    assert trainer("a", steps=None, epochs=3).total_steps == 15
    assert trainer("b", steps=None, epochs=3, d_steps=2).total_steps == 8


def test_a_penalty_takes_no_gradients_of_weights_on_its_way():
    """torch's own forwards know that the gradient is of the images alone; a fused run would not."""
    pair = made(namespace=fastgan.layers)
    names = []
    step = AdversarialStep(*pair, *optimizers(*pair), r1_gamma=1.0)
    pair[1].register_forward_hook(lambda module, inputs, output: names.append(output.grad_fn.name()))
    step(torch.randn(4, 1, 16, 16, dtype=D))
    assert names == ["_RunBackward", "_RunBackward", "ConvolutionBackward0", "_RunBackward"]


@pytest.mark.parametrize(
    "options",
    [{"r1_gamma": 1.0, "r1_every": 4, "precision": "fp16"}, {"loss": "wgan_gp", "d_steps": 2, "spectral_norm": True}],
    ids=["R1 and fp16", "wgan_gp and spectral norm"],
)
def test_a_resumed_run_comes_to_the_same_weights(trainer, options):
    """The penalties' interval, the scalers and the power iterations go on where they were."""
    whole = trainer("whole", **options, steps=6, checkpoint_every=3)
    whole.train()
    first = trainer("cut", **options, steps=3)
    first.train()
    resumed = trainer("cut", **options, steps=6)
    torch.manual_seed(99)
    resumed.train(resume=True)
    assert resumed.step.state_dict() == whole.step.state_dict()
    for network in ("generator", "discriminator"):
        ours, theirs = (getattr(run.state, network).state_dict() for run in (resumed, whole))
        assert [key for key in theirs if not torch.equal(ours[key], theirs[key])] == []

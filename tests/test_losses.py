import pytest
import torch
import torch.nn.functional as F
from networks import twins

from fastgan import losses
from fastgan.errors import UserError


@pytest.fixture
def outputs():
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(6, 1, generator=rng, dtype=torch.float64).requires_grad_() for _ in range(2)]


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_discriminator_is_the_formula(outputs, from_logits, smoothing):
    real, fake = outputs
    d_real, d_fake = real.sigmoid(), fake.sigmoid()
    given = (real, fake) if from_logits else (d_real, d_fake)
    judged = losses.discriminator(*given, label_smoothing=smoothing, from_logits=from_logits)
    on_real = -((1 - smoothing) * d_real.log() + smoothing * (1 - d_real).log()).mean()
    expected = on_real - (1 - d_fake).log().mean()
    assert judged.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert judged.probability.tolist() == pytest.approx([d_real.mean().item(), d_fake.mean().item()], rel=1e-12)
    for got, wanted in zip(
        torch.autograd.grad(judged.loss, outputs, retain_graph=True),
        torch.autograd.grad(expected, outputs),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("name", losses.CROSS_ENTROPIES)
@pytest.mark.parametrize("from_logits", [True, False])
def test_generator_is_the_formula(outputs, name, from_logits):
    fake = outputs[1]
    d_fake = fake.sigmoid()
    judged = losses.objective(name, from_logits=from_logits).generator(fake if from_logits else d_fake)
    expected = -d_fake.log().mean() if name == "non_saturating" else (1 - d_fake).log().mean()
    assert judged.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    (got,), (wanted,) = (torch.autograd.grad(loss, fake, retain_graph=True) for loss in (judged.loss, expected))
    torch.testing.assert_close(got, wanted)


def test_equilibrium():
    # At D = 1/2 the discriminator's loss is 2 ln 2 and the generator's ln 2 (Goodfellow et al., 2014).
    undecided = torch.zeros(4)
    ln2 = F.softplus(torch.tensor(0.0)).item()
    assert losses.discriminator(undecided, undecided).loss.item() == pytest.approx(2 * ln2)
    assert losses.non_saturating(undecided).loss.item() == pytest.approx(ln2)
    assert losses.minimax(undecided).loss.item() == pytest.approx(-ln2)


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        ("hinge", lambda r, f: [(1 - r).clamp(min=0), (1 + f).clamp(min=0)], lambda f: -f),
        ("least_squares", lambda r, f: [(r - 1) ** 2 / 2, f**2 / 2], lambda f: (f - 1) ** 2 / 2),
        ("wgan_gp", lambda r, f: [-r, f], lambda f: -f),
    ],
)
def test_losses_of_scores_are_their_formulas(outputs, name, discriminator, generator):
    real, fake = outputs
    found = losses.objective(name)
    for judged, terms, scores in (
        (found.discriminator(real, fake), discriminator(real, fake), (real, fake)),
        (found.generator(fake), [generator(fake)], (fake,)),
    ):
        means = [term.mean() for term in terms]
        assert judged.losses.tolist() == pytest.approx([mean.item() for mean in means], rel=1e-12)
        assert judged.score.tolist() == pytest.approx([score.mean().item() for score in scores], rel=1e-12)
        assert not judged.losses.requires_grad and not judged.score.requires_grad
        for got, wanted in zip(
            torch.autograd.grad(judged.loss, scores), torch.autograd.grad(sum(means), scores), strict=True
        ):
            torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("name", ["hinge", "least_squares", "wgan_gp"])
def test_losses_of_scores_are_taken_in_float32(name):
    judged = losses.objective(name).discriminator(*torch.full((2, 600, 1), 300.0, dtype=torch.float16))
    assert judged.loss.dtype == judged.score.dtype == torch.float32
    assert judged.loss.isfinite()  # squares of 300 are too large for float16


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: losses.objective("hinge!"), "loss must be one of non_saturating, minimax"),
        (lambda: losses.objective(label_smoothing=0.5), "label_smoothing must be"),
        (lambda: losses.objective("hinge", label_smoothing=0.1), "loss 'hinge' has no labels"),
        (lambda: losses.objective("wgan_gp", from_logits=False), "ends in a sigmoid"),
        (lambda: losses.objective("hinge").discriminator(torch.zeros(2), torch.zeros(3)), "output_fake must have"),
        (lambda: losses.discriminator(torch.zeros(2), torch.zeros(3)), "output_fake must have the shape"),
    ],
)
def test_errors(call, words):
    with pytest.raises(UserError, match=words):
        call()


@pytest.mark.parametrize("penalty", ["gradient_penalty", "r1_penalty"])
def test_penalties_through_fused_layers_are_torchs(penalty):
    ours, theirs, images = twins("discriminator")
    grads = []
    for model in (ours, theirs):
        torch.manual_seed(0)
        arguments = (images, images.flip(0)) if penalty == "gradient_penalty" else (images,)
        value = getattr(losses, penalty)(model, *arguments)
        value.backward()
        grads.append([value.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for got, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-10)

"""Published training scripts, run twice from one source: on ``torch.nn`` and, its import line changed, on fastgan."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from cases import relative_error

from fastgan import _native

IMPORTS = {"torch": "import torch.nn as nn", "fastgan": "import fastgan.layers as nn"}
STEPS = 20
# Rounding (1e-16 a value) that training has carried through 20 steps of Adam.
TOLERANCE = 1e-9

GENERATOR = """
import torch
import torch.optim as optim

torch.manual_seed(999)
image_size, nc, nz, ngf, ndf, batch_size = 64, 3, 16, 8, 8, 4


def weights_init(m):
    classname = m.__class__.__name__
    if classname.find("Conv") != -1:
        nn.init.normal_(m.weight.data, 0.0, 0.02)
    elif classname.find("BatchNorm") != -1:
        nn.init.normal_(m.weight.data, 1.0, 0.02)
        nn.init.constant_(m.bias.data, 0)


class Generator(nn.Module):
    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, ngf * 8, 4, 1, 0, bias=False),
            norm(ngf * 8),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 8, ngf * 4, 4, 2, 1, bias=False),
            norm(ngf * 4),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 4, ngf * 2, 4, 2, 1, bias=False),
            norm(ngf * 2),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False),
            norm(ngf),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, input):
        return self.main(input)


def batches():
    for _ in range(steps):
        yield torch.rand(batch_size, nc, image_size, image_size) * 2 - 1
"""

DCGAN = """
class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(nc, ndf, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 2, ndf * 4, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 4),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 4, ndf * 8, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 8),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 8, 1, 4, 1, 0, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, input):
        return self.main(input)


netG = Generator().apply(weights_init)
netD = Discriminator().apply(weights_init)
criterion = nn.BCELoss()
optimizerD = optim.Adam(netD.parameters(), lr=2e-4, betas=(0.5, 0.999))
optimizerG = optim.Adam(netG.parameters(), lr=2e-4, betas=(0.5, 0.999))
fixed_noise = torch.randn(batch_size, nz, 1, 1)

losses = []
for real in batches():
    netD.zero_grad()
    label = torch.full((batch_size,), 1.0)
    errD_real = criterion(netD(real).view(-1), label)
    errD_real.backward()
    fake = netG(torch.randn(batch_size, nz, 1, 1))
    label.fill_(0.0)
    errD_fake = criterion(netD(fake.detach()).view(-1), label)
    errD_fake.backward()
    optimizerD.step()

    netG.zero_grad()
    label.fill_(1.0)
    errG = criterion(netD(fake).view(-1), label)
    errG.backward()
    optimizerG.step()
    losses += [errD_real.item(), errD_fake.item(), errG.item()]

with torch.no_grad():
    images = netG(fixed_noise)
"""

WGAN_GP = """
class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(nc, ndf, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(ndf * 2, ndf * 4, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(ndf * 4, 1, 8),
        )

    def forward(self, input):
        return self.main(input).flatten()


def gradient_penalty(critic, real, fake):
    mix = torch.rand(batch_size, 1, 1, 1)
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    scores = critic(between)
    (gradients,) = torch.autograd.grad(scores, between, torch.ones_like(scores), create_graph=True)
    return ((gradients.flatten(1).norm(2, dim=1) - 1) ** 2).mean()


netG = Generator(nn.BatchNorm2d if batch_norm else nn.Identity).apply(weights_init)
netD = Critic().apply(weights_init)
optimizerD = optim.Adam(netD.parameters(), lr=1e-4, betas=(0.0, 0.9))
optimizerG = optim.Adam(netG.parameters(), lr=1e-4, betas=(0.0, 0.9))

losses = []
for real in batches():
    fake = netG(torch.randn(batch_size, nz, 1, 1))
    optimizerD.zero_grad()
    penalty = gradient_penalty(netD, real, fake.detach())
    lossD = netD(fake.detach()).mean() - netD(real).mean() + 10 * penalty
    lossD.backward()
    optimizerD.step()

    optimizerG.zero_grad()
    lossG = -netD(fake).mean()
    lossG.backward()
    optimizerG.step()
    losses += [penalty.item(), lossD.item(), lossG.item()]

with torch.no_grad():
    images = netG(torch.randn(batch_size, nz, 1, 1))
"""

SPECTRAL_NORM = """
spectral_norm = nn.utils.parametrizations.spectral_norm if parametrized else nn.utils.spectral_norm


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            spectral_norm(nn.Conv2d(nc, ndf, 4, 2, 1)),
            nn.LeakyReLU(0.1, inplace=True),
            spectral_norm(nn.Conv2d(ndf, ndf * 2, 4, 2, 1)),
            nn.LeakyReLU(0.1, inplace=True),
            spectral_norm(nn.Conv2d(ndf * 2, ndf * 4, 4, 2, 1)),
            nn.LeakyReLU(0.1, inplace=True),
            spectral_norm(nn.Conv2d(ndf * 4, 1, 8)),
        )

    def forward(self, input):
        return self.main(input).flatten()


netG = Generator().apply(weights_init)
netD = Discriminator()
optimizerD = optim.Adam(netD.parameters(), lr=2e-4, betas=(0.5, 0.999))
optimizerG = optim.Adam(netG.parameters(), lr=2e-4, betas=(0.5, 0.999))

losses = []
for real in batches():
    fake = netG(torch.randn(batch_size, nz, 1, 1))
    optimizerD.zero_grad()
    lossD = nn.functional.relu(1 - netD(real)).mean() + nn.functional.relu(1 + netD(fake.detach())).mean()
    lossD.backward()
    optimizerD.step()

    optimizerG.zero_grad()
    lossG = -netD(fake).mean()
    lossG.backward()
    optimizerG.step()
    losses += [lossD.item(), lossG.item()]

netD.eval()  # no power iteration
with torch.no_grad():
    images = netD(fake)
"""


@pytest.fixture(autouse=True)
def double():
    """Double precision by default, in which a script says no dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def run_both(script: str, **settings) -> Counter[str]:
    """Runs the script on both, compares what it leaves behind, and returns fastgan's native calls: "op/pass"."""
    left = {}
    for name, line in IMPORTS.items():
        left[name] = {"steps": STEPS, **settings}
        _native.reset_counters()
        exec(compile(f"{line}\n{GENERATOR}{script}", f"<{name}>", "exec"), left[name])
        calls = native_calls()
        assert name == "fastgan" or not calls
    ours, theirs = left["fastgan"], left["torch"]
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=TOLERANCE)
    assert relative_error(ours["images"], theirs["images"]) < TOLERANCE
    for network in ("netG", "netD"):
        state, expected = (names[network].state_dict() for names in (ours, theirs))
        assert list(state) == list(expected)
        for key, value in state.items():
            assert _error(value, expected[key]) < TOLERANCE, f"{network}.{key}"
        for (key, p), q in zip(ours[network].named_parameters(), theirs[network].parameters(), strict=True):
            assert _error(p.grad, q.grad) < TOLERANCE, f"{network}.{key}.grad"
    return calls


def _error(value, truth) -> float:
    """norm(value - truth) / norm(truth), 0 where both are 0."""
    return float((value - truth).double().norm() / truth.double().norm().clamp_min(1e-300))


def native_calls() -> Counter[str]:
    """Kernel counters by "op/pass", over memory formats, dtypes and instruction sets."""
    calls = Counter()
    for name, count in _native.counters().items():
        calls[name.split("_contiguous")[0].split("_channels_last")[0].split("_float64")[0]] += count
    return calls


def test_dcgan_tutorial():
    calls = run_both(DCGAN)
    # A step: three passes of the discriminator, one of the generator, all of them there and back; and the samples.
    # The generator's last activation is the end of its convolution.
    there = {"normed": STEPS * (3 * 3 + 4) + 4, "bare": STEPS * 3 * 2}
    back = {"normed": STEPS * (3 * 3 + 4), "bare": STEPS * (3 * 2 + 1)}
    assert calls["batch_norm_act/statistics"] == there["normed"]
    assert calls["batch_norm_act/backward"] == back["normed"]
    assert calls["activation/forward"] == there["bare"]
    assert calls["activation/backward"] == back["bare"]
    assert calls["conv_transpose_bn_act/forward_scatter"] == STEPS + 1
    assert calls["bce/forward"] == calls["bce/backward"] == 3 * STEPS
    assert calls["batch_norm_act/forward"] >= there["normed"]  # once or more, as the next block takes it in


@pytest.mark.parametrize("batch_norm", [True, False], ids=["batch_norm", "no_norm"])
def test_wgan_gp(batch_norm):
    calls = run_both(WGAN_GP, batch_norm=batch_norm)
    normed = 4 if batch_norm else 0
    # A step: the critic four times there and three times back, since the penalty's gradient, which is differentiated
    # again, is plain torch's; the generator once. Its only block without batch-norm is the last: with Identity in the
    # place of batch-norm the activations before it stand alone.
    assert calls["batch_norm_act/statistics"] == normed * (STEPS + 1)
    assert calls["batch_norm_act/backward"] == normed * STEPS
    assert calls["activation/forward"] == STEPS * 4 * 3
    assert calls["conv_transpose_bn_act/forward_scatter"] == STEPS + 1
    assert calls["activation/backward"] == STEPS * (3 * 3 + 1)


@pytest.mark.parametrize("parametrized", [False, True], ids=["old", "parametrizations"])
def test_spectral_norm(parametrized):
    calls = run_both(SPECTRAL_NORM, parametrized=parametrized)
    assert calls["batch_norm_act/statistics"] == calls["batch_norm_act/backward"] == 4 * STEPS

"""The networks of the DCGAN tutorial, for 16x16, and its loop's body."""

import torch
from torch import nn


def networks(namespace=nn, sigmoid=False, latent_dim=6, width=4):
    """The networks of the DCGAN tutorial, for 16x16."""
    n = namespace
    generator = n.Sequential(
        *(n.ConvTranspose2d(latent_dim, 2 * width, 4, bias=False), n.BatchNorm2d(2 * width), n.ReLU(True)),
        *(n.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False), n.BatchNorm2d(width), n.ReLU(True)),
        *(n.ConvTranspose2d(width, 1, 4, 2, 1, bias=False), n.Tanh()),
    )
    discriminator = n.Sequential(
        *(n.Conv2d(1, width, 4, 2, 1, bias=False), n.LeakyReLU(0.2, True)),
        *(n.Conv2d(width, 2 * width, 4, 2, 1, bias=False), n.BatchNorm2d(2 * width), n.LeakyReLU(0.2, True)),
        n.Conv2d(2 * width, 1, 4, bias=False),
        *([n.Sigmoid()] if sigmoid else []),
    )
    return generator, discriminator


def made(seed=0, dtype=torch.float64, **options):
    torch.manual_seed(seed)
    return [network.to(dtype) for network in networks(**options)]


def optimizers(generator, discriminator):
    return [torch.optim.Adam(m.parameters(), lr=2e-3, betas=(0.5, 0.999)) for m in (generator, discriminator)]


def tutorial_step(generator, discriminator, opt_g, opt_d, real, criterion, minimax=False, smoothing=0.0):
    """The loop's body as the tutorials write it."""
    discriminator.zero_grad()
    output = discriminator(real).view(-1)
    label = torch.full_like(output, 1.0 - smoothing)
    error_real = criterion(output, label)
    error_real.backward()
    fake = generator(torch.randn(len(real), 6, 1, 1, dtype=real.dtype))
    output = discriminator(fake.detach()).view(-1)
    error_fake = criterion(output, torch.zeros_like(output))
    error_fake.backward()
    opt_d.step()
    generator.zero_grad()
    output = discriminator(fake).view(-1)
    error = -criterion(output, torch.zeros_like(output)) if minimax else criterion(output, torch.ones_like(output))
    error.backward()
    opt_g.step()
    return (error_real + error_fake).item(), error.item()

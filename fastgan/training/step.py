"""One alternating update of a discriminator and a generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastgan import losses
from fastgan.errors import UserError

from .latent import Latent, LatentSource

__all__ = ["RESULTS", "AdversarialStep"]

RESULTS = ("loss_d", "loss_g", "d_real", "d_fake_before", "d_fake_after")
PRECISIONS = ("auto", "fp32", "bf16")
CAPTURES = ("auto", "never")

# What may stand between a network's sigmoid and its output, by the beginning of the names in autograd's graph.
_SHAPING = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Select", "ToCopy", "Alias", "Clone")


class AdversarialStep:
    """One alternating GAN update: the discriminator on real and on generated images, then the generator against it.

    Real and generated images are separate batches to batch-norm, and the generator is judged by the updated
    discriminator, as in the usual loop of a DCGAN. The generator's pass computes no gradients of the discriminator's weights.

    Args:
        generator: latents [N, ...] -> images [N, C, H, W].
        discriminator: images -> [N, ...], logits, or probabilities where it ends in a sigmoid, which is noticed.
        opt_g, opt_d: their optimizers.
        loss: the generator's, "non_saturating" or "minimax" (:mod:`fastgan.losses`).
        latent: the shape of one latent, or a callable, batch size -> latents [N, ...]; by default ``generator.latent_dim``
            or the first layer's input size.
        precision: "auto" keeps the parameters' dtype and the surrounding autocast; "bf16" runs both networks under
            bfloat16 autocast, "fp32" under none.
        capture: "auto" or "never": whether the whole step may be recorded as one CUDA graph.
        label_smoothing: real images are labelled with 1 - this (one-sided).

    Raises:
        UserError: for an unknown loss, precision or capture, or where the shape of a latent cannot be told.

    Source: Goodfellow et al., 2014, https://arxiv.org/abs/1406.2661, Algorithm 1 with one step of D.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        opt_g: Optimizer,
        opt_d: Optimizer,
        *,
        loss: str = "non_saturating",
        latent: Latent = None,
        precision: str = "auto",
        capture: str = "auto",
        label_smoothing: float = 0.0,
    ) -> None:
        for name, value, allowed in (("precision", precision, PRECISIONS), ("capture", capture, CAPTURES)):
            if value not in allowed:
                raise UserError(f"{name} must be one of {', '.join(allowed)}, but it is {value!r}.")
        self.generator, self.discriminator = generator, discriminator
        self.opt_g, self.opt_d = opt_g, opt_d
        self.latent = LatentSource(generator, latent)
        self.precision = precision
        self.real_target = 1.0 - label_smoothing
        self._generator_loss = losses.generator_loss(loss)
        self._from_logits: bool | None = None  # known when the discriminator has run once

    @torch.enable_grad()
    def __call__(self, real: Tensor, latent: Tensor | None = None) -> dict[str, Tensor]:
        """Updates both networks once.

        Args:
            real: [N, C, H, W] on the networks' device, in the value range of the generator's images.
            latent: [N, ...]; drawn where it is not given.

        Returns:
            Detached 0-d tensors on the networks' device: ``loss_d`` and ``loss_g``; ``d_real``, the mean of D(x);
            ``d_fake_before`` and ``d_fake_after``, the mean of D(G(z)) before and after the discriminator's update.

        Raises:
            UserError: if there are not as many latents as real images.
        """
        if latent is not None and len(latent) != len(real):
            raise UserError(f"latent has {len(latent)} rows and real {len(real)}; give one latent for each real image.")
        with self._autocast(real.device.type):
            judged_real = self.discriminator(real)
            fake = self.generator(self.latent(len(real)) if latent is None else latent)
            judged_fake = self.discriminator(fake.detach())
        if self._from_logits is None:
            self._from_logits = not _ends_in_sigmoid(self.discriminator, judged_fake)
        on_d = losses.discriminator(
            torch.cat([judged_real, judged_fake]), real_target=self.real_target, from_logits=self._from_logits
        )
        self.opt_d.zero_grad()
        on_d.loss.backward()
        self.opt_d.step()

        # Autograd functions written in Python compute a weight's gradient wherever it requires one; backward(inputs=...)
        # would only drop it.
        with _frozen(self.discriminator):
            with self._autocast(real.device.type):
                judged_fake = self.discriminator(fake)
            on_g = self._generator_loss(judged_fake, from_logits=self._from_logits)
            self.opt_g.zero_grad()
            on_g.loss.backward()
        self.opt_g.step()
        values = (on_d.loss.detach(), on_g.loss.detach(), *on_d.probability, *on_g.probability)
        return dict(zip(RESULTS, values, strict=True))

    def _autocast(self, device: str) -> AbstractContextManager:
        if self.precision == "auto":
            return nullcontext()
        return torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16")


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _ends_in_sigmoid(network: nn.Module, output: Tensor) -> bool:
    """Whether ``output``, of ``network``, is a sigmoid's: by its last module, or by the graph for ``torch.sigmoid``."""
    *_, last = network.modules()
    if isinstance(last, nn.Sigmoid):
        return True
    node = output.grad_fn
    while node is not None and node.name().startswith(_SHAPING):
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith("Sigmoid")

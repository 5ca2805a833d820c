"""One alternating update of the two networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastgan import losses
from fastgan.errors import UserError
from fastgan.training._latent import LatentSpec, first_weight, resolve_latent
from fastgan.training._sigmoid import gives_probabilities

__all__ = ["METRICS", "PRECISIONS", "AdversarialStep"]

METRICS = ("loss_d", "loss_g", "d_real", "d_fake_before", "d_fake_after")
PRECISIONS = ("auto", "fp32", "bf16")
CAPTURES = ("auto", "never")


class AdversarialStep:
    """One alternating update: the discriminator on a real and on a generated batch, then the generator against the new
    one.

    It is the loop of Goodfellow et al. (2014), Algorithm 1 with k = 1, as DCGAN trainers write it: real and generated
    images go through the discriminator as separate batches, and the images that the discriminator has learnt from are
    those that the generator learns from. With the same seeds the parameters follow such a loop's. In the generator's
    half no gradients of the discriminator's weights are computed.

    Args:
        generator, discriminator: both in training mode; the modes are the caller's business.
        opt_g, opt_d: their optimizers.
        loss: the generator's objective, "non_saturating" or "minimax" (see :mod:`fastgan.losses`). A discriminator that
            ends in a sigmoid is trained with the same cross-entropy on probabilities.
        latent: the shape of one latent, or a function from the batch size to latents. By default
            ``generator.latent_dim``, or else the input size of the generator's first layer.
        precision: "auto" keeps the parameters' dtype and the surrounding autocast; "bf16" runs the networks under
            bfloat16 autocast, "fp32" without any.
        capture: "auto" or "never": whether the step may be captured as a CUDA graph. No step is captured yet.
        label_smoothing: the discriminator's target for real images is 1 minus this (one-sided); at least 0, below 0.5.

    Raises:
        UserError: where an argument is none of these.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        opt_g: Optimizer,
        opt_d: Optimizer,
        *,
        loss: str = "non_saturating",
        latent: LatentSpec = None,
        precision: str = "auto",
        capture: str = "auto",
        label_smoothing: float = 0.0,
    ) -> None:
        losses.check_options(loss, label_smoothing)
        for name, value, allowed in (("precision", precision, PRECISIONS), ("capture", capture, CAPTURES)):
            if value not in allowed:
                raise UserError(f"{name} must be one of {', '.join(allowed)}, but it is {value!r}; choose one of them.")
        self.generator, self.discriminator, self.opt_g, self.opt_d = generator, discriminator, opt_g, opt_d
        self.loss, self.label_smoothing, self.precision, self.capture = loss, label_smoothing, precision, capture
        self.draw_latents = resolve_latent(latent, generator)
        self.from_logits: bool | None = None
        """Whether the discriminator gives logits; known after the first step."""

    @torch.enable_grad()
    def __call__(self, real: Tensor, latent: Tensor | None = None) -> dict[str, Tensor]:
        """Updates both networks.

        Args:
            real: images [N, C, H, W], floating point, usually in [-1, 1].
            latent: N latents; drawn with torch's global generator by default.

        Returns:
            Detached 0-d tensors, without waiting for the device: ``loss_d`` and ``loss_g``, the losses; ``d_real``, the
            mean of D(x); ``d_fake_before`` and ``d_fake_after``, the mean of D(G(z)) before and after the
            discriminator's update.

        Raises:
            UserError: where ``real`` or ``latent`` does not fit the networks.
        """
        self._check_real(real)
        self.opt_d.zero_grad(set_to_none=True)
        with self._autocast(real):
            output_real = self.discriminator(real)
            fake = self.generator(self.draw_latents(len(real)) if latent is None else latent)
            _check_fake(fake, real)
            output_fake = self.discriminator(fake.detach())
        objective = self._objective(output_real)
        judged = objective.discriminator(output_real, output_fake)
        judged.loss.backward()
        _update(self.opt_d)

        self.opt_g.zero_grad(set_to_none=True)
        # Frozen, and not merely left out of backward: an autograd function written in Python computes the gradient of a
        # weight that asks for one, whoever wants it.
        with _frozen(self.discriminator):
            with self._autocast(real):
                output_fake = self.discriminator(fake)
            deceived = objective.generator(output_fake)
            deceived.loss.backward()
        _update(self.opt_g)
        values = (judged.loss.detach(), deceived.loss.detach(), *judged.probability, *deceived.probability)
        return dict(zip(METRICS, values, strict=True))

    def _autocast(self, real: Tensor) -> AbstractContextManager:
        if self.precision == "auto":
            return nullcontext()
        return torch.autocast(real.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def _objective(self, output: Tensor) -> losses.Objective:
        if self.from_logits is None:
            self.from_logits = not gives_probabilities(self.discriminator, output)
        return losses.objective(self.loss, label_smoothing=self.label_smoothing, from_logits=self.from_logits)

    def _check_real(self, real: Tensor) -> None:
        if not isinstance(real, Tensor) or real.dim() != 4 or len(real) == 0 or not real.is_floating_point():
            given = f"{real.dtype} {list(real.shape)}" if isinstance(real, Tensor) else f"a {type(real).__name__}"
            raise UserError(
                f"real must be a floating-point tensor [N, C, H, W] with N at least 1, but it is {given}; "
                "fastgan.data.to_float makes such a one of uint8 images."
            )
        weight = first_weight(self.discriminator)
        if weight.numel() and weight.device != real.device:
            raise UserError(f"real is on {real.device}, but the discriminator is on {weight.device}; move one of them.")


def _check_fake(fake: Tensor, real: Tensor) -> None:
    if fake.shape != real.shape:
        raise UserError(
            f"real is {list(real.shape)}, but the generator makes {list(fake.shape)}; give real images of that size, "
            "and one latent for each."
        )


def _update(optimizer: Optimizer) -> None:
    optimizer.step()
    # Under an autocast of the caller's, low-precision copies of the old weights would outlive them.
    torch.clear_autocast_cache()


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Inside, no parameter asks for a gradient; afterwards those do that did before."""
    asking = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)

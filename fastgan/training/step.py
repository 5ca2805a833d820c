"""One alternating update of the two networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastgan import losses
from fastgan.errors import UserError, counted
from fastgan.layers import _gate
from fastgan.training._arguments import check_counts, check_labels, check_optimizers, check_weights
from fastgan.training._capture import StepGraph
from fastgan.training._latent import LatentSpec, first_weight, resolve_latent
from fastgan.training._memory_order import in_memory_order
from fastgan.training._sigmoid import gives_probabilities
from fastgan.training._split import judge_together, judges_together

__all__ = ["METRICS", "PRECISIONS", "AdversarialStep"]

METRICS = ("loss_d", "loss_g", "d_real", "d_fake_before", "d_fake_after")
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("auto", *AUTOCAST)
CAPTURES = ("auto", "never")


class Made(NamedTuple):
    """What a micro-batch's images were made of, and the images themselves where they keep their graph."""

    latent: Tensor
    labels: Tensor | None
    real: Tensor
    fake: Tensor | None


class AdversarialStep:
    """One alternating update: the discriminator on a real and on a generated batch, then the generator against the new
    one.

    It is the loop of Goodfellow et al. (2014), Algorithm 1, as DCGAN trainers write it: real and generated images go
    through the discriminator as separate batches, and the images that the discriminator has learnt from last are those
    that the generator learns from. With the same seeds the parameters follow such a loop's.

    Real and generated images go through the discriminator in one launch, batch-norm's statistics apart, where every
    module of it is known to treat each image by itself, and otherwise in two (:func:`fastgan.explain` says which). A
    network with a forward of its own is known where its class says ``per_sample = True``. In the generator's half no
    gradients of the discriminator's weights are computed.

    On a GPU the whole step becomes one CUDA graph, once it has been called a few times in the same way: the networks'
    own Python code runs no more then. Learning rates may change at any time; another setting of the step or mode of a
    module gets a new graph. Steps with R1, in fp16, with hooks, that wait for the device (``.item()``), or with
    optimizers that are neither fused nor capturable are not captured.

    Args:
        generator, discriminator: both in training mode; the modes are the caller's business.
        opt_g, opt_d: their optimizers.
        loss: the objective, one of :data:`fastgan.losses.LOSSES`. With the cross-entropies "non_saturating" and
            "minimax", a discriminator that ends in a sigmoid is trained on probabilities; "hinge", "least_squares" and
            "wgan_gp" are of scores.
        latent: the shape of one latent, or a function from the batch size to latents. By default
            ``generator.latent_dim``, or else the input size of the generator's first layer.
        precision: "auto" keeps the parameters' dtype and the surrounding autocast; "bf16" runs the networks under
            bfloat16 autocast, "fp16" under float16 autocast with a gradient scaler for each network, "fp32" without.
        capture: "auto" or "never": whether the step may be captured as a CUDA graph.
        label_smoothing: the discriminator's target for real images is 1 minus this (one-sided); at least 0, below 0.5.
        d_steps: discriminator updates for each one of the generator, each on its own part of ``real``.
        accumulate: into how many micro-batches each update's images are cut. Gradients are their mean; batch-norm's
            statistics are each micro-batch's own. For more than one, images are generated a second time in the
            generator's half, from the same latents, rather than kept: batch-norm counts them twice.
        penalty_weight: the weight of the gradient penalty of "wgan_gp".
        r1_gamma: gamma of the R1 penalty gamma / 2 E[|grad D(x)|^2]; 0 for none. Not with "wgan_gp".
        r1_every: it is added in every so manieth call only, with so many times the weight (Karras et al., "Analyzing
            and Improving the Image Quality of StyleGAN", 2020, https://arxiv.org/abs/1912.04958, appendix B).
        l1_weight: the weight of the mean absolute difference between generated and real images in the generator's loss;
            where images are made of images, pix2pix takes 100 (Isola et al., 2017, https://arxiv.org/abs/1611.07004).

    Networks for classes are called ``generator(latent, labels)`` and ``discriminator(images, labels)``, where labels
    are given. A discriminator whose class says ``judges_pairs = True`` is called ``discriminator(images, source)``
    with the images that its images were made of, which stand in the place of latents.

    Penalties are computed without autocast.

    Raises:
        UserError: where an argument is none of these, or an optimizer holds no parameter of its network.
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
        d_steps: int = 1,
        accumulate: int = 1,
        penalty_weight: float = 10.0,
        r1_gamma: float = 0.0,
        r1_every: int = 16,
        l1_weight: float = 0.0,
    ) -> None:
        losses.check_options(loss, label_smoothing)
        for name, value, allowed in (("precision", precision, PRECISIONS), ("capture", capture, CAPTURES)):
            if value not in allowed:
                raise UserError(f"{name} must be one of {', '.join(allowed)}, but it is {value!r}; choose one of them.")
        check_counts(d_steps=d_steps, accumulate=accumulate, r1_every=r1_every)
        check_weights(penalty_weight=penalty_weight, r1_gamma=r1_gamma, l1_weight=l1_weight)
        losses.check_r1(loss, r1_gamma)
        check_optimizers(opt_g=(opt_g, "generator", generator), opt_d=(opt_d, "discriminator", discriminator))
        self.generator, self.discriminator, self.opt_g, self.opt_d = generator, discriminator, opt_g, opt_d
        self.loss, self.label_smoothing, self.precision, self.capture = loss, label_smoothing, precision, capture
        self.d_steps, self.accumulate = d_steps, accumulate
        self.penalty_weight, self.r1_gamma, self.r1_every = penalty_weight, r1_gamma, r1_every
        self.l1_weight = l1_weight
        self.draw_latents = resolve_latent(latent, generator)
        self.from_logits: bool | None = None
        """Whether the discriminator gives logits, or scores; known after the first step."""
        self.calls = 0
        """Steps done."""
        scaled = precision == "fp16"
        self._scalers = {
            optimizer: torch.amp.GradScaler(first_weight(module).device.type, enabled=scaled)
            for optimizer, module in ((opt_d, discriminator), (opt_g, generator))
        }
        self._graph = StepGraph(self._update, (generator, discriminator), (opt_g, opt_d), self._settings)

    @torch.enable_grad()
    def __call__(self, real: Tensor, latent: Tensor | None = None, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Updates both networks.

        Args:
            real: images [N, C, H, W], floating point, usually in [-1, 1]; N a multiple of ``d_steps * accumulate``.
            latent: N latents, or the N images that ``real`` are to be made of; drawn with torch's global generator by
                default.
            labels: the N classes of the real images, int64, and those of which as many are generated.

        Returns:
            Detached 0-d tensors, without waiting for the device: ``loss_d`` and ``loss_g``, the losses without
            penalties; ``d_real``, the mean of D(x); ``d_fake_before`` and ``d_fake_after``, the mean of D(G(z)) before
            and after the discriminator's update. D is a probability with the cross-entropies, and with the other losses
            the score itself. ``penalty``, not weighted, in the steps that have one, and ``l1`` with ``l1_weight``. Of
            several discriminator updates they tell of the last one.

        Raises:
            UserError: where ``real``, ``latent`` or ``labels`` does not fit the networks.
        """
        self._check_real(real)
        if labels is not None:
            check_labels(labels, real)
        regularise = self.r1_gamma > 0 and self.calls % self.r1_every == 0
        try:
            if self.capture == "auto" and real.is_cuda and not regularise and self.precision != "fp16":
                metrics = self._graph(real, self.draw_latents(len(real)) if latent is None else latent, labels)
            else:
                metrics = self._update(real, latent, labels, regularise)
        except RuntimeError as error:
            self._check_dtype(real, error)
            raise
        self.calls += 1
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """What the step itself remembers, as JSON has it: ``calls``, and of fp16 the gradient scalers."""
        return {"calls": self.calls, "scalers": [scaler.state_dict() for scaler in self._scalers.values()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`. Raises UserError for the state of a step in another precision."""
        for scaler, values in zip(self._scalers.values(), state["scalers"], strict=True):
            if bool(values) != scaler.is_enabled():
                raise UserError(
                    f"the state of the step is of another precision than {self.precision!r}; give the one it was saved "
                    "with."
                )
            scaler.load_state_dict(values)
        self.calls = state["calls"]

    def _settings(self) -> tuple[Any, ...]:
        """What may be set between two steps, but for what keeps a step from being captured."""
        return (
            *(self.loss, self.label_smoothing, self.precision, self.d_steps, self.accumulate),
            *(self.penalty_weight, self.l1_weight),
        )

    def _update(
        self, real: Tensor, latent: Tensor | None, labels: Tensor | None, regularise: bool = False
    ) -> dict[str, Tensor]:
        parts = zip(*(_chunk(tensor, self.d_steps) for tensor in (real, latent, labels)), strict=True)
        for turn, part in enumerate(parts, 1):
            # The generator's half needs the graph of what the last turn makes; several micro-batches' are not kept.
            keeps = turn == self.d_steps and self.accumulate == 1
            judged, made = self._update_discriminator(*part, regularise, keeps)
        deceived = self._update_generator(made)
        found = {
            **dict(zip(("loss_d", "d_real", "d_fake_before", "penalty"), judged, strict=False)),
            **dict(zip(("loss_g", "d_fake_after", "l1"), deceived, strict=False)),
        }
        return {name: found[name] for name in (*METRICS, "penalty", "l1") if name in found}

    def _update_discriminator(
        self, real: Tensor, latent: Tensor | None, labels: Tensor | None, regularise: bool, keeps: bool
    ) -> tuple[list[Tensor], list[Made]]:
        """loss_d, d_real, d_fake_before and, where there is one, penalty; and what was made."""
        self.opt_d.zero_grad(set_to_none=True)
        rows, made = [], []
        for part in zip(*(_chunk(tensor, self.accumulate) for tensor in (real, latent, labels)), strict=True):
            judged, one = self._judge(*part, keeps)
            loss, _, means = judged
            rows.append([loss.detach(), *means])
            if self.loss == "wgan_gp" or regularise:
                weight, penalty = self._penalty(one)
                loss = loss + weight * penalty
                rows[-1].append(penalty.detach())
            self._backward(loss, self.opt_d)
            made.append(one if keeps else one._replace(fake=None))
        self._apply(self.opt_d)
        return _means(rows), made

    def _judge(
        self, real: Tensor, latent: Tensor | None, labels: Tensor | None, keeps: bool
    ) -> tuple[losses.Loss, Made]:
        together = judges_together(self.discriminator)
        with self._autocast(real):
            if not together:
                output_real = self.discriminator(real, *self._given(latent, labels))
            latent = self.draw_latents(len(real)) if latent is None else latent
            given = self._given(latent, labels)
            with torch.set_grad_enabled(keeps):
                fake = self._generate(latent, labels)
            _check_fake(fake, real)
            if together:
                output_real, output_fake = judge_together(self.discriminator, real, fake.detach(), *given)
            else:
                output_fake = self.discriminator(fake.detach(), *given)
        judged = self._objective(output_real).discriminator(output_real, output_fake)
        return judged, Made(latent, labels, real, fake)

    def _penalty(self, made: Made) -> tuple[float, Tensor]:
        """The weight, and the penalty."""
        given = self._given(made.latent, made.labels)

        def discriminator(images: Tensor) -> Tensor:
            return self.discriminator(images, *given)

        with torch.autocast(made.real.device.type, enabled=False), _gate.shut():
            if self.loss == "wgan_gp":
                return self.penalty_weight, losses.gradient_penalty(discriminator, made.real, made.fake)
            return self.r1_gamma / 2 * self.r1_every, losses.r1_penalty(discriminator, made.real)

    def _update_generator(self, made: Sequence[Made]) -> list[Tensor]:
        """loss_g, d_fake_after and, where it has a weight, l1."""
        self.opt_g.zero_grad(set_to_none=True)
        rows = []
        # Frozen, and not merely left out of backward: an autograd function written in Python computes the gradient of a
        # weight that asks for one, whoever wants it.
        with _frozen(self.discriminator):
            for latent, labels, real, fake in made:
                with self._autocast(real):
                    fake = self._generate(latent, labels) if fake is None else fake
                    output = self.discriminator(fake, *self._given(latent, labels))
                loss, _, means = self._objective(output).generator(output)
                rows.append([loss.detach(), *means])
                if self.l1_weight:
                    difference = (fake.to(real.dtype) - real).abs().mean()
                    loss = loss + self.l1_weight * difference
                    rows[-1].append(difference.detach())
                self._backward(loss, self.opt_g)
        self._apply(self.opt_g)
        return _means(rows)

    def _generate(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        return self.generator(latent) if labels is None else self.generator(latent, labels)

    def _given(self, latent: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
        """What the discriminator sees beside images."""
        if labels is not None:
            return (labels,)
        return (latent,) if getattr(self.discriminator, "judges_pairs", False) else ()

    def _backward(self, loss: Tensor, optimizer: Optimizer) -> None:
        loss = loss if self.accumulate == 1 else loss / self.accumulate
        self._scalers[optimizer].scale(loss).backward()

    def _apply(self, optimizer: Optimizer) -> None:
        scaler = self._scalers[optimizer]
        with in_memory_order(optimizer):
            scaler.step(optimizer)
        scaler.update()
        # Under an autocast of the caller's, low-precision copies of the old weights would outlive them.
        torch.clear_autocast_cache()

    def _autocast(self, real: Tensor) -> AbstractContextManager:
        if self.precision == "auto":
            return nullcontext()
        dtype = AUTOCAST[self.precision]
        return torch.autocast(real.device.type, dtype, enabled=dtype is not None)

    def _objective(self, output: Tensor) -> losses.Objective:
        if self.from_logits is None:
            self.from_logits = not gives_probabilities(self.discriminator, output)
            if self.r1_gamma and not self.from_logits:
                raise UserError(
                    f"r1_gamma is {self.r1_gamma:g}, but the discriminator ends in a sigmoid, and R1 is of logits; "
                    "leave the sigmoid out, or set r1_gamma to 0."
                )
        return losses.objective(self.loss, label_smoothing=self.label_smoothing, from_logits=self.from_logits)

    def _check_real(self, real: Tensor) -> None:
        if not isinstance(real, Tensor) or real.dim() != 4 or len(real) == 0 or not real.is_floating_point():
            given = f"{real.dtype} {list(real.shape)}" if isinstance(real, Tensor) else f"a {type(real).__name__}"
            raise UserError(
                f"real must be a floating-point tensor [N, C, H, W] with N at least 1, but it is {given}; "
                "fastgan.data.to_float makes such a one of uint8 images."
            )
        if len(real) % (self.d_steps * self.accumulate):
            raise UserError(
                f"real has {counted(len(real), 'image')}, which {self.d_steps} discriminator updates of "
                f"{self.accumulate} micro-batches cannot share evenly; give a multiple of d_steps * accumulate."
            )
        weight = first_weight(self.discriminator)
        if weight.numel() and weight.device != real.device:
            raise UserError(f"real is on {real.device}, but the discriminator is on {weight.device}; move one of them.")

    def _check_dtype(self, real: Tensor, error: RuntimeError) -> None:
        """Only of what has failed: a network of one's own may cast its input."""
        weight = first_weight(self.discriminator)
        if weight.numel() and weight.dtype != real.dtype and "type" in str(error):
            raise UserError(
                f"real is {real.dtype}, but the discriminator's weights are {weight.dtype}; give "
                f"real.to({weight.dtype})."
            ) from error


def _check_fake(fake: Tensor, real: Tensor) -> None:
    if fake.shape != real.shape:
        raise UserError(
            f"real is {list(real.shape)}, but the generator makes {list(fake.shape)}; give real images of that size, "
            "and one latent for each."
        )


def _chunk(tensor: Tensor | None, count: int) -> Sequence[Tensor | None]:
    return [None] * count if tensor is None else tensor.tensor_split(count)


def _means(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The mean of each column."""
    return list(rows[0]) if len(rows) == 1 else [torch.stack(column).mean() for column in zip(*rows, strict=True)]


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

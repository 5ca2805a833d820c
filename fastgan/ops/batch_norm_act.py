"""Batch normalisation followed by an activation."""

from __future__ import annotations

from torch import Tensor

from fastgan.errors import UserError
from fastgan.ops import activation as activations
from fastgan.ops.activation import Activation
from fastgan.ops.blocks import Block, Norm, Parameters
from fastgan.ops.run import run, run_reference


def batch_norm_act(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: Activation = "none",
    negative_slope: float = 0.01,
    batch_groups: int = 1,
) -> Tensor:
    """``activation(F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps))``.

    Differentiable twice. Keeps ``input`` and its statistics for backward, not the normalised tensor.

    Args:
        input: [N, C, ...], float32, float64, bfloat16 or float16, in either memory format.
        running_mean, running_var: [C], updated in place in training; None uses the batch's statistics always.
        weight, bias: [C], in the input's dtype or float32; or both [N, C], scale and shift of each sample, as a
            conditional batch-norm has them.
        training: whether the batch's own statistics are used.
        momentum: the weight of the new statistics in the running ones.
        eps: added to the variance.
        activation: ``none``, ``relu``, ``leaky_relu``, ``tanh`` or ``sigmoid``.
        negative_slope: of ``leaky_relu``.
        batch_groups: takes statistics apart for each of so many equal parts of the batch, and leaves the running ones
            as forwards of the parts one after another would.

    Returns:
        [N, C, ...], in the input's dtype and memory format.

    Raises:
        UserError: if the batch cannot be divided, the activation is unknown, there are no statistics to use, or only
            one of weight and bias is given for each sample.
        ValueError: in training with one value a channel.
        RuntimeError: for shapes, dtypes or devices that do not go together.

    Source: Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training", 2015; for each sample:
    Dumoulin, Shlens and Kudlur, "A Learned Representation for Artistic Style", 2017.
    """
    block, parameters = _block(
        input,
        running_mean,
        running_var,
        weight,
        bias,
        training,
        momentum,
        eps,
        activation,
        negative_slope,
        batch_groups,
    )
    if input.dim() == 5:  # a volume as a taller image, which keeps either memory format
        return run(input.flatten(2, 3), [block], [parameters], batch_groups).unflatten(2, input.shape[2:4])
    return run(input, [block], [parameters], batch_groups)


def batch_norm_act_reference(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: Activation = "none",
    negative_slope: float = 0.01,
    batch_groups: int = 1,
) -> Tensor:
    """:func:`batch_norm_act` in plain torch."""
    block, parameters = _block(
        input,
        running_mean,
        running_var,
        weight,
        bias,
        training,
        momentum,
        eps,
        activation,
        negative_slope,
        batch_groups,
    )
    return run_reference(input, [block], [parameters], batch_groups)


def _block(
    input, running_mean, running_var, weight, bias, training, momentum, eps, activation, negative_slope, batch_groups
) -> tuple[Block, Parameters]:
    if _is_per_sample(weight) != _is_per_sample(bias):
        raise UserError(
            "weight and bias must both be [C] or both be [N, C], but they are "
            f"{' and '.join('None' if t is None else str(list(t.shape)) for t in (weight, bias))}; give both alike."
        )
    norm = norm_of(training, momentum, eps, running_mean)
    check_batch(input, norm, batch_groups, input.shape[0], input.shape[2:])
    block = Block(None, norm, activations.number_of(activation), negative_slope)
    return block, Parameters(None, None, weight, bias, running_mean, running_var)


def _is_per_sample(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.dim() == 2


def norm_of(training: bool, momentum: float, eps: float, running_mean: Tensor | None) -> Norm:
    """Batch-norm options, checked."""
    if not training and running_mean is None:
        raise UserError(
            "training=False needs running_mean and running_var, and got None; give them, or use training=True."
        )
    return Norm(bool(training), float(momentum), float(eps))


def check_batch(input: Tensor, norm: Norm | None, batch_groups: int, batch: int, pixels) -> None:
    """The checks that torch answers with a ValueError: native code would answer with a RuntimeError."""
    if batch_groups < 1 or batch % batch_groups:
        raise UserError(
            f"batch_groups={batch_groups} does not divide the batch of {batch}; choose a divisor of the batch."
        )
    if norm is not None and norm.training:
        values = batch // batch_groups
        for size in pixels:
            values *= size
        if values == 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {tuple(input.shape)}; "
                "use a larger batch, or eval mode."
            )

"""What goes wrong in the training of GANs: how it is measured, where the limit is, and what to try."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["FAULTS", "RECENT", "Alarm", "Fault"]

SUSTAINED = 100  # steps that most faults have to last: every healthy run begins with a generator that makes grey
RECENT = 50  # steps whose mean tells a winning discriminator from a lucky batch

# A perfect discriminator has 1. Healthy runs reach 0.9 for a while; at 0.97 each side errs by 0.015, and loss_d is near
# 0.03 without label smoothing.
SATURATED = 0.97
# As diverse as the data is 1. Healthy generators begin at 0.1 or above and soon rise; a collapsed one is near 0.
COLLAPSED = 0.05
# Adam's eps, below which gradients move no weight by its learning rate any more; healthy ones are above 1e-3.
VANISHED = 1e-8
# Healthy generators are below 0.2; running statistics that are not the weights' own make 0.8 and more.
APART = 0.4


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    kind: str
    quantity: str
    """What is measured."""
    limit: float
    healthy_above: bool
    """Whether healthy values are above the limit, or else at most the limit."""
    sustained: int
    """Steps that it has to last to be an alarm, and to be gone for the alarm to be over."""
    advice: str
    """What to try, in the words of :class:`fastgan.training.TrainConfig`."""

    def is_bad(self, measured: float) -> bool:
        """Whether the value is on the wrong side of the limit."""
        return (measured > self.limit) != self.healthy_above


@dataclass(frozen=True)
class Alarm:
    """A fault that lasts."""

    fault: Fault
    since: int
    """The first step of it."""
    step: int
    """The step that it was named after."""
    measured: float
    """What was measured then."""
    until: int | None = None
    """The step after which it had been gone for as long; None where it still lasts."""

    def __str__(self) -> str:
        if self.until is not None:
            return f"{self.fault.kind} since step {self.since}: over at step {self.until}."
        side = "above" if self.fault.healthy_above else "at most"
        return (
            f"{self.fault.kind} since step {self.since}: {self.fault.quantity} is {self.measured:.2g} "
            f"(healthy: {side} {self.fault.limit:g}); try {self.fault.advice}."
        )

    def to_row(self) -> dict[str, Any]:
        """As ``health.jsonl`` has it, where ``step`` is that of the event."""
        return {
            "step": self.step if self.until is None else self.until,
            "alarm": self.fault.kind,
            "event": "raised" if self.until is None else "over",
            "since": self.since,
            "quantity": self.fault.quantity,
            "measured": self.measured,
            "limit": self.fault.limit,
            "advice": self.fault.advice,
        }


NOT_FINITE = Fault(
    "not finite",
    "the number of metrics that are NaN or infinite",
    0,
    healthy_above=False,
    sustained=0,
    advice="the checkpoint before that step with a lower lr, or precision fp32",
)
DISCRIMINATOR_SATURATED = Fault(
    "discriminator saturated",
    f"D(x) - D(G(z)) over {RECENT} steps relative to a perfect discriminator's",
    SATURATED,
    healthy_above=False,
    sustained=SUSTAINED - RECENT,
    advice="a lower lr_d, a higher lr_g, label_smoothing 0.1 or more images",
)
GENERATOR_COLLAPSED = Fault(
    "generator collapsed",
    "the distance of samples from each other relative to real images",
    COLLAPSED,
    healthy_above=True,
    sustained=SUSTAINED,
    advice="a lower lr_g, a larger batch_size, or the checkpoint before that step with another seed",
)
GRADIENT_VANISHED = Fault(
    "gradient vanished",
    "the root mean square of the generator's gradient",
    VANISHED,
    healthy_above=True,
    sustained=SUSTAINED,
    advice="loss non_saturating, a lower lr_d, or a generator without saturating activations inside",
)
MODES_DIFFER = Fault(
    "train and eval mode differ",
    "the distance of a latent's two images relative to that of real images",
    APART,
    healthy_above=False,
    sustained=SUSTAINED,
    advice="a larger batch_size, and momentum 0.1 for the generator's batch-norm",
)
DATA_ALL_ALIKE = Fault(
    "data all alike",
    "the distance between real images",
    0,
    healthy_above=True,
    sustained=0,
    advice="other data: samples/real.png shows what these images look like",
)
FAULTS = (
    NOT_FINITE,
    DISCRIMINATOR_SATURATED,
    GENERATOR_COLLAPSED,
    GRADIENT_VANISHED,
    MODES_DIFFER,
    DATA_ALL_ALIKE,
)

"""Walking the space that a generator draws from, without a page: what :mod:`fastgan.explore_page` shows.

explorer = Explorer(fastgan.load(run))
explorer.samples(seed=0)                               # pictures to choose from
explorer.walk([(0, 3), (0, 7)], position=0.5)          # half-way from sample 3 of seed 0 to sample 7
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from fastgan.errors import UserError
from fastgan.generation import TrainedGAN
from fastgan.images import to_image
from fastgan.latents import slerp

__all__ = ["SAMPLES", "Explorer", "Point", "View"]

SAMPLES = 24
THUMBNAIL, LARGE = 96, 384  # pixels, about

Point = tuple[int, int]  # a seed, and which of its samples


class View(NamedTuple):
    """One image of a walk."""

    picture: Image.Image
    """The image, enlarged pixel by pixel to be looked at."""
    caption: str
    """Where it is, and D(x) where the run has its discriminator."""


class Explorer:
    """A trained generator to be walked through.

    Args:
        gan: what :func:`fastgan.load` gives.

    Raises:
        UserError: where it makes images of images: there are no latents to walk between.
    """

    def __init__(self, gan: TrainedGAN) -> None:
        gan.check_of_latents("so there are no latents to explore")
        self.gan = gan

    def samples(self, seed: int = 0, *, label: int | None = None, truncation: float | None = None) -> list[Image.Image]:
        """The pictures of the first samples of a seed, of one class or of all in turn."""
        images = self.gan.generate(SAMPLES, seed, label=label, truncation=truncation)
        return [_enlarged(image, THUMBNAIL) for image in images]

    def walk(
        self,
        points: Sequence[Point],
        position: float = 0.0,
        *,
        label: int | None = None,
        truncation: float | None = None,
        scale: float = 1.0,
    ) -> View:
        """The image at a position of the walk from point to point along arcs.

        Args:
            points: at least one, each a seed and which of its samples.
            position: 0 is the first point, 1 the last, and the others lie evenly between them.
            label: the class; None: that of the nearest point, because there is nothing between two.
            truncation: as :meth:`TrainedGAN.latents` takes it.
            scale: the length of the latent, as a multiple of its own.

        Raises:
            UserError: where there is no point, or an argument is out of range.
        """
        if not points or not 0 <= position <= 1:
            raise UserError(
                f"a walk needs a point and a position from 0 to 1, but it has {len(points)} and {position}; give such."
            )
        latents = [self.gan.latents(index + 1, seed, truncation=truncation)[index] for seed, index in points]
        place = position * (len(points) - 1)
        before = int(place)
        after = min(before + 1, len(points) - 1)
        latent = scale * slerp(latents[before], latents[after], place - before)
        if self.gan.num_classes and label is None:
            label = points[round(place)][1] % self.gan.num_classes
        image = self.gan.images_of(latent[None], label=label)
        return View(_enlarged(image[0], LARGE), f"{_route(points, position)}{self._remarks(image, label)}")

    def _remarks(self, image: Tensor, label: int | None) -> str:
        """The class, where there are such, and what the discriminator says, where there is one."""
        of_class = "" if label is None else f", class {label}"
        if self.gan.discriminator is None:
            return of_class
        name = "D(x)" if self.gan.scores_are_probabilities else "score"
        return f"{of_class}, {name} {self.gan.score(image, label=label).item():.3f}"


def _route(points: Sequence[Point], position: float) -> str:
    names = [f"seed {seed} sample {index}" for seed, index in points]
    return names[0] if len(names) == 1 else f"{' → '.join(names)} at {position:.2f}"


def _enlarged(image: Tensor, side: int) -> Image.Image:
    picture = to_image(image)
    times = max(1, round(side / max(picture.size)))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)

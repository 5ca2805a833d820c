"""How far generated images are from real ones."""

from .frechet import frechet_distance

__all__ = ["frechet_distance"]

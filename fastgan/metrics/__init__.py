"""How far generated images are from real ones.

take = metrics.extractor("random", channels=3, image_size=(64, 64))
real, fake = take(real_images), take(generated_images)    # uint8 [N, 3, 64, 64] to features [N, 64]
metrics.frechet_distance(real, fake), metrics.kernel_distance(real, fake).mean, metrics.precision_recall(real, fake)

``fastgan.evaluation`` does all of it for a trained generator.
"""

from .extractors import Extractor, extractor
from .frechet import frechet_distance
from .kernel import KernelDistance, kernel_distance
from .manifold import DensityCoverage, PrecisionRecall, density_coverage, nearest_index, precision_recall

__all__ = [
    "DensityCoverage",
    "Extractor",
    "KernelDistance",
    "PrecisionRecall",
    "density_coverage",
    "extractor",
    "frechet_distance",
    "kernel_distance",
    "nearest_index",
    "precision_recall",
]

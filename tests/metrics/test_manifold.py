import numpy as np
import pytest
import torch

from fastgan.errors import UserError
from fastgan.metrics import density_coverage, manifold, nearest_index, precision_recall


def samples(n, seed, scale=1.0, shift=0.0, dimension=3):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, dimension)) * scale + shift)


def distances(x, y):
    return np.sqrt(np.square(x[:, None] - y[None]).sum(2))


def radii(x, k):
    return np.array([np.sort(np.delete(row, i))[k - 1] for i, row in enumerate(distances(x, x))])


def by_definition(real, fake, k):
    """Kynkaanniemi et al., 2019, equation 2, and Naeem et al., 2020, equations 3 and 4."""
    real, fake = real.numpy(), fake.numpy()
    in_real = distances(fake, real) <= radii(real, k)
    in_fake = distances(real, fake) <= radii(fake, k)
    balls = distances(real, fake) < radii(real, k)[:, None]
    return in_real.any(1).mean(), in_fake.any(1).mean(), balls.sum() / (k * len(fake)), balls.any(1).mean()


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("at_once", [2**23, 100], ids=["at once", "in parts"])
def test_they_are_as_defined(k, at_once, monkeypatch):
    monkeypatch.setattr(manifold, "AT_ONCE", at_once)
    real, fake = samples(70, 0), samples(50, 1, scale=0.9, shift=0.8)
    expected = by_definition(real, fake, k)
    assert min(expected) > 0 and max(expected[0], expected[3]) < 1
    found = (*precision_recall(real, fake, k), *density_coverage(real, fake, k))
    assert found == pytest.approx(expected, rel=1e-12)


def test_what_they_tell_apart():
    real = samples(300, 0)
    same, middle, away = samples(300, 1), samples(300, 1, scale=0.2), samples(300, 1, shift=9.0)
    assert min(precision_recall(real, same)) > 0.85 and min(density_coverage(real, same)) > 0.85
    assert precision_recall(real, middle).precision == 1 and precision_recall(real, middle).recall < 0.2
    assert density_coverage(real, middle).coverage < 0.3
    assert (*precision_recall(real, away), *density_coverage(real, away)) == (0, 0, 0, 0)


def test_samples_that_are_the_same_are_at_no_distance():
    one = torch.full((10, 300), 0.1)  # a collapsed generator, whose distances a matrix product would round to noise
    assert precision_recall(one, one.clone()) == (1, 1)
    assert precision_recall(one, one + 1e-6) == (0, 0)


def test_the_nearest_of_known_samples():
    queries, known = samples(20, 0), samples(90, 1)
    assert nearest_index(queries, known).tolist() == distances(queries.numpy(), known.numpy()).argmin(1).tolist()


@pytest.mark.parametrize("metric", [precision_recall, density_coverage])
def test_mistakes(metric):
    with pytest.raises(UserError, match=r"fake must be features .* of at least 5 samples"):
        metric(samples(9, 0), samples(4, 0), k=4)
    with pytest.raises(UserError, match="k must be a whole number of at least 1, but it is 0"):
        metric(samples(9, 0), samples(9, 0), k=0)

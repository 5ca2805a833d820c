import numpy as np
import pytest
import torch

from fastgan.errors import UserError
from fastgan.metrics import kernel_distance


def by_loops(x, y):
    """The unbiased estimate of Binkowski et al., 2018, section 4, pair by pair."""
    n, kernel = len(x), lambda a, b: (np.dot(a, b) / len(a) + 1) ** 3
    pairs = [(i, j) for i in range(n) for j in range(n)]
    within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs if i != j) / (n * (n - 1))
    return within - 2 * sum(kernel(x[i], y[j]) for i, j in pairs) / n**2


def samples(n, dimension=7, mean=0.0, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, dimension)) + mean)


def test_it_is_the_estimate_pair_by_pair():
    real, fake = samples(40), samples(40, mean=0.3, seed=1)
    found = kernel_distance(real, fake, subsets=3, subset_size=40)
    assert found.mean == pytest.approx(by_loops(real.numpy(), fake.numpy()), rel=1e-11)
    assert found.deviation < 1e-10  # each subset is all there is


def test_subsets_are_drawn_by_the_seed():
    real, fake = samples(90), samples(60, mean=0.5, seed=1)
    random, values = np.random.default_rng(5), []
    for _ in range(4):
        values.append(by_loops(*(x.numpy()[random.permutation(len(x))[:20]] for x in (real, fake))))
    found = kernel_distance(real, fake, subsets=4, subset_size=20, seed=5)
    assert found == pytest.approx((np.mean(values), np.std(values)), rel=1e-10)
    assert found == kernel_distance(real, fake, subsets=4, subset_size=20, seed=5)
    assert found != kernel_distance(real, fake, subsets=4, subset_size=20, seed=6)


def test_samples_of_one_distribution_are_at_no_distance_on_average_however_few():
    for n in (10, 100):
        values = [
            kernel_distance(samples(n, seed=2 * k), samples(n, seed=2 * k + 1), subsets=1, subset_size=n).mean
            for k in range(60)
        ]
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(60)


def test_float32_features_are_taken_in_float64():
    real, fake = samples(50).float() + 100, samples(50, seed=1).float() + 100
    found = kernel_distance(real, fake, subsets=2, subset_size=50).mean
    assert found == pytest.approx(by_loops(real.double().numpy(), fake.double().numpy()), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"subset_size": 31}, "real must be features .* of at least 31 samples"),
        ({"subset_size": 1}, "1 subset of 2 samples, but it is 100 of 1"),
        ({"subsets": 0}, "but it is 0 of 1000"),
    ],
)
def test_mistakes(options, words):
    with pytest.raises(UserError, match=words):
        kernel_distance(samples(30), samples(30), **options)

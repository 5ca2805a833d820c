import pytest
import torch

from fastgan.errors import UserError
from fastgan.metrics import frechet_distance


def normal(n, mean, covariance, seed=0):
    torch.manual_seed(seed)
    samples = torch.randn(n, len(mean), dtype=torch.float64)
    samples -= samples.mean(0)
    samples = samples @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(samples.T))).T  # exactly white
    return samples @ torch.linalg.cholesky(covariance).T + mean


def test_distance_of_normal_distributions_with_a_closed_form():
    # Covariances that share their axes: |m1 - m2|^2 + sum (s1 - s2)^2.
    axes = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    deviations = torch.tensor([[1.0, 2.0, 0.5, 3.0], [2.0, 1.0, 0.5, 1.0]], dtype=torch.float64)
    means = torch.tensor([[0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 0.0, 3.0]], dtype=torch.float64)
    real, fake = (
        normal(500, mean, axes * deviation.square() @ axes.T, seed)
        for seed, (mean, deviation) in enumerate(zip(means, deviations, strict=True))
    )
    expected = (means[0] - means[1]).square().sum() + (deviations[0] - deviations[1]).square().sum()
    assert frechet_distance(real, fake) == pytest.approx(expected.item(), rel=1e-9)
    assert frechet_distance(fake, real) == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("n", [2, 5, 300], ids=["two", "fewer_than_features", "many"])
def test_a_set_is_at_no_distance_from_itself(n):
    features = torch.randn(n, 16)
    assert frechet_distance(features, features.clone()) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(features, features + 3) == pytest.approx(9 * 16, rel=1e-6)


def test_one_feature():
    real, fake = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    deviations = 2**0.5, 2 * 2**0.5
    assert frechet_distance(real, fake) == pytest.approx(4 + (deviations[1] - deviations[0]) ** 2)


@pytest.mark.parametrize(
    ("real", "fake", "sentence"),
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), "real must be features"),
        (torch.zeros(4, 3), torch.zeros(4, 3, 1), "fake must be features"),
        (torch.zeros(4, 3), torch.zeros(4, 2), "3 features a sample, but fake has 2"),
        (torch.zeros(4, 3), torch.full((4, 3), float("nan")), "fake has features that are not finite"),
    ],
)
def test_wrong_features_are_named(real, fake, sentence):
    with pytest.raises(UserError, match=sentence):
        frechet_distance(real, fake)

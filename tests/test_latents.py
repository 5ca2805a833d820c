import math

import pytest
import torch

from fastgan.errors import UserError
from fastgan.latents import combine, path, slerp, truncate


def test_slerp_is_an_arc():
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
    found = slerp(a, b, torch.tensor([0.0, 1 / 3, 0.5, 1.0]))
    angle = torch.atan2(found[:, 1], found[:, 0])
    torch.testing.assert_close(angle, torch.tensor([0.0, 1 / 3, 0.5, 1.0]) * math.pi / 2)
    torch.testing.assert_close(found.norm(dim=1), torch.tensor([2.0, 2 + 2 / 3, 3.0, 4.0]))
    torch.testing.assert_close(slerp(a, b, 0.5), found[2])


def test_slerp_keeps_the_length_that_a_straight_line_loses():
    a, b = torch.randn(2, 100, 1, 1, generator=torch.Generator().manual_seed(0))
    middle = slerp(a, b, 0.5)
    assert middle.shape == a.shape and middle.dtype == torch.float32
    assert abs(middle.norm() - (a.norm() + b.norm()) / 2) < 1e-4
    assert ((a + b) / 2).norm() < 0.8 * middle.norm()


@pytest.mark.parametrize("b", [[1.0, 2.0], [2.0, 4.0], [-1.0, -2.0], [0.0, 0.0], [1.0, 2.0 + 1e-6]])
def test_slerp_where_there_is_no_arc(b):
    a, b = torch.tensor([1.0, 2.0]), torch.tensor(b)
    torch.testing.assert_close(slerp(a, b, torch.tensor([0.0, 0.5, 1.0])), torch.stack([a, (a + b) / 2, b]))


def test_path_passes_through_its_points():
    points = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    line, round = path(points, 4), path(points, 4, loop=True)
    assert line.shape == (9, 7) and round.shape == (12, 7)
    torch.testing.assert_close(line[::4], points)
    torch.testing.assert_close(round[::4], points)
    torch.testing.assert_close(round[8:], path(points[[2, 0]], 4)[:-1])
    torch.testing.assert_close(path(list(points), 4), line)
    gaps = line.diff(dim=0).norm(dim=1)
    assert gaps[:4].max() < 1.3 * gaps[:4].min()  # evenly


def test_combine():
    a, b, c = torch.randn(3, 64, 1, 1, generator=torch.Generator().manual_seed(2))
    found = combine([a, b], minus=[c])
    torch.testing.assert_close(found / found.norm(), (a + b - c) / (a + b - c).norm())
    assert found.shape == a.shape and abs(found.norm() - 8) < 1e-4
    torch.testing.assert_close(combine(torch.stack([a, b]), minus=c[None]), found)
    torch.testing.assert_close(combine([a]), a * 8 / a.norm())


def test_truncate_is_the_truncated_normal_distribution():
    drawn = torch.randn(100_000, generator=torch.Generator().manual_seed(3))
    for most in (0.5, 1.0, 2.0):
        found = truncate(drawn, most)
        assert found.abs().max() <= most and found.dtype == drawn.dtype
        density = math.exp(-(most**2) / 2) / math.sqrt(2 * math.pi)
        variance = 1 - 2 * most * density / math.erf(most / math.sqrt(2))  # Wikipedia, "Truncated normal distribution"
        assert abs(found.var() - variance) < 0.01
    torch.testing.assert_close(truncate(drawn, 30.0), drawn, rtol=1e-4, atol=1e-5)
    assert truncate(torch.tensor([0.0, 40.0, -40.0]), 1.0).tolist() == [0.0, 1.0, -1.0]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: slerp(x[0], x[0, :2], 0.5), r"^a and b must have one shape, but they are \[3\] and \[2\]"),
        (lambda x: path(x[:1], 4), "^a path needs at least 2 points and 1 step, but it has 1 and 4"),
        (lambda x: path(x, 0), "but it has 2 and 0"),
        (lambda x: combine(x, minus=x), "^plus and minus cancel out"),
        (lambda x: combine([]), "^plus and minus cancel out"),
    ],
)
def test_mistakes(call, words):
    with pytest.raises(UserError, match=words):
        call(torch.ones(2, 3))

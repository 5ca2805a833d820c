import sys
import warnings
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from fastgan import data
from fastgan.errors import UserError
from fastgan.metrics import Extractor, extractor, frechet_distance
from fastgan.metrics.extractors import RandomFilters


class Means(nn.Module):
    """A network of the user's: [N, C, H, W] to [N, C]."""

    def __init__(self, channels=1):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, images):
        return images.mean((2, 3)) * self.weight


def images(n=6, channels=1, size=(32, 32), seed=0):
    return torch.randint(0, 256, (n, channels, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(5, 7), (16, 16), (33, 20), (64, 96)])
def test_random_filters_take_any_size_and_channels(channels, size):
    take = extractor(channels=channels, image_size=size)
    found = take(images(5, channels, size))
    assert found.shape == (5, 64) and found.dtype == torch.float32 and found.isfinite().all()
    torch.testing.assert_close(found[3:], take(images(5, channels, size)[3:]))
    assert take.standardise and take.name == "random filters"


def test_random_filters_are_the_same_everywhere():
    network = RandomFilters(1, (32, 32))
    first = np.random.default_rng(0).standard_normal((16, 1, 5, 5))[0, 0]
    first -= first.mean()
    torch.testing.assert_close(network.filters[0, 0], torch.from_numpy(first / np.linalg.norm(first)).float())
    take = [extractor(channels=1, image_size=size) for size in ((32, 32), (32, 32), (64, 64))]
    assert take[0].sha256 == take[1].sha256 != take[2].sha256


def test_random_filters_see_more_the_more_is_wrong():
    digits = data.load("digits")
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    real, others = digits.images[order[:1500]], digits.images[order[1500:2500]]
    take = extractor(channels=1, image_size=(32, 32))
    features = take(real)

    def noisy(amount):
        noise = amount * torch.randn(others.shape, generator=torch.Generator().manual_seed(1))
        return (others + noise).clamp(0, 255).to(torch.uint8)

    def blurred(reach):
        padded = nn.functional.pad(others.float(), 4 * [reach], mode="replicate")
        return nn.functional.avg_pool2d(padded, 2 * reach + 1, 1).to(torch.uint8)

    labels = digits.labels[order[1500:2500]]
    for spoilt in (
        [others, noisy(8), noisy(25), noisy(60)],
        [others, blurred(1), blurred(2)],
        [others, others[labels != 8], others[labels < 5], others[labels < 1]],
    ):
        distance = [frechet_distance(features, take(each)) for each in spoilt]
        assert distance == sorted(distance) and distance[-1] > 5 * distance[0], distance


def test_a_module_sees_floats_and_its_weights_are_known():
    module = Means()
    take = extractor(module, channels=1, image_size=(32, 32))
    torch.testing.assert_close(take(images(70)), images(70).double().mean((2, 3)).div(127.5).sub(1).float())
    assert take.name == "Means" and not take.standardise
    before = take.sha256
    nn.init.constant_(module.weight, 2.0)
    assert extractor(module, channels=1, image_size=(32, 32)).sha256 != before
    assert extractor(take, channels=1, image_size=(32, 32)) is take


@pytest.mark.filterwarnings("error:.*torch.jit.load")
@pytest.mark.parametrize("suffix", [".pt2", ".pt"])
def test_the_file_of_a_module(tmp_path, suffix):
    path = tmp_path / f"means{suffix}"
    example = torch.zeros(2, 1, 32, 32)
    if suffix == ".pt2":
        batch = torch.export.Dim("batch")
        torch.export.save(torch.export.export(Means(), (example,), dynamic_shapes=[{0: batch}]), path)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of TorchScript
            torch.jit.save(torch.jit.script(Means()), path)
    take = extractor(path, channels=1, image_size=(32, 32))
    torch.testing.assert_close(take(images(70)), Means()(data.to_float(images(70))).detach())
    assert take.name == path.name and len(take.sha256) == 64


@pytest.fixture
def inception(monkeypatch, tmp_path):
    """A network in the place of torch-fidelity's, which sees what that one sees, and a file of its weights."""
    seen = []

    class Network(Means):
        def __init__(self, name, layers, feature_extractor_weights_path=None):
            super().__init__(3)
            assert layers == ["2048"]
            if feature_extractor_weights_path is None:
                raise OSError("<urlopen error no network>\nmore")
            self.load_state_dict(torch.load(feature_extractor_weights_path))

        def forward(self, images):
            seen.append(images)
            return (super().forward(images.float()),)

    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.URL_INCEPTION_V3, module.FeatureExtractorInceptionV3 = "https://where.it/is.pth", Network
    package = ModuleType("torch_fidelity")
    package.__spec__ = sys.__spec__
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.save(Means(3).state_dict(), tmp_path / "weights.pth")
    return seen, tmp_path / "weights.pth"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_inception_is_given_colours(inception, channels):
    seen, weights = inception
    given = images(3, channels)
    found = extractor("inception", channels=channels, image_size=(32, 32), weights=weights)(given)
    assert found.shape == (3, 3) and seen[0].dtype == torch.uint8 and seen[0].shape == (3, 3, 32, 32)
    if channels == 4:
        part = given[:, 3:].double() / 255
        given = (given[:, :3] * part + 255 * (1 - part)).round()
    assert (seen[0] - given.expand(-1, 3, -1, -1).double()).abs().max() <= (channels == 4)


def test_inception_that_cannot_be_had(inception, tmp_path, monkeypatch):
    place = {"channels": 3, "image_size": (32, 32)}
    with pytest.raises(UserError, match=r"cannot be downloaded \(<urlopen error no network>\); fetch https://where.it"):
        extractor("inception", **place)
    with pytest.raises(UserError, match="weights is missing, but there is no such file"):
        extractor("inception", weights="missing", **place)
    torch.save({"network": Means()}, tmp_path / "code.pth")
    for name, text in (("code.pth", None), ("nonsense.pth", "nonsense")):
        if text:
            (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=r"cannot be read \(.*; fetch https://where.it/is.pth and give it"):
            extractor("inception", weights=tmp_path / name, **place)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"need torch-fidelity, which is not installed; `pip install 'fastgan\[fid\]'`"):
        extractor("inception", **place)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ("missing.pt", "features is missing.pt, but there is no such file; give 'random', 'inception', or"),
        (Extractor("one number", lambda images: images.float().mean((1, 2, 3)), ""), r"but they are \[6\]"),
        (Extractor("a list", lambda images: [1], ""), "but they are list"),
        (RandomFilters(1, (16, 16)), r"\(the filters are for images of \[16, 16\] pixels\); give a module for such"),
        (nn.Conv2d(3, 4, 3), r"cannot be taken of images \[6, 1, 32, 32\] \(Given groups=1"),
    ],
)
def test_mistakes(features, words):
    with pytest.raises(UserError, match=words):
        extractor(features, channels=1, image_size=(32, 32))(images())


def test_what_is_no_module_is_named(tmp_path):
    for name in ("nonsense.pt", "nonsense.pt2"):
        (tmp_path / name).write_text("nonsense")
        with pytest.raises(UserError, match=r"which cannot be read .*give a module by torch.export.save"):
            extractor(tmp_path / name, channels=1, image_size=(32, 32))
    with pytest.raises(UserError, match="weights are those of features 'inception', but features is random"):
        extractor(channels=1, image_size=(32, 32), weights=tmp_path)

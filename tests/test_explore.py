import json
import socket
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image
from runs import write_run

import fastgan
from fastgan import models
from fastgan.data import to_uint8
from fastgan.errors import UserError
from fastgan.explore import LARGE, SAMPLES, Explorer
from fastgan.explore_page import build, check_gradio, serve
from fastgan.latents import slerp, truncate


@pytest.fixture(scope="module")
def explorers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {kind: Explorer(fastgan.load(write_run(folder / kind, kind))) for kind in ("mlp", "mlp_conditional")}


def same(picture, image):
    """Whether a picture is an image [C, H, W], enlarged."""
    pixels = to_uint8(image).permute(1, 2, 0).squeeze(-1).numpy()
    small = np.asarray(picture.resize(pixels.shape[1::-1], Image.Resampling.NEAREST)).astype(int)
    return np.abs(small - pixels).max() <= 1


def test_samples_are_those_of_the_seed(explorers):
    found = explorers["mlp"].samples(3, truncation=1.5)
    expected = explorers["mlp"].gan.generate(SAMPLES, 3, truncation=1.5)
    assert len(found) == SAMPLES and all(map(same, found, expected)) and found[0].size == (84, 84)


def test_a_walk_goes_along_arcs_from_point_to_point(explorers):
    explorer = explorers["mlp"]
    a, b, c = (explorer.gan.latents(9, seed)[index] for seed, index in ((0, 3), (0, 8), (5, 1)))
    points = [(0, 3), (0, 8), (5, 1)]
    for position, latent in ((0, a), (0.25, slerp(a, b, 0.5)), (0.5, b), (0.9, slerp(b, c, 0.8)), (1, c)):
        view = explorer.walk(points, position)
        assert same(view.picture, explorer.gan.images_of(latent[None])[0])
        assert view.caption == f"seed 0 sample 3 → seed 0 sample 8 → seed 5 sample 1 at {position:.2f}"
    alone = explorer.walk([(5, 1)], 0.7, scale=0.5, truncation=2.0)
    assert same(alone.picture, explorer.gan.images_of(0.5 * truncate(c, 2.0)[None])[0])
    assert alone.caption == "seed 5 sample 1" and alone.picture.size == 2 * (28 * round(LARGE / 28),)


def test_a_walk_is_of_the_nearest_points_class_or_of_one(explorers):
    explorer = explorers["mlp_conditional"]
    a, b = explorer.gan.latents(5)[[4, 2]]
    for position, label, expected in ((0.0, None, 1), (0.4, None, 1), (0.6, None, 2), (1.0, None, 2), (1.0, 0, 0)):
        view = explorer.walk([(0, 4), (0, 2)], position, label=label)
        assert same(view.picture, explorer.gan.images_of(slerp(a, b, position)[None], label=expected)[0])
        assert view.picture.mode == "RGBA" and view.caption.endswith(f" at {position:.2f}, class {expected}")
    assert all(map(same, explorer.samples(label=2), explorer.gan.generate(SAMPLES, label=2)))


@pytest.mark.parametrize("probabilities", [True, False])
def test_the_discriminator_says_what_it_thinks(tmp_path, probabilities):
    gan = fastgan.load(write_run(tmp_path / "run", "mlp"))
    discriminator = models.build("mlp", image_size=28, channels=1, latent_dim=6, width=4)[1].eval()
    gan._read_discriminator, gan.scores_are_probabilities = lambda: discriminator, probabilities
    logit = discriminator(gan.generate(1)).item()
    said = f"D(x) {torch.tensor(logit).sigmoid().item():.3f}" if probabilities else f"score {logit:.3f}"
    assert Explorer(gan).walk([(0, 0)]).caption == f"seed 0 sample 0, {said}"


def test_mistakes(explorers, tmp_path):
    for points, position in (([], 0.0), ([(0, 0)], 1.5)):
        with pytest.raises(UserError, match="a walk needs a point and a position from 0 to 1, but it has"):
            explorers["mlp"].walk(points, position)
    with pytest.raises(UserError, match="label must be a class from 0 to 2"):
        explorers["mlp_conditional"].walk([(0, 0)], label=3)
    with pytest.raises(UserError, match="maps images to images, so there are no latents to explore"):
        Explorer(fastgan.load(write_run(tmp_path / "pairs", "encoder_decoder")))


def test_a_missing_gradio_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"explore needs gradio, which is not installed; `pip install 'fastgan\[explore"
    ):
        check_gradio()


@pytest.fixture
def connections(monkeypatch):
    """Where this process connects to, and the names it asks for."""
    found, connect, resolve = [], socket.socket.connect, socket.getaddrinfo

    def noted(self, address):
        found.append(address[0] if isinstance(address, tuple) else address)
        return connect(self, address)

    def asked(host, *rest, **options):
        found.append(host)
        return resolve(host, *rest, **options)

    monkeypatch.setattr(socket.socket, "connect", noted)
    monkeypatch.setattr(socket, "getaddrinfo", asked)
    return found


def call(address, name, data, event=None):
    """What an endpoint of the page returns in the one session of the tests."""
    body = json.dumps({"data": data, "event_data": event, "session_hash": "test"}).encode()
    request = urllib.request.Request(f"{address}gradio_api/run/{name}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["data"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_page(explorers, connections, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.setenv("NO_PROXY", "*")
    explorer = explorers["mlp_conditional"]
    page = build(explorer)
    address = serve(page, browser=False)
    try:
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address) as answer:
            assert "fastgan: " in answer.read().decode()
        with urllib.request.urlopen(f"{address}theme.css") as answer:
            assert "@import" not in answer.read().decode()

        gallery = call(address, "samples", [4, 4.0, "2"])[0]
        assert len(gallery) == SAMPLES
        expected = explorer.gan.generate(SAMPLES, 4, label=2)
        assert same(Image.open(gallery[7]["image"]["path"]), expected[7])

        assert call(address, "show", [None, 0, 4.0, 1, "2"])[1].startswith("Choose images: ")
        for index in (7, 1):
            assert call(address, "choose", [None, 4], {"index": index, "value": None})[1] == 1
        picture, caption = call(address, "show", [None, 1, 4.0, 1, "2"])
        assert caption == "seed 4 sample 7 → seed 4 sample 1 at 1.00, class 2"
        assert same(Image.open(picture["path"]), expected[1])
        assert call(address, "clear", [])[1] == 0
        assert call(address, "show", [None, 0, 4.0, 1, "2"])[0] is None

        port = int(address.rsplit(":", 1)[1].strip("/"))
        with pytest.raises(UserError, match=rf"^port {port} is in use at 127.0.0.1.*give another --port"):
            serve(build(explorer), port=port, browser=False)
    finally:
        page.close()
    assert set(connections) <= {"127.0.0.1", "localhost", None, b"127.0.0.1"}

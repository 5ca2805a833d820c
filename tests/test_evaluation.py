import json
from dataclasses import replace

import pytest
import torch
from runs import CLASSES, write_run
from torch.nn import functional as F

import fastgan
from fastgan import data, evaluation, metrics
from fastgan.data import ImageSet, to_float, to_uint8
from fastgan.errors import FastganWarning, UserError
from fastgan.evaluation import Evaluation, evaluate
from fastgan.metrics import Extractor
from fastgan.training import TrainConfig

# Four numbers an image.
PLAIN = Extractor("plain", lambda images: F.adaptive_avg_pool2d(to_float(images)[:, 0], 2).flatten(1), "0")


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    return fastgan.load(write_run(tmp_path_factory.mktemp("runs") / "dcgan", "dcgan"))


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    return fastgan.load(write_run(tmp_path_factory.mktemp("runs") / "classes", "mlp_conditional"))


def made_by(gan, n, seed=100, labels=None):
    """Images of the generator itself, as if they were real."""
    return ImageSet(to_uint8(gan.generate(n, seed, label=labels)), labels, name="made")


def test_a_perfect_generator_gets_what_real_images_get(gan):
    found = evaluate(gan, made_by(gan, 1200), samples=400)
    assert (found.run, found.step, found.seed, found.truncation) == (str(gan.path), 7, 0, None)
    assert found.protocol["images"] == {"reference": 800, "generated": 400, "held_out": 400}
    assert found.protocol["features"]["name"] == "random filters" and found.protocol["data"]["images"] == 1200
    assert list(found.generated) == list(found.real)
    for name in ("precision", "recall", "coverage"):
        assert found.generated[name] == pytest.approx(found.real[name], abs=0.06) and found.real[name] > 0.8
    assert abs(found.generated["kernel_distance"]) < 0.1 > abs(found.real["kernel_distance"])
    assert found.generated["frechet_distance"] < 1.6 * found.real["frechet_distance"]
    assert found.real["copies"] == pytest.approx(0.01, abs=0.006) and found.generated["copies"] < 0.05
    assert found.generated["nearest"] == pytest.approx(found.real["nearest"], rel=0.1)


def test_the_values_are_those_of_the_metrics(gan):
    real = made_by(gan, 200)
    found = evaluate(gan, real, samples=80, features=PLAIN, seed=3)
    order = torch.from_numpy(evaluation.np.random.default_rng(3).permutation(200))
    reference, held_out = (PLAIN(real.images[part]) for part in (order[80:], order[:80]))
    fake = to_uint8(gan.generate(80, 3))
    for images, values in ((PLAIN(fake), found.generated), (held_out, found.real)):
        assert values["frechet_distance"] == pytest.approx(metrics.frechet_distance(reference, images))
        distance = metrics.kernel_distance(reference, images, subset_size=40, seed=3)
        assert (values["kernel_distance"], values["kernel_distance_deviation"]) == pytest.approx(distance)
        assert (values["precision"], values["recall"]) == metrics.precision_recall(reference[:80], images)
        assert (values["density"], values["coverage"]) == metrics.density_coverage(reference[:80], images)
    nearest = gan.nearest(fake, real.images[order[80:]])
    assert found.generated["nearest"] == pytest.approx(nearest.distance.median().item())
    first = nearest.distance[:, 0].argmin()
    torch.testing.assert_close(to_uint8(found.closest[:2]), torch.stack([fake[first], nearest.images[first, 0]]))


def test_features_without_a_scale_are_standardised(gan):
    real = made_by(gan, 100)
    scaled = Extractor("scaled", lambda images: 7 * PLAIN(images) + 3, "1", standardise=True)
    again = Extractor("again", PLAIN, "2", standardise=True)
    found, same = (evaluate(gan, real, samples=40, features=each) for each in (scaled, again))
    assert found.generated == pytest.approx(same.generated, rel=1e-4, abs=1e-6)
    assert found.generated["frechet_distance"] != pytest.approx(
        evaluate(gan, real, samples=40, features=PLAIN).generated["frechet_distance"], rel=1e-2
    )


def test_the_same_seed_gives_the_same_values(gan):
    real = made_by(gan, 100)
    assert evaluate(gan, real, features=PLAIN) == evaluate(gan, real, features=PLAIN)
    assert evaluate(gan, real, features=PLAIN).generated != evaluate(gan, real, features=PLAIN, seed=1).generated
    assert (
        evaluate(gan, real, features=PLAIN).generated != evaluate(gan, real, features=PLAIN, truncation=0.5).generated
    )


def test_images_learnt_by_heart_are_found(gan):
    fakes = gan.generate(60, 0)
    known = ImageSet(torch.cat([to_uint8(fakes), made_by(gan, 200).images]), name="known")
    found = evaluate(gan, known, samples=60, features=PLAIN)
    assert found.generated["copies"] > 0.6 and found.generated["nearest"] < 0.01 < found.real["nearest"]
    torch.testing.assert_close(found.closest[::2], found.closest[1::2])


def test_mirrored_images_are_known_again(gan, tmp_path):
    write_run(tmp_path / "run", "dcgan")
    (tmp_path / "run" / "config.json").write_text(TrainConfig(mirror=True).to_json())
    mirroring = fastgan.load(tmp_path / "run")
    turned = to_uint8(gan.generate(60, 0)).flip(-1)
    known = ImageSet(torch.cat([turned, made_by(gan, 200).images]), name="known")
    found = evaluate(mirroring, known, samples=60, features=PLAIN)
    assert found.protocol["mirrored"] and found.generated["copies"] > 0.6
    assert not evaluate(gan, known, samples=60, features=PLAIN).protocol["mirrored"]


def test_labels_are_drawn_as_real_ones_are(conditional):
    labels = torch.tensor([0] * 150 + [2] * 50)
    real = made_by(conditional, 200, labels=labels)
    asked = []
    original = conditional.images_of
    conditional.images_of = lambda latents, **options: asked.append(options["label"]) or original(latents, **options)
    try:
        found = evaluate(conditional, real, samples=80)
        order = torch.from_numpy(evaluation.np.random.default_rng(0).permutation(200))
        assert torch.equal(torch.cat(asked), labels[order[:80]])
        assert set(asked[0].tolist()) == {0, 2}
        asked.clear()
        everything = evaluate(conditional, real, samples=300, all_real=True)
        assert 0.15 < (torch.cat(asked) == 2).double().mean() < 0.35
    finally:
        del conditional.images_of
    assert 0 <= found.generated["label_agreement"] <= 1 and "label_agreement" in found.real
    assert "label_agreement" in everything.generated
    unlabelled = evaluate(conditional, replace(real, labels=None), samples=80)
    assert "label_agreement" not in unlabelled.generated


def test_all_real_images_may_be_the_reference(gan):
    found = evaluate(gan, made_by(gan, 100), samples=300, features=PLAIN, all_real=True)
    assert found.protocol["images"] == {"reference": 100, "generated": 300, "held_out": 0}
    assert found.real == {} and "copies" not in found.generated and found.generated["nearest"] > 0


def test_by_default_half_of_few_images_are_kept_aside(gan):
    found = evaluate(gan, made_by(gan, 91), features=PLAIN)
    assert found.protocol["images"] == {"reference": 46, "generated": 45, "held_out": 45}


def test_few_samples_for_many_features_are_told(gan, monkeypatch):
    monkeypatch.setattr("fastgan.errors._warned", set())
    with pytest.warns(FastganWarning, match=r"^33 images are few for 64 features, .* it is .*; give at least 320 samp"):
        evaluate(gan, made_by(gan, 100), samples=33)


def test_only_inceptions_distance_is_called_fid(gan, monkeypatch):
    monkeypatch.setattr(evaluation, "extractor", lambda features, **_: PLAIN)
    found = evaluate(gan, made_by(gan, 100), features="inception")
    assert list(found.generated)[:3] == ["fid", "kid", "kid_deviation"]


def test_evaluations_are_written_and_compared(gan):
    real = made_by(gan, 100)
    found = evaluate(gan, real, features=PLAIN)
    again = Evaluation.from_json(found.to_json())
    assert again == found and again.closest is None and json.loads(found.to_json())["version"] == fastgan.__version__
    found.check_comparable(evaluate(gan, real, features=PLAIN, seed=5))
    for other, words in (
        (
            evaluate(gan, real, features=PLAIN, samples=40),
            "they differ in images reference 50 and 60, images generated",
        ),
        (evaluate(gan, real, samples=50), "features name plain and random filters, features numbers 4 and 64"),
        (
            evaluate(gan, made_by(gan, 100, seed=1), features=PLAIN),
            "they differ in data sha256 .*; evaluate both alike",
        ),
    ):
        with pytest.raises(UserError, match=words):
            found.check_comparable(other)


@pytest.mark.parametrize("text", ["nonsense", "[]", "{}", '{"format": 1}'])
def test_what_is_no_evaluation_is_named(text):
    with pytest.raises(UserError, match="the text is no evaluation of format 1; make one anew"):
        Evaluation.from_json(text)


def test_the_images_are_those_of_the_run(tmp_path, monkeypatch):
    write_run(tmp_path / "run", "dcgan")
    images = data.load("digits", image_size=28).images
    monkeypatch.setattr(evaluation, "load_data", lambda spec, **options: loaded.append((spec, options)) or real)
    loaded, real = [], ImageSet(images[:100], name="real")
    (tmp_path / "run" / "config.json").write_text(TrainConfig(data="photos", resize="pad").to_json())
    gan, options = fastgan.load(tmp_path / "run"), {"image_size": (28, 28), "channels": 1}
    evaluate(gan, features=PLAIN)
    evaluate(gan, "others", features=PLAIN)
    (tmp_path / "run" / "config.json").unlink()
    evaluate(gan, "others", features=PLAIN)
    assert loaded == [
        ("photos", {**options, "resize": "pad"}),
        ("others", {**options, "resize": "pad"}),
        ("others", {**options, "resize": "crop"}),
    ]
    with pytest.raises(UserError, match="does not say where the images are that it was trained on; give them as data"):
        evaluate(gan)


def test_images_that_are_gone_are_named(tmp_path):
    write_run(tmp_path / "run", "dcgan")
    (tmp_path / "run" / "config.json").write_text(TrainConfig(data=str(tmp_path / "photos")).to_json())
    with pytest.raises(
        UserError, match=r"was trained on .*photos, which is not to be found any more \(.*give the imag"
    ):
        evaluate(fastgan.load(tmp_path / "run"))


def test_the_generator_that_comes_along_is_measured_by_the_digits():
    found = evaluate(fastgan.load("digits"), samples=64, features=PLAIN)
    assert found.protocol["data"]["name"] == "digits" and found.protocol["image_size"] == [32, 32]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 31}, "samples must be a whole number of at least 32, but it is 31"),
        (
            {"samples": 51},
            "samples is 51, but as many of the 100 real images are kept aside, at most half of them; give",
        ),
        ({"seed": -1}, "seed must be"),
        ({"truncation": 0}, "truncation must be"),
        ({"features": "missing"}, "features is missing, but there is no such file"),
    ],
)
def test_mistakes(gan, options, words):
    with pytest.raises(UserError, match=words):
        evaluate(gan, made_by(gan, 100), **options)


def test_real_images_that_do_not_suit(gan, conditional, tmp_path):
    with pytest.raises(UserError, match="there are 63 real images, but it takes 64 to evaluate; give more"):
        evaluate(gan, made_by(gan, 63))
    with pytest.raises(
        UserError, match=r"made has images \[4, 20, 17\] \(channels, height, width\), but .* \[1, 28, 28"
    ):
        evaluate(gan, made_by(conditional, 64))
    with pytest.raises(UserError, match=rf"have labels up to {CLASSES}, but .* knows the classes 0 to {CLASSES - 1}"):
        evaluate(conditional, replace(made_by(conditional, 64), labels=torch.arange(64) % (CLASSES + 1)))
    pairs = fastgan.load(write_run(tmp_path / "pairs", "encoder_decoder"))
    with pytest.raises(UserError, match="maps images to images, which have to be compared one by one"):
        evaluate(pairs, "digits")

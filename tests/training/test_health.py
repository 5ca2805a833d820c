import json

import pytest
import torch
from torch import nn

from fastgan.errors import FastganWarning, TrainingDiverged
from fastgan.training import TrainConfig, Trainer, faults
from fastgan.training.glance import Glance
from fastgan.training.health import LOOK_EVERY, Monitor
from fastgan.training.run_folder import RunFolder
from fastgan.training.step import METRICS

LATENTS = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
REAL = torch.rand(64, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def events(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["alarm"], row["event"], row["since"], row["step"]) for row in rows if "alarm" in row]


def row(step, **values):
    return {"step": step, **dict.fromkeys(METRICS, 0.5), **values}


class Painter(nn.Module):
    """Latents to images by one matrix, with batch-norm behind it."""

    def __init__(self, momentum=0.1):
        super().__init__()
        self.lift, self.norm = nn.Linear(6, 256), nn.BatchNorm1d(256, momentum=momentum)
        nn.init.constant_(self.lift.bias, 3)

    def forward(self, latent):
        return torch.tanh(self.norm(self.lift(latent))).view(-1, 1, 16, 16)


class Constant(nn.Module):
    latent_dim = 6

    def __init__(self):
        super().__init__()
        self.image = nn.Parameter(torch.zeros(1, 1, 16, 16))

    def forward(self, latent):
        return torch.tanh(self.image).expand(len(latent), -1, -1, -1)


class Few(nn.Module):
    """Three images, whatever the latent is."""

    def __init__(self):
        super().__init__()
        self.images = nn.Parameter(REAL[:3].clone())

    def forward(self, latent):
        return self.images[latent.sum(1).abs().mul(10).long() % 3]


@pytest.fixture
def monitor(tmp_path):
    told = []

    def make(generator=None, **options):
        made = Monitor(tmp_path / "health.jsonl", generator or Painter(), LATENTS, tell=told.append, **options)
        made.told, made.path = told, tmp_path / "health.jsonl"
        return made

    return make


def measured(generator, real=REAL):
    glance = Glance(generator, LATENTS)
    glance.collect(real)
    return {name: value.item() for name, value in glance.measure().items()}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_saturated_discriminator_is_named_and_so_is_its_end(monitor, smoothing):
    watch = monitor(perfect=1 - smoothing)
    watch.read([row(step, d_real=0.6, d_fake_before=0.4) for step in range(1, 101)])
    watch.read([row(step, d_real=0.995 - smoothing, d_fake_before=0.005) for step in range(101, 301)])
    (alarm,) = watch.standing
    assert alarm.fault is faults.DISCRIMINATOR_SATURATED and 101 < alarm.since < alarm.step <= 201
    text = str(alarm)
    assert f"since step {alarm.since}" in text and "healthy: at most 0.97" in text and "try a lower lr_d" in text
    watch.read([row(step, d_real=0.6, d_fake_before=0.4) for step in range(301, 451)])
    watch.close()
    assert watch.standing == [] and [one.until is None for one in watch.told] == [True, False]
    assert [event[:2] for event in events(watch.path)] == [
        ("discriminator saturated", "raised"),
        ("discriminator saturated", "over"),
    ]


def test_a_lucky_batch_is_no_alarm(monitor):
    watch = monitor()
    watch.read([row(step, d_real=1.0, d_fake_before=0.0 if step % 10 else 0.5) for step in range(1, 400)])
    assert watch.standing == []


def test_no_probability_is_not_judged(monitor):
    watch = monitor(perfect=None)
    watch.read([row(step, d_real=1.0, d_fake_before=0.0) for step in range(1, 300)])
    assert watch.standing == []


def test_a_number_that_is_not_finite_is_named_at_once(monitor):
    watch = monitor()
    watch.read([row(1), row(2, loss_d=None, d_real=None), row(3, loss_d=None)])
    assert [(alarm.fault, alarm.since, alarm.step) for alarm in watch.standing] == [(faults.NOT_FINITE, 2, 2)]
    watch.read([row(4)])
    watch.close()
    assert events(watch.path) == [("not finite", "raised", 2, 2), ("not finite", "over", 2, 4)]


@pytest.mark.parametrize(
    ("generator", "fault"),
    [
        (Constant, faults.GENERATOR_COLLAPSED),
        (Few, faults.GENERATOR_COLLAPSED),
        (lambda: Painter(momentum=0.0), faults.MODES_DIFFER),
    ],
)
def test_what_a_look_sees(monitor, generator, fault):
    watch = monitor(made := generator())
    for parameter in made.parameters():
        parameter.grad = torch.ones_like(parameter)
    for step in range(1, 201):
        watch.look(step, REAL)
    looks = watch.read([row(200)])
    assert [look["step"] for look in looks] == [50, 100, 150, 200] and looks[0]["gradient"] == pytest.approx(1)
    assert [(alarm.fault, alarm.since, alarm.step) for alarm in watch.standing] == [(fault, LOOK_EVERY, 150)]


@pytest.mark.parametrize("gradient", [None, 1e-9])
def test_vanished_gradients(monitor, gradient):
    generator = Painter().train()
    generator(LATENTS)
    generator.norm.momentum = None  # a plain mean: the statistics are exact after the one batch
    generator.norm.reset_running_stats()
    generator(LATENTS)
    for parameter in generator.parameters():
        parameter.grad = None if gradient is None else torch.full_like(parameter, gradient)
    watch = monitor(generator)
    for step in (50, 100, 150):
        watch.look(step, REAL)
    watch.close()
    assert [alarm.fault for alarm in watch.standing] == [faults.GRADIENT_VANISHED]


def test_data_without_variance(monitor):
    watch = monitor()
    watch.look(50, REAL[:1].expand(64, -1, -1, -1))
    (look,) = watch.read([])
    assert look["diversity"] is None and look["gap"] is None and look["spread"] == 0
    assert [alarm.fault for alarm in watch.standing] == [faults.DATA_ALL_ALIKE]


def test_a_glance_leaves_no_trace():
    generator = nn.Sequential(Painter(), nn.Dropout(0.5)).train()
    generator[1].eval()
    glance = Glance(generator, LATENTS)
    glance.collect(REAL)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    random = torch.get_rng_state()
    generator[1].train()
    glance.measure()
    assert generator.training and generator[0].norm.training and generator[1].training
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_diversity_is_relative_to_the_data():
    class Replay(Painter):
        def forward(self, latent):
            return super().forward(latent) * 0 + self.factor * REAL[: len(latent)] ** 1

    generator = Replay()
    for factor in (1.0, 0.5):
        generator.factor = factor
        assert measured(generator)["diversity"] == pytest.approx(factor)
    few = REAL[:4].repeat(16, 1, 1, 1)  # a small set comes round and round: equal images are no collapse then
    generator.factor = 1.0
    assert measured(generator, few)["diversity"] > 0.9


def test_nothing_is_said_before_the_data_is_known():
    assert str(measured(Painter(), REAL[:8])["diversity"]) == "nan"


def test_an_injected_constant_generator_is_named_within_200_steps(trainer, capsys):
    pictures = (REAL[:40] * 127.5 + 127.5).to(torch.uint8)
    result = trainer(data=pictures, networks=(Constant(), None), steps=200, image_size=16).train()
    assert ("generator collapsed", "raised", 50, 150) in events(RunFolder(result.folder).health)
    assert faults.GENERATOR_COLLAPSED in [alarm.fault for alarm in result.alarms]
    assert "alarm  generator collapsed since step 50" in capsys.readouterr().out


def test_an_injected_saturated_discriminator_is_named_within_200_steps(trainer):
    pictures = (REAL[:40] * 127.5 + 127.5).to(torch.uint8)
    result = trainer(data=pictures, steps=200, lr_d=0.01, lr_g=1e-12, width=8).train()
    assert faults.DISCRIMINATOR_SATURATED in [alarm.fault for alarm in result.alarms]


class OnceUndefined:
    """A step whose fifth call gives an undefined loss_d, and does all else as ever."""

    def __init__(self, ordinary):
        self._ordinary, self._calls = ordinary, 0

    def __call__(self, real, *given):
        metrics = self._ordinary(real, *given)
        self._calls += 1
        return metrics | {"loss_d": torch.tensor(float("nan"))} if self._calls == 5 else metrics

    def __getattr__(self, name):
        return getattr(self._ordinary, name)


def test_an_injected_nan_is_named_by_its_step_whatever_follows(trainer, tmp_path):
    run = trainer(steps=8)  # all of whose rows are written together
    run.step = OnceUndefined(run.step)
    with pytest.raises(TrainingDiverged, match=r"at step 5 \(a loss is not finite\); there was no checkpoint yet"):
        run.train()
    told = events(RunFolder(tmp_path / "run").health)
    assert told == [("not finite", "raised", 5, 5), ("not finite", "over", 5, 6)]


def test_an_injected_nan_is_gone_after_going_back(trainer):
    run = trainer(steps=8, on_nan="rollback", checkpoint_every=3)
    run.step = OnceUndefined(run.step)
    run._make_step = lambda: run.step  # which the run goes on with
    with pytest.warns(FastganWarning, match=r"at step 5 \(a loss is not finite\); back to .*step-000003.safetensors"):
        result = run.train()
    rows = [json.loads(line) for line in RunFolder(result).metrics.read_text().splitlines()]
    assert [row["step"] for row in rows if row["loss_d"] is not None] == list(range(1, 9)) and result.alarms == ()


def test_a_run_that_diverges_says_so_in_its_log_and_picture(trainer, tmp_path):
    run, folder = trainer(steps=8), RunFolder(tmp_path / "run")
    run.state.generator.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    with pytest.raises(TrainingDiverged):
        run.train()
    assert events(folder.health)[0][:3] == ("not finite", "raised", 1) and folder.picture.is_file()


def test_going_back_ends_the_alarms_since_then(monitor):
    watch = monitor()
    watch.read([row(step) for step in range(1, 8)])
    watch.read([row(8, loss_d=None)])
    watch.rewind(5)
    assert watch.standing == []
    watch.read([row(6)])
    watch.close()
    assert events(watch.path)[1:] == [("not finite", "rolled back", 8, 5)]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_healthy_digits_raise_no_alarm(tmp_path, seed):
    result = Trainer(TrainConfig(out=str(tmp_path / "run"), seed=seed, device="cpu")).train()
    assert events(RunFolder(result.folder).health) == []

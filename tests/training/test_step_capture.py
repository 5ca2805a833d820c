"""The whole step as a CUDA graph: what decides about it everywhere, the graph itself where there is a GPU."""

import copy
import threading
import warnings
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from tutorial_networks import networks

import fastgan.layers
from fastgan import errors
from fastgan.errors import FastganWarning
from fastgan.training import AdversarialStep, _capture
from fastgan.training._capture import WARM_UP, StepGraph

on_gpu = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class Recorder:
    """Stands in for torch.cuda's graphs: a capture changes nothing, a replay runs the step on the graph's inputs."""

    def __init__(self, graph, weight):
        self.graph, self.weight, self.replays = graph, weight, 0

    @contextmanager
    def capture(self, _, stream, capture_error_mode):
        before = self.weight.detach().clone()
        yield
        self.weight.data.copy_(before)

    def replay(self):
        self.replays += 1
        (group,) = self.graph._optimizers[0].param_groups
        rate, group["lr"] = group["lr"], self.graph._rates._buffers[0]
        metrics = self.graph._update(*self.graph._inputs)
        self.graph._values.copy_(torch.stack(list(metrics.values())))
        group["lr"] = rate


@pytest.fixture
def recorded(monkeypatch):
    """A StepGraph of a step that adds lr (mean of real + mean of latent) to a weight, on stand-ins for a GPU."""
    network = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, fused=True)

    def update(real, latent):
        network.weight.data.add_(optimizer.param_groups[0]["lr"] * (real.mean() + latent.mean()))
        return {"weight": network.weight.detach().sum().clone(), "real": real.mean()}

    graph = StepGraph(update, [network], [optimizer])
    recorder = Recorder(graph, network.weight)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: recorder)
    monkeypatch.setattr(torch.cuda, "graph", recorder.capture)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"a stream of {device}")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the caller's stream")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(graph, "_run_aside", update)
    network.weight.data.zero_()
    return graph, recorder, network, optimizer


def images(value, count=4):
    return torch.full((count, 1, 2, 2), float(value))


def test_a_graph_takes_new_images_latents_and_rates(recorded):
    graph, recorder, network, optimizer = recorded
    expected = 0.0
    kept = []
    for call in range(8):
        optimizer.param_groups[0]["lr"] = rate = torch.tensor(0.5) if call == 7 else 1.0 + call
        metrics = graph(images(call), images(10 * call))
        expected += float(rate) * 11 * call
        assert metrics["weight"].item() == network.weight.item() == pytest.approx(expected)
        assert metrics["real"].item() == call
        kept.append((metrics["real"], call))
        assert optimizer.param_groups[0]["lr"] is rate
    assert recorder.replays == 8 - WARM_UP
    assert all(value.item() == call for value, call in kept)  # a replay does not write over what was given away


def test_a_smaller_batch_is_run_without_the_graph_and_the_graph_stays(recorded):
    graph, recorder, network, _ = recorded
    for _ in range(WARM_UP + 1):
        graph(images(1), images(0))
    assert recorder.replays == 1
    graph(images(1, count=3), images(0, count=3))
    assert recorder.replays == 1
    graph(images(1), images(0))
    assert recorder.replays == 2
    assert network.weight.item() == WARM_UP + 3


@pytest.mark.parametrize(
    "change",
    [
        lambda network, optimizer: network.eval(),
        lambda network, optimizer: network.requires_grad_(False),
        lambda network, optimizer: setattr(network.weight, "data", network.weight.data.clone()),
        lambda network, optimizer: optimizer.param_groups[0].update(momentum=0.5),
        lambda network, optimizer: optimizer.state[network.weight].update(step=torch.zeros(())),
        lambda network, optimizer: setattr(network, "p", 0.5),
    ],
    ids=["mode", "frozen", "another address", "option", "optimizer state", "a module's option"],
)
def test_another_state_gets_another_graph(recorded, change):
    graph, recorder, network, optimizer = recorded
    for _ in range(WARM_UP + 1):
        graph(images(1), images(0))
    recorder.weight = network.weight
    change(network, optimizer)
    for calls in range(1, WARM_UP + 2):
        graph(images(1), images(0))
        assert recorder.replays == 1 + (calls > WARM_UP)
        assert network.weight.item() == WARM_UP + 1 + calls


def test_another_setting_of_the_step_gets_another_graph(recorded):
    graph, recorder, _, _ = recorded
    weight = 1.0
    graph._settings = lambda: (weight,)
    for _ in range(WARM_UP + 1):
        graph(images(1), images(0))
    weight = 2.0
    graph(images(1), images(0))
    assert recorder.replays == 1


def test_inside_a_capture_of_the_callers_own_there_is_no_other(recorded, monkeypatch):
    graph, recorder, network, _ = recorded
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    for _ in range(WARM_UP + 2):
        graph(images(1), images(0))
    assert (recorder.replays, network.weight.item()) == (0, WARM_UP + 2)


def test_a_copy_has_no_graph_yet_and_gets_its_own(recorded):
    graph, _, network, _ = recorded
    for _ in range(WARM_UP + 1):
        graph(images(1), images(0))
    graph._aside = graph._graph = threading.Lock()  # streams and graphs cannot be copied either
    copied = copy.deepcopy(graph)
    assert (graph.is_captured, copied.is_captured, copied._aside) == (True, False, None)
    assert copied._networks[0] is not network
    assert copied._optimizers[0].param_groups[0]["params"][0] is copied._networks[0].weight


def test_steps_before_a_capture_read_rates_as_it_will_and_on_the_inputs_device(monkeypatch):
    network = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1, fused=True)
    rates, streams = [], []

    class Stream:
        def __init__(self, device):
            self.device = device
            streams.append(device)

        def wait_stream(self, stream):
            pass

    def update(real):
        rates.append(optimizer.param_groups[0]["lr"].clone())
        return {}

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream.__new__(Stream))
    graph = StepGraph(update, [network], [optimizer])
    for device in ("cpu", "cpu", "meta"):
        graph._run_aside(SimpleNamespace(device=torch.device(device)))
        assert optimizer.param_groups[0]["lr"] == 0.1 and not optimizer.param_groups[0]["capturable"]
    assert [str(device) for device in streams] == ["cpu", "meta"]
    assert [rate.dtype for rate in rates] == [torch.float32] * 3
    assert rates[0].item() == rates[1].item() == torch.tensor(0.1).item()


def test_what_cannot_be_captured_runs_without_a_graph_and_says_so_once(recorded, monkeypatch):
    graph, recorder, network, _ = recorded
    streams = []

    @contextmanager
    def fail(*_, stream, **__):
        streams.append(stream)  # what torch leaves current where the end of a capture fails
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "graph", fail)
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    with pytest.warns(FastganWarning, match="without a CUDA graph, because it cannot be captured: operation") as warned:
        for _ in range(WARM_UP + 4):
            graph(images(1), images(0))
    assert len(warned) == 1
    assert (recorder.replays, network.weight.item()) == (0, WARM_UP + 4)
    assert streams == ["a stream of cpu", "the caller's stream"]


def test_waits_for_the_device_are_noted_and_other_warnings_passed_on(monkeypatch):
    modes = ["default"]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with pytest.warns(UserWarning, match="another") as passed_on, _capture._noting_waits() as places:
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
        warnings.warn("called a synchronizing CUDA operation (Triggered internally at ...)", stacklevel=1)
        warnings.warn("another", stacklevel=1)
        loader = threading.Thread(target=warnings.warn, args=("called a synchronizing CUDA operation",))
        loader.start()
        loader.join()
    assert modes == ["default", "warn", "default"]
    assert len(passed_on) == 1
    assert [place.partition(":")[0] for place in places] == [__file__]


def hooked(register):
    def make(network):
        optimizer = torch.optim.Adam(network.parameters(), fused=True)
        register(network, optimizer)
        return optimizer

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda network: torch.optim.Adam(network.parameters()), "Adam is neither fused nor capturable"),
        (hooked(lambda network, _: network.register_forward_hook(lambda *_: None)), "there are hooks"),
        (hooked(lambda network, _: network.bias.register_hook(lambda grad: grad)), "there are hooks"),
        (hooked(lambda network, _: network.bias.register_post_accumulate_grad_hook(lambda _: None)), "there are hooks"),
        (hooked(lambda _, optimizer: optimizer.register_step_post_hook(lambda *_: None)), "there are hooks"),
        (hooked(lambda network, _: network.append(nn.BatchNorm1d(1, momentum=None))), "momentum=None"),
        (hooked(lambda network, _: network.double()), "float64"),
    ],
    ids=["optimizer", "hook", "gradient hook", "accumulation hook", "optimizer hook", "momentum", "float64"],
)
def test_steps_that_are_never_captured(make, words, monkeypatch):
    monkeypatch.setattr(errors, "_warned", set())
    network = nn.Sequential(nn.Linear(1, 1))
    network.bias = network[0].bias
    graph = StepGraph(lambda real, latent: {"mean": real.mean()}, [network], [make(network)])
    with pytest.warns(FastganWarning, match=words):
        for _ in range(WARM_UP + 2):
            assert graph(images(3), images(0))["mean"].item() == 3
    assert not graph.is_captured


def test_images_that_ask_for_gradients_get_them(recorded, monkeypatch):
    monkeypatch.setattr(errors, "_warned", set())
    graph, recorder, _, _ = recorded
    with pytest.warns(FastganWarning, match="ask for gradients"):
        for _ in range(WARM_UP + 2):
            assert graph(images(1).requires_grad_(), images(0))["real"].requires_grad
    assert recorder.replays == 0


# ---- on a GPU -------------------------------------------------------------------------------------------------------


class Waiting(nn.Module):
    def forward(self, images):
        return images * min(1.0, images.detach().abs().max().item() + 2)


def twins(device="cuda", **options):
    """The same step captured and not, with the learning rates' optimizers."""
    torch.manual_seed(0)
    pair = [network.to(device) for network in networks(namespace=fastgan.layers)]
    steps = []
    for capture in ("auto", "never"):
        own = copy.deepcopy(pair)
        adams = [torch.optim.Adam(m.parameters(), lr=2e-3, betas=(0.5, 0.999), fused=True) for m in own]
        steps.append(AdversarialStep(*own, *adams, capture=capture, **options))
    return steps


def follow(captured, eager, real):
    latent = torch.randn(len(real), 6, 1, 1, device=real.device)
    found = [step(real, latent) for step in (captured, eager)]
    assert list(found[0]) == list(found[1])
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-3, atol=1e-4, msg=name)
    return found[0]


class TestOnGPU:
    pytestmark = on_gpu

    @pytest.fixture(autouse=True)
    def deterministic(self, monkeypatch):
        """Or torch's convolutions add in an order of chance, and two equal steps drift apart."""
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"loss": "hinge", "d_steps": 2},
            {"loss": "minimax"},
            {"precision": "bf16"},
            {"accumulate": 2},
            {"r1_gamma": 1.0, "r1_every": 4},
        ],
    )
    def test_a_replayed_step_is_the_step(self, options):
        captured, eager = twins(**options)
        kept = []
        for call in range(12):
            for step in (captured, eager):
                for optimizer in (step.opt_g, step.opt_d):
                    optimizer.param_groups[0]["lr"] = 2e-3 / (1 + call)
            metrics = follow(captured, eager, torch.randn(8, 1, 16, 16, device="cuda"))
            kept.append((metrics, {name: value.item() for name, value in metrics.items()}))
        assert captured._graph.is_captured and not eager._graph.is_captured
        assert all(value.item() == values[name] for metrics, values in kept for name, value in metrics.items())

    def test_a_smaller_batch_and_loaded_optimizers(self):
        captured, eager = twins()
        for call in range(16):
            if call == 9:
                for step in (captured, eager):
                    step.opt_d.load_state_dict(copy.deepcopy(step.opt_d.state_dict()))
            follow(captured, eager, torch.randn(5 if call in (6, 12) else 8, 1, 16, 16, device="cuda"))

    def test_a_network_that_waits_for_the_device_is_not_captured(self):
        captured, eager = twins()
        for step in (captured, eager):
            step.generator.append(Waiting())
        with pytest.warns(FastganWarning, match="waits for the device"):
            for _ in range(WARM_UP + 2):
                follow(captured, eager, torch.randn(8, 1, 16, 16, device="cuda"))
        assert not captured._graph.is_captured
        assert torch.cuda.current_stream() == torch.cuda.default_stream()

    @pytest.mark.parametrize("index", range(max(1, torch.cuda.device_count())))
    def test_on_every_device_also_where_it_is_not_the_current_one(self, index):
        captured, eager = twins(device=f"cuda:{index}")
        for _ in range(WARM_UP + 4):
            follow(captured, eager, torch.randn(8, 1, 16, 16, device=f"cuda:{index}"))
        assert captured._graph.is_captured

    def test_replays_draw_new_random_numbers(self):
        captured, _ = twins(loss="wgan_gp")
        real = torch.randn(8, 1, 16, 16, device="cuda")
        latent = torch.randn(8, 6, 1, 1, device="cuda")
        for optimizer in (captured.opt_g, captured.opt_d):
            optimizer.param_groups[0]["lr"] = 0.0  # the places of the gradient penalty are all that changes
        penalties = {captured(real, latent)["penalty"].item() for _ in range(8)}
        assert captured._graph.is_captured
        assert len(penalties) == 8

    def test_a_step_does_not_wait_for_the_device(self):
        captured, _ = twins()
        real = torch.randn(8, 1, 16, 16, device="cuda")
        for _ in range(WARM_UP + 4):
            captured(real)
        assert captured._graph.is_captured
        torch.cuda.set_sync_debug_mode("error")
        try:
            captured(real)
        finally:
            torch.cuda.set_sync_debug_mode("default")

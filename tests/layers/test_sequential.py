"""``Sequential`` computes what torch's does, and runs fused what it says it fuses."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import relative_error
from networks import discriminator, generator
from torch.utils._python_dispatch import TorchDispatchMode

import fastgan.layers as nn
from fastgan import _native
from fastgan.layers._chain import chains, flatten
from fastgan.layers._plan import Members


def odd(nn):
    return nn.Sequential(
        nn.BatchNorm2d(3),
        nn.LeakyReLU(0.1),
        nn.Conv2d(3, 6, 3, padding="same"),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(4, momentum=None),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4, affine=False, track_running_stats=False),
        nn.BatchNorm2d(4),
        nn.Dropout(0.0),
        nn.GELU(),
        nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)),
    )


NETWORKS = {
    "discriminator": (discriminator, (4, 3, 16, 16)),
    "generator": (generator, (4, 5, 1, 1)),
    "odd": (odd, (4, 3, 12, 10)),
}


def twins(make, **to):
    torch.manual_seed(0)
    theirs = make(torch.nn).to(**to)
    ours = make(nn).to(**to)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def run_steps(network, inputs, train=True):
    """Outputs and gradients of several steps; parameters move between them."""
    network.train(train)
    seen = []
    for input in inputs:
        input = input.clone().requires_grad_()
        network.zero_grad()
        output = network(input)
        output.square().sum().backward()
        seen += [output.detach(), input.grad, *(p.grad.clone() for p in network.parameters())]
        with torch.no_grad():
            for p in network.parameters():
                p -= 0.01 * p.grad
    return seen


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_torch_over_steps(name, memory_format):
    make, shape = NETWORKS[name]
    ours, theirs = twins(make, dtype=torch.float64, memory_format=memory_format)
    inputs = [torch.randn(shape, dtype=torch.float64).contiguous(memory_format=memory_format) for _ in range(5)]
    for train in (True, False):
        for value, truth in zip(run_steps(ours, inputs, train), run_steps(theirs, inputs, train), strict=True):
            assert relative_error(value, truth) < 1e-10
            assert value.stride() == truth.stride()
    for (key, value), truth in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert relative_error(value, truth) < 1e-10, key


@pytest.mark.parametrize("name", ["discriminator", "generator"])
def test_second_derivatives_through_a_run(name):
    make, shape = NETWORKS[name]
    ours, theirs = twins(make, dtype=torch.float64)
    input = torch.randn(shape, dtype=torch.float64)
    results = []
    for network in (ours, theirs):
        leaf = input.clone().requires_grad_()
        (grad,) = torch.autograd.grad(network(leaf).sum(), leaf, create_graph=True)
        (grad.flatten(1).norm(dim=1) - 1).square().mean().backward()
        results.append([leaf.grad, *(p.grad for p in network.parameters() if p.grad is not None)])
    for value, truth in zip(*results, strict=True):
        assert relative_error(value, truth) < 1e-10


@pytest.mark.parametrize("name", ["discriminator", "generator"])
def test_autocast_gives_torchs_dtypes_and_values(name):
    make, shape = NETWORKS[name]
    ours, theirs = twins(make)
    input = torch.randn(shape)
    truth = copy.deepcopy(theirs).double()(input.double())
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [network(input) for network in (ours, theirs)]
    assert outputs[0].dtype == outputs[1].dtype
    errors = [relative_error(output, truth) for output in outputs]
    assert errors[0] <= 1.2 * errors[1]
    outputs[0].float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in ours.parameters())


def test_whole_network_is_one_autograd_function():
    ours, _ = twins(generator)
    output = ours(torch.randn(2, 5, 1, 1))
    node = output.grad_fn
    assert type(node).__name__ == "_RunBackward"
    assert {type(f[0]).__name__ for f in node.next_functions if f[0] is not None} == {"AccumulateGrad"}


def test_a_run_keeps_one_tensor_a_block():
    ours, theirs = twins(discriminator)
    kept, image = {}, torch.randn(4, 3, 32, 32)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        ours(image)
    parameters = {image.data_ptr(), *(p.data_ptr() for p in ours.parameters())}
    sizes = sorted(t.numel() for pointer, t in kept.items() if pointer not in parameters)
    outputs = []
    for module in theirs:
        image = module(image)
        if isinstance(module, torch.nn.Conv2d):
            outputs.append(image.numel())
    statistics = [8, 8]  # mean and inverse deviation of the one batch-norm
    assert sizes == sorted(outputs + statistics)


def _plan(network) -> list[str]:
    """Each chain as "cba.ca." (letters for conv, batch-norm, activation; a dot a block), other modules by name."""
    words = []
    for part in chains(list(flatten(network))):
        if isinstance(part, list):
            assert all(isinstance(block, Members) for block in part)
            words.append(
                "".join("".join(k for k, m in zip("cba", b, strict=True) if m is not None) + "." for b in part)
            )
        else:
            words.append(type(part).__name__)
    return words


def test_plan():
    assert _plan(discriminator(nn)) == ["ca.cba.ca."]
    assert _plan(generator(torch.nn)) == ["cba.cba.ca."]
    # Reflected padding needs the input itself, so that a chain begins there; Sequentials inside are seen through.
    assert _plan(odd(nn)) == ["ba.c.", "MaxPool2d", "cb.cb.b.", "Dropout", "GELU", "cb."]
    assert _plan([nn.LeakyReLU(0.2), nn.Conv2d(3, 3, 1), nn.LeakyReLU(-0.5)]) == ["LeakyReLU", "c.", "LeakyReLU"]
    assert _plan([nn.Conv2d(3, 3, 1), nn.ConvBNAct2d(3, 3, 1), nn.ReLU()]) == ["c.cba.", "ReLU"]


def test_subclasses_are_not_fused():
    class Doubling(torch.nn.Conv2d):
        def forward(self, input):
            return 2 * super().forward(input)

    assert _plan([Doubling(3, 3, 1), nn.BatchNorm2d(3)]) == ["Doubling", "b."]


@pytest.mark.parametrize("kind", ["forward", "pre", "backward", "global"])
def test_hooks_fire(kind):
    ours, theirs = twins(discriminator, dtype=torch.float64)
    seen = []
    for network in (ours, theirs):
        fired = []
        register = {
            "forward": lambda m: m.register_forward_hook(lambda *_: fired.append(1)),  # noqa: B023
            "pre": lambda m: m.register_forward_pre_hook(lambda *_: fired.append(1)),  # noqa: B023
            "backward": lambda m: m.register_full_backward_hook(lambda *_: fired.append(1)),  # noqa: B023
            "global": lambda _: torch.nn.modules.module.register_module_forward_hook(lambda *_: fired.append(1)),  # noqa: B023
        }[kind]
        handle = register(network[2])
        network(torch.ones(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)).sum().backward()
        handle.remove()
        seen.append(len(fired))
    assert seen[0] == seen[1] > 0


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
@pytest.mark.parametrize("change", ["replace", "functional_call", "deepcopy", "to", "vmap", "jit", "subclass"])
def test_gate_and_changes_of_the_modules(change):
    ours, theirs = twins(discriminator)
    x = torch.randn(4, 3, 16, 16)
    theirs.eval(), ours.eval()
    if change == "replace":
        new = torch.nn.BatchNorm2d(8, eps=0.5).eval()
        ours[3] = theirs[3] = new
    expected = theirs(x)
    _native.reset_counters()
    if change == "functional_call":
        other = {k: v * 1.5 for k, v in ours.state_dict().items()}
        found, expected = torch.func.functional_call(ours, other, x), torch.func.functional_call(theirs, other, x)
    elif change == "deepcopy":
        found = copy.deepcopy(ours)(x)
    elif change == "to":
        found = ours.to(torch.float64)(x.double()).float()
    elif change == "vmap":
        found = torch.vmap(lambda one: ours(one[None])[0])(x)
    elif change == "jit":
        traced = torch.jit.trace(ours, x, check_trace=False)
        assert "fastgan::" not in str(traced.inlined_graph)
        found = traced(x)
    elif change == "subclass":

        class Mine(torch.Tensor):
            pass

        found = ours(x.as_subclass(Mine))
        assert type(found) is Mine
    else:
        found = ours(x)
    torch.testing.assert_close(torch.Tensor(found), expected, rtol=1e-5, atol=1e-6)
    native = change not in ("vmap", "jit", "subclass")
    assert any(name.startswith("activation/") for name in _native.counters()) == native


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own
def test_forward_mode_derivatives():
    ours, theirs = twins(discriminator)
    x, tangent = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    tangents = []
    for network in (ours.eval(), theirs.eval()):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, tangent)
            tangents.append(torch.autograd.forward_ad.unpack_dual(network(dual)).tangent)
    torch.testing.assert_close(*tangents)


def test_a_patched_convolution_is_respected():
    ours, theirs = twins(discriminator)
    for network in (ours, theirs):
        network[2]._conv_forward = lambda input, weight, bias: torch.nn.functional.conv2d(input, 2 * weight, bias, 2, 1)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(ours(x), theirs(x))


def test_one_value_a_channel_is_torchs_error():
    for network in (nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4)), nn.BatchNorm2d(3)):
        size = 8 if isinstance(network, nn.Sequential) else 1
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            network(torch.randn(1, 3, size, size))
        assert network.eval()(torch.randn(1, 3, size, size)).shape[0] == 1


def test_wrong_dimensions_are_torchs_errors():
    with pytest.raises(ValueError, match="expected 4D input"):
        nn.BatchNorm2d(3)(torch.randn(4, 3))
    assert nn.Sequential(nn.Conv2d(3, 4, 3))(torch.randn(3, 8, 8)).shape == (4, 6, 6)  # unbatched, as torch allows


def test_inference_mode_and_updated_weights_are_never_stale():
    ours, theirs = twins(discriminator)
    ours.eval(), theirs.eval()
    x = torch.randn(2, 3, 16, 16)
    for _ in range(3):
        with torch.inference_mode():
            torch.testing.assert_close(ours(x), theirs(x))
        for network in (ours, theirs):
            for p in network.parameters():
                p.data.mul_(1.1)


class Operators(TorchDispatchMode):
    """Notes the names of torch's operators as they run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("name", NETWORKS)
def test_where_torchs_kernels_run_they_run_as_they_do_in_torch(name, autocast, engine):
    """In place where that was asked for, with no cast and no copy more: by torch's own modules."""
    engine("aten")
    make, shape = NETWORKS[name]
    names = []
    for network in twins(make):
        with Operators() as operators:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                output = network(torch.ones(shape))
            output.float().sum().backward()
        names.append(operators.names)
    assert names[0] == names[1]

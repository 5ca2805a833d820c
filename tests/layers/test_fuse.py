"""``fastgan.fuse`` makes a torch.nn model run fused, with the same results; ``unfuse`` takes it back."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from cases import relative_error
from own_forwards import Down, image, nested, ran_natively, results, twins
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import fastgan
import fastgan.layers
from fastgan import _native
from fastgan.errors import FastganWarning, UserError


def assert_same(ours, theirs, x=None, tolerance=1e-10):
    found, truth = results(ours, x), results(theirs, x)
    assert found.keys() == truth.keys()
    for name, value in truth.items():
        assert relative_error(found[name], value) <= tolerance, name


def test_same_results_and_every_block_native():
    ours, theirs = twins()
    _native.reset_counters()
    assert_same(ours, theirs)
    # six convolutions: forward and backward in training, forward in eval
    assert ran_natively() == 6 * 3


def test_fuse_returns_the_model_and_leaves_it_as_it_was():
    ours, theirs = twins()
    assert fastgan.fuse(ours) is ours
    assert repr(ours) == repr(theirs)
    assert [type(m) for m in ours.modules()] == [type(m) for m in theirs.modules()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.load_state_dict(theirs.state_dict()) and theirs.load_state_dict(ours.state_dict())


def test_unfuse_takes_it_back():
    ours, theirs = twins()
    before = [set(m.__dict__) for m in theirs.modules()]
    assert fastgan.unfuse(ours) is ours
    assert [set(m.__dict__) for m in ours.modules()] == before
    assert repr(ours) == repr(theirs)
    _native.reset_counters()
    assert torch.equal(ours(image()), theirs(image()))
    assert ran_natively() == 0


def test_unfuse_and_fuse_a_model_of_fastgans_layers():
    layers = fastgan.layers
    model = layers.Sequential(layers.ConvBNAct2d(3, 4, 3), layers.Conv2d(4, 4, 3), layers.BatchNorm2d(4)).double()
    truth = model(image())
    for switch, native in ((fastgan.unfuse, False), (fastgan.fuse, True)):
        _native.reset_counters()
        torch.testing.assert_close(switch(model)(image()), truth)
        assert bool(_native.counters()) == native


@pytest.mark.parametrize("max_run", [1, 2])
def test_max_run_cuts_the_chains(max_run):
    ours, theirs = twins()
    fastgan.fuse(ours, max_run=max_run)
    places = {row.reason for row in fastgan.explain(ours, image()) if row.fused}
    assert places == (
        {"a run of one block"}
        if max_run == 1
        else {"a run of one block", "block 1 of 2 of a run", "block 2 of 2 of a run"}
    )
    assert_same(ours, theirs)


@pytest.mark.parametrize(("model", "options"), [(nn.ReLU, {}), (nested(), {"max_run": 0})])
def test_wrong_arguments_are_sentences(model, options):
    with pytest.raises(UserError, match="give"):
        fastgan.fuse(model, **options)


# ---- copies and conversions -----------------------------------------------------------------------------------------


CONVERSIONS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "to": lambda m: m.to(torch.float64),
    "channels_last": lambda m: m.to(memory_format=torch.channels_last),
    "replicate": lambda m: _replicated(m),
    "compile": lambda m: torch.compile(m, fullgraph=True, backend="eager"),
    "compile_aot": lambda m: torch.compile(m, fullgraph=True, backend="aot_eager"),
}


def _replicated(module):
    """What DataParallel does on each device."""
    replica = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        setattr(replica, name, _replicated(child))
    for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
        setattr(replica, name, tensor)
    return replica


@pytest.mark.parametrize("name", CONVERSIONS)
def test_a_copy_is_fused_and_its_own(name):
    torch.compiler.reset()
    ours, theirs = twins()
    other = CONVERSIONS[name](ours)
    with torch.no_grad():
        for p in [*ours.parameters(), *theirs.parameters()]:
            p.mul_(1.25)
        if name in ("deepcopy", "pickle"):
            other.load_state_dict(theirs.state_dict())
            next(ours.parameters()).zero_()  # the copy must not read it
    ours.train(), theirs.train(), other.train()
    _native.reset_counters()
    found = other(image())
    torch.testing.assert_close(found, theirs(image()), rtol=1e-9, atol=1e-12)
    assert ran_natively() > 0
    found.sum().backward()


def test_functional_call():
    ours, theirs = twins()
    other = {name: value * 1.5 for name, value in theirs.state_dict().items() if value.is_floating_point()}
    found, truth = (torch.func.functional_call(m.eval(), other, image()) for m in (ours, theirs))
    torch.testing.assert_close(found, truth)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_jit_script_reads_the_classes_own_forward():
    ours, theirs = twins()
    torch.testing.assert_close(torch.jit.script(ours.eval())(image()), theirs.eval()(image()))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (fastgan.fuse(Down(3, 8)), "x"),
        (fastgan.fuse(nested()), "input"),
        (fastgan.unfuse(fastgan.layers.Sequential(fastgan.layers.Conv2d(3, 4, 3))), "input"),
    ],
    ids=["own_forward", "sequential", "unfused"],
)
def test_torch_export_knows_the_inputs_by_their_names(model, name):
    model, x = model.double().eval(), image()
    program = torch.export.export(model, (x,), dynamic_shapes={name: {0: torch.export.Dim("batch", min=2)}})
    more = torch.cat([x, x])
    torch.testing.assert_close(program.module()(more), model(more))


def test_half_precision():
    ours, theirs = twins(dtype=torch.bfloat16)
    x = image(torch.bfloat16)
    found, eager = results(ours, x), results(theirs, x)
    truth = results(theirs.double(), x.double())
    errors = [sum(relative_error(each[name], value) for name, value in truth.items()) for each in (found, eager)]
    assert errors[0] <= 1.2 * errors[1]


@pytest.mark.parametrize("when", ["before", "after"])
def test_sync_batch_norm_conversion(when):
    _, theirs = twins()
    ours = copy.deepcopy(theirs)
    steps = [fastgan.fuse, nn.SyncBatchNorm.convert_sync_batchnorm]
    for step in steps[:: 1 if when == "after" else -1]:
        ours = step(ours)
    kinds = {row.type: row.fused for row in fastgan.explain(ours)}
    assert "BatchNorm2d" not in kinds and any(isinstance(m, nn.SyncBatchNorm) for m in ours.modules())
    # SyncBatchNorm refuses the CPU in training, so eval mode has to tell that the new modules are called.
    torch.testing.assert_close(ours.eval()(image()), theirs.eval()(image()))


# ---- parameters -----------------------------------------------------------------------------------------------------


def _share(model):
    model[4].conv2.weight = model[4].conv1.weight


def _freeze(model):
    for p in [*model[0].parameters(), *model[4].bn1.parameters()]:
        p.requires_grad_(False)


def _tie(model):
    model[4].conv2, model[4].bn2 = model[4].conv1, model[4].bn1


def _old_spectral_norm(model):
    for conv in (model[0], model[2][0], model[3].conv, model[4].conv1):
        nn.utils.spectral_norm(conv)


def _new_spectral_norm(model):
    for conv in (model[0], model[2][0], model[3].conv, model[4].conv1):
        parametrizations.spectral_norm(conv)


def _weight_norm(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model[0])
    parametrizations.weight_norm(model[2][0])


class Once(nn.Module):
    reads = 0

    def forward(self, weight):
        Once.reads += 1
        return weight * 1.5


def _parametrize(model):
    parametrize.register_parametrization(model[3].conv, "weight", Once())
    parametrize.register_parametrization(model[3].bn, "weight", Once())


def _odd_convolutions(model):
    model[0] = nn.Conv2d(3, 8, 3, padding="same", padding_mode="reflect", bias=False).double()
    model[2][0] = nn.Conv2d(8, 8, (4, 3), padding="same").double()
    model[2][1] = nn.BatchNorm2d(8, momentum=None, affine=False).double()
    model[3].bn = nn.BatchNorm2d(16, track_running_stats=False).double()
    model[5] = nn.Conv2d(16, 2, 2, padding="valid", groups=2, dilation=2).double()


CHANGES = [_share, _freeze, _tie, _old_spectral_norm, _new_spectral_norm, _weight_norm, _parametrize, _odd_convolutions]


@pytest.mark.parametrize("order", ["change_first", "fuse_first"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__.strip("_"))
def test_unusual_parameters(change, order):
    networks = []
    for fuse in (fastgan.fuse, lambda m: m):
        torch.manual_seed(0)
        model = nested().double()
        torch.manual_seed(1)  # spectral norm draws its vectors
        for step in [change, fuse][:: 1 if order == "change_first" else -1]:
            step(model)
        networks.append(model)
    assert_same(*networks)
    Once.reads = 0
    _native.reset_counters()
    assert_same(*networks)
    if change is _parametrize:
        assert Once.reads == 2 * 2 * 2  # two parameters, two forwards, two networks: each read once a forward
    assert ran_natively() == 6 * 3


# ---- hooks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
@pytest.mark.parametrize("where", [(0,), (2,), (2, 0), (2, 1), (3,), (3, "conv"), (3, "bn"), (4, "act"), (4, "conv2")])
def test_hooks_fire_as_often_and_see_the_same(kind, where):
    seen = []
    for network in twins():
        module = network
        for part in where:
            module = getattr(module, part) if isinstance(part, str) else module[part]
        values = []

        def hook(module, *values_given, values=values):
            tensors = [v for value in values_given for v in (value if isinstance(value, tuple) else (value,))]
            values.extend(float(t.detach().sum()) for t in tensors if t is not None)

        getattr(module, f"register_{kind}_hook")(hook)
        with warnings.catch_warnings():
            warnings.simplefilter("error", FastganWarning)
            results(network)
        seen.append(values)
    assert len(seen[0]) == len(seen[1]) > 0
    torch.testing.assert_close(torch.tensor(seen[0]), torch.tensor(seen[1]))


def test_a_pre_hook_may_replace_the_input():
    ours, theirs = twins()
    for network in (ours, theirs):
        network[2][0].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    _native.reset_counters()
    assert_same(ours, theirs)
    assert ran_natively() == 6 * 3  # at the head of a chain it is called, and the chain goes on


# ---- the gate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["vmap", "grad", "export", "fx", "jit", "subclass"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_the_gate(closed):
    ours, theirs = (network.eval() for network in twins())
    x, truth = image(), theirs(image())
    _native.reset_counters()
    if closed == "vmap":
        found = torch.vmap(lambda one: ours(one[None])[0])(x)
    elif closed == "grad":
        found, truth = (torch.func.grad(lambda x, m=m: m(x).sum())(x) for m in (ours, theirs))
    elif closed == "export":
        program = torch.export.export(ours, (x,))
        assert "fastgan" not in str(program.graph)
        found = program.module()(x)
    elif closed == "fx":
        found = torch.fx.symbolic_trace(ours)(x)
    elif closed == "jit":
        found = torch.jit.trace(ours, x, check_trace=False)(x)
    else:
        found = ours(x.as_subclass(type("Mine", (torch.Tensor,), {}))).as_subclass(torch.Tensor)
    torch.testing.assert_close(found, truth)
    assert ran_natively() == 0

"""``fastgan.explain``: a row a layer, with a reason in each."""

from __future__ import annotations

import re

import pytest
import torch
from networks import discriminator
from own_forwards import Down, Optional, Residual
from torch import nn
from torch.nn.utils import parametrizations

import fastgan
import fastgan.layers
from fastgan.errors import UserError


def critic(nn):
    return nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.InstanceNorm2d(8), nn.LeakyReLU(0.2), nn.Dropout(0.1))


class Generator(nn.Module):
    """A module of one's own around all that can happen to a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.down = Down(3, 8)
        self.residual = Residual(8)
        self.optional = Optional(8, 8)
        self.block = fastgan.layers.ConvBNAct2d(8, 4, 3, padding=1)
        self.plain = fastgan.layers.BatchNorm2d(4)
        self.to_image = nn.ConvTranspose2d(4, 3, 4, 2, 1)
        self.loss = nn.BCELoss()

    def forward(self, x):
        x = self.plain(self.block(self.optional(self.residual(self.down(x)))))
        return torch.tanh(self.to_image(x))


def hooked():
    model = discriminator(fastgan.layers)
    model[2].register_forward_hook(lambda *_: None)
    nn.utils.spectral_norm(model[0])
    parametrizations.spectral_norm(model[5])
    return model


MODELS = {
    "layers": lambda: discriminator(fastgan.layers),
    "torch": lambda: discriminator(nn),
    "fused": lambda: fastgan.fuse(discriminator(nn)),
    "unfused": lambda: fastgan.unfuse(discriminator(fastgan.layers)),
    "max_run": lambda: fastgan.fuse(discriminator(nn), max_run=2),
    "critic": lambda: critic(fastgan.layers),
    "hooked": hooked,
    "own_forwards": Generator,
    "own_forwards_fused": lambda: fastgan.fuse(Generator()),
}

# layer, fused, engine: reason. One line a layer, after one run.
# fmt: off
SNAPSHOTS = {
    "layers": """
        0 yes conv_bn_act/forward_aten: block 1 of 3 of a run
        1 yes activation/forward_float32: block 1 of 3 of a run
        2 yes conv_bn_act/forward_aten: block 2 of 3 of a run
        3 yes batch_norm_act/forward_contiguous_float32: block 2 of 3 of a run
        4 yes batch_norm_act/forward_contiguous_float32: block 2 of 3 of a run
        5 yes conv_bn_act/forward_aten_matmul: block 3 of 3 of a run
        6 yes activation/forward_float32: block 3 of 3 of a run
    """,
    "torch": """
        0 no torch: its Sequential is torch.nn's; fastgan.fuse fuses it
        1 no torch: its Sequential is torch.nn's; fastgan.fuse fuses it
        2 no torch: its Sequential is torch.nn's; fastgan.fuse fuses it
        3 no torch: its Sequential is torch.nn's; fastgan.fuse fuses it
        4 no torch: its Sequential is torch.nn's; fastgan.fuse fuses it
        5 no torch: its Sequential is torch.nn's; fastgan.fuse fuses it
        6 no torch: its Sequential is torch.nn's; fastgan.fuse fuses it
    """,
    "fused": """
        0 yes conv_bn_act/forward_aten: block 1 of 3 of a run
        1 yes activation/forward_float32: block 1 of 3 of a run
        2 yes conv_bn_act/forward_aten: block 2 of 3 of a run
        3 yes batch_norm_act/forward_contiguous_float32: block 2 of 3 of a run
        4 yes batch_norm_act/forward_contiguous_float32: block 2 of 3 of a run
        5 yes conv_bn_act/forward_aten_matmul: block 3 of 3 of a run
        6 yes activation/forward_float32: block 3 of 3 of a run
    """,
    "unfused": """
        0 no torch: it was unfused; fastgan.fuse fuses it
        1 no torch: it was unfused; fastgan.fuse fuses it
        2 no torch: it was unfused; fastgan.fuse fuses it
        3 no torch: it was unfused; fastgan.fuse fuses it
        4 no torch: it was unfused; fastgan.fuse fuses it
        5 no torch: it was unfused; fastgan.fuse fuses it
        6 no torch: it was unfused; fastgan.fuse fuses it
    """,
    "max_run": """
        0 yes conv_bn_act/forward_aten: block 1 of 2 of a run
        1 yes activation/forward_float32: block 1 of 2 of a run
        2 yes conv_bn_act/forward_aten: block 2 of 2 of a run
        3 yes batch_norm_act/forward_contiguous_float32: block 2 of 2 of a run
        4 yes batch_norm_act/forward_contiguous_float32: block 2 of 2 of a run
        5 yes conv_bn_act/forward_aten_matmul: a run of one block
        6 yes activation/forward_float32: a run of one block
    """,
    "critic": """
        0 yes conv_bn_act/forward_aten: a run of one block
        1 no torch: InstanceNorm2d is not one of the modules that can be fused
        2 no torch: an activation is fused with the convolution or batch-norm right before it, and it comes after InstanceNorm2d
        3 no torch: Dropout is not one of the modules that can be fused
    """,
    "hooked": """
        0 yes conv_bn_act/forward_aten: a run of one block
        1 yes activation/forward_float32: a run of one block
        2 no torch: it has a hook or a replaced forward, which must run
        3 yes batch_norm_act/forward_contiguous_float32: block 1 of 2 of a run
        4 yes batch_norm_act/forward_contiguous_float32: block 1 of 2 of a run
        5 yes conv_bn_act/forward_aten_matmul: block 2 of 2 of a run
        6 yes activation/forward_float32: block 2 of 2 of a run
    """,
    "own_forwards": """
        down.conv no torch: Down's own forward calls it; fastgan.fuse fuses it
        down.bn no torch: Down's own forward calls it; fastgan.fuse fuses it
        residual.conv1 no torch: Residual's own forward calls it; fastgan.fuse fuses it
        residual.bn1 no torch: Residual's own forward calls it; fastgan.fuse fuses it
        residual.act no torch: Residual's own forward calls it; fastgan.fuse fuses it
        residual.conv2 no torch: Residual's own forward calls it; fastgan.fuse fuses it
        residual.bn2 no torch: Residual's own forward calls it; fastgan.fuse fuses it
        optional.conv no torch: Optional's own forward calls it, and keeps doing so, because its forward has the optional argument 'y', which tracing would fix
        optional.bn no torch: Optional's own forward calls it, and keeps doing so, because its forward has the optional argument 'y', which tracing would fix
        block.conv yes conv_bn_act/forward_aten: a run of one block
        block.bn yes batch_norm_act/forward_contiguous_float32: a run of one block
        plain yes batch_norm_act/forward_contiguous_float32: a run of one block
        to_image no torch: Generator's own forward calls it; fastgan.fuse fuses it
        loss no torch: fastgan.layers has this loss as one kernel; BCEWithLogitsLoss, on a discriminator without its Sigmoid, is the more exact choice
    """,
    "own_forwards_fused": """
        down.conv yes conv_bn_act/forward_aten: a run of one block
        down.bn yes batch_norm_act/forward_contiguous_float32: a run of one block
        residual.conv1 yes conv_bn_act/forward_aten: block 1 of 2 of a run
        residual.bn1 yes batch_norm_act/forward_contiguous_float32: block 1 of 2 of a run
        residual.act yes batch_norm_act/forward_contiguous_float32: block 1 of 2 of a run
        residual.conv2 yes conv_bn_act/forward_aten: block 2 of 2 of a run
        residual.bn2 yes batch_norm_act/forward_contiguous_float32: block 2 of 2 of a run
        optional.conv no torch: Optional's own forward calls it, and keeps doing so, because its forward has the optional argument 'y', which tracing would fix
        optional.bn no torch: Optional's own forward calls it, and keeps doing so, because its forward has the optional argument 'y', which tracing would fix
        block.conv yes conv_bn_act/forward_aten: block 1 of 3 of a run
        block.bn yes batch_norm_act/forward_contiguous_float32: block 1 of 3 of a run
        plain yes batch_norm_act/forward_contiguous_float32: block 2 of 3 of a run
        to_image yes conv_transpose_bn_act/forward_scatter_float32: block 3 of 3 of a run
        loss no torch: fastgan.layers has this loss as one kernel; BCEWithLogitsLoss, on a discriminator without its Sigmoid, is the more exact choice
    """,
}
# fmt: on


def lines(explanation) -> list[str]:
    found = []
    for row in explanation:
        engine = re.sub(r"_(scalar|avx2|avx512|avx512_bf16)$", "", row.engine)
        found.append(f"{row.layer} {'yes' if row.fused else 'no'} {engine}: {row.reason}")
    return found


@pytest.mark.parametrize("name", MODELS)
def test_snapshot(name):
    model = MODELS[name]()
    found = lines(fastgan.explain(model, torch.randn(2, 3, 16, 16)))
    assert found == [line.strip() for line in SNAPSHOTS[name].strip().splitlines()], "\n" + "\n".join(found)


def test_before_a_run_it_says_what_is_to_be_expected():
    model = fastgan.fuse(discriminator(nn))
    before = fastgan.explain(model)
    assert {row.engine for row in before} == {"not run yet"}
    assert all(row.fused and "of a run" in row.reason for row in before)
    model(torch.randn(2, 3, 16, 16))
    after = fastgan.explain(model)
    assert [row.reason for row in after] == [row.reason for row in before]
    assert all("/forward" in row.engine for row in after)


def test_after_a_step_a_convolution_names_the_kernels_of_every_pass():
    model = discriminator(fastgan.layers)
    model(torch.randn(4, 3, 16, 16)).sum().backward()
    engines = {row.layer: row.engine for row in fastgan.explain(model) if row.type == "Conv2d"}
    assert engines == {
        "0": "conv_bn_act/forward_aten, backward_wgrad_aten",
        "2": "conv_bn_act/forward_aten, backward_dgrad_aten, backward_wgrad_aten",
        "5": "conv_bn_act/forward_aten_matmul, backward_dgrad_aten_matmul, backward_wgrad_aten_matmul",
    }


def test_each_layer_names_its_own_kernels(monkeypatch):
    """Not those that another layer of its run, or of another model, ran last."""
    trace = (("conv_bn_act/forward_a",), ("batch_norm_act/forward_b", "conv_bn_act/forward_c"))
    monkeypatch.setattr("fastgan._native.take_trace", lambda device: trace)
    model = fastgan.layers.Sequential(*discriminator(fastgan.layers)[:5])
    with torch.no_grad():
        model(torch.randn(2, 3, 16, 16))
    engines = {row.layer: row.engine for row in fastgan.explain(model) if row.type == "Conv2d"}
    assert engines == {"0": "conv_bn_act/forward_a", "2": "conv_bn_act/forward_c"}


def test_it_changes_nothing():
    model = hooked().train()
    x = torch.randn(2, 3, 16, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    fastgan.explain(model, x)
    assert torch.equal(random, torch.get_rng_state())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_no_reason_is_ever_empty_and_it_prints_as_a_table():
    for make in MODELS.values():
        model = make()
        explanation = fastgan.explain(model)
        assert all(row.reason for row in explanation)
        text = str(explanation).splitlines()
        assert text[0].split() == ["layer", "type", "fused", "engine", "reason"]
        assert len(text) == len(explanation) + 1


def test_torchs_kernels_are_named_with_the_reason(monkeypatch):
    from fastgan.ops import _engine

    model = discriminator(fastgan.layers)
    monkeypatch.setattr(_engine, "mode", "aten")
    rows = fastgan.explain(model, torch.randn(2, 3, 16, 16))
    assert {(row.fused, row.engine) for row in rows} == {(False, "torch")}
    assert all("FASTGAN_ENGINE=aten" in row.reason for row in rows)


def test_only_modules():
    with pytest.raises(UserError, match=r"explain takes a torch\.nn\.Module, and got function; give it the model"):
        fastgan.explain(discriminator)

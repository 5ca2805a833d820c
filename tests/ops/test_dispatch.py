"""Which engine runs, what its counters say, and that nothing falls back in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from fastgan import _native, ops
from fastgan.errors import UserError, strict
from fastgan.ops import _engine


def _call(dtype=torch.float32, device="cpu", **options):
    x = torch.ones(4, 8, 3, 3, dtype=dtype, device=device)
    return ops.batch_norm_act(x, None, None, training=True, **options)


def _native_runs() -> int:
    return sum(n for name, n in _native.counters().items() if name.startswith("batch_norm_act/"))


@pytest.mark.parametrize(("mode", "native"), [("auto", True), ("native", True), ("aten", False)])
def test_engine(mode, native, engine):
    engine(mode)
    _native.reset_counters()
    _call()
    assert (_native_runs() > 0) == native


def test_kernel_names_say_what_ran():
    _native.reset_counters()
    x = torch.randn(4, 16, 5, 5).contiguous(memory_format=torch.channels_last).bfloat16()
    ops.batch_norm_act(x, None, None, training=True)
    assert _native.last_kernels()["batch_norm_act"].startswith("forward_channels_last_bfloat16_")


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        (("tf32", "none", "none"), True),
        (("none", "tf32", "none"), True),
        (("none", "none", "tf32"), True),
        (("ieee", "tf32", "tf32"), False),
        (("none", "none", "none"), False),
    ],
)
def test_a_gpus_convolutions_round_float32_where_torch_lets_them(settings, allowed, monkeypatch):
    backends = SimpleNamespace(cudnn=SimpleNamespace(conv=SimpleNamespace()))
    backends.cudnn.conv.fp32_precision, backends.cudnn.fp32_precision, backends.fp32_precision = settings
    monkeypatch.setattr(_engine.torch, "backends", backends)
    on_gpu = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    assert _engine.allows_tf32(on_gpu) is allowed
    assert not _engine.allows_tf32(SimpleNamespace(device=torch.device("cuda"), dtype=torch.float64))
    assert not _engine.allows_tf32(SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32))


def test_what_the_library_says_of_a_gpu_is_a_constant_to_the_compiler(monkeypatch):
    monkeypatch.setattr(_native, "_covered", {})
    monkeypatch.setattr(_native, "_why_not_covered", lambda index: "" if _native.build_info() else "no facts")
    compiled = torch.compile(lambda x: x + _native.cuda_covered(7), fullgraph=True, backend="eager")
    assert compiled(torch.zeros(1)) == 1


def test_torchs_settings_are_those_that_are_read_also_by_its_compiler():
    def add(input):
        return input + (1 if _engine._precision_of_convolutions() == "tf32" else 2)

    with torch.backends.cudnn.flags(allow_tf32=True):
        assert torch.compile(add, backend="eager", fullgraph=True)(torch.zeros(1)) == 1
    with torch.backends.cudnn.flags(allow_tf32=False):
        assert _engine._precision_of_convolutions() != "tf32"


def test_devices_without_kernels_run_on_torch():
    assert _call(device="meta").shape == (4, 8, 3, 3)


def test_forced_native_raises_where_there_is_none(engine):
    engine("native")
    with pytest.raises(RuntimeError, match="kernels for cpu and cuda"):
        _call(device="meta")
    with pytest.raises(RuntimeError, match="complex64"):
        _call(dtype=torch.complex64)


@pytest.mark.parametrize("device", ["cpu"])
def test_strict_raises_where_a_chosen_library_is_missing(device, monkeypatch):
    monkeypatch.setattr(_native, "loaded", lambda _: False)
    monkeypatch.setattr(_native, "reason", lambda _: "it was not built.")
    assert _call(device=device).shape == (4, 8, 3, 3)
    monkeypatch.setenv("FASTGAN_STRICT", "1")
    with pytest.raises(RuntimeError, match="it was not built"):
        _call(device=device)


def test_unknown_engine_is_a_sentence(monkeypatch):
    monkeypatch.setenv("FASTGAN_ENGINE", "fast")
    with pytest.raises(UserError, match="auto, native or aten"):
        _engine._mode_from_environment()


def test_an_empty_engine_is_none(monkeypatch):
    monkeypatch.setenv("FASTGAN_ENGINE", "")
    assert _engine._mode_from_environment() == "auto"


def test_unknown_strictness_is_a_sentence(monkeypatch):
    for value, expected in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv("FASTGAN_STRICT", value)
        assert strict() is expected
    monkeypatch.setenv("FASTGAN_STRICT", "yes")
    monkeypatch.setattr(_native, "_state", {})
    with pytest.raises(UserError, match="FASTGAN_STRICT='yes' is unknown; choose 0 or 1"):
        _native.load()


@pytest.mark.parametrize("isa", ["avx2", "scalar"])
def test_other_instruction_sets_are_exact_too(isa):
    """The same tests on the kernels that other CPUs run."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/ops/test_exactness.py"]
    command += ["-k", "test_equals_truth and batch_norm_act and channels_last or special or no_norm_tanh"]
    done = subprocess.run(command, env={**os.environ, "FASTGAN_CPU_ISA": isa}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: ops.batch_norm_act(x, None, None), UserError, "training=False needs running_mean"),
        (lambda x: ops.batch_norm_act(x, None, None, training=True, batch_groups=3), UserError, "does not divide"),
        (lambda x: ops.batch_norm_act(x, None, None, training=True, activation="gelu"), UserError, "choose one of"),
        (
            lambda x: ops.batch_norm_act(x, torch.ones(3), torch.ones(3)),
            RuntimeError,
            r"'running_mean' has shape \[3\]",
        ),
        (lambda x: ops.batch_norm_act(x, torch.ones(4), None), RuntimeError, "given together"),
        (
            lambda x: ops.batch_norm_act(x, None, None, torch.ones(5), training=True),
            RuntimeError,
            r"'weight' has shape",
        ),
        (lambda x: ops.batch_norm_act(x[:1, :, :1, :1], None, None, training=True), ValueError, "more than 1 value"),
        (lambda x: ops.conv_bn_act(x, torch.ones(2, 3, 3, 3)), RuntimeError, "has 4 channels"),
        (lambda x: ops.conv_bn_act(x, torch.ones(2, 4, 3, 3).double()), RuntimeError, "has dtype float64 but"),
        (lambda x: ops.conv_bn_act(x, torch.ones(2, 4, 9, 9)), RuntimeError, "output would be empty"),
        (lambda x: ops.conv_bn_act(x, torch.ones(2, 4, 3, 3), stride=0), RuntimeError, "'stride' needs two values"),
        (lambda x: ops.conv_bn_act(x, torch.ones(2, 4, 3, 3), groups=3), RuntimeError, "groups=3"),
        (lambda x: ops.conv_bn_act(x, torch.ones(2, 4, 3, 3), stride=(1, 1, 1)), UserError, "3 values"),
        (lambda x: ops.conv_bn_act(x, torch.ones(2, 4, 3, 3), padding="full"), UserError, "'same' or 'valid'"),
        (lambda x: ops.conv_bn_act(x, torch.ones(2, 4, 3, 3), torch.ones(3)), RuntimeError, "'bias' has shape"),
        (lambda x: ops.conv_transpose_bn_act(x, torch.ones(3, 2, 3, 3)), RuntimeError, "has 4 channels"),
        (
            lambda x: ops.conv_transpose_bn_act(x, torch.ones(4, 2, 3, 3), output_padding=1),
            RuntimeError,
            "output_padding",
        ),
        (lambda x: ops.conv_bn_act(x[0], torch.ones(2, 4, 3, 3)), RuntimeError, r"must be \[N, C, H, W\]"),
    ],
)
def test_bad_input_is_a_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call(torch.randn(2, 4, 6, 6))

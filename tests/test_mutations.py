"""Twenty-three small mistakes in the operators, each of which the tests have to notice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
# The tests that a mistake in an operator has to meet.
TESTS = ["tests/ops", *(f"tests/layers/test_{name}.py" for name in ("sequential", "fuse", "torch_features"))]


class Mutation(NamedTuple):
    """One mistake: the text that stands in a file once, and what stands there instead."""

    name: str
    file: str
    text: str
    mistake: str


STATISTICS, BACKWARD = "csrc/batch_norm_act/statistics.cpp", "csrc/batch_norm_act/backward.cpp"
KERNELS = "csrc/batch_norm_act/batch_norm_act_kernels.cpp"
RUN, OPTIONS = "fastgan/ops/run.py", "fastgan/ops/blocks.py"
MUTATIONS = [
    Mutation("epsilon left out", STATISTICS, "1.0 / std::sqrt(v + eps)", "1.0 / std::sqrt(v)"),
    Mutation("running variance biased", STATISTICS, "momentum, n / (n - 1));", "momentum, 1.0);"),
    Mutation("momentum upside down", STATISTICS, "value += momentum * (", "value += (1 - momentum) * ("),
    Mutation("sign of the offset", KERNELS, "scale * g - constant - factor * d", "scale * g + constant - factor * d"),
    Mutation("sign of the slope", KERNELS, "scale * g - constant - factor * d", "scale * g - constant + factor * d"),
    Mutation("sums forgotten in training", BACKWARD, "if (training) mean_terms(", "if (!training) mean_terms("),
    Mutation("gradient of the weight unscaled", BACKWARD, "product[row + c] * static_cast<double>(affine.invstd[row + c]);", "product[row + c];"),
    Mutation("a tail forgotten", KERNELS, "for (int64_t i = whole; i < n; i += W) at(i - whole)", "for (int64_t i = whole; i + W <= n; i += W) at(i - whole)"),
    Mutation("the mean of a tail forgotten", STATISTICS, "add_lanes(runs, rest, mean, [=](int64_t, int64_t p) { return value_of(p); });", ""),
    Mutation("groups share their statistics", BACKWARD, "const int64_t begin = group * sets * channels, end", "const int64_t begin = 0, end"),
    Mutation("samples share their scale", BACKWARD, "parameters = per_sample ? row : 0;", "parameters = 0;"),
    Mutation("sums in passing of the wrong group", BACKWARD, "values_.data() + group * 3 * period_", "values_.data()"),
    Mutation("a last band's places are kept", "csrc/conv/gather.cpp", "|| item.is_last_band != before.is_last_band", ""),
    Mutation("slope of the positive side", "csrc/common/activate.h", "return z > V{} ? grad : grad * slope;", "return z > V{} ? grad * slope : grad;"),
    Mutation("tanh's gradient", "csrc/common/activate.h", "return grad * (V{} + 1 - y * y);\n  } else if constexpr (kind == Activation::sigmoid) {\n    return grad * (V{} + 1 - y) * y;", "return grad * (V{} + 1 + y * y);\n  } else if constexpr (kind == Activation::sigmoid) {\n    return grad * (V{} + 1 - y) * y;"),
    Mutation("even elements for odd ones", "csrc/common/vec.h", "bits_as<Vec<float>>(pairs & 0xffff0000u)}", "bits_as<Vec<float>>(pairs << 16)}"),
    Mutation("logits' clamp", "csrc/bce/bce.h", "const A floor = A(-100);", "const A floor = A(-10);"),
    Mutation("the block below is read unnormalised", "csrc/run/run.h", "if (blocks[i - 1].norm) return pending_on(*below.tensor, *below.mean, *below.invstd, blocks[i - 1]);", ""),
    Mutation("running statistics of no block", "csrc/run/block.h", "tensor, norm.running, norm.training", "tensor, {}, norm.training"),
    Mutation("second gradients stop", "fastgan/ops/_plain.py", "create_graph=creates_graph, allow_unused=True", "create_graph=False, allow_unused=True"),
    Mutation("autocast is forgotten", RUN, "return _run(_cast(input, dtype), blocks, parameters, batch_groups, kernels)", "return _run(input, blocks, parameters, batch_groups, kernels)"),
    Mutation("an output that may be written over is kept", OPTIONS, "and not self.inplace", "and self.inplace"),
    Mutation("stride and padding change places", OPTIONS, "(kind, *stride, *padding,", "(kind, *padding, *stride,"),
]  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_mutations_still_apply(mutation):
    assert (ROOT / mutation.file).read_text().count(mutation.text) == 1


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the project, built."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("csrc", "fastgan", "build_backend", "tests", "build/native"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "_cuda.so"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    _build(copy)
    assert _tests_pass(copy)
    return copy


@pytest.mark.long
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_a_mistake_is_noticed(tree, mutation):
    path = tree / mutation.file
    right = path.read_text()
    try:
        path.write_text(right.replace(mutation.text, mutation.mistake))
        _build(tree)
        assert not _tests_pass(tree)
    finally:
        path.write_text(right)


def _build(tree: Path) -> None:
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    subprocess.run(command, cwd=tree, env={**os.environ, "FASTGAN_CUDA": "0"}, check=True, capture_output=True)


def _tests_pass(tree: Path) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(
        command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode == 0

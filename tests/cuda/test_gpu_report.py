"""benchmarks/gpu_report.py, of a record with made-up times."""

from __future__ import annotations

import json

import gpu_report
import pytest

KERNELS = {
    "void cudnn::bn_fw_tr_1C11_kernel_NHWC<float>()": "batch-norm, activation",
    "void fastgan::batch_norm_act::(anonymous namespace)::normalise<float>()": "batch-norm, activation",
    "void fastgan::conv::(anonymous namespace)::multiply<fastgan::conv::Gather<float> >()": "convolution",
    "sm90_xmma_fprop_implicit_gemm_bf16bf16_relu": "convolution",
    "void at::native::leaky_relu_kernel()": "batch-norm, activation",
    "void fastgan::bce::(anonymous namespace)::adversarial_parts<float>()": "loss",
    "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdam>()": "optimiser",
    "Memset (Device)": "other",
}


def step(ms: float) -> dict:
    length = 1e3 * ms / len(KERNELS)
    return {"ms": [ms] * 3, "timeline": [[name, i * length, 0.9 * length] for i, name in enumerate(KERNELS)]}


@pytest.fixture
def record():
    ours = {"fastgan.layers": step(3.0), "AdversarialStep": step(1.0)}
    row = {"block": "D2", "pass": "forward", "gflop": 8.6, "fastgan_ms": [0.02] * 3, "eager_ms": [0.04] * 3}
    common = {"batch": 128, "ceilings": {"tflops": 790.0, "tb_per_second": 4.3}, "needed_gflop": 290.0}
    return {
        "machine": {"gpu": "NVIDIA H200", "torch": "2.11.0", "cudnn": 91000, "commit": "0123456789abcdef"},
        "tests": {"passed": 426, "failed": 0, "skipped": 0},
        "benchmarks": {
            "native": {**common, "passes": [row], "step": ours},
            "auto": {**common, "step": {"torch.nn": step(4.0), **ours}},
            "compiled": {"step": {"compile_failure": None, "torch.compile": step(1.5)}},
        },
    }


def test_a_kernel_is_known_by_its_name():
    assert {name: gpu_report.kind_of(name) for name in KERNELS} == KERNELS


def test_the_page_gets_tables_and_a_picture(record, tmp_path):
    page = tmp_path / gpu_report.PAGE
    page.parent.mkdir()
    page.write_text("before\n<!-- gpu -->\nold\n<!-- /gpu -->\nafter\n")
    gpu_report.write_docs(json.loads(json.dumps(record)), tmp_path)
    text = page.read_text()
    assert text.startswith("before\n<!-- gpu -->\nNVIDIA H200, torch 2.11.0") and text.endswith(
        "<!-- /gpu -->\nafter\n"
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert ["`AdversarialStep`", "1.00", "4.00x", "1.50x", "37%", "8"] in rows
    assert ["D2", "forward", "0.020", "0.040", "2.00x", "54%", "27%"] in rows
    assert (tmp_path / gpu_report.PICTURE).stat().st_size > 10_000


def test_a_page_without_marks_is_named(record, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / gpu_report.PAGE).write_text("nothing\n")
    with pytest.raises(ValueError, match=r"performance\.md has no <!-- gpu -->"):
        gpu_report.write_docs(record, tmp_path)


def test_what_did_not_run_is_left_out(record):
    record["benchmarks"]["compiled"] = {"exit_code": 124, "said": []}
    assert "torch.compile" not in gpu_report.text_of(record)

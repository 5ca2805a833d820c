"""The whole training step of the DCGAN tutorial, and sampling from its generator, against torch.

``benchmarks/report.py`` runs this; by itself it measures the step under a capped instruction set, see :func:`capped`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from harness import gflop

import fastgan.layers
import fastgan.models
from fastgan import _native, tutorial
from fastgan.proof import AUTOCAST, Proof, interleaved

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SETTINGS = [(precision, format) for precision in AUTOCAST for format in FORMATS]
SAMPLES = (1, 2, 4, 8)
CAP = "avx2"
# Torch's own kernels and oneDNN's are capped alike, so that the comparison is fair.
CAPPED = {"FASTGAN_CPU_ISA": CAP, "ONEDNN_MAX_CPU_ISA": CAP.upper(), "ATEN_CPU_CAPABILITY": CAP}

# Chance decides much of a first step: a value that rounds across LeakyReLU's kink, or a gradient near 0 that turns,
# moves Adam's update by its whole step. Eager's own float32 was seen at up to 2e-4 and 1.1e-2, its bfloat16 at 6e-2.
MOST_LOSSES = {"float32": 3e-3, "bfloat16": 0.1}
MOST_UPDATE = 3e-2
EAGER_FACTOR = 1.2


def check_step(proof: Proof, precision: str, format: str) -> dict[str, dict[str, float]]:
    """The errors of every contender against float64, or AssertionError: a fast wrong answer is no answer."""
    errors = proof.errors(precision, FORMATS[format])
    most = {
        "losses": MOST_LOSSES[precision],
        "update": max(MOST_UPDATE, EAGER_FACTOR * errors["torch.nn"]["update"]),
    }
    for name, found in errors.items():
        for kind, error in found.items():
            assert error <= most[kind], (
                f"{name}, {precision} {format}: {kind} {error:.1e} from float64, {most[kind]:.1e} allowed"
            )
    return errors


def measure(
    proof: Proof, compiled: bool = True, settings: Sequence[tuple[str, str]] = SETTINGS, only: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """A row for each setting and contender; all of them take turns in the same rounds.

    Args:
        proof: the size.
        compiled: whether torch.compile takes part.
        settings: precision and memory format.
        only: where given, the names of the contenders that take part.
    """
    rows: dict[str, dict[str, Any]] = {}
    steps: dict[str, Callable[[], None]] = {}
    # All settings' networks stay compiled side by side; dynamo counts them together: all are Sequential's forward.
    with torch._dynamo.config.patch(recompile_limit=64):
        for precision, format in settings:
            errors = check_step(proof, precision, format)
            contenders = proof.contenders(precision, FORMATS[format], compiled)
            if contenders.compile_failure is not None:
                print(contenders.compile_failure, file=sys.stderr)
                compiled = False  # it would fail again
            for name, step in contenders.steps.items():
                if only and name not in only:
                    continue
                key = f"{precision} {format} {name}"
                _native.reset_counters()
                step()
                rows[key] = {"precision": precision, "format": format, "contender": name}
                rows[key] |= {"error": errors.get(name), "kernels": _native.counters()}
                steps[key] = step
        for key, seconds in interleaved(steps, proof.rounds).items():
            rows[key]["ms"] = 1e3 * seconds
    return list(rows.values())


def needed_gflop(proof: Proof) -> float:
    """Of one step: the convolutions' operations that the update cannot do without.

    They are those of :class:`fastgan.training.AdversarialStep`; the tutorial's loop also computes the gradients of the
    discriminator's weights in the generator's half, and throws them away.
    """
    step = replace(proof, batch_size=1).contenders("float32", torch.contiguous_format, False).steps["AdversarialStep"]
    return proof.batch_size * gflop(step)


@torch.no_grad()
def measure_sampling(proof: Proof, batches: Sequence[int] = SAMPLES) -> list[dict[str, Any]]:
    """A row for each precision and number of images that the generator makes at once, in eval mode."""
    truth = proof._loop(torch.nn, dtype=torch.float64).generator.eval()
    rows = {}
    calls: dict[tuple, Callable[[], Any]] = {}
    for precision, format in (("float32", "contiguous"), ("bfloat16", "channels_last")):
        for name, generate in _samplers(proof, precision, format).items():
            for batch in batches:
                latent = tutorial.inputs(batch, proof.seed)[1].float()
                call = partial(generate, latent)
                _native.reset_counters()
                error = float((call() - truth(latent.double())).norm() / truth(latent.double()).norm())
                key = (precision, batch, name)
                assert error <= MOST_LOSSES[precision], f"{key}: {error:.1e} from float64"
                rows[key] = {"precision": precision, "format": format, "batch": batch, "contender": name}
                rows[key] |= {"error": error, "kernels": _native.counters()}
                calls[key] = call
    for key, seconds in interleaved(calls, 4 * proof.rounds).items():
        rows[key]["ms"] = 1e3 * seconds
    return list(rows.values())


def _samplers(proof: Proof, precision: str, format: str) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """The generator as it stands, and as ``fastgan.models.folded`` applies it: without batch-norm, in one dtype."""
    given = {"memory_format": FORMATS[format], "autocast": AUTOCAST[precision]}
    eager, ours = (proof._loop(namespace, **given) for namespace in (torch.nn, fastgan.layers))
    dtype = AUTOCAST[precision] or torch.float32
    folded = fastgan.models.folded(ours.generator).to(dtype)
    for loop in (eager, ours):
        loop.generator.eval()

    def apply_folded(latent: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return folded(latent.to(dtype)).to(latent.dtype)

    return {
        "torch.nn": torch.no_grad()(lambda latent: eager._run(eager.generator, latent)),
        "fastgan.layers": torch.no_grad()(lambda latent: ours._run(ours.generator, latent)),
        "folded": apply_folded,
    }


def capped(proof: Proof) -> dict[str, Any]:
    """float32 in both formats, the layers against eager, with every library held to AVX2: {"cpu_isa", "rows"}.

    In another process, because each library reads its cap when it is loaded.
    """
    size = {name: value for name, value in asdict(proof).items() if name != "device"}
    env = {**os.environ, **CAPPED, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    env["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    command = [sys.executable, __file__, json.dumps(size)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _capped_here(proof: Proof) -> dict[str, Any]:
    _native.keep_heap()
    settings = [setting for setting in SETTINGS if setting[0] == "float32"]
    rows = measure(proof, compiled=False, settings=settings, only=("torch.nn", "fastgan.layers"))
    return {"cpu_isa": fastgan.info()["cpu_isa"], "torch_isa": torch.backends.cpu.get_cpu_capability(), "rows": rows}


if __name__ == "__main__":
    print(json.dumps(_capped_here(Proof(**json.loads(sys.argv[1])))))

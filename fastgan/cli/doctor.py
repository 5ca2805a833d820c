"""``fastgan doctor``"""

from __future__ import annotations

from typing import Any

__all__ = ["doctor"]


def doctor() -> None:
    """Say what this installation can do, and what it cannot and why."""
    import platform

    import torch

    import fastgan
    from fastgan import _native
    from fastgan.training._device import choose_device, choose_precision

    info = fastgan.info()
    device = choose_device("auto")
    precision, reason = choose_precision("auto", device)
    _line("fastgan", info["version"])
    _line("python", f"{platform.python_version()} on {platform.platform()}")
    _line("torch", info["torch"])
    _line("threads", torch.get_num_threads())
    _line("training", f"{device}, {precision} ({reason})")
    for index in range(torch.cuda.device_count()):
        _line(f"cuda:{index}", torch.cuda.get_device_name(index))
    _line("cpu kernels", info["cpu_isa"])
    for engine, convolutions in _native.engine_rules():
        _line("convolutions", f"on a CPU, {engine}: {convolutions}")
    _line("freed memory", "kept" if info["keeps_heap"] else "given back, but by training; FASTGAN_KEEP_HEAP=1 keeps it")
    for name, state in info["libraries"].items():
        _line(name, state)
    for kind, names in info["ops"].items():
        _line(f"{kind} ops", ", ".join(names) or "none")
    build = info["build"]
    if isinstance(build, dict):
        isas = build["isas"]  # those with flags of their own; of AMX only its functions are compiled for it
        build = {**build, "isas": isas if info["cpu_isa"] in isas else [*isas, info["cpu_isa"]]}
    for name, value in build.items() if isinstance(build, dict) else [("", build)]:
        _line(f"build {name}", (", ".join(map(str, value)) if isinstance(value, list) else value) or "none")


def _line(name: str, value: Any) -> None:
    print(f"{name:<16}{value}")

"""The parts of the packaging that depend on the machine; everything else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).parent / "build_backend"))
from fastgan_build import find_torch
from fastgan_build.command import BuildNative, NativeDistribution

setup(
    cmdclass={"build_ext": BuildNative},
    distclass=NativeDistribution,
    install_requires=[
        "numpy",
        "pillow>=10.1",
        "rich",
        "safetensors",
        "tomli; python_version < '3.11'",
        "typer",
        find_torch.requirement(find_torch.installed_torch()),
    ],
)

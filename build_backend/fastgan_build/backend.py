"""The PEP 517 backend: setuptools' own, which also asks for torch, but only where the environment has none.

What can be known to fail is said first, before setuptools prints a line and before anything is downloaded.
"""

from __future__ import annotations

import setuptools
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  (the hooks that stay as they are)

from . import find_torch, toolchain
from .errors import BuildError

OLDEST_SETUPTOOLS = 77  # the first to read pyproject.toml's licence as written there


def get_requires_for_build_wheel(config_settings=None):
    return [*_torch_if_missing(), *build_meta.get_requires_for_build_wheel(config_settings)]


def get_requires_for_build_editable(config_settings=None):
    return [*_torch_if_missing(), *build_meta.get_requires_for_build_editable(config_settings)]


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    _check()
    return build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(metadata_directory, config_settings=None):
    _check()
    return build_meta.prepare_metadata_for_build_editable(metadata_directory, config_settings)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    _check()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    _check()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def _torch_if_missing() -> list[str]:
    toolchain.check()
    torch = find_torch.installed_torch()
    if torch is None:
        return [find_torch.PINNED]
    find_torch.check(torch)
    return []


def _check() -> None:
    check_setuptools(setuptools.__version__)
    toolchain.check()
    find_torch.torch_to_build_with()


def check_setuptools(version: str) -> None:
    """Without build isolation it is the environment's, which may be any."""
    if int(version.split(".")[0]) < OLDEST_SETUPTOOLS:
        raise BuildError(
            f"the setuptools in this environment is {version}, and the build needs {OLDEST_SETUPTOOLS} or newer; "
            f"run `pip install 'setuptools>={OLDEST_SETUPTOOLS}'` first, or install without --no-build-isolation."
        )

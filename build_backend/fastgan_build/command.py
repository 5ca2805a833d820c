"""setuptools' build_ext, replaced by our own build."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from setuptools import Distribution
from setuptools.command.build_ext import build_ext

from . import native

ROOT = Path(__file__).resolve().parents[2]


class BuildNative(build_ext):
    """Compiles the native libraries into the package: that of the source tree for an editable install."""

    user_options: ClassVar[list[tuple]] = [
        *build_ext.user_options,
        ("module-only", None, "compile fastgan._C alone, beside libraries that are there"),
    ]
    boolean_options: ClassVar[list[str]] = [*build_ext.boolean_options, "module-only"]

    def initialize_options(self) -> None:
        super().initialize_options()
        self.module_only = False

    def run(self) -> None:
        build = self._decided()
        build.package.mkdir(parents=True, exist_ok=True)
        if self.module_only:
            native.compile_module(build)
        else:
            native.compile(build)

    def get_outputs(self) -> list[str]:
        return [str(path) for path in self._decided().outputs]

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def get_source_files(self) -> list[str]:
        return []  # MANIFEST.in lists them

    def _decided(self) -> native.Build:
        if not hasattr(self, "_build"):
            in_place = self.inplace or getattr(self, "editable_mode", False)
            folder = ROOT if in_place else Path(self.build_lib).resolve()
            self._build = native.decide(ROOT, folder / "fastgan", self.distribution.get_version())
        return self._build


class NativeDistribution(Distribution):
    """Tells setuptools that the package holds compiled code, though it lists no Extension."""

    def has_ext_modules(self) -> bool:
        return True

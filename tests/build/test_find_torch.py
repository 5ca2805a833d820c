import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fastgan_build import find_torch
from fastgan_build.errors import BuildError
from fastgan_build.find_torch import Torch


def make_torch(folder: Path, version: str, cuda: str | None = None) -> Path:
    root = folder / "torch"
    root.mkdir(parents=True)
    (root / "__init__.py").write_text("raise RuntimeError('the build must not import torch')\n")
    (root / "version.py").write_text(
        f"from typing import Optional\n__version__ = '{version}'\ndebug = False\n"
        f"cuda: Optional[str] = {cuda!r}\ngit_version = 'abc'\nhip: Optional[str] = None\n"
    )
    return root


@pytest.mark.parametrize("cuda", [None, "13.0"])
def test_reads_a_torch_without_importing_it(tmp_path, cuda):
    found = find_torch.read_torch(make_torch(tmp_path, "2.12.1+x", cuda))
    assert (found.version, found.release, found.cuda, found.hip) == ("2.12.1+x", (2, 12), cuda, None)
    assert found.include == tmp_path / "torch" / "include"


def test_the_environments_torch_is_found_whatever_stands_on_the_path(tmp_path, monkeypatch):
    make_torch(tmp_path, "1.0.0")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # as under pip's build isolation
    monkeypatch.chdir(tmp_path)
    found = find_torch.installed_torch()
    assert found is not None
    assert (found.version, found.cuda) == (torch.__version__, torch.version.cuda)
    assert found.root == Path(torch.__file__).parent


def test_no_torch_is_found_where_there_is_none(tmp_path, monkeypatch):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # -S: without site-packages
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    assert find_torch.installed_torch() is None


@pytest.mark.parametrize(
    "version, release", [("2.11.0", (2, 11)), ("2.13.0+cpu", (2, 13)), ("3.0.0a0+git12", (3, 0)), ("12.345", (12, 345))]
)
def test_release(version, release):
    assert find_torch.release_of(version) == release


def test_an_unreadable_version_is_named():
    with pytest.raises(BuildError, match="'unknown', which cannot be read"):
        find_torch.release_of("unknown")


@pytest.mark.parametrize("version", ["1.13.1", "2.10.2+cu128"])
def test_an_old_torch_is_refused_with_the_remedy(version):
    with pytest.raises(BuildError) as raised:
        find_torch.check(Torch(Path("/env/torch"), version, None))
    for part in (version, "/env/torch", "2.11 or newer", "pip install --upgrade 'torch==2.13.0'"):
        assert part in str(raised.value)


@pytest.mark.parametrize("version", ["2.11.0", "2.13.0+cpu", "2.14.0", "3.0.0"])
def test_a_new_enough_torch_is_taken(version, monkeypatch):
    found = Torch(Path("/env/torch"), version, None)
    monkeypatch.setattr(find_torch, "installed_torch", lambda: found)
    assert find_torch.torch_to_build_with() is found


def test_a_build_without_torch_names_the_way_to_get_one(monkeypatch):
    monkeypatch.setattr(find_torch, "installed_torch", lambda: None)
    monkeypatch.setattr(find_torch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BuildError, match=r"pip install torch==2\.13\.0"):
        find_torch.torch_to_build_with()


@pytest.mark.parametrize(
    "version, requirement",
    [
        (None, "torch>=2.11,<2.14"),  # up to the pinned one
        ("2.11.0+cu130", "torch>=2.11,<2.15"),
        ("2.14.1", "torch>=2.11,<2.15"),
        ("2.15.0", "torch>=2.11"),
    ],
)
def test_the_requirement_keeps_the_torch_that_is_there(version, requirement):
    found = version and Torch(Path("/env/torch"), version, None)
    assert find_torch.requirement(found) == requirement


@pytest.mark.parametrize("question, answer", [("pin", "torch==2.13.0"), ("site", str(Path(torch.__file__).parents[1]))])
def test_what_the_makefile_asks(question, answer):
    env = {**os.environ, "PYTHONPATH": str(Path(find_torch.__file__).parents[1])}
    command = [sys.executable, "-m", "fastgan_build.find_torch", question]
    assert subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.strip() == answer


def test_the_makefile_is_not_given_an_old_torch(capsys, monkeypatch):
    monkeypatch.setattr(find_torch, "installed_torch", lambda: Torch(Path("/env/torch"), "2.10.0", None))
    find_torch._main("site")
    assert capsys.readouterr().out == ""

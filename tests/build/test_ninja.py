import sys
from pathlib import Path

import pytest
from fastgan_build import ninja
from fastgan_build.ninja import CommandFailed, Edge

FOLDER = Path("build/native")


def shell(output: str, script: str, inputs: list[str], kind: str = "link", report: str | None = None) -> Edge:
    command = ["sh", "-c", script]
    return Edge(Path(output), [Path(name) for name in inputs], command, kind, Path(report) if report else None)


def test_the_file():
    edges = [
        Edge(Path("o/a.o"), [Path("a b.cpp")], ["g++", "-DX=$1", "a b.cpp"], "compile"),
        Edge(Path("lib.so"), [Path("o/a.o"), Path("o/b.o")], ["g++", "-shared"], "link"),
    ]
    text = ninja.text_of(edges, FOLDER)
    assert "builddir = build/native\n" in text
    assert "build o/a.o: compile a$ b.cpp\n  command = g++ '-DX=$$1' 'a b.cpp'\n" in text
    assert "build lib.so: link o/a.o o/b.o\n  command = g++ -shared\n" in text
    compile_rule, link_rule = text.split("rule ")[1:]
    assert "depfile = $out.d" in compile_rule
    assert "depfile" not in link_rule


@pytest.fixture(params=["ninja", "without ninja"])
def run(request, tmp_path, monkeypatch):
    """Runs edges in tmp_path, by either of the two ways."""
    if request.param == "without ninja":
        monkeypatch.setattr(ninja, "find_ninja", lambda env: None)
    elif ninja.find_ninja() is None:
        pytest.skip("there is no ninja here")
    (tmp_path / "a.in").write_text("a")
    return lambda *edges, **env: ninja.run(edges, FOLDER, tmp_path, {"PATH": "/usr/bin:/bin", **env})


def test_runs_in_order_and_shows_what_the_commands_say(run, tmp_path, capsys):
    compiled = shell(
        "out/a.o", "echo a warning; cat a.in > out/a.o; echo out/a.o: a.in > out/a.o.d", ["a.in"], "compile"
    )
    run(shell("out/lib", "cat out/a.o out/a.o > out/lib", ["out/a.o"]), compiled)
    assert (tmp_path / "out/lib").read_text() == "aa"
    assert capsys.readouterr().out == "a warning\n"


@pytest.mark.parametrize("jobs", ["", "1"])
def test_a_failure_names_the_action_and_keeps_what_was_said(run, jobs):
    compiling = shell("out/a.o", "echo line 3 is wrong; exit 1", ["a.in"], "compile")
    with pytest.raises(CommandFailed) as failed:
        run(compiling, shell("out/lib", "true", ["out/a.o"]), MAX_JOBS=jobs)
    assert failed.value.action == "compiling a.in"
    assert "line 3 is wrong" in failed.value.output
    with pytest.raises(CommandFailed) as failed:
        run(shell("out/lib", "echo nothing defines f; exit 1", ["a.in"]), MAX_JOBS=jobs)
    assert failed.value.action == "linking lib"
    assert "nothing defines f" in failed.value.output


PTXAS = """ptxas info    : Compiling entry function 'f' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 16 registers
"""


def test_the_report_of_ptxas_is_kept_and_the_rest_is_shown(run, tmp_path, capsys):
    (tmp_path / "said.in").write_text(f"{PTXAS}a.cu(3): warning #177-D\n")
    run(shell("lib", "cat said.in >&2; touch lib", ["said.in"], report="build/ptxas/a.txt"))
    assert PTXAS in (tmp_path / "build/ptxas/a.txt").read_text()
    assert capsys.readouterr().out == "a.cu(3): warning #177-D\n"
    with pytest.raises(CommandFailed) as failed:
        run(shell("lib2", "cat said.in >&2; exit 2", ["said.in"], report="build/ptxas/b.txt"))
    assert "warning #177-D" in failed.value.output


def test_only_what_changed_runs_again(tmp_path):
    if ninja.find_ninja() is None:
        pytest.skip("there is no ninja here")
    (tmp_path / "a.in").write_text("a")
    counted = shell("lib", "echo run >> log; cp a.in lib", ["a.in"])
    for _ in range(2):
        ninja.run([counted], FOLDER, tmp_path)
    assert (tmp_path / "log").read_text() == "run\n"
    ninja.run([shell("lib", "echo run >> log; cp a.in lib; true", ["a.in"])], FOLDER, tmp_path)  # another command
    assert (tmp_path / "log").read_text() == "run\nrun\n"


def test_ninja_beside_the_interpreter_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert ninja.find_ninja({"PATH": str(tmp_path / "none")}) is None
    (tmp_path / "ninja").touch()
    assert ninja.find_ninja({"PATH": str(tmp_path / "none")}) == str(tmp_path / "ninja")

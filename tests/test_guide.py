"""docs/guide.md does what it says: its Python runs from top to bottom, and the pages' commands know their flags."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from fastgan.cli.app import app

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "guide.md"
PAGES = (GUIDE, ROOT / "README.md", ROOT / "README.zh-CN.md")


def blocks(page, language):
    """Each block of a language, under as many empty lines as it has before it, so that errors name the page's own."""
    text = page.read_text(encoding="utf-8")
    for block in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield "\n" * text.count("\n", 0, block.start(1)) + block[1]


def commands(page):
    return {line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("fastgan ")}


def test_the_guides_python_runs_and_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names, told = {}, 0
    for block in blocks(GUIDE, "python"):
        exec(compile(block, GUIDE, "exec"), names)
        printed = capsys.readouterr().out.splitlines()
        for expected in re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE):
            assert expected in printed
            told += 1
    assert told >= 20


@pytest.mark.parametrize("command", sorted(set().union(*map(commands, PAGES))))
def test_a_pages_command_has_its_flags(command):
    _, name, *arguments = shlex.split(command, comments=True)
    typer.main.get_command(app).commands[name].make_context(name, arguments)

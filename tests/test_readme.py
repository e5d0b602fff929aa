"""The README keeps up with the project."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from setclip_cli.cli.app import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_it_opens_with_the_two_commands() -> None:
    commands = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("    make")]
    assert commands == ["make quickstart", "make test"]


def test_every_room_has_its_line() -> None:
    rooms = {
        path.stem
        for path in (ROOT / "setclip_cli").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    told = re.findall(r"^\| `([a-z_]+)(?:/|\.py)` \|", README.partition("| room |")[2], re.MULTILINE)
    assert set(told) == rooms - {"__init__", "__main__", "version"}


def test_the_files_that_contributing_names_are_there() -> None:
    named = re.findall(r"`((?:setclip_cli|tests|docs)/\S+\.(?:py|md))`(?! \(new\))", CONTRIBUTING)
    assert len(named) > 20
    for file in named:
        assert (ROOT / file).exists(), file


def test_the_names_that_contributing_tells_to_change_are_there() -> None:
    for file, cell in re.findall(r"^\| `(setclip_cli/\S+\.py|tests/\S+\.py)` \| (.+) \|$", CONTRIBUTING, re.MULTILINE):
        source = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"`(_?[A-Z_]{3,}|_[a-z_]+)`", cell):
            if name != "_pls":
                assert re.search(rf"\b{name}\b", source), f"{file}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_parses(page: Path) -> None:
    group = get_command(app)
    for line in re.findall(r"^ {4}setclip (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        if "[" in line or "..." in line:  # a synopsis, not a command
            continue
        name, *arguments = words = shlex.split(line, comments=True)
        command = group.commands[name]  # type: ignore[attr-defined]
        command.make_context(name, arguments)
        for file in re.findall(r"(?:recipes|studies|data_manifests)/\S+\.toml", line):
            assert (ROOT / file).exists(), file
        if name == "align" and not words[1].endswith(".toml"):
            assert (ROOT / "recipes" / f"{words[1]}.toml").exists(), words[1]

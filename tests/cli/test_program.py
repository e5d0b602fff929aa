"""Claims about the installed program: help, exit codes, and what it prints where."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from setclip_cli.cli.app import app

PACKAGE = Path(__file__).parents[2] / "setclip_cli"
COMMANDS = sorted(
    command.name or command.callback.__name__.replace("_", "-")
    for command in app.registered_commands
    if command.callback
)


def setclip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "setclip_cli", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_every_option(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    group = typer_group()
    for parameter in group.commands[command].params:
        assert getattr(parameter, "help", None), f"{command}: {parameter.name} has no help"
    if command not in {"quickstart", "doctor"}:
        assert "Examples:" in result.stdout


def test_every_option_that_the_package_names_is_one_of_its_own() -> None:
    group = typer_group()
    commands = [group, *group.commands.values()]
    commands += [inner for command in commands[1:] for inner in getattr(command, "commands", {}).values()]
    known = {flag for command in commands for parameter in command.params for flag in parameter.opts} | {"--help"}
    known |= {"--force-reinstall", "--min-seq-id", "--remove-gaps", "--install"}  # of pip, mmseqs, seqkit, wsl
    for path in PACKAGE.rglob("*.py"):
        named = set(re.findall(r"(?<![\w(-])--[a-z][a-z-]*[a-z]", path.read_text(encoding="utf-8")))
        assert named <= known, (path.name, named - known)


def typer_group() -> object:
    import typer

    return typer.main.get_command(app)


def test_help_imports_none_of_the_heavy_packages() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from setclip_cli.cli import app;"
        "result = CliRunner().invoke(app, ['align', '--help']); assert result.exit_code == 0;"
        "heavy = {'torch', 'pyarrow', 'numpy', 'timm', 'matplotlib', 'setclip_cli.recipe.recipe'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_mistake_gives_one_message_on_stderr_and_no_traceback(tmp_path: Path) -> None:
    done = setclip("embed", str(tmp_path / "run"), str(tmp_path / "data"), "--out", str(tmp_path / "out"))
    assert done.returncode == 3
    assert done.stdout == ""
    assert f"{tmp_path / 'data'}: no such folder" in done.stderr
    assert "fix: setclip ingest" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_option_is_a_usage_error() -> None:
    assert setclip("align", "--no-such-option").returncode == 2


@pytest.mark.slow
def test_json_puts_one_object_on_stdout_and_nothing_else() -> None:
    done = setclip("doctor", "--json")
    assert json.loads(done.stdout)["findings"]
    assert done.returncode in {0, 3}


@pytest.mark.parametrize(
    "words",
    [
        ("ingest", "x.txt", "--labels", "a.csv", "--out", "o", "--labels", "b.csv"),
        ("align", "r.toml", "--data=d", "--out", "o", "--data", "e"),
        ("evaluate", "run", "data", "--out", "o", "--baselines", "cca", "--baselines=asif"),
    ],
)
def test_an_option_that_takes_one_value_is_refused_when_it_is_given_twice(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, list(words))
    assert (result.exit_code, "is given 2 times, and takes one value" in result.stderr) == (2, True)


def test_options_that_take_several_values_and_words_after_two_dashes_may_come_twice() -> None:
    twice = ("align", "nowhere.toml", "--data", "d", "--out", "o", "--set", "seed=1", "--set", "pairs=2")
    assert "is given" not in CliRunner().invoke(app, list(twice)).stderr
    assert "is given" not in CliRunner().invoke(app, ["search", "e", "--top", "3", "--", "--top"]).stderr

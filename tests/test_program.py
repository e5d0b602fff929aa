"""Claims about the installed program: help, exit codes, and what it prints where."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from setclip_cli.cli import app

PACKAGE = Path(__file__).parents[1] / "setclip_cli"
COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands if command.callback)


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


def typer_group() -> object:
    import typer

    return typer.main.get_command(app)


def test_help_imports_none_of_the_heavy_packages() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from setclip_cli.cli import app;"
        "result = CliRunner().invoke(app, ['align', '--help']); assert result.exit_code == 0;"
        "print(sorted({'torch', 'pyarrow', 'numpy', 'timm', 'matplotlib'} & set(sys.modules)))"
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


def test_json_puts_one_object_on_stdout_and_nothing_else() -> None:
    done = setclip("doctor", "--json")
    assert json.loads(done.stdout)["findings"]
    assert done.returncode in {0, 3}


def test_losses_import_torch_and_nothing_of_ours_above_them() -> None:
    """Imports go one way: the mathematics knows neither recipes nor files."""
    for path in (PACKAGE / "losses").glob("*.py"):
        for module in imported(path):
            assert module.startswith("setclip_cli.losses") or not module.startswith("setclip_cli"), (path.name, module)


def test_only_the_command_line_imports_the_command_line() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name not in {"__main__.py", "cli.py"}:
            assert "setclip_cli.cli" not in imported(path), path


def imported(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {
        name
        for node in nodes
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }

"""Claims about the cache folder: what cannot be written is one message, before any work, and doctor says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from setclip_cli.cli import machine_checks
from setclip_cli.cli.app import app
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.files.cache import cache_folder


@pytest.fixture(params=["file", "file/inside", "/proc/no-one-may-make-this"])
def unusable(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / request.param))
    return tmp_path / request.param


def test_a_cache_that_cannot_be_written_is_one_message_that_names_it(unusable: Path) -> None:
    with pytest.raises(SetClipError, match=f"SETCLIP_CACHE={unusable}: (is a file|cannot be written)") as found:
        cache_folder()
    assert "set SETCLIP_CACHE to a folder" in found.value.fix


def test_doctor_reports_it_as_a_problem(unusable: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == ExitCode.DATA
    [cache] = [each for each in json.loads(done.stdout)["findings"] if each["subject"] == "cache"]
    assert (cache["state"], str(unusable) in cache["found"]) == ("problem", True)


def test_the_cache_is_made_and_left_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "a" / "b"))
    assert cache_folder() == tmp_path / "a" / "b"
    assert list(cache_folder().iterdir()) == []
    monkeypatch.delenv("SETCLIP_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "setclip"


def test_doctor_names_the_systems_that_are_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Linux and macOS" in next(machine_checks.system()).found
    monkeypatch.setattr(machine_checks.platform, "system", lambda: "Windows")
    assert next(machine_checks.system()).state == "problem"

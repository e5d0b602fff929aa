"""Claims about doctor: what it calls ok was tried, a check that fails is a problem, and the others go on."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from setclip_cli import backbones
from setclip_cli.cli import machine_checks
from setclip_cli.cli.app import app
from setclip_cli.cli.findings import Finding
from setclip_cli.errors import ExitCode, SetClipError


def test_a_package_that_is_installed_and_cannot_be_imported_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.import_module

    def broken(name: str, *more: object) -> object:
        if name in ("torchvision", "faiss"):
            raise RuntimeError("operator torchvision::nms does not exist\nmore lines")
        return known(name, *more)  # type: ignore[arg-type]

    imports = SimpleNamespace(import_module=broken, metadata=importlib.metadata)
    monkeypatch.setattr(machine_checks, "importlib", imports)
    [wrong] = [each for each in machine_checks.packages() if each.state == "problem"]
    assert (wrong.subject, "nms does not exist" in wrong.found) == ("torchvision", True)
    assert "torch torchvision, both from one index" in wrong.fix
    assert "extra search" in [each.subject for each in machine_checks.extras() if each.state == "problem"]


def test_a_package_that_is_absent_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "_version", lambda _name: None)
    assert {each.state for each in machine_checks.packages()} == {"problem"}
    [absent] = machine_checks.extras()
    assert (absent.state, "setclip[search,geo,ray" in absent.fix) == ("missing", True)


def test_a_device_that_does_not_compute_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _index: SimpleNamespace(name="a GPU", total_memory=1 << 30)
    )
    states = {each.subject: each.state for each in machine_checks.devices()}
    if torch.version.cuda is None or states["cuda:0"] == "problem":
        assert states["cpu"] == "ok"
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(64, 64))
    assert {each.state for each in machine_checks.devices()} == {"problem"}


@pytest.mark.parametrize(
    "error", [SetClipError("it is damaged", fix="get it"), EOFError("Ran out of input"), OSError(5)]
)
def test_weights_that_do_not_load_are_a_problem(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    there = {"offline": True, "origin": "package", "path": "/somewhere", "ways": ()}
    monkeypatch.setattr(backbones, "describe_weights", lambda _spec: there)
    monkeypatch.setattr(backbones, "load_backbone", broken)
    found = list(machine_checks.recipe_weights())
    assert found
    assert {each.state for each in found} == {"problem"}
    assert all(each.fix for each in found)


def test_weights_on_this_machine_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(backbones, "load_backbone", lambda spec, **_: loaded.append(spec))
    called_ok = [each.subject for each in machine_checks.recipe_weights() if each.state == "ok"]
    assert called_ok == loaded


def test_the_cache_tells_its_parts_and_unfinished_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path))
    (tmp_path / "features").mkdir()
    (tmp_path / "features/a").write_bytes(bytes(2_500_000))
    (tmp_path / "downloads/x").mkdir(parents=True)
    (tmp_path / "downloads/x/a.zip.part").write_bytes(bytes(1_000_000))
    cache, downloads = machine_checks.cache()
    assert "downloads 1.0 MB, features 2.5 MB" in cache.found
    assert "1 unfinished, 1.0 MB" in downloads.found
    monkeypatch.setattr(machine_checks, "FREE_BYTES", 1 << 80)
    assert next(machine_checks.cache()).state == "problem"


def test_a_folder_for_temporary_files_that_takes_none_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    [found] = machine_checks.temporary_files()
    assert (found.state, "No space left" in found.found) == ("problem", True)


def test_a_check_that_fails_is_a_problem_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def some_check() -> list[Finding]:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(machine_checks, "CHECKS", (some_check, machine_checks.python))
    done = CliRunner().invoke(app, ["doctor", "--json"])
    found = json.loads(done.stdout)
    assert (done.exit_code, found["problems"]) == (ExitCode.DATA, 1)
    assert [(each["state"], each["subject"]) for each in found["findings"]] == [
        ("problem", "some check"),
        ("ok", "python"),
    ]

"""Claims about what comes with the package: it is found by name, and a path comes before a name."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.files import shipped
from setclip_cli.files.shipped import Kind, about, find, folder_of, named, names

KINDS: tuple[Kind, ...] = get_args(Kind)


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_found_by_its_name_and_says_what_it_is_for(kind: Kind) -> None:
    assert len(names(kind)) >= 3
    for name in names(kind):
        assert find(kind, name) == folder_of(kind) / f"{name}.toml"
        line = about(find(kind, name))
        assert 15 < len(line) < 120
        assert not line.startswith("setclip ")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_comes_before_a_name(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = names(kind)[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()  # a folder is not a file of this kind
    assert find(kind, name) == folder_of(kind) / f"{name}.toml"
    (tmp_path / name).rmdir()
    (tmp_path / name).write_text("mine")
    assert find(kind, name) == Path(name)
    assert find(kind, tmp_path / name) == tmp_path / name


def test_an_installed_package_finds_what_the_wheel_put_inside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2]
    included = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source, target in included["force-include"].items():
        shutil.copytree(root / source, tmp_path / target)
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path / "setclip_cli")
    for kind in KINDS:
        if kind != "tasks":  # these lie inside the package, in a checkout too
            assert folder_of(kind).is_relative_to(tmp_path / "setclip_cli")
            assert len(names(kind)) >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_name_gets_the_nearest_one_and_the_command_that_lists_all(kind: Kind) -> None:
    name = names(kind)[-1]
    for wrong in (f"{name}x", f"{kind}/{name}x.toml"):
        with pytest.raises(SetClipError) as caught:
            find(kind, wrong)
        assert caught.value.exit_code == ExitCode.USAGE
        assert f"(did you mean {name!r}?)" in caught.value.problem
        assert f"`setclip {kind}`" in caught.value.fix


def test_where_other_things_are_read_too_only_a_name_or_nearly_one_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named("manifests", Path("eurosat")) == folder_of("manifests") / "eurosat.toml"
    with pytest.raises(SetClipError, match="did you mean 'eurosat'"):
        named("manifests", Path("eurosta"))
    for other in ("images", "data/eurosat", "eurosat.zip"):
        assert named("manifests", Path(other)) == Path(other)
    (tmp_path / "eurosat").mkdir()  # the user's own folder of images
    assert named("manifests", Path("eurosat")) == Path("eurosat")

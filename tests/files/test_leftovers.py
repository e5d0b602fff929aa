"""Claims about what killed processes leave: it counts as nothing, and it is removed, but nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from setclip_cli.files import atomic, cache, leftovers
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.files.lock import exclusive

LEAVE = """
import os, sys
from pathlib import Path
from setclip_cli.files.atomic import atomic_path
with atomic_path(Path(sys.argv[1])) as target:
    target.write_text("half")
    os.kill(os.getpid(), 9)
"""


def leave(target: Path) -> None:
    """What a process leaves that is killed while it writes ``target``."""
    subprocess.run([sys.executable, "-c", LEAVE, str(target)], check=False)
    [left] = [path for path in target.parent.iterdir() if leftovers.is_temporary(path.name)]
    assert (left / target.name).read_text() == "half"


@pytest.mark.parametrize("name", ["report.json", "model.safetensors", "x" * 200, ".hidden"])
def test_a_folder_of_leftovers_is_nobodys_and_its_next_command_removes_them(tmp_path: Path, name: str) -> None:
    leave(tmp_path / name)
    leave(tmp_path / "below" / name)
    refuse_foreign(tmp_path, "a REPORT folder", ["report.json", "below"])
    with exclusive(tmp_path):
        assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "below"]


def test_leftovers_in_the_cache_are_removed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path))
    leave(tmp_path / "features" / "a.safetensors")
    (tmp_path / "features" / "b.safetensors").write_text("whole")
    cache.cache_place("features", "c.safetensors")
    assert [path.name for path in (tmp_path / "features").iterdir()] == ["b.safetensors"]


def test_what_a_living_process_writes_stays_and_so_does_what_is_not_ours(tmp_path: Path) -> None:
    others = [".notes.tmp", ".a.tmp.12", "a.123.tmp", ".tmp", "tmp", ".x.host-1-2-3.tmp", ".a.0123abcd-77.tmp"]
    living = f".old.{os.getppid()}.tmp"
    for name in [*others, living]:
        (tmp_path / name).write_text("x")
    with atomic.atomic_path(tmp_path / "mine") as temporary:
        temporary.write_text("half")
        leftovers.remove_leftovers(tmp_path)
        assert temporary.read_text() == "half"
    assert {path.name for path in tmp_path.iterdir()} == {*others, living, "mine"}


def test_an_earlier_process_of_this_number_and_another_machine_are_told_apart(tmp_path: Path) -> None:
    own = leftovers.temporary_folder(tmp_path / "x").name
    host, pid, _, number = own.removeprefix(".x.").removesuffix(".tmp").split("-")
    earlier, elsewhere, long_ago = (
        tmp_path / f".x.{host}-{pid}-00000000-{number}.tmp",
        tmp_path / f".x.00000000-{2**30}-00000000-1.tmp",
        tmp_path / f".y.00000000-{2**30}-00000000-1.tmp",
    )
    for path in (earlier, elsewhere, long_ago):
        path.mkdir()
    os.utime(long_ago, (0, 0))
    leftovers.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [elsewhere]

"""Claims about files that appear whole or not at all, and about folders with one writer."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic
from setclip_cli.files.leftovers import remove_leftovers_of
from setclip_cli.files.lock import exclusive
from setclip_cli.run import checkpoint
from setclip_cli.run.checkpoint import Checkpoint


def test_a_failed_write_leaves_the_earlier_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    atomic.write_text(target, "before")

    def interrupted_half_way() -> None:
        with atomic.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_half_way()
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_written_files_have_the_permissions_of_any_other_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    atomic.write_text(tmp_path / "atomic", "")
    checkpoint.save_tensors(tmp_path / "tensors.safetensors", {"x": torch.zeros(1)})
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {stat.S_IMODE(plain.stat().st_mode)}


def test_equal_tensors_give_equal_bytes(tmp_path: Path) -> None:
    x, y = torch.arange(6.0).reshape(2, 3), torch.ones(2)
    checkpoint.save_tensors(tmp_path / "a", {"x": x, "y": y}, {"step": 1})
    checkpoint.save_tensors(tmp_path / "b", {"y": y, "x": x.T.contiguous().T}, {"step": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_folder_has_one_writer_and_a_crash_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from setclip_cli.files.lock import exclusive;"
        f"lock = exclusive(Path({str(tmp_path)!r})); lock.__enter__(); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SetClipError, match="another setclip process"), exclusive(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with exclusive(tmp_path):
        pass
    assert (tmp_path / ".lock").exists()  # it stays, and locks nothing


def test_a_folder_has_one_writer_in_a_process_too(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        with pytest.raises(SetClipError, match="another setclip process"), exclusive(tmp_path):
            pass
        with pytest.raises(SetClipError, match="another setclip process"), exclusive(tmp_path):
            pass  # the refusal has not freed the lock
    with exclusive(tmp_path), exclusive(tmp_path / "inside"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SetClipError, match="cannot be written to"), exclusive(tmp_path / "new"):
        pass


def test_checkpoints_come_back_and_only_the_newest_stay(tmp_path: Path) -> None:
    for step in (100, 1000, 300):
        checkpoint.save(tmp_path, Checkpoint(step, {"recipe": "r"}, {"w": torch.full((2,), float(step))}))
    newest = checkpoint.latest(tmp_path)
    assert newest is not None
    loaded = checkpoint.load(newest)
    assert (loaded.step, loaded.header, loaded.tensors["w"].tolist()) == (1000, {"recipe": "r"}, [1000.0, 1000.0])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000300.safetensors",
        "step-00001000.safetensors",
    ]


def test_a_checkpoint_cut_short_or_of_another_format_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, Checkpoint(5, {}, {"w": torch.zeros(100)}))
    whole = path.read_bytes()
    for cut in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(SetClipError, match="cannot be read as safetensors"):
            checkpoint.load(path)
    checkpoint.save_tensors(path, {}, {"schema_version": 99, "step": 5})
    with pytest.raises(SetClipError, match="schema version 99"):
        checkpoint.load(path)
    with pytest.raises(SetClipError, match="no such file"):
        checkpoint.load(tmp_path / "absent.safetensors")


def test_what_a_killed_process_left_of_one_file_is_removed_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "found [1].png"
    for path in (target, tmp_path / "other.png"):
        program = (
            "import os; from pathlib import Path; from setclip_cli.files.atomic import atomic_path\n"
            f"with atomic_path(Path({str(path)!r})) as temporary: temporary.write_text('half'); os.kill(os.getpid(), 9)"
        )
        subprocess.run([sys.executable, "-c", program], check=False)
    with atomic.atomic_path(target) as of_this_process:
        of_this_process.write_text("whole")
        assert len(list(tmp_path.iterdir())) == 3
        remove_leftovers_of(target)
        left = {path.name.split(".png")[0] for path in tmp_path.iterdir()}
        assert left == {".found [1]", ".other"}
    assert target.read_text() == "whole"


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("stops", [(), (7,), (11, 12), (4, 9, 13, 14)])
def test_checkpoints_of_a_training_that_was_stopped_end_as_those_of_one_that_was_not(
    tmp_path: Path, keep: int, stops: tuple[int, ...]
) -> None:
    def write(folder: Path, steps: Iterable[int]) -> list[str]:
        for step in steps:
            checkpoint.save(folder, Checkpoint(step, {}, {"w": torch.zeros(1)}), keep=keep, every=5)
            assert checkpoint.latest(folder) == folder / f"step-{step:08d}.safetensors"
        return sorted(path.name for path in folder.iterdir())

    regular = [5, 10, 15, 16]  # the last step is no multiple
    assert write(tmp_path / "stopped", sorted([*regular, *stops])) == write(tmp_path / "whole", regular)


def test_what_a_kill_kept_from_being_removed_is_removed_on_resume(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        checkpoint.save(tmp_path, Checkpoint(step, {}, {"w": torch.zeros(1)}), keep=9, every=5)
    checkpoint.prune(tmp_path, keep=2, every=5)
    assert [path.name[5:13] for path in sorted(tmp_path.iterdir())] == ["00000010", "00000015"]

"""The walk over a folder: links are followed, circles end, and what is not read is counted."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from setclip_cli.errors import AccountingError, SetClipError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.ingest.sources import folder
from setclip_cli.ingest.sources.base import Reject
from setclip_cli.ingest.sources.folder import find_files
from setclip_cli.ingest.sources.image import ImageFolder


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def found(root: Path) -> tuple[list[str], dict[str, str]]:
    """The names of the files, and the reason of everything else."""
    files, others = find_files(root)
    return [file.name for file in files], {other.location: other.reason for other in others}


def test_a_linked_folder_is_read_and_a_broken_link_is_a_reject(tmp_path: Path) -> None:
    write(tmp_path, "data/a.jpg", "store/b.jpg", "store/deep/c.jpg")
    (tmp_path / "data/more").symlink_to("../store")
    (tmp_path / "data/broken.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "data/file.jpg").symlink_to("../store/b.jpg")
    files, others = found(tmp_path / "data")
    assert files == ["a.jpg", "file.jpg", "more/b.jpg", "more/deep/c.jpg"]
    assert others == {"broken.jpg": "link that leads nowhere: No such file or directory"}


def test_circles_end_and_a_folder_is_read_once_under_its_own_name(tmp_path: Path) -> None:
    write(tmp_path, "z/a.jpg", "other/b.jpg")
    (tmp_path / "z/again").symlink_to("..")
    (tmp_path / "a-link-that-comes-first").symlink_to("z")
    (tmp_path / "z/self").symlink_to("self")
    files, others = found(tmp_path)
    assert files == ["other/b.jpg", "z/a.jpg"]
    twice = "link to a folder that is read already"
    assert others.pop("z/self").startswith("link that leads nowhere")
    assert others == {"a-link-that-comes-first": twice, "z/again": twice}


def test_two_folders_that_link_to_each_other(tmp_path: Path) -> None:
    write(tmp_path, "data/a.jpg", "one/b.jpg", "two/c.jpg")
    (tmp_path / "data/one").symlink_to("../one")
    (tmp_path / "one/two").symlink_to("../two")
    (tmp_path / "two/one").symlink_to("../one")
    files, others = found(tmp_path / "data")
    assert files == ["a.jpg", "one/b.jpg", "one/two/c.jpg"]
    assert others == {"one/two/one": "link to a folder that is read already"}


def test_pipes_sockets_and_hidden_entries_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", ".hidden.jpg", ".cache/b.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(tmp_path)  # the address of a socket is short
        try:
            listener.bind("socket.jpg")
        finally:
            os.chdir(here)
    assert found(tmp_path) == (
        ["a.jpg"],
        {
            ".cache": "hidden file or folder",
            ".hidden.jpg": "hidden file or folder",
            "pipe.jpg": "no file: a named pipe",
            "socket.jpg": "no file: a socket",
        },
    )
    assert [other.listed for other in find_files(tmp_path).others] == [False, False, True, True]


def test_a_folder_that_cannot_be_read_is_a_reject_and_the_source_itself_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a.jpg", "closed/b.jpg")
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith(closed):
            raise PermissionError(13, "Permission denied")
        return real(path)

    closed = "closed"
    monkeypatch.setattr(os, "scandir", scandir)  # root may read everything
    assert found(tmp_path) == (["a.jpg"], {"closed": "folder cannot be read: Permission denied"})
    closed = tmp_path.name
    with pytest.raises(SetClipError, match="Permission denied"):
        find_files(tmp_path)


def test_a_walk_that_misses_an_entry_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.jpg", "b/c.jpg")
    monkeypatch.setattr(folder, "_add", lambda found, entry, name: None)
    with pytest.raises(AccountingError, match="holds 2 entries, but the reader met 0"):
        find_files(tmp_path)


def test_a_folder_that_changes_while_it_is_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.jpg")
    real = folder._count

    def count(root: Path, folders: set[str]) -> int:
        write(tmp_path, f"{len(list(tmp_path.iterdir()))}.jpg")
        return real(root, folders)

    monkeypatch.setattr(folder, "_count", count)
    with pytest.raises(SetClipError, match="the folder changes while it is read"):
        find_files(tmp_path)


def test_all_of_a_folder_is_in_the_counts_of_the_dataset(tmp_path: Path) -> None:
    write(tmp_path, "data/a.jpg", "data/.b.jpg", "data/notes.md", "store/c.jpg")
    (tmp_path / "data/more").symlink_to("../store")
    (tmp_path / "data/broken.jpg").symlink_to("nowhere.jpg")
    for shade, name in ((0, "data/a.jpg"), (200, "store/c.jpg")):
        Image.new("RGB", (4, 4), (shade, 0, 0)).save(tmp_path / name)
    result = ingest(tmp_path / "data", tmp_path / "out", IngestOptions(modality="image"))
    (entry,) = result.new
    assert (entry["read"], entry["rows"], entry["bad"]) == (5, {"image": {"train": 2}}, 1)
    assert entry["rejects"] == {"link that leads nowhere": 1, "not an image": 1}
    assert entry["left_out"] == {"hidden file or folder": 1}
    assert "1 left out: hidden file or folder" in result.summary()


def test_others_come_after_the_files(tmp_path: Path) -> None:
    """So that a file that appears among them does not change the number of an image."""
    write(tmp_path, ".a", "b.md", "c.md")
    items = list(ImageFolder(tmp_path).records(0, 1))
    assert [item.location for item in items if isinstance(item, Reject)] == ["b.md", "c.md", ".a"]

"""Claims about what cannot be written: one error, whatever library writes, with the folder, the bytes and a fix."""

from __future__ import annotations

import ast
import errno
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from safetensors import SafetensorError

from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.files import atomic
from setclip_cli.files.write_errors import WriteError, error_number

PACKAGE = Path(__file__).parents[2] / "setclip_cli"


# Each library on a disk that is really full: the kernel's own refusal, for root too. The limit stands for it, because
# a test may not mount a disk.
WRITERS = {
    "plain": "target.write_bytes(bytes(100_000))",
    "numpy": "np.zeros(100_000).tofile(target.open('wb'))",
    "safetensors": "save_file({'x': torch.zeros(100_000)}, target)",
    "parquet": "pq.write_table(pa.table({'x': np.random.default_rng(0).random(100_000)}), target)",
    "faiss": "index = faiss.IndexFlatIP(64); index.add(np.zeros((10_000, 64), np.float32));"
    "faiss.write_index(index, str(target))",
    "torch": "torch.save(torch.zeros(100_000), target)",
}
PROGRAM = """
import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq, torch
from pathlib import Path
from safetensors.torch import save_file
if "faiss" in {statement!r}: import faiss
from setclip_cli.errors import SetClipError
from setclip_cli.files.atomic import atomic_path
try:
    with atomic_path(Path(sys.argv[1])) as target:
        {statement}
except SetClipError as error:
    print(error.exit_code, error)
"""


@pytest.mark.parametrize("writer", WRITERS)
def test_every_library_at_the_limit_of_a_file_gives_one_error_and_leaves_nothing(tmp_path: Path, writer: str) -> None:
    if writer == "faiss":
        pytest.importorskip("faiss")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM.format(statement=WRITERS[writer]), str(tmp_path / "made" / "x")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith(f"3 {tmp_path}/made/x: "), done.stderr
    assert f"bytes are free in {tmp_path}/made" in done.stdout
    assert "then run the same command again" in done.stdout
    assert list((tmp_path / "made").iterdir()) == []


# What the libraries say, word for word, on a disk that is full or read-only.
SAID: dict[str, tuple[Exception, int]] = {
    "a system call": (OSError(errno.EDQUOT, "Disk quota exceeded"), errno.EDQUOT),
    "safetensors": (
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        errno.ENOSPC,
    ),
    "safetensors, read-only": (
        SafetensorError('Error while serializing: I/O error: Read-only file system (os error 30) at path "/x/.tmpAb1"'),
        errno.EROFS,
    ),
    "numpy": (OSError("1048576 requested and 131072 written"), errno.ENOSPC),
    "arrow": (
        OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device"),
        errno.ENOSPC,
    ),
    "arrow without a number": (pa.ArrowInvalid("Cannot close. Detail: [errno 28] No space left"), errno.ENOSPC),
    "faiss": (
        RuntimeError(
            "Error in void faiss::write_index: write error in /x: 1048531 != 8388608 (No space left on device)"
        ),
        errno.ENOSPC,
    ),
    "faiss, closed folder": (RuntimeError("could not open /x for writing: Permission denied"), errno.EACCES),
    "torch": (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), errno.ENOSPC),
    "a lock": (NotImplementedError("FileSystem does not appear to support flock"), errno.ENOLCK),
}


@pytest.mark.parametrize("said", SAID)
def test_what_a_library_says_is_understood(tmp_path: Path, said: str) -> None:
    error, number = SAID[said]
    assert error_number(error) == number
    with pytest.raises(WriteError) as found, atomic.atomic_path(tmp_path / "x", needs=123_456):
        raise error
    assert str(found.value).startswith(f"{tmp_path}/x: ")
    assert ("needs about 123,456 bytes" in str(found.value)) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a mistake of ours"),
        KeyError("No such key"),
        OSError(errno.ECONNRESET, "Connection reset by peer"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/elsewhere/source.fasta"),
        SetClipError("x.parquet: is damaged", fix="ingest again"),
    ],
    ids=repr,
)
def test_an_error_about_something_else_stays_as_it_is(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as found, atomic.atomic_path(tmp_path / "x"):
        raise error
    assert found.value is error


def test_files_that_belong_together_are_written_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.html", "a.md", "a.json"]
    for name in names:
        (tmp_path / name).write_text("before")
    real = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if self.name == "a.md":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError, match=r"a\.md: the disk is full"):
        atomic.write_texts({tmp_path / name: "after" for name in names})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "before")
    monkeypatch.setattr(Path, "write_bytes", real)
    order: list[str] = []
    rename = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (order.append(target.name), rename(self, target))[1])
    atomic.write_texts({tmp_path / name: "after" for name in names})
    assert order == names
    assert {path.read_text() for path in tmp_path.iterdir()} == {"after"}


def test_a_file_in_the_way_and_a_folder_in_the_way_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError, match=r"file/inside/x: cannot be written to: a part of the path is a file"):
        atomic.write_text(tmp_path / "file" / "inside" / "x", "y")
    with pytest.raises(WriteError, match=r"folder: cannot be written to: is a folder"):
        atomic.write_text(tmp_path / "folder", "y")
    with pytest.raises(WriteError, match=r"file: cannot be written to"):
        atomic.make_folder(tmp_path / "file")
    with pytest.raises(WriteError, match="choose another folder"):
        atomic.write_text(Path("/proc/no-one-writes-here"), "y")


def test_lines_are_added_and_a_full_disk_is_told() -> None:
    with pytest.raises(WriteError, match="the disk is full"), atomic.appending(Path("/dev/full")) as file:
        file.write("line\n")


def test_the_error_is_the_same_after_its_way_from_a_worker() -> None:
    error = WriteError("x: the disk is full", fix="free some space")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.exit_code) == (WriteError, str(error), ExitCode.DATA)


# Every place that writes ----------------------------------------------------------------------------------------------

WRITES = {
    *("write_text", "write_bytes", "mkdir", "makedirs", "touch", "unlink", "rmdir", "rename", "replace", "symlink_to"),
    *("hardlink_to", "chmod", "save", "savez", "save_file", "write_table", "write_index", "tofile", "ParquetWriter"),
    *("OSFile", "SummaryWriter", "savefig", "rmtree", "copyfile", "copy2", "copytree", "move", "remove", "add_scalar"),
    *("TemporaryDirectory", "TemporaryFile", "NamedTemporaryFile", "mkdtemp", "mkstemp", "fsync", "to_csv", "memmap"),
}
OURS = {"atomic", "leftovers", "checkpoint", "store", "_store"}  # whose calls of these names are no writes here
GUARDS = {"atomic_path", "writing", "appending", "if_cache_takes_it"}
# File -> calls that need no guard there, and why.
ALLOWED = {
    "files/atomic.py": {"fsync", "write_bytes"},  # called in a guard
    "files/leftovers.py": {"unlink", "rmtree", "remove"},  # what cannot be removed is tried again by the next command
    "files/lock.py": {"unlink", "rmdir"},  # suppressed: an empty folder
    "files/cache.py": {"mkdir", "TemporaryFile"},  # its own message, which names SETCLIP_CACHE
    "files/hashes.py": {"mkdir", "write_text", "replace"},  # what cannot be remembered is hashed again
    "embedding/writing.py": {"rmdir"},  # suppressed: the folder may hold other records
    "embedding/vectors.py": {"memmap"},  # to read
    "ingest/progress.py": {"rmtree"},  # of the work folder; the next ingest removes what stays
    "ingest/read_source.py": {"rmtree"},  # the same
    "ingest/protein_clusters.py": {"TemporaryDirectory"},
    "cli/machine_checks.py": {"TemporaryFile"},  # doctor tries whether a disk can be written
    "cli/program.py": {"open"},  # /dev/null, in place of a stream that the caller closed
    "backbones/fetch.py": {"unlink"},  # a damaged download
    "remote/copies.py": {"unlink", "hardlink_to", "rmtree"},  # suppressed: it is copied, or removed the next time
    "viewing/app.py": {"write_table"},  # into memory
    "export/backbone_modules.py": {"save_file"},  # called in a guard of export.py, as the next two
    "export/sentence_folder.py": {"save"},
    "export/check.py": {"TemporaryDirectory"},
}


def calls_without_guard(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of each call that writes and does not stand in a ``with`` block of a guard."""

    def visit(node: ast.AST, guarded: bool) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.With):
            guarded = guarded or any(name_of(item.context_expr) in GUARDS for item in node.items)
        if isinstance(node, ast.Call) and not guarded and writes(node):
            yield node.lineno, name_of(node)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, guarded)

    return visit(ast.parse(path.read_text(encoding="utf-8")), False)


def name_of(node: ast.AST) -> str:
    called = node.func if isinstance(node, ast.Call) else node
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def writes(call: ast.Call) -> bool:
    name = name_of(call)
    if name in ("write_table", "write_index", "write_bytes", "write_text", "save") and not isinstance(
        call.func, ast.Attribute
    ):
        return False  # our own
    if name == "save" and call.args and name_of(call.args[0]) in ("encoded", "written", "file"):
        return False  # into memory
    if isinstance(call.func, ast.Attribute) and name_of(call.func.value) in OURS:
        return False
    if name == "open":
        given = [str(word.value) for word in ast.walk(call) if isinstance(word, ast.Constant)]
        return any(set(word) <= set("rwaxbt+") and set(word) & set("wax+") for word in given)
    if name == "replace":  # of a path takes one argument, of a text two
        return isinstance(call.func, ast.Attribute) and len(call.args) == 1 and not call.keywords
    return name in WRITES


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_everything_is_written_through_the_room_of_files(path: Path) -> None:
    allowed = ALLOWED.get(path.relative_to(PACKAGE).as_posix(), set())
    found = [f"line {line}: {name}" for line, name in calls_without_guard(path) if name not in allowed]
    assert not found, "write through atomic.py, or in a block of write_errors.writing"


def test_the_search_for_writes_finds_them(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(
        "path.write_text('')\nopen(x, 'w')\npath.open('ab')\npath.open()\n'a'.replace('b', 'c')\npath.replace(other)\n"
        "with writing(path):\n    path.mkdir()\nwith path.open('rb') as file:\n    save_file({}, path)\n"
    )
    assert list(calls_without_guard(tmp_path / "x.py")) == [
        (1, "write_text"), (2, "open"), (3, "open"), (6, "replace"), (10, "save_file"),
    ]  # fmt: skip

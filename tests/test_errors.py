"""Claims about the one translation of other libraries' errors: what a person reads, and what stays as it is."""

from __future__ import annotations

import errno
import os

import pytest

from setclip_cli.errors import SetClipError, UsageError, cause_of, translated

SAYS = {
    "no such file": (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), "no such file"),
    "folder": (IsADirectoryError(errno.EISDIR, "Is a directory"), "is a folder"),
    "file above": (NotADirectoryError(errno.ENOTDIR, "Not a directory"), "a part of the path is a file"),
    "permission": (PermissionError(errno.EACCES, "Permission denied"), "no permission"),
    "link": (OSError(errno.ELOOP, "Too many levels of symbolic links"), "leads back to itself"),
    "long name": (OSError(errno.ENAMETOOLONG, "File name too long"), "longer than the file system takes"),
    "read-only": (OSError(errno.EROFS, "Read-only file system"), "read-only"),
    "full": (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    "NUL": (ValueError("embedded null byte"), "NUL"),
    "not UTF-8": (UnicodeEncodeError("utf-8", "a\udcffb", 1, 2, "surrogates not allowed"), "not UTF-8"),
    "memory": (MemoryError(), "too little free memory"),
    "memory of PyTorch": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "too little free mem"),
    "memory of NumPy": (MemoryError("Unable to allocate 8.00 EiB for an array"), "too little free memory"),
    "memory of Arrow": (Exception("malloc of size 128 failed"), "too little free memory"),
}


@pytest.mark.parametrize(("error", "says"), SAYS.values(), ids=SAYS)
def test_an_error_that_says_its_cause_gets_the_fix_of_this_cause(error: Exception, says: str) -> None:
    with pytest.raises(SetClipError) as caught, translated("data/a.bin", found="is damaged", fix="copy it again"):
        raise error
    assert caught.value.problem.startswith("data/a.bin: ")
    assert says in caught.value.problem
    assert caught.value.fix not in ("", "copy it again")
    assert caught.value.__cause__ is error


def test_the_stated_kinds_get_what_the_edge_says_and_all_others_stay() -> None:
    edge = translated(
        "a.bin", KeyError, OSError, found="is damaged", fix="copy it again", exit_code=UsageError("", fix="").exit_code
    )
    with pytest.raises(SetClipError, match=r"a.bin: is damaged \('x'\)\n  fix: copy it again") as caught, edge:
        raise KeyError("x")
    assert caught.value.exit_code == 2
    with (
        pytest.raises(SetClipError, match=r"is damaged \(cut short\)"),
        translated("a", OSError, found="is damaged", fix="f"),
    ):
        raise OSError("cut short")  # without a number: no cause is known
    with pytest.raises(TypeError), translated("a", KeyError, found="is damaged", fix="f"):
        raise TypeError
    with pytest.raises(KeyboardInterrupt), translated("a", Exception, found="is damaged", fix="f"):
        raise KeyboardInterrupt


def test_a_message_of_ours_stays_as_it_is() -> None:
    with pytest.raises(SetClipError, match=r"^ours") as caught, translated("a", Exception, found="x", fix="y"):
        raise SetClipError("ours", fix="of ours")
    assert caught.value.fix == "of ours"


def test_what_says_nothing_of_its_cause_has_none() -> None:
    assert cause_of(OSError("odd")) is None
    assert cause_of(ValueError("5")) is None
    assert cause_of(UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range")) is None

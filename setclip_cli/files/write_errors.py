"""One error for whatever cannot be written: a full disk, a read-only one, a folder without permission."""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from setclip_cli.errors import SetClipError, cause_of, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota of disk space is used up",
    errno.EFBIG: "a file may not be so large here",
}
# What else keeps a file from being written; any other error in a block that writes is not about writing.
_REFUSED = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOTEMPTY, errno.EBUSY),
    *(errno.ENXIO, errno.ENODEV, errno.ETXTBSY, errno.EINVAL, errno.ENOLCK, errno.ENOSYS),
)
_WRONG_FOLDER = (errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR)
_NUMBER = re.compile(r"\((?:os )?error (\d+)\)|\[errno (\d+)\]", re.IGNORECASE)
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written|file write failed|unexpected pos \d+ vs \d+")


class WriteError(SetClipError):
    """A file or folder cannot be written now. Another try may do it; what was written before stays whole.

    It is about this disk: a local copy of a folder elsewhere is called by its own path.
    """

    names_places: ClassVar[bool] = False

    def with_fix(self, more: str) -> WriteError:
        """The same error, with more to do in its fix."""
        problem, fix = self._marked
        return WriteError(problem, fix=f"{fix}; {more}")


class InUseError(WriteError):
    """Another process writes to a folder."""

    names_places: ClassVar[bool] = True


@contextmanager
def writing(target: Path, *, needs: int | None = None, written: Path | None = None) -> Iterator[None]:
    """Turns what any library raises in the block when it cannot write ``target`` into a `WriteError`.

    An error about something else, such as another file that is read in the block, stays as it is.

    Args:
        target: The file or folder to write.
        needs: Bytes that it will have, if that is known.
        written: The file that the block writes, if it is not ``target`` itself; its size is told.
    """
    try:
        yield
    except SetClipError:
        raise
    except Exception as error:
        if error_number(error) is None or not _is_about(error, target):
            raise
        raise write_error(target, error, needs=needs, written=written) from error


def error_number(error: BaseException) -> int | None:
    """The operating system's number for a failed write, in an error of any library; None if it is something else."""
    text, number = str(error), getattr(error, "errno", None)
    if isinstance(error, NotImplementedError):  # of filelock, for a file system without locks
        number = errno.ENOLCK
    if number is None and (found := _NUMBER.search(text)):
        number = int(found[1] or found[2])
    if number is None and _CUT_SHORT.search(text):  # NumPy and PyTorch say no more
        number = errno.ENOSPC
    if number is None:
        number = next((known for known in (*_FULL, *_REFUSED) if os.strerror(known).lower() in text.lower()), None)
    return number if number in _FULL or number in _REFUSED else None


def free_bytes(path: Path) -> tuple[int | None, Path]:
    """The free bytes on the disk of a path that may not exist yet, and its folder; None if the disk does not say."""
    folder = next((above for above in (path, *path.parents) if above.is_dir()), Path())
    try:
        return shutil.disk_usage(folder).free, folder
    except OSError:
        return None, folder


def _is_about(error: BaseException, target: Path) -> bool:
    """Whether an error names no file, or one at, below or above the folder of ``target``."""
    name = getattr(error, "filename", None)
    if not isinstance(name, str | os.PathLike):
        return True
    named, wanted = Path(name).absolute(), target.absolute()
    return named.is_relative_to(wanted.parent) or wanted.is_relative_to(named)


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size if path.is_file() else 0
    return 0


def write_error(target: Path, error: Exception, *, needs: int | None = None, written: Path | None = None) -> WriteError:
    """The error for the user when ``target`` could not be written, from one that has an `error_number`."""
    number = error_number(error)
    assert number is not None
    free, folder = free_bytes(target.parent)
    size = _size(written or target)
    if free is not None and written is not None:
        free += size  # it is removed
    again = "then run the same command again: what was finished is kept"
    if number in _FULL:
        file = f"the file needs {'more than' if needs is None else 'about'} {size if needs is None else needs:,} bytes"
        room = "" if free is None else f", {free:,} bytes are free in {folder}"
        fix = f"free some space there, or choose a folder on another disk; {again}"
        if number == errno.EFBIG:
            fix = f"raise the limit (ulimit -f), or choose a folder on another disk; {again}"
        elif number == errno.ENOSPC and _without_inodes(folder):
            room, fix = f", and no more files can be made in {folder}", f"remove files that you do not need; {again}"
        return WriteError(f"{target}: {_FULL[number]}: {file}{room}", fix=fix)
    found, fix = cause_of(OSError(number, os.strerror(number))) or (os.strerror(number), "choose another folder")
    if number in _WRONG_FOLDER:
        fix = "choose another folder"
    if number in (errno.EACCES, errno.EPERM):
        fix += f", or let your user write to {folder}"
    said = "" if isinstance(error, OSError) else f" ({first_line(error)})"
    return WriteError(f"{target}: cannot be written to: {found}{said}", fix=f"{fix}; {again}")


def _without_inodes(folder: Path) -> bool:
    with suppress(OSError):
        status = os.statvfs(folder)
        return status.f_files > 0 and status.f_favail == 0
    return False

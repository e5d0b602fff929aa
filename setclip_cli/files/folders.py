"""Whether a command may write to its output folder."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.errors import SetClipError, argument, cause_of
from setclip_cli.files.leftovers import is_temporary
from setclip_cli.files.lock import LOCK_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable


# The index of each folder whose files are all listed -> what the folder is, and keys of the index.
_WHOLE = {
    "config.json": ("a RUN", {"schema_version", "method", "towers", "dataset_sha256"}),
    "dataset.json": ("a DATASET", {"schema_version", "shards"}),
    "embeddings.json": ("EMBEDDINGS", {"schema_version", "shards", "towers"}),
}
_INDEX_BYTES = 256 * 2**20  # a larger file is no index of ours: ten thousand sources take some MB


def refuse_foreign(out: Path, what: str, marks: Iterable[str]) -> None:
    """Refuses an output folder that holds other things than the command writes. Nothing is changed.

    A folder is accepted if it is missing, empty, holds one of ``marks``, or holds only what a killed run may leave: its
    lock and temporary files.

    Args:
        out: The output folder.
        what: What the command writes there, such as ``"a RUN folder"``.
        marks: Names of files and folders, one of which is there as soon as the command has begun to write.

    Raises:
        SetClipError: ``out`` is a file, cannot be read, or holds other things; or it is inside a RUN, a DATASET or
            EMBEDDINGS; or a link in it leads out of it; or its name is not UTF-8, which the files that name it could
            not hold.
    """
    try:
        os.fspath(out).encode()
    except UnicodeEncodeError as error:
        raise SetClipError(f"{out}: the name is not UTF-8", fix=f"choose another {argument('out')}") from error
    _refuse_inside_ours(out)
    try:
        names = {path.name for path in out.iterdir() if path.name != LOCK_NAME and not is_temporary(path.name)}
    except FileNotFoundError:
        if out.is_symlink():
            raise SetClipError(
                f"{out}: is a link to {out.readlink()}, which is not there",
                fix=f"make that folder, remove the link, or choose another {argument('out')}",
            ) from None
        return
    except NotADirectoryError:
        if not out.exists():
            return  # a folder above it is a file; the lock says so
        found = "it is a file"
    except OSError as error:
        problem, _ = cause_of(error) or (f"cannot be read ({error.strerror})", "")
        raise SetClipError(f"{out}: {problem}", fix=f"choose another {argument('out')}; nothing was changed") from error
    else:
        if not names or names & set(marks):
            _refuse_links_out(out)
            return
        found = f"it holds {', '.join(map(repr, sorted(names)[:3]))}{', ...' if len(names) > 3 else ''}"
    raise SetClipError(
        f"{out}: exists but is not {what} ({found})",
        fix=f"choose another {argument('out')}, or remove it yourself; nothing was changed",
    )


def _refuse_inside_ours(out: Path) -> None:
    """Refuses a folder in a RUN, a DATASET or EMBEDDINGS: `verify` would find files there that are listed nowhere."""
    for above in Path(os.path.realpath(out)).parents:  # unlike resolve, for a loop of links too
        for name, (kind, keys) in _WHOLE.items():
            if _has_keys(above / name, keys):
                raise SetClipError(
                    f"{out}: is inside {above}, which is {kind}; nothing else is written there",
                    fix=f"choose {argument('out')} beside it, such as {above.with_name(f'{above.name}-{out.name}')}",
                )


def _has_keys(path: Path, keys: set[str]) -> bool:
    """Whether a file is the index of a folder of ours. Other programs write files of the same names."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > _INDEX_BYTES:  # a pipe would be waited for
            return False
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and keys <= content.keys()


def _refuse_links_out(out: Path) -> None:
    """Refuses a folder in which a link leads somewhere else: what is written or removed there would be outside.

    ``out`` itself may be a link, and links within it may lead to other places within it.
    """
    root = out.resolve()
    for place, folders, files in os.walk(out):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise SetClipError(
                    f"{path}: is a link that leads out of {out}, to {path.readlink()}",
                    fix=f"put what it leads to in its place, or choose another {argument('out')}; nothing was changed",
                )

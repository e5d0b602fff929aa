"""Folders as dictionaries of hashes, and whether a file that is there is whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tomllib
from pathlib import Path

LOCK = ".lock"
TEMPORARY = re.compile(r"\.tmp$|^tmp[a-z0-9_]{8}$")
Tree = dict[str, str]


def tree(folder: Path) -> Tree:
    """Relative path -> sha256 of each file; a link gives its target, an empty folder a word. Locks are left out."""
    found: Tree = {}
    for parent, folders, files in os.walk(folder):
        relative = Path(parent).relative_to(folder)
        for name in [*files, *folders]:
            path = Path(parent) / name
            if path.is_symlink():
                found[str(relative / name)] = f"link to {path.readlink()}"
            elif name in files and name != LOCK:
                found[str(relative / name)] = digest(path)
    return found


def stamps(folder: Path) -> Tree:
    """Relative path -> kind, size and time of each file and folder; cheaper than `tree`, and shows each write."""
    found: Tree = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        size = 0 if path.is_dir() else status.st_size
        found[str(path.relative_to(folder))] = f"{status.st_mode:o} {size} {status.st_mtime_ns}"
    return found


def digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return f"unreadable: {error.strerror}"


def differences(wanted: Tree, found: Tree) -> list[str]:
    lines = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    lines += [f"{name} is left over" for name in sorted(found.keys() - wanted.keys())]
    return lines + [f"{name} differs" for name in sorted(wanted.keys() & found.keys()) if wanted[name] != found[name]]


def temporary_files(found: Tree) -> list[str]:
    return sorted(name for name in found if any(TEMPORARY.search(part) for part in name.split("/")))


def replace_tree(target: Path, source: Path | None) -> None:
    """Makes ``target`` a copy of ``source``, with its times; removes it if ``source`` is None."""
    if target.exists():
        shutil.rmtree(target)
    if source is not None:
        shutil.copytree(source, target, symlinks=True)


def damage(path: Path) -> str:
    """Why a file of ours is not whole, by its structure alone; an empty string if it is, or if its kind is unknown."""
    content = path.read_bytes()
    kind = "" if "seals" in path.parts else path.suffix  # a seal has the name of the file whose hash it holds
    try:
        if kind == ".json":
            json.loads(content)
        elif kind == ".toml":
            tomllib.loads(content.decode())
        elif kind == ".jsonl":
            lines = content.split(b"\n")
            for line in lines[:-1]:  # the last may be written at this moment; its readers allow for that
                json.loads(line)
        elif kind == ".parquet":
            footer = int.from_bytes(content[-8:-4], "little")
            if content[:4] != b"PAR1" or content[-4:] != b"PAR1" or footer + 12 > len(content):
                return "is not a whole Parquet file"
        elif kind == ".safetensors":
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
            if 8 + int.from_bytes(content[:8], "little") + end != len(content):
                return "is not a whole safetensors file"
        elif (kind == ".html" and not content.rstrip().endswith(b"</html>")) or (
            kind == ".png" and b"IEND" not in content[-16:]
        ):
            return "is cut"
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        return str(error)[:200]
    return "" if content or kind in (".jsonl", ".md", ".txt") else "is empty"

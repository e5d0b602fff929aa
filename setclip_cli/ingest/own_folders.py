"""A source holds nothing that setclip writes: it would be read as data, and would change the source at each run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from setclip_cli.errors import UsageError, argument
from setclip_cli.files.cache import cache_root
from setclip_cli.ingest.sources.vectors.source import VectorSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from setclip_cli.ingest.sources.base import Source

_SHARD = re.compile(r"((?:.*/)?)[a-z][a-z0-9_-]*/[\w-]+-\d{5}\.parquet")
_OF_SHARDS = (("dataset.json", "a DATASET"), ("embeddings.json", "an EMBEDDINGS folder"))
_OF_TWO_FILES = (("recipe.toml", "model.safetensors", "a RUN"), ("report.json", "report.html", "a REPORT"))


def refuse_own_folders(source: Source, out: Path) -> None:
    """Refuses a source around the DATASET that is written, in it, or around another folder of setclip.

    The vectors of an EMBEDDINGS folder are data: the folder itself may be a source of them.

    Raises:
        UsageError: it is one; nothing was written.
    """
    path, target = source.path.resolve(), out.resolve()
    beside = f"choose {_out()} beside it, such as {path.parent / (path.name + '-dataset')}"
    if path != target and path.is_relative_to(target):
        raise UsageError(
            f"{source.path}: is inside {_out()} {out}, in which only setclip writes",
            fix="move the SOURCE out of it, and run the command again",
        )
    if not path.is_dir():
        return
    if path == target:
        raise UsageError(f"{source.path}: is the SOURCE and also {_out()}", fix=beside)
    names = [file.name for file in source.files()]
    folders = {(path / name).resolve() for name in _folders(names)}  # with those that links lead to
    if any(target.is_relative_to(folder) for folder in folders):
        raise UsageError(f"{_out()} {out}: is inside the SOURCE {source.path}", fix=beside)
    found, cache = None if isinstance(source, VectorSource) else _own(names), cache_root().resolve()
    if found is None and cache in folders:
        found = str(cache), "the cache of setclip"
    if found is not None:
        folder, kind = found
        raise UsageError(
            f"{source.path}: holds files that setclip wrote: {path / folder} is {kind}",
            fix="move that folder out of the SOURCE, or give the other folders of the SOURCE one by one",
        )


def _folders(names: Iterable[str]) -> set[str]:
    """The folders in which files with these names are, and those above them; "" for the source itself."""
    parts = (name.split("/") for name in {name.rpartition("/")[0] for name in names})
    return {"", *("/".join(each[:length]) for each in parts for length in range(1, len(each) + 1))}


def _own(names: Sequence[str]) -> tuple[str, str] | None:
    """(folder, what it is) of a folder that setclip wrote; None if there is none.

    One name alone does not tell: dataset.json is also the list of captions of published sets.
    """
    known = set(names)
    for name in names:
        folder, _, last = name.rpartition("/")
        for first, second, kind in _OF_TWO_FILES:
            if last == first and name.removesuffix(first) + second in known:
                return folder, kind
        shard = _SHARD.fullmatch(name) if last.endswith(".parquet") else None
        for mark, kind in _OF_SHARDS if shard else ():
            if shard and shard[1] + mark in known:
                return shard[1].rstrip("/"), kind
    return None


def _out() -> str:
    return argument("out")

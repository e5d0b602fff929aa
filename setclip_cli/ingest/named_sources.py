"""Several modalities in one command: ``setclip ingest image=photos/ caption=captions.jsonl --pairs pairs.csv``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.dataset.dataset import INDEX_NAME, open_dataset
from setclip_cli.dataset.modality import KINDS_OF_NAMES, Modality, why_not_a_name
from setclip_cli.errors import UsageError, argument
from setclip_cli.ingest.annotations import read_pairs
from setclip_cli.ingest.build import build_dataset
from setclip_cli.ingest.labels import labels_by_modality
from setclip_cli.ingest.options import (
    IngestOptions,
    options_of_other_kinds,
    refuse_unused,
    with_known_kind,
)
from setclip_cli.ingest.result import IngestResult
from setclip_cli.ingest.sources import open_source

if TYPE_CHECKING:
    from collections.abc import Sequence


def split_by_name(sources: Sequence[str | Path], modality: Modality | None = None) -> dict[Modality, list[Path]]:
    """``NAME=PATH`` sources by their names, in the order of the command; empty if none has a name.

    Something that is there under its whole name, ``=`` included, is no such source.

    Args:
        sources: Those of the command.
        modality: The one name of all sources, if the command says it.

    Raises:
        SetClipError: exit code 2; some sources have a name, and others have none; a name cannot be one, or ``modality``
            is there too.
    """
    found: dict[Modality, list[Path]] = {}
    without: list[str] = []
    for source in map(str, sources):
        name, equals, path = source.partition("=")
        if not equals or not path or Path(source).exists():
            without.append(source)
            continue
        reason = why_not_a_name(name)
        if Path(path).exists():
            _refuse_name(name, path, reason, modality)
        if reason is None and modality is None:
            found.setdefault(name, []).append(Path(path))
        else:
            without.append(source)
    if found and without:
        raise UsageError(
            f"{without[0]}: has no name, and other sources have one",
            fix=f"name all of them, such as {next(iter(found))}={without[0]}, or give one modality a command",
        )
    return found


def _refuse_name(name: str, path: str, reason: str | None, modality: Modality | None) -> None:
    """Refuses the name in front of a path that is there, if it cannot be a name, or if there is ``--modality`` too."""
    if reason is not None:
        lower = name.lower() if why_not_a_name(name.lower()) is None else "radar"
        raise UsageError(
            f"{name}={path}: the name {name!r} {reason}", fix=f"choose another name, such as {lower}={path}"
        )
    if modality is not None:
        shown = argument("modality")
        raise UsageError(
            f"{name}={path}: has a name in front, and {shown} {modality} is there too",
            fix=f"leave out {shown} {modality}, or write the path alone: {path}",
        )


def ingest_named(
    groups: dict[Modality, list[Path]], out: Path, options: IngestOptions, *, shard_rows: int, shard_bytes: int
) -> IngestResult:
    """Reads the sources of each modality in turn, then adds the pairs. A mistake in any of them is found before that.

    Args:
        groups: The sources by the names of their modalities.
        options: Those of the command. ``kind`` is that of the names that do not say theirs.

    Raises:
        SetClipError: as `ingest` does.
    """
    known = open_dataset(out).index.modalities if (out / INDEX_NAME).exists() else {}
    of_each: dict[Modality, IngestOptions] = {}
    for name in groups:
        own = replace(options, kind=None) if name in KINDS_OF_NAMES else options
        of_each[name] = with_known_kind(replace(own, modality=name), known, out)
    _refuse_unused(of_each, groups, options)
    last = next(reversed(groups))
    for name, each in of_each.items():
        of_each[name] = replace(
            each,
            **options_of_other_kinds(each),
            pairs=each.pairs if name == last else None,
            pairs_from_group=each.pairs_from_group and name == last,
        )
    opened = {name: [open_source(path, of_each[name]) for path in paths] for name, paths in groups.items()}
    if isinstance(options.pairs, str | Path):
        read_pairs(Path(options.pairs), [*known, *groups])
    labels = labels_by_modality(options.labels, opened)
    results = [
        build_dataset(
            paths, out, of_each[name], labels=labels.get(name), shard_rows=shard_rows, shard_bytes=shard_bytes
        )
        for name, paths in groups.items()
    ]
    return replace(
        results[-1],
        new=[entry for result in results for entry in result.new],
        unchanged=[entry for result in results for entry in result.unchanged],
        joins=[join for result in results for join in result.joins],
    )


def _refuse_unused(
    of_each: dict[Modality, IngestOptions], groups: dict[Modality, list[Path]], options: IngestOptions
) -> None:
    """Refuses an option that has no meaning for any of the sources."""
    others = [options_of_other_kinds(each) for each in of_each.values()]
    for name, each in of_each.items():
        given = options_of_other_kinds(each)
        used_elsewhere = {key: value for key, value in given.items() if any(key not in other for other in others)}
        refuse_unused(replace(each, **used_elsewhere), groups[name])
    vectors = [name for name, each in of_each.items() if each.row_kind == "vector"]
    for option in ("ids", "encoder"):
        if getattr(options, option) is not None and len(vectors) > 1:
            shown = argument(option)
            raise UsageError(
                f"{shown}: is for one modality, and {' and '.join(vectors)} are vectors each",
                fix=f"give each of them a command of its own, with its {shown}",
            )

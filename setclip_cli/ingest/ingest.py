"""`setclip ingest` as a function: it follows manifests, reads files, or adds pairs to what is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.errors import SetClipError, UsageError, argument
from setclip_cli.files.lock import exclusive
from setclip_cli.files.shipped import named
from setclip_cli.ingest.build import SHARD_BYTES, SHARD_ROWS, build_dataset
from setclip_cli.ingest.named_sources import ingest_named, split_by_name
from setclip_cli.ingest.options import IngestOptions, refuse_unused
from setclip_cli.options import path_of
from setclip_cli.remote.arguments import takes_places

if TYPE_CHECKING:
    from collections.abc import Iterable

    from setclip_cli.ingest.result import IngestResult


@takes_places("sources", writes="out")
def ingest(
    sources: str | Path | Iterable[str | Path],
    out: str | Path,
    options: IngestOptions | None = None,
    *,
    shard_rows: int = SHARD_ROWS,
    shard_bytes: int = SHARD_BYTES,
) -> IngestResult:
    """Reads sources of one modality, or data manifests, into a new DATASET or one that is there already.

    A source that the DATASET holds unchanged is not read again. A source that has changed, or that comes with other
    options, is read again together with all sources after it: the result is that of a fresh ingest.

    Args:
        sources: Files, folders or archives of one modality; or ``NAME=PATH`` for several; or data manifests: .toml
            files, or names of those that come with setclip. Without sources, the pairs of the options are added to the
            DATASET in ``out``.
        out: The DATASET folder.
        options: All else that the command takes; its fields say what they do.
        shard_rows: A shard holds at most this many rows.
        shard_bytes: A shard is closed when its payload reaches this many bytes.

    Raises:
        SetClipError: options that do not go together; a source that cannot be read, holds nothing usable or too many
            bad records; ``out`` that is not a DATASET folder, cannot be written or is in use; pairs that are not there.
    """
    options, out = options or IngestOptions(), path_of(out, "out")
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    if options.drop_pairs is not None and given:
        flag = argument("drop_pairs")
        raise _usage(
            f"{flag}: is for pairs that a DATASET has", f"setclip ingest {flag} {options.drop_pairs} --out {out}"
        )
    groups = split_by_name(given, options.modality)
    if groups:
        result = ingest_named(groups, out, options, shard_rows=shard_rows, shard_bytes=shard_bytes)
        _describe(out, options)
        return result
    paths = [named("manifests", path_of(source, "sources")) for source in given]
    manifests = [path for path in paths if path.suffix == ".toml"]
    if not paths and options.pairs is None and not options.pairs_from_group and options.drop_pairs is None:
        raise _usage("there is no SOURCE to read and no pairs to add", f"setclip ingest --pairs pairs.csv --out {out}")
    if manifests and (len(manifests) < len(paths) or options.modality is not None):
        raise _usage(
            "a manifest goes with other manifests only, and says its modality itself",
            f"leave {argument('modality')} out: setclip ingest {manifests[0]} --out {out}",
        )
    if paths and not manifests:
        refuse_unused(options, paths)
    if manifests:
        from setclip_cli.ingest.manifest import ingest_manifests

        result = ingest_manifests(manifests, out, options)
    else:
        result = build_dataset(paths, out, options, shard_rows=shard_rows, shard_bytes=shard_bytes)
    _describe(out, options)
    return result


def _describe(out: Path, options: IngestOptions) -> None:
    if options.croissant:
        from setclip_cli.dataset.croissant import write_croissant

        with exclusive(out):
            write_croissant(out)


def _usage(problem: str, fix: str) -> SetClipError:
    return UsageError(problem, fix=fix)

"""What `setclip ingest` was asked for: to verify a DATASET, to read manifests or files, or to add pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.files.shipped import named
from setclip_cli.ingest.ingest import ingest, ingest_pairs
from setclip_cli.ingest.sources.base import ReadOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.dataset.verify import VerifyResult
    from setclip_cli.ingest.result import IngestResult


def run(
    sources: Sequence[Path],
    *,
    modality: str | None,
    out: Path | None,
    verify_only: bool,
    from_folder: Path | None,
    croissant: bool,
    pairs: str | None,
    split: str | None,
    captions_from: str | None,
    text_column: str | None,
    sequence_column: str | None,
    image_column: str | None,
    layout: str | None,
    tile: int | None,
    stride: int | None,
    bands: str | None,
    stretch: str | None,
    **others: Any,
) -> IngestResult | VerifyResult:
    """Sorts out the command line, then verifies, ingests manifests or files, or adds pairs to what is there.

    Raises:
        SetClipError: options that do not go together, and whatever the work itself raises.
    """
    if verify_only:
        from setclip_cli.dataset.verify import verify

        if len(sources) != 1:
            raise _usage(f"--verify: one DATASET, got {len(sources)} paths", "setclip ingest --verify DATASET")
        return verify(sources[0])
    if out is None:
        raise _usage("--out is missing", "setclip ingest SOURCE... --modality MODALITY --out DATASET")
    sources = [named("manifests", source) for source in sources]
    manifests = [source for source in sources if source.suffix == ".toml"]
    if not sources:
        if pairs is None and not others["pairs_from_group"]:
            raise _usage("no SOURCE to read, and no pairs to add", f"setclip ingest --pairs pairs.csv --out {out}")
        chosen = ("pairs_from_group", "seed", "max_bad_fraction")
        result = ingest_pairs(out, pairs=_pairs(pairs), **{name: others[name] for name in chosen})
    elif manifests:
        if len(manifests) < len(sources) or modality is not None:
            raise _usage(
                "manifests come alone, and say their modality themselves", f"setclip ingest {manifests[0]} --out {out}"
            )
        from setclip_cli.ingest.manifest import ingest_manifest

        results = [
            ingest_manifest(path, out=out, from_folder=from_folder, split=split, pairs=_pairs(pairs), **others)
            for path in manifests
        ]
        result = results[-1]
    elif modality is None:
        raise _usage("--modality is missing", "--modality protein, image or caption")
    else:
        read = ReadOptions(
            text_column=text_column,
            sequence_column=sequence_column,
            image_column=image_column,
            layout=None if layout is None else f".{layout.lower().lstrip('.')}",
            captions_from=captions_from,
            tile=tile,
            stride=stride,
            bands=bands,
            stretch=stretch,
        )
        result = ingest(
            sources, modality=modality, out=out, pairs=_pairs(pairs), split=split or "auto", read=read, **others
        )
    if croissant:
        from setclip_cli.dataset.croissant import write_croissant

        write_croissant(out)
    return result


def _pairs(text: str | None) -> Path | int | None:
    if text is None:
        return None
    return int(text) if text.isdecimal() else Path(text)


def _usage(problem: str, fix: str) -> SetClipError:
    return SetClipError(problem, fix=fix, exit_code=ExitCode.USAGE)

"""Readers of real formats. Each yields records and rejects; which reader fits is decided here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli.errors import SetClipError
from setclip_cli.sources.streams import inner_suffix

if TYPE_CHECKING:
    from pathlib import Path

    from setclip_cli.shards import Modality
    from setclip_cli.sources.base import Source


def open_source(path: Path, modality: Modality, *, text_column: str | None = None) -> Source:
    """Chooses the reader for a path by the modality and the suffix. Reads nothing yet.

    Raises:
        SetClipError: no such path, an empty folder, or a suffix no reader of that modality knows.
    """
    if not path.exists():
        raise SetClipError(f"{path}: no such file or folder", fix="check the path")
    if path.is_dir() and not any(path.iterdir()):
        raise SetClipError(f"{path}: empty folder", fix="check the path")
    suffix = inner_suffix(path)
    if modality == "image":
        from setclip_cli.sources.image import IMAGE_SUFFIXES, ImageFolder

        if path.is_dir() or suffix in IMAGE_SUFFIXES:
            return ImageFolder(path)
        raise _unknown(path, modality, IMAGE_SUFFIXES)
    if path.is_dir():
        raise SetClipError(
            f"{path}: a folder, but {modality} rows are read from files", fix=f"name the files: {path}/*"
        )
    if modality == "protein":
        from setclip_cli.sources.protein import FASTA_SUFFIXES, Fasta

        if suffix in FASTA_SUFFIXES:
            return Fasta(path)
        raise _unknown(path, modality, FASTA_SUFFIXES)
    from setclip_cli.sources.caption import CAPTION_SUFFIXES, CaptionFile

    if suffix in CAPTION_SUFFIXES:
        return CaptionFile(path, text_field=text_column)
    raise _unknown(path, modality, CAPTION_SUFFIXES)


def _unknown(path: Path, modality: Modality, suffixes: tuple[str, ...]) -> SetClipError:
    found = inner_suffix(path)
    return SetClipError(
        f"{path}: {f'suffix {found!r}' if found else 'no suffix'} says nothing about {modality} data",
        fix=f"rename it to one of: {' '.join(suffixes)}",
    )

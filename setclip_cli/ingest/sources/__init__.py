"""Readers of file formats. Each yields records and rejects. This file chooses the reader of a path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.errors import SetClipError, UsageError, argument
from setclip_cli.files.recognize import PARQUET, TAR, ZIP, head_of, recognize, starts_with
from setclip_cli.ingest.sources.streams import inner_suffix

if TYPE_CHECKING:
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.ingest.options import ReadOptions
    from setclip_cli.ingest.sources.base import Source


def open_source(path: Path, options: ReadOptions) -> Source:
    """Chooses the reader of a path by its modality and suffix. Reads nothing yet.

    Raises:
        SetClipError: the modality is missing, the path is not there, the folder is empty, no reader of the modality
            knows the suffix, or an option is bad.
    """
    if options.modality is None:
        shown = argument("modality")
        raise UsageError(
            f"{path}: {shown} is missing",
            fix=f"{shown} protein, image, caption or video, or a name of your own with --kind",
        )
    kind = options.row_kind
    if not path.exists():
        raise SetClipError(f"{path}: no such file or folder", fix="check the path")
    if path.is_dir() and not any(path.iterdir()):
        raise SetClipError(f"{path}: the folder is empty", fix="check the path")
    if path.is_dir() and kind not in ("image", "vector", "video"):
        raise SetClipError(
            f"{path}: is a folder, but {options.modality} rows are read from files", fix=f"give its files: {path}/*"
        )
    if kind == "vector":
        return _open_vectors(path, options)
    if kind == "video":
        from setclip_cli.ingest.sources.video import VideoFolder

        return VideoFolder(path, frames=options.frames)
    suffix = options.layout or inner_suffix(path)
    opener = {"protein": _open_proteins, "image": _open_images, "text": _open_captions}[kind]
    return opener(path, suffix, options)


def _open_vectors(path: Path, options: ReadOptions) -> Source:
    from setclip_cli.ingest.sources.vectors import open_vectors
    from setclip_cli.ingest.sources.vectors.ids import IdFile
    from setclip_cli.ingest.sources.vectors.source import VectorSource

    ids = None if options.ids is None else IdFile(Path(options.ids), id_column=options.id_column)
    file = open_vectors(
        path,
        modality=str(options.modality),
        layout=options.layout,
        column=options.vector_column,
        id_column=options.id_column if ids is None else None,
        scale=options.scale,
        average=options.average,
    )
    return VectorSource(file, modality=str(options.modality), ids=ids, scale=options.scale)


def _open_images(path: Path, suffix: str, options: ReadOptions) -> Source:
    from setclip_cli.ingest.sources.image import IMAGE_SUFFIXES, ImageFolder

    if path.is_file() and suffix not in IMAGE_SUFFIXES and (container := _open_image_container(path, suffix, options)):
        for name in ("tile", "bands", "stretch"):
            if getattr(options, name) is not None:
                raise UsageError(
                    f"{path}: {argument(name)} is for image files, and this is an archive or a table of them",
                    fix="unpack it into a folder and give that",
                )
        return container
    if options.tile or options.bands or options.stretch:
        from setclip_cli.ingest.sources.geotiff import GeoFolder

        return GeoFolder(path, tile=options.tile, stride=options.stride, bands=options.bands, stretch=options.stretch)
    return ImageFolder(path)


def _open_image_container(path: Path, suffix: str, options: ReadOptions) -> Source | None:
    """The reader of an archive or a table of images; None for a single image."""
    from setclip_cli.ingest.sources.archive import ImageArchive
    from setclip_cli.ingest.sources.check_image import image_format, unread_format
    from setclip_cli.ingest.sources.image import IMAGE_SUFFIXES
    from setclip_cli.ingest.sources.members import ARCHIVE_SUFFIXES, is_archive

    if is_archive(path):
        return ImageArchive(path)
    head = _head(path)
    found = recognize(head)
    if suffix == ".parquet" or found is PARQUET:
        from setclip_cli.ingest.sources.image_table import ImageTable

        return ImageTable(path, image_column=options.image_column)
    if found in (ZIP, TAR):
        return ImageArchive(path)
    if image_format(head) or unread_format(head):
        return None
    raise _unknown(path, "image", (*IMAGE_SUFFIXES, *ARCHIVE_SUFFIXES, ".parquet"))


def _open_proteins(path: Path, suffix: str, options: ReadOptions) -> Source:
    from setclip_cli.ingest.sources.fasta_content import other_format
    from setclip_cli.ingest.sources.protein import FASTA_SUFFIXES, Fasta
    from setclip_cli.ingest.sources.rows import ROW_SUFFIXES
    from setclip_cli.ingest.sources.uniprot import FLAT_SUFFIXES, FlatFile, NamedFasta, ProteinTable, parse_aspects

    aspects = parse_aspects(options.captions_from)
    if suffix in FASTA_SUFFIXES:
        return NamedFasta(path, aspects) if aspects else Fasta(path)
    if suffix in FLAT_SUFFIXES:
        return FlatFile(path, aspects)
    if suffix in ROW_SUFFIXES:
        return ProteinTable(path, aspects, sequence_column=options.sequence_column, layout=options.layout)
    head = _head(path)
    if other := other_format(head):
        raise SetClipError(f"{path}: is {other[0]}, not a FASTA file", fix=other[1])
    if head.removeprefix(b"\xef\xbb\xbf").startswith(b">"):
        return NamedFasta(path, aspects) if aspects else Fasta(path)
    raise _unknown(path, "protein", (*FASTA_SUFFIXES, *FLAT_SUFFIXES, *ROW_SUFFIXES))


def _open_captions(path: Path, suffix: str, options: ReadOptions) -> Source:
    from setclip_cli.ingest.sources.archive import CaptionArchive
    from setclip_cli.ingest.sources.caption import CAPTION_SUFFIXES, CaptionFile
    from setclip_cli.ingest.sources.members import is_archive

    if is_archive(path):
        return CaptionArchive(path)
    if suffix in CAPTION_SUFFIXES:
        return CaptionFile(path, text_column=options.text_column, layout=options.layout)
    raise _unknown(path, "caption", (*CAPTION_SUFFIXES, ".tar"))


def _head(path: Path) -> bytes:
    try:
        return head_of(path)
    except OSError as error:
        raise SetClipError(f"{path}: {error.strerror}", fix="check the path and its permissions") from error


def _unknown(path: Path, modality: Modality, suffixes: tuple[str, ...]) -> SetClipError:
    found, head = inner_suffix(path), _head(path)
    if known := recognize(head):
        return SetClipError(f"{path}: is {known.what}", fix=known.fix)
    return SetClipError(
        f"{path}: {modality} rows are not read from files with {f'the suffix {found!r}' if found else 'no suffix'}, "
        f"and the file starts with {starts_with(head)}",
        fix=f"say what it is with {argument('layout', '--format')}; known are: {' '.join(suffixes)}",
    )

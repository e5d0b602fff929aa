"""Readers of vectors that other programs computed: one file for each format. This file chooses the reader of a path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli.errors import SetClipError, argument
from setclip_cli.files.recognize import head_of, recognize, starts_with
from setclip_cli.ingest.sources.streams import inner_suffix

if TYPE_CHECKING:
    from pathlib import Path

    from setclip_cli.ingest.sources.vectors.blocks import VectorFile

VECTOR_SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".parquet", ".lance", ".safetensors", ".csv", ".tsv", ".txt")
_OTHER_NAMES = {".hdf": ".h5", ".hdf5": ".h5", ".he5": ".h5", ".h5py": ".h5", ".pq": ".parquet"}
_MAGICS = ((b"\x93NUMPY", ".npy"), (b"\x89HDF\r\n\x1a\n", ".h5"), (b"PAR1", ".parquet"))
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib")
_NOT_READ = {  # options that change nothing for such files
    "embeddings": ("id_column", "scale", "average"),
    ".npy": ("vector_column", "id_column", "average"),
    ".parquet": ("average",),
    ".lance": ("average",),
    ".safetensors": ("id_column",),
    ".csv": ("scale", "average"),
    ".tsv": ("scale", "average"),
    ".txt": ("scale", "average"),
}
_WORDS = {"embeddings": "an EMBEDDINGS folder", ".lance": "a Lance data set"} | {
    suffix: f"a {suffix} file" for suffix in VECTOR_SUFFIXES if suffix != ".lance"
}


def open_vectors(
    path: Path,
    *,
    modality: str,
    layout: str | None = None,
    column: str | None = None,
    id_column: str | None = None,
    scale: float | None = None,
    average: bool = False,
) -> VectorFile:
    """Opens and checks a file of vectors; its suffix says the format, or else its first bytes.

    Args:
        path: A file, a Lance data set or an EMBEDDINGS folder.
        modality: Of an EMBEDDINGS folder, the modality to read if it has several.
        layout: The format as a suffix, if that of the file does not say it.
        column: The column, array, tensor or data set that holds the vectors.
        id_column: The one that holds the ids.
        scale: What an integer of 8 bits stands for.
        average: Whether an array (L, d) of an id becomes the mean of its L vectors.

    Raises:
        SetClipError: it is not a file of vectors, or cannot be read.
    """
    suffix = _suffix_of(path, layout)
    options = {"vector_column": column, "id_column": id_column, "scale": scale, "average": average or None}
    file = _opened(path, suffix, modality, column=column, id_column=id_column, scale=scale, average=average)
    of_whole_numbers = file.dtype.kind in "iu" or average  # a mean of them is none
    for name, value in options.items():
        shown = f"the option {name.replace('_', '-')}"
        if value is not None and name in _NOT_READ.get(suffix, ()):
            file.notes.append(f"{shown} is not used: it has no meaning for {_WORDS[suffix]}")
        elif name == "scale" and value is not None and not of_whole_numbers:
            file.notes.append(f"{shown} is not used: it is for integers, and these are {file.dtype.name}")
    return file


def _opened(
    path: Path,
    suffix: str,
    modality: str,
    *,
    column: str | None,
    id_column: str | None,
    scale: float | None,
    average: bool,
) -> VectorFile:
    """The reader for a suffix."""
    if suffix == "embeddings":
        from setclip_cli.ingest.sources.vectors.embeddings import EmbeddedVectors

        return EmbeddedVectors(path, modality=column or modality)
    if suffix == ".lance":
        from setclip_cli.ingest.sources.vectors.lance import LanceVectors

        return LanceVectors(path, column=column, id_column=id_column, scale=scale)
    if suffix == ".npy":
        from setclip_cli.ingest.sources.vectors.npy import NpyFile

        return NpyFile(path, scale=scale)
    if suffix == ".npz":
        from setclip_cli.ingest.sources.vectors.npz import open_npz

        return open_npz(path, column=column, id_column=id_column, scale=scale, average=average)
    if suffix == ".h5":
        from setclip_cli.ingest.sources.vectors.hdf5 import open_hdf5

        return open_hdf5(path, column=column, id_column=id_column, scale=scale, average=average)
    if suffix == ".parquet":
        from setclip_cli.ingest.sources.vectors.embeddings import refuse_small_shard
        from setclip_cli.ingest.sources.vectors.parquet import ParquetVectors

        refuse_small_shard(path)
        return ParquetVectors(path, column=column, id_column=id_column, scale=scale)
    if suffix == ".safetensors":
        from setclip_cli.ingest.sources.vectors.safetensors import open_safetensors

        return open_safetensors(path, column=column, scale=scale, average=average)
    from setclip_cli.ingest.sources.vectors.text_table import TextVectors

    return TextVectors(path, column=column, id_column=id_column)


def _suffix_of(path: Path, layout: str | None) -> str:
    """The suffix that says how a path is read."""
    if path.is_dir():
        if (path / "embeddings.json").is_file():
            return "embeddings"
        if path.suffix == ".lance" or layout == ".lance" or (path / "_versions").is_dir():
            return ".lance"
        kinds = sorted({each.suffix for each in path.iterdir() if each.suffix.lower() in VECTOR_SUFFIXES})
        raise SetClipError(
            f"{path}: is a folder, but neither a Lance data set nor an EMBEDDINGS folder",
            fix=f"give its files: {path}/*{kinds[0]}" if kinds else "give the files that hold vectors",
        )
    try:
        head = head_of(path)
    except OSError as error:
        raise SetClipError(f"{path}: {error.strerror}", fix="check the path and its permissions") from error
    suffix = layout or inner_suffix(path)
    suffix = _OTHER_NAMES.get(suffix, suffix)
    if suffix in VECTOR_SUFFIXES:
        return suffix
    found = recognize(head)
    if layout is None and (magic := next((named for start, named in _MAGICS if head.startswith(start)), None)):
        return magic
    if suffix in _PICKLES or (found is not None and found.what == "a Python pickle"):
        raise SetClipError(
            f"{path}: is a Python pickle, or has the suffix of one, and setclip runs no code from data",
            fix="write the vectors as .npy: np.save('vectors.npy', np.asarray(tensor))",
        )
    if found is not None:
        raise SetClipError(f"{path}: is {found.what}", fix=found.fix)
    raise SetClipError(
        f"{path}: vectors are not read from files with {f'the suffix {suffix!r}' if suffix else 'no suffix'}, and the "
        f"file starts with {starts_with(head)}",
        fix=f"if it holds vectors, say how with {argument('layout', '--format')}; known are: "
        f"{' '.join(VECTOR_SUFFIXES)}. If not, give it a command of its own, with another name and "
        f"{argument('kind')} protein, image or text",
    )

"""A FAISS index of each modality and split, written without holding the vectors in memory."""

from __future__ import annotations

import importlib
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.files import atomic

if TYPE_CHECKING:
    from pathlib import Path

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.embedding.embeddings import Embeddings


def require_faiss() -> Any:
    """The faiss module.

    Raises:
        SetClipError: it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise SetClipError(
            "--faiss: FAISS is not installed", fix="pip install 'setclip[search]'", exit_code=ExitCode.USAGE
        ) from error


def index_path(root: Path, modality: Modality, split: str) -> Path:
    return root / modality / f"{split}.faiss"


def write_faiss(embeddings: Embeddings) -> list[Path]:
    """Writes ``<modality>/<split>.faiss``: exact inner-product search over the rows in the order of the shards.

    `faiss.read_index` opens it; FAISS's id n is row n of the shards one after the other. The file is what FAISS itself
    writes for an IndexFlatIP, but streamed: FAISS would hold every vector in memory first.

    Raises:
        SetClipError: FAISS is not installed, or writes another format than this.
    """
    written = []
    for modality in embeddings.modalities():
        for split in sorted({shard.split for shard in embeddings.shards(modality)}):
            path = index_path(embeddings.root, modality, split)
            _write_flat(embeddings, modality, split, path)
            written.append(path)
    return written


def _write_flat(embeddings: Embeddings, modality: Modality, split: str, path: Path) -> None:
    shards, dim = embeddings.shards(modality, split), embeddings.index.dim
    rows = sum(shard.rows for shard in shards)
    with atomic.atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(_flat_header(rows, dim))
        for values in (block for shard in shards for block in embeddings.blocks(shard)):
            values.tofile(file)


def _flat_header(rows: int, dim: int) -> bytes:
    """The bytes before the vectors: an empty index's own, with the two counts put in.

    Type (4 bytes), dim (int32), rows (int64), two unused int64, trained (1 byte), metric (int32), numbers (uint64).
    """
    faiss = require_faiss()
    empty = bytearray(np.asarray(faiss.serialize_index(faiss.IndexFlatIP(dim))).tobytes())
    if len(empty) != 45 or struct.unpack_from("<iq", empty, 4) != (dim, 0):
        raise SetClipError(
            f"--faiss: FAISS {faiss.__version__} writes flat indexes in a form this version does not know",
            fix="pip install 'faiss-cpu<2', or read the Parquet shards into FAISS yourself",
        )
    struct.pack_into("<q", empty, 8, rows)
    struct.pack_into("<Q", empty, 37, rows * dim)
    return bytes(empty)

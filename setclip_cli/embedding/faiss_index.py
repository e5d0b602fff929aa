"""A FAISS index of each modality and split."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from setclip_cli.errors import UsageError, argument
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
        raise UsageError(f"{argument('faiss')}: FAISS is not installed", fix="pip install 'setclip[search]'") from error


def index_path(root: Path, modality: Modality, split: str) -> Path:
    return root / modality / f"{split}.faiss"


def write_faiss(embeddings: Embeddings) -> dict[str, str]:
    """Writes ``<modality>/<split>.faiss``: exact search by inner product, over the rows in the order of the shards.

    `faiss.read_index` opens it; FAISS's id n is row n of the shards one after the other. FAISS holds the vectors of one
    modality and split in memory at a time: 4 bytes for each value, also of int8, for which FAISS has no such index.
    Rows of ubinary are compared by the bits that differ, and `faiss.read_index_binary` opens their index.

    Returns:
        Path of each index in the folder -> its sha256, for embeddings.json.

    Raises:
        SetClipError: FAISS is not installed.
    """
    faiss = require_faiss()
    written: dict[str, str] = {}
    for modality in embeddings.modalities():
        for split in sorted({shard.split for shard in embeddings.shards(modality)}):
            bits = embeddings.index.dtype == "ubinary"
            width = -(-embeddings.index.dim // 8) if bits else embeddings.index.dim * 4  # bytes
            index = faiss.IndexBinaryFlat(8 * width) if bits else faiss.IndexFlatIP(embeddings.index.dim)
            for shard in embeddings.shards(modality, split):
                for values in embeddings.stored_blocks(shard) if bits else embeddings.blocks(shard):
                    index.add(values)
            path = index_path(embeddings.root, modality, split)
            with atomic.atomic_path(path, needs=index.ntotal * width) as temporary:
                (faiss.write_index_binary if bits else faiss.write_index)(index, str(temporary))
            written[path.relative_to(embeddings.root).as_posix()] = atomic.sha256_file(path)
    return written

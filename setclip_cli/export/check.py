"""Whether an exported model gives the embeddings of the RUN, on rows; every export is checked before it is finished."""

from __future__ import annotations

import io
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from setclip_cli.errors import SetClipError, translated

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from setclip_cli.encoders import Encoder
    from setclip_cli.export.towers import Tower

TOLERANCE = 1e-5
ONNX_TOLERANCE = 1e-4


def own_embeddings(tower: Tower, encoder: Encoder, items: list[Any]) -> npt.NDArray[np.float32]:
    """What `setclip embed` gives for these items, with this encoder of the tower."""
    encoded = tower.backbone.encode(items)
    with torch.inference_mode():
        embeddings: npt.NDArray[np.float32] = encoder(encoded.features).numpy()
    return embeddings


def sentence_embeddings(
    folder: Path, towers: Sequence[Tower], rows: Sequence[list[Any]], *, trusted: bool
) -> list[npt.NDArray[np.float32]]:
    """What the exported model gives for the rows of each tower.

    Raises:
        SetClipError: it does not load, or fails on the rows.
    """
    from sentence_transformers import SentenceTransformer

    with (
        _modules_elsewhere(),
        translated(
            folder.parent,
            Exception,
            found="sentence-transformers cannot load what was to be written",
            fix="pip install -U sentence-transformers transformers timm, and export again",
        ),
    ):
        model = SentenceTransformer(str(folder), device="cpu", trust_remote_code=trusted, local_files_only=True)
        return [_encoded(model, tower, items) for tower, items in zip(towers, rows, strict=True)]


@contextmanager
def _modules_elsewhere() -> Iterator[None]:
    """transformers copies the module files of a model before it runs them; those of a check go to no cache."""
    from transformers import dynamic_module_utils

    library: Any = dynamic_module_utils
    before = library.HF_MODULES_CACHE
    with tempfile.TemporaryDirectory() as folder:
        library.HF_MODULES_CACHE = folder
        try:
            yield
        finally:
            library.HF_MODULES_CACHE = before
            sys.path[:] = [place for place in sys.path if place != folder]


def _encoded(model: Any, tower: Tower, items: list[Any]) -> npt.NDArray[np.float32]:
    kind = tower.backbone.kind
    if kind == "vector" and not tower_reads_vectors(model, tower):
        with torch.inference_mode():
            made = model[0].sub_modules[tower.modality]({"sentence_embedding": torch.from_numpy(np.stack(items))})
        head: npt.NDArray[np.float32] = made["sentence_embedding"].numpy()
        return head
    given = [_opened(item, tower) for item in items] if kind == "image" else items
    if kind in ("image", "vector") and not isinstance(given[0], str):
        from PIL import Image

        given = [item if isinstance(item, Image.Image) else {tower.modality: item} for item in given]
    task = None if isinstance(given[0], dict) else tower.modality
    embeddings: npt.NDArray[np.float32] = model.encode(given, task=task, show_progress_bar=False)
    return embeddings


def tower_reads_vectors(model: Any, tower: Tower) -> bool:
    """Whether the model has an input module of vectors; the plain form has heads alone."""
    return hasattr(model[0].sub_modules[tower.modality][0], "preprocess")


def _opened(content: bytes, tower: Tower) -> Any:
    if getattr(tower.backbone, "bands", None) is not None:
        return content
    from PIL import Image

    return Image.open(io.BytesIO(content))


def require_equal(
    what: str, wanted: npt.NDArray[np.float32], found: npt.NDArray[np.float32], tolerance: float
) -> float:
    """The largest difference.

    Raises:
        SetClipError: it is above the tolerance.
    """
    difference = float(np.abs(wanted - found).max()) if wanted.shape == found.shape and wanted.size else float("inf")
    if not difference <= tolerance:
        raise SetClipError(
            f"{what}: the exported model differs from the RUN by {difference:.1e}, more than {tolerance:.0e}, so it "
            "was not written",
            fix="pip install -U sentence-transformers transformers timm, and export again; if it stays, please "
            "report it with the RUN's config.json",
        )
    return difference

"""What the tests of vectors share: reading a file as ingest does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.vectors import open_vectors
from setclip_cli.ingest.sources.vectors.ids import IdFile
from setclip_cli.ingest.sources.vectors.source import VectorSource


def source_of(path: Path, *, ids: Path | None = None, scale: float | None = None, **options: Any) -> VectorSource:
    file = open_vectors(path, modality="audio", scale=scale, **options)
    return VectorSource(file, modality="audio", ids=IdFile(ids) if ids else None, scale=scale)


def read(path: Path, *, start: int = 0, **options: Any) -> list[Record | Reject]:
    source = source_of(path, **options)
    return [rows.one(place) for rows in source.rows(start) for place in range(len(rows))]


def matrix(path: Path, **options: Any) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Ids and values of all rows, none of which is a reject."""
    source = source_of(path, **options)
    parts = list(source.rows())
    assert not any(part.reasons for part in parts), parts[0].reasons
    return [each for part in parts for each in part.ids], np.concatenate([part.values for part in parts])


def rejects(found: list[Record | Reject]) -> dict[str, str]:
    return {each.location: each.reason for each in found if isinstance(each, Reject)}


def ids(found: list[Record | Reject]) -> list[str]:
    return [each.id for each in found if isinstance(each, Record)]


def error_of(path: Path, **options: Any) -> str:
    """The message of a file that cannot be read; it names the file and has a fix."""
    with pytest.raises(SetClipError) as raised:
        read(path, **options)
    assert str(path) in str(raised.value)
    assert raised.value.fix
    return str(raised.value)


def noise(rows: int = 7, width: int = 5, dtype: str = "float32", seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(dtype)

"""`Aligned.report`: the report of `setclip evaluate` about arrays, with the RUN and the DATASET that it is about."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from setclip_cli.arrays.matrix import Matrix
from setclip_cli.arrays.pairs import rows_of_pairs
from setclip_cli.arrays.save import save_run
from setclip_cli.arrays.score import classes_of, require_answers
from setclip_cli.dataset.dataset import INDEX_NAME, PAIRS_NAME, DatasetIndex, open_dataset, write_shard
from setclip_cli.dataset.schemas import PAIRS_SCHEMA, ModalityInfo, schema_of
from setclip_cli.errors import UsageError, argument
from setclip_cli.evaluation.evaluate import evaluate
from setclip_cli.evaluation.options import EvaluateOptions
from setclip_cli.files import atomic
from setclip_cli.files.documents import write_document
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.files.lock import exclusive
from setclip_cli.options import path_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from setclip_cli.arrays.matrix import MatrixLike
    from setclip_cli.arrays.pairs import PairsLike
    from setclip_cli.arrays.sides import FittedSides
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.evaluation.report import Report

_SPLIT = "test"
_RUN, _DATASET, _REPORT = "run", "dataset", "report"


def write_report(
    aligned: FittedSides,
    out: Path | str,
    x: MatrixLike,
    y: MatrixLike,
    pairs: PairsLike,
    labels: tuple[Sequence[object], Sequence[object]] | None,
) -> Report:
    """Writes ``out``/run, ``out``/dataset and ``out``/report.

    Raises:
        SetClipError: as `Aligned.report` says.
    """
    out = path_of(out, "out")
    sides = Matrix(x, "x"), Matrix(y, "y")
    for place, side in enumerate(sides):
        aligned.require_width(place, side)
    known = rows_of_pairs(pairs, *map(len, sides))
    require_answers("report", known, labels)
    refuse_foreign(out, "a folder of such a report", [_RUN])
    run = save_run(aligned, out / _RUN, (None, None))
    with exclusive(out / _DATASET):
        _write_dataset(out / _DATASET, aligned.names, sides, known, classes_of(labels, *map(len, sides)))
    options = EvaluateOptions(split=_SPLIT, relevance="pairs" if len(known) else "label", baselines=())
    return evaluate(run, out / _DATASET, out / _REPORT, options)


def _write_dataset(
    root: Path,
    names: tuple[str, str],
    sides: tuple[Matrix, Matrix],
    known: Tensor,
    classes: tuple[Sequence[str | None], Sequence[str | None]],
) -> None:
    """The rows as a DATASET of vectors. The id of a row is its number.

    Raises:
        SetClipError: the folder holds other rows.
    """
    source = {"arrays": _sha256(sides, known, classes)}
    if (root / INDEX_NAME).exists() and open_dataset(root).index.sources != [source]:
        raise UsageError(f"{root}: holds other rows", fix=f"choose another {argument('out')}, or remove it yourself")
    about: dict[Modality, ModalityInfo] = {}
    shards = []
    digests: dict[Literal["pairs.parquet", "rejects.parquet"], str] = {}
    for name, side, of in zip(names, sides, classes, strict=True):
        about[name] = ModalityInfo(kind="vector", width=side.width, dtype="float32")
        for number, (start, block) in enumerate(side.blocks()):
            table = _table(block, start, of, schema_of("vector", about[name]))
            path = f"{name}/{_SPLIT}-{number:05}.parquet"
            shards.append(write_shard(root, path, table, modality=name, split=_SPLIT))
    if len(known):
        rows = [(names[0], str(row), names[1], str(other), _SPLIT) for row, other in known.tolist()]
        columns = dict(zip(PAIRS_SCHEMA.names, map(list, zip(*rows, strict=True)), strict=True))
        with atomic.atomic_path(root / PAIRS_NAME) as temporary:
            pq.write_table(pa.table(columns, schema=PAIRS_SCHEMA), temporary)
        digests[PAIRS_NAME] = atomic.sha256_file(root / PAIRS_NAME)
    index = DatasetIndex(shards=shards, sources=[source], files=digests, modalities=about)
    write_document(root / INDEX_NAME, index.as_json())


def _sha256(
    sides: tuple[Matrix, Matrix], known: Tensor, classes: tuple[Sequence[str | None], Sequence[str | None]]
) -> str:
    """Of the rows, the pairs and the labels."""
    digest = hashlib.sha256(repr((known.tolist(), classes)).encode())
    for side in sides:
        digest.update(f"{len(side)} {side.width}".encode())
        for _, block in side.blocks():
            digest.update(block.numpy().data)
    return digest.hexdigest()


def _table(block: Tensor, start: int, labels: Sequence[str | None], schema: pa.Schema) -> pa.Table:
    rows = block.numpy()
    numbers = range(start, start + len(rows))
    return pa.table(
        {
            "id": [str(row) for row in numbers],
            "split": [_SPLIT] * len(rows),
            "source": ["arrays"] * len(rows),
            "sha256": [hashlib.sha256(row.tobytes()).hexdigest() for row in rows],
            "label": [labels[row] for row in numbers],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1]),
            "group": [None] * len(rows),
        },
        schema=schema,
    )

"""croissant.json is what the reference implementation takes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from setclip_cli.cli.app import app
from setclip_cli.dataset.croissant import write_croissant
from setclip_cli.dataset.dataset import INDEX_NAME, DatasetIndex, write_shard
from setclip_cli.dataset.schemas import ModalityInfo, schema_of
from setclip_cli.files import atomic


@pytest.mark.filterwarnings("ignore")  # mlcroissant's own dependencies warn at import
def test_the_reference_implementation_validates_it_and_reads_the_rows(tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    (tmp_path / "a.fasta").write_text(">p1 first\nMKV\n>p2\nGG\n")
    (tmp_path / "c.jsonl").write_text('{"id": "c1", "text": "words", "group": "p1"}\n')
    out = tmp_path / "dataset"
    for name, modality in (("a.fasta", "protein"), ("c.jsonl", "caption")):
        arguments = ["ingest", str(tmp_path / name), "--modality", modality, "--out", str(out), "--croissant"]
        assert CliRunner().invoke(app, arguments).exit_code == 0
    written = out / "croissant.json"
    described = json.loads(written.read_text())
    assert [entry["@id"] for entry in described["recordSet"]] == ["protein", "caption"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = mlcroissant.Dataset(jsonld=str(written))
        assert not dataset.metadata.issues.errors
        rows = list(dataset.records(record_set="protein"))
    assert [row["protein/sequence"] for row in rows] == [b"MKV", b"GG"]


@pytest.mark.filterwarnings("ignore")
def test_it_takes_names_of_the_users_own_and_reads_vectors(tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    info = ModalityInfo(kind="vector", width=3, dtype="float32", encoder="some-encoder")
    values = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], pa.float32()), 3)
    columns = [["a", "b"], ["train"] * 2, ["made"] * 2, ["0" * 64] * 2, [None] * 2, values, [None] * 2]
    schema = schema_of("vector", info)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=schema)
    shard = write_shard(tmp_path, "audio/train-00000.parquet", table, modality="audio", split="train")
    atomic.write_json(tmp_path / INDEX_NAME, DatasetIndex(shards=[shard], modalities={"audio": info}).as_json())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = mlcroissant.Dataset(jsonld=str(write_croissant(tmp_path)))
        assert not dataset.metadata.issues.errors
        rows = list(dataset.records(record_set="audio"))
    assert [list(row["audio/vector"]) for row in rows] == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]

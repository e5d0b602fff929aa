"""croissant.json is what the reference implementation takes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from setclip_cli.cli.app import app


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

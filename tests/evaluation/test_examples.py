"""What a reader sees of a row, and how numbers are written."""

from __future__ import annotations

import pyarrow as pa

from setclip_cli.dataset.dataset import INDEX_NAME, DatasetIndex, open_dataset, write_shard
from setclip_cli.dataset.schemas import schema_of
from setclip_cli.evaluation import examples
from setclip_cli.evaluation.evaluation_set import Side
from setclip_cli.evaluation.formatting import format_interval, format_metric
from setclip_cli.files import atomic


def test_a_protein_shows_its_name_its_length_and_its_first_residues(tmp_path):
    header = "Probable kinase (EC 2.7.1.-) OS=Treponema pallidum GN=pgk PE=3 SV=1"
    rows = [("P12345", "MKV" * 40, header), ("P2", "MKV", None)]
    records = [
        {"id": name, "split": "test", "source": "s", "sha256": name, "label": None, "sequence": residues,
         "length": len(residues), "description": described}
        for name, residues, described in rows
    ]  # fmt: skip
    table = pa.Table.from_pylist(records, schema=schema_of("protein"))
    shard = write_shard(tmp_path, "protein/test-00000.parquet", table, modality="protein", split="test")
    atomic.write_json(tmp_path / INDEX_NAME, DatasetIndex(shards=[shard]).model_dump())
    side = Side("protein", "protein", ["P12345", "P2"], [None, None], ["P12345", "P2"], ["a", "b"])
    shown = examples.displayed_rows(open_dataset(tmp_path), side, "test", {0, 1})
    assert (shown[0]["text"], shown[0]["facts"]) == (
        "Probable kinase (EC 2.7.1.-)",
        "Treponema pallidum · 120 residues",
    )
    assert shown[0]["residues"] == "MKV" * 10 + "…"
    assert (shown[0]["page"], shown[1]["page"]) == ("https://www.uniprot.org/uniprotkb/P12345", "")
    assert (shown[1]["text"], shown[1]["facts"], shown[1]["residues"]) == ("", "3 residues", "MKV")


def test_a_negative_number_has_a_minus_sign_and_its_interval_says_to():
    assert format_metric(-0.0441, "zero_shot/top1", signed=True) == "−4.4%"
    assert format_metric(12.25, "image_to_caption/median_rank") == "12.2"
    assert format_interval((-0.1, 0.2), "geometry/uniformity_left") == "−0.100 to 0.200"
    assert format_interval((0.625, 0.875), "zero_shot/top1") == "62.5–87.5%"

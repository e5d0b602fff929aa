"""Claims about EMBEDDINGS files: every reader finds the same rows; NaN, full disks and foreign folders do no harm."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from setclip_cli.embedding.codes import BitCode, encode, unit
from setclip_cli.embedding.embeddings import (
    EmbeddedShard,
    EmbeddedTower,
    EmbeddingSettings,
    EmbeddingsIndex,
    StoredBitCode,
    open_embeddings,
)
from setclip_cli.embedding.writing import finished_shards, record_finished, write_embedding_shard, write_index
from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic

SETTINGS = EmbeddingSettings(model="m" * 64, method="clip", dim=3)
IDS = ["a", "b", "c", "d"]
LABELS = ["x", None, "y", "x"]
VALUES = np.arange(12, dtype=np.float32).reshape(4, 3) / 7
CODE = BitCode.fit(unit(VALUES))
BITS = StoredBitCode(centre=CODE.centre.tolist(), spread=CODE.spread, rows=4)


def make(root: Path, *, settings: EmbeddingSettings = SETTINGS, shards: int = 2) -> EmbeddingsIndex:
    """Writes the four rows in ``shards`` shards, and the index."""
    entries = []
    for number, rows in enumerate(np.array_split(np.arange(4), shards)):
        relative = f"caption/test-{number:05}.parquet"
        size, sha256 = write_embedding_shard(
            root,
            relative,
            ids=[IDS[row] for row in rows],
            embeddings=VALUES[rows],
            labels=[LABELS[row] for row in rows],
            dtype=settings.dtype,
            code=CODE,
        )
        entries.append(
            EmbeddedShard(
                path=relative,
                modality="caption",
                split="test",
                rows=len(rows),
                bytes=size,
                sha256=sha256,
                input_sha256="0",
            )
        )
        record_finished(root, settings, entries[-1])
    bits = BITS if settings.dtype == "ubinary" else None
    tower = EmbeddedTower(spec="sentence-transformers:x", pooling="default", identity="i", bits=bits)
    index = EmbeddingsIndex(**settings.model_dump(), dataset="data", towers={"caption": tower}, shards=entries)
    write_index(root, index)
    return index


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 1e-3)])
def test_what_is_written_is_what_is_loaded(tmp_path: Path, dtype: str, tolerance: float) -> None:
    make(tmp_path, settings=SETTINGS.model_copy(update={"dtype": dtype}))
    table = open_embeddings(tmp_path).load("caption", "test")
    assert (table.ids, table.labels, table.embeddings.dtype) == (IDS, LABELS, np.float32)
    np.testing.assert_allclose(table.embeddings, VALUES, atol=tolerance)
    schema = pq.read_schema(tmp_path / "caption" / "test-00000.parquet")
    assert str(schema.field("embedding").type).startswith("fixed_size_list<element: ")
    assert schema.field("embedding").type.list_size == 3


SMALL = [pytest.param("int8", "int8", 3, id="int8"), pytest.param("ubinary", "uint8", 1, id="ubinary")]


def small(dtype: str) -> EmbeddingSettings:
    return SETTINGS.model_copy(update={"dtype": dtype})


@pytest.mark.parametrize(("dtype", "column", "width"), SMALL)
def test_a_small_type_is_loaded_as_the_unit_rows_that_it_stands_for(
    tmp_path: Path, dtype: str, column: str, width: int
) -> None:
    make(tmp_path, settings=small(dtype))
    found = open_embeddings(tmp_path)
    table = found.load("caption", "test")
    assert (table.ids, table.labels, table.embeddings.dtype) == (IDS, LABELS, np.float32)
    np.testing.assert_allclose(np.linalg.norm(table.embeddings, axis=1), 1, atol=1e-6)
    blocks = [block for shard in found.shards("caption") for block in found.blocks(shard)]
    np.testing.assert_array_equal(np.concatenate(blocks), table.embeddings)
    if dtype == "int8":
        np.testing.assert_allclose(table.embeddings, unit(VALUES), atol=0.006)
    schema = pq.read_schema(tmp_path / "caption" / "test-00000.parquet")
    assert str(schema.field("embedding").type) == f"fixed_size_list<element: {column}>[{width}]"


def test_bits_without_their_code_or_with_one_of_another_width_are_refused(tmp_path: Path) -> None:
    index = make(tmp_path, settings=small("ubinary")).model_dump()
    for bits in (None, {"centre": [0.0, 0.0], "spread": 1.0, "rows": 4}):
        index["towers"]["caption"]["bits"] = bits
        with pytest.raises(ValueError, match=r"towers\.caption\.bits: does not fit ubinary rows of 3 values"):
            EmbeddingsIndex.model_validate(index)


def test_nothing_of_the_run_stays_beside_the_index(tmp_path: Path) -> None:
    make(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["caption", "embeddings.json"]


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    assert make(tmp_path / "a").model_dump() == make(tmp_path / "b").model_dump()


def test_pandas_reads_it(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    make(tmp_path)
    frame = pandas.read_parquet(sorted((tmp_path / "caption").iterdir())[0])
    assert frame["id"].tolist() == ["a", "b"]
    np.testing.assert_array_equal(np.stack(frame["embedding"].to_list()), VALUES[:2])


def test_polars_reads_it(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    make(tmp_path)
    frame = polars.read_parquet(tmp_path / "caption" / "*.parquet")
    assert frame.schema["embedding"] == polars.Array(polars.Float32, 3)
    np.testing.assert_array_equal(frame["embedding"].to_numpy(), VALUES)
    assert frame["label"].to_list() == LABELS


def test_duckdb_reads_it(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    make(tmp_path)
    rows = duckdb.sql(
        f"select id, embedding from '{tmp_path}/caption/*.parquet' where label = 'x' order by id"
    ).fetchall()
    assert [row[0] for row in rows] == ["a", "d"]
    np.testing.assert_array_equal(np.array([row[1] for row in rows], dtype=np.float32), VALUES[[0, 3]])


def test_lancedb_takes_it_and_finds_the_nearest(tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    make(tmp_path / "e", shards=1)
    rows = pq.read_table(tmp_path / "e" / "caption" / "test-00000.parquet")
    table = lancedb.connect(tmp_path / "db").create_table("rows", rows)
    assert table.search(VALUES[2], vector_column_name="embedding").limit(1).to_list()[0]["id"] == "c"


@pytest.mark.parametrize(("dtype", "column", "width"), SMALL)
def test_other_programs_read_the_bytes_of_a_small_type(tmp_path: Path, dtype: str, column: str, width: int) -> None:
    pandas, polars, duckdb = (pytest.importorskip(name) for name in ("pandas", "polars", "duckdb"))
    make(tmp_path, settings=small(dtype))
    expected = encode(VALUES, dtype, CODE)  # type: ignore[arg-type]
    frame = polars.read_parquet(tmp_path / "caption" / "*.parquet")
    assert frame.schema["embedding"] == polars.Array(polars.Int8 if dtype == "int8" else polars.UInt8, width)
    np.testing.assert_array_equal(frame["embedding"].to_numpy(), expected)
    rows = duckdb.sql(f"select embedding from '{tmp_path}/caption/*.parquet' order by id").fetchall()
    np.testing.assert_array_equal(np.array([row[0] for row in rows]), expected)
    first = pandas.read_parquet(tmp_path / "caption" / "test-00000.parquet")
    np.testing.assert_array_equal(np.stack(first["embedding"].to_list()), expected[:2])


@pytest.mark.parametrize("dtype", ["int8", "ubinary"])
def test_lancedb_takes_a_small_type_and_finds_the_nearest_bits(tmp_path: Path, dtype: str) -> None:
    lancedb = pytest.importorskip("lancedb")
    make(tmp_path / "e", settings=small(dtype), shards=1)
    rows = pq.read_table(tmp_path / "e" / "caption" / "test-00000.parquet")
    table = lancedb.connect(tmp_path / "db").create_table("rows", rows)
    expected = encode(VALUES, dtype, CODE)  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.array(table.to_arrow()["embedding"].to_pylist()), expected)
    if dtype == "ubinary":  # of int8 its search takes no query
        found = table.search(expected[0], "embedding").distance_type("hamming").limit(1).to_list()
        np.testing.assert_array_equal(found[0]["embedding"], expected[0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_never_written(tmp_path: Path, value: float) -> None:
    bad = VALUES.copy()
    bad[2, 1] = value
    with pytest.raises(ValueError, match="finite"):
        write_embedding_shard(tmp_path, "caption/x.parquet", ids=IDS, embeddings=bad, labels=LABELS)
    with pytest.raises(ValueError, match="finite"), np.errstate(over="ignore"):
        write_embedding_shard(tmp_path, "x.parquet", ids=IDS, embeddings=VALUES * 1e5, labels=LABELS, dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_message_and_leaves_no_half_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_table: object, where: Path, **_: object) -> None:
        Path(where).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(SetClipError, match=r"x\.parquet: the disk is full"):
        write_embedding_shard(tmp_path, "caption/x.parquet", ids=IDS, embeddings=VALUES, labels=LABELS)
    assert list((tmp_path / "caption").iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"model": "n" * 64}, "another model"), ({"dtype": "float16"}, "another dtype"), ({"dim": 4}, "another dim")],
)
def test_other_settings_is_refused_finished_or_not(tmp_path: Path, changed: dict[str, object], words: str) -> None:
    shard = make(tmp_path / "finished").shards[0]
    record_finished(tmp_path / "killed", SETTINGS, shard)
    for folder in ("finished", "killed"):
        with pytest.raises(SetClipError, match=words):
            finished_shards(tmp_path / folder, SETTINGS.model_copy(update=changed))


def test_opening_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(SetClipError, match=r"is not an EMBEDDINGS folder \(it has no embeddings\.json\)"):
        open_embeddings(tmp_path)
    index = make(tmp_path)
    embeddings = open_embeddings(tmp_path)
    with pytest.raises(SetClipError, match="holds no image embeddings, only caption"):
        embeddings.load("image", "test")
    with pytest.raises(SetClipError, match="did you mean 'test'"):
        embeddings.load("caption", "tset")
    (tmp_path / index.shards[1].path).unlink()
    with pytest.raises(SetClipError, match=r"test-00001\.parquet: is missing"):
        embeddings.load("caption", "test")
    atomic.write_json(tmp_path / "embeddings.json", {"schema_version": 2})
    with pytest.raises(SetClipError, match=r"embeddings\.json: "):
        open_embeddings(tmp_path)

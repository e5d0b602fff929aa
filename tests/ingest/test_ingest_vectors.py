"""Vectors from a file to a DATASET: rows, rejects, repeats, splits, pairs, a second run, and a run that was killed."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import h5py
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from setclip_cli.dataset.dataset import Dataset, open_dataset
from setclip_cli.dataset.verify import verify
from setclip_cli.embedding.writing import write_embedding_shard
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.ingest import batches
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.ingest.sources.vectors import blocks

AUDIO = IngestOptions(modality="audio", kind="vector")
FIXTURES = Path(__file__).parents[1] / "fixtures"
SPLIT = "train=0.7,test=0.3"
INGEST = (
    "import sys\n"
    "from setclip_cli.ingest.ingest import ingest\n"
    "from setclip_cli.ingest.options import IngestOptions\n"
    "from setclip_cli.ingest.sources.vectors import blocks\n"
    "blocks.BLOCK_BYTES = 900\n"
    "print('ready', flush=True)\n"
    f"options = IngestOptions(modality='audio', kind='vector', split='{SPLIT}')\n"
    "ingest(sys.argv[2:], sys.argv[1], options, shard_rows=50)\n"
)


def noise(rows: int, width: int = 6, seed: int = 0, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(dtype)


def saved(path: Path, array: np.ndarray[Any, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    np.save(path, array)
    return path


def untidy(path: Path, rows: int, seed: int) -> Path:
    """Vectors of which some repeat, and some have no direction."""
    array = noise(rows, seed=seed)
    array[::17] = array[3]
    array[5::31] = 0
    array[7::29, 2] = np.nan
    return saved(path, array)


def rows_of(dataset: Dataset, modality: str = "audio") -> dict[str, list[float]]:
    table = dataset.table(modality)
    return dict(zip(table["id"].to_pylist(), table["vector"].to_pylist(), strict=True))


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_matrix_becomes_rows_and_what_has_no_direction_is_listed(tmp_path: Path) -> None:
    array = noise(6)
    array[1], array[2, 0], array[4] = 0, np.inf, array[3]
    result = ingest(saved(tmp_path / "x.npy", array), tmp_path / "data", AUDIO)
    dataset = open_dataset(tmp_path / "data")
    assert rows_of(dataset) == {f"x.npy:{row}": array[row].tolist() for row in (0, 3, 5)}
    assert pq.read_table(tmp_path / "data/rejects.parquet").to_pylist() == [
        {"source": "x.npy", "location": "row 1", "reason": "its vector is zero"},
        {"source": "x.npy", "location": "row 2", "reason": "its vector is not finite"},
        {"source": "x.npy", "location": "x.npy:4", "reason": "duplicate of a record already taken"},
    ]
    about = dataset.about("audio")
    assert (about.kind, about.width, about.dtype, about.encoder) == ("vector", 6, "float32", None)
    norms = np.linalg.norm(array[[0, 3, 5]], axis=1)
    assert result.new[0]["vectors"]["norm"]["min"] == pytest.approx(norms.min())
    assert result.new[0]["vectors"]["norm"]["max"] == pytest.approx(norms.max())
    assert result.new[0]["vectors"]["norm"]["median"] == pytest.approx(np.median(norms), rel=0.01)
    assert "6 numbers of float32; their lengths (norms) are" in result.summary()
    verify(tmp_path / "data")
    again = ingest(tmp_path / "x.npy", tmp_path / "data", AUDIO)
    assert (len(again.new), len(again.unchanged)) == (0, 1)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_other_programs_read_the_shards(tmp_path: Path, dtype: str) -> None:
    array = noise(300, 8, dtype=dtype)
    options = IngestOptions(modality="audio", kind="vector", split=SPLIT)
    ingest(saved(tmp_path / "x.npy", array), tmp_path / "data", options, shard_rows=200)
    files = f"{tmp_path}/data/audio/*.parquet"
    frame = pl.read_parquet(files).sort(pl.col("id").str.split(":").list.last().cast(pl.Int32))
    np.testing.assert_array_equal(frame["vector"].to_numpy(), array)
    assert frame["sha256"].to_list() == [hashlib.sha256(row.tobytes()).hexdigest() for row in array]
    found = duckdb.sql(f"SELECT id, vector FROM '{files}' ORDER BY split_part(id, ':', 2)::INT").fetchall()
    assert [each[0] for each in found] == [f"x.npy:{row}" for row in range(300)]
    np.testing.assert_array_equal(np.array([each[1] for each in found], dtype), array)
    schema = pq.read_schema(tmp_path / "data/audio/train-00000.parquet")
    assert (
        str(schema.field("vector").type) == f"fixed_size_list<element: {'half' if dtype == 'float16' else ''}float>[8]"
    )


def test_the_file_of_each_protein_goes_with_the_captions_of_its_proteins(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "per-protein.h5", "w") as file:
        for name, vector in zip(("P1", "P2", "P3"), noise(3, 16, dtype="float16"), strict=True):
            file.create_dataset(name, data=vector)
    (tmp_path / "text.csv").write_text("text,group\nbinds iron,P1\ncuts sugar,P3\n")
    ingest(tmp_path / "per-protein.h5", tmp_path / "data", IngestOptions(modality="prott5", kind="vector"))
    result = ingest(tmp_path / "text.csv", tmp_path / "data", IngestOptions(modality="caption", pairs_from_group=True))
    assert result.pairs == 2
    pairs = {frozenset([pair.left_id, pair.right_id]) for pair in open_dataset(tmp_path / "data").pairs()}
    assert pairs == {frozenset(["P1", "P1#0"]), frozenset(["P3", "P3#0"])}


def test_ids_bring_groups_labels_and_splits(tmp_path: Path) -> None:
    (tmp_path / "ids.csv").write_text("id,group,label,split\na,g,1,train\nb,g,2,test\nc,h,1,train\n")
    options = IngestOptions(modality="audio", kind="vector", ids=tmp_path / "ids.csv")
    ingest(saved(tmp_path / "x.npy", noise(3)), tmp_path / "data", options)
    table = open_dataset(tmp_path / "data").table("audio").select(["id", "split", "label", "group"])
    assert sorted(tuple(row.values()) for row in table.to_pylist()) == [
        ("a", "train", "1", "g"),
        ("b", "test", "2", "g"),
        ("c", "train", "1", "h"),
    ]
    ingest(tmp_path / "x.npy", tmp_path / "data", options)
    (tmp_path / "ids.csv").write_text("id,group,label,split\na,g,1,train\nb,g,2,test\nd,h,1,train\n")
    result = ingest(tmp_path / "x.npy", tmp_path / "data", options)
    assert set(rows_of(open_dataset(tmp_path / "data"))) == {"a", "b", "d"}
    assert len(result.new) == 1


def test_one_id_twice_is_a_reject_and_too_many_of_them_are_an_error(tmp_path: Path) -> None:
    source = saved(tmp_path / "x.npy", noise(4))
    (tmp_path / "ids.txt").write_text("a\nb\nb\nc\n")
    options = IngestOptions(modality="audio", kind="vector", ids=tmp_path / "ids.txt")
    result = ingest(source, tmp_path / "data", options)
    assert result.new[0]["rejects"] == {"id already taken by a different record": 1}
    (tmp_path / "ids.txt").write_text("a\na\na\na\n")
    with pytest.raises(SetClipError, match="'a' is the id of other content already"):
        ingest(source, tmp_path / "other", options)


def test_labels_are_found_by_the_ids_of_vectors(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,label\nx.npy:0,cat\nx.npy:2,dog\n")
    options = IngestOptions(modality="audio", kind="vector", labels=tmp_path / "labels.csv")
    ingest(saved(tmp_path / "x.npy", noise(3)), tmp_path / "data", options)
    table = open_dataset(tmp_path / "data").table("audio")
    labels = dict(zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True))
    assert labels == {"x.npy:0": "cat", "x.npy:1": None, "x.npy:2": "dog"}


def test_two_files_of_one_name_in_folders_of_splits(tmp_path: Path) -> None:
    sources = [saved(tmp_path / split / "x.npy", noise(40, seed=seed)) for seed, split in enumerate(["train", "test"])]
    result = ingest(sources, tmp_path / "data", AUDIO)
    assert result.rows == {"audio": {"train": 40, "test": 40}}
    table = open_dataset(tmp_path / "data").table("audio", "test").to_pylist()
    assert {row["id"] for row in table} == {f"test/x.npy:{row}" for row in range(40)}
    assert {row["id_in_source"] for row in table} == {f"x.npy:{row}" for row in range(40)}
    assert result.new[1]["repairs"]["id made longer, because another row has it"] == 40


def test_rows_that_do_not_fit_those_of_the_dataset_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ingest(saved(tmp_path / "x.npy", noise(3)), data, IngestOptions(modality="audio", kind="vector", encoder="one"))
    with pytest.raises(SetClipError, match=r"wide\.npy: its rows have width = 7, .* have 6"):
        ingest(saved(tmp_path / "wide.npy", noise(3, 7)), data, AUDIO)
    with pytest.raises(SetClipError, match=r"half\.npy.*float16.*float32\n.*array.astype\('float32'\)"):
        ingest(saved(tmp_path / "half.npy", noise(3, dtype="float16")), data, AUDIO)
    with pytest.raises(SetClipError, match=r"encoder = two.*one\n"):
        ingest(
            saved(tmp_path / "y.npy", noise(3, seed=1)),
            data,
            IngestOptions(modality="audio", kind="vector", encoder="two"),
        )
    ingest(tmp_path / "y.npy", data, AUDIO)  # an encoder that is not stated is that of the rows before
    assert open_dataset(data).about("audio").encoder == "one"
    assert len(rows_of(open_dataset(data))) == 6


def test_options_of_vectors_are_for_vectors_and_ids_are_for_one_source(tmp_path: Path) -> None:
    sources = [saved(tmp_path / f"{n}.npy", noise(3, seed=n)) for n in range(2)]
    (tmp_path / "ids.txt").write_text("a\nb\nc\n")
    with pytest.raises(UsageError, match="is for one SOURCE, and there are 2"):
        ingest(sources, tmp_path / "data", IngestOptions(modality="a", kind="vector", ids=tmp_path / "ids.txt"))
    for option in ({"scale": 2.0}, {"average": True}, {"encoder": "x"}, {"vector_column": "x"}):
        with pytest.raises(UsageError, match="is for vector rows, and these are image rows"):
            ingest(sources, tmp_path / "data", IngestOptions(modality="image", **option))
    for scale in (0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="is not a number other than 0"):
            IngestOptions(scale=scale)


def test_most_rows_of_another_width_are_an_error_that_says_what_helps(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for number in range(6):
            file[f"P{number}"] = noise(1, 4 if number == 0 else 5, seed=number)[0]
    with pytest.raises(SetClipError, match="5 of 6 records are bad") as raised:
        ingest(tmp_path / "x.h5", tmp_path / "data", AUDIO)
    assert "one width" in str(raised.value)


def test_an_embeddings_folder_is_a_source(tmp_path: Path) -> None:
    folder = FIXTURES / "before_rooms/embeddings"
    index = json.loads((folder / "embeddings.json").read_text())
    result = ingest(
        folder, tmp_path / "data", IngestOptions(modality="image_emb", kind="vector", vector_column="image")
    )
    shards = [shard for shard in index["shards"] if shard["modality"] == "image"]
    expected = pl.concat([pl.read_parquet(folder / shard["path"]) for shard in shards])
    assert rows_of(open_dataset(tmp_path / "data"), "image_emb") == dict(
        zip(expected["id"].to_list(), [row.to_list() for row in expected["embedding"]], strict=True)
    )
    by_split: dict[str, int] = {}
    for shard in shards:
        by_split[shard["split"]] = by_split.get(shard["split"], 0) + shard["rows"]
    assert result.rows["image_emb"] == by_split
    assert open_dataset(tmp_path / "data").about("image_emb").encoder
    with pytest.raises(SetClipError, match="holds embeddings of image, caption"):
        ingest(folder, tmp_path / "other", AUDIO)


def test_an_embeddings_folder_of_int8_is_a_source_of_unit_rows_and_one_of_bits_is_refused(tmp_path: Path) -> None:
    rows = noise(3, 16)
    size, sha256 = write_embedding_shard(
        tmp_path / "e",
        "audio/train-00000.parquet",
        ids=["a", "b", "c"],
        embeddings=rows,
        labels=[None] * 3,
        dtype="int8",
    )
    shard = {"path": "audio/train-00000.parquet", "modality": "audio", "split": "train", "rows": 3}
    index: dict[str, object] = {"model": "m", "method": "features", "dim": 16, "dtype": "int8", "towers": {}}
    index["shards"] = [shard | {"bytes": size, "sha256": sha256}]
    (tmp_path / "e" / "embeddings.json").write_text(json.dumps(index))
    ingest(tmp_path / "e", tmp_path / "data", AUDIO)
    found = rows_of(open_dataset(tmp_path / "data"), "audio")
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose([found[name] for name in "abc"], expected, atol=0.005)
    (tmp_path / "e" / "embeddings.json").write_text(json.dumps(index | {"dtype": "ubinary"}))
    with pytest.raises(SetClipError, match=r"holds ubinary embeddings.*\n.*--dtype int8 or float32"):
        ingest(tmp_path / "e", tmp_path / "other", AUDIO)
    shard = next((tmp_path / "e").rglob("*.parquet"))
    for scale in (None, 1.0):  # its bytes mean nothing without the folder, whatever scale they are given
        with pytest.raises(SetClipError, match="holds ubinary embeddings"):
            ingest(shard, tmp_path / "other", replace(AUDIO, scale=scale))
    (tmp_path / "e" / "embeddings.json").write_text(json.dumps(index | {"dtype": "int8"}))
    with pytest.raises(SetClipError, match="each row has a scale of its own"):
        ingest(shard, tmp_path / "other", AUDIO)


def test_vectors_take_the_split_of_the_captions_that_describe_them(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("a\nb\nc\nd\n")
    rows = [("a", "train"), ("b", "test"), ("c", "train"), ("c", "test")]
    lines = "".join(json.dumps({"text": f"{n}", "group": g, "split": s}) + "\n" for n, (g, s) in enumerate(rows))
    (tmp_path / "text.jsonl").write_text(lines)
    ingest(tmp_path / "text.jsonl", tmp_path / "data", IngestOptions(modality="caption"))
    options = IngestOptions(modality="audio", kind="vector", ids=tmp_path / "ids.txt", split="as-captions")
    result = ingest(saved(tmp_path / "x.npy", noise(4)), tmp_path / "data", options)
    table = open_dataset(tmp_path / "data").table("audio")
    splits = dict(zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True))
    assert splits == {"a": "train", "b": "test", "d": "train"}
    assert result.new[0]["rejects"] == {"its captions are in several splits": 1}


def test_repeats_are_kept_if_asked_and_a_matrix_of_no_rows_is_an_error(tmp_path: Path) -> None:
    array = noise(6)
    array[3:] = array[0]
    options = IngestOptions(modality="audio", kind="vector", keep_duplicates=True)
    result = ingest(saved(tmp_path / "x.npy", array), tmp_path / "data", options)
    assert (result.new[0]["distinct"], result.rows) == (3, {"audio": {"train": 6}})
    with pytest.raises(SetClipError, match="there are no audio records in it"):
        ingest(saved(tmp_path / "none.npy", array[:0]), tmp_path / "other", AUDIO)


def test_a_later_command_knows_the_rows_on_disk(tmp_path: Path) -> None:
    array = noise(8)
    (tmp_path / "ids.csv").write_text("id,group\n" + "".join(f"n{row},g{row % 2}\n" for row in range(8)))
    with_groups = IngestOptions(modality="audio", kind="vector", ids=tmp_path / "ids.csv")
    ingest(saved(tmp_path / "x.npy", array), tmp_path / "data", with_groups)
    (tmp_path / "more.csv").write_text("id,group\nm0,g0\nm1,g0\nn3,g3\nm3,\nm4,g9\n")
    more = IngestOptions(modality="audio", kind="vector", ids=tmp_path / "more.csv")
    rows = [array[0], array[1], noise(1, seed=5)[0], array[2], noise(1, seed=6)[0]]
    result = ingest(saved(tmp_path / "y.npy", np.stack(rows)), tmp_path / "data", more)
    assert result.new[0]["rejects"] == {
        "duplicate of a record already taken": 2,  # m0 is in its group already; m3 has no group
        "id already taken by a different record": 1,  # n3
    }
    assert set(rows_of(open_dataset(tmp_path / "data"))) == {*(f"n{row}" for row in range(8)), "m1", "m4"}


def test_what_describes_a_dataset_to_other_programs_knows_vectors(tmp_path: Path) -> None:
    options = IngestOptions(modality="audio", kind="vector", croissant=True)
    ingest(saved(tmp_path / "x.npy", noise(3)), tmp_path / "data", options)
    assert "vector" in (tmp_path / "data/croissant.json").read_text()


def test_a_batch_ends_at_the_same_row_wherever_the_blocks_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = untidy(tmp_path / "x.npy", 500, 0)
    options = IngestOptions(modality="audio", kind="vector", split=SPLIT)
    found = []
    monkeypatch.setattr(batches, "MAX_BATCH_REJECTS", 9)
    for number, size in enumerate((24, 100, 1000, 1 << 20)):
        monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
        ingest(source, tmp_path / str(number), options, shard_rows=50, shard_bytes=900)
        found.append(contents(tmp_path / str(number)))
    assert found[0] == found[1] == found[2] == found[3]
    assert len(found[0]) > 15


@pytest.mark.parametrize("writes", [1, 2, 5, 9, 14])
def test_stopped_after_any_write_a_second_run_gives_the_bytes_of_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    sources = [untidy(tmp_path / "a.npy", 300, 0), untidy(tmp_path / "b.npy", 200, 1)]
    options = IngestOptions(modality="audio", kind="vector", split=SPLIT)
    ingest(sources, tmp_path / "unbroken", options, shard_rows=50)
    real, written = os.replace, itertools.count()

    def replace(self: Path, target: Path) -> Path:
        if next(written) == writes:
            raise KeyboardInterrupt
        real(self, target)
        return Path(target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            ingest(sources, tmp_path / "out", options, shard_rows=50)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 700)  # the rows after a stop are in other blocks
    ingest(sources, tmp_path / "out", options, shard_rows=50)
    assert contents(tmp_path / "out") == contents(tmp_path / "unbroken")


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_bytes_of_an_unbroken_run(tmp_path: Path) -> None:
    sources = [untidy(tmp_path / "a.npy", 1500, 0), untidy(tmp_path / "b.npy", 900, 1)]
    options = IngestOptions(modality="audio", kind="vector", split=SPLIT)
    started = time.monotonic()
    ingest(sources, tmp_path / "unbroken", options, shard_rows=50)
    unbroken_s = time.monotonic() - started
    generator, killed = random.Random(7), 0
    for moment in itertools.count():
        out = tmp_path / f"killed-{moment}"
        with subprocess.Popen(
            [sys.executable, "-c", INGEST, str(out), *map(str, sources)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(generator.uniform(0, unbroken_s))
            process.send_signal(signal.SIGKILL)
        if process.returncode == -signal.SIGKILL:
            killed += 1
        else:  # it ended first, so the moments are drawn from a shorter time
            assert process.returncode == 0
            unbroken_s *= 0.9
        if (out / "dataset.json").exists():
            verify(out)
        ingest(sources, out, options, shard_rows=50)
        assert contents(out) == contents(tmp_path / "unbroken"), f"moment {moment}"
        if killed == 10:
            break

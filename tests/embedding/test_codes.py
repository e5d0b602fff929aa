"""Claims about int8 and bits: what they stand for, what a search finds with them, and that nothing shifts them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from test_embedder import features, tree

from setclip_cli.dataset.dataset import DatasetIndex, open_dataset
from setclip_cli.embedding import embed as embedder
from setclip_cli.embedding import vectors
from setclip_cli.embedding.codes import BitCode, decode, encode, turned, unit, unturned
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.embedding.options import EmbedOptions
from setclip_cli.embedding.vectors import BitRows, Int8Rows, nearest_rows, open_rows, unit_vectors
from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic

FIRST_TURN = [0.44683972, 0.67312141, 0.52387778, 0.2562013, -0.08458609]


def noise(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


@pytest.mark.parametrize("dim", [1, 3, 8, 100, 256])
def test_a_turn_keeps_lengths_and_angles_is_undone_and_mixes_all_values(dim: int) -> None:
    rows = noise(5, dim)
    np.testing.assert_allclose(turned(rows) @ turned(rows).T, rows.astype(float) @ rows.T, atol=1e-4)
    np.testing.assert_allclose(unturned(turned(rows)), rows, atol=1e-5)
    if dim >= 100:  # one value alone is spread over all of them
        assert np.abs(turned(np.eye(dim, dtype=np.float32))).max() < 6 / np.sqrt(dim)


def test_the_signs_of_the_turn_never_change() -> None:
    """Bits that were written stay readable: these numbers are of the first version."""
    np.testing.assert_allclose(turned(np.eye(5, dtype=np.float32))[0], FIRST_TURN, atol=1e-7)


def test_int8_is_a_hundred_and_twenty_seventh_of_the_largest_value_row_by_row() -> None:
    rows = noise(50, 20) * np.logspace(-6, 6, 50, dtype=np.float32)[:, None]
    stored = encode(rows, "int8")
    for row, codes in zip(rows, stored, strict=True):
        largest = max(abs(float(value)) for value in row)
        assert [round(127 * float(value) / largest) for value in row] == pytest.approx(codes.tolist(), abs=1)
        assert max(abs(int(code)) for code in codes) == 127
    np.testing.assert_array_equal(encode(rows[7:8], "int8"), stored[7:8])  # of no other row


def test_bits_say_the_side_of_the_centre_and_stand_for_the_row_in_its_middle() -> None:
    rows = unit(noise(40, 12) + 1)
    code = BitCode.fit(rows)
    centre = [sum(float(row[at]) for row in rows) / 40 for at in range(12)]
    bits = code.bits(rows)
    assert bits.shape == (40, 2)
    at = turned(np.array(centre, np.float32))
    for row, packed in zip(rows, bits, strict=True):
        sides = [value > middle for value, middle in zip(turned(row), at, strict=True)]
        assert "".join(f"{byte:08b}" for byte in packed)[:12] == "".join("1" if side else "0" for side in sides)
        stands_for = unturned(
            np.array([m + (code.spread if s else -code.spread) for m, s in zip(at, sides, strict=True)])
        )
        stands_for /= np.linalg.norm(stands_for)
        np.testing.assert_allclose(decode(packed[None], "ubinary", code)[0], stands_for, atol=1e-5)
    np.testing.assert_array_equal(code.bits(rows * 7), bits)  # the length means nothing


@pytest.mark.parametrize("dim", [16, 20, 64])
def test_searching_small_rows_finds_what_comparing_the_rows_that_they_stand_for_finds(
    dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ROWS_PER_BLOCK", "INT8_ROWS_PER_BLOCK"):
        monkeypatch.setattr(vectors, name, 64)
    rows, queries = unit(noise(500, dim) + 0.3), unit(noise(10, dim, seed=1))
    code = BitCode.fit(rows)
    for query in queries:
        for small, dtype in ((Int8Rows(encode(rows, "int8")), "int8"), (BitRows(code.bits(rows), code), "ubinary")):
            stands_for = decode(encode(rows, dtype, code), dtype, code)  # type: ignore[arg-type]
            assert small.nearest(query, 1000)[0] != []
            exact = np.concatenate([block for _, block in small.cosines(query)])
            np.testing.assert_allclose(exact, stands_for @ query, atol=1e-5)
            found, scores = small.nearest(query, 7)
            np.testing.assert_allclose(scores, np.sort(stands_for @ query)[::-1][:7], atol=1e-5)
            np.testing.assert_allclose(stands_for[found] @ query, scores, atol=1e-5)


def test_a_long_list_of_bits_is_searched_by_the_bits_alone_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "SHORTLIST", 50)
    monkeypatch.setattr(vectors, "ROWS_PER_BLOCK", 128)
    rows = unit(noise(1000, 128))
    code = BitCode.fit(rows)
    small, query = BitRows(code.bits(rows), code), unit(rows[3:4] + 0.3 * unit(noise(1, 128, seed=2)))[0]
    differ = [bin(int.from_bytes((a ^ code.bits(query[None])[0]).tobytes())).count("1") for a in code.bits(rows)]
    nearest = sorted(differ)[: 2 * 20]
    shortlist = small._shortlist(query, 40)
    assert [row for row in range(1000) if differ[row] <= nearest[-1]] == shortlist.tolist()
    assert small.nearest(query, 2)[0][0] == 3
    assert small.nearest(query, 400)[0] == nearest_rows(decode(code.bits(rows), "ubinary", code), query, 400)[0]


def test_rows_that_are_all_equal_are_found_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "SHORTLIST", 2)
    rows = unit(np.tile(noise(1, 16), (30, 1)))
    code = BitCode.fit(unit(noise(30, 16, seed=5)))
    for small in (BitRows(code.bits(rows), code), Int8Rows(encode(rows, "int8"))):
        assert small.nearest(rows[0], 3)[0] == [0, 1, 2]


def test_with_a_common_direction_bits_around_the_centre_say_more_than_signs() -> None:
    """What the calibration is for: features of a backbone have a large mean."""
    rows = unit(noise(2000, 64) + 4)
    queries, exact = rows[:50], rows[:50] @ rows.T
    best = [set(np.argsort(-row)[:10]) for row in exact]

    def kept(code: BitCode) -> float:
        found = queries @ decode(code.bits(rows), "ubinary", code).T
        return (
            float(np.mean([len(set(np.argsort(-row)[:10]) & own) for row, own in zip(found, best, strict=True)])) / 10
        )

    assert kept(BitCode.fit(rows)) > 1.2 * kept(BitCode(np.zeros(64, np.float32), 0.1))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny.write_dataset(tmp_path / "data", {"protein": tiny.proteins(30)}, rows_per_shard=4)


@pytest.mark.parametrize("dtype", ["int8", "ubinary"])
def test_a_small_type_is_the_code_of_the_float32_rows_and_takes_its_share_of_the_bytes(
    data: Path, tmp_path: Path, tiny_esm2: Path, dtype: str
) -> None:
    features(data, tmp_path / "whole", tiny_esm2)
    options = EmbedOptions(dtype=dtype)  # type: ignore[arg-type]
    result = features(data, tmp_path / "small", tiny_esm2, options)
    whole, small = (open_embeddings(tmp_path / name) for name in ("whole", "small"))
    code = small.bit_code("protein")
    expected = encode(whole.load("protein").embeddings, dtype, code)  # type: ignore[arg-type]
    stored = np.concatenate([block for shard in small.shards("protein") for block in small.stored_blocks(shard)])
    np.testing.assert_array_equal(stored, expected)
    assert stored.nbytes * (4 if dtype == "int8" else 32) == whole.load("protein").embeddings.nbytes
    assert (result.rows, result.dim, small.index.dim) == (30, 32, 32)
    np.testing.assert_allclose(
        unit_vectors(small, "protein", None, cache_dir=tmp_path / "cache"), small.load("protein").embeddings, atol=1e-6
    )


@pytest.mark.parametrize("dtype", ["int8", "ubinary"])
def test_neither_a_stop_nor_the_number_of_processes_changes_a_byte(
    tmp_path: Path, tiny_esm2: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny.write_dataset(tmp_path / "data", {"protein": tiny.proteins(30)}, rows_per_shard=4)
    options = EmbedOptions(dtype=dtype)  # type: ignore[arg-type]
    features(data, tmp_path / "whole", tiny_esm2, options)
    expected = tree(tmp_path / "whole")
    features(data, tmp_path / "processes", tiny_esm2, replace(options, workers=2))
    assert tree(tmp_path / "processes") == expected

    made: list[object] = []
    bare = embedder.embed_shard

    def stopped(job: object) -> object:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(job)
        return bare(job)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(embedder, "embed_shard", stopped)
        with pytest.raises(KeyboardInterrupt):
            features(data, tmp_path / "stopped", tiny_esm2, options)
    assert not (tmp_path / "stopped" / "embeddings.json").exists()
    assert features(data, tmp_path / "stopped", tiny_esm2, options).kept == 3
    assert tree(tmp_path / "stopped") == expected


def test_split_by_split_gives_the_folder_of_all_splits(tmp_path: Path, tiny_esm2: Path) -> None:
    """The code is measured on rows of all splits, whichever comes first."""
    proteins, shards = tiny.proteins(24), []
    for split, rows in (("train", proteins[:16]), ("test", proteins[16:])):
        tiny.write_dataset(tmp_path / "data", {"protein": rows}, split=split)
        shards += open_dataset(tmp_path / "data").index.shards
    atomic.write_json(tmp_path / "data" / "dataset.json", DatasetIndex(shards=shards).model_dump())
    options = EmbedOptions(dtype="ubinary")
    features(tmp_path / "data", tmp_path / "all", tiny_esm2, options)
    for order in (("train", "test"), ("test", "train")):
        out = tmp_path / "-".join(order)
        for split in order:
            features(tmp_path / "data", out, tiny_esm2, replace(options, split=split))
        assert tree(out) == tree(tmp_path / "all")


def test_a_folder_keeps_its_code_when_the_dataset_grows(tmp_path: Path, tiny_esm2: Path) -> None:
    options = EmbedOptions(dtype="ubinary")
    data = tiny.write_dataset(tmp_path / "data", {"protein": tiny.proteins(12)}, rows_per_shard=4)
    features(data, tmp_path / "out", tiny_esm2, options)
    first = open_embeddings(tmp_path / "out")
    grown = tiny.write_dataset(tmp_path / "grown", {"protein": tiny.proteins(20)}, rows_per_shard=4)
    assert [shard.sha256 for shard in open_dataset(grown).shards("protein")][:3] == [
        shard.input_sha256 for shard in first.shards("protein")
    ]
    result = features(grown, tmp_path / "out", tiny_esm2, options)
    found = open_embeddings(tmp_path / "out")
    assert (result.kept, result.made) == (3, 2)
    assert found.index.towers["protein"].bits == first.index.towers["protein"].bits
    rows = open_rows(found, "protein", None, cache_dir=tmp_path / "cache")
    stands_for = found.load("protein").embeddings
    assert rows.nearest(stands_for[17], 1)[0] == [17]


def test_types_are_never_mixed_in_a_folder(data: Path, tmp_path: Path, tiny_esm2: Path) -> None:
    features(data, tmp_path / "out", tiny_esm2, EmbedOptions(dtype="int8"))
    with pytest.raises(SetClipError, match=r"another dtype \(int8, now ubinary\)"):
        features(data, tmp_path / "out", tiny_esm2, EmbedOptions(dtype="ubinary"))


def test_faiss_finds_the_rows_of_a_small_type(data: Path, tmp_path: Path, tiny_esm2: Path) -> None:
    faiss = pytest.importorskip("faiss")
    features(data, tmp_path / "int8", tiny_esm2, EmbedOptions(dtype="int8", faiss=True))
    index = faiss.read_index(str(tmp_path / "int8/protein/train.faiss"))
    np.testing.assert_array_equal(
        index.reconstruct_n(0, 30), open_embeddings(tmp_path / "int8").load("protein").embeddings
    )
    features(data, tmp_path / "bits", tiny_esm2, EmbedOptions(dtype="ubinary", faiss=True))
    binary = faiss.read_index_binary(str(tmp_path / "bits/protein/train.faiss"))
    opened = open_embeddings(tmp_path / "bits")
    stored = np.concatenate([block for shard in opened.shards("protein") for block in opened.stored_blocks(shard)])
    assert (binary.ntotal, binary.d) == (30, 32)
    distances, _ = binary.search(stored[:3], 4)
    differ = np.unpackbits(stored[:3, None] ^ stored[None], axis=2).sum(2)
    np.testing.assert_array_equal(distances, np.sort(differ, axis=1)[:, :4])


def test_a_folder_of_another_type_is_refused_with_the_option_that_goes_on(tmp_path: Path) -> None:
    from setclip_cli.embedding.embeddings import EmbeddingSettings
    from setclip_cli.embedding.writing import _require_same

    whole = EmbeddingSettings(model="m", method="clip", dim=8)
    small = whole.model_copy(update={"dtype": "ubinary"})
    with pytest.raises(SetClipError, match=r"another dtype \(ubinary, now float32\)") as caught:
        _require_same(tmp_path, small, whole)
    assert caught.value.fix.startswith("give dtype ubinary to go on")
    cut = whole.model_copy(update={"dim": 4, "width": 4})
    with pytest.raises(SetClipError, match=r"another width \(4, now whole rows\)") as caught:
        _require_same(tmp_path, cut, whole)
    assert "4 to go on" in caught.value.fix
    with pytest.raises(SetClipError, match=r"another width \(whole rows, now 4\)") as caught:
        _require_same(tmp_path, whole, cut)
    assert caught.value.fix.startswith("choose another")

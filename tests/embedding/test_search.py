"""Claims about search: exact, in blocks, through the tower that made the embeddings, and honest about the query."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_world import invoke, run_ok
from typer.testing import CliRunner
from untrained_pictures import CAPTIONS, make_pictures

from setclip_cli.cli.app import app
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.dataset.modality import RowKind
from setclip_cli.embedding import vectors
from setclip_cli.embedding.embed import embed, embed_backbone
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.embedding.options import EmbedOptions, SearchOptions
from setclip_cli.embedding.search import _kind_of_query, search
from setclip_cli.embedding.vectors import nearest_rows, unit_vectors
from setclip_cli.errors import SetClipError
from setclip_cli.viewing.table import table_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_timm: Path, tiny_sentence: Path) -> Path:
    """A folder with a DATASET of images and captions, an untrained RUN of both towers, and its EMBEDDINGS."""
    return make_pictures(tmp_path_factory.mktemp("search"), tiny_timm, tiny_sentence)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 40), top=st.integers(1, 50), block=st.integers(1, 50))
def test_blocks_find_what_sorting_everything_finds(seed: int, rows: int, top: int, block: int) -> None:
    draw = np.random.default_rng(seed)
    values = draw.integers(-2, 3, (rows, 3)).astype(np.float32)  # small integers: many exact ties
    query = draw.integers(-2, 3, 3).astype(np.float32)
    expected = sorted(range(rows), key=lambda row: (-float(values[row] @ query), row))[:top]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "ROWS_PER_BLOCK", block)
        found, scores = nearest_rows(values, query, top)
    assert found == expected
    assert scores == [float(values[row] @ query) for row in expected]


def test_the_map_holds_unit_rows_in_shard_order_and_is_made_once(world: Path, tmp_path: Path) -> None:
    embeddings = open_embeddings(world / "embeddings")
    first = unit_vectors(embeddings, "caption", None, cache_dir=tmp_path)
    np.testing.assert_allclose(first, embeddings.load("caption").embeddings, atol=1e-6)
    [path] = (tmp_path / "vectors").iterdir()
    made = path.stat().st_mtime_ns
    unit_vectors(embeddings, "caption", None, cache_dir=tmp_path)
    assert path.stat().st_mtime_ns == made


def test_a_map_cut_short_is_made_again_and_other_rows_have_another_map(
    world: Path, tmp_path: Path, tiny_sentence: Path
) -> None:
    embeddings = open_embeddings(world / "embeddings")
    whole = np.array(unit_vectors(embeddings, "caption", None, cache_dir=tmp_path))
    [path] = (tmp_path / "vectors").iterdir()
    path.write_bytes(path.read_bytes()[:-4])
    np.testing.assert_array_equal(unit_vectors(embeddings, "caption", None, cache_dir=tmp_path), whole)
    tiny.write_dataset(tmp_path / "data", {"caption": [*CAPTIONS[:3], "a river", "a road", "a pier"]}, rows_per_shard=3)
    embed(world / "run", tmp_path / "data", tmp_path / "out")
    other = open_embeddings(tmp_path / "out")  # as many rows, and the first shard is the same
    found = unit_vectors(other, "caption", None, cache_dir=tmp_path)
    np.testing.assert_allclose(found, other.load("caption").embeddings, atol=1e-6)


def test_a_caption_finds_images_and_an_image_finds_captions_by_cosine(world: Path, tmp_path: Path) -> None:
    embeddings = open_embeddings(world / "embeddings")
    images, captions = embeddings.load("image"), embeddings.load("caption")
    result = search(world / "embeddings", CAPTIONS[2], options=SearchOptions(top=7))
    scores = images.embeddings @ captions.embeddings[2]
    assert [hit.id for hit in result.hits] == [images.ids[row] for row in np.argsort(-scores)]
    np.testing.assert_allclose([hit.score for hit in result.hits], np.sort(scores)[::-1], atol=1e-5)
    (tmp_path / "query.jpg").write_bytes(tiny.jpeg(4))
    result = search(world / "embeddings", str(tmp_path / "query.jpg"), options=SearchOptions(top=1))
    best = int((captions.embeddings @ images.embeddings[4]).argmax())
    assert (result.query_modality, result.modality) == ("image", "caption")
    assert (result.hits[0].id, result.hits[0].shown) == (captions.ids[best], CAPTIONS[best])


@pytest.mark.parametrize("dtype", ["int8", "ubinary"])
def test_a_search_of_small_rows_compares_the_whole_query_with_what_they_stand_for(
    world: Path, tmp_path: Path, dtype: str
) -> None:
    embed(world / "run", world / "data", tmp_path / "e", options=EmbedOptions(dtype=dtype))  # type: ignore[arg-type]
    query = open_embeddings(world / "embeddings").load("caption").embeddings[2]
    images = open_embeddings(tmp_path / "e").load("image")
    result = search(tmp_path / "e", CAPTIONS[2], options=SearchOptions(top=4))
    scores = images.embeddings @ query
    assert [hit.id for hit in result.hits] == [images.ids[row] for row in np.argsort(-scores)[:4]]
    np.testing.assert_allclose([hit.score for hit in result.hits], np.sort(scores)[::-1][:4], atol=1e-5)
    assert ("estimates" in result.why_no_probability) == (dtype == "ubinary")
    run_ok("verify", tmp_path / "e")


def test_searching_its_own_modality_finds_the_query_itself(world: Path) -> None:
    hit = search(world / "embeddings", CAPTIONS[5], options=SearchOptions(modality="caption", top=1)).hits[0]
    assert (hit.id, hit.label, hit.shard) == ("caption-5", "odd", "caption/train-00001.parquet")
    assert hit.score == pytest.approx(1, abs=1e-5)


def test_the_contact_sheet_shows_the_images_found_in_a_grid(world: Path, tmp_path: Path) -> None:
    result = search(world / "embeddings", "sea", options=SearchOptions(top=7, sheet=tmp_path / "found.png"))
    sheet = Image.open(io.BytesIO((tmp_path / "found.png").read_bytes()))
    assert result.sheet == tmp_path / "found.png"
    assert sheet.size == (5 * 206 + 6, 2 * 240 + 6)
    first = open_dataset(world / "data").table("image", None, ["id", "image"]).to_pylist()
    content = next(row["image"] for row in first if row["id"] == result.hits[0].id)
    shown = np.asarray(sheet.crop((6, 6, 206, 206)).convert("RGB"), dtype=float)
    thumbnail = Image.open(io.BytesIO(content)).convert("RGB")  # 64 x 48: smaller than its cell, so it is not scaled
    np.testing.assert_array_equal(shown[76:124, 68:132], np.asarray(thumbnail, dtype=float))


def test_raw_features_are_searched_with_an_item_of_their_own_kind(tmp_path: Path, tiny_esm2: Path) -> None:
    data = tiny.write_dataset(tmp_path / "data", {"protein": [text * 3 for text in tiny.proteins(6, seed=5)]})
    out = tmp_path / "features"
    embed_backbone("esm:esm2_t6_8M_UR50D", open_dataset(data), out, weights=str(tiny_esm2))
    sequence = open_dataset(data).table("protein", None, ["sequence"])["sequence"][3].as_py()
    hit = search(out, sequence, options=SearchOptions(top=1)).hits[0]
    assert (hit.id, hit.score) == ("protein-3", pytest.approx(1, abs=1e-5))
    with pytest.raises(SetClipError, match="raw protein features cannot be searched with a caption"):
        search(out, "kinase", options=SearchOptions(query_modality="caption"))
    with pytest.raises(SetClipError, match="query 'M1': '1' at residue 2"):
        search(out, "M1")


def test_a_run_or_dataset_that_moved_is_found_where_the_user_says(world: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(world, tmp_path / "moved")
    tiny.edit_document(
        moved / "embeddings" / "embeddings.json", lambda index: index.update(run="/no/run", dataset="/no/data")
    )
    with pytest.raises(SetClipError, match=r"/no/run: does not exist.* names it as the RUN"):
        search(moved / "embeddings", "sea")
    result = search(moved / "embeddings", "sea", options=SearchOptions(modality="caption", run=moved / "run"))
    assert result.hits[0].shown is None
    result = search(
        moved / "embeddings", "sea", options=SearchOptions(modality="caption", run=moved / "run", data=moved / "data")
    )
    assert result.hits[0].shown in CAPTIONS


def test_another_dataset_than_the_one_embedded_is_refused(world: Path, tmp_path: Path) -> None:
    other = tiny.write_dataset(tmp_path / "other", {"image": [tiny.jpeg(9)]}, rows_per_shard=3)
    with pytest.raises(SetClipError, match=r"does not hold the image/train-0000\d\.parquet that was embedded"):
        search(world / "embeddings", "sea", options=SearchOptions(data=other, sheet=tmp_path / "x.png"))


def test_another_run_than_the_one_that_made_them_is_refused(world: Path, tmp_path: Path) -> None:
    other = shutil.copytree(world / "run", tmp_path / "run")
    tiny.edit_document(other / "config.json", lambda config: config.update(seed=1))
    with pytest.raises(SetClipError, match="was not made by"):
        search(world / "embeddings", "sea", options=SearchOptions(run=other))


def test_a_sheet_of_captions_and_an_undecodable_query_are_usage_errors(world: Path, tmp_path: Path) -> None:
    with pytest.raises(SetClipError, match="caption rows have no images to show"):
        search(world / "embeddings", "sea", options=SearchOptions(modality="caption", sheet=tmp_path / "x.png"))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(SetClipError, match="cannot be decoded"):
        search(world / "embeddings", str(tmp_path / "broken.jpg"))


def test_a_cache_that_cannot_be_written_is_one_message(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "file"))
    done = CliRunner().invoke(app, ["search", str(world / "embeddings"), "boats"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"error: SETCLIP_CACHE={tmp_path / 'file'}: is a file" in done.stderr


def test_the_command_prints_hits_or_one_json_object(world: Path) -> None:
    arguments = ["search", str(world / "embeddings"), "boats", "--top", "2"]
    plain = CliRunner().invoke(app, arguments)
    assert plain.stdout.splitlines()[0] == "2 of 7 image rows nearest to the caption"
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert [hit["rank"] for hit in found["hits"]] == [1, 2]
    missing = CliRunner().invoke(app, ["search", str(world), "boats"])
    assert (missing.exit_code, missing.stdout) == (3, "")


@pytest.mark.parametrize(
    ("query", "words"),
    [("", "is empty"), (" \n", "is empty"), ("photo of a dog.JPG", "no such file"), ("./", "is a folder")],
)
def test_a_query_that_is_a_slip_is_refused(world: Path, query: str, words: str) -> None:
    code, stdout, stderr = invoke("search", world / "embeddings", query)
    assert (code, stdout) == (2, "")
    assert words in stderr


def test_words_that_look_like_a_file_can_be_searched_for(world: Path) -> None:
    assert "rows nearest to the caption" in run_ok("search", world / "embeddings", "forest.jpg", "--as", "caption")


@pytest.mark.parametrize("name", ["data.json", "sheet.jpg", "text.png", "folder.png"])
def test_a_sheet_replaces_nothing_but_a_png(world: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.png").mkdir()
    for other in ("data.json", "sheet.jpg", "text.png"):
        (tmp_path / other).write_text("mine")
    words = ("search", world / "embeddings", "forest", "--in", "image", "--sheet", tmp_path / name)
    code, _, stderr = invoke(*words)
    assert (code, "PNG file" in stderr) == (2, True)
    assert {path.read_text() for path in tmp_path.iterdir() if path.is_file()} == {"mine"}


@pytest.mark.parametrize(
    ("query", "towers", "kind"),
    [
        ("a.gif", ["image", "text"], "image"),
        ("a.gif", ["video", "text"], "video"),
        ("a.gif", ["video", "image", "text"], "image"),
        ("a.MP4", ["video", "image", "text"], "video"),
        ("a.ogv", ["video", "text"], "video"),
        ("a.heic", ["image", "text"], "image"),
        ("a.mp4", ["image", "text"], "text"),
        ("a red house", ["video", "image", "text"], "text"),
    ],
)
def test_a_name_is_of_what_ingest_takes_it_for(query: str, towers: list[RowKind], kind: str) -> None:
    assert _kind_of_query(query, dict.fromkeys(towers)) == kind


def test_a_folder_asks_for_videos_where_there_are_some(tmp_path: Path) -> None:
    assert _kind_of_query(f"{tmp_path}/", {"video": 0, "image": 0}) == "video"


def test_a_protein_is_shown_in_words(tmp_path: Path, tiny_esm2: Path) -> None:
    """As in reports and pages: a reader does not know the marks of UniProt."""
    fasta = tmp_path / "proteins.fasta"
    sequences = tiny.proteins(2, seed=5)
    fasta.write_text(f">P1 Kinase OS=Bos taurus EC=2.7.1.1\n{sequences[0] * 2}\n>P2 no marks\n{sequences[1] * 2}\n")
    data, out = tmp_path / "data", tmp_path / "features"
    run_ok("ingest", fasta, "--modality", "protein", "--out", data)
    embed_backbone("esm:esm2_t6_8M_UR50D", open_dataset(data), out, weights=str(tiny_esm2))
    words = ["Kinase · Bos taurus · EC 2.7.1.1 (a transferase)", "no marks"]
    hits = search(out, sequences[0] * 2, options=SearchOptions(top=2)).hits
    assert [hit.shown for hit in hits] == words
    table, _ = table_of(open_embeddings(out), None, open_dataset(data), pictures="")
    assert sorted(table["text"].to_pylist()) == words

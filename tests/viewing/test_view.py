"""The map of EMBEDDINGS: its places, its table, and a page that only this computer can open."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from label_world import Client
from small_world import invoke, run_ok
from untrained_pictures import CAPTIONS, make_pictures
from view_world import HOSTILE, view_of

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.embedding import map as maps
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.embedding.map import MAP_NAME, principal_plane, read_map
from setclip_cli.errors import SetClipError
from setclip_cli.viewing import app
from setclip_cli.viewing.table import table_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_timm: Path, tiny_sentence: Path) -> Path:
    return make_pictures(tmp_path_factory.mktemp("view"), tiny_timm, tiny_sentence, [*CAPTIONS, *HOSTILE])


@pytest.fixture
def viewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pages of a viewer that is not installed here."""
    (tmp_path / "static" / "assets").mkdir(parents=True)
    (tmp_path / "static" / "index.html").write_text("<!doctype html><title>viewer</title>")
    (tmp_path / "static" / "assets" / "index.js").write_text("'use strict'")
    monkeypatch.setattr("setclip_cli.viewing.view.viewer_files", lambda: tmp_path / "static")
    return tmp_path / "static"


def test_the_principal_plane_keeps_the_directions_that_differ_most() -> None:
    random = np.random.default_rng(0)
    flat = random.standard_normal((500, 2)) * [5, 2]
    axes = np.linalg.qr(random.standard_normal((16, 16)))[0]
    vectors = (flat @ axes[:2] + 7 + 0.01 * random.standard_normal((500, 16))).astype(np.float32)
    places = principal_plane(vectors)
    assert places.std(0) == pytest.approx([5, 2], rel=0.1)
    for column in (0, 1):
        assert abs(np.corrcoef(places[:, column], flat[:, column])[0, 1]) > 0.99
    assert principal_plane(vectors[:1]).tolist() == [[0, 0]]
    assert principal_plane(vectors[:0]).shape == (0, 2)
    assert principal_plane(vectors[:5, :1]).shape == (5, 2)


def test_embed_writes_a_map_beside_the_shards_and_view_reads_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(maps, "has_umap", lambda: False)
    out = tmp_path / "embeddings"
    told = json.loads(run_ok("embed", world / "run", world / "data", "--out", out, "--map", "--json"))
    assert told["map"] == str(out / MAP_NAME)
    table = pq.read_table(out / MAP_NAME)
    assert table.column_names == ["modality", "split", "id", "x", "y"]
    embeddings = open_embeddings(out)
    ids = [name for modality in ("image", "caption") for name in embeddings.load(modality).ids]
    assert table["id"].to_pylist() == ids
    found = read_map(embeddings)
    assert found is not None
    assert found[1] == "pca"
    assert np.concatenate([*found[0].values()])[:, 0].tolist() == table["x"].to_pylist()
    before = (out / MAP_NAME).read_bytes()
    told = json.loads(run_ok("embed", world / "run", world / "data", "--out", out, "--map", "--json"))
    assert (told["made"], (out / MAP_NAME).read_bytes()) == (0, before)
    changed = (out / MAP_NAME).stat().st_mtime_ns
    _, _, said = invoke("embed", world / "run", world / "data", "--out", out, "--map")
    assert f"{out / MAP_NAME} is kept; it was made with PCA" in said
    assert (out / MAP_NAME).stat().st_mtime_ns == changed
    (out / MAP_NAME).write_bytes(b"PAR1 no map")
    _, _, said = invoke("embed", world / "run", world / "data", "--out", out, "--map")
    assert f"{out / MAP_NAME} is made with PCA" in said
    assert (out / MAP_NAME).read_bytes() == before
    run_ok("verify", out)
    assert "pip install" in invoke("embed", world / "run", world / "data", "--out", out, "--map")[2]


def test_a_map_of_other_rows_is_not_taken_and_a_damaged_one_is_told(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "embeddings"
    run_ok("embed", world / "run", world / "data", "--out", out, "--map", "--modality", "image")
    assert read_map(open_embeddings(out)) is not None
    run_ok("embed", world / "run", world / "data", "--out", out)
    assert read_map(open_embeddings(out)) is None  # captions came after it
    (out / MAP_NAME).write_bytes(b"PAR1 no map")
    with pytest.raises(SetClipError, match="cannot be read as a map"):
        read_map(open_embeddings(out))


def test_the_table_has_all_modalities_their_texts_and_where_pictures_are(world: Path) -> None:
    embeddings, dataset = open_embeddings(world / "embeddings"), open_dataset(world / "data")
    table, pictures = table_of(embeddings, None, dataset, pictures="http://127.0.0.1:1/picture")
    rows = {row["id"]: row for row in table.to_pylist()}
    assert len(rows) == len(table) == 7 + len(CAPTIONS) + len(HOSTILE)
    assert rows["caption-1"]["text"] == "boats in a harbour"
    assert rows["caption-1"]["picture"] is None
    assert (rows["image-3"]["picture"], rows["image-3"]["text"]) == ("http://127.0.0.1:1/picture/image/3/small", "")
    assert (rows["image-3"]["modality"], rows["image-3"]["label"]) == ("image", "odd")
    assert rows[f"caption-{len(CAPTIONS) + 1}"]["text"] == "\\u202egnirts\\x1b[31m"
    assert [*pictures] == ["image"]
    alone, none = table_of(embeddings, "train", None, pictures="")
    assert not {"text", "picture"} & set(alone.column_names)
    assert none == {}
    with pytest.raises(SetClipError, match="holds no image embeddings of split 'tset'"):
        table_of(embeddings, "tset", dataset, pictures="")


def test_the_page_needs_the_token_and_gives_the_table_and_the_pictures(world: Path, viewer: Path) -> None:
    with view_of(world / "embeddings") as address:
        client = Client(address)
        for path in ("/", "/data/dataset.parquet", "/data/metadata.json", "/assets/index.js", "/picture/image/0/small"):
            assert client.ask("GET", path, cookie=None)[0] == 403
            assert client.ask("GET", path)[0] == 200, path
        _, headers, content = client.ask("GET", "/data/dataset.parquet")
        assert "unsafe-eval'" not in headers["content-security-policy"].replace("wasm-unsafe-eval'", "")
        assert "default-src 'none'" in headers["content-security-policy"]
        table = pq.read_table(pa.BufferReader(content))
        props = client.get("/data/metadata.json")["props"]
        named = [
            props["data"]["id"],
            props["data"]["text"],
            props["data"]["image"],
            *props["data"]["projection"].values(),
        ]
        assert set(named) <= set(table.column_names)
        picture = next(name for name in table["picture"].to_pylist() if name)
        assert client.ask("GET", picture.partition(client.host)[2])[2].startswith(b"\xff\xd8")
        for path in ("/picture/caption/0/small", "/picture/image/99/small", "/assets/../index.html", "/assets/no.js"):
            assert client.ask("GET", path)[0] == 404
        assert client.ask("POST", "/data/query", {"sql": "select 1"})[0] == 404
        assert client.ask("POST", "/data/cache/x", {"a": 1})[0] == 204
        assert client.ask("GET", "/data/cache/x")[0] == 404


def test_a_dataset_that_is_not_where_the_user_says_is_told_with_where_it_was(world: Path, viewer: Path) -> None:
    for place in (world / "nosuch", world / "run"):
        code, _, said = invoke("view", world / "embeddings", "--data", place, "--no-browser")
        assert code == 3
        assert f"error: {place}: " in said
        assert f"fix: give --data the path of the DATASET that was embedded; it was in {world / 'data'}" in said


def test_the_page_starts_without_torch(world: Path) -> None:
    """Its import is the longest part of the start, and nothing here needs it."""
    code = f"""
import sys
from pathlib import Path
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.viewing import view
view.view_app(*view.table_of(
    open_embeddings(Path({str(world / "embeddings")!r})), None, open_dataset({str(world / "data")!r}), pictures="/x"
), Path({str(world)!r}), port=1, token="x")
print([name for name in ("torch", "timm", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_without_the_viewer_one_line_says_what_to_install(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda _name: None)  # type: ignore[attr-defined]
    code, _, told = invoke("view", world / "embeddings", "--no-browser")
    assert code == 3
    assert "pip install 'setclip[view]'" in told

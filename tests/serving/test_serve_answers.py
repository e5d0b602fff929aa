"""The service answers as the commands do."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
from PIL import Image
from serve_world import Caller, in_base64, service_of
from small_world import run_ok
from untrained_pictures import CAPTIONS

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.embedding.options import SearchOptions
from setclip_cli.embedding.search import search
from setclip_cli.serving.service import EmbedJob, SearchJob, Service


def test_a_search_finds_what_the_command_finds(of_pictures: Caller, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "query.jpg").write_bytes(tiny.jpeg(3))
    for sent, typed in (
        ({"text": "boats in a harbour"}, "boats in a harbour"),
        ({"image": in_base64(tiny.jpeg(3))}, str(tmp_path / "query.jpg")),
    ):
        found = of_pictures.fine("/search", top=5, **sent)
        expected = search(pictures / "embeddings", typed, options=SearchOptions(top=5))
        assert found["query_modality"] == expected.query_modality
        assert found["modality"] == expected.modality
        assert found["searched"] == expected.searched
        assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in expected.hits]
        assert [hit["score"] for hit in found["hits"]] == pytest.approx([hit.score for hit in expected.hits], abs=2e-6)
        assert [hit["label"] for hit in found["hits"]] == [hit.label for hit in expected.hits]
        assert "aligned with" in found["why_no_probability"] or "trained on" in found["why_no_probability"]
        assert str(pictures) not in json.dumps(found)


def test_probabilities_are_those_of_the_command(of_vectors: Caller, vectors: Path, tmp_path: Path) -> None:
    values = open_dataset(vectors / "data").table("audio", "train", ["vector"])["vector"][7].as_py()
    np.save(tmp_path / "query.npy", np.array(values, np.float32))
    expected = search(
        vectors / "embeddings", str(tmp_path / "query.npy"), options=SearchOptions(top=6, query_modality="audio")
    )
    found = of_vectors.fine("/search", vector=values, as_="audio", top=6)
    assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in expected.hits]
    assert found["hits"][0]["probability"] > 0.3
    told = [hit["probability"] for hit in found["hits"]]
    assert told == pytest.approx([hit.probability for hit in expected.hits], abs=1e-5)


def test_embeddings_are_those_of_embed_and_can_be_searched_with(of_pictures: Caller, pictures: Path) -> None:
    made = open_embeddings(pictures / "embeddings")
    items = [{"text": text} for text in CAPTIONS] + [{"image": in_base64(tiny.jpeg(seed))} for seed in range(7)]
    found = of_pictures.fine("/embed", items=items)
    expected = np.concatenate([made.load("caption").embeddings, made.load("image").embeddings])
    embeddings = [one["embedding"] for one in found["embeddings"]]
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    assert [one["modality"] for one in found["embeddings"]] == ["caption"] * 6 + ["image"] * 7
    assert (found["dim"], found["model"]) == (8, made.index.model)
    asked = of_pictures.fine("/search", embedding=[3 * value for value in embeddings[1]], as_="caption", in_="caption")
    assert asked["hits"][0]["id"] == "caption-1"
    assert asked["hits"][0]["score"] == pytest.approx(1, abs=1e-6)
    for scale in (1e308, 1e-320):
        scaled = [scale * value for value in embeddings[1]]
        assert of_pictures.fine("/search", embedding=scaled, in_="caption")["hits"][0]["id"] == "caption-1"
    assert of_pictures.fine("/search", id="caption-1", as_="caption", in_="caption")["hits"] == asked["hits"]


@pytest.mark.parametrize("dtype", ["int8", "ubinary"])
def test_small_vectors_are_searched_as_the_command_does(vectors: Path, tmp_path: Path, dtype: str) -> None:
    (tmp_path / "run").symlink_to(vectors / "run")
    run_ok("embed", vectors / "run", vectors / "data", "--dtype", dtype, "--out", tmp_path / "embeddings")
    values = open_dataset(vectors / "data").table("audio", "train", ["vector"])["vector"][7].as_py()
    np.save(tmp_path / "query.npy", np.array(values, np.float32))
    options = SearchOptions(top=6, query_modality="audio")
    expected = search(tmp_path / "embeddings", str(tmp_path / "query.npy"), options=options)
    with service_of(tmp_path) as address:
        found = Caller(address).fine("/search", vector=values, as_="audio", top=6)
        alike = Caller(address).fine("/search", id="a7", as_="audio", in_="audio", top=1)
    assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in expected.hits]
    for hit, wanted in zip(found["hits"], expected.hits, strict=True):
        assert hit["score"] == pytest.approx(wanted.score, abs=2e-6)
        assert hit["probability"] == (None if dtype == "ubinary" else pytest.approx(wanted.probability, abs=1e-5))
    assert ("estimates" in found["why_no_probability"]) == (dtype == "ubinary")
    assert alike["hits"][0]["id"] == "a7"


def test_partners_are_those_of_the_match_command(of_vectors: Caller, vectors: Path, tmp_path: Path) -> None:
    run_ok("match", vectors / "run", vectors / "data", "--top", 3, "--out", tmp_path / "matches")
    table = pq.read_table(tmp_path / "matches" / "matches.parquet").to_pylist()
    for side, other, ids in (("audio", "words", ["a199", "a100", "a3"]), ("words", "audio", ["w150"])):
        found = of_vectors.fine("/match", modality=side, ids=ids, top=3)
        assert (found["partner_modality"], found["split"], found["coverage"]) == (other, "train", 0.9)
        for asked, one in zip(ids, found["matches"], strict=True):
            lines = [line for line in table if line["query"] == side and line[side] == asked]
            assert one["id"] == asked
            assert [each["id"] for each in one["partners"]] == [line[other] for line in lines]
            for each, line in zip(one["partners"], lines, strict=True):
                assert each["score"] == pytest.approx(line["cosine"], abs=1e-5)
                assert each["probability"] == pytest.approx(line["probability"], abs=1e-4)
                assert (each["known"], each["rank"]) == (line["known"], line["rank"])
            assert one["no_partner"] == pytest.approx(lines[0]["no_partner"], abs=1e-4)
    lonely, common, _ = of_vectors.fine("/match", modality="audio", ids=["a199", "a100", "a3"])["matches"]
    assert lonely["no_partner"] > 0.5 > common["no_partner"]


def test_many_requests_at_once_get_the_answers_that_each_gets_alone(of_pictures: Caller) -> None:
    asked: list[dict[str, Any]] = [{"text": text, "top": 1 + place} for place, text in enumerate(CAPTIONS)]
    asked += [{"image": in_base64(tiny.jpeg(seed)), "in": "image"} for seed in range(6)]
    asked += [{"image": in_base64(b"GIF89a no picture")}, {"text": "a b " * 4_000}]
    alone = [of_pictures.post("/search", one) for one in asked]
    together: list[Any] = [None] * len(asked)

    def send(place: int) -> None:
        together[place] = of_pictures.post("/search", asked[place])

    threads = [threading.Thread(target=send, args=(place,)) for place in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [status for status, _ in alone] == [200] * 12 + [422, 200]
    assert alone[-1][1]["notes"] == ["the query is longer than the text model reads, and was cut"]
    for (status, one), (status_together, other) in zip(alone, together, strict=True):
        assert status == status_together
        if status == 200:
            assert [hit["id"] for hit in one["hits"]] == [hit["id"] for hit in other["hits"]]
            scores = [[hit["score"] for hit in found["hits"]] for found in (one, other)]
            assert scores[0] == pytest.approx(scores[1], abs=2e-6)
            assert one["notes"] == other["notes"]


def test_a_picture_of_a_hit_can_be_fetched(of_pictures: Caller) -> None:
    hit = of_pictures.fine("/search", text="forest", top=1)["hits"][0]
    bearer = f"Bearer {of_pictures.token}"
    for size in ("small", "large"):
        status, headers, content = of_pictures.ask("GET", f"{hit['shown']['picture']}/{size}", authorization=bearer)
        assert (status, headers["content-type"]) == (200, "image/jpeg")
        assert Image.open(io.BytesIO(content)).size == (64, 48)
    for path in ("/picture/image/7/small", "/picture/caption/0/small", "/picture/x/0/small"):
        assert of_pictures.ask("GET", path, authorization=bearer)[0] == 404
    assert of_pictures.ask("GET", "/picture/image/-1/small", authorization=bearer)[0] == 422


def test_without_the_dataset_ids_and_labels_are_shown_and_matching_says_why(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = (pictures / "data").rename(tmp_path / "elsewhere")
    try:
        with service_of(pictures) as address:
            caller = Caller(address)
            hit = caller.fine("/search", text="forest", top=1)["hits"][0]
            assert (hit["shown"]["id"], hit["shown"]["picture"]) == (hit["id"], None)
            status, told = caller.post("/match", {"modality": "image", "ids": ["image-0"]})
            assert (status, "the DATASET that was embedded is not there" in told["error"]) == (409, True)
            assert "--data DATASET" in told["fix"]
            assert str(pictures) not in json.dumps(told)
        with service_of(pictures, data=tmp_path / "elsewhere") as address:
            assert Caller(address).fine("/search", text="forest", top=1)["hits"][0]["shown"]["picture"]
    finally:
        moved.rename(pictures / "data")
    assert "give its new path with --data" in capsys.readouterr().err


def test_a_dataset_that_leaves_while_it_is_served_is_told_without_its_place_and_may_come_back(
    vectors: Path, tmp_path: Path
) -> None:
    with service_of(vectors) as address:
        caller = Caller(address)
        moved = (vectors / "data").rename(tmp_path / "elsewhere")
        try:
            status, told = caller.post("/match", {"modality": "audio", "ids": ["a7"]})
        finally:
            moved.rename(vectors / "data")
        assert (status, set(told)) == (409, {"error", "fix"})
        assert str(vectors) not in json.dumps(told)
        assert "the DATASET" in told["error"]
        assert caller.fine("/match", modality="audio", ids=["a7"])["matches"]


def test_notes_of_a_query_are_its_own_in_a_batch_of_many(pictures: Path) -> None:
    service = Service.open(pictures / "run", open_embeddings(pictures / "embeddings"), split=None, dataset=None)
    long, short = "a b " * 4_000, "a harbour"
    jobs: list[EmbedJob | SearchJob] = [
        SearchJob("caption", "image", 1, item=text) for text in (short, long, "forest", long)
    ]
    jobs += [EmbedJob([("caption", short), ("caption", long)])]
    *searched, embedded = service.work(jobs)
    assert [bool(answer.notes) for answer in searched] == [False, True, False, True]
    assert [bool(item.notes) for item in embedded] == [False, True]

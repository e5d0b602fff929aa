"""The service answers as the commands do, refuses what it must, and bears what strangers send."""

from __future__ import annotations

import base64
import io
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
from PIL import Image
from serve_world import CAPTIONS, Caller, make_pictures, make_vectors, service_of, token_of
from small_world import invoke, run_ok

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.embedding.options import SearchOptions
from setclip_cli.embedding.search import search
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.serving.options import ServeOptions


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vectors(tmp_path_factory.mktemp("vectors"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, tiny_timm: Path, tiny_sentence: Path) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures"), tiny_timm, tiny_sentence)


@pytest.fixture(scope="module")
def of_vectors(vectors: Path) -> Iterator[Caller]:
    with service_of(vectors) as address:
        yield Caller(address)


@pytest.fixture(scope="module")
def of_pictures(pictures: Path) -> Iterator[Caller]:
    with service_of(pictures, body_mib=1) as address:
        yield Caller(address)


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


# ---- answers


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


def test_embeddings_of_another_run_are_told_with_the_command_that_serves_them(
    vectors: Path, pictures: Path, tmp_path: Path
) -> None:
    code, _, told = invoke("serve", vectors / "run", pictures / "embeddings")
    assert code == 3
    assert f"fix: setclip serve {pictures / 'run'} {pictures / 'embeddings'}\n" in told
    moved = (pictures / "run").rename(tmp_path / "run")
    try:
        _, _, told = invoke("serve", vectors / "run", pictures / "embeddings")
    finally:
        moved.rename(pictures / "run")
    assert f"fix: setclip embed {vectors / 'run'} DATASET" in told


# ---- who may ask


def test_only_health_needs_no_token(of_pictures: Caller) -> None:
    status, _, content = of_pictures.ask("GET", "/health", cookie=None)
    assert (status, json.loads(content)["status"]) == (200, "ok")
    for path in ("/about", "/openapi.json", "/docs", "/", "/picture/image/0/small"):
        assert of_pictures.ask("GET", path, cookie=None)[0] == 403, path
    assert of_pictures.post("/search", {"text": "a"}, authorization=None)[0] == 403
    assert of_pictures.ask("GET", "/health", host="evil.example")[0] == 403


def test_a_page_of_another_site_is_refused_with_and_without_a_token(of_pictures: Caller, pictures: Path) -> None:
    with service_of(pictures, no_token=True) as address:
        caller = Caller(address)
        assert "token" not in address
        assert caller.fine("/search", text="forest")["hits"]
        here = {"origin": f"http://{caller.host}"}
        assert caller.post("/search", {"text": "a"}, **here)[0] == 200
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
            assert caller.post("/search", {"text": "a"}, origin=origin)[0] == 403
            assert of_pictures.post("/search", {"text": "a"}, origin=origin, authorization=None)[0] == 403
        assert caller.post("/search", {"text": "a"}, host="evil.example")[0] == 403
        assert caller.ask("GET", "/about", host="evil.example")[0] == 403


def test_other_computers_need_the_token_and_no_host_is_refused_there(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("a_token-for-the-test\n")
    with service_of(pictures, host="0.0.0.0", token_file=tmp_path / "token") as address:
        port = address.partition("?")[0].strip("/").rpartition(":")[2]
        caller = Caller(f"http://127.0.0.1:{port}/", "a_token-for-the-test")
        assert token_of(address) == "a_token-for-the-test"
        for host in ("gpu.lab.example:80", f"192.168.1.7:{port}"):
            assert caller.post("/search", {"text": "a"}, host=host)[0] == 200
            assert caller.post("/search", {"text": "a"}, host=host, authorization=None)[0] == 403
    assert "WARNING: what is sent is not encrypted" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "short", "a token with spaces in it", "ä" * 20])
def test_a_token_file_without_a_good_token_is_refused(pictures: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    code, _, told = invoke("serve", pictures / "run", pictures / "embeddings", "--token-file", tmp_path / "token")
    assert code in (2, 3)
    assert not content or content not in told.replace(str(tmp_path), "")


def test_options_that_would_let_everybody_in_are_refused() -> None:
    with pytest.raises(UsageError, match="would let in all of them"):
        ServeOptions(host="0.0.0.0", no_token=True)
    with pytest.raises(UsageError, match="are both given"):
        ServeOptions(token_file="x", no_token=True)


# ---- what strangers send


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that claims, and has, many pixels."""

    def part(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", rows) + part(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"text": ""}, "text: "),
        ({"text": "  \n"}, "text: is empty"),
        ({"text": "x" * 20_001}, "text: "),
        ({"text": 7}, "text: "),
        ({}, "give exactly one of text, sequence, image, vector"),
        ({"text": "a", "image": "aa=="}, "got text and image"),
        ({"text": "a", "more": 1}, "a field that is not known: 'more'"),
        ({"text": "a", "top": 0}, "top: "),
        ({"text": "a", "top": 10**30}, "top: "),
        ({"text": "a", "in": "protein"}, "in: there are no 'protein' rows here, only image and caption"),
        ({"text": "a", "as": "image"}, "as: 'image' does not read a text"),
        ({"sequence": "MKV"}, "no tower reads a sequence: this model reads image (image) and caption (text)"),
        ({"vector": [1.0]}, "no tower reads a vector"),
        ({"embedding": [1.0] * 7, "in": "image"}, "embedding: has 7 values, and embeddings here have 8"),
        ({"embedding": [0.0] * 8, "in": "image"}, "embedding: "),
        ({"embedding": [1.0] * 8}, "in: nothing says which rows to search"),
        ({"embedding": [1.0] * 8, "as": "sar", "in": "image"}, "as: there is no 'sar' tower"),
        ({"id": "nobody", "as": "image"}, "id: there is no such image row"),
        ({"id": "image-0"}, "id: nothing says of which modality"),
        ({"image": "not base64!"}, "image: is not base64"),
        ({"image": in_base64(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")}, "image: is not a picture"),
        ({"image": in_base64(b"\x89PNG\r\n\x1a\n" + b"x" * 40)}, "image: is not a picture"),
        ({"image": in_base64(tiny.jpeg(1)[:-60])}, "cannot be decoded"),
        ({"image": in_base64(png_bomb(60_000, 60_000))[:700_000]}, "pixels"),
        ({"image": in_base64(png_bomb(12_000, 12_000))}, "12,000 x 12,000 pixels, more than 25,000,000"),
    ],
)  # fmt: skip
def test_a_query_that_cannot_be_answered_is_422_and_says_why(
    of_pictures: Caller, body: dict[str, Any], told: str
) -> None:
    status, content = of_pictures.post("/search", body)
    assert status == 422, content
    assert told in content["error"]
    assert content["fix"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"text": "\\ud800"}', b"\xff\xfe", b'{"text": NaN}', b'{"embedding": [NaN]}',
     b'{"embedding": [1e999], "in": "image"}', b"[" * 50_000],
)  # fmt: skip
def test_a_body_that_is_no_request_is_422(of_pictures: Caller, body: bytes) -> None:
    status, content = of_pictures.post("/search", body)
    assert status == (400 if body.startswith(b"[[") else 422), content
    assert set(content) == {"error", "fix"}


@pytest.mark.parametrize(
    ("sent_as", "told"),
    [
        (None, "Content-Type is missing"),
        ("text/plain", "Content-Type says"),
        ("application/x-www-form-urlencoded", "Content-Type says"),
    ],
)
def test_a_body_whose_header_does_not_say_json_is_told_so(of_pictures: Caller, sent_as: str | None, told: str) -> None:
    status, content = of_pictures.post("/search", {"text": "a"}, **{"content-type": sent_as})
    assert status == 422
    assert told in content["error"]
    assert content["fix"]


def test_a_query_of_10_mb_is_413(of_pictures: Caller) -> None:
    status, said = of_pictures.post("/search", {"text": "x" * 10_000_000})
    assert (status, said["error"]) == (413, "A request has at most 1,048,576 bytes.")
    assert of_pictures.fine("/search", text="forest")["hits"]


def connections(caller: Caller, count: int) -> list[socket.socket]:
    host, port = caller.host.split(":")
    return [socket.create_connection((host, int(port)), timeout=60) for _ in range(count)]


def all_of(connection: socket.socket) -> bytes:
    """What is sent until the service closes the connection."""
    with connection:
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_a_slow_client_is_put_out_and_keeps_nobody_waiting(pictures: Path) -> None:
    with service_of(pictures, timeout=1) as address:
        caller = Caller(address)
        slow = connections(caller, 4)
        head = f"POST /search HTTP/1.1\r\nHost: {caller.host}\r\nAuthorization: Bearer {caller.token}\r\n"
        slow[0].sendall(b"POST /sea")  # never ends its first line
        slow[1].sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        slow[2].sendall(f"GET /health HTTP/1.1\r\nHost: {caller.host}\r\n\r\nGET /hea".encode())
        assert caller.fine("/search", text="forest")["hits"]
        assert slow[2].recv(12) == b"HTTP/1.1 200"
        for one in slow:  # the last one never says a word
            told = all_of(one)
            assert b"HTTP/1.1 408 " in told
            assert json.loads(told.rpartition(b"\r\n\r\n")[2])["error"] == "The request did not arrive within 1 s."


def test_connections_without_a_request_keep_nobody_out(pictures: Path) -> None:
    with service_of(pictures) as address:
        caller = Caller(address)
        idle = connections(caller, 70)
        for one in idle[::2]:
            one.sendall(b"POST /search HTTP/1.1\r\n")
        assert caller.fine("/search", text="forest")["hits"]
        told = all_of(idle[0])  # it has waited longest
        assert told.startswith(b"HTTP/1.1 503 ")
        assert json.loads(told.rpartition(b"\r\n\r\n")[2])["fix"] == "ask again later"
        for one in idle[1:]:
            one.close()


def test_what_is_no_http_is_told_in_json(of_pictures: Caller) -> None:
    [one] = connections(of_pictures, 1)
    one.sendall(b"hello\r\n\r\n")
    told = all_of(one)
    assert told.startswith(b"HTTP/1.1 400 ")
    assert set(json.loads(told.rpartition(b"\r\n\r\n")[2])) == {"error", "fix"}


# ---- the end


SLOW_MATCH = """
import sys, torch
from setclip_cli.matching import match
from setclip_cli.cli import program

def compare(*_given):  # for ever, most of the time in C++ code
    print("comparing", file=sys.stderr, flush=True)
    while True:
        torch.randn(600, 600) @ torch.randn(600, 600)

match.Matches.of = compare
program.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_while_rows_are_compared_ends_quietly_and_is_told_to_who_waits(
    vectors: Path, tmp_path: Path, number: int, code: int
) -> None:
    (tmp_path / "token").write_text("a_token-for-the-test")
    words = ["serve", vectors / "run", vectors / "embeddings", "--token-file", tmp_path / "token"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_MATCH, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    assert process.stderr is not None
    address = next(line.split()[1] for line in process.stderr if line.startswith("ready: "))
    answers: list[tuple[int, Any]] = []
    asked = {"modality": "audio", "ids": ["a7"]}
    client = threading.Thread(target=lambda: answers.append(Caller(address).post("/match", asked)))
    client.start()
    for line in process.stderr:
        if line == "comparing\n":
            break
    process.send_signal(number)
    out, told = process.communicate(timeout=60)
    client.join(60)
    assert (process.returncode, answers[0][0], set(answers[0][1])) == (code, 503, {"error", "fix"})
    assert "stopping" in answers[0][1]["error"]
    assert told.count("\n") == (1 if code else 0), told
    assert ("was served" in out) == (code == 0)


def test_an_unexpected_error_of_one_query_does_not_spoil_the_others(
    of_pictures: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    from setclip_cli.embedding.query_tower import QueryTower

    embed = QueryTower.embed

    def breaking(self: QueryTower, items: Any) -> Any:
        if "poison" in items:
            raise RuntimeError("broken")
        return embed(self, items)

    monkeypatch.setattr(QueryTower, "embed", breaking)
    results: dict[str, int] = {}

    def send(text: str) -> None:
        results[text] = of_pictures.post("/search", {"text": text})[0]

    threads = [threading.Thread(target=send, args=(text,)) for text in ("poison", *CAPTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {"poison": 500, **dict.fromkeys(CAPTIONS, 200)}


# ---- what cannot be served


def test_what_does_not_belong_together_is_refused(pictures: Path, vectors: Path, tmp_path: Path) -> None:
    for words, told in (
        ((pictures / "embeddings", pictures / "run"), "wrong order"),
        ((vectors / "run", pictures / "embeddings"), "was not made by"),
        ((pictures / "run", tmp_path), "is not an EMBEDDINGS folder"),
        ((pictures / "data", pictures / "embeddings"), ""),
        ((pictures / "run", pictures / "embeddings", "--split", "tset"), "holds no image embeddings of split 'tset'"),
        ((pictures / "run", pictures / "embeddings", "--host", "203.0.113.7"), "is not an address of this computer"),
    ):
        code, _, said = invoke("serve", *words)
        assert code in (2, 3), said
        assert told in said
        assert "fix: " in said
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SetClipError, match="another program uses this port"), service_of(pictures, port=port):
            pass

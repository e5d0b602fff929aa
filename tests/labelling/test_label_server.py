"""The label page by its requests: what is answered, what is refused, and what is found again later."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import label_world
import pytest
from label_world import Client
from PIL import Image
from small_world import run_ok

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.files.write_errors import InUseError
from setclip_cli.labelling.label import label
from setclip_cli.labelling.options import LabelOptions
from setclip_cli.web.serving import port_of, take_port


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return label_world.make_dataset(tmp_path_factory.mktemp("world"))


def colour(name: str) -> int:
    return int("".join(filter(str.isdigit, name))) % 4


def best(state: dict[str, Any]) -> dict[str, Any]:
    """The first candidate of the item's colour; the first of all if there is none."""
    asked = state["question"]
    alike = [row for row in asked["candidates"] if colour(row["id"]) == colour(asked["item"]["id"])]
    return (alike or asked["candidates"])[0]


def pairs_in(out: Path) -> list[list[str]]:
    with (out / "pairs.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_answers_are_kept_and_the_next_session_goes_on_where_the_last_one_stopped(data: Path, tmp_path: Path) -> None:
    out, pools = tmp_path / "labels", label_world.pools_of(data)
    with label_world.page_of(out, pools, count=6) as (address, results):
        client = Client(address)
        state = client.get("/api/state")
        assert (state["done"], state["total"], state["undo"]) == (0, 6, None)
        assert len(state["question"]["candidates"]) == 9
        first, chosen = state["question"]["item"]["id"], best(state)
        state = client.send("/api/answer", answer="partner", row=chosen["row"])
        assert pairs_in(out) == [["image", "caption"], [first, chosen["id"]]]  # written before the answer came
        assert json.loads((out / "labels.jsonl").read_text().splitlines()[0])["partner"] == chosen["id"]
        assert state["undo"] == first
        client.send("/api/answer", answer="skip")
        third = client.get("/api/state")["question"]["item"]["id"]
        client.send("/api/answer", answer="none")
        assert pairs_in(out)[2] == [third, "-"]
        state = client.send("/api/undo")
        assert state["question"]["item"]["id"] == third
        assert len(pairs_in(out)) == 2
    assert (results[0].partners, results[0].none, results[0].skipped, results[0].questions) == (1, 0, 1, 6)
    with label_world.page_of(out, pools, count=6) as (address, _):
        state = Client(address).get("/api/state")
        assert (state["done"], state["total"]) == (2, 6)
        assert state["question"]["item"]["id"] == third
    with label_world.page_of(out, pools, count=8) as (address, _):  # more of them: after those that are there
        client = Client(address)
        state = client.get("/api/state")
        assert (state["done"], state["total"], state["question"]["item"]["id"]) == (2, 8, third)
        asked = [one["question"]["id"] for one in json.loads((out / "labels.json").read_text())["questions"]]
        assert len(set(asked)) == 8
        while state["question"]:
            state = client.send("/api/answer", answer="partner", row=best(state)["row"])
        assert (state["done"], state["counts"]["partner"], state["counts"]["skip"]) == (8, 7, 1)
        state = client.send("/api/again")
        assert (state["done"], state["question"]["item"]["id"]) == (7, asked[1])
        assert client.send("/api/undo")["question"] is None  # the second look is taken back
    assert run_ok("ingest", "--pairs", out / "pairs.csv", "--out", _copy(data, tmp_path))
    assert len(open_dataset(tmp_path / "copy").pairs()) == 7


def _copy(data: Path, folder: Path) -> Path:
    return Path(shutil.copytree(data, folder / "copy"))


def test_candidates_get_better_with_the_answers(data: Path, tmp_path: Path) -> None:
    with label_world.page_of(tmp_path / "labels", label_world.pools_of(data), count=14) as (address, _):
        client = Client(address)
        firsts = []
        state = client.get("/api/state")
        while state["question"]:
            item, candidate = state["question"]["item"], state["question"]["candidates"][0]
            firsts.append(colour(item["id"]) == colour(candidate["id"]))
            state = client.send("/api/answer", answer="partner", row=best(state)["row"])
    assert firsts[:4] != [True] * 4
    assert firsts[8:] == [True] * 6


def test_a_second_window_cannot_answer_what_has_been_answered(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    with label_world.page_of(out, label_world.pools_of(data), count=3) as (address, _):
        one, other = Client(address), Client(address)
        seen = one.get("/api/state")
        other.send("/api/answer", answer="none", revision=seen["revision"])
        status, _, body = one.ask("POST", "/api/answer", {"revision": seen["revision"], "answer": "none"})
        assert status == 409
        assert json.loads(body)["state"]["done"] == 1
        assert one.ask("POST", "/api/undo", {"revision": 7})[0] == 409
        assert len((out / "labels.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        {"answer": "partner"},
        {"answer": "partner", "row": -1},
        {"answer": "partner", "row": 60},
        {"answer": "none", "row": 3},
        {"answer": "right"},
        {"answer": "shout"},
        {"answer": "partner", "row": "1; drop"},
        {"answer": "none", "more": 1},
        {},
    ],
)
def test_an_answer_that_does_not_fit_changes_nothing(data: Path, tmp_path: Path, content: dict[str, Any]) -> None:
    out = tmp_path / "labels"
    with label_world.page_of(out, label_world.pools_of(data), count=3) as (address, _):
        client = Client(address)
        assert client.ask("POST", "/api/answer", {"revision": 0, **content})[0] == 422
        assert client.get("/api/state")["revision"] == 0
        assert (out / "labels.jsonl").read_text() == ""


def test_a_failed_write_is_told_and_the_question_stays_open(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "labels"
    with label_world.page_of(out, label_world.pools_of(data), count=3) as (address, _):
        client = Client(address)
        before = client.get("/api/state")

        def full(*_given: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("setclip_cli.labelling.answers.os.write", full)
            status, _, body = client.ask("POST", "/api/answer", {"revision": 0, "answer": "none"})
        assert status == 500
        assert "the disk is full" in json.loads(body)["error"]
        assert client.get("/api/state") == before
        assert client.send("/api/answer", answer="none")["done"] == 1


def test_more_candidates_come_after_those_shown_and_the_journal_knows_what_was_seen(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    with label_world.page_of(out, label_world.pools_of(data), count=3) as (address, _):
        client = Client(address)
        shown = [row["row"] for row in client.get("/api/state")["question"]["candidates"]]
        more = [row["row"] for row in client.get("/api/more")["rows"]]
        assert len({*shown, *more}) == 18
        assert [row["row"] for row in client.get("/api/state")["question"]["candidates"]] == shown + more  # a reload
        while more:
            more = [row["row"] for row in client.get("/api/more")["rows"]]
        client.send("/api/answer", answer="none")
    seen = json.loads((out / "labels.jsonl").read_text().splitlines()[0])["shown"]
    assert len(seen) == len(set(seen)) == 60


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("BLUE number 6", ["c6"]),  # every word, in any case; number 6 of the blue ones
        ("grey square", [f"c{number}" for number in range(3, 60, 4)]),
        ("c59", ["c59"]),
        ("   ", []),
        ("a.*b", []),  # words are words, not patterns
        ("%", []),
    ],
)
def test_search_finds_rows_that_hold_all_words(data: Path, tmp_path: Path, words: str, found: list[str]) -> None:
    with label_world.page_of(tmp_path / "labels", label_world.pools_of(data), count=3) as (address, _):
        rows = Client(address).get(f"/api/search?words={quote(words)}")["rows"]
        ids = [row["id"] for row in rows]
        assert set(found) <= set(ids)
        assert ids[: len(found)] == found if found else not ids


def test_pictures_are_small_and_only_those_of_rows(data: Path, tmp_path: Path) -> None:
    with label_world.page_of(tmp_path / "labels", label_world.pools_of(data), count=3) as (address, _):
        client = Client(address)
        status, headers, body = client.ask("GET", "/picture/0/7/small")
        assert (status, headers["content-type"]) == (200, "image/jpeg")
        red, green, blue = Image.open(io.BytesIO(body)).resize((1, 1)).getpixel((0, 0))
        assert red == pytest.approx(128, abs=12)  # picture 7 is grey
        assert green == pytest.approx(128, abs=12)
        assert blue == pytest.approx(128, abs=12)
        for path in ("/picture/0/40/small", "/picture/0/-1/small", "/picture/1/0/small"):
            assert client.ask("GET", path)[0] == 404
        for path in ("/picture/2/0/small", "/picture/0/x/small", "/picture/0/0/huge"):
            assert client.ask("GET", path)[0] == 422


def test_a_session_at_a_time_and_a_folder_that_is_free(data: Path, tmp_path: Path) -> None:
    out, pools = tmp_path / "labels", label_world.pools_of(data)
    with label_world.page_of(out, pools, count=3) as (address, _):
        with pytest.raises(InUseError, match="another `setclip label` asks these questions now"):
            label(data, out, options=LabelOptions(no_browser=True))
        port = int(Client(address).host.rpartition(":")[2])
        with pytest.raises(UsageError, match=f"port {port}: another program uses this port"):
            label(data, tmp_path / "other", options=LabelOptions(no_browser=True, port=port))
        assert not (tmp_path / "other").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(SetClipError, match=r"is not a LABELS folder \(it holds 'thesis.txt'\)"):
        label(data, tmp_path / "mine", options=LabelOptions(no_browser=True))
    with take_port(0) as free:
        port = port_of(free)
    with label_world.page_of(out, pools, count=3, port=port) as (address, _):  # the lock and the port are free again
        assert f":{port}/" in address


def test_rows_that_have_gone_are_told_and_their_answers_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = label_world.make_dataset(tmp_path / "one")
    out, pools = tmp_path / "labels", label_world.pools_of(first)
    with label_world.page_of(out, pools, count=6) as (address, _):
        client = Client(address)
        asked = []
        for _ in range(4):
            state = client.get("/api/state")
            asked.append(state["question"]["item"]["id"])
            client.send("/api/answer", answer="partner", row=best(state)["row"])
        waiting = client.get("/api/state")["question"]["item"]["id"]
    pictures = tmp_path / "one" / "pictures"
    for name in (asked[1], waiting):
        (pictures / name).unlink()
    run_ok("ingest", tmp_path / "one" / "captions.jsonl", "--modality", "caption", "--out", tmp_path / "two")
    run_ok("ingest", pictures, "--modality", "image", "--out", tmp_path / "two")
    capsys.readouterr()
    with label_world.page_of(out, label_world.pools_of(tmp_path / "two"), count=6) as (address, _):
        state = Client(address).get("/api/state")
        assert (state["done"], state["total"]) == (3, 6)  # a new question in the place of each that has gone
        assert state["question"]["item"]["id"] != waiting
    told = capsys.readouterr().err
    assert f"1 answer about rows that are not in {tmp_path / 'two'} any more (the first: {asked[1]!r})" in told
    assert "1 question about such rows will not be asked" in told
    assert [row[0] for row in pairs_in(out)[1:]] == [asked[0], asked[2], asked[3]]
    assert len((out / "labels.jsonl").read_text().splitlines()) == 4  # nothing is lost
    with label_world.page_of(out, pools, count=6) as (address, _):  # the rows are back
        assert Client(address).get("/api/state")["done"] == 4
    assert asked[1] in [row[0] for row in pairs_in(out)]


def test_a_folder_of_another_dataset_is_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    with label_world.page_of(out, label_world.pools_of(data), count=3):
        pass
    content = (out / "labels.json").read_text()
    (out / "labels.json").write_text(content.replace('"caption"', '"note"'))
    with (
        pytest.raises(SetClipError, match=r"labels.json: has changed"),
        label_world.page_of(out, label_world.pools_of(data)),
    ):
        pass


def _with_a_wrong_pair(data: Path) -> tuple[Any, set[tuple[str, str]]]:
    """Pools with 30 known pairs of which one is wrong, and its ids."""
    pools = label_world.pools_of(data)
    rows = [{name: row for row, name in enumerate(pool.ids)} for pool in pools.sides]
    pairs = [(f"picture{number:02d}.png", f"c{number}") for number in range(30)]
    pairs[19] = (pairs[19][0], "c44")
    known = tuple((rows[0][left], rows[1][right]) for left, right in pairs)
    return label_world.pools_of(data, known, distinct=True), {pairs[19]}


def test_suspect_pairs_are_asked_about_and_a_no_is_written_down(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    pools, wrong = _with_a_wrong_pair(data)
    with label_world.page_of(out, pools, count=2) as (address, results):
        client = Client(address)
        checked: set[tuple[str, str]] = set()
        state = client.get("/api/state")
        while state["question"] and state["question"]["kind"] == "check":
            pair = (state["question"]["item"]["id"], state["question"]["partner"]["id"])
            assert "is wrong with a probability of" in state["question"]["reason"]
            assert client.ask("POST", "/api/answer", {"revision": state["revision"], "answer": "none"})[0] == 422
            assert client.get("/api/more")["rows"] == []
            checked.add(pair)
            state = client.send("/api/answer", answer="wrong" if pair in wrong else "right")
        assert wrong <= checked
        assert state["total"] - state["done"] == 2  # then the items
    with (out / "wrong.csv").open(newline="") as file:
        assert {tuple(row) for row in [*csv.reader(file)][1:]} == wrong
    assert pairs_in(out) == [["image", "caption"]]  # known pairs are not new ones
    assert results[0].wrong == 1
    assert ", 1 wrong" in results[0].summary()


def test_a_suspect_pair_that_is_not_known_any_more_is_not_asked_about(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    with label_world.page_of(out, _with_a_wrong_pair(data)[0], count=2) as (address, _):
        before = Client(address).get("/api/state")
    assert before["question"]["kind"] == "check"
    with label_world.page_of(out, label_world.pools_of(data), count=2) as (address, _):
        assert Client(address).get("/api/state")["total"] == 2


def test_items_of_the_other_side_can_be_asked_about(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    with label_world.page_of(out, label_world.pools_of(data), count=2, side="caption") as (address, _):
        client = Client(address)
        state = client.get("/api/state")
        assert state["question"]["item"]["kind"] == "text"
        assert {row["kind"] for row in state["question"]["candidates"]} == {"image"}
        chosen, item = state["question"]["candidates"][2], state["question"]["item"]
        client.send("/api/answer", answer="partner", row=chosen["row"])
        client.send("/api/answer", answer="none")
    assert pairs_in(out)[1] == [chosen["id"], item["id"]]
    assert pairs_in(out)[2][0] == "-"


def test_an_answer_whose_partner_has_gone_is_kept_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = label_world.make_dataset(tmp_path / "one")
    out = tmp_path / "labels"
    with label_world.page_of(out, label_world.pools_of(first), count=2) as (address, _):
        client = Client(address)
        chosen = client.get("/api/state")["question"]["candidates"][0]
        client.send("/api/answer", answer="partner", row=chosen["row"])
    lines = (tmp_path / "one" / "captions.jsonl").read_text().splitlines()
    (tmp_path / "fewer.jsonl").write_text("\n".join(line for line in lines if json.loads(line)["id"] != chosen["id"]))
    run_ok("ingest", tmp_path / "fewer.jsonl", "--modality", "caption", "--out", tmp_path / "two")
    run_ok("ingest", tmp_path / "one" / "pictures", "--modality", "image", "--out", tmp_path / "two")
    capsys.readouterr()
    with label_world.page_of(out, label_world.pools_of(tmp_path / "two"), count=2):
        pass
    assert "1 answer about rows that are not in" in capsys.readouterr().err
    assert pairs_in(out) == [["image", "caption"]]
    assert len((out / "labels.jsonl").read_text().splitlines()) == 1

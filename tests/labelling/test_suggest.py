"""`setclip suggest`: a sheet to fill in, that ingest takes as it is."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_world
import torch
from PIL import Image

from setclip_cli.dataset.dataset import Pair, open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.labelling.choose import choose_items
from setclip_cli.labelling.sheet import Asked, sheet_csv, sheet_page, shown_rows
from setclip_cli.labelling.suggest import suggest
from setclip_cli.labelling.suggest_options import SuggestOptions
from setclip_cli.pools import Pools, PoolSide, read_pools
from setclip_cli.recipe.recipe import Recipe

HOSTILE = [
    '=HYPERLINK("http://x","y")',
    "+1+cmd",
    "@sum(a)",
    "-",
    "-7",
    "'=quoted",
    'a,b"c;d',
    "<script>alert(1)</script>",
]


def vectors(folder: Path, ids: dict[str, list[str]] | None = None, *more: object) -> Path:
    """A DATASET of radar and sonar vectors."""
    draw = np.random.default_rng(0)
    sources = []
    for name, rows, width in (("radar", 40, 6), ("sonar", 30, 5)):
        given = (ids or {}).get(name, [])
        values = draw.normal(size=(rows, width)).astype(np.float32)
        names = [given[row] if row < len(given) else f"{name}{row:02d}" for row in range(rows)]
        path = folder / f"{name}.parquet"
        vector = pa.array(values.tolist(), pa.list_(pa.float32(), width))
        pq.write_table(pa.table({"id": names, "vector": vector}), path)
        sources.append(f"{name}={path}")
    small_world.run_ok("ingest", *sources, "--kind", "vector", "--out", folder / "data", *more)
    return folder / "data"


def rows_of(sheet: Path) -> list[dict[str, str]]:
    with (sheet / "suggest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fill(sheet: Path, answers: dict[str, str], column: str = "sonar", item: str = "radar") -> None:
    """Writes the answers as a spreadsheet would, all columns kept."""
    rows = rows_of(sheet)
    with (sheet / "suggest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {column: answers.get(row[item], row[column])})


class Page(HTMLParser):
    """The tags of a page with what they name, and its words."""

    def __init__(self, path: Path | str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(path.read_text(encoding="utf-8") if isinstance(path, Path) else path)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def require_self_contained(self) -> None:
        assert not [tag for tag, _ in self.tags if tag in ("script", "iframe", "object", "embed", "form", "base")]
        for _, attributes in self.tags:
            assert not [name for name in attributes if name.startswith("on")]
            for name in ("src", "href"):
                assert (attributes.get(name) or "data:").startswith("data:")


def test_a_sheet_without_any_pair_is_filled_in_and_ingested(tmp_path: Path) -> None:
    data, sheet = vectors(tmp_path), tmp_path / "sheet"
    found = json.loads(small_world.run_ok("suggest", data, "--count", 6, "--out", sheet, "--json"))
    rows = rows_of(sheet)
    assert [row["radar"] for row in rows] == [each["id"] for each in found["suggestions"]]
    assert len({row["radar"] for row in rows}) == 6
    assert {row["sonar"] for row in rows} == {""}
    assert all(row["why"].startswith("stands for ") for row in rows)
    page = Page(sheet / "suggest.html")
    page.require_self_contained()
    for each in found["suggestions"]:
        assert each["id"] in page.words
        assert len(each["candidates"]) == len(set(each["candidates"])) == 8
        assert all(candidate in page.words for candidate in each["candidates"])
    answers = {rows[0]["radar"]: "sonar03", rows[2]["radar"]: "sonar04", rows[3]["radar"]: "-"}
    fill(sheet, answers)
    done = json.loads(small_world.run_ok("ingest", "--pairs", sheet / "suggest.csv", "--out", data, "--json"))
    assert (done["pairs"], done["pairs_unanswered"], done["pairs_without_partner"]) == (2, 3, 1)
    dataset = open_dataset(data)
    assert set(dataset.pairs()) == {
        Pair("radar", rows[number]["radar"], "sonar", partner, "train")
        for number, partner in ((0, "sonar03"), (2, "sonar04"))
    }
    assert dataset.lone_items() == {("radar", rows[3]["radar"])}
    # What was answered is not asked again; what was left empty may be.
    again = json.loads(small_world.run_ok("suggest", data, "--count", 100, "--out", tmp_path / "next", "--json"))
    assert {each["id"] for each in again["suggestions"]} == {f"radar{row:02d}" for row in range(40)} - answers.keys()
    assert again["known"] == 2


def test_the_installed_command_writes_the_sheet(tmp_path: Path) -> None:
    data = vectors(tmp_path)
    command = [sys.executable, "-m", "setclip_cli", "suggest", str(data), "--count", "3", "--side", "sonar", "--out"]
    done = subprocess.run([*command, str(tmp_path / "s")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"setclip ingest --pairs {tmp_path}/s/suggest.csv --out {data}" in done.stdout
    assert f"setclip ingest --pairs {tmp_path}/s/suggest.csv --out {data}" in (tmp_path / "s/suggest.html").read_text()
    rows = rows_of(tmp_path / "s")
    assert [row["radar"] for row in rows] == ["", "", ""]
    assert all(row["sonar"].startswith("sonar") for row in rows)


def test_hostile_ids_are_no_formulas_and_come_back_as_they_were(tmp_path: Path) -> None:
    data, sheet = vectors(tmp_path, {"radar": HOSTILE, "sonar": HOSTILE}), tmp_path / "sheet"
    small_world.run_ok("suggest", data, "--count", 40, "--candidates", 30, "--out", sheet)
    text = (sheet / "suggest.csv").read_text(encoding="utf-8")
    for line in csv.reader(text.splitlines()):
        assert not [cell for cell in line if cell and cell[0] in "=+-@"]
    page = Page(sheet / "suggest.html")
    page.require_self_contained()
    assert all(identifier in page.words for identifier in HOSTILE)
    cells = {row["radar"] for row in rows_of(sheet)}
    shown = {"'" + identifier if identifier[0] in "=+-@'" else identifier: identifier for identifier in HOSTILE}
    assert shown.keys() <= cells
    fill(sheet, {cell: cell for cell in shown})  # each with its namesake, written as the page shows it
    small_world.run_ok("ingest", "--pairs", sheet / "suggest.csv", "--out", data)
    pairs = open_dataset(data).pairs()
    assert {(pair.left_id, pair.right_id) for pair in pairs} == {(each, each) for each in HOSTILE}


def test_a_sheet_with_answers_is_not_written_over(tmp_path: Path) -> None:
    data, sheet = vectors(tmp_path), tmp_path / "sheet"
    suggest(data, sheet, SuggestOptions(count=3))
    suggest(data, sheet, SuggestOptions(count=4))  # nothing was filled in
    assert len(rows_of(sheet)) == 4
    for answer in ("sonar01", "-"):
        fill(sheet, {rows_of(sheet)[1]["radar"]: answer})
        before = (sheet / "suggest.csv").read_bytes()
        with pytest.raises(SetClipError, match="has 1 answer"):
            suggest(data, sheet, SuggestOptions(count=3))
        assert (sheet / "suggest.csv").read_bytes() == before
    (sheet / "suggest.csv").write_text("my,notes\n1,2\n")
    with pytest.raises(SetClipError, match="is not a sheet that can be replaced"):
        suggest(data, sheet)
    assert (sheet / "suggest.csv").read_text() == "my,notes\n1,2\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--side", "sonor"], 2, "did you mean 'sonar'"),
        (["--count", "0"], 2, "count"),
        (["--split", "test"], 3, "no radar rows in split 'test'"),
        (["--run", "nowhere"], 3, "nowhere"),
        (["--run", "nowhere", "--recipe", "vectors"], 2, "both given"),
    ],
)
def test_bad_input_says_what_is_wrong(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    data = vectors(tmp_path)
    found, _, stderr = small_world.invoke("suggest", data, "--out", tmp_path / "s", *arguments)
    assert (found, words in stderr) == (code, True), stderr
    assert not (tmp_path / "s").exists()


def test_one_side_alone_and_a_folder_of_other_things_are_refused(tmp_path: Path) -> None:
    data = vectors(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("words")
    code, _, stderr = small_world.invoke("suggest", data, "--out", tmp_path / "mine")
    assert (code, "not a SHEET folder" in stderr) == (3, True)
    small_world.run_ok("ingest", f"radar={tmp_path / 'radar.parquet'}", "--kind", "vector", "--out", tmp_path / "one")
    code, _, stderr = small_world.invoke("suggest", tmp_path / "one", "--out", tmp_path / "s")
    assert (code, "add the other side" in stderr) == (3, True)


def test_a_run_shows_its_likely_partners_and_says_where_it_is_unsure(tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text(
        "radar,sonar\n" + "".join(f"radar{row:02d},sonar{row:02d}\n" for row in range(8))
    )
    data = vectors(tmp_path, None, "--pairs", tmp_path / "some.csv")
    towers = "".join(f'[towers.{name}]\nbackbone = "vector"\n' for name in ("radar", "sonar"))
    (tmp_path / "recipe.toml").write_text(f'schema_version = 2\nmethod = "cca"\n{towers}')
    small_world.run_ok("align", tmp_path / "recipe.toml", "--data", data, "--out", tmp_path / "run")
    given = ("--run", tmp_path / "run", "--count", 5, "--candidates", 1, "--out", tmp_path / "s", "--json")
    found = json.loads(small_world.run_ok("suggest", data, *given))
    pools = read_pools(data, run=tmp_path / "run")
    left, right = (side.embeddings for side in pools.sides)
    assert left is not None
    assert right is not None
    for each in found["suggestions"]:
        assert each["id"] > "radar07"  # the others have a known partner
        assert "the RUN is " in each["reason"]
        nearest = int((right @ left[pools.left.ids.index(each["id"])]).argmax())
        assert each["candidates"] == [pools.right.ids[nearest]]
    assert f"candidates by {tmp_path / 'run'}" in Page(tmp_path / "s" / "suggest.html").words


def test_nothing_is_left_to_ask(tmp_path: Path) -> None:
    lines = [f"radar{row:02d},sonar{row % 30:02d}" for row in range(40)]
    (tmp_path / "all.csv").write_text("\n".join(["radar,sonar", *lines]) + "\n")
    data = vectors(tmp_path, None, "--pairs", tmp_path / "all.csv")
    with pytest.raises(SetClipError, match="no radar of split 'train' is left") as caught:
        suggest(data, tmp_path / "s")
    assert "align" in caught.value.fix


def pools_by_hand(folder: Path, texts: list[str]) -> Pools:
    """Images and captions with features of a generator, so that no backbone is read."""
    (folder / "i").mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (90, 300, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "i" / f"{number}.png")
    (folder / "c.jsonl").write_text(
        "".join(json.dumps({"id": f"c{n}", "text": text}) + "\n" for n, text in enumerate(texts))
    )
    small_world.run_ok("ingest", f"image={folder / 'i'}", f"caption={folder / 'c.jsonl'}", "--out", folder / "data")
    dataset = open_dataset(folder / "data")
    sides = []
    for name, kind in (("image", "image"), ("caption", "text")):
        ids = dataset.table(name, "train", ["id"])["id"].to_pylist()
        features = torch.randn(len(ids), 4, generator=torch.Generator().manual_seed(1))
        sides.append(PoolSide(name, kind, ids, features))  # type: ignore[arg-type]
    towers: dict[str, Any] = {
        "image": {"backbone": "timm:tf_efficientnet_lite0"},
        "caption": {"backbone": "sentence-transformers:all-MiniLM-L6-v2"},
    }
    recipe = Recipe.model_validate({"schema_version": 2, "method": "transport", "towers": towers})
    empty = torch.zeros(0, 2, dtype=torch.int64)
    return Pools(dataset, "train", sides[0], sides[1], empty, empty[:, 0], None, recipe, None)


def test_images_are_thumbnails_and_hostile_texts_stay_texts(tmp_path: Path) -> None:
    texts = [
        "=cmd|' /C calc'!A0",
        "two\nlines\tand a tab",
        "<script>alert(1)</script> & <b>bold</b>",
        "x" * 900,
        "\u202eturned",
        "plain",
    ]
    pools = pools_by_hand(tmp_path, texts)
    for side in (0, 1):
        suggestions = choose_items(pools, 6, side=side)
        others = shown_rows(pools, 1 - side, set(range(6)))
        items = shown_rows(pools, side, {each.row for each in suggestions})
        asked = [Asked(each, items[each.row], list(others.values())) for each in suggestions]
        page = Page(sheet_page(pools, side, asked, csv="suggest.csv", command="setclip ingest"))
        page.require_self_contained()
        pictures = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
        assert len(pictures) == (36 if side else 6)
        assert all(source.startswith("data:image/jpeg;base64,") for source in pictures)
        assert "<script>alert(1)</script> & <b>bold</b>" in page.words
        assert "\u202e" not in page.words
        assert "None of these" in page.words
        rows = list(csv.reader(sheet_csv(("image", "caption"), side, asked).splitlines()))
        assert len(rows) == 7
        assert all(len(row) == 4 and not row[3].startswith(("=", "\u202e")) for row in rows)
        assert (side == 0) == all(row[0] and not row[1] for row in rows[1:])


def test_suggestions_do_not_depend_on_the_order_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("setclip_cli.labelling.choose.TARGETS", 20)  # so that there is something to draw
    pools = pools_by_hand(tmp_path, [f"words {number}" for number in range(6)])
    features = torch.randn(60, 5, generator=torch.Generator().manual_seed(2))
    ids = [f"row {number * 37 % 61}" for number in range(60)]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    found = []
    for numbers in (torch.arange(60), order):
        side = PoolSide("image", "image", [ids[number] for number in numbers], features[numbers])
        pools = Pools(pools.dataset, "train", side, pools.right, pools.pairs, pools.items, None, pools.recipe, None)
        suggestions = choose_items(pools, 9, seed=4)
        assert all(side.ids[each.row] == each.id for each in suggestions)
        found.append([(each.id, each.score, each.reason) for each in suggestions])
    assert found[0] == found[1]

"""The search by words on the page of `setclip label`: what fits best comes first."""

from __future__ import annotations

import json

import pytest
import small_world
import torch

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.web.rows import Rows

TEXTS = {
    "a1": "a residential area with a high afforestation rate",
    "a2": "a Forest beside a river",
    "a3": "a river in the green forest",
    "forest_7": "a meadow",
    "a4": "a Forest beside a river",
    "a5": "ein großer Fluß, und Flüsse",
    "a6": "the river forest",
    "a7": "50% of a.b",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    folder = tmp_path_factory.mktemp("words")
    lines = [json.dumps({"id": name, "text": text}) for name, text in TEXTS.items()]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    small_world.run_ok(
        "ingest", folder / "captions.jsonl", "--modality", "caption", "--keep-duplicates", "--out", folder / "data"
    )
    dataset = open_dataset(folder / "data")
    return Rows(dataset, "caption", "train")


def found(rows: Rows, words: str, likely: torch.Tensor | None = None) -> list[str]:
    return [rows.ids[row] for row in rows.with_words(words, likely)]


def test_whole_words_come_before_parts_of_words_and_texts_before_ids(rows: Rows) -> None:
    assert found(rows, "forest")[:5] == ["a2", "a3", "a6", "a1", "forest_7"]


def test_words_side_by_side_come_first(rows: Rows) -> None:
    assert found(rows, "river forest")[0] == "a6"
    assert set(found(rows, "forest river")) == {"a2", "a3", "a4", "a6"}


def test_among_equals_the_likely_row_is_first(rows: Rows) -> None:
    for name in ("a3", "a6", "a4"):
        likely = torch.tensor([float(each == name) for each in rows.ids])
        assert found(rows, "forest", likely)[0] == name


def test_copies_of_a_text_follow_at_the_end(rows: Rows) -> None:
    assert found(rows, "forest")[5:] == ["a4"]


@pytest.mark.parametrize(("words", "names"), [("fluß", ["a5"]), ("FLÜSSE", ["a5"]), ("50%", ["a7"]), ("a.b", ["a7"])])
def test_letters_of_every_script_and_signs_are_what_they_are(rows: Rows, words: str, names: list[str]) -> None:
    assert found(rows, words) == names

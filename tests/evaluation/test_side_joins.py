"""What evaluation joins: captions with what they describe, the classes of both sides, a task set with the labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation import worlds
from setclip_cli.dataset.dataset import Dataset, open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.evaluation.evaluate import evaluate
from setclip_cli.evaluation.evaluation_set import read_evaluation_set
from setclip_cli.evaluation.options import EvaluateOptions
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions


def dataset(root: Path, groups: dict[str, list[str]], images: list[str]) -> Dataset:
    """Images at these paths, and one file of captions for each key with these groups; all in split train."""
    for number, name in enumerate(images):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    folders = list(dict.fromkeys(root / name.split("/")[0] for name in images))
    ingest(folders, root / "out", IngestOptions(modality="image", split="train"))
    for name, named in groups.items():
        lines = [json.dumps({"text": f"{name} {number}", "group": group}) for number, group in enumerate(named)]
        (root / name).write_text("\n".join(lines))
        ingest(root / name, root / "out", IngestOptions(modality="caption"))
    return open_dataset(root / "out")


def answers(data: Dataset) -> dict[str, list[str]]:
    rows = read_evaluation_set(data, "image", "caption", split="train", rule="group")
    relevance = rows.relevance()[1]
    return {name: [rows.left.ids[at] for at in relevance.of(row)] for row, name in enumerate(rows.right.ids)}


def test_groups_in_other_spellings_find_their_images(tmp_path: Path) -> None:
    data = dataset(tmp_path, {"c.jsonl": ["2.png", "1", "deep/3.png"]}, ["in/x/1.png", "in/x/2.png", "in/deep/3.png"])
    assert answers(data) == {"2.png#0": ["x/2.png"], "1#0": ["x/1.png"], "deep/3.png#0": ["deep/3.png"]}


def test_a_group_that_two_images_have_is_right_for_neither_unless_its_source_says_which(tmp_path: Path) -> None:
    names = ["forest/1.png", "forest/2.png", "river/1.png"]
    data = dataset(tmp_path, {"c.jsonl": ["1.png", "2.png"], "river/d.jsonl": ["1.png"]}, names)
    assert answers(data) == {"1.png#0": [], "2.png#0": ["2.png"], "d.jsonl/1.png#0": ["river/1.png"]}
    rows = read_evaluation_set(data, "image", "caption", split="train", rule="group")
    assert rows.excluded["caption groups that several image rows could be"] == 1


def test_the_report_counts_both_sides_and_few_common_classes_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = worlds.dataset(tmp_path / "data")
    model = worlds.embeddings(tmp_path / "model", data)
    (join,) = evaluate([model], data, tmp_path / "report").content["joins"]
    assert (join["matched"], join["unmatched_left"], join["unmatched_right"]) == (4, 0, 0)
    assert "WARNING" not in capsys.readouterr().err
    data = worlds.relabel(data, {f"c{n:03}": f"other {n % 4}" for n in range(60) if n % 4})
    (join,) = evaluate([model], data, tmp_path / "again").content["joins"]
    assert (join["matched"], join["unmatched_left"], join["unmatched_right"]) == (1, 3, 3)
    assert join["example_right"].startswith("other")
    assert "WARNING: 1 of 4 image classes of split test" in capsys.readouterr().err


def test_nothing_in_common_names_an_example_of_each_side(tmp_path: Path) -> None:
    data = worlds.dataset(tmp_path / "data")
    model = worlds.embeddings(tmp_path / "model", data)
    data = worlds.relabel(data, {f"c{n:03}": "elsewhere" for n in range(60)})
    with pytest.raises(SetClipError, match="have the same label: for example 'forest' on one side, 'elsewhere'"):
        evaluate([model], data, tmp_path / "report", EvaluateOptions(relevance="label"))

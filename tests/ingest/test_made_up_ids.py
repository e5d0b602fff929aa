"""Ids that the program makes up are unique within a DATASET, and the same when the same sources come again."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.dataset.verify import verify
from setclip_cli.ingest.earlier_sources import PathEnds
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.ingest.progress import Progress, WrittenBatch

CAPTIONS, IMAGES = IngestOptions(modality="caption"), IngestOptions(modality="image")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def image(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return path


def ids(out: Path, modality: str) -> list[str]:
    return open_dataset(out).table(modality, None, ["id"])["id"].to_pylist()  # type: ignore[no-any-return,arg-type]


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_line_number_that_is_taken_gets_the_folder_of_its_file(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}/captions.txt", f"a {name}\nb {name}\n") for name in ("first", "second")]
    result = ingest(files, tmp_path / "out", CAPTIONS)
    assert ids(tmp_path / "out", "caption") == [
        "captions.txt:1",
        "captions.txt:2",
        "second/captions.txt:1",
        "second/captions.txt:2",
    ]
    assert result.new[1]["repairs"] == {"id made longer, because another row has it": 2}


def test_a_path_below_a_source_that_is_taken_gets_the_name_of_the_source(tmp_path: Path) -> None:
    for number, place in enumerate(["forest/1.png", "forest/2.png", "river/1.png", "river/3.png"]):
        image(tmp_path / place, number)
    ingest([tmp_path / "forest", tmp_path / "river"], tmp_path / "out", IMAGES)
    assert ids(tmp_path / "out", "image") == ["1.png", "2.png", "river/1.png", "3.png"]


def test_single_images_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    files = [image(tmp_path / f"{folder}/1.png", number) for number, folder in enumerate("abc")]
    ingest(files, tmp_path / "out", IMAGES)
    assert ids(tmp_path / "out", "image") == ["1.png", "b/1.png", "c/1.png"]


def test_the_number_of_a_caption_in_its_group_gets_the_path_of_its_table(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{folder}/ann.csv", f"image,caption\nx.jpg,{folder} words\n") for folder in "abc"]
    ingest(files, tmp_path / "out", CAPTIONS)
    assert ids(tmp_path / "out", "caption") == ["x.jpg#0", "b/ann.csv/x.jpg#0", "c/ann.csv/x.jpg#0"]


def test_a_made_up_id_makes_room_for_one_that_the_data_give_in_the_same_file(tmp_path: Path) -> None:
    rows = [{"id": "x.jpg#1", "group": "x.jpg", "text": "given"}, {"group": "x.jpg", "text": "made up"}]
    ingest(write(tmp_path / "c.jsonl", "\n".join(map(json.dumps, rows))), tmp_path / "out", CAPTIONS)
    assert ids(tmp_path / "out", "caption") == ["x.jpg#1", "c.jsonl/x.jpg#1"]


def test_an_exact_repeat_is_left_out_and_kept_with_its_own_id_if_repeats_are_kept(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        image(tmp_path / folder / "1.png", 0)
    ingest([tmp_path / "a", tmp_path / "b"], tmp_path / "once", IMAGES)
    assert ids(tmp_path / "once", "image") == ["1.png"]
    ingest([tmp_path / "a", tmp_path / "b"], tmp_path / "all", IngestOptions(modality="image", keep_duplicates=True))
    assert ids(tmp_path / "all", "image") == ["1.png", "b/1.png"]


def test_an_image_with_a_longer_id_is_drawn_into_the_split_that_its_captions_are_drawn_into(tmp_path: Path) -> None:
    drawn = "train=0.5,test=0.5"
    for number in range(12):
        image(tmp_path / f"a/{number}.png", number)
        image(tmp_path / f"b/{number}.png", 100 + number)
    ingest([tmp_path / "a", tmp_path / "b"], tmp_path / "out", IngestOptions(modality="image", split=drawn))
    rows = open_dataset(tmp_path / "out").table("image", None, ["id", "split"]).to_pylist()
    split_of = {row["id"]: row["split"] for row in rows}
    assert all(split_of[f"b/{number}.png"] == split_of[f"{number}.png"] for number in range(12))


@pytest.mark.parametrize(
    ("earlier", "ends"),
    [
        ([], ("x", "b/x", "d/b/x")),
        (["/d/a/y"], ("x", "b/x", "d/b/x")),
        (["/d/a/x", "/e"], ("b/x", "d/b/x")),
        (["/d/a/x", "/e/b/x", "/d/a/x"], ("d/b/x",)),
        (["/d/b/x"], ("x", "b/x", "d/b/x")),  # the same file, read for another modality
        (["/d/b/x", "/c/x", "/d/b/x"], ("b/x", "d/b/x")),
        (["/a/d/b/x"], ()),
    ],
)
def test_the_first_end_is_the_shortest_that_no_earlier_source_has(earlier: list[str], ends: tuple[str, ...]) -> None:
    known = PathEnds()
    for path in earlier:
        known.add(Path(path))
    assert known.new_ends(Path("/d/b/x")) == ends
    assert known.has_other(Path("/d/b/x")) == bool(set(earlier) - {"/d/b/x"})


def random_sources(root: Path, seed: int) -> list[Path]:
    """Tables and texts of few names in few folders, so that nearly everything collides."""
    draw = random.Random(seed)
    paths = []
    for number in range(draw.randint(2, 6)):
        kind = draw.choice(["captions.txt", "ann.csv", "mix.jsonl"])
        path = root / str(number) / draw.choice("ab") / kind
        words = [f"words {draw.randrange(40)}" for _ in range(draw.randint(1, 12))]
        if kind == "captions.txt":
            text = "\n".join(words)
        elif kind == "ann.csv":
            text = "\n".join(["image,caption", *(f"{draw.choice('xyz')}.jpg,{each}" for each in words)])
        else:
            rows = [{"text": each, "group": draw.choice(["x.jpg", "y.jpg", None])} for each in words]
            for row in rows[::3]:
                row["id"] = f"given {number} {draw.random()}"
            text = "\n".join(map(json.dumps, rows))
        paths.append(write(path, text + "\n"))
    return paths


@pytest.mark.parametrize("seed", range(4))
def test_random_sources_give_unique_ids_that_stay_after_stops_changes_and_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    paths = random_sources(tmp_path / "in", seed)
    options = IngestOptions(modality="caption", max_bad_fraction=1, keep_duplicates=seed % 2 == 0)
    result = ingest(paths, tmp_path / "out", options, shard_rows=8)
    found = ids(tmp_path / "out", "caption")
    assert len(set(found)) == len(found)
    assert all(entry["bad"] == 0 for entry in result.new)  # made-up ids never make a reject
    assert sum(entry["read"] for entry in result.new) == len(found) + sum(result.index.rejects.values())

    for path in paths:
        ingest(path, tmp_path / "one by one", options, shard_rows=8)
    assert contents(tmp_path / "one by one") == contents(tmp_path / "out")

    real, left = Progress.add, random.Random(seed).randint(1, 5)

    def stopping(self: Progress, batch: WrittenBatch) -> None:
        nonlocal left
        real(self, batch)
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "add", stopping)
        with contextlib.suppress(KeyboardInterrupt):
            ingest(paths, tmp_path / "stopped", options, shard_rows=8)
    ingest(paths, tmp_path / "stopped", options, shard_rows=8)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "out")

    before = paths[0].read_text()
    paths[0].write_text(before.splitlines()[0] + "\n" + before.splitlines()[-1] + " and more\n")
    ingest(paths, tmp_path / "out", options, shard_rows=8)
    paths[0].write_text(before)
    ingest(paths, tmp_path / "out", options, shard_rows=8)
    assert ids(tmp_path / "out", "caption") == found
    verify(tmp_path / "out")

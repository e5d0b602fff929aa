"""Groups that the program makes up, for lists of captions without an image, are unique in a DATASET."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.ingest.progress import Progress, WrittenBatch

CAPTIONS = IngestOptions(modality="caption")


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lists(path: Path, *rows: object) -> Path:
    return write(path, "".join(json.dumps(row if isinstance(row, dict) else {"captions": row}) + "\n" for row in rows))


def tar(path: Path, **members: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, value in members.items():
            content = json.dumps(value).encode()
            info = tarfile.TarInfo(f"{name}.json")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def rows(out: Path) -> dict[str, tuple[str | None, str]]:
    table = open_dataset(out).table("caption", None, ["id", "group", "text"])
    return {row["id"]: (row["group"], row["text"]) for row in table.to_pylist()}


def test_lists_of_two_files_of_one_name_are_two_groups(tmp_path: Path) -> None:
    files = [lists(tmp_path / "a/c.jsonl", ["a lake", "a pond"]), lists(tmp_path / "b/c.jsonl", ["a lake", "a road"])]
    result = ingest(files, tmp_path / "out", CAPTIONS)
    assert rows(tmp_path / "out") == {
        "c.jsonl:1#0": ("c.jsonl:1", "a lake"),
        "c.jsonl:1#1": ("c.jsonl:1", "a pond"),
        "b/c.jsonl:1#0": ("b/c.jsonl:1", "a lake"),  # the same words about another thing
        "b/c.jsonl:1#1": ("b/c.jsonl:1", "a road"),
    }
    assert result.new[1]["repairs"] == {"group and id made longer, so that no other source has them": 2}


def test_a_list_with_an_id_keeps_it_and_gets_its_own_group(tmp_path: Path) -> None:
    files = [
        lists(tmp_path / f"{name}/c.jsonl", {"id": name, "captions": [f"{name} one", f"{name} two"]}) for name in "ab"
    ]
    ingest(files, tmp_path / "out", CAPTIONS)
    assert {name: group for name, (group, _) in rows(tmp_path / "out").items()} == {
        "a#0": "c.jsonl:1",
        "a#1": "c.jsonl:1",
        "b#0": "b/c.jsonl:1",
        "b#1": "b/c.jsonl:1",
    }


def test_lists_of_two_archives_are_two_groups(tmp_path: Path) -> None:
    paths = [tar(tmp_path / f"{name}.tar", one={"captions": ["a lake", f"{name} pond"]}) for name in "ab"]
    paths.append(tar(tmp_path / "more/b.tar", one=["a lake", "a brook"]))
    ingest(paths, tmp_path / "out", CAPTIONS)
    assert {name: group for name, (group, _) in rows(tmp_path / "out").items()} == {
        "one.json#0": "one.json",
        "one.json#1": "one.json",
        "b.tar/one.json#0": "b.tar/one.json",
        "b.tar/one.json#1": "b.tar/one.json",
        "more/b.tar/one.json#0": "more/b.tar/one.json",
        "more/b.tar/one.json#1": "more/b.tar/one.json",
    }


def png(seed: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(content, "PNG")
    return content.getvalue()


def test_the_group_of_an_image_without_a_name_is_still_its_id(tmp_path: Path) -> None:
    """Two rows of the second file come after the end of the first: their images keep short ids."""
    paths = []
    for name, count in (("a", 2), ("b", 4)):
        images = [{"bytes": png(10 * count + number), "path": None} for number in range(count)]
        path = tmp_path / name / "x.parquet"
        path.parent.mkdir()
        pq.write_table(pa.table({"image": images, "caption": [["words", f"more {i}"] for i in range(count)]}), path)
        paths.append(path)
    ingest(paths, tmp_path / "out", IngestOptions(modality="image"))
    result = ingest(paths, tmp_path / "out", IngestOptions(modality="caption", pairs_from_group=True))
    pairs = [(pair.left_id, pair.right_id) for pair in open_dataset(tmp_path / "out").pairs()]
    assert result.pairs == len(pairs) == 12
    for image, caption in pairs:
        number = image.rpartition(":")[2]
        folder = "b/" if image.startswith("b/") or number in "34" else ""
        assert caption.startswith(f"{folder}x.parquet:{number}#")


def test_proteins_without_ids_and_their_captions_stay_together(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a/p.csv", "sequence,name\nMKVLA,one\nMKVLC,two\n"),
        write(tmp_path / "b/p.csv", "sequence,name\nMKVLD,one\nMKVLE,three\nMKVLF,four\n"),
    ]
    options = IngestOptions(modality="protein", captions_from="name", pairs_from_group=True)
    result = ingest(paths, tmp_path / "out", options)
    assert [entry["bad"] for entry in result.new] == [0, 0]
    text_of = {name: text for name, (_, text) in rows(tmp_path / "out").items()}
    table = open_dataset(tmp_path / "out").table("protein", None, ["id", "sequence"]).to_pylist()
    sequence_of = {row["id"]: row["sequence"] for row in table}
    pairs = open_dataset(tmp_path / "out").pairs()
    found = sorted((sequence_of[pair.left_id][-1], text_of[pair.right_id]) for pair in pairs)
    assert found == [("A", "one"), ("C", "two"), ("D", "one"), ("E", "three"), ("F", "four")]


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_made_up_groups_stay_after_a_stop_and_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    paths = [
        lists(tmp_path / f"{name}/c.jsonl", *([f"{name}{i}{j}" for j in range(3)] for i in range(3))) for name in "ab"
    ]
    ingest(paths, tmp_path / "out", CAPTIONS, shard_rows=4)
    for path in paths:
        ingest(path, tmp_path / "one by one", CAPTIONS, shard_rows=4)
    real, left = Progress.add, stop_after

    def stopping(self: Progress, batch: WrittenBatch) -> None:
        nonlocal left
        real(self, batch)
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "add", stopping)
        with pytest.raises(KeyboardInterrupt):
            ingest(paths, tmp_path / "stopped", CAPTIONS, shard_rows=4)
    ingest(paths, tmp_path / "stopped", CAPTIONS, shard_rows=4)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet")}
    for other in ("one by one", "stopped"):
        assert {path.name: path.read_bytes() for path in (tmp_path / other).rglob("*.parquet")} == expected
    assert len({group for group, _ in rows(tmp_path / "out").values()}) == 6


def test_labels_by_the_group_of_a_list_mean_the_list_of_one_source(tmp_path: Path) -> None:
    files = [lists(tmp_path / f"{name}/c.jsonl", [f"{name} lake", f"{name} pond"]) for name in "ab"]
    labels = write(tmp_path / "labels.csv", "id,label\na/c.jsonl:1,first\nb/c.jsonl:1,second\n")
    ingest(files, tmp_path / "out", IngestOptions(modality="caption", labels=labels))
    table = open_dataset(tmp_path / "out").table("caption", None, ["text", "label"]).to_pylist()
    assert {row["text"]: row["label"] for row in table} == {
        "a lake": "first",
        "a pond": "first",
        "b lake": "second",
        "b pond": "second",
    }

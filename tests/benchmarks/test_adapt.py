"""The benchmark of adaptation runs whole on a tiny source and a tiny target."""

from __future__ import annotations

import json
from pathlib import Path

import adapt
import pytest
from small_world import run_ok

from setclip_cli.methods import no_pairs
from tests import tiny


def dataset(folder: Path, words: str, seed: int) -> Path:
    """Images with two captions each, half of them for the test."""
    (folder / "images").mkdir(parents=True)
    captions, labels = [], ["id,label"]
    for number in range(26):
        name = f"{number:02d}.jpg"
        (folder / "images" / name).write_bytes(tiny.jpeg(seed + number))
        labels.append(f"{name},{('a', 'b')[number % 2]}")
        captions += [
            {"id": f"{name}#{n}", "text": f"{words} {number} {n}", "group": name, "label": ("a", "b")[number % 2]}
            for n in range(2)
        ]
    for split, numbers in (("train", range(18)), ("test", range(18, 26))):
        of_split = folder / split
        of_split.mkdir()
        for number in numbers:
            (folder / "images" / f"{number:02d}.jpg").rename(of_split / f"{number:02d}.jpg")
        lines = [json.dumps(each) for each in captions if int(each["group"][:2]) in numbers]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        (folder / f"{split}.csv").write_text("\n".join([labels[0], *(labels[1 + number] for number in numbers)]) + "\n")
        options = ("--split", split, "--out", folder / "data")
        run_ok("ingest", of_split, "--modality", "image", "--labels", folder / f"{split}.csv", *options)
        run_ok("ingest", folder / f"{split}.jsonl", "--modality", "caption", "--pairs-from-group", *options)
    return folder / "data"


@pytest.mark.slow
def test_the_ways_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(no_pairs, "DRAWS", 1)
    monkeypatch.setattr(no_pairs, "STARTS", 1)
    towers = {
        "image": {"backbone": f"timm:{tiny.TINY_TIMM}", "weights": str(tiny.timm_weights(tmp_path))},
        "caption": {
            "backbone": "sentence-transformers:all-MiniLM-L6-v2",
            "weights": str(tiny.sentence_folder(tmp_path / "text")),
        },
    }
    monkeypatch.setattr(adapt, "TOWERS", towers)
    source, target = (
        dataset(tmp_path / name, words, seed)
        for name, words, seed in (("photos", "a dog", 0), ("scenes", "from above", 100))
    )
    folders = ("--source", str(source), "--target", str(target), "--out", str(tmp_path / "out"))
    small = [word for setting in ("train.steps=3", "projection.dim=8", "train.batch=8") for word in ("--set", setting)]
    adapt.main([*folders, "--labels", "--seeds", "1", "--known", "0", *small])
    lines = capsys.readouterr().out.splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    assert [each["way"] for each in records] == list(adapt.ways(Path()))
    assert all(0 < each["mean recall"] <= 100 and 0 < each["mAP"] <= 100 for each in records)
    assert len([line for line in lines if line.startswith("| 0 |")]) == len(records)

"""Claims about rows that rows of earlier sources change: workers have read them, and they are decided about again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from ahead_world import Done, fasta, same_bytes, write
from PIL import Image

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.ingest import batches, decide_again
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.ingest.splits import parse_split


def test_a_source_that_repeats_rows_of_an_earlier_one_is_not_read_again(tmp_path: Path, done: Done) -> None:
    sources = [fasta(tmp_path / "a.fasta", 0, 20), fasta(tmp_path / "b.fasta", 15, 20), fasta(tmp_path / "c.fa", 50, 9)]
    same_bytes(sources, tmp_path, modality="protein", split="train=0.7,test=0.3")
    assert (len(done.taken), len(done.again), len(done.read)) == (2, 1, 0)
    assert open_dataset(tmp_path / "process").index.rejects == {"duplicate of a record already taken": 5}


@pytest.mark.parametrize(
    ("second", "changes"),
    [
        (">P00000 other\nWWWW\n>new\nMKV\n", True),
        (">x\nMKV\n>x\nMKVA\n", False),  # an id twice: that stays so after rows that have nothing to do with it
        (">x\nMKV\n>x\nM\n", True),  # of which one is a repeat of the first source
        (">x\nM\n>x\nMKVA\n", True),  # the first of the two is left out, so the second one is kept
        (">x\nM\n>x\nMKVA\n>y\nMKVA\n>z\nW\n", True),  # and then the third one repeats it
    ],
)
def test_ids_that_clash_are_rejected_for_the_same_reasons(
    tmp_path: Path, done: Done, second: str, changes: bool
) -> None:
    first = write(tmp_path / "a.fasta", ">P00000\nMKLV\n>P00001\nM\n")
    same_bytes([first, write(tmp_path / "b.fasta", second)], tmp_path, modality="protein", max_bad_fraction=0.9)
    assert (len(done.taken), len(done.again)) == (2 - changes, int(changes))


def test_a_split_in_another_case_is_rejected_as_one_after_the_other(tmp_path: Path, done: Done) -> None:
    rows = [["Fold-A", "val"], ["fold-a", "train"], ["a/b", "val"], ["val", "val"]]
    sources = [
        write(
            tmp_path / f"{number}.jsonl",
            "".join(
                json.dumps({"id": f"{number}-{place}", "text": f"{number} {place}", "split": split}) + "\n"
                for place, split in enumerate(splits)
            ),
        )
        for number, splits in enumerate(rows)
    ]
    same_bytes(sources, tmp_path, modality="caption", max_bad_fraction=0.9)
    assert len(open_dataset(tmp_path / "process").index.rejects) == 2
    assert (len(done.taken), len(done.again)) == (3, 1)


def test_too_many_splits_are_refused_at_the_source_that_makes_them_too_many(tmp_path: Path, done: Done) -> None:
    sources = [
        write(
            tmp_path / f"{number}.jsonl",
            "".join(json.dumps({"text": f"{number} {n}", "split": f"s{number}-{n}"}) + "\n" for n in range(10)),
        )
        for number in range(2)
    ]
    with pytest.raises(SetClipError, match=r"1\.jsonl: its records have more than 16 splits"):
        ingest(sources, tmp_path / "out", IngestOptions(modality="caption", engine="process"))


@pytest.mark.parametrize("seed", range(6))
def test_captions_of_few_words_in_few_groups_under_made_up_ids(tmp_path: Path, done: Done, seed: int) -> None:
    draw = random.Random(seed)
    sources = []
    for number in range(5):
        folder = tmp_path / "in" / str(number)
        words = [f"words {draw.randrange(60)}" for _ in range(draw.randint(1, 10))]
        if draw.random() < 0.5:
            sources.append(write(folder / "captions.txt", "\n".join(words) + "\n"))
        else:
            lines = [f"{draw.choice('xyz')}.jpg,{each}" for each in words]
            sources.append(write(folder / "table.csv", "\n".join(["image,caption", *lines]) + "\n"))
    split = draw.choice(["auto", "train=0.5,test=0.5"])
    same_bytes(sources, tmp_path, modality="caption", split=split, keep_duplicates=seed % 2 == 0, max_bad_fraction=1)
    assert done.taken  # at least the first


def test_repeats_at_many_places_of_all_sources(tmp_path: Path, done: Done) -> None:
    draw = random.Random(0)
    proteins = tiny.proteins(400, longest=30)
    sources = []
    for number in range(8):
        chosen = [draw.randrange(400) if draw.random() < 0.1 else 50 * number + place for place in range(50)]
        names = [f"P{each}" if draw.random() < 0.9 else f"Q{number}-{place}" for place, each in enumerate(chosen)]
        text = "".join(f">{name}\n{proteins[each]}\n" for name, each in zip(names, chosen, strict=True))
        sources.append(write(tmp_path / f"{number}.fasta", text))
    same_bytes(sources, tmp_path, modality="protein", split="train=0.7,val=0.1,test=0.2")
    assert len(done.again) > 4
    assert not done.read


def test_a_row_in_a_later_batch_than_the_one_that_changes_it(tmp_path: Path, done: Done) -> None:
    """The worker rejects the second ``x``; but the first one repeats an earlier source, so the second one is kept."""
    others = fasta(tmp_path / "others.fasta", 0, 10).read_text()
    sources = [
        write(tmp_path / "a.fasta", ">y\nMKLV\n"),
        write(tmp_path / "b.fasta", f">x\nMKLV\n{others}>x\nMKVA\n"),
    ]
    same_bytes(sources, tmp_path, modality="protein")
    assert len(done.again) == 1
    assert "x" in open_dataset(tmp_path / "process").table("protein")["id"].to_pylist()


def test_sources_that_are_repeats_of_each_other(tmp_path: Path, done: Done) -> None:
    first = fasta(tmp_path / "0.fasta", 0, 30)
    sources = [first, *(write(tmp_path / f"{number}.fasta", first.read_text()) for number in (1, 2, 3))]
    same_bytes(sources, tmp_path, modality="protein", split="train=0.7,test=0.3")
    assert (len(done.taken), len(done.again), len(done.read)) == (1, 3, 0)
    assert open_dataset(tmp_path / "process").index.rejects == {"duplicate of a record already taken": 90}


def test_ids_that_are_made_longer(tmp_path: Path, done: Done) -> None:
    sources = [
        write(tmp_path / str(number) / "captions.txt", "".join(f"words {number} {line}\n" for line in range(20)))
        for number in range(4)
    ]
    same_bytes(sources, tmp_path, modality="caption", split="train=0.5,test=0.5")
    assert (len(done.taken), len(done.again), len(done.read)) == (1, 3, 0)
    columns = open_dataset(tmp_path / "process").table("caption").select(["id", "id_in_source"]).to_pylist()
    assert {"id": "3/captions.txt:2", "id_in_source": "captions.txt:2"} in columns


def caption_lines(path: Path, captions: Sequence[tuple[str, str]]) -> Path:
    rows = [{"id": f"{path.stem}-{n}", "text": text, "group": group} for n, (text, group) in enumerate(captions)]
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("shard_bytes", [1 << 20, 4])
def test_a_row_that_the_worker_left_out_is_kept_after_other_rows(tmp_path: Path, done: Done, shard_bytes: int) -> None:
    """The same words of groups in several splits: the first group decides which groups keep them."""
    split = "train=0.5,test=0.5"
    draw = parse_split(split).draw
    other = next(f"group {number}" for number in range(50, 99) if draw(f"group {number}") != draw("group 0"))
    words = [(text, f"group {number}") for number in range(12) for text in ("one road", f"{number}")]
    sources = [caption_lines(tmp_path / "a.jsonl", [("one road", other)]), caption_lines(tmp_path / "b.jsonl", words)]
    same_bytes(sources, tmp_path, shard_bytes=shard_bytes, modality="caption", split=split)
    has_room = shard_bytes > 4
    assert (len(done.again), len(done.read)) == (has_room, not has_room)


def test_too_many_changes_to_hold_in_memory(tmp_path: Path, done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide_again, "MAX_CHANGED", 10)
    first = fasta(tmp_path / "0.fasta", 0, 30)
    sources = [first, write(tmp_path / "1.fasta", first.read_text()), fasta(tmp_path / "2.fasta", 25, 30)]
    same_bytes(sources, tmp_path, modality="protein")
    assert (len(done.taken), len(done.again), len(done.read)) == (1, 1, 1)


def test_batches_that_end_with_their_rejects(tmp_path: Path, done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_BATCH_REJECTS", 4)
    monkeypatch.setattr(decide_again, "MAX_BATCH_REJECTS", 4)
    first = fasta(tmp_path / "0.fasta", 0, 30, bad=True)
    sources = [first, write(tmp_path / "1.fasta", ">new\nMKV\n" + first.read_text() + ">last\nMKVV\n")]
    same_bytes(sources, tmp_path, modality="protein")
    assert len(done.again) == 1


def test_videos_that_repeat(tmp_path: Path, done: Done) -> None:
    sources = []
    for number, clips in enumerate([(0, 1), (1, 2, 0, 3)]):
        for clip in clips:
            for frame in range(3):
                path = tmp_path / str(number) / f"clip-{number}-{clip}" / f"{frame}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tiny.jpeg(10 * clip + frame))
        sources.append(tmp_path / str(number))
    same_bytes(sources, tmp_path, modality="video", split="train=0.5,test=0.5")
    assert len(done.again) == 1
    assert open_dataset(tmp_path / "process").table("video").num_rows == 4


def odd_captions(draw: random.Random, path: Path, words: int) -> Path:
    lines = []
    for _ in range(draw.randint(1, 60)):
        row: dict[str, Any] = {"text": f"words {draw.randrange(words)}"}
        for name, share, values in (
            ("id", 0.5, [f"id{draw.randrange(words)}"]),
            ("group", 0.4, ["a", "b", "c"]),
            ("split", 0.3, ["train", "val", "Val", "test", "a/b", "\ud800"]),
            ("label", 0.3, ["x", "y"]),
            ("text", 0.05, ["", "  ", 3]),
        ):
            if draw.random() < share:
                row[name] = draw.choice(values)
        lines.append(json.dumps(row) if draw.random() < 0.97 else "{broken")
    return write(path, "\n".join(lines) + "\n")


def odd_proteins(draw: random.Random, path: Path, words: int) -> Path:
    entries = []
    for _ in range(draw.randint(1, 60)):
        sequence = "".join(draw.choices("MKLV", k=draw.randint(1, 3 if words < 100 else 8)))
        odd = draw.choice(["M1", "mk", "MK*", ""]) if draw.random() < 0.1 else sequence
        entries.append(f">P{draw.randrange(words)} about\n{odd}\n")
    return write(path, "".join(entries))


def odd_vectors(draw: random.Random, path: Path, words: int) -> Path:
    values = np.random.default_rng(draw.choice([1, 2])).standard_normal((words, 3)).astype(np.float32)
    chosen = values[[draw.randrange(words) for _ in range(draw.randint(1, 60))]]
    chosen[draw.randrange(len(chosen))] = np.nan if draw.random() < 0.3 else values[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path.with_suffix(".npy"), chosen)
    return path.with_suffix(".npy")


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("make", [odd_captions, odd_proteins, odd_vectors])
def test_sources_of_all_odd_things_that_share_a_lot_and_a_little(
    tmp_path: Path, done: Done, make: Callable[[random.Random, Path, int], Path], seed: int
) -> None:
    draw = random.Random(seed)
    words, suffix = draw.choice([20, 100, 1000]), {odd_captions: "jsonl", odd_proteins: "fasta"}.get(make, "npy")
    names = [f"{number}/{draw.choice(['a', number])}.{suffix}" for number in range(draw.randint(2, 5))]
    sources = [make(draw, tmp_path / "in" / name, words) for name in names]
    options = {"modality": "audio", "kind": "vector"} if make is odd_vectors else {}
    options = options or {"modality": "caption" if make is odd_captions else "protein"}
    same_bytes(
        sources,
        tmp_path,
        shard_rows=draw.choice([7, 20, 1000]),
        shard_bytes=draw.choice([200, 1 << 20]),
        split=draw.choice(["auto", "train", "train=0.5,test=0.5"]),
        split_by=draw.choice(["id", "label", "group"]),
        keep_duplicates=draw.random() < 0.3,
        max_bad_fraction=1,
        **options,
    )
    assert done.taken


def test_folders_of_images_with_labels_and_single_files(tmp_path: Path, done: Done) -> None:
    sources = []
    for number, name in enumerate(["a/x.jpg", "b/x.jpg", "c/y.jpg", "c/broken.jpg"]):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny.jpeg(number) if number < 3 else b"\xff\xd8no image")
        sources.append(path.parent if name == "a/x.jpg" else path)
    labels = write(tmp_path / "labels.csv", "id,label\na/x.jpg,river\nb/x.jpg,forest\ny.jpg,lake\n")
    same_bytes([*sources[:3], tmp_path / "in/c"], tmp_path, modality="image", labels=labels)
    assert len(done.taken) == 2  # b/x.jpg has the id of a/x.jpg, and the folder c repeats its file
    table = open_dataset(tmp_path / "process").table("image")
    assert sorted(table["label"].to_pylist()) == ["forest", "lake", "river"]


def test_pictures_that_become_equal_in_several_sources_share_a_split(tmp_path: Path, done: Done) -> None:
    sources = []
    for number, value in enumerate([0, 10, 60]):  # constant 16-bit pictures, of which 8 bits are kept
        sources.append(tmp_path / f"{number}.png")
        Image.fromarray(np.full((24, 24), value, np.uint16)).save(sources[-1])
    same_bytes(sources, tmp_path, modality="image", split="train=0.5,test=0.5")
    assert len(done.taken) == 1
    table = open_dataset(tmp_path / "process").table("image")
    assert (table.num_rows, len(set(table["split"].to_pylist()))) == (3, 1)


def test_vectors_with_row_numbers_as_ids_and_repeats(tmp_path: Path, done: Done) -> None:
    noise = np.random.default_rng(0)
    arrays = [noise.standard_normal((20, 4)).astype(np.float32) for _ in range(4)]
    arrays[2][3] = arrays[0][5]
    arrays[3][7] = np.nan
    sources = []
    for number, array in enumerate(arrays):
        path = tmp_path / str(number) / f"{number // 3 or number}.npy"
        path.parent.mkdir()
        np.save(path, array)
        sources.append(path)
    same_bytes(sources, tmp_path, modality="audio", kind="vector", split="train=0.6,test=0.4")
    assert len(done.taken) == 2  # the third repeats a vector, and the last has the row numbers of the second

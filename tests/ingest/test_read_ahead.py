"""Claims about sources that workers read ahead: the bytes are those of an ingest that reads one after the other."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image
from typer.testing import CliRunner

from setclip_cli import processes
from setclip_cli.cli.app import app
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.dataset.verify import verify
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.ingest import batches, decide_again, read_ahead
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.ingest.read_ahead import SourceRead, SourceToRead, read_source_ahead
from setclip_cli.ingest.read_source import SourceReader
from setclip_cli.ingest.splits import parse_split


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@dataclass
class Done:
    """What the ingest did with each source that workers read: the identities of the sources."""

    taken: list[str] = field(default_factory=list)  # as they were read
    again: list[str] = field(default_factory=list)  # some of their rows were decided about again
    read: list[str] = field(default_factory=list)  # read again


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Done:
    """Workers without processes, which end in the wrong order; what the ingest did with what they read."""
    done = Done()

    def backwards(
        work: Callable[[Any], Any], jobs: Sequence[Any], **_: object
    ) -> Generator[processes.Finished[Any, Any], None, None]:
        for job in reversed(jobs):
            yield processes.Finished(job, (work(job),))

    real = SourceReader._decided_again

    def noting(self: SourceReader, folder: Path, read: SourceRead, *rest: Any) -> Any:
        decided = real(self, folder, read, *rest)
        found = done.read if decided is None else done.again if decided.changed else done.taken
        found.append(read.batches[0].source)
        return decided

    monkeypatch.setattr(processes, "run_in_processes", backwards)
    monkeypatch.setattr(SourceReader, "_decided_again", noting)
    return done


def same_bytes(
    sources: Sequence[Path], root: Path, *, shard_rows: int = 7, shard_bytes: int = 1 << 20, **options: Any
) -> dict[str, bytes]:
    """Reads the sources in both ways, and returns the one DATASET that they must give."""
    for engine in ("local", "process"):
        chosen = IngestOptions(engine=engine, **options)  # type: ignore[arg-type]
        ingest(sources, root / engine, chosen, shard_rows=shard_rows, shard_bytes=shard_bytes)
    found = contents(root / "process")
    assert found == contents(root / "local")
    verify(root / "process")
    return found


def fasta(path: Path, first: int, count: int, *, bad: bool = False) -> Path:
    proteins = tiny.proteins(first + count, longest=30)[first:]
    records = [f">P{first + number:05d} a protein\n{each}\n" for number, each in enumerate(proteins)]
    return write(path, "".join(records) + (">bad\nMK1\n" if bad else ""))


def test_sources_that_share_nothing_are_taken_as_workers_read_them(tmp_path: Path, done: Done) -> None:
    sources = [fasta(tmp_path / f"{n}.fasta", 20 * n, 20, bad=n == 2) for n in range(4)]
    found = same_bytes(sources, tmp_path, modality="protein", split="train=0.7,test=0.3")
    assert len(done.taken) == 4
    assert not [name for name in found if name.startswith(".ingest")]


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


def test_a_source_that_cannot_be_read_is_refused_as_one_after_the_other(tmp_path: Path, done: Done) -> None:
    sources = [
        fasta(tmp_path / "a.fasta", 0, 9),
        write(tmp_path / "b.fasta", "no fasta\n"),
        fasta(tmp_path / "c.fa", 9, 9),
    ]
    messages = []
    for engine in ("local", "process"):
        with pytest.raises(SetClipError) as caught:
            ingest(sources, tmp_path / engine, IngestOptions(modality="protein", engine=engine))  # type: ignore[arg-type]
        messages.append(str(caught.value).replace(str(tmp_path / engine), "OUT"))
        sources[1] = write(sources[1], "no fasta\n")
    assert messages[0] == messages[1]
    sources[1] = fasta(tmp_path / "b.fasta", 30, 5)  # and after it is repaired, both go on
    same_bytes(sources, tmp_path, modality="protein")


def test_sources_that_are_there_are_left_alone_and_a_changed_one_is_read_again(tmp_path: Path, done: Done) -> None:
    sources = [fasta(tmp_path / f"{n}.fasta", 20 * n, 20) for n in range(4)]
    same_bytes(sources[:2], tmp_path, modality="protein")
    same_bytes(sources, tmp_path, modality="protein")
    assert len(done.taken) == 4
    fasta(sources[0], 200, 10)
    more = [*sources, fasta(tmp_path / "4.fasta", 400, 20), fasta(tmp_path / "5.fasta", 400, 30)]
    same_bytes(more, tmp_path, modality="protein")


@pytest.mark.parametrize("journaled", [0, 1, 3])
@pytest.mark.parametrize("damaged", ["protein/*.parquet", "answers.arrow", "left-out.parquet"])
def test_a_stopped_ingest_goes_on_from_what_workers_have_read(
    tmp_path: Path, done: Done, monkeypatch: pytest.MonkeyPatch, damaged: str, journaled: int
) -> None:
    sources = [fasta(tmp_path / f"{n}.fasta", 20 * n, 20, bad=True) for n in range(4)]
    for path in sources:  # each holds a repeat of its own
        path.write_text(path.read_text() + "".join(path.read_text().splitlines(keepends=True)[:2]))
    options = IngestOptions(modality="protein", engine="process")
    ingest(sources, tmp_path / "local", IngestOptions(modality="protein"), shard_rows=7)
    real, left = SourceReader._take_read, journaled

    def stopping(self: SourceReader, *given: Any) -> Any:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(SourceReader, "_take_read", stopping)
        with pytest.raises(KeyboardInterrupt):
            ingest(sources, tmp_path / "out", options, shard_rows=7)
    read: list[Path] = []
    real_read = read_ahead._read
    monkeypatch.setattr(read_ahead, "_read", lambda job: read.append(job.path) or real_read(job))
    shard = next((tmp_path / "out/.ingest/ahead").glob(f"*/{damaged}"))  # one that is not taken is damaged
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    ingest(sources, tmp_path / "out", options, shard_rows=7)
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    assert len(read) == (journaled < 3)  # of one source alone nothing is read ahead


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"modality": "image", "near_duplicates": "drop"}, "compares each image with all before it"),
        ({"modality": "image"}, "there is one"),
    ],
)
def test_what_needs_earlier_rows_is_read_in_turn_and_says_so(
    tmp_path: Path, done: Done, capsys: pytest.CaptureFixture[str], options: dict[str, Any], why: str
) -> None:
    sources = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for number, path in enumerate(sources):
        path.write_bytes(tiny.jpeg(number))
    same_bytes(sources if "near_duplicates" in options else sources[:1], tmp_path, **options)
    assert why in capsys.readouterr().err
    assert done == Done()


def test_the_command_takes_an_engine_and_refuses_others(tmp_path: Path, done: Done) -> None:
    sources = [str(fasta(tmp_path / f"{n}.fasta", 20 * n, 20)) for n in range(2)]
    given = ["ingest", *sources, "--modality", "protein", "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(app, [*given, "--engine", "process", "--workers", "2"])
    assert result.exit_code == 0, result.output
    assert len(done.taken) == 2
    assert CliRunner().invoke(app, [*given, "--engine", "spark"]).exit_code == ExitCode.USAGE


def killed_once(marker: Path) -> Callable[[SourceToRead], tuple[str, SourceRead | None]]:
    """Reads a source; the first worker that has read one is killed before it could say so."""

    def work(job: SourceToRead) -> tuple[str, SourceRead | None]:  # nested, so that it travels by value
        with suppress(FileExistsError):
            marker.touch(exist_ok=False)
            read_source_ahead(job)
            (job.folder / "read.json").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return read_source_ahead(job)

    return work


def end_abruptly(job: SourceToRead) -> tuple[str, SourceRead | None]:
    """As a worker does; the one that has the source ``1.fasta`` is killed in the middle of it."""
    if job.path.name == "1.fasta":
        (job.folder / "protein").mkdir(parents=True)
        (job.folder / "protein/train-00000.parquet").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return read_source_ahead(job)


@pytest.mark.slow
def test_a_killed_process_costs_its_own_source_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [fasta(tmp_path / f"{n}.fasta", 20 * n, 20) for n in range(4)]
    monkeypatch.setattr(read_ahead, "read_source_ahead", end_abruptly)
    same_bytes(sources, tmp_path, modality="protein")


INGEST = (
    "import sys\n"
    "from setclip_cli.ingest.ingest import ingest\n"
    "from setclip_cli.ingest.options import IngestOptions\n"
    "if __name__ == '__main__':\n"
    "    print('ready', flush=True)\n"
    "    options = IngestOptions(modality='protein', split='train=0.7,test=0.3', engine='process')\n"
    "    ingest(sys.argv[2:], sys.argv[1], options, shard_rows=7)\n"
)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_bytes_of_an_unbroken_run(tmp_path: Path) -> None:
    sources = [fasta(tmp_path / f"{n}.fasta", 40 * n, 45, bad=True) for n in range(8)]  # each repeats some
    options = IngestOptions(modality="protein", split="train=0.7,test=0.3", engine="process")
    started = time.monotonic()
    ingest(sources, tmp_path / "process", options, shard_rows=7)
    longest_s = time.monotonic() - started
    ingest(sources, tmp_path / "local", IngestOptions(modality="protein", split=options.split), shard_rows=7)
    assert contents(tmp_path / "process") == contents(tmp_path / "local")
    script = write(tmp_path / "run.py", INGEST)
    draw = random.Random(3)
    for moment in range(5):
        out = tmp_path / f"killed-{moment}"
        command = [sys.executable, str(script), str(out), *map(str, sources)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            running.stdout.readline()
            time.sleep(draw.uniform(0, longest_s))
            running.send_signal(signal.SIGKILL)
        ingest(sources, out, options, shard_rows=7)
        assert contents(out) == contents(tmp_path / "local"), f"moment {moment}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_on_two_nodes_with_a_killed_worker_gives_the_same_bytes(
    cluster: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths, as a user gives them
    sources = [fasta(Path(f"{n}.fasta"), 20 * n, 22 if n == 3 else 20, bad=True) for n in range(6)]
    ingest(sources, "local", IngestOptions(modality="protein"), shard_rows=7)
    marker = tmp_path / "killed"
    monkeypatch.setattr(read_ahead, "read_source_ahead", killed_once(marker))
    ingest(sources, "ray", IngestOptions(modality="protein", engine="ray"), shard_rows=7)
    assert marker.exists()
    assert contents(Path("ray")) == contents(Path("local"))


def test_ray_that_is_not_installed_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    sources = [fasta(tmp_path / f"{n}.fasta", 20 * n, 20) for n in range(2)]
    with pytest.raises(SetClipError, match="Ray is not installed") as caught:
        ingest(sources, tmp_path / "out", IngestOptions(modality="protein", engine="ray"))
    assert caught.value.exit_code == ExitCode.USAGE

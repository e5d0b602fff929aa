"""A source that is read again: what the DATASET had stays until the new reading has succeeded."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.dataset.verify import verify
from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.ingest.progress import Progress

PROTEINS = IngestOptions(modality="protein")


def fasta(path: Path, count: int, letter: str) -> Path:
    path.write_text(
        "".join(f">{letter}{number}\nMK{'ACDEFGHIKL'[number % 10]}{letter}{'G' * number}\n" for number in range(count))
    )
    os.utime(path, (count, count))  # the same file whenever it is written
    return path


def listed(out: Path) -> dict[str, bytes]:
    """What dataset.json lists, and itself."""
    index = open_dataset(out).index
    names = ["dataset.json", *(shard.path for shard in index.shards), *index.files]
    return {name: (out / name).read_bytes() for name in names}


def every_file(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("change", ["labels that match nothing", "a column", "bad records", "a source that has gone"])
def test_a_reading_that_fails_leaves_the_rows_of_the_earlier_one(tmp_path: Path, change: str) -> None:
    out, table = tmp_path / "out", tmp_path / "t.csv"
    table.write_text("id,sequence,other\na,MKV,1\nb,MKL,2\n")
    ingest([table, fasta(tmp_path / "b.fasta", 20, "A")], out, PROTEINS, shard_rows=6)
    before = listed(out)
    options = PROTEINS
    if change == "labels that match nothing":
        (tmp_path / "l.csv").write_text("id,label\nx,y\n")
        options = IngestOptions(modality="protein", labels=tmp_path / "l.csv")
    elif change == "a column":
        options = IngestOptions(modality="protein", sequence_column="other")
    elif change == "bad records":
        table.write_text("id,sequence\na,1\nb,2\n")
    else:
        table.write_text("id,sequence\na,MKVV\nb,MKLL\n")
        (tmp_path / "b.fasta").rename(tmp_path / "gone")
    with pytest.raises(SetClipError):
        ingest(table, out, options, shard_rows=6)
    after = listed(out)
    assert {name: after[name] for name in before if name not in ("dataset.json", "rejects.parquet")} == {
        name: before[name] for name in before if name not in ("dataset.json", "rejects.parquet")
    }
    assert verify(out).rows == 22
    if change in ("labels that match nothing", "a column"):
        ingest(table, out, PROTEINS, shard_rows=6)
        assert verify(out).rows == 22
        assert {str(path.relative_to(out)) for path in (out / "protein").iterdir()} == {
            shard.path for shard in open_dataset(out).index.shards
        }


@pytest.mark.slow
def test_stopped_at_any_write_the_dataset_is_whole_and_a_second_run_gives_the_bytes_of_a_fresh_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "a.fasta", tmp_path / "b.fasta"
    fasta(two, 20, "C")
    real, moment = os.replace, 0
    ingest([fasta(one, 9, "W"), two], tmp_path / "fresh", PROTEINS, shard_rows=6)
    while True:
        out = tmp_path / f"out{moment}"
        ingest([fasta(one, 30, "A"), two], out, PROTEINS, shard_rows=6)
        fasta(one, 9, "W")
        left = moment

        def replace(source: object, target: object, **more: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            real(source, target, **more)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            patch.setattr(Path, "replace", lambda self, target: replace(self, target))
            patch.setattr(Path, "rename", lambda self, target: replace(self, target))
            try:
                ingest(one, out, PROTEINS, shard_rows=6)
                stopped = False
            except KeyboardInterrupt:
                stopped = True
        rows = sum(shard.rows for shard in open_dataset(out).index.shards)
        assert all(atomic.sha256_file(out / shard.path) == shard.sha256 for shard in open_dataset(out).index.shards), (
            moment
        )
        assert rows in (50, 0, 29), moment
        ingest(one, out, PROTEINS, shard_rows=6)
        assert every_file(out) == every_file(tmp_path / "fresh"), moment
        if not stopped:
            break
        moment += 1
    assert moment > 10


def test_stopped_while_shards_are_replaced_any_later_ingest_reads_the_source_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, out = fasta(tmp_path / "a.fasta", 30, "A"), tmp_path / "out"
    ingest(one, out, PROTEINS, shard_rows=6)
    fasta(one, 9, "W")
    with monkeypatch.context() as patch:
        patch.setattr("setclip_cli.ingest.contents.atomic.move", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest(one, out, PROTEINS, shard_rows=6)
    (tmp_path / "c.txt").write_text("words\n")
    result = ingest(tmp_path / "c.txt", out, IngestOptions(modality="caption"), shard_rows=6)
    assert result.rows == {"caption": {"train": 1}, "protein": {"train": 9}}
    verify(out)
    assert not (out / ".ingest").exists() or not list((out / ".ingest").iterdir())


def test_stopped_while_shards_are_replaced_the_pairs_are_looked_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = fasta(tmp_path / "a.fasta", 9, "A")
    (tmp_path / "c.jsonl").write_text("".join(f'{{"text": "words {n}", "group": "A{n}"}}\n' for n in range(9)))
    grouped = IngestOptions(modality="caption", pairs_from_group=True)
    for out in (tmp_path / "out", tmp_path / "whole"):
        ingest(one, out, PROTEINS)
        ingest(tmp_path / "c.jsonl", out, grouped)
    again = IngestOptions(modality="caption", split="test")
    ingest(tmp_path / "c.jsonl", tmp_path / "whole", again)
    with monkeypatch.context() as patch:
        patch.setattr(
            "setclip_cli.ingest.contents.Contents._number_shards", lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            ingest(tmp_path / "c.jsonl", tmp_path / "out", again)
    ingest(tmp_path / "c.jsonl", tmp_path / "out", again)
    assert open_dataset(tmp_path / "out").pairs() == []
    assert every_file(tmp_path / "out") == every_file(tmp_path / "whole")


def test_a_stopped_reading_again_goes_on_after_what_it_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, out = fasta(tmp_path / "a.fasta", 30, "A"), tmp_path / "out"
    ingest(one, out, PROTEINS, shard_rows=6)
    fasta(one, 31, "W")
    real, added = Progress.add, []

    def add(self: Progress, batch: object) -> None:
        if len(added) == 3:
            raise KeyboardInterrupt
        added.append(batch)
        real(self, batch)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "add", add)
        with pytest.raises(KeyboardInterrupt):
            ingest(one, out, PROTEINS, shard_rows=6)
    assert verify(out).rows == 30
    added.clear()
    monkeypatch.setattr(Progress, "add", lambda self, batch: (added.append(batch), real(self, batch))[0])
    ingest(one, out, PROTEINS, shard_rows=6)
    assert len(added) == 3  # of 6
    assert verify(out).rows == 31


def test_pairs_lost_by_a_wrong_split_can_be_given_again(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "in" / f"{number}.png")
    captions = tmp_path / "c.jsonl"
    captions.write_text("".join(f'{{"id": "c{number}", "text": "text {number}"}}\n' for number in range(3)))
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(
        "left_modality,left_id,right_modality,right_id\n"
        + "".join(f"image,{number}.png,caption,c{number}\n" for number in range(3))
    )
    out = tmp_path / "data"
    ingest(tmp_path / "in", out, IngestOptions(modality="image"))
    assert ingest(captions, out, IngestOptions(modality="caption", split="train", pairs=pairs)).pairs == 3
    assert ingest(captions, out, IngestOptions(modality="caption", split="test")).pairs == 0
    locations = [row["location"] for row in pq.read_table(out / "rejects.parquet").to_pylist()]
    assert sorted(locations) == [f"pairs.parquet: {number}.png, c{number}" for number in range(3)]
    assert ingest(captions, out, IngestOptions(modality="caption", split="train")).pairs == 0
    assert ingest([], out, IngestOptions(pairs=pairs)).pairs == 3
    before = (out / "dataset.json").read_bytes()
    assert ingest([], out, IngestOptions(pairs=pairs)).pairs == 3
    assert (out / "dataset.json").read_bytes() == before


def test_the_note_names_the_options_that_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, out = fasta(tmp_path / "a.fasta", 3, "A"), tmp_path / "out"
    ingest(one, out, PROTEINS)
    ingest(one, out, IngestOptions(modality="protein", split="test", keep_duplicates=True))
    assert "was read into" in (told := capsys.readouterr().err)
    assert "with other options (keep_duplicates, split)" in told
    fasta(one, 4, "A")
    ingest(one, out, IngestOptions(modality="protein", split="test", keep_duplicates=True))
    assert f"a.fasta: changed since {out} was made" in capsys.readouterr().err

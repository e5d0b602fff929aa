"""Killed, without disk space, with changed sources: an ingest gives the bytes of an unbroken one, or says why not."""

from __future__ import annotations

import errno
import itertools
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.dataset.verify import verify
from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic
from setclip_cli.files.documents import write_document
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.ingest.progress import Progress, WrittenBatch
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.protein import Fasta

PROTEINS = IngestOptions(modality="protein")
INGEST = (
    "import sys\n"
    "from setclip_cli.ingest.ingest import ingest\n"
    "from setclip_cli.ingest.options import IngestOptions\n"
    "print('ready', flush=True)\n"
    "options = IngestOptions(modality='protein', split='train=0.7,test=0.3')\n"
    "ingest(sys.argv[2:], sys.argv[1], options, shard_rows=50)\n"
)


def fasta(path: Path, count: int, seed: int) -> Path:
    """Proteins of which some repeat and some are bad."""
    generator = random.Random(seed)
    with path.open("w") as file:
        for number in range(count):
            residues = "".join(generator.choices("ACDEFGHIKLMNPQRSTVWY", k=generator.randint(1, 40)))
            file.write(f">{path.stem}{number}\n{residues}{'1' * (number % 31 == 0)}\n")
    return path


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_killed_at_25_random_moments_it_ends_with_the_bytes_of_an_unbroken_run(tmp_path: Path) -> None:
    sources = [fasta(tmp_path / "a.fasta", 1200, 0), fasta(tmp_path / "b.fasta", 800, 1)]
    started = time.monotonic()
    ingest(sources, tmp_path / "unbroken", IngestOptions(modality="protein", split="train=0.7,test=0.3"), shard_rows=50)
    unbroken_s = time.monotonic() - started
    generator = random.Random(7)
    killed = 0
    for moment in itertools.count():
        out = tmp_path / f"killed-{moment}"
        with subprocess.Popen(
            [sys.executable, "-c", INGEST, str(out), *map(str, sources)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(generator.uniform(0, unbroken_s))
            process.send_signal(signal.SIGKILL)
        if process.returncode == -signal.SIGKILL:
            killed += 1
        else:  # it ended first, so the moments are drawn from a shorter time
            assert process.returncode == 0
            unbroken_s *= 0.9
        if (out / "dataset.json").exists():
            verify(out)
        ingest(sources, out, IngestOptions(modality="protein", split="train=0.7,test=0.3"), shard_rows=50)
        assert contents(out) == contents(tmp_path / "unbroken"), f"moment {moment}"
        if killed == 25:
            break


@pytest.mark.parametrize("writes", [1, 2, 5, 9, 14, 20])
def test_stopped_after_any_write_a_second_run_does_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    sources = [fasta(tmp_path / "a.fasta", 300, 0), fasta(tmp_path / "b.fasta", 200, 1)]
    ingest(sources, tmp_path / "unbroken", IngestOptions(modality="protein"), shard_rows=50)
    real = os.replace
    written: list[Path] = []
    allowed = writes

    def replace(self: Path, target: Path) -> Path:
        written.append(Path(target))
        if len(written) > allowed:
            raise KeyboardInterrupt
        real(self, target)
        return Path(target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            ingest(sources, tmp_path / "out", IngestOptions(modality="protein"), shard_rows=50)
    first = {path.name for path in written[:writes] if path.parent.name == "protein"}
    units = (tmp_path / "out/.ingest/journal.jsonl").read_text().count("\n")
    written.clear()
    allowed = 10**6
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        ingest(sources, tmp_path / "out", IngestOptions(modality="protein"), shard_rows=50)
    again = {path.name for path in written if path.parent.name == "protein"} & first
    assert contents(tmp_path / "out") == contents(tmp_path / "unbroken")
    assert len(again) <= 1  # the shard whose line in the journal the stop had cut off
    assert units >= len(first) - 1


def stopped(
    monkeypatch: pytest.MonkeyPatch, source: Path, out: Path, options: IngestOptions = PROTEINS, batches: int = 2
) -> None:
    """An ingest of batches of 30 rows that is stopped when it has written some of them."""
    real = Progress.add
    written: list[WrittenBatch] = []

    def add(self: Progress, batch: WrittenBatch) -> None:
        if len(written) == batches:
            raise KeyboardInterrupt
        written.append(batch)
        real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "add", add)
        with pytest.raises(KeyboardInterrupt):
            ingest(source, out, options, shard_rows=30)


@pytest.mark.parametrize("change", ["source", "shard_rows", "shard", "half line", "nothing"])
def test_only_batches_of_the_same_work_that_are_whole_are_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    source, out = fasta(tmp_path / "a.fasta", 150, 0), tmp_path / "out"
    stopped(monkeypatch, source, out)
    shard_rows = 50 if change == "shard_rows" else 30
    if change == "source":
        source = fasta(tmp_path / "b.fasta", 150, 1)
    elif change == "shard":
        with (out / "protein/train-00001.parquet").open("ab") as file:
            file.write(b"more")
    elif change == "half line":
        with (out / ".ingest/journal.jsonl").open("a") as file:
            file.write('{"source": "')
    ingest(source, out, PROTEINS, shard_rows=shard_rows)
    ingest(source, tmp_path / "unbroken", PROTEINS, shard_rows=shard_rows)
    assert contents(out) == contents(tmp_path / "unbroken")


def test_a_resumed_ingest_starts_after_what_is_written_and_counts_labels_as_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, labels = fasta(tmp_path / "a.fasta", 150, 0), tmp_path / "l.csv"
    labels.write_text("id,label\na1,x\nnone,y\n")
    options = IngestOptions(modality="protein", labels=labels)
    stopped(monkeypatch, source, tmp_path / "out", options)
    starts: list[int] = []
    real = Fasta.records

    def records(self: Fasta, start: int, workers: int) -> Iterator[Record | Reject]:
        starts.append(start)
        return real(self, start, workers)

    monkeypatch.setattr(Fasta, "records", records)
    resumed = ingest(source, tmp_path / "out", options, shard_rows=30)
    assert starts[-1] > 60  # 60 rows, and rejects; before that the labels are joined to all ids
    assert resumed.joins == ingest(source, tmp_path / "unbroken", options).joins
    assert resumed.joins[0].left.example == "none"


def test_the_record_of_progress_keeps_its_format(tmp_path: Path) -> None:
    """A line as the first release writes it: an ingest that it left unfinished is finished by this version."""
    line = (
        '{"source":"s","base":"b","items":3,"shards":[{"path":"protein/train-00000.parquet","modality":"protein",'
        f'"split":"train","rows":2,"bytes":0,"sha256":"{atomic.sha256_bytes(b"")}"}}],"rejects":null,'
        '"tally":{"read":3},"last":true}\n'
    )
    (tmp_path / "journal.jsonl").write_text(line)
    (tmp_path / "protein").mkdir()
    (tmp_path / "protein/train-00000.parquet").touch()
    (batch,) = Progress(tmp_path).resume("s", "b", tmp_path)
    assert (batch.records, batch.counts) == (3, {"read": 3})
    assert len(Progress(tmp_path).resume("s", "b", tmp_path)) == 1  # from the line as this version writes it


def test_half_written_files_are_removed_and_a_missing_shard_is_made_again(tmp_path: Path) -> None:
    source, out = fasta(tmp_path / "a.fasta", 50, 0), tmp_path / "out"
    ingest(source, out, PROTEINS)
    whole = contents(out)
    (out / "protein/.train-00000.parquet.1.tmp").touch()
    (out / "protein/train-00000.parquet").unlink()
    ingest(source, out, PROTEINS)
    assert contents(out) == whole


def test_a_full_disk_is_one_clear_error_and_leaves_no_partial_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fasta(tmp_path / "a.fasta", 300, 0)
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(SetClipError, match=r"the disk is full: .* bytes are free"):
            ingest([source], tmp_path / "out", IngestOptions(modality="protein"), shard_rows=50)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    for shard in (tmp_path / "out/protein").iterdir():
        assert pq.read_table(shard).num_rows == 50
    ingest([source], tmp_path / "out", IngestOptions(modality="protein"), shard_rows=50)
    verify(tmp_path / "out")


def test_a_file_size_limit_is_named(tmp_path: Path) -> None:
    source = tmp_path / "a.fasta"
    source.write_text(
        "".join(
            f">{n}\n{os.urandom(400).hex().translate(str.maketrans('0123456789', 'ghiklmnpqr'))}\n" for n in range(400)
        )
    )
    program = INGEST.replace("shard_rows=50", "shard_rows=10**6")
    limited = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out"), str(source)],
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "WriteError" in limited.stderr
    assert "train-00000.parquet: a file may not be so large here: the file needs more than" in limited.stderr
    assert not (tmp_path / "out/dataset.json").exists()


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    source = fasta(tmp_path / "a.fasta", 5, 0)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SetClipError, match=r"cannot be written"):
        ingest([source], tmp_path / "file" / "out", IngestOptions(modality="protein"))
    with pytest.raises(SetClipError, match="cannot be written"):
        ingest([source], Path("/proc/setclip"), IngestOptions(modality="protein"))


def test_a_changed_source_and_all_after_it_are_read_again(tmp_path: Path) -> None:
    one, two = fasta(tmp_path / "a.fasta", 100, 0), fasta(tmp_path / "b.fasta", 80, 1)
    ingest([one], tmp_path / "out", IngestOptions(modality="protein"), shard_rows=30)
    ingest([two], tmp_path / "out", IngestOptions(modality="protein"), shard_rows=30)
    fasta(one, 50, 3)
    result = ingest([one], tmp_path / "out", IngestOptions(modality="protein"), shard_rows=30)
    assert [Path(entry["path"]).name for entry in result.new] == ["a.fasta", "b.fasta"]
    ingest([one, two], tmp_path / "fresh", IngestOptions(modality="protein"), shard_rows=30)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    verify(tmp_path / "out")


def test_a_stop_while_a_changed_source_is_read_again_loses_no_later_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = fasta(tmp_path / "a.fasta", 100, 0), fasta(tmp_path / "b.fasta", 80, 1)
    ingest([one, two], tmp_path / "out", IngestOptions(modality="protein"), shard_rows=30)
    fasta(one, 50, 3)
    with monkeypatch.context() as patch:
        patch.setattr("setclip_cli.ingest.progress.Progress.add", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest([one], tmp_path / "out", IngestOptions(modality="protein"), shard_rows=30)
    open_dataset(tmp_path / "out")  # whole, though short of what is being read again
    ingest([one], tmp_path / "out", IngestOptions(modality="protein"), shard_rows=30)
    ingest([one, two], tmp_path / "fresh", IngestOptions(modality="protein"), shard_rows=30)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_other_options_for_a_source_replace_its_rows(tmp_path: Path) -> None:
    source = fasta(tmp_path / "a.fasta", 40, 0)
    ingest([source], tmp_path / "out", IngestOptions(modality="protein"))
    result = ingest([source], tmp_path / "out", IngestOptions(modality="protein", split="test"))
    assert set(result.rows["protein"]) == {"test"}
    assert [path.name for path in (tmp_path / "out/protein").iterdir()] == ["test-00000.parquet"]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "rejects", "row"])
def test_verify_finds_any_damage(tmp_path: Path, damage: str) -> None:
    ingest([fasta(tmp_path / "a.fasta", 80, 0)], tmp_path / "out", IngestOptions(modality="protein"))
    result = verify(tmp_path / "out")
    assert (result.shards, result.rows) == (1, open_dataset(tmp_path / "out").index.shards[0].rows)
    shard = tmp_path / "out/protein/train-00000.parquet"
    written = bytearray(shard.read_bytes())
    if damage == "flip":
        written[len(written) // 2] ^= 1
        shard.write_bytes(written)
    elif damage == "cut":
        shard.write_bytes(written[:-1])
    elif damage == "remove":
        shard.unlink()
    elif damage == "rejects":
        (tmp_path / "out/rejects.parquet").write_bytes(b"")
    else:  # a shard rewritten with its index entry, but with a row that is not what was hashed
        table = pq.read_table(shard)
        at = table.column_names.index("sequence")
        pq.write_table(table.set_column(at, table.schema.field(at), [["M"] * table.num_rows]), shard)
        content = open_dataset(tmp_path / "out").index.model_dump(mode="json")
        content["shards"][0] |= {"sha256": atomic.sha256_file(shard), "bytes": shard.stat().st_size}
        write_document(tmp_path / "out/dataset.json", content)
    with pytest.raises(SetClipError, match=r"\d+ faults: (protein/train-00000|rejects)\.parquet"):
        verify(tmp_path / "out")


def test_stopped_just_before_the_index_a_second_run_reads_nothing_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fasta(tmp_path / "a.fasta", 200, 0)
    options = IngestOptions(split="train=0.5,test=0.5", split_by="cluster", modality="protein")
    ingest([source], tmp_path / "unbroken", options)
    with monkeypatch.context() as patch:
        patch.setattr("setclip_cli.ingest.contents.write_document", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest([source], tmp_path / "out", options)
    monkeypatch.setattr("setclip_cli.ingest.sources.protein.Fasta.records", lambda *_: pytest.fail("was read again"))
    ingest([source], tmp_path / "out", options)
    assert contents(tmp_path / "out") == contents(tmp_path / "unbroken")


def test_the_rejects_on_disk_are_those_the_index_counts_through_failures_and_changes(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def check(expected: list[str]) -> None:
        reasons = pq.read_table(out / "rejects.parquet")["reason"].to_pylist()
        counted = sum(open_dataset(out).index.rejects.values())
        assert reasons[:counted] == expected
        verify(out)

    one, two, words, pairs = (tmp_path / name for name in ("a.fasta", "b.fasta", "c.txt", "p.csv"))
    one.write_text(">a\nMKV\n>b\n\n")
    two.write_text(">c\nGG\n>d\nM1\n")
    words.write_text("one\n")
    pairs.write_text(
        "left_modality,left_id,right_modality,right_id\nprotein,a,caption,c.txt:1\nprotein,z,caption,c.txt:1\n"
    )
    empty, digit = "empty sequence", "holds what is no amino-acid code: '1'"
    unknown = "pair names an unknown protein id: z"
    ingest([one], out, IngestOptions(modality="protein"))
    check([empty])
    ingest([words], out, IngestOptions(modality="caption", pairs=pairs))
    check([empty, unknown])
    ingest([two], out, IngestOptions(modality="protein"))
    check([empty, digit, unknown])
    bad = tmp_path / "bad.fasta"
    bad.write_text(">e\n1\n")
    with pytest.raises(SetClipError):
        ingest([bad], out, IngestOptions(modality="protein"))
    check([empty, digit, unknown])
    one.write_text(">b\n\n>x\n\n>y\nLL\n>w\nLLL\n")  # the paired protein has gone
    result = ingest([one], out, IngestOptions(modality="protein"))
    check([empty, empty, digit, unknown, "pair names an unknown protein id: a"])
    assert result.pairs == 0


@pytest.mark.parametrize("moment", ["before the index", "after the index"])
def test_killed_at_its_end_an_ingest_leaves_a_whole_dataset_and_a_second_run_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    proteins, source, more = fasta(tmp_path / "a.fasta", 5, 0), tmp_path / "c.jsonl", tmp_path / "d.jsonl"
    name = proteins.read_text().split()[2].lstrip(">")  # the first one is bad
    source.write_text(f'{{"id": "c", "text": "one", "group": "{name}"}}\n{{"id": "d"}}\n')
    more.write_text(f'{{"id": "e", "text": "two", "group": "{name}"}}\n{{"id": "f"}}\n')
    options, out = IngestOptions(modality="caption", pairs_from_group=True), tmp_path / "out"
    for folder in (tmp_path / "unbroken", out):
        ingest(proteins, folder, PROTEINS)
        ingest(source, folder, options)
    ingest(more, tmp_path / "unbroken", options)
    with monkeypatch.context() as patch:
        last = "ingest.contents.write_document" if moment == "before the index" else "files.atomic.move"
        patch.setattr(f"setclip_cli.{last}", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest(more, out, options)
    verify(out)
    assert len(open_dataset(out).pairs()) == (1 if moment == "before the index" else 2)
    ingest(source, out, options)  # another command than the one that was killed
    verify(out)
    ingest(more, out, options)
    assert contents(out) == contents(tmp_path / "unbroken")


@pytest.mark.parametrize("name", ["pairs.parquet", "rejects.parquet"])
def test_files_that_were_changed_are_not_added_to(tmp_path: Path, name: str) -> None:
    out, source = tmp_path / "out", tmp_path / "c.jsonl"
    source.write_text('{"id": "c", "text": "one", "group": "p"}\n{"id": "d"}\n')
    (tmp_path / "p.fasta").write_text(">p\nMKV\n")
    ingest(tmp_path / "p.fasta", out, PROTEINS)
    ingest(source, out, IngestOptions(modality="caption", pairs_from_group=True))
    pq.write_table(pq.read_table(out / name).slice(0, 0), out / name)
    before = contents(out)
    with pytest.raises(SetClipError, match=f"{name}: has changed since ingest"):
        ingest(fasta(tmp_path / "more.fasta", 5, 1), out, PROTEINS)
    assert contents(out) == before


def test_a_shard_that_was_changed_is_made_again_from_its_source(tmp_path: Path) -> None:
    source, out = fasta(tmp_path / "a.fasta", 50, 0), tmp_path / "out"
    ingest(source, out, PROTEINS)
    whole = contents(out)
    path = out / "protein/train-00000.parquet"
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    ingest(source, out, PROTEINS)
    assert contents(out) == whole


@pytest.mark.parametrize("file", ["journal.jsonl", "protein/train-00000.parquet", "rejects"])
def test_a_killed_ingest_goes_on_from_unchanged_files_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    source = fasta(tmp_path / "a.fasta", 50, 0)
    source.write_text(source.read_text() + ">bad\n123\n")
    ingest(source, tmp_path / "unbroken", PROTEINS)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("setclip_cli.ingest.contents.write_document", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest(source, out, PROTEINS)
    if file == "journal.jsonl":
        path = out / ".ingest" / file
        path.write_text(path.read_text().replace('"bad": 1', '"bad": 0'))
    else:
        (path,) = (out / ".ingest").glob("rejects-*") if file == "rejects" else [out / file]
        path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    ingest(source, out, PROTEINS)
    assert contents(out) == contents(tmp_path / "unbroken")

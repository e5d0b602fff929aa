"""Sources to DATASET: everything is taken or listed, and what is there is not read twice."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from setclip_cli.cli.app import app
from setclip_cli.dataset.dataset import Pair, open_dataset
from setclip_cli.dataset.modality import KINDS_OF_NAMES
from setclip_cli.dataset.schemas import schema_of
from setclip_cli.dataset.verify import verify
from setclip_cli.errors import SetClipError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions


def fasta(path: Path, records: dict[str, str]) -> Path:
    path.write_text("".join(f">{identifier}\n{sequence}\n" for identifier, sequence in records.items()))
    return path


def images(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(values).save(root / name)
    return root


def captions(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(out: Path, modality: Any) -> list[dict[str, Any]]:
    return open_dataset(out).table(modality, None, schema_of(KINDS_OF_NAMES[modality]).names).to_pylist()  # type: ignore[no-any-return]


def rejects(out: Path) -> list[tuple[str, str]]:
    rows = pq.read_table(out / "rejects.parquet").to_pylist()
    return [(row["location"], row["reason"]) for row in rows]


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_row_has_every_column_of_its_schema(tmp_path: Path) -> None:
    source = tmp_path / "a.fasta"
    source.write_text(">sp|P1|X_Y Some protein OS=Homo sapiens OX=9606\nMKV\n")
    ingest([source], tmp_path / "out", IngestOptions(modality="protein"))
    (row,) = table(tmp_path / "out", "protein")
    assert row == {
        "id": "P1",
        "split": "train",
        "source": "a.fasta",
        "sha256": hashlib.sha256(b"MKV").hexdigest(),
        "label": None,
        "sequence": "MKV",
        "length": 3,
        "description": "Some protein OS=Homo sapiens OX=9606",
    }


def test_exact_duplicates_are_kept_once_and_listed(tmp_path: Path) -> None:
    source = fasta(tmp_path / "a.fasta", {"a": "MKV", "b": "MKV", "c": "GG"})
    result = ingest([source], tmp_path / "out", IngestOptions(modality="protein"))
    assert [row["id"] for row in table(tmp_path / "out", "protein")] == ["a", "c"]
    assert rejects(tmp_path / "out") == [("b", "duplicate of a record already taken")]
    assert "1 left out: duplicate" in result.summary()
    ingest([source], tmp_path / "all", IngestOptions(modality="protein", keep_duplicates=True))
    assert [row["id"] for row in table(tmp_path / "all", "protein")] == ["a", "b", "c"]


def test_one_id_with_two_payloads_keeps_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_text(">a\nMKV\n>a\nGG\n>a\nMKV\n>b\nAA\n>c\nLL\n")
    ingest([tmp_path / "a.fasta"], tmp_path / "out", IngestOptions(modality="protein"))
    assert [row["sequence"] for row in table(tmp_path / "out", "protein")] == ["MKV", "AA", "LL"]
    assert [reason for _, reason in rejects(tmp_path / "out")] == [
        "id already taken by a different record",
        "duplicate of a record already taken",
    ]


def test_a_caption_may_repeat_for_another_image_but_not_for_the_same(tmp_path: Path) -> None:
    rows = [{"text": "a field", "group": group} for group in ("1.jpg", "1.jpg", "2.jpg")] + [{"text": "a field"}]
    ingest([captions(tmp_path / "c.jsonl", rows)], tmp_path / "out", IngestOptions(modality="caption"))
    assert [row["id"] for row in table(tmp_path / "out", "caption")] == ["1.jpg#0", "2.jpg#0"]


def test_a_drawn_split_keeps_groups_whole_and_no_text_is_in_two_splits(tmp_path: Path) -> None:
    rows = [{"text": f"text {number % 97}", "group": f"{number // 5}.jpg"} for number in range(2000)]
    source = captions(tmp_path / "c.jsonl", rows)
    ingest([source], tmp_path / "out", IngestOptions(modality="caption", split="train=0.6,test=0.4"))
    taken = table(tmp_path / "out", "caption")
    assert {row["split"] for row in taken} == {"train", "test"}
    for column in ("group", "text"):
        splits = {(row[column], row["split"]) for row in taken}
        assert len(splits) == len({value for value, _ in splits}), column


def test_a_repeated_payload_that_is_kept_stays_in_the_split_of_the_first(tmp_path: Path) -> None:
    source = fasta(tmp_path / "a.fasta", {f"p{number}": "MKV" * (1 + number % 3) for number in range(60)})
    ingest(
        [source], tmp_path / "out", IngestOptions(modality="protein", split="train=0.5,test=0.5", keep_duplicates=True)
    )
    taken = table(tmp_path / "out", "protein")
    assert len(taken) == 60
    assert len({(row["sequence"], row["split"]) for row in taken}) == 3


def test_the_splits_that_a_source_states_are_taken_unless_told_otherwise(tmp_path: Path) -> None:
    source = captions(tmp_path / "c.jsonl", [{"text": "one", "split": "test"}, {"text": "two"}])
    ingest([source], tmp_path / "auto", IngestOptions(modality="caption"))
    assert [row["split"] for row in table(tmp_path / "auto", "caption")] == ["test", "train"]
    ingest([source], tmp_path / "train", IngestOptions(modality="caption", split="train"))
    assert {row["split"] for row in table(tmp_path / "train", "caption")} == {"train"}


def test_images_can_take_the_split_of_the_captions_that_describe_them(tmp_path: Path) -> None:
    root = images(tmp_path / "in", ["deep/a.png", "deep/b.png", "deep/c.png"])
    rows = [{"text": "one", "group": "a.png", "split": "test"}, {"text": "two", "group": "deep/b.png", "split": "val"}]
    with pytest.raises(SetClipError, match="holds no captions"):
        ingest([root], tmp_path / "out", IngestOptions(modality="image", split="as-captions"))
    ingest([captions(tmp_path / "c.jsonl", rows)], tmp_path / "out", IngestOptions(modality="caption"))
    ingest([root], tmp_path / "out", IngestOptions(modality="image", split="as-captions", pairs_from_group=True))
    found = {row["id"]: row["split"] for row in table(tmp_path / "out", "image")}
    assert found == {"deep/a.png": "test", "deep/b.png": "val", "deep/c.png": "train"}
    assert len(open_dataset(tmp_path / "out").pairs()) == 2


def test_a_split_name_cannot_leave_the_folder_and_a_flood_of_splits_is_refused(tmp_path: Path) -> None:
    bad = [{"text": "one"}, {"text": "three"}, {"text": "two", "split": "../../up"}]
    ingest([captions(tmp_path / "c.jsonl", bad)], tmp_path / "out", IngestOptions(modality="caption"))
    assert [reason for _, reason in rejects(tmp_path / "out")] == [
        "split's name has other characters than letters, digits, '-' and '_'"
    ]
    many = captions(tmp_path / "d.jsonl", [{"text": f"t{number}", "split": f"s{number}"} for number in range(40)])
    with pytest.raises(SetClipError, match="its records have more than 16 splits"):
        ingest([many], tmp_path / "out2", IngestOptions(modality="caption"), shard_rows=3)


def test_labels_match_the_whole_id_or_the_file_name_and_unused_ones_are_counted(tmp_path: Path) -> None:
    root = images(tmp_path / "in", ["images/a.png", "images/b.png", "images/c.png"])
    (root / "labels.csv").write_text("filename,class\na.png,lake\nimages/b.png,field\nnone.png,x\n")
    result = ingest([root], tmp_path / "out", IngestOptions(modality="image", labels=root / "labels.csv"))
    assert [row["label"] for row in table(tmp_path / "out", "image")] == ["lake", "field", None]
    (join,) = result.joins
    assert (join.left.matched, join.left.example, join.right.matched, join.right.example) == (
        2,
        "none.png",
        2,
        "images/c.png",
    )
    assert "2 of 3 labels of labels.csv (not 'none.png') match 2 of 3 records" in result.summary()


def test_captions_take_the_label_of_their_image_and_other_labels_are_another_source(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    options = IngestOptions(modality="caption", labels=labels)
    source = captions(tmp_path / "c.jsonl", [{"text": "one", "group": "a.png"}, {"text": "two", "group": "b.png"}])
    for label in ("lake", "sea"):
        labels.write_text(f"filename,class\na.png,{label}\n")
        ingest(source, tmp_path / "out", options)
        assert [row["label"] for row in table(tmp_path / "out", "caption")] == [label, None]


def test_pairs_are_looked_up_and_put_in_the_order_of_the_towers(tmp_path: Path) -> None:
    root = images(tmp_path / "in", ["x/a.png", "x/b.png"])
    source = captions(tmp_path / "c.jsonl", [{"id": "1", "text": "one"}, {"id": "2", "text": "two", "split": "test"}])
    (tmp_path / "p.csv").write_text(
        "left_modality,left_id,right_modality,right_id\n"
        "caption,1,image,a.png\nimage,x/b.png,caption,2\nimage,x/b.png,caption,none\ncaption,1,image,x/a.png\n"
    )
    ingest([root], tmp_path / "out", IngestOptions(modality="image"))
    result = ingest([source], tmp_path / "out", IngestOptions(modality="caption", pairs=tmp_path / "p.csv"))
    assert open_dataset(tmp_path / "out").pairs() == [Pair("image", "x/a.png", "caption", "1", "train")]
    assert rejects(tmp_path / "out") == [
        ("line 3", "pair joins split train with split test"),
        ("line 4", "pair names an unknown caption id: none"),
    ]
    assert result.pairs == 1


def test_pairs_can_be_added_when_every_source_is_in(tmp_path: Path) -> None:
    out, pairs = tmp_path / "out", tmp_path / "p.csv"
    pairs.write_text("left_modality,left_id,right_modality,right_id\nimage,a.png,caption,1\nimage,a.png,caption,9\n")
    arguments = ["ingest", "--pairs", str(pairs), "--out", str(out)]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 3
    assert f"{out}: no such folder" in refused.output
    ingest([images(tmp_path / "i", ["a.png"])], out, IngestOptions(modality="image"))
    ingest([captions(tmp_path / "c.jsonl", [{"id": "1", "caption": "a"}])], out, IngestOptions(modality="caption"))
    shards = {name: data for name, data in contents(out).items() if name.startswith(("image", "caption"))}
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert open_dataset(out).pairs() == [Pair("image", "a.png", "caption", "1", "train")]
    assert rejects(out) == [("line 3", "pair names an unknown caption id: 9")]
    assert shards.items() <= contents(out).items()
    verify(out)
    nothing = CliRunner().invoke(app, ["ingest", "--out", str(out)])
    assert nothing.exit_code == 2
    assert "there is no SOURCE to read" in nothing.output


def test_pairs_from_group_join_each_caption_to_what_it_describes(tmp_path: Path) -> None:
    root = images(tmp_path / "in", ["a.png", "b.png"])
    rows = [{"text": "one", "group": "a.png"}, {"text": "two", "group": "a.png"}, {"text": "three", "group": "z.png"}]
    ingest([root], tmp_path / "out", IngestOptions(modality="image"))
    ingest(
        [captions(tmp_path / "c.jsonl", rows)],
        tmp_path / "out",
        IngestOptions(modality="caption", pairs_from_group=True),
    )
    assert [(pair.left_id, pair.right_id) for pair in open_dataset(tmp_path / "out").pairs()] == [
        ("a.png", "a.png#0"),
        ("a.png", "a.png#1"),
    ]


@pytest.mark.parametrize("by", ["group", "file"])
def test_pairs_are_added_again_when_there_are_new_rows(tmp_path: Path, by: str) -> None:
    out, pairs = tmp_path / "out", tmp_path / "p.csv"
    pairs.write_text(
        "left_modality,left_id,right_modality,right_id\nimage,a.png,caption,a.png#0\nimage,b.png,caption,b.png#0\n"
    )
    options = IngestOptions(modality="caption", pairs=pairs if by == "file" else None, pairs_from_group=by == "group")
    ingest(images(tmp_path / "in", ["a.png", "b.png"]), out, IngestOptions(modality="image"))
    for number, name in enumerate(("a", "b"), 1):
        source = captions(tmp_path / f"{name}.jsonl", [{"text": f"words of {name}", "group": f"{name}.png"}])
        assert ingest(source, out, options).pairs == number
    assert [pair.left_id for pair in open_dataset(out).pairs()] == ["a.png", "b.png"]
    assert len(open_dataset(out).index.pairs) == 1


def test_captions_of_proteins_and_of_images_are_paired_with_their_own_kind(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingest(images(tmp_path / "in", ["a.png"]), out, IngestOptions(modality="image"))
    ingest(fasta(tmp_path / "p.fasta", {"p1": "MKV"}), out, IngestOptions(modality="protein"))
    rows = [{"text": "a lake", "group": "a.png"}, {"text": "a kinase", "group": "p1"}]
    result = ingest(captions(tmp_path / "c.jsonl", rows), out, IngestOptions(modality="caption", pairs_from_group=True))
    assert {(pair.left_modality, pair.left_id) for pair in open_dataset(out).pairs()} == {
        ("image", "a.png"),
        ("protein", "p1"),
    }
    assert result.pair_rejects == {}


def test_pairs_before_the_other_modality_say_which_ingest_is_missing(tmp_path: Path) -> None:
    source = captions(tmp_path / "c.jsonl", [{"text": "one", "group": "a.png"}])
    with pytest.raises(SetClipError, match="need captions and what they describe"):
        ingest([source], tmp_path / "out", IngestOptions(modality="caption", pairs_from_group=True))


def test_a_second_run_reads_nothing_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fasta(tmp_path / "a.fasta", {"a": "MKV"})
    ingest([source], tmp_path / "out", IngestOptions(modality="protein"))
    before = contents(tmp_path / "out")
    monkeypatch.setattr("setclip_cli.ingest.sources.protein.Fasta.records", lambda *_: pytest.fail("was read again"))
    result = ingest([source], tmp_path / "out", IngestOptions(modality="protein"))
    assert contents(tmp_path / "out") == before
    assert "unchanged, not read again" in result.summary()


def test_sources_and_modalities_join_a_dataset_as_if_named_at_once(tmp_path: Path) -> None:
    one = fasta(tmp_path / "a.fasta", {"a": "MKV", "b": "LL"})
    two = fasta(tmp_path / "b.fasta", {"c": "MKV", "d": "GG"})
    ingest([one, two], tmp_path / "at-once", IngestOptions(modality="protein"))
    ingest([one], tmp_path / "in-turn", IngestOptions(modality="protein"))
    ingest([two], tmp_path / "in-turn", IngestOptions(modality="protein"))
    assert contents(tmp_path / "at-once") == contents(tmp_path / "in-turn")
    assert [row["id"] for row in table(tmp_path / "in-turn", "protein")] == ["a", "b", "d"]
    ingest([captions(tmp_path / "c.jsonl", [{"text": "one"}])], tmp_path / "in-turn", IngestOptions(modality="caption"))
    assert open_dataset(tmp_path / "in-turn").modalities() == ["protein", "caption"]


def test_a_caption_of_an_earlier_ingest_is_not_taken_again_for_the_same_image(tmp_path: Path) -> None:
    """The groups of rows on disk are known to the next ingest."""
    rows = [{"id": "1", "text": "a field", "group": "1.jpg"}, {"id": "2", "text": "a lake", "group": "1.jpg"}]
    again = [{"id": "3", "text": "a field", "group": "1.jpg"}, {"id": "4", "text": "a field", "group": "2.jpg"}]
    for name, lines in (("a.jsonl", rows), ("b.jsonl", again)):
        ingest(captions(tmp_path / name, lines), tmp_path / "out", IngestOptions(modality="caption"))
    assert [row["id"] for row in table(tmp_path / "out", "caption")] == ["1", "2", "4"]
    assert rejects(tmp_path / "out") == [("3", "duplicate of a record already taken")]


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_the_bytes_do_not_depend_on_the_workers(tmp_path: Path, workers: int) -> None:
    root = images(tmp_path / "in", [f"{number:03d}.png" for number in range(50)])
    ingest([root], tmp_path / "one", IngestOptions(modality="image", workers=1), shard_rows=20)
    ingest([root], tmp_path / "many", IngestOptions(modality="image", workers=workers), shard_rows=20)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    assert len(open_dataset(tmp_path / "many").shards("image")) == 3


def test_too_many_bad_records_leave_no_finished_dataset_but_their_list(tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_text(">a\nMKV\n>b\nM1\n>c\nM2\n>d\nGG\n")
    with pytest.raises(SetClipError, match=r"2 of 4 records are bad .*2 holds what is no amino-acid code"):
        ingest([tmp_path / "a.fasta"], tmp_path / "out", IngestOptions(modality="protein", max_bad_fraction=0.4))
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert len(rejects(tmp_path / "out")) == 2
    result = ingest([tmp_path / "a.fasta"], tmp_path / "out", IngestOptions(modality="protein", max_bad_fraction=0.6))
    assert result.rows == {"protein": {"train": 2}}
    assert len(rejects(tmp_path / "out")) == 2


def test_as_many_bad_records_as_allowed_are_taken_and_a_source_of_repeats_alone_is_fine(tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_text(">a\nMKV\n>b\nM1\n>c\nM2\n>d\nGG\n")
    options = IngestOptions(modality="protein", max_bad_fraction=0.5)
    assert ingest(tmp_path / "a.fasta", tmp_path / "out", options).rows == {"protein": {"train": 2}}
    (tmp_path / "b.fasta").write_text(">x\nMKV\n>y\nGG\n")
    result = ingest(tmp_path / "b.fasta", tmp_path / "out", options)
    assert result.new[0]["rejects"] == {"duplicate of a record already taken": 2}


def test_repeated_ids_say_how_to_repair_them(tmp_path: Path) -> None:
    ingest(fasta(tmp_path / "a.fasta", {"a": "MKV"}), tmp_path / "out", IngestOptions(modality="protein"))
    with pytest.raises(SetClipError, match=r"1 id already taken by(.|\n)*give each record its own id \('a' is"):
        ingest(fasta(tmp_path / "b.fasta", {"a": "GG"}), tmp_path / "out", IngestOptions(modality="protein"))


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["ingest", *map(str, arguments)])


@pytest.mark.parametrize(
    ("make", "modality", "words"),
    [
        (lambda root: root / "none.fasta", "protein", "none.fasta: no such file or folder"),
        (lambda root: (root / "empty").mkdir() or root / "empty", "image", "empty: the folder is empty"),
        (lambda root: (root / "e.fasta").write_text("") * 0 or root / "e.fasta", "protein", "no protein records"),
        (
            lambda root: (root / "t").mkdir() or (root / "t/a.txt").write_text("x") * 0 or root / "t",
            "image",
            "no image",
        ),
        (
            lambda root: (root / "a.xyz").write_text("x") * 0 or root / "a.xyz",
            "protein",
            "with the suffix '.xyz'",
        ),
        (
            lambda root: (root / "a.jpg").write_bytes(b"") or root / "a.jpg",
            "image",
            "1 of 1 records are bad (1 empty file)",
        ),
    ],
)
def test_what_cannot_be_ingested_is_named_with_exit_code_3(
    tmp_path: Path, make: Any, modality: str, words: str
) -> None:
    result = run(make(tmp_path), "--modality", modality, "--out", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (3, "")
    assert words in result.stderr
    assert "fix:" in result.stderr


def test_an_unknown_modality_is_a_usage_error(tmp_path: Path) -> None:
    result = run(fasta(tmp_path / "a.fasta", {"a": "M"}), "--modality", "protien", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "--modality protien: the kind of its rows is not known (did you mean 'protein'?)" in result.stderr


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    source = fasta(tmp_path / "a.fasta", {"a": "MKV"})
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/final.doc").write_text("years of work")
    before = contents(tmp_path / "thesis")
    result = run(source, "--modality", "protein", "--out", tmp_path / "thesis")
    assert (result.exit_code, contents(tmp_path / "thesis")) == (3, before)
    assert "thesis: exists but is not a DATASET folder (it holds 'final.doc')" in result.stderr
    assert run(source, "--modality", "protein", "--out", source).exit_code == 3
    (tmp_path / "run").mkdir()
    for name in (".lock", "recipe.toml"):  # a RUN has a lock too
        (tmp_path / "run" / name).write_text("")
    assert run(source, "--modality", "protein", "--out", tmp_path / "run").exit_code == 3


def test_a_failed_ingest_leaves_the_earlier_dataset_as_it_was(tmp_path: Path) -> None:
    ingest([fasta(tmp_path / "a.fasta", {"a": "MKV"})], tmp_path / "out", IngestOptions(modality="protein"))
    before = contents(tmp_path / "out")
    with pytest.raises(SetClipError):
        ingest([fasta(tmp_path / "b.fasta", {"b": "1"})], tmp_path / "out", IngestOptions(modality="protein"))
    after = contents(tmp_path / "out")
    assert {name: after[name] for name in before if name.startswith("protein/")} == {
        name: content for name, content in before.items() if name.startswith("protein/")
    }
    assert len(rejects(tmp_path / "out")) == 1
    verify(tmp_path / "out")
    assert [Path(entry["path"]).name for entry in open_dataset(tmp_path / "out").index.sources] == ["a.fasta"]
    ingest([fasta(tmp_path / "c.fasta", {"c": "GG", "d": ""})], tmp_path / "out", IngestOptions(modality="protein"))
    assert [reason for _, reason in rejects(tmp_path / "out")] == ["empty sequence"]


def test_two_ingests_at_once_are_refused_and_a_crash_leaves_no_lock(tmp_path: Path) -> None:
    source = fasta(tmp_path / "a.fasta", {"a": "MKV"})
    holder = (
        "import os, sys; from pathlib import Path; from setclip_cli.ingest.progress import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(SetClipError, match="another setclip process is writing here"):
            ingest([source], tmp_path / "out", IngestOptions(modality="protein"))
        process.kill()
    assert ingest([source], tmp_path / "out", IngestOptions(modality="protein")).rows == {"protein": {"train": 1}}


def test_the_program_prints_one_json_object_or_a_summary(tmp_path: Path) -> None:
    source = fasta(tmp_path / "a.fasta", {"a": "mkv", "b": ""})
    arguments = [source, "--modality", "protein", "--out", tmp_path / "out"]
    printed = run(*arguments)
    assert printed.exit_code == 0
    for words in ("2 read, 1 taken", "1 changed: lower case made upper case", "1 left out: empty sequence"):
        assert words in printed.stdout
    shutil.rmtree(tmp_path / "out")
    result = json.loads(run(*arguments, "--json").stdout)
    assert result["rows"] == {"protein": {"train": 1}}


def test_the_real_measurement_files_give_the_expected_counts(tmp_path: Path, shared_data: Path) -> None:
    out = tmp_path / "out"
    proteins = ingest([shared_data / "uniprot/uniprot_sample.fasta.gz"], out, IngestOptions(modality="protein"))
    rsscn7 = shared_data / "rsscn7"
    pictures = ingest([rsscn7], out, IngestOptions(modality="image", labels=rsscn7 / "labels.csv"))
    texts = ingest([shared_data / "rsicd_captions/dataset_rsicd.json"], out, IngestOptions(modality="caption"))
    assert (proteins.new[0]["read"], proteins.new[0]["rejects"]) == (
        11_971,
        {"duplicate of a record already taken": 465},
    )
    assert Counter(row["label"] for row in table(out, "image")).most_common() == [
        (name, 200) for name in ("grass", "field", "industry", "river_lake", "forest", "resident", "parking")
    ]
    assert pictures.rows["image"] == {"train": 1400}
    assert texts.new[0]["read"] == 54_605
    assert sum(texts.rows["caption"].values()) == 24_333  # distinct (image, text)

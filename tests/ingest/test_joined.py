"""Labels, pairs, groups and splits of captions, joined to rows as people spell them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from setclip_cli.cli.app import app
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions

IMAGES, HEADER = IngestOptions(modality="image"), "left_modality,left_id,right_modality,right_id\n"


def images(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        seed = crc32(f"{root.name}/{name}".encode())
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / name)
    return root


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def captions(path: Path, *groups: str, **more: Any) -> Path:
    rows = [{"text": f"words {number} of {path}", "group": group, **more} for number, group in enumerate(groups)]
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def labels_of(out: Path) -> dict[str, str | None]:
    rows = open_dataset(out).table("image", None, ["id", "label"]).to_pylist()
    return {row["id"]: row["label"] for row in rows}


def pairs_of(out: Path) -> list[tuple[str, str]]:
    return [(pair.left_id, pair.right_id) for pair in open_dataset(out).pairs()]


def reasons(out: Path) -> list[str]:
    import pyarrow.parquet as pq

    return [str(reason) for reason in pq.read_table(out / "rejects.parquet")["reason"].to_pylist()]


@pytest.mark.parametrize(
    "spelled",
    [
        ["./images/a001.png", "images/a003.png", r"C:\data\images\a005.png"],
        ["a001", "a003", "a005"],
        ["A001.PNG", "a003.jpg", "a005"],
    ],
)
def test_labels_by_path_by_stem_and_in_other_case(tmp_path: Path, spelled: list[str]) -> None:
    root = images(tmp_path / "images", "a001.png", "a003.png", "a005.png", "a007.png")
    labels = write(tmp_path / "l.csv", "id,label\n" + "".join(f"{name},class{n}\n" for n, name in enumerate(spelled)))
    result = ingest(root, tmp_path / "out", IngestOptions(modality="image", labels=labels))
    assert labels_of(tmp_path / "out") == {
        "a001.png": "class0",
        "a003.png": "class1",
        "a005.png": "class2",
        "a007.png": None,
    }
    (join,) = result.as_json()["joins"]
    assert (join["matched"], join["unmatched_right"], join["example_right"]) == (3, 1, "a007.png")
    assert open_dataset(tmp_path / "out").index.sources[0]["joins"] == [join]


def test_labels_that_match_nothing_are_an_error_before_anything_is_read(tmp_path: Path) -> None:
    root = images(tmp_path / "images", "a.png")
    labels = write(tmp_path / "l.csv", "id,label\nx.png,lake\n")
    with pytest.raises(SetClipError, match=r"none of the 1 labels of l.csv(.|\n)*'x.png'(.|\n)*'a.png'"):
        ingest(root, tmp_path / "out", IngestOptions(modality="image", labels=labels))
    assert not (tmp_path / "out/dataset.json").exists()


def test_labels_that_match_some_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = images(tmp_path / "images", "a.png", "b.png", "c.png")
    labels = write(tmp_path / "l.csv", "id,label\na.png,lake\nx.png,lake\n")
    ingest(root, tmp_path / "out", IngestOptions(modality="image", labels=labels))
    assert "WARNING: 1 of 2 labels of l.csv (not 'x.png') match 1 of 3 records (not 'b.png')" in capsys.readouterr().err


def test_a_label_that_two_images_could_have_is_for_none(tmp_path: Path) -> None:
    root = images(tmp_path / "all", "forest/1.png", "river/1.png", "river/2.png")
    labels = write(tmp_path / "l.csv", "id,label\n1.png,x\n2.png,y\n")
    result = ingest(root, tmp_path / "out", IngestOptions(modality="image", labels=labels))
    assert labels_of(tmp_path / "out") == {"forest/1.png": "forest", "river/1.png": "river", "river/2.png": "y"}
    assert result.joins[0].ambiguous == 1
    assert result.joins[0].candidates == "'1.png': forest/1.png, river/1.png"


def test_a_label_that_images_of_two_sources_could_have_is_for_none_unless_its_path_says_which(tmp_path: Path) -> None:
    roots = [images(tmp_path / "forest", "1.png", "2.png"), images(tmp_path / "river", "1.png", "2.png")]
    labels = write(tmp_path / "l.csv", "id,label\n1.png,x\nforest/2.png,f\nriver/2.png,r\n")
    ingest(roots, tmp_path / "out", IngestOptions(modality="image", labels=labels))
    assert labels_of(tmp_path / "out") == {"1.png": None, "2.png": "f", "river/1.png": None, "river/2.png": "r"}


def test_two_spellings_of_one_image_with_two_labels_give_it_none(tmp_path: Path) -> None:
    root = images(tmp_path / "images", "a.png", "b.png")
    labels = write(tmp_path / "l.csv", "id,label\nx/a.png,lake\ny/a.png,sea\nb.png,field\n")
    result = ingest(root, tmp_path / "out", IngestOptions(modality="image", labels=labels))
    assert labels_of(tmp_path / "out") == {"a.png": None, "b.png": "field"}
    assert result.joins[0].ambiguous == 2


def test_labels_by_version_are_suggested_and_not_taken(tmp_path: Path) -> None:
    fasta = write(tmp_path / "p.fasta", ">NP_000001.2\nMKV\n")
    labels = write(tmp_path / "l.csv", "id,label\nNP_000001.1,kinase\n")
    with pytest.raises(SetClipError, match=r"'NP_000001\.1' may be 'NP_000001\.2'"):
        ingest(fasta, tmp_path / "out", IngestOptions(modality="protein", labels=labels))


def world(tmp_path: Path) -> Path:
    out = tmp_path / "out"
    ingest(images(tmp_path / "images", "x/1.png", "x/2.png"), out, IMAGES)
    ingest(write(tmp_path / "c.csv", "id,text\nc1,one\nc2,two\n"), out, IngestOptions(modality="caption"))
    return out


@pytest.mark.parametrize("spelled", ["1.png", "img/1.png", "1", r"x\1.png", "./x/1.png", "x/1.PNG", "/d/x/1.png"])
def test_pairs_find_their_images_in_other_spellings(tmp_path: Path, spelled: str) -> None:
    out = world(tmp_path)
    pairs = write(tmp_path / "p.csv", f"{HEADER}caption,c1,image,{spelled}\n")
    ingest([], out, IngestOptions(pairs=pairs))
    assert pairs_of(out) == [("x/1.png", "c1")]
    joins = open_dataset(out).index.pairs[0]["joins"]
    assert [join["matched"] for join in joins] == [1, 1]


def test_a_file_without_a_usable_pair_is_an_error_that_leaves_the_dataset_as_it_was(tmp_path: Path) -> None:
    out = world(tmp_path)
    before = (out / "dataset.json").read_bytes()
    for lines, words in (
        ("image,9.png,caption,c1\n", r"none of the 1 image ids of p.csv(.|\n)*'9.png'(.|\n)*'x/1.png'"),
        ("image,c1,caption,1.png\n", "exchange the two columns of ids"),
        ("", "there are no pairs in it"),
    ):
        with pytest.raises(SetClipError, match=words):
            ingest([], out, IngestOptions(pairs=write(tmp_path / "p.csv", HEADER + lines)))
    assert (out / "dataset.json").read_bytes() == before
    found = CliRunner().invoke(app, ["ingest", "--pairs", str(tmp_path / "p.csv"), "--out", str(out)])
    assert found.exit_code == 3


def test_pairs_across_splits_alone_are_an_error(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingest(images(tmp_path / "images", "1.png"), out, IMAGES)
    ingest(captions(tmp_path / "c.jsonl", "1.png", split="test"), out, IngestOptions(modality="caption"))
    with pytest.raises(SetClipError, match=r"1 pair joins split train with split test(.|\n)*read both with the same"):
        ingest([], out, IngestOptions(pairs_from_group=True))


def test_groups_that_name_no_image_are_an_error_and_few_that_do_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    ingest(images(tmp_path / "images", "1.png", "2.png"), out, IMAGES)
    source = captions(tmp_path / "c.jsonl", "7.png", "8.png", "9.png")
    options = IngestOptions(modality="caption", pairs_from_group=True)
    with pytest.raises(SetClipError, match=r"none of the 3 groups of captions(.|\n)*'7.png'(.|\n)*'1.png'"):
        ingest(source, out, options)
    captions(source, "1.png", "8.png", "9.png")
    result = ingest(source, out, options)
    assert result.pairs == 1
    assert "WARNING: 1 of 3 groups of captions (not '8.png') match 1 of 2 image rows" in capsys.readouterr().err


def test_a_group_that_two_images_have_pairs_nothing_unless_its_source_says_which(tmp_path: Path) -> None:
    roots = [images(tmp_path / "forest", "1.png", "2.png"), images(tmp_path / "river", "1.png")]
    ingest(roots, tmp_path / "out", IMAGES)
    options = IngestOptions(modality="caption", pairs_from_group=True)
    ingest(captions(tmp_path / "c.jsonl", "1.png", "2.png"), tmp_path / "out", options)
    assert pairs_of(tmp_path / "out") == [("2.png", "2.png#0")]
    assert reasons(tmp_path / "out") == ["several rows have the id that a pair names: 1.png (1.png, river/1.png)"]
    ingest(captions(tmp_path / "river/c.jsonl", "1.png"), tmp_path / "out", options)
    assert pairs_of(tmp_path / "out")[1:] == [("river/1.png", "river/c.jsonl/1.png#0")]


def test_of_two_images_a_caption_describes_the_one_in_the_split_that_was_said_for_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingest([images(tmp_path / "d/train", "1.png"), images(tmp_path / "d/test", "1.png")], out, IMAGES)
    for split in ("train", "test"):
        source = captions(tmp_path / f"c/{split}.jsonl", "1.png")
        ingest(source, out, IngestOptions(modality="caption", split=split, pairs_from_group=True))
    assert pairs_of(out) == [("1.png", "1.png#0"), ("test/1.png", "test.jsonl/1.png#0")]
    other = tmp_path / "other"  # nobody said a split: it cannot tell which
    ingest([tmp_path / "d/train", tmp_path / "d/test"], other, IMAGES)
    with pytest.raises(SetClipError, match=r"all 1 that match have several candidates (.|\n)*more of each path"):
        ingest(
            captions(tmp_path / "c/all.jsonl", "1.png"),
            other,
            IngestOptions(modality="caption", pairs_from_group=True),
        )


def test_images_take_the_split_of_their_captions_in_other_spellings(tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = [
        {"text": "one", "group": "img/1.jpg", "split": "test"},
        {"text": "two", "group": "2", "split": "val"},
        {"text": "three", "group": "3.png", "split": "val"},
        {"text": "four", "group": "3.png", "split": "test"},
    ]
    source = write(tmp_path / "c.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    ingest(source, out, IngestOptions(modality="caption"))
    root = images(tmp_path / "images", "1.jpg", "2.png", "3.png", "4.png")
    result = ingest(root, out, IngestOptions(modality="image", split="as-captions"))
    found = open_dataset(out).table("image", None, ["id", "split"]).to_pylist()
    assert {row["id"]: row["split"] for row in found} == {"1.jpg": "test", "2.png": "val", "4.png": "train"}
    assert reasons(out) == ["its captions are in several splits: test, val"]
    assert result.joins[0].right.matched == 3
    with pytest.raises(SetClipError, match="none of the 3 groups of captions"):
        ingest(images(tmp_path / "more", "9.png"), out, IngestOptions(modality="image", split="as-captions"))


def test_a_draw_of_pairs_is_made_anew_when_rows_come_or_change(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(12)]
    root = images(tmp_path / "images", *names[:8])
    source = captions(tmp_path / "c.jsonl", *names)
    draw = IngestOptions(modality="caption", pairs=4)
    out = tmp_path / "out"
    ingest(root, out, IMAGES)
    ingest(source, out, draw)
    images(root, *names[8:])
    assert ingest(root, out, IMAGES).pairs == 4  # not fewer, and none of a row that has gone
    assert ingest(source, out, draw).pairs == 4
    ingest(root, tmp_path / "fresh", IMAGES)
    ingest(source, tmp_path / "fresh", draw)
    assert pairs_of(out) == pairs_of(tmp_path / "fresh")


def test_all_pairs_of_groups_are_taken_again_after_a_source_has_changed(tmp_path: Path) -> None:
    root = images(tmp_path / "images", "1.png", "2.png")
    source = captions(tmp_path / "c.jsonl", "1.png", "2.png")
    out = tmp_path / "out"
    ingest(root, out, IMAGES)
    ingest(source, out, IngestOptions(modality="caption", pairs_from_group=True))
    (root / "1.png").unlink()
    images(root, "3.png")
    captions(source, "2.png", "3.png")
    ingest(root, out, IMAGES)
    assert pairs_of(out) == [("2.png", "2.png#0"), ("3.png", "3.png#0")]


def test_a_source_that_is_read_again_needs_no_label_that_is_for_another(tmp_path: Path) -> None:
    """The labels of a command matched its first source only; a change in a source before them reads both again."""
    for name in ("zero", "one", "two"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, "text": f"words of {name}"}) + "\n")
    (tmp_path / "labels.csv").write_text("id,label\none,x\n")
    out = tmp_path / "out"
    ingest(tmp_path / "zero.jsonl", out, IngestOptions(modality="caption"))
    options = IngestOptions(modality="caption", labels=tmp_path / "labels.csv")
    ingest([tmp_path / "one.jsonl", tmp_path / "two.jsonl"], out, options)
    (tmp_path / "zero.jsonl").write_text(json.dumps({"id": "zero", "text": "other words"}) + "\n")
    ingest(tmp_path / "zero.jsonl", out, IngestOptions(modality="caption"))
    table = open_dataset(out).table("caption", None, ["id", "label"]).to_pylist()
    assert {row["id"]: row["label"] for row in table} == {"zero": None, "one": "x", "two": None}


def test_a_short_id_labels_no_image_if_two_sources_have_it_and_a_longer_one_does(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    sources = [images(tmp_path / folder, "1.png") for folder in ("forest", "river")]
    for lines, expected in (
        ("forest/1.png,f\nriver/1.png,r\n", {"1.png": "f", "river/1.png": "r"}),
        ("river/1.png,r\n", {"1.png": None, "river/1.png": "r"}),
    ):
        labels.write_text("id,label\n" + lines)
        out = tmp_path / str(len(lines))
        ingest(sources, out, IngestOptions(modality="image", labels=labels))
        assert labels_of(out) == expected
    labels.write_text("id,label\n1.png,x\n")
    with pytest.raises(SetClipError, match="have several candidates"):
        ingest(sources, tmp_path / "short", IngestOptions(modality="image", labels=labels))
    ingest(sources[0], tmp_path / "two", IngestOptions(modality="image"))
    ingest(sources[1], tmp_path / "two", IngestOptions(modality="image", labels=labels))  # of the second source only
    assert labels_of(tmp_path / "two") == {"1.png": None, "river/1.png": "x"}

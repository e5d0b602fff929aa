"""Data manifests: those that come with setclip are valid, and one is followed from download to DATASET."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from loopback import Server
from PIL import Image
from typer.testing import CliRunner

from setclip_cli.cli.app import app
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.manifest import downloads_folder, load_manifest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.ingest.sources.uniprot import parse_aspects
from setclip_cli.ingest.splits import parse_split

SHIPPED = sorted((Path(__file__).parents[2] / "data_manifests").glob("*.toml"))
FASTA = b">p1 first\nMKV\n>p2 second\nGGL\n"

MANIFEST = """
schema_version = 1
title = "Two proteins and their words"
homepage = "https://example.org/"
paper = "none"
licence = "CC0-1.0"

[[files]]
name = "two.fasta.gz"
urls = ["{url}/two.fasta.gz"]
bytes = {size}
sha256 = "{sha256}"

[[files]]
name = "words.zip"
urls = ["{url}/words.zip"]
unknown = "made in the test"

[[parts]]
file = "two.fasta.gz"
modality = "protein"
rows = 2

[[parts]]
file = "words.zip"
member = "deep/words.jsonl"
modality = "caption"
rows = 3
"""


def publish(server: Server, root: Path) -> Path:
    content = gzip.compress(FASTA, mtime=0)
    words = "".join(json.dumps({"text": f"words {n}", "group": f"p{n}"}) + "\n" for n in (1, 2))
    with zipfile.ZipFile(root / "words.zip", "w") as file:
        file.writestr("deep/words.jsonl", words)
    server.files = {"/two.fasta.gz": content, "/words.zip": (root / "words.zip").read_bytes()}
    (root / "words.zip").unlink()
    path = root / "two.toml"
    path.write_text(MANIFEST.format(url=server.url, size=len(content), sha256=hashlib.sha256(content).hexdigest()))
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_manifest_that_comes_with_setclip_is_valid(path: Path) -> None:
    manifest = load_manifest(path)
    assert manifest.homepage.startswith("http")
    parse_split(manifest.split)
    for part in manifest.parts:
        parse_aspects(part.options.get("captions_from"))


def test_all_the_promised_sources_have_a_manifest() -> None:
    assert {path.stem for path in SHIPPED} >= {
        *("rsicd", "ucm_captions", "sydney_captions", "rsitmd", "nwpu_captions", "eurosat", "resisc45", "uc_merced"),
        *("whu_rs19", "rsscn7", "aid", "swiss_prot", "protdescribe", "flickr8k", "flickr30k", "coco_captions"),
        "blue_marble",
    }


def test_a_manifest_is_followed_from_download_to_dataset(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    path = publish(server, tmp_path)
    ingest(path, tmp_path / "out", IngestOptions(pairs_from_group=True))
    dataset = open_dataset(tmp_path / "out")
    assert dataset.modalities() == ["protein", "caption"]
    assert [(pair.left_id, pair.right_id) for pair in dataset.pairs()] == [("p1", "p1#0"), ("p2", "p2#0")]
    (recorded,) = dataset.index.manifests
    assert (recorded["title"], recorded["licence"]) == ("Two proteins and their words", "CC0-1.0")
    assert recorded["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "2 records read, but the manifest says 3" in capsys.readouterr().err
    asked = len(server.asked)
    ingest(path, tmp_path / "out", IngestOptions(pairs_from_group=True))
    assert len(server.asked) == asked
    assert len(open_dataset(tmp_path / "out").index.manifests) == 1


def test_a_file_over_the_users_cap_is_not_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    words = ["ingest", str(publish(server, tmp_path)), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*words, "--max-bytes", "10"])
    assert result.exit_code == 3
    assert "bytes, as published, and at most 10 are fetched" in result.stderr
    assert "--max-bytes" in result.stderr.splitlines()[1]
    assert (server.asked, (tmp_path / "out").exists()) == ([], False)
    assert CliRunner().invoke(app, [*words, "--max-bytes", "0"]).exit_code == 2


def test_from_a_folder_nothing_is_fetched_everything_is_verified_and_nothing_is_written_there(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    path = publish(server, tmp_path)
    folder = tmp_path / "have"
    folder.mkdir()
    with pytest.raises(SetClipError, match=r"have: two\.fasta\.gz, words\.zip: not there"):
        ingest(path, tmp_path / "out", IngestOptions(from_folder=folder))
    for name, content in server.files.items():
        (folder / name.strip("/")).write_bytes(content)
    result = CliRunner().invoke(
        app, ["ingest", str(path), "--out", str(tmp_path / "out"), "--from", str(folder), "--json"]
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["rows"] == {"protein": {"train": 2}, "caption": {"train": 2}}
    assert server.asked == []
    assert sorted(entry.name for entry in folder.iterdir()) == ["two.fasta.gz", "words.zip"]
    (folder / "two.fasta.gz").write_bytes(b"\0" * (folder / "two.fasta.gz").stat().st_size)
    with pytest.raises(SetClipError, match="not the published file"):
        ingest(str(path), str(tmp_path / "out2"), IngestOptions(from_folder=str(folder)))


def test_a_part_has_its_own_split_and_options_and_pairs_come_last(tmp_path: Path) -> None:
    text = MANIFEST.format(url="https://example.org", size=1, sha256="0" * 64)
    text = text.replace('licence = "CC0-1.0"', 'licence = "CC0-1.0"\nsplit = "test"').replace(
        "rows = 3", 'split = "val"\noptions = { text_column = "words" }'
    )
    text = text.replace("bytes = 1", 'unknown = "none"').replace(f'sha256 = "{"0" * 64}"', "")
    path = tmp_path / "m.toml"
    path.write_text(text)
    (tmp_path / "two.fasta.gz").write_bytes(gzip.compress(FASTA))
    with zipfile.ZipFile(tmp_path / "words.zip", "w") as file:
        lines = [{"text": "not this", "words": f"words {n}", "group": f"p{n}"} for n in (1, 2)]
        file.writestr("deep/words.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(SetClipError, match="give only 0 pairs"):  # the two sides are in different splits
        ingest(path, tmp_path / "out", IngestOptions(from_folder=tmp_path, pairs=1))
    assert open_dataset(tmp_path / "out").splits("protein") == ["test"]
    result = ingest(path, tmp_path / "out2", IngestOptions(from_folder=tmp_path, pairs=1, split="train"))
    assert result.rows == {"protein": {"train": 2}, "caption": {"train": 2}}
    assert open_dataset(tmp_path / "out2").table("caption")["text"].to_pylist() == ["words 1", "words 2"]
    assert result.pairs == 1


def change(old: str, new: str) -> Any:
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (change('title = "Two', 'titel = "Two'), r"title: Field required\n  - titel: Extra inputs"),
        (change('unknown = "made in the test"', ""), "'unknown' must say why"),
        (change('licence = "CC0-1.0"', 'licence = "unknown"'), "'licence_note' must say why"),
        (change('file = "words.zip"', 'file = "sword.zip"'), "'sword.zip', which is not one of the files"),
        (change('urls = ["{url}/words.zip"]', ""), "'obtain' must say how"),
        (change('urls = ["{url}/words.zip"]', 'urls = ["file:///etc/passwd"]'), "neither https nor http"),
        (change('name = "words.zip"', 'name = "../words.zip"'), "not a plain file name"),
        (change("[[files]]", "[[files"), "is not valid TOML"),
        (
            change('modality = "protein"', 'modality = "protien"'),
            "modality 'protien': there must be a key kind for this name",
        ),
        (change("rows = 2", "options.textcolumn = 'x'"), "there is no option textcolumn"),
    ],
)
def test_a_mistake_in_a_manifest_is_named(tmp_path: Path, edit: Any, words: str) -> None:
    path = tmp_path / "m.toml"
    path.write_text(edit(MANIFEST).format(url="https://example.org", size=1, sha256="0" * 64))
    with pytest.raises(SetClipError, match=words):
        load_manifest(path)


def test_a_file_that_no_address_gives_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    text = MANIFEST.format(url="https://example.org", size=1, sha256="0" * 64)
    text = text.replace('urls = ["https://example.org/words.zip"]', "").replace(
        'licence = "CC0-1.0"', 'licence = "CC0-1.0"\nobtain = "ask the authors"'
    )
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(SetClipError, match=r"words\.zip: not there(.|\n)*ask the authors; put the files into a folder"):
        ingest(path, tmp_path / "out")
    assert downloads_folder(path) == tmp_path / "cache/downloads/m"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x.toml", "--modality", "image", "--out", "o"], "a manifest goes with other manifests only"),
        (["x.fasta", "--out", "o"], "--modality is missing"),
        (["x.fasta", "--modality", "protein"], "--out is missing"),
        (["--verify", "a", "b"], "give one DATASET, not 2 paths"),
        (["x.fasta", "--modality", "protein", "--out", "o", "--from", "d"], "--from: is for manifests, and x.fasta"),
        (["x.fasta", "--modality", "protein", "--out", "o", "--max-bytes", "9"], "--max-bytes: is for manifests"),
        (
            ["x.jsonl", "--modality", "caption", "--out", "o", "--captions-from", "name"],
            "--captions-from: is for",
        ),
        (["x.fasta", "--modality", "protein", "--out", "o", "--bands", "1"], "--bands: is for image rows"),
        (
            ["x.fasta", "--modality", "protein", "--out", "o", "--text-column", "a"],
            "--text-column: is for text",
        ),
        ([".", "--modality", "image", "--out", "o", "--format", "cvs"], "--format: is for files, and . is a folder"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["ingest", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr


def local_manifest(root: Path, *, images: bool = True) -> Path:
    """A manifest of two files of captions and a folder of images in a zip, none of which is published."""
    (root / "one.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n')
    (root / "two.jsonl").write_text('{"id": "c", "text": "three"}\n')
    with zipfile.ZipFile(root / "three.zip", "w") as file:
        file.writestr("1.png", png())
    text = MANIFEST.partition("[[files]]")[0] + 'obtain = "made in the test"\n'
    names = {"one.jsonl": "caption", "two.jsonl": "caption", **({"three.zip": "image"} if images else {})}
    text += "".join(f'[[files]]\nname = "{name}"\nunknown = "made in the test"\n' for name in names)
    text += "".join(f'[[parts]]\nfile = "{name}"\nmodality = "{kind}"\n' for name, kind in names.items())
    path = root / "local.toml"
    path.write_text(text)
    return path


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 99, 200)).save(stream, "PNG")
    return stream.getvalue()


def test_labels_are_joined_to_all_parts_of_a_manifest(tmp_path: Path) -> None:
    path, labels = local_manifest(tmp_path), tmp_path / "labels.csv"
    options = IngestOptions(from_folder=tmp_path, labels=labels)
    for lines, expected in (
        (["a,x", "b,y"], {"a": "x", "b": "y", "c": None, "1.png": None}),  # two.jsonl and the images match none
        (["c,z"], {"a": None, "b": None, "c": "z", "1.png": None}),
        (["1.png,lake", "c,z"], {"a": None, "b": None, "c": "z", "1.png": "lake"}),
    ):
        labels.write_text("\n".join(["id,label", *lines]) + "\n")
        out = tmp_path / f"out {len(lines)} {lines[0][0]}"
        ingest(path, out, options)
        dataset = open_dataset(out)
        found = [row for kind in ("caption", "image") for row in dataset.table(kind, None, ["id", "label"]).to_pylist()]  # type: ignore[arg-type]
        assert {row["id"]: row["label"] for row in found} == expected
    labels.write_text("id,label\nnowhere,x\n")
    with pytest.raises(SetClipError, match=r"none of the 1 labels of labels\.csv matches one of the 3 records"):
        ingest(path, tmp_path / "none", options)
    assert not (tmp_path / "none/dataset.json").exists()


def test_labels_are_joined_to_the_parts_of_all_manifests_of_a_command(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for root in (first, second):
        root.mkdir()
    paths = [local_manifest(first), local_manifest(second, images=False)]
    for name in ("one.jsonl", "two.jsonl", "three.zip"):
        (tmp_path / name).write_bytes((first / name).read_bytes())
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\n1.png,lake\n")
    ingest(paths, tmp_path / "out", IngestOptions(from_folder=tmp_path, labels=labels))
    assert open_dataset(tmp_path / "out").table("image", None, ["label"])["label"].to_pylist() == ["lake"]

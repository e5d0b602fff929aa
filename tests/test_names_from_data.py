"""No name that comes from data leads outside: one table of all files and keys that hold such names.

Every row is tried with each bad name. The command must refuse it or leave it unused, and nothing outside may change.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_world import align, invoke, make_world, run_ok
from tiny import edit_document

from setclip_cli.files.atomic import sha256_bytes
from setclip_cli.files.documents import signed, unsigned

BAD_PATHS = (
    "../outside/victim-00000.parquet",
    "/proc/../{outside}/victim-00000.parquet",
    "protein/../../outside/victim-00000.parquet",
    "protein/train-00000.parquet/../../../outside/victim-00000.parquet",
    "protein\\..\\..\\outside\\victim-00000.parquet",
    "protein/train-00000.parquet\x00",
    "",
    ".",
)
BAD_SPLITS = ("../../outside/victim", "/tmp/victim", "..", "a/b", "a\\b", "", "x\n", "é", ".hidden", "a" * 300)
Change = Callable[[Path, str], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make_world(tmp_path_factory.mktemp("made"))
    code, _, stderr = align(world, world / "run", "--set", "train.steps=2")
    assert code == 0, stderr
    run_ok("embed", world / "run", world / "data", "--out", world / "embeddings")
    return world


@pytest.fixture
def world(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil, beside a folder whose files must stay."""
    copy = shutil.copytree(made, tmp_path / "around" / "copy")
    outside = tmp_path / "around" / "copy" / "outside"
    outside.mkdir()
    for name in ("victim-00000.parquet", "victim-00000.json", "victim.faiss", "model.safetensors", "a.csv"):
        (outside / name).write_text("mine")
    monkeypatch.setenv("SETCLIP_CACHE", str(copy / "cache"))
    monkeypatch.chdir(copy)
    return copy


def around(world: Path, out: str) -> dict[str, bytes]:
    """Every file but those of the output folder and of the cache."""
    ours = (world / out, world / "cache")
    return {
        str(path.relative_to(world.parent)): path.read_bytes()
        for path in sorted(world.parent.rglob("*"))
        if path.is_file() and not any(path.is_relative_to(folder) for folder in ours)
    }


def shard_path(file: str) -> Change:
    """The shard is moved there, so that nothing but its path is wrong."""

    def change(world: Path, bad: str) -> None:
        def edit(index: dict[str, Any]) -> None:
            shutil.copy((world / file).parent / index["shards"][0]["path"], world / "outside/victim-00000.parquet")
            index["shards"][0].update(path=bad)

        edit_document(world / file, edit)

    return change


def shard_split(file: str) -> Change:
    def change(world: Path, bad: str) -> None:
        def edit(index: dict[str, Any]) -> None:
            shard = index["shards"][0]
            shutil.copy((world / file).parent / shard["path"], world / "outside/victim-00000.parquet")
            shard.update(split=bad, path=f"{shard['modality']}/{bad}-00000.parquet")

        edit_document(world / file, edit)

    return change


def key_of_files(file: str) -> Change:
    def change(world: Path, bad: str) -> None:
        edit_document(world / file, lambda index: index.setdefault("files", {}).update({bad: sha256_bytes(b"mine")}))

    return change


def shards_of_source(world: Path, bad: str) -> None:
    edit_document(world / "data/dataset.json", lambda index: index["sources"][0].update(shards=[bad]))


def finished_record(world: Path, bad: str) -> None:
    (world / "embeddings/.finished/protein").mkdir(parents=True)
    record = world / "embeddings/.finished/protein/train-00000.json"
    index, _ = unsigned((world / "embeddings/embeddings.json").read_bytes())
    settings = {name: index[name] for name in ("model", "method", "dim", "dtype", "precision")}
    record.write_text(signed({"making": settings, "shard": {**index["shards"][0], "path": bad}}))


def tower_name(world: Path, bad: str) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["towers"][bad] = {**config["towers"].pop("protein"), "tuned_sha256": sha256_bytes(b"mine")}

    edit_document(world / "run/config.json", edit)


EMBED = ("embed", "run", "data", "--out", "embeddings")
EMBED_NEW = ("embed", "run", "data", "--out", "new")
VERIFY = ("ingest", "--verify", "data")
TABLE: dict[str, tuple[Change, tuple[str, ...], tuple[str, ...], str]] = {
    # file and key: how it is changed, the bad names, the command, its output folder
    "dataset.json shards.path, verify": (
        shard_path("data/dataset.json"),
        BAD_PATHS,
        ("ingest", "--verify", "data"),
        "-",
    ),
    "dataset.json shards.path, embed": (shard_path("data/dataset.json"), BAD_PATHS, EMBED_NEW, "new"),
    "dataset.json shards.split": (shard_split("data/dataset.json"), BAD_SPLITS, EMBED_NEW, "new"),
    "dataset.json sources.shards": (
        shards_of_source,
        BAD_PATHS,
        ("ingest", "proteins.fasta", "--modality", "protein", "--out", "data"),
        "data",
    ),
    "dataset.json files": (key_of_files("data/dataset.json"), BAD_PATHS, VERIFY, "-"),
    "embeddings.json shards.path": (shard_path("embeddings/embeddings.json"), BAD_PATHS, EMBED, "embeddings"),
    "embeddings.json shards.split": (shard_split("embeddings/embeddings.json"), BAD_SPLITS, EMBED, "embeddings"),
    "embeddings.json files": (key_of_files("embeddings/embeddings.json"), BAD_PATHS, EMBED, "embeddings"),
    ".finished/*.json shard.path": (finished_record, BAD_PATHS, EMBED, "embeddings"),
    "config.json towers": (tower_name, BAD_PATHS, EMBED, "embeddings"),
    "config.json files": (key_of_files("run/config.json"), BAD_PATHS, EMBED, "embeddings"),
}


@pytest.mark.parametrize("row", TABLE)
def test_a_bad_name_in_a_file_of_ours_is_refused(world: Path, row: str) -> None:
    change, bad_names, command, out = TABLE[row]
    kept = {path: path.read_bytes() for path in world.glob("*/*.json")}
    for bad in bad_names:
        for path, content in kept.items():
            path.write_bytes(content)
        shutil.rmtree(world / "embeddings/.finished", ignore_errors=True)
        change(world, bad.replace("{outside}", str(world / "outside").lstrip("/")))
        before = around(world, out)
        code, stdout, stderr = invoke(*command)
        assert code == 3, (bad, stdout, stderr)
        assert "Traceback" not in stderr
        assert around(world, out) == before, bad


JOURNAL = {"path": BAD_PATHS, "rejects": ("../../outside/a.csv", "/etc/passwd", "rejects-x.parquet", "")}


@pytest.mark.parametrize("key", JOURNAL)
def test_a_bad_name_in_a_journal_is_not_used(world: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    command = ("ingest", "proteins.fasta", "--modality", "protein", "--out", "new")
    with monkeypatch.context() as patch:
        patch.setattr("setclip_cli.ingest.contents.write_document", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert invoke(*command)[0] == 130
    content, _ = unsigned((world / "new/.ingest/journal.jsonl").read_bytes())
    killed = shutil.copytree(world / "new", world / "killed")
    for bad in JOURNAL[key]:
        shutil.rmtree(world / "new")
        shutil.copytree(killed, world / "new")
        changed = json.loads(json.dumps(content))
        (changed["shards"][0] if key == "path" else changed)[key] = bad
        (world / "new/.ingest/journal.jsonl").write_text(signed(changed, indent=None))
        before = around(world, "new")
        run_ok(*command)
        run_ok("ingest", "--verify", "new")
        assert around(world, "new") == before, bad


def test_a_split_that_a_record_names_is_a_reject(world: Path) -> None:
    lines = [
        {"id": "good", "text": "a good one"},
        *({"text": f"t{n}", "split": s} for n, s in enumerate(BAD_SPLITS) if s),
    ]
    (world / "bad.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = around(world, "new")
    ingested = ("ingest", "bad.jsonl", "--modality", "caption", "--out", "new", "--max-bad-fraction", "1", "--json")
    told = json.loads(run_ok(*ingested))
    assert told["rows"] == {"caption": {"train": 1}}
    assert around(world, "new") == before


@pytest.mark.parametrize("split", [bad for bad in BAD_SPLITS if bad])
def test_a_split_that_the_user_names_is_refused(world: Path, split: str) -> None:
    command = ("ingest", "proteins.fasta", "--modality", "protein", "--out", "new", "--split", split)
    assert invoke(*command)[0] == 2
    assert not (world / "new").exists()


@pytest.mark.parametrize("bad", ["../victim.txt", "/tmp/victim.txt", "a/../../victim.txt", "..\\victim.txt"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_member_of_an_archive_cannot_lead_outside(world: Path, kind: str, bad: str) -> None:
    path, text = world / f"bad.{kind}", b"a caption\n"
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            for name in (bad, "good.txt"):
                member = tarfile.TarInfo(name)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name in (bad, "good.txt"):
                archive.writestr(name, text)
    before = around(world, "new")
    code, _, stderr = invoke("ingest", path.name, "--modality", "caption", "--out", "new", "--max-bad-fraction", "1")
    assert code in (0, 3), stderr
    assert around(world, "new") == before
    assert not list(world.parent.parent.rglob("victim.txt"))


MANIFEST = """
schema_version = 1
title = "t"
homepage = "https://example.org"
paper = "p"
licence = "CC-BY-4.0"
obtain = "by hand"
[[files]]
name = {name}
unknown = "not published"
[[parts]]
file = {name}
{member}
modality = "caption"
"""


@pytest.mark.parametrize("bad", ["../outside/a.csv", "/etc/passwd", "..", "", "a/b.zip", "..\\a.zip"])
@pytest.mark.parametrize("key", ["name", "member"])
def test_a_name_in_a_manifest_cannot_lead_outside(world: Path, key: str, bad: str) -> None:
    with zipfile.ZipFile(world / "a.zip", "w") as archive:
        archive.writestr(bad or "x", "text\none caption\n")
    name, member = (bad, "") if key == "name" else ("a.zip", f"member = {json.dumps(bad)}")
    (world / "m.toml").write_text(MANIFEST.format(name=json.dumps(name), member=member))
    before = around(world, "new")
    code, _, stderr = invoke("ingest", "m.toml", "--out", "new", "--from", world)
    inside = key == "member" and bad == "a/b.zip"  # a plain path within the archive
    assert code in (2, 3) or inside, stderr
    assert around(world, "new") == before
    assert all(path.is_relative_to(world / "cache/downloads/m") for path in (world / "cache/downloads").rglob("*.csv"))


@pytest.mark.parametrize(
    ("link", "command", "out"),
    [
        ("data/protein", ("ingest", "proteins.fasta", "--modality", "protein", "--split", "test"), "data"),
        ("data/caption", ("ingest", "proteins.fasta", "--modality", "protein", "--split", "test"), "data"),
        ("data/.ingest", ("ingest", "proteins.fasta", "--modality", "protein", "--split", "test"), "data"),
        ("data/.lock", ("ingest", "proteins.fasta", "--modality", "protein", "--split", "test"), "data"),
        ("embeddings/protein", ("embed", "run", "data"), "embeddings"),
        ("embeddings/.finished", ("embed", "run", "data"), "embeddings"),
        ("embeddings/embeddings.json", ("embed", "run", "data"), "embeddings"),
        ("run/checkpoints", ("align", "recipe.toml", "--data", "data", "--set", "train.steps=3", "--resume"), "run"),
        ("run/metrics.jsonl", ("align", "recipe.toml", "--data", "data", "--set", "train.steps=3", "--resume"), "run"),
        ("run/tensorboard", ("align", "recipe.toml", "--data", "data", "--set", "train.steps=3", "--resume"), "run"),
        ("report/baselines", ("evaluate", "run", "data", "--split", "train", "--relevance", "pairs"), "report"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_link_that_leads_out_of_the_output_folder_is_not_followed(
    world: Path, link: str, command: tuple[str, ...], out: str
) -> None:
    path = world / link
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    target = world / "outside" / ("a.csv" if path.suffix else "")
    path.symlink_to(world / "outside/a.csv" if link.endswith(".lock") else target)
    before = around(world, out)
    code, _, stderr = invoke(*command, "--out", out)
    assert code == 3
    assert f"{Path(link).name}: is a link that leads out of" in stderr
    assert around(world, out) == before
    assert path.is_symlink()


def test_an_output_folder_may_be_a_link_and_links_inside_it_may_stay_inside(world: Path) -> None:
    (world / "far").mkdir()
    (world / "near").symlink_to(world / "far")
    run_ok("ingest", "proteins.fasta", "--modality", "protein", "--out", "near")
    (world / "far/latest").symlink_to("protein")
    run_ok("ingest", "captions.jsonl", "--modality", "caption", "--out", "near")
    run_ok("ingest", "--verify", "near")

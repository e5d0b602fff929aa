"""Claims about each place that writes, on a full and on a read-only disk: exit code 3, a fix, and a rerun that works.

`make chaos` fills the disk below every library (tests/chaos/full_disk.py); here the refusal comes from Python's calls.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_world import invoke, make_world, run_ok

from setclip_cli.files import cache


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small world with a RUN and EMBEDDINGS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SETCLIP_CACHE", "")  # make_world sets it
        made = make_world(tmp_path_factory.mktemp("world"))
        run_ok("align", made / "recipe.toml", "--data", made / "data", "--out", made / "run")
        run_ok("embed", made / "run", made / "data", "--out", made / "embeddings")
        (made / "study.toml").write_text(
            'schema_version = 1\ntitle = "t"\nrecipe = "recipe.toml"\nseeds = 2\nsplit = "train"\n'
            'relevance = "pairs"\nmetrics = ["protein_to_caption/map"]\n[axes]\nmethod = ["clip"]\n'
        )
        yield made


COMMANDS = {
    "ingest": "ingest {world}/proteins.fasta {world}/bad.fasta --modality protein --croissant --out {out}",
    "pairs": "ingest {world}/captions.jsonl --modality caption --pairs {world}/pairs.csv --out {out}",
    "align": "align {world}/recipe.toml --data {world}/data --out {out}",
    "embed": "embed {world}/run {world}/data --faiss --out {out}",
    "evaluate": "evaluate {world}/run {world}/data --split train --relevance pairs --baselines cca --out {out}",
    "study": "study {world}/study.toml --data {world}/data --out {out}",
}
PLACES = [  # command, what is written there
    *(("ingest", place) for place in ("protein/train-00000.parquet", "rejects-", "journal.jsonl", "rejects.parquet")),
    *(("ingest", place) for place in ("dataset.json", "croissant.json")),
    *(("align", place) for place in ("recipe.toml", "step-00000010.safetensors", "step-00000030.safetensors")),
    *(("align", place) for place in ("metrics.jsonl", "initial.safetensors", "model.safetensors", "README.md")),
    *(("align", place) for place in ("config.json", "tensorboard")),
    *(("embed", place) for place in ("protein/train-00000.parquet", "caption/train-00000.parquet")),
    *(("embed", place) for place in (".finished/protein/train-00000.json", "embeddings.json", "train.faiss")),
    *(("evaluate", place) for place in ("report.html", "report.md", "report.json", "baselines")),
    *(("study", place) for place in ("scores", "model.safetensors", "study.md", "study.json", ".svg")),
]
TRAINED = {"align", "study"}


def refuse(patch: pytest.MonkeyPatch, place: str, number: int) -> list[str]:
    """Lets every write to a path that holds ``place`` fail; returns a list that the failures are added to."""
    failures: list[str] = []
    replace, opened, mkdir = Path.replace, Path.open, Path.mkdir

    def check(path: Path, at: str | None = None) -> None:
        if place in re.sub(r"/\.[^/]*\.tmp/", "/", str(path)):
            failures.append(str(path))
            raise OSError(number, os.strerror(number), at)

    def checked_replace(self: Path, target: Path) -> Path:
        check(Path(target), str(self))
        return replace(self, target)

    def checked_open(self: Path, mode: str = "r", *more: object, **extra: object) -> object:
        if set(mode) & set("wax"):
            check(self, str(self))
        return opened(self, mode, *more, **extra)  # type: ignore[arg-type, call-overload]

    def checked_mkdir(self: Path, *more: object, **extra: object) -> None:
        if self.name in ("scores", "baselines"):
            check(self, str(self))
        mkdir(self, *more, **extra)  # type: ignore[arg-type]

    patch.setattr(Path, "replace", checked_replace)
    patch.setattr(Path, "open", checked_open)
    patch.setattr(Path, "mkdir", checked_mkdir)
    if place == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        patch.setattr(SummaryWriter, "add_scalar", lambda *_: check(Path(place)))
    return failures


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])
@pytest.mark.parametrize(("command", "place"), PLACES)
def test_a_place_that_cannot_be_written_is_one_error_and_the_rerun_works(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, place: str, number: int
) -> None:
    if place == "train.faiss":
        pytest.importorskip("faiss")
    (world / "bad.fasta").write_text(">x\nMK1\n" + ">y\nMKVL\n" * 3)
    out = tmp_path / "out"
    words = COMMANDS[command].format(world=world, out=out).split()
    if command == "ingest":
        words += ["--max-bad-fraction", "1"]
    with monkeypatch.context() as patch:
        failures = refuse(patch, place, number)
        code, stdout, stderr = invoke(*words)
    assert failures
    assert (code, stdout) == (3, ""), stderr
    said = "the disk is full: the file needs" if number == errno.ENOSPC else "the file system is read-only"
    assert said in stderr
    assert str(out) in stderr
    assert re.search(r"\n  fix: (free some space|choose another folder).*run the same command again", stderr), stderr
    assert [path for path in out.rglob("*") if path.name.endswith(".tmp")] == []
    if "add --resume" in stderr:
        words.append("--resume")
    run_ok(*words)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])
@pytest.mark.parametrize("kind", ["features", "vectors", "items"])
def test_a_cache_that_takes_nothing_is_a_note_and_changes_no_byte(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, number: int
) -> None:
    tuned = ["--set", "towers.protein.trainable=last-1", "--set", "train.steps=2", "--set", "train.loggers=[]"]
    words = ["align", world / "recipe.toml", "--data", world / "data", *(tuned if kind == "items" else []), "--out"]
    if kind == "vectors":
        words = ["search", world / "embeddings", "a kinase", "--json", "--top"]
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_noted", set())
    with monkeypatch.context() as patch:
        failures = refuse(patch, f"cache/{kind}", number)
        code, first, stderr = invoke(*words, 3 if kind == "vectors" else tmp_path / "one")
    assert failures
    assert code == 0, stderr
    assert stderr.count("The command goes on without it") == 1
    assert "set SETCLIP_CACHE to a folder" in stderr
    second = run_ok(*words, 3 if kind == "vectors" else tmp_path / "two")
    if kind == "vectors":
        assert first == second
    else:
        for name in ("metrics.jsonl", "model.safetensors", "config.json"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name

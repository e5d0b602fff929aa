"""Claims about `setclip verify`, and about what commands say of a path in the wrong place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_world import align, invoke, make_world, run_ok

from setclip_cli.errors import SetClipError
from setclip_cli.files.what_is import what_is
from setclip_cli.verify.verify import verify

TRAIN_PAIRS = ("--split", "train", "--relevance", "pairs", "--baselines", "cca")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make_world(tmp_path_factory.mktemp("made"))
    code, _, stderr = align(world, world / "run", "--set", "train.steps=2")
    assert code == 0, stderr
    run_ok("embed", world / "run", world / "data", "--out", world / "embeddings")
    run_ok("search", world / "embeddings", "kinase", "--as", "caption")
    run_ok("evaluate", world / "run", world / "data", "--out", world / "report", *TRAIN_PAIRS)
    (world / "study.toml").write_text(
        'schema_version = 1\ntitle = "t"\nrecipe = "recipe.toml"\nseeds = 1\nsplit = "train"\nrelevance = "pairs"\n'
        'metrics = ["protein_to_caption/map"]\n[axes]\nmethod = ["cca"]\n'
    )
    run_ok("study", world / "study.toml", "--data", world / "data", "--out", world / "study")
    return world


@pytest.fixture
def world(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = shutil.copytree(made, tmp_path / "copy")
    monkeypatch.setenv("SETCLIP_CACHE", str(copy / "cache"))
    monkeypatch.chdir(copy)
    return copy


FOLDERS = {
    "data": ("DATASET", "protein/train-00000.parquet"),
    "run": ("RUN", "model.safetensors"),
    "embeddings": ("EMBEDDINGS", "caption/train-00000.parquet"),
    "report": ("REPORT", "baselines/*/*/model.safetensors"),
    "study": ("study", "scores/*.json"),
    "cache": ("cache", "features/*"),
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_whole_folder_is_recognised_and_any_change_is_found(world: Path, folder: str) -> None:
    what, file = FOLDERS[folder]
    told = json.loads(run_ok("verify", folder, "--json"))
    assert (told["what"], told["whole"], told["unlisted"]) == (what, True, [])
    assert told["files"] > 0
    assert f"a whole {what}" in run_ok("verify", folder)
    path = sorted((world / folder).glob(file))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, stdout, stderr = invoke("verify", folder)
    assert (code, stdout) == (3, "")
    assert f": 1 faults: {path.relative_to(world / folder)}" in stderr
    assert stderr.count("1 faults") == 1
    path.unlink()
    if folder not in ("report", "study", "cache"):  # what is not listed there cannot be missed
        assert "missing" in invoke("verify", folder)[2]


@pytest.mark.parametrize("name", ["report.json", "report.md", "report.html", "files.json"])
def test_every_file_of_a_report_is_checked(world: Path, name: str) -> None:
    assert verify(world / "report").unchecked == []
    path = world / "report" / name
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(SetClipError, match=name):
        verify(world / "report")


def test_a_report_of_an_early_version_has_no_hashes(world: Path) -> None:
    (world / "report/files.json").unlink()
    assert set(verify(world / "report").unchecked) == {"report.json", "report.md", "report.html"}


@pytest.mark.parametrize("name", ["checkpoints/step-00000002.safetensors", "config.json", "recipe.toml"])
def test_every_file_of_a_run_is_checked(world: Path, name: str) -> None:
    path = world / "run" / name
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(SetClipError, match=path.name):
        verify(world / "run")


@pytest.mark.parametrize("folder", ["data", "run", "embeddings"])
def test_files_that_are_listed_nowhere_are_named(world: Path, folder: str) -> None:
    (world / folder / "protein").mkdir(exist_ok=True)
    (world / folder / "protein/train-00007.parquet").write_text("left over")
    (world / folder / ".lock").touch()
    assert verify(world / folder).unlisted == ["protein/train-00007.parquet"]
    assert "1 file is listed nowhere" in run_ok("verify", folder)


def test_a_run_of_an_early_version_has_files_without_a_hash() -> None:
    result = verify(Path(__file__).parents[1] / "fixtures/before_rooms/run")
    assert "model.safetensors" in result.unchecked
    assert result.files == 2  # config.json and the checkpoint can be read


def test_each_of_our_folders_is_told_from_the_others_and_from_those_of_other_programs(world: Path) -> None:
    made = {name: what_is(world / name).kind for name in ("data", "run", "embeddings", "report", "study", "cache")}
    assert list(made.values()) == ["dataset", "run", "embeddings", "report", "study", "cache"]
    assert what_is(world / "run/checkpoints").kind == "checkpoints"
    assert what_is(world / "recipe.toml").kind == "file"
    assert what_is(world / "nothing").kind == "missing"
    (world / "run/config.json").unlink()
    assert what_is(world / "run").words == "is a RUN whose training has not finished"
    layouts = {
        "empty": [],
        "model folder": ["config.json", "model.safetensors"],
        "hub cache": ["models--a--b/refs"],
        "folder": ["thesis.tex"],
    }
    for kind, names in layouts.items():
        folder = world / "other" / kind
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text('{"model_type": "bert"}')
        assert what_is(folder).kind == kind


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("embed", "data", "run", "--out", "new"), "fix: setclip embed run data --out new"),
        (("evaluate", "data", "run", "--out", "new"), "fix: setclip evaluate run data --out new"),
        (("evaluate", "data", "embeddings", "--out", "new"), "fix: setclip evaluate embeddings data --out new"),
        (("embed", "run", "run", "--out", "new"), "run: is a RUN; it has no dataset.json"),
        (
            ("embed", "data", "data", "--out", "new"),
            "data: is not a RUN (it has no config.json of a RUN): it is a DATASET",
        ),
        (("embed", "run/checkpoints", "data", "--out", "new"), "fix: give the RUN itself: run"),
        (("align", "recipe.toml", "--data", "embeddings", "--out", "new"), "embeddings: is an EMBEDDINGS folder"),
        (("search", "run", "kinase"), "fix: setclip embed run DATASET --out EMBEDDINGS"),
        (("search", "data", "kinase"), "fix: setclip embed RUN data --out EMBEDDINGS"),
        (("evaluate", "report", "data", "--out", "new"), "it is a REPORT"),
        (("evaluate", "study", "data", "--out", "new"), "fix: give one of the RUNs in study/runs"),
        (("verify", "esm"), "esm: is a folder with 'esm2_t6_8M_UR50D.pt', which cannot be checked"),
        (("verify", "nothing"), "nothing: does not exist"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else "",
)
def test_a_path_in_the_wrong_place_is_named_with_the_right_command(
    world: Path, command: tuple[str, ...], words: str
) -> None:
    code, _, stderr = invoke(*command)
    assert code in (2, 3)
    assert words in stderr
    assert not (world / "new").exists()


def test_a_search_says_how_to_name_what_was_moved(world: Path) -> None:
    (world / "run").rename(world / "run2")
    moved = json.loads((world / "embeddings/embeddings.json").read_text())["run"]
    assert Path(moved).exists()  # the original; so the copy is searched with it
    shutil.copytree(world, world.parent / "far", dirs_exist_ok=True)
    code, _, stderr = invoke("search", "embeddings", "kinase", "--as", "caption", "--run", "run")
    assert code == 3
    assert "run: is not a RUN" in stderr
    run_ok("search", "embeddings", "kinase", "--as", "caption", "--run", "run2", "--data", "data")
    code, _, stderr = invoke("search", "embeddings", "kinase", "--as", "caption", "--run", "run2", "--data", "run2")
    assert code == 3
    assert "run2: is a RUN\n  fix: give --data the path of the DATASET that was embedded" in stderr

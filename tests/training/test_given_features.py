"""Claims about features that are given to `align`: those that it would compute are taken, others are refused."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_world import align, invoke, make_world, run_ok
from tiny import edit_document, esm2_checkpoint

from setclip_cli.errors import SetClipError
from setclip_cli.features import frozen
from setclip_cli.files.atomic import sha256_file
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.training.align import align as align_in_python

ESM, TEXT = "esm:esm2_t6_8M_UR50D", "sentence-transformers:all-MiniLM-L6-v2"
FEW = ("--set", "train.steps=2")


def weights_of(world: Path, modality: str) -> Path:
    return Path(load_recipe(world / "recipe.toml").towers[modality].weights)


def embed(world: Path, backbone: str, out: Path, *more: object, weights: Path | None = None) -> Path:
    weights = weights or weights_of(world, "protein" if backbone == ESM else "caption")
    run_ok("embed", "--backbone", backbone, "--weights", weights, world / "data", "--out", out, *more)
    return out


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("given"))
    embed(folder, ESM, folder / "esm-features")
    embed(folder, TEXT, folder / "text-features")
    return folder


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))


def computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(*_: object) -> None:
        raise AssertionError("features were computed")

    monkeypatch.setattr(frozen, "_compute", compute)


def test_a_run_of_given_features_is_that_of_computed_ones_and_computes_none(
    world: Path, tmp_path: Path, empty_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated = ("--set", "validation.split=train", "--set", "validation.every=1")
    assert align(world, tmp_path / "computed", *FEW, *validated)[0] == 0
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "another"))
    computes_nothing(monkeypatch)
    given = ("--features", world / "esm-features", "--features", world / "text-features")
    code, _, stderr = align(world, tmp_path / "given", *FEW, *validated, *given)
    assert code == 0, stderr
    for name in ("model.safetensors", "metrics.jsonl", "config.json"):
        assert sha256_file(tmp_path / "given" / name) == sha256_file(tmp_path / "computed" / name), name


def test_python_takes_one_folder_and_computes_the_other_side(
    world: Path, tmp_path: Path, empty_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    real = frozen._compute
    monkeypatch.setattr(frozen, "_compute", lambda *given: computed.append(given[0].modality) or real(*given))
    recipe = load_recipe(world / "recipe.toml", ["train.steps=2"])
    align_in_python(recipe, world / "data", tmp_path / "run", features=world / "esm-features")
    assert computed == ["caption"]


def other_weights(world: Path, out: Path) -> Path:
    return embed(world, ESM, out, weights=esm2_checkpoint(out.parent / "other", layers=3))


def half_floats(world: Path, out: Path) -> Path:
    return embed(world, ESM, out, "--dtype", "float16")


def whole_numbers(world: Path, out: Path) -> Path:
    return embed(world, ESM, out, "--dtype", "int8")


def short_precision(world: Path, out: Path) -> Path:
    return embed(world, ESM, out, "--precision", "bfloat16")


def of_other_rows(world: Path, out: Path) -> Path:
    fasta = out.parent / "other.fasta"
    fasta.write_text(">P000 a\nMKV\n>P001 b\nMKVA\n")
    run_ok("ingest", fasta, "--modality", "protein", "--out", out.parent / "data")
    return embed(out.parent, ESM, out, weights=weights_of(world, "protein"))


def other_pooling(world: Path, out: Path) -> Path:
    return embed(world, ESM, out, "--pooling", "cls")


def cut_short(world: Path, out: Path) -> Path:
    shutil.copytree(world / "esm-features", out)
    shard = out / "protein" / "train-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    return out


def not_finished(world: Path, out: Path) -> Path:
    shutil.copytree(world / "esm-features", out)
    (out / "embeddings.json").rename(out / ".finished")
    return out


def without_a_row(world: Path, out: Path) -> Path:
    shutil.copytree(world / "esm-features", out)

    def drop(index: dict) -> None:  # type: ignore[type-arg]
        index["shards"][0] |= {"rows": index["shards"][0]["rows"] - 1, "bad": {"P003": "its embedding is zero"}}

    edit_document(out / "embeddings.json", drop)
    return out


def of_a_run(world: Path, out: Path) -> Path:
    assert align(world, world / "run", *FEW)[0] == 0
    run_ok("embed", world / "run", world / "data", "--out", out)
    return out


@pytest.mark.parametrize(
    ("make", "message", "early"),
    [
        (half_floats, "dtype float16, and training reads float32", True),
        (whole_numbers, "dtype int8, and training reads float32", True),
        (short_precision, "precision bfloat16, and training reads float32", True),
        (of_other_rows, "holds the features of other rows than those of", True),
        (not_finished, "its embedding has not finished", True),
        (without_a_row, "1 of the 36 rows of protein/train-00000.parquet have no features, the first 'P003'", True),
        (of_a_run, "holds the embeddings of a RUN, not the features of a backbone", True),
        (other_weights, "with other weights than the recipe's", False),
        (
            other_pooling,
            "with pooling 'cls', and the recipe has 'mean' fix: run setclip embed --backbone esm:esm2_t6_8M_",
            False,
        ),
        (cut_short, "has changed since embed", False),
    ],
)
def test_features_that_are_not_those_of_the_recipe_are_refused(
    world: Path,
    tmp_path: Path,
    empty_cache: None,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path, Path], Path],
    message: str,
    early: bool,
) -> None:
    given = make(world, tmp_path / "features")
    computes_nothing(monkeypatch)
    code, _, stderr = align(world, tmp_path / "run", *FEW, "--features", given)
    assert code in (2, 3)
    assert message in " ".join(stderr.split())
    assert not (tmp_path / "run" / "recipe.toml").exists()
    assert (align(world, tmp_path / "run", *FEW, "--features", given, "--dry-run")[0] != 0) == early


def test_features_of_another_backbone_are_refused_by_its_name(world: Path, tmp_path: Path) -> None:
    changed = ("--set", "towers.protein.backbone=esm:esm2_t12_35M_UR50D")
    code, _, stderr = align(world, tmp_path / "run", *changed, "--features", world / "esm-features", "--dry-run")
    assert code == 2
    assert f"were made by {ESM}, and the recipe has esm:esm2_t12_35M_UR50D" in " ".join(stderr.split())


def test_features_for_a_layer_that_embed_cannot_make_are_to_be_left_out(world: Path, tmp_path: Path) -> None:
    layer = ("--set", "towers.protein.layer=1")
    code, _, stderr = align(world, tmp_path / "run", *FEW, *layer, "--features", world / "esm-features")
    assert code == 3
    assert "up to its last layer, and the recipe has towers.protein.layer = 1 fix: leave --features out" in " ".join(
        stderr.split()
    )


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("nothing", "setclip embed --backbone BACKBONE {data} --out {given}"),
        ("data", "setclip embed --backbone BACKBONE {data} --out EMBEDDINGS; then give these EMBEDDINGS"),
        ("recipe.toml", "setclip embed --backbone BACKBONE {data} --out EMBEDDINGS; then give these EMBEDDINGS"),
        ("esm-features/protein", "give {world}/esm-features, the EMBEDDINGS that it is in"),
    ],
)
def test_what_is_no_embeddings_folder_is_answered_with_what_makes_features(
    world: Path, tmp_path: Path, name: str, fix: str
) -> None:
    with pytest.raises(SetClipError, match="is not an EMBEDDINGS folder") as caught:
        align_in_python(world / "recipe.toml", world / "data", tmp_path / "run", features=world / name)
    assert fix.format(data=world / "data", given=world / name, world=world) in caught.value.for_command_line()[1]


def test_a_cache_that_cannot_be_written_is_named_with_its_setting(
    world: Path, tmp_path: Path, empty_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(frozen, "save_file", full)
    with pytest.raises(SetClipError, match="the disk is full") as caught:
        align_in_python(world / "recipe.toml", world / "data", tmp_path / "run", features=world / "esm-features")
    assert caught.value.for_command_line()[1].endswith("SETCLIP_CACHE can name another folder")


def test_two_folders_of_one_side_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(SetClipError, match="holds protein features too"):
        align_in_python(world / "recipe.toml", world / "data", tmp_path / "run", features=[world / "esm-features"] * 2)


def test_features_of_another_modality_are_refused(world: Path, tmp_path: Path) -> None:
    run_ok("ingest", world / "captions.jsonl", "--modality", "notes", "--kind", "text", "--out", tmp_path / "data")
    code, _, stderr = invoke(
        *(
            "embed",
            "--backbone",
            TEXT,
            "--weights",
            weights_of(world, "caption"),
            tmp_path / "data",
            "--modality",
            "notes",
        ),
        *("--out", tmp_path / "features"),
    )
    assert code == 0, stderr
    code, _, stderr = align(world, tmp_path / "run", "--features", tmp_path / "features")
    assert code == 2
    assert "holds features of notes rows, and the recipe aligns protein and caption" in " ".join(stderr.split())


def test_a_split_that_validation_reads_must_be_there(world: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    split = ("--split", "train=0.7,val=0.3")
    run_ok("ingest", world / "proteins.fasta", "--modality", "protein", *split, "--out", data)
    run_ok("ingest", world / "captions.jsonl", "--modality", "caption", *split, "--out", data)
    weights = weights_of(world, "protein")
    run_ok(
        *("embed", "--backbone", ESM, "--weights", weights, data, "--split", "train", "--out", tmp_path / "features")
    )
    given = ("--features", tmp_path / "features", "--dry-run", "--set", "pairs=0", "--set", "method=set-clip")
    recipe = ("align", world / "recipe.toml", "--data", data, "--out", tmp_path / "run", *given)
    assert invoke(*recipe)[0] == 0
    code, _, stderr = invoke(*recipe, "--set", "validation.split=val", "--set", "validation.every=1")
    assert code == 3
    assert "does not hold the features of" in " ".join(stderr.split())

"""What the backbones or this machine do not have is said by `--dry-run`, and by `align` before it loads weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_world import align, invoke, make_world, run_ok
from tiny import TINY_TIMM, timm_weights

FULL = "towers.protein.trainable=full"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("setclip_cli.backbones.fetch_weights", lambda *_: pytest.fail("weights were loaded"))


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("extra", [[], ["--dry-run"]], ids=["align", "dry run"])
@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        (["towers.protein.layer=3"], 2, "towers.protein.layer = 3: esm:esm2_t6_8M_UR50D has layers 1 to 2"),
        (["towers.caption.layer=-3"], 2, "has layers 1 to 2 fix: choose one of them, or -1 to -2"),
        (["towers.protein.trainable=last-9"], 2, "'last-9': esm:esm2_t6_8M_UR50D has 2 blocks"),
        (["towers.caption.trainable=last-3"], 2, "has 2 blocks"),
        (["towers.caption.trainable=last-2", "towers.caption.layer=1"], 2, "has 1 block fix: choose last-1, or full"),
        ([FULL, "towers.protein.gradient_checkpointing=true"], 2, "gradient_checkpointing: esm:esm2_t6_8M"),
        ([FULL, "train.precision=float16", "train.device=cpu"], 2, "training in it needs a CUDA GPU, not cpu"),
        (["towers.protein.layer=9", "towers.caption.layer=9"], 2, "2 problems before training"),
    ],
)
def test_what_a_backbone_does_not_have_is_said_before_it_is_loaded(
    world: Path, tmp_path: Path, settings: list[str], code: int, words: str, extra: list[str]
) -> None:
    overrides = [word for setting in settings for word in ("--set", setting)]
    found, _, stderr = align(world, tmp_path / "run", *overrides, *extra)
    assert (found, words in " ".join(stderr.split())) == (code, True), stderr
    assert not (tmp_path / "run/recipe.toml").exists()


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("extra", [[], ["--dry-run"]], ids=["align", "dry run"])
def test_adapters_without_peft_are_refused_first(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    code, _, stderr = align(world, tmp_path / "run", "--set", "towers.caption.trainable=lora", *extra)
    assert (code, "needs the package peft" in stderr) == (3, True), stderr


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("layer = 6", "has layers 1 to 5"),
        ("layer = -6", "has layers 1 to 5"),
        ('pooling = "cls"', "the model has no class token"),
        ('trainable = "last-99"', "blocks"),
        ('trainable = "lora"', "has no linear layer to adapt"),
    ],
)
def test_an_image_tower_is_looked_at_too(world: Path, tmp_path: Path, setting: str, words: str) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    for number in range(20):
        Image.effect_noise((16, 16), 9 + number).save(tmp_path / f"images/{number}.png")
    data, recipe = tmp_path / "data", tmp_path / "recipe.toml"
    run_ok("ingest", tmp_path / "images", "--modality", "image", "--out", data)
    run_ok("ingest", world / "captions.jsonl", "--modality", "caption", "--out", data)
    towers = (world / "recipe.toml").read_text().partition("[towers.caption]")[2]
    recipe.write_text(
        f"schema_version = 2\nmethod = 'set-clip-plus'\npairs = 0\n[towers.image]\nbackbone = 'timm:{TINY_TIMM}'\n"
        f"weights = {str(timm_weights(tmp_path))!r}\n{setting}\n[towers.caption]{towers}"
    )
    method = ("--set", "method=set-clip")
    code, _, stderr = invoke("align", recipe, "--data", data, "--out", tmp_path / "run", "--dry-run", *method)
    assert (code in (2, 3), words in stderr) == (True, True), stderr


def test_what_the_backbones_have_passes(world: Path, tmp_path: Path) -> None:
    towers = ("towers.protein.layer=1", "towers.protein.trainable=last-1", "towers.caption.trainable=lora")
    overrides = [word for setting in (*towers, "towers.caption.layer=-2") for word in ("--set", setting)]
    code, stdout, stderr = align(world, tmp_path / "run", "--dry-run", *overrides)
    assert code == 0, stderr
    assert "layer -2" in stdout


@pytest.mark.usefixtures("nothing_is_loaded")
def test_a_dry_run_for_another_machine_passes_with_a_note(world: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    code, stdout, _ = align(world, tmp_path / "run", "--dry-run", "--set", "train.device=cuda")
    assert (code, "align cannot run on this machine: train.device = 'cuda'" in stdout) == (0, True)
    half = ("--set", FULL, "--set", "train.precision=float16")
    code, stdout, _ = align(world, tmp_path / "run", "--dry-run", *half)
    assert (code, "training in it needs a CUDA GPU, not cpu" in stdout) == (0, True)
    code, _, stderr = align(world, tmp_path / "run", *half)
    assert (code, "training in it needs a CUDA GPU, not cpu" in stderr) == (2, True)
    assert not (tmp_path / "run/recipe.toml").exists()


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("extra", [[], ["--dry-run"]], ids=["align", "dry run"])
def test_too_few_rows_are_said_first(world: Path, tmp_path: Path, extra: list[str]) -> None:
    data = tmp_path / "data"
    lines = (world / "proteins.fasta").read_text().splitlines()
    (tmp_path / "few.fasta").write_text("\n".join(lines[:18]) + "\n")
    (tmp_path / "one.fasta").write_text("\n".join(lines[18:20]) + "\n")
    run_ok("ingest", tmp_path / "few.fasta", "--modality", "protein", "--out", data)
    run_ok("ingest", tmp_path / "one.fasta", "--modality", "protein", "--split", "val", "--out", data)
    run_ok("ingest", world / "captions.jsonl", "--modality", "caption", "--out", data)

    def refused(*settings: str) -> str:
        overrides = [word for setting in settings for word in ("--set", setting)]
        arguments = ("align", world / "recipe.toml", "--data", data, "--out", tmp_path / "run", *overrides)
        code, _, stderr = invoke(*arguments, *extra)
        assert code in (2, 3), stderr
        return stderr

    assert "pools of 9 and 36 rows are too small to match without pairs" in refused("pairs=0")
    (tmp_path / "more.jsonl").write_text(json.dumps({"id": "v", "text": "a kinase"}) + "\n")
    run_ok("ingest", tmp_path / "more.jsonl", "--modality", "caption", "--split", "val", "--out", data)
    published = ("pairs=0", "method=set-clip-published", "train.split=val")
    assert "has 1 row, and objective.sdd.form = 'published' needs 2 or more" in refused(*published)


@pytest.mark.parametrize("extra", [[], ["--dry-run"]], ids=["align", "dry run"])
def test_a_run_of_other_modalities_is_no_start(world: Path, tmp_path: Path, extra: list[str]) -> None:
    code, _, stderr = align(world, tmp_path / "first", "--set", "train.steps=1")
    assert code == 0, stderr
    config = tmp_path / "first/config.json"
    change: Callable[[str], str] = lambda text: text.replace('"caption"', '"image"')  # noqa: E731
    content = json.loads(change(config.read_text()))
    content.pop("self_sha256", None)
    config.write_text(json.dumps(content))
    code, _, stderr = align(world, tmp_path / "run", "--set", f"init_from={tmp_path / 'first'}", *extra)
    assert (code, "its caption tower is missing" in stderr) == (2, True), stderr

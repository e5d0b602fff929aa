"""Every shipped recipe takes a few steps on data of its shape, with tiny backbones in the place of the real ones."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_world import invoke, run_ok
from tiny import TINY_TIMM, clip_folder, esm2_checkpoint, sentence_folder, timm_weights

from setclip_cli.recipe.recipe import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
COLOURS = {"forest": (30, 90, 40), "water": (20, 40, 120), "desert": (200, 170, 110)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATASET with images, videos, proteins, captions and vectors, pairs of each kind, and weights."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "images").mkdir()
    fasta, captions = [], []
    for number in range(24):
        name = list(COLOURS)[number % 3]
        image = Image.new("RGB", (64, 64), tuple(min(255, value + number) for value in COLOURS[name]))
        content = io.BytesIO()
        image.save(content, "PNG")
        (folder / "images" / f"i{number:02d}.png").write_bytes(content.getvalue())
        (folder / "videos" / f"v{number:02d}").mkdir(parents=True)
        for frame in range(2):
            (folder / "videos" / f"v{number:02d}" / f"{frame}.png").write_bytes(content.getvalue())
        fasta.append(f">P{number:02d}\n{'MKV' * (number + 3)}{'ACDEFGHIKLMNPQRSTVWY'[: number + 1]}")
        captions.append(json.dumps({"id": f"c{number}", "text": f"some {name} in scene number {number}"}))
    header = "left_modality,left_id,right_modality,right_id"
    names = {"image": "i{:02d}.png", "video": "v{:02d}", "protein": "P{:02d}"}
    pairs = [f"{side},{name.format(n)},caption,c{n}" for side, name in names.items() for n in range(12)]
    (folder / "proteins.fasta").write_text("\n".join(fasta) + "\n")
    (folder / "captions.jsonl").write_text("\n".join(captions) + "\n")
    (folder / "pairs.csv").write_text("\n".join([header, *pairs]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SETCLIP_CACHE", str(folder / "cache"))
        run_ok("ingest", folder / "images", "--modality", "image", "--out", folder / "data")
        run_ok("ingest", folder / "videos", "--modality", "video", "--out", folder / "data")
        run_ok("ingest", folder / "proteins.fasta", "--modality", "protein", "--out", folder / "data")
        captions_of = ("ingest", folder / "captions.jsonl", "--modality", "caption", "--out", folder / "data")
        run_ok(*captions_of, "--pairs", folder / "pairs.csv")
        draw = np.random.default_rng(0)
        for side in ("left", "right"):
            np.save(folder / f"{side}.npy", draw.normal(size=(24, 8)).astype(np.float32))
        (folder / "rows.csv").write_text("left,right\n" + "".join(f"{row},{row}\n" for row in range(12)))
        sides = [f"{side}={folder / side}.npy" for side in ("left", "right")]
        run_ok("ingest", *sides, "--kind", "vector", "--pairs", folder / "rows.csv", "--out", folder / "data")
        np.save(folder / "features.npy", draw.normal(size=(24, 8)).astype(np.float32))
        (folder / "described.csv").write_text("protein-vector,caption\n" + "".join(f"{n},c{n}\n" for n in range(12)))
        of_proteins = ("ingest", f"protein-vector={folder / 'features.npy'}", "--kind", "vector")
        run_ok(*of_proteins, "--pairs", folder / "described.csv", "--out", folder / "data")
    esm2_checkpoint(folder / "esm")
    sentence_folder(folder / "text")
    timm_weights(folder / "timm")
    clip_folder(folder)
    return folder


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_it_trains(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Path) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(data / "cache"))
    tiny = {
        **dict.fromkeys(("image", "video"), (f"timm:{TINY_TIMM}", data / "timm" / f"{TINY_TIMM}.safetensors")),
        "protein": ("esm:esm2_t6_8M_UR50D", data / "esm" / "esm2_t6_8M_UR50D.pt"),
        "caption": ("sentence-transformers:all-MiniLM-L6-v2", data / "text" / "tiny-sentence"),
    }
    settings = ["train.steps=2", "validation.every=0", "pairs=all"]
    for modality, tower in load_recipe(recipe).towers.items():
        if tower.backbone == "vector":
            continue
        backbone, weights = (tower.backbone, data / "tiny-clip-0") if tower.joint else tiny[modality]
        settings += [f"towers.{modality}.backbone={backbone}", f"towers.{modality}.weights={weights}"]
        if tower.trainable.startswith("last-"):
            settings.append(f"towers.{modality}.trainable=last-2")
    overrides = [word for setting in settings for word in ("--set", setting)]
    code, _, stderr = invoke("align", recipe, "--data", data / "data", "--out", tmp_path / "run", *overrides)
    assert code == 0, stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    fitted = load_recipe(recipe).method in ("auto", "transport")
    assert ("transport/kernel_weight" in lines[0]) if fitted else len(lines) >= 2

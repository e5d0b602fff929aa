"""A small world of proteins and captions on disk, and the commands run on it within the test's process."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tiny import esm2_checkpoint, sentence_folder
from typer.testing import CliRunner

from setclip_cli.cli.app import app

FAMILIES = {"kinase": "GKKLV", "transporter": "LLIFA", "protease": "HDSCW"}


def make_world(folder: Path) -> Path:
    """A folder with FASTA, captions, pairs, a DATASET of them, and a recipe over tiny backbones."""
    fasta, captions, pairs = [], [], ["left_modality,left_id,right_modality,right_id"]
    for number in range(36):
        name = list(FAMILIES)[number % 3]
        motif = FAMILIES[name]
        fasta.append(
            f">P{number:03d} some {name}\n{motif * 3}{'ACDEFGHIKLMN'[number % 12 :]}{motif}{'QRS'[number // 12]}"
        )
        captions.append(json.dumps({"id": f"c{number}", "text": f"a {name}, entry {number}", "label": name}))
        if number < 6:
            pairs.append(f"protein,P{number:03d},caption,c{number}")
    (folder / "proteins.fasta").write_text("\n".join(fasta) + "\n")
    (folder / "captions.jsonl").write_text("\n".join(captions) + "\n")
    (folder / "pairs.csv").write_text("\n".join(pairs) + "\n")
    os.environ["SETCLIP_CACHE"] = str(folder / "cache")
    run_ok("ingest", folder / "proteins.fasta", "--modality", "protein", "--out", folder / "data")
    run_ok(
        "ingest",
        folder / "captions.jsonl",
        "--modality",
        "caption",
        "--pairs",
        folder / "pairs.csv",
        "--out",
        folder / "data",
    )
    (folder / "recipe.toml").write_text(
        f"""
        schema_version = 2
        method = "set-clip-plus"
        projection = {{ dim = 16, pca = 8 }}
        train = {{ steps = 60, batch = 16, checkpoint_every = 10 }}
        [towers.protein]
        backbone = "esm:esm2_t6_8M_UR50D"
        weights = {str(esm2_checkpoint(folder / "esm"))!r}
        [towers.caption]
        backbone = "sentence-transformers:all-MiniLM-L6-v2"
        weights = {str(sentence_folder(folder / "text"))!r}
        """
    )
    return folder


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def run_ok(*arguments: object) -> str:
    code, stdout, stderr = invoke(*arguments)
    assert code == 0, stderr
    return stdout


def align(world: Path, out: Path, *extra: object) -> tuple[int, str, str]:
    return invoke("align", world / "recipe.toml", "--data", world / "data", "--out", out, *extra)


# Settings of `align`: both backbones are tuned; a validation after every few steps.
TUNED = ("--set", "towers.protein.trainable=last-1", "--set", "towers.caption.trainable=lora", "--set", "train.steps=4")
VALIDATED = ("--set", "validation.split=train", "--set", "validation.every=5", "--set", "validation.patience=2")

"""Claims about heads as safetensors: the NumPy reader of the docs gives the embeddings of the RUN, by every encoder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_world import encoder, make_run, pool

from setclip_cli.encoders import base
from setclip_cli.errors import UsageError
from setclip_cli.export.export import export_run
from setclip_cli.export.options import ExportOptions
from setclip_cli.run.model import load_model

HEADS = ExportOptions(to="safetensors")
DOCS = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture(scope="module")
def reader() -> dict[str, Any]:
    block = next(
        text for text in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if "def load(" in text
    )
    names: dict[str, Any] = {}
    exec(block, names)
    return names


KINDS = ("projection", "projection-linear", "residual", "residual-linear", "unit", "kernel", "relative", "graph", "all")


@pytest.mark.parametrize("kind", KINDS)
def test_the_reader_in_the_docs_gives_the_embeddings(kind: str, tmp_path: Path, reader: dict[str, Any]) -> None:
    run = make_run(tmp_path / "run", {"expression": 20, "image_features": 24}, kind=kind)
    made = export_run(run, tmp_path / "out", options=HEADS)
    assert max(made.differences.values()) < 1e-5
    for modality, own in load_model(run).encoders.items():
        rows = pool(20 if modality == "expression" else 24, 40, seed=8)
        with torch.inference_mode():
            wanted = own(rows).numpy()
        np.testing.assert_allclose(reader["load"](tmp_path / "out", modality)(rows.numpy()), wanted, atol=1e-5)


def test_every_kind_of_encoder_is_tried() -> None:
    def kinds(description: dict[str, Any]) -> set[str]:
        inner = [description.get("encoder"), description.get("start"), *description.get("encoders", [])]
        return {description["kind"]}.union(*(kinds(one) for one in inner if one))

    assert set().union(*(kinds(encoder(kind, 20).describe()) for kind in KINDS)) == set(base._KINDS)


def test_the_plain_heads_say_when_they_are_not_the_whole_run(tmp_path: Path) -> None:
    plain = ExportOptions(to="safetensors", form="plain")
    for kind, whole in (("projection", True), ("all", False)):
        run = make_run(tmp_path / kind, {"expression": 20, "image_features": 24}, kind=kind)
        for options in (HEADS, plain):
            made = export_run(run, tmp_path / f"{kind}-{options.form}", options=options)
            assert made.whole == (whole or options is HEADS)
            assert ("not those of setclip embed" in made.summary()) == (not made.whole)


def test_heads_need_no_backbone_and_say_what_they_take(tmp_path: Path, tiny_timm: Path, tiny_sentence: Path) -> None:
    copy = tmp_path / "weights.safetensors"
    copy.write_bytes(tiny_timm.read_bytes())
    run = make_run(tmp_path / "run", {"image": copy, "caption": tiny_sentence}, kind="all")
    copy.unlink()
    assert export_run(run, tmp_path / "out", options=HEADS).dim == 18
    plain = export_run(run, tmp_path / "plain", options=ExportOptions(to="safetensors", form="plain"))
    assert plain.dim == 6
    with pytest.raises(UsageError, match="made-up features"):
        ExportOptions(to="safetensors", data=tmp_path)

"""Claims about train.compile, train.tf32 and pinned memory: they change how fast a step is, not what it computes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tiny import TINY_TIMM, esm2_checkpoint, jpeg, sentence_folder, timm_weights
from torch import Tensor

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.base import Backbone
from setclip_cli.backbones.compiling import _blocks, compile_blocks
from setclip_cli.backbones.devices import pinned, tf32
from setclip_cli.backbones.tuning import make_trainable
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.training.build import build_training
from setclip_cli.training.tower import Pool, TunedBackbone
from setclip_cli.training.training import Training

SEQUENCES = ["GKKLVACD" * (2 + row % 3) + "ACDEFGHIKLMNPQRSTVWY"[: row + 1] for row in range(12)]
TEXTS = [f"entry {row} is a kinase of family {row % 3}{' indeed' * (row % 4)}" for row in range(12)]


class ListItems:
    """Raw items held in memory."""

    def __init__(self, values: list[str]) -> None:
        self.values = values

    def take(self, rows: list[int]) -> list[str]:
        return [self.values[row] for row in rows]


def backbone_of(folder: Path, modality: str) -> Backbone:
    if modality == "protein":
        path = esm2_checkpoint(folder / "esm")
        return load_backbone("esm:esm2_t6_8M_UR50D", modality="protein", weights=str(path))
    if modality == "image":
        return load_backbone(f"timm:{TINY_TIMM}", modality="image", weights=str(timm_weights(folder / "timm")))
    path = sentence_folder(folder / "text")
    return load_backbone("sentence-transformers:all-MiniLM-L6-v2", modality="caption", weights=str(path))


def training_of(folder: Path, *, compiled: bool) -> Training:
    """Both towers trained, in chunks, so that a compiled block goes forward with and without gradient."""
    recipe = folder / "recipe.toml"
    recipe.write_text(
        """
        schema_version = 2
        method = "set-clip-plus"
        projection = { dim = 8, pca = 6 }
        train = { steps = 4, batch = 9, pairs_per_batch = 4, chunk = 5 }
        optim = { backbone_lr = 1e-3 }
        towers.protein = { backbone = "esm:esm2_t6_8M_UR50D", trainable = "full" }
        towers.caption = { backbone = "sentence-transformers:all-MiniLM-L6-v2", trainable = "last-1" }
        """
    )
    sides = []
    for modality, values in (("protein", SEQUENCES), ("caption", TEXTS)):
        backbone = backbone_of(folder, modality)
        features = backbone.encode(values).features
        make_trainable(backbone, "full" if modality == "protein" else "last-1")
        if compiled:
            assert compile_blocks(backbone) is None
        sides.append(Pool(features, tuned=TunedBackbone(backbone, ListItems(values))))  # type: ignore[arg-type]
    return build_training(load_recipe(recipe), sides[0], sides[1], torch.arange(4).repeat(2, 1).T.contiguous())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the compiler
def test_compiled_towers_take_the_same_steps(tmp_path: Path) -> None:
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("torch.compile on a CPU needs a C++ compiler, and none is here")
    plain, compiled = (training_of(tmp_path, compiled=choice) for choice in (False, True))
    for _ in range(3):
        assert compiled.advance() == pytest.approx(plain.advance(), rel=1e-3, abs=1e-5)
    assert compiled.tuned()[0].keys() == plain.tuned()[0].keys()  # nothing is renamed: the RUN loads as any other
    for name, value in plain.tuned()[0].items():
        torch.testing.assert_close(compiled.tuned()[0][name], value, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(("modality", "blocks"), [("protein", 2), ("caption", 2), ("image", 4)])
def test_the_blocks_that_are_compiled_hold_most_of_the_network(tmp_path: Path, modality: str, blocks: int) -> None:
    module = backbone_of(tmp_path, modality).module
    found = list(_blocks(module))
    assert len(found) >= blocks
    inside = sum(value.numel() for block in found for value in block.parameters())
    embeddings = sum(value.numel() for name, value in module.named_parameters() if "embed" in name)
    assert inside > 0.9 * (sum(value.numel() for value in module.parameters()) - embeddings)


def test_without_a_compiler_training_goes_on_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", broken)
    backbone = backbone_of(tmp_path, "protein")
    before = backbone.encode(SEQUENCES).features
    assert compile_blocks(backbone) == "No working C++ compiler found"
    assert backbone.encode(SEQUENCES).features.equal(before)


def test_tf32_holds_inside_the_towers_on_cuda_only() -> None:
    before = torch.get_float32_matmul_precision()
    for device, wanted, inside in (("cuda", True, "high"), ("cuda", False, before), ("cpu", True, before)):
        with tf32(torch.device(device), wanted):
            assert torch.get_float32_matmul_precision() == inside
        assert torch.get_float32_matmul_precision() == before


def test_items_for_a_gpu_are_prepared_in_pinned_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[tuple[int, ...]] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: copies.append(tuple(tensor.shape)) or tensor)
    pinned(torch.zeros(3), torch.device("cpu"))
    assert not copies
    items = {"protein": SEQUENCES[:2], "caption": TEXTS[:2], "image": [jpeg(0), jpeg(1)]}
    for modality, values in items.items():
        backbone = backbone_of(tmp_path, modality)
        backbone.device = torch.device("cuda")
        backbone.prepare(values)
        assert copies
        assert copies.pop()[0] == 2
        copies.clear()

"""A RUN of stored vectors is that of the backbone that computed them."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file
from small_world import align, make_world, run_ok

SETTINGS = {
    "transport": ["method=transport"],
    "set-clip-plus": ["method=set-clip-plus", "train.steps=12"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world, and a DATASET of the features that its backbones give."""
    folder = make_world(tmp_path_factory.mktemp("world"))
    towers = {
        "protein": ("esm:esm2_t6_8M_UR50D", folder / "esm" / "esm2_t6_8M_UR50D.pt"),
        "caption": ("sentence-transformers:all-MiniLM-L6-v2", folder / "text" / "tiny-sentence"),
    }
    for name, (backbone, weights) in towers.items():
        raw = ["--weights", weights, "--out", folder / f"features-{name}"]
        run_ok("embed", "--backbone", backbone, folder / "data", *raw)
    pairs = (folder / "pairs.csv").read_text().replace("protein,P", "left,P").replace(",caption,c", ",right,c")
    (folder / "vector-pairs.csv").write_text(pairs)
    sources = [f"left={folder / 'features-protein'}", f"right={folder / 'features-caption'}"]
    told = ["--kind", "vector", "--keep-duplicates", "--pairs", folder / "vector-pairs.csv"]
    run_ok("ingest", *sources, *told, "--out", folder / "vectors")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("method", SETTINGS)
def test_the_encoders_are_equal_byte_by_byte(world: Path, tmp_path: Path, method: str) -> None:
    settings = [word for setting in SETTINGS[method] for word in ("--set", setting)]
    settings += ["--set", "projection.pca=8", "--set", "projection.dim=16", "--set", "train.batch=16"]
    code, _, stderr = align(world, tmp_path / "backbones", *settings)
    assert code == 0, stderr
    run_ok("align", "vectors", "--data", world / "vectors", "--out", tmp_path / "vectors", *settings)
    found, wanted = (load_file(tmp_path / name / "model.safetensors") for name in ("vectors", "backbones"))
    names = {"left.": "protein.", "right.": "caption."}
    assert len(found) == len(wanted) > 4
    for key, values in found.items():
        side = key.partition(".")[0] + "."
        same = wanted[key.replace(side, names[side], 1)]
        assert values.dtype == same.dtype
        assert values.tobytes() == same.tobytes(), key

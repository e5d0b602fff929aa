"""Claims about every kind of tower: what sentence-transformers gives without setclip is what the RUN gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from export_world import make_run
from PIL import Image

from setclip_cli.errors import UsageError
from setclip_cli.export.export import export_run
from setclip_cli.export.options import ExportOptions
from setclip_cli.pixels.bands import BandScale
from setclip_cli.run.model import load_model

Elsewhere = Callable[..., list[dict[str, Any]]]
TEXTS = ["a harbour", "boats in a harbour", "forest", "a long meadow " * 40]
PROTEINS = ["MKTAYIAKQR", "mktayiakqr", "GKKLVJXBZUO-.", "A", "GKKLVMACDE" * 300]
SIX_BANDS = Path(__file__).parents[1] / "fixtures" / "sentinel2_six_bands.tif"


@pytest.mark.slow
def test_proteins_and_vectors_without_setclip(
    tmp_path: Path, tiny_esm2: Path, tiny_sentence: Path, elsewhere: Elsewhere
) -> None:
    words = make_run(tmp_path / "words", {"protein": tiny_esm2, "caption": tiny_sentence}, kind="kernel")
    vectors = make_run(tmp_path / "vectors", {"protein": tiny_esm2, "expression": 20}, kind="graph")
    inner = make_run(tmp_path / "inner", {"protein": tiny_esm2, "expression": 20}, pooling="default", layer=1)
    rows = np.random.default_rng(0).standard_normal((5, 20)).astype(np.float32)
    as_words = {"protein": (PROTEINS, {"task": "protein"}), "caption": (TEXTS, {})}
    of_vectors = {"protein": (PROTEINS, {}), "expression": ([{"expression": row} for row in rows], {})}
    jobs = []
    for run, calls in ((words, as_words), (vectors, of_vectors), (inner, of_vectors)):
        assert max(export_run(run, tmp_path / f"out-{run.name}").differences.values()) < 1e-5
        jobs.append((tmp_path / f"out-{run.name}", True, calls))
    for run, found in zip((words, vectors, inner), elsewhere(*jobs), strict=True):
        model = load_model(run)
        np.testing.assert_allclose(found["protein"], model.embed(proteins=PROTEINS), atol=1e-5)
        other = model.embed(captions=TEXTS) if run is words else model.embed(expression=rows)
        np.testing.assert_allclose(found["caption" if run is words else "expression"], other, atol=1e-5)


@pytest.mark.slow
def test_images_of_bands_without_setclip(
    tmp_path: Path, tiny_timm: Path, tiny_sentence: Path, elsewhere: Elsewhere
) -> None:
    rasterio = pytest.importorskip("rasterio")
    scale = BandScale((700.0,) * 6, (300.0, 250.0, 200.0, 150.0, 100.0, 50.0))
    run = make_run(
        tmp_path / "run", {"image": tiny_timm, "caption": tiny_sentence}, of_images={"bands": scale, "pooling": "avg"}
    )
    export_run(run, tmp_path / "out")
    content = SIX_BANDS.read_bytes()
    with rasterio.open(SIX_BANDS) as scene:
        samples = scene.read().astype(np.float32)
    calls = {
        "tiff": ([content], {"task": "image"}),
        "array": ([{"image": samples}], {}),
        "caption": (TEXTS, {}),
    }
    (found,) = elsewhere((tmp_path / "out", True, calls))
    model = load_model(run)
    np.testing.assert_allclose(found["tiff"], model.embed(images=[content]), atol=1e-5)
    np.testing.assert_allclose(found["array"], model.embed(images=[content]), atol=1e-5)
    np.testing.assert_allclose(found["caption"], model.embed(captions=TEXTS), atol=1e-5)
    with pytest.raises(UsageError, match="sentence-transformers has no module for"):
        export_run(run, tmp_path / "plain", options=ExportOptions(form="plain"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"pooling": "attention"}, {"layer": 1}, {"layer": -2, "pooling": "mean"}], ids=str
)
def test_other_poolings_and_inner_layers(
    settings: dict[str, Any], tmp_path: Path, tiny_timm: Path, tiny_sentence: Path
) -> None:
    of_images = {**settings, "pooling": settings.get("pooling", "default").replace("mean", "avg")}
    run = make_run(tmp_path / "run", {"image": tiny_timm, "caption": tiny_sentence}, of_images=of_images, **settings)
    assert max(export_run(run, tmp_path / "out").differences.values()) < 1e-5
    assert max(export_run(run, tmp_path / "out", options=ExportOptions(to="onnx")).differences.values()) < 1e-4


@pytest.mark.slow
def test_both_halves_of_a_clip(tmp_path: Path, elsewhere: Elsewhere) -> None:
    clip = tiny.clip_folder(tmp_path / "clip")
    specs = dict.fromkeys(("image", "caption"), "sentence-transformers:clip-ViT-B-32")
    run = make_run(tmp_path / "run", {"image": clip, "caption": clip}, kind="unit", specs=specs, joint=True)
    made = export_run(run, tmp_path / "out", options=ExportOptions(form="plain"))
    assert not made.trust_remote_code
    images = [Image.effect_noise((40, 30), 50 + 10 * seed).convert("RGB") for seed in range(3)]
    texts = ["a harbour", "forest", "boats in a harbour"]
    (found,) = elsewhere((tmp_path / "out", False, {"image": (images, {}), "caption": (texts, {})}))
    model = load_model(run)
    np.testing.assert_allclose(found["image"], model.embed(images=images), atol=1e-5)
    np.testing.assert_allclose(found["caption"], model.embed(captions=texts), atol=1e-5)

"""Claims about ONNX: onnxruntime gives the embeddings of the RUN, for batches of other sizes than the exported one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from export_world import make_run

from setclip_cli.errors import SetClipError
from setclip_cli.export import onnx_graphs
from setclip_cli.export.export import export_run
from setclip_cli.export.options import ExportOptions
from setclip_cli.run.model import load_model

ONNX = ExportOptions(to="onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run_graph(path: Path, inputs: dict[str, Any]) -> Any:
    session = onnxruntime.InferenceSession(str(path))
    assert {one.name for one in session.get_inputs()} == set(inputs)
    return session.run(None, inputs)[0]


@pytest.mark.slow
def test_image_and_text(tmp_path: Path, tiny_timm: Path, tiny_sentence: Path) -> None:
    from transformers import AutoTokenizer

    run = make_run(tmp_path / "run", {"image": tiny_timm, "caption": tiny_sentence}, kind="all")
    made = export_run(run, tmp_path / "out", options=ONNX)
    assert max(made.differences.values()) < 1e-4
    described = json.loads((tmp_path / "out" / "preprocessing.json").read_text())
    assert described["opset"] == 18
    model = load_model(run)
    texts = ["forest", "boats in a harbour", "sea"]
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out" / "caption")(texts, return_tensors="np", padding=True)
    wanted = described["towers"]["caption"]["inputs"]
    found = run_graph(tmp_path / "out" / "caption.onnx", {name: tokens[name] for name in wanted})
    np.testing.assert_allclose(found, model.embed(captions=texts), atol=1e-4)
    images = [tiny.jpeg(seed) for seed in range(2)]
    pixels = model.load_backbone("image").prepare(images).contiguous().numpy()
    found = run_graph(tmp_path / "out" / "image.onnx", {"pixel_values": pixels})
    np.testing.assert_allclose(found, model.embed(images=images), atol=1e-4)


@pytest.mark.slow
def test_proteins_and_vectors(tmp_path: Path, tiny_esm2: Path) -> None:
    from setclip_cli.export.backbone_modules import backbone_modules

    run = make_run(tmp_path / "run", {"protein": tiny_esm2, "expression": 20}, kind="projection")
    export_run(run, tmp_path / "out", options=ONNX)
    model = load_model(run)
    proteins = ["MKTAYIAKQR", "GKKLVGKKLV" * 130, "AC"]
    made = backbone_modules(model.load_backbone("protein"), "full")[0].preprocess(proteins)
    inputs = {name: value.numpy() for name, value in made.items() if name != "modality"}
    found = run_graph(tmp_path / "out" / "protein.onnx", inputs)
    np.testing.assert_allclose(found, model.embed(proteins=proteins), atol=1e-4)
    rows = np.random.default_rng(0).standard_normal((3, 20)).astype(np.float32)
    found = run_graph(tmp_path / "out" / "expression.onnx", {"vectors": rows})
    np.testing.assert_allclose(found, model.embed(expression=rows), atol=1e-4)


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, tiny_esm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", {"protein": tiny_esm2, "expression": 20})

    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(onnx_graphs.importlib, "import_module", absent)
    with pytest.raises(SetClipError, match=r"setclip\[export\]"):
        export_run(run, tmp_path / "out", options=ONNX)
    assert not (tmp_path / "out").exists()

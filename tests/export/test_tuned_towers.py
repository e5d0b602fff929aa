"""Claim: a backbone that training changed is exported as it is after training, low-rank adapters included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_world import TUNED, align, make_world

from setclip_cli.export.export import export_run
from setclip_cli.export.modules.setclip_protein import SetClipProtein
from setclip_cli.export.options import ExportOptions
from setclip_cli.run.model import load_model


@pytest.mark.slow
def test_tuned_towers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    world = make_world(tmp_path)
    code, _, told = align(world, tmp_path / "run", *TUNED, "--set", "optim.lr=0.05")
    assert code == 0, told
    model = load_model(tmp_path / "run")
    assert model.tuned_tensors("caption")
    data = ExportOptions(data=world / "data")
    made = export_run(tmp_path / "run", tmp_path / "out", options=data)
    assert max(made.differences.values()) < 1e-5
    read = SetClipProtein.load(str(tmp_path / "out"), "protein_0_SetClipProtein")
    last = read.model.encoder.layer[-1].output.dense.weight.detach().numpy()
    before, after = (
        model.load_backbone("protein", initial=first).module.layers[-1].fc2.weight for first in (True, False)
    )
    np.testing.assert_array_equal(last, after)
    assert not np.array_equal(last, before)
    graphs = ExportOptions(to="onnx", data=world / "data")
    assert max(export_run(tmp_path / "run", tmp_path / "graphs", options=graphs).differences.values()) < 1e-4

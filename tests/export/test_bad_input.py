"""Claims about exports that cannot be: what was found and a fix, no traceback, and nothing half-written."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from export_world import make_run
from small_world import invoke

from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.export import check, export
from setclip_cli.export.export import export_run
from setclip_cli.export.options import ExportOptions

HEADS = ExportOptions(to="safetensors")


def vectors_run(folder: Path) -> Path:
    return make_run(folder, {"expression": 20, "image_features": 24}, kind="all")


def test_weights_that_are_gone(tmp_path: Path, tiny_timm: Path, tiny_sentence: Path) -> None:
    copy = tmp_path / "weights.safetensors"
    copy.write_bytes(tiny_timm.read_bytes())
    run = make_run(tmp_path / "run", {"image": copy, "caption": tiny_sentence})
    copy.unlink()
    code, _, told = invoke("export", run, "--out", tmp_path / "out")
    assert code == 3
    assert "weights.safetensors" in told
    assert "no such file" in told
    assert not (tmp_path / "out").exists()


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    data = tiny.write_dataset(tmp_path / "data", {"caption": ["a", "b"]})
    code, _, told = invoke("export", data, "--out", tmp_path / "out")
    assert (code, "is a DATASET" in told) == (3, True)
    run = vectors_run(tmp_path / "run")
    export_run(run, tmp_path / "out", options=HEADS)
    code, _, told = invoke("export", tmp_path / "out", "--out", tmp_path / "again")
    assert (code, "is a model that `setclip export` wrote" in told) == (3, True)
    code, _, told = invoke("export", run, "--data", data, "--out", tmp_path / "again")
    assert (code, "holds no expression rows" in told) == (3, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--to", "tensorflow"), "tensorflow"),
        (("--to", "onnx", "--opset", "3"), "opset"),
        (("--opset", "20"), "works only with --to onnx"),
        (("--to", "safetensors", "--data", "x"), "made-up features"),
    ],
)
def test_options_that_do_not_fit(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    code, _, errors = invoke("export", tmp_path, "--out", tmp_path / "out", *words)
    assert (code, told in errors) == (2, True)


def test_a_full_disk_leaves_the_earlier_export(tmp_path: Path) -> None:
    run = vectors_run(tmp_path / "run")
    export_run(run, tmp_path / "out", options=HEADS)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name != ".lock"}
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
    try:
        with pytest.raises(SetClipError, match=r"a file may not be so large here|the disk is full"):
            export_run(run, tmp_path / "out", options=ExportOptions(to="safetensors", form="plain"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name != ".lock"}
    assert before == after


def test_a_model_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = vectors_run(tmp_path / "run")

    def other(*given: Any, **options: Any) -> list[Any]:
        return [one + np.float32(1e-3) for one in check.sentence_embeddings(*given, **options)]

    monkeypatch.setattr(export, "sentence_embeddings", other)
    with pytest.raises(SetClipError, match=r"differs from the RUN by 1\.0e-03"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_plain_needs_a_part_that_the_library_has(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"expression": 20, "image_features": 24}, kind="relative")
    with pytest.raises(UsageError, match="any part of these encoders"):
        export_run(run, tmp_path / "out", options=ExportOptions(to="safetensors", form="plain"))

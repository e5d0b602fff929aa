"""An option that changes nothing for a file is named in the summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import noise, source_of
from safetensors.numpy import save_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vectors")
    np.save(root / "x.npy", noise(3))
    np.save(root / "bytes.npy", np.ones((3, 4), np.int8))
    np.savez(root / "x.npz", v=noise(3), n=np.array(["a", "b", "c"]))
    pq.write_table(pa.table({"n": ["a", "b", "c"], "v": noise(3).tolist()}), root / "x.parquet")
    save_file({"v": noise(3)}, root / "x.safetensors")
    (root / "x.csv").write_text("n,a,b\nx,1,2\ny,3,4\n")
    return root


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("x.npy", {"column": "v"}, "the option vector-column is not used: it has no meaning for a .npy file"),
        ("x.npy", {"id_column": "n"}, "the option id-column is not used"),
        ("x.npy", {"average": True}, "the option average is not used"),
        ("x.npy", {"scale": 2.0}, "the option scale is not used: it is for integers, and these are float32"),
        ("bytes.npy", {"scale": 2.0}, None),
        ("x.npz", {"column": "v", "id_column": "n"}, None),
        ("x.npz", {"column": "v", "scale": 2.0}, "the option scale is not used"),
        ("x.parquet", {"column": "v", "id_column": "n"}, None),
        ("x.parquet", {"average": True}, "the option average is not used"),
        ("x.safetensors", {"id_column": "n"}, "the option id-column is not used"),
        ("x.csv", {"id_column": "n"}, None),
        ("x.csv", {"scale": 2.0}, "the option scale is not used: it has no meaning for a .csv file"),
    ],
)
def test_an_option_without_effect_is_named(folder: Path, name: str, options: dict[str, Any], words: str | None) -> None:
    found = [note for note in source_of(folder / name, **options).notes() if "not used" in note]
    assert len(found) == (words is not None)
    assert words is None or words in found[0]

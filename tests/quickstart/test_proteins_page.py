"""The commands of docs/proteins.md about vectors run, on small files in the layouts that it names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from setclip_cli.cli.app import app

PAGE = Path(__file__).parents[2] / "docs" / "proteins.md"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heading", "name", "dtype", "residues"),
    [
        (r"\*\*ProtT5", "per-protein.h5", np.float16, False),
        (r"\*\*ESM C", "esmc.h5", np.float32, False),
        (r"\*\*ESM C", "esmc.h5", np.float32, True),
    ],
)
def test_a_file_of_vectors_is_aligned_with_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heading: str, name: str, dtype: type, residues: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    accessions = [f"P{number:05d}" for number in range(320)]
    with h5py.File(name, "w") as file:
        for place, accession in enumerate(accessions):
            shape = (3 + place % 4, 24) if residues else (24,)
            file[accession] = draw.normal(size=shape).astype(dtype)
    table = ["group\ttext", *(f"{one}\tBinds what number {place} binds" for place, one in enumerate(accessions))]
    Path("function.tsv").write_text("\n".join(table) + "\n")
    section = re.split(heading, PAGE.read_text(encoding="utf-8"))[1].split("\n**")[0]
    commands = re.findall(r"^ {4}setclip (.+)$", section, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        more = ["--average"] if residues and name in command else []
        done = CliRunner().invoke(app, [*shlex.split(command), *more])
        assert done.exit_code == 0, done.output
    assert list(Path("runs").glob("*/model.safetensors"))

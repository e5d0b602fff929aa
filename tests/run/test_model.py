"""Claims about opening a RUN."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from setclip_cli.errors import SetClipError
from setclip_cli.run.model import load_model

RUN = Path(__file__).parents[1] / "fixtures" / "before_rooms" / "run"


@pytest.mark.parametrize("name", ["model.safetensors", "initial.safetensors"])
def test_a_damaged_file_of_a_run_gets_advice_that_fits_it(tmp_path: Path, name: str) -> None:
    run = shutil.copytree(RUN, tmp_path / "run")
    load_model(run)
    (run / name).write_bytes((run / name).read_bytes()[:-50])
    with pytest.raises(SetClipError, match=f"{name}: cannot be read as safetensors") as caught:
        load_model(run)
    assert "checkpoint" not in caught.value.fix
    assert "train again" in caught.value.fix
    (run / name).unlink()
    with pytest.raises(SetClipError, match=f"{name}: no such file"):
        load_model(run)

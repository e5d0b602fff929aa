"""Claims about devices and precisions: one rule for every command, and errors that name what the user wrote."""

from __future__ import annotations

import pytest
import torch

from setclip_cli.backbones.devices import resolve_device, resolve_precision, resolve_training_precision
from setclip_cli.embedding import engines
from setclip_cli.errors import ExitCode, SetClipError

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


def test_auto_is_a_cuda_gpu_if_there_is_one_else_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert resolve_device("auto", setting="device") == torch.device(expected)
    assert resolve_device("cpu", setting="device") == CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["warp", "cuda", "cuda:1"])
def test_a_device_that_is_not_here_is_a_usage_error_that_names_the_setting(name: str) -> None:
    for setting in ("train.device", "device"):
        with pytest.raises(SetClipError, match=rf"^{setting} '{name}': torch cannot use it") as caught:
            resolve_device(name, setting=setting)
        assert caught.value.exit_code == ExitCode.USAGE


def test_a_worker_of_several_takes_the_device_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_worker_device", "meta")
    assert engines.device_here("auto") == engines.device_here("cuda") == torch.device("meta")
    assert engines.device_here("cpu") == CPU


def test_precisions_by_name_and_by_what_the_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [resolve_precision(name, CPU) for name in ("auto", "float32", "bfloat16", "float16")] == [
        torch.float32,
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ]
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda has=has: has)
        assert resolve_precision("auto", CUDA) == expected


def test_float16_trains_on_cuda_only() -> None:
    assert resolve_training_precision("float16", CUDA) == torch.float16
    assert resolve_training_precision("bfloat16", CPU) == torch.bfloat16
    with pytest.raises(SetClipError, match=r"train\.precision 'float16': training in it needs a CUDA GPU, not cpu"):
        resolve_training_precision("float16", CPU)

"""`train.kernels`: other kernels are taken only if the first batch shows that they are right, and a note says so."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_world import align, make_world
from torch import Tensor, nn

from setclip_cli.errors import SetClipError
from setclip_cli.losses.kernels import log_kernel_sum, plain_kernel_sum
from setclip_cli.losses.terms import EmbeddingQueue
from setclip_cli.training.distributed import Group
from setclip_cli.training.kernel_choice import KernelChoice

CHOICE = "setclip_cli.training.kernel_choice"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def wrong_kernel_sum(x: Tensor, y: Tensor, scales: list[float], exclude_self: bool) -> Tensor:
    return plain_kernel_sum(x, y, scales, exclude_self) + 0.01


def other_kernel_sum(x: Tensor, y: Tensor, scales: list[float], exclude_self: bool) -> Tensor:
    """A right one, whose last bits are others."""
    return plain_kernel_sum(x.double(), y.double(), scales, exclude_self).float()


def plant(monkeypatch: pytest.MonkeyPatch, kernel_sum: object) -> None:
    """As if this machine could run the Triton kernels, and they were these."""
    monkeypatch.setattr(f"{CHOICE}.why_no_triton", lambda _device: None)
    monkeypatch.setattr(f"{CHOICE}.triton_kernel_sum", kernel_sum)


def trained(world: Path, out: Path, *settings: str) -> tuple[str, bytes, str]:
    """The kernels that the JSON names, the metrics, and what was said."""
    overrides = [word for setting in ("train.steps=3", *settings) for word in ("--set", setting)]
    code, stdout, stderr = align(world, out, *overrides, "--json")
    assert code == 0, stderr
    return json.loads(stdout)["kernels"], (out / "metrics.jsonl").read_bytes(), " ".join(stderr.split())


def test_wrong_kernels_are_not_taken_and_a_note_says_why(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected, said = trained(world, tmp_path / "torch", "train.kernels=torch")
    assert "train.kernels" not in said
    plant(monkeypatch, wrong_kernel_sum)
    kernels, metrics, said = trained(world, tmp_path / "auto")
    assert (kernels, metrics) == ("torch", expected)
    words = "note: train.kernels: plain torch, because the Triton kernels differ from plain torch on the first batch by"
    assert f"{words} 0.01 in a value, where 0.0001 is accepted" in said


def test_wrong_kernels_that_the_recipe_insists_on_stop_the_training(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, wrong_kernel_sum)
    code, _, stderr = align(world, tmp_path / "run", "--set", "train.steps=3", "--set", "train.kernels=triton")
    said = " ".join(stderr.split())
    assert (code, "train.kernels = 'triton': the Triton kernels differ from plain torch" in said) == (3, True), said
    assert "--set train.kernels=torch" in said
    advised = ("--set", "train.steps=3", "--set", "train.kernels=torch", "--resume")
    assert align(world, tmp_path / "run", *advised)[0] == 0
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 3


def test_right_kernels_are_taken_for_the_first_step_too(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plain, _ = trained(world, tmp_path / "torch", "train.kernels=torch")
    plant(monkeypatch, other_kernel_sum)
    results = [trained(world, tmp_path / name, f"train.kernels={name}") for name in ("auto", "triton")]
    for kernels, metrics, said in results:
        assert kernels == "triton"
        assert "note: train.kernels: the Triton kernels; " in said
        assert "differ from those of plain torch by" in said
        assert metrics != plain
        for a, b in zip(metrics.splitlines(), plain.splitlines(), strict=True):
            assert json.loads(a) == pytest.approx(json.loads(b), rel=1e-3, abs=1e-5)
    assert results[0][1] == results[1][1]


def test_a_training_that_goes_on_takes_the_same_steps(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial changes nothing: not the queue of the density term, and not the step that follows it."""
    plant(monkeypatch, other_kernel_sum)
    queue = (
        "objective.sdd.queue=40",
        "objective.sdd.weight=1.0",
        "optim.schedule=constant",
        "train.checkpoint_every=2",
    )
    _, whole, _ = trained(world, tmp_path / "whole", *queue, "train.steps=6")
    trained(world, tmp_path / "parts", *queue, "train.steps=2")
    code, _, stderr = align(
        world, tmp_path / "parts", "--resume", *(f"--set={word}" for word in (*queue, "train.steps=6"))
    )
    assert code == 0, stderr
    assert (tmp_path / "parts/metrics.jsonl").read_bytes() == whole


def test_a_machine_without_a_gpu_says_nothing_and_refuses_triton_early(world: Path, tmp_path: Path) -> None:
    settings = ("--set", "train.device=cpu", "--set", "train.kernels=triton")
    for extra in ([], ["--dry-run"]):
        code, _, stderr = align(world, tmp_path / "run", *settings, *extra)
        said = " ".join(stderr.split())
        assert (code, "they need a CUDA GPU, and the device is cpu" in said) == (2, True), said
    assert not (tmp_path / "run").exists()
    kernels, _, said = trained(world, tmp_path / "auto", "train.device=cpu")
    assert (kernels, "kernels" in said) == ("torch", False)


def test_a_method_without_steps_names_no_kernels(world: Path, tmp_path: Path) -> None:
    assert trained(world, tmp_path / "run", "method=ridge")[0] is None


class Voting(Group):
    """Two processes, of which the other one votes as told."""

    other = True

    def all_of(self, own: bool, device: torch.device) -> bool:
        return own and self.other


def settled(kernel_sum: object, group: Group, monkeypatch: pytest.MonkeyPatch) -> KernelChoice:
    plant(monkeypatch, kernel_sum)
    choice = KernelChoice("auto", CPU, group)
    choice.settle(nn.Identity(), lambda: log_kernel_sum(torch.eye(4), torch.eye(4), [0.2]))
    return choice


def test_all_processes_take_the_same_kernels(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert settled(other_kernel_sum, Voting(), monkeypatch).taken == "triton"
    monkeypatch.setattr(Voting, "other", False)
    assert settled(other_kernel_sum, Voting(), monkeypatch).taken == "torch"
    assert "the Triton kernels failed on the first batch in another process" in capsys.readouterr().err


def test_a_batch_without_any_kernel_sum_takes_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, other_kernel_sum)
    choice = KernelChoice("auto", CPU, Group())
    choice.settle(nn.Identity(), lambda: None)
    assert choice.taken == "torch"
    strict = KernelChoice("triton", CPU, Group())
    with pytest.raises(SetClipError, match="had nothing to compute"):
        strict.settle(nn.Identity(), lambda: None)


def test_the_trial_leaves_a_queue_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, other_kernel_sum)
    queue = EmbeddingQueue(8)
    queue.push(torch.eye(4))
    choice = KernelChoice("auto", CPU, Group())
    choice.settle(queue, lambda: (log_kernel_sum(torch.eye(4), torch.eye(4), [0.2]), queue.push(torch.ones(4, 4))))
    assert choice.taken == "triton"
    assert queue.held.equal(torch.eye(4))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_triton_kernels_themselves_are_taken_under_the_interpreter(world: Path, tmp_path: Path) -> None:
    arguments = ("align", world / "recipe.toml", "--data", world / "data", "--set", "train.steps=2", "--json")
    run = [sys.executable, "-m", "setclip_cli", *map(str, arguments), "--set", "method=set-clip", "--out"]
    records = []
    for name, interpreted in (("triton", "1"), ("torch", "0")):
        done = subprocess.run(
            [*run, str(tmp_path / name)],
            env=os.environ | {"TRITON_INTERPRET": interpreted},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["kernels"] == name, done.stderr
        records.append([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()])
    for triton, plain in zip(*records, strict=True):
        assert triton == pytest.approx(plain, rel=1e-3, abs=1e-5)

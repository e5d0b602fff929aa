"""The benchmark for GPUs runs as a whole at toy sizes, and says what a machine lacks in place of failing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu
import gpu_check
import gpu_kernels
import gpu_runs
import gpu_towers
import pytest
import torch
from gpu_check import Findings, Place, find_place, outcome_of

from setclip_cli.errors import SetClipError
from setclip_cli.losses.kernels import plain_kernel_sum
from setclip_cli.training.embedded import EmbeddedPart

OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver\nand more lines"
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(torch.device("cpu"), True, tmp_path)


@pytest.mark.slow
def test_every_check_runs_at_toy_size(tmp_path: Path) -> None:
    command = [sys.executable, gpu.__file__, "--toy", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    line, _, page = done.stdout.partition("\n")
    assert (tmp_path / "out/gpu.json").read_text() == line + "\n"
    assert (tmp_path / "out/gpu.md").read_text() == page.rstrip("\n") + "\n"
    content = json.loads(line)
    assert content["toy"]
    assert list(content["checks"]) == list(gpu.CHECKS)
    for name, outcome in content["checks"].items():
        assert outcome["figures"], (name, outcome)
        judged = "pass" if name in ("kernels_right", "ranks", "resume", "quickstart") else "not here"
        if name == "compile" and outcome["state"] == "not here":  # a CPU needs a C++ compiler for it
            continue
        assert (outcome["state"], outcome["reason"]) == (judged, "" if judged == "pass" else gpu_check.UNJUDGED), name
        assert f"| {name} | {judged} |" in page
    assert "Toy sizes: the figures mean nothing" in page


# Memory that runs out.

OUT_OF_MEMORY: dict[str, Callable[[], Exception]] = {
    "torch": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore"),
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cpu": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    "python": MemoryError,
    "setclip": lambda: SetClipError("step 1: out of memory with train.batch = 1024", fix="make it smaller"),
}
WITHIN = {  # check -> a function that it calls, where memory runs out
    "kernels_right": (gpu_kernels, "log_kernel_sum"),
    "kernels_cost": (gpu_kernels, "sdd"),
    "step": (gpu_towers, "text_backbone"),
    "proteins": (gpu_towers, "fair_esm_features"),
    "compile": (gpu_towers, "build_training"),
    "caching": (gpu_towers, "make_trainable"),
    "ranks": (gpu_runs, "one_rank"),
    "resume": (gpu_runs, "train"),
    "quickstart": (gpu_runs, "embed"),
}


def raising(error: Callable[[], Exception]) -> Callable[..., Any]:
    def fails(*_: object, **__: object) -> None:
        raise error()

    return fails


@pytest.mark.parametrize("name", gpu.CHECKS)
def test_a_check_that_runs_out_of_memory_is_skipped_and_says_so(
    name: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, function = WITHIN[name]
    monkeypatch.setattr(gpu_runs, "make_world", lambda folder: folder)
    monkeypatch.setattr(gpu_runs, "load_recipe", lambda *_, **__: None)
    monkeypatch.setattr(gpu_runs, "records_of", lambda _run: [])
    if name == "quickstart":
        monkeypatch.setattr(gpu_runs, "train", lambda *_, **__: None)
    monkeypatch.setattr(module, function, raising(OUT_OF_MEMORY["torch"]))
    outcome = outcome_of(gpu.CHECKS[name], place)
    assert outcome["state"] == "not here"
    assert outcome["reason"] == "out of memory (CUDA out of memory. Tried to allocate 20.00 GiB.)"


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_every_way_to_run_out_of_memory_is_known(kind: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_runs, "ranks", raising(OUT_OF_MEMORY[kind]))
    assert outcome_of(gpu.CHECKS["ranks"], place)["reason"].startswith("out of memory")


def test_memory_that_runs_out_on_one_of_several_processes_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.folder / "world").mkdir()
    said = "step 1 ...\ntorch.OutOfMemoryError: CUDA out of memory. Tried\nRoot Cause: rank 1\n"
    failed = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match="out of memory") as found:
        gpu_runs.align_on(2, place, "two", 8)
    assert gpu_check.out_of_memory(found.value)


def test_other_errors_are_failures_and_keep_the_figures_so_far(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_place: Place, findings: Findings) -> None:
        findings.figures["a"] = 1
        raise RuntimeError("out of resource: shared memory, Required: 300000\nmore")

    monkeypatch.setattr(gpu_runs, "ranks", breaks)
    outcome = outcome_of(gpu.CHECKS["ranks"], place)
    assert (outcome["state"], outcome["figures"]) == ("fail", {"a": 1})
    assert outcome["reason"] == "RuntimeError: out of resource: shared memory, Required: 300000"


# What a machine lacks.


def test_without_triton_its_checks_are_not_here_and_a_step_takes_plain_torch(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = gpu_runs.importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "triton" else find(name, *more))
    for name in ("kernels_right", "kernels_cost"):
        outcome = outcome_of(gpu.CHECKS[name], place)
        assert outcome["state"] == "not here"
        assert outcome["reason"] == "the Triton kernels cannot run: the package triton is not installed"
    assert "TRITON_INTERPRET" not in os.environ
    outcome = outcome_of(gpu.CHECKS["step"], place)
    assert (outcome["state"], outcome["reason"]) == ("not here", gpu_check.UNJUDGED)
    assert outcome["figures"]["kernels"] == "torch"


@pytest.mark.parametrize(
    ("built", "init", "product", "words"),
    [
        (
            "13.0",
            RuntimeError(OLD_DRIVER),
            None,
            "torch can use no CUDA GPU (The NVIDIA driver on your system is too old",
        ),
        ("13.0", RuntimeError("No CUDA GPUs are available"), None, "(No CUDA GPUs are available)"),
        ("13.0", None, RuntimeError("CUDA error: no kernel image is available for"), "(CUDA error: no kernel image"),
        (None, None, None, "this torch is built without CUDA"),
    ],
    ids=["an old driver", "no GPU", "a GPU that torch does not know", "a torch for CPUs"],
)
def test_without_a_usable_gpu_every_check_is_not_here_and_says_why(
    built: str | None,
    init: Exception | None,
    product: Exception | None,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "init", raising(lambda: init) if init else lambda: None)
    if product:
        monkeypatch.setattr(torch, "ones", raising(lambda: product))
    assert find_place(tmp_path, toy=True)[0] is not None
    reader, writer = os.pipe()
    assert gpu.work(str(writer), str(tmp_path), "full", *gpu.CHECKS) == 0
    with os.fdopen(reader) as messages:
        outcomes = [message for line in messages if "ends" in (message := json.loads(line))]
    assert [outcome["ends"] for outcome in outcomes] == list(gpu.CHECKS)
    for outcome in outcomes:
        assert outcome["state"] == "not here"
        assert words in outcome["reason"]
        assert "\n" not in outcome["reason"]


def test_wrong_kernels_fail_the_check_of_kernels(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_kernels, "why_no_triton", lambda _device: None)
    monkeypatch.setattr(gpu_kernels, "triton_kernel_sum", plain_kernel_sum)
    assert outcome_of(gpu.CHECKS["kernels_right"], place)["state"] == "pass"
    monkeypatch.setattr(gpu_kernels, "triton_kernel_sum", lambda x, y, s, e: plain_kernel_sum(x, y, s, e) * 1.001)
    outcome = outcome_of(gpu.CHECKS["kernels_right"], place)
    assert outcome["state"] == "fail"
    assert "value of (67, 131, 19, [0.2], False) in float32 is off by" in outcome["reason"]


def test_a_chunk_without_gradient_fails_the_check_of_gradient_caching(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, calls = EmbeddedPart._send, iter(range(1000))
    monkeypatch.setattr(EmbeddedPart, "_send", lambda part, *sent: None if next(calls) == 1 else send(part, *sent))
    outcome = outcome_of(gpu.CHECKS["caching"], place)
    assert outcome["state"] == "fail"
    assert "in chunks, the norm of the gradient is" in outcome["reason"]


def test_a_goal_is_judged_at_full_size_on_a_gpu_only(tmp_path: Path) -> None:
    for device, toy, misses, unjudged in (
        ("cuda", False, ["slow"], False),
        ("cuda", True, [], True),
        ("cpu", True, [], True),
    ):
        findings = Findings(Place(torch.device(device), toy, tmp_path))
        findings.goal(True, "never")
        findings.goal(False, "slow")
        assert (findings.misses, findings.unjudged) == (misses, unjudged)
        findings.must(False, "wrong")
        assert findings.misses == [*misses, "wrong"]


def test_two_trainings_are_as_far_apart_as_their_farthest_loss() -> None:
    def records(*values: tuple[float, float]) -> list[dict[str, float]]:
        return [{"step": 1, "loss/clip": clip, "loss/sdd": sdd, "lr": 5 * clip} for clip, sdd in values]

    whole = records((4.0, 0.1), (2.0, 0.05))
    assert gpu_runs.farthest(whole, whole) == 0
    assert gpu_runs.farthest(records((4.0, 0.1), (2.0, 0.06)), whole) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="1 steps are recorded in place of 2"):
        gpu_runs.farthest(whole[:1], whole)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--out", "taken"], "--out taken: cannot be written (File exists); choose another folder"),
        (["--minutes", "0"], "argument --minutes: invalid"),
        (["--minutes", "-3"], "argument --minutes: invalid"),
        (["--minutes", "inf"], "argument --minutes: invalid"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_measured(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    words: str,
) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu.py", *given])
    monkeypatch.setattr(gpu, "run_all", lambda *_, **__: pytest.fail("something was measured"))
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


# A worker that ends, or does not.

WORKER = """
import json, os, signal, sys, time
pipe = os.fdopen(int(sys.argv[2]), "w", buffering=1)
print(json.dumps({"device": "made up"}), file=pipe)
for name in sys.argv[5:]:
    print(json.dumps({"starts": name}), file=pipe)
    if name == "step":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "proteins":
        signal.pause()
    print(json.dumps({"ends": name, "state": "pass", "reason": "", "figures": {}, "wall_s": 0.0}), file=pipe)
"""


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    monkeypatch.setattr(gpu, "__file__", str(script))
    return tmp_path


def test_a_check_that_ends_the_process_does_not_end_the_others(made_up: Path) -> None:
    machine, outcomes = gpu.run_all(["kernels_right", "step", "ranks"], made_up, toy=True, minutes=60)
    assert machine["device"] == "made up"
    assert {name: outcome["state"] for name, outcome in outcomes.items()} == {
        "kernels_right": "pass",
        "step": "fail",
        "ranks": "pass",
    }
    assert outcomes["step"]["reason"] == "ended the process (signal 11)"


def test_a_check_that_hangs_is_stopped(made_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.Check, "limit", lambda _check, *, toy: 5 if toy else 0)
    _, outcomes = gpu.run_all(["proteins", "resume"], made_up, toy=True, minutes=60)
    assert outcomes["proteins"] == gpu.told("fail", "the check took longer than 5 s")
    assert outcomes["resume"]["state"] == "pass"


def test_what_there_is_no_time_for_is_said(made_up: Path) -> None:
    _, outcomes = gpu.run_all(["kernels_right", "resume"], made_up, toy=True, minutes=-1)
    assert set(map(str, outcomes.values())) == {str(gpu.told("not here", "the -1 minutes were used up"))}

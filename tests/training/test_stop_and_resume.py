"""A training that stops, by a signal, a failed step or at its end, and goes on as if it had not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_world import TUNED, VALIDATED, align, make_world

from setclip_cli.errors import SetClipError
from setclip_cli.files.atomic import sha256_file
from setclip_cli.training.training import Training


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("align"))


class Stopper:
    """Makes training stop, and go on again."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.advance = patch, Training.advance

    def at(self, taken: int, error: Exception) -> None:
        """Lets the step after ``taken`` steps fail."""
        advance = self.advance

        def stopping(training: Training) -> dict[str, float]:
            if training.taken == taken:
                raise error
            return advance(training)

        self.patch.setattr(Training, "advance", stopping)

    def after(self, taken: int) -> None:
        """Sends the signal of Ctrl-C within the step that makes ``taken`` steps: this step is still finished."""
        advance = self.advance

        def interrupted(training: Training) -> dict[str, float]:
            if training.taken == taken - 1:
                signal.raise_signal(signal.SIGINT)
            return advance(training)

        self.patch.setattr(Training, "advance", interrupted)

    def never(self) -> None:
        self.patch.setattr(Training, "advance", self.advance)


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Stopper:
    return Stopper(monkeypatch)


@pytest.fixture(scope="module")
def run(world: Path) -> Path:
    out = world / "run"
    code, _, stderr = align(world, out)
    assert code == 0, stderr
    return out


def test_fewer_steps_than_a_run_has_taken_are_refused(world: Path, tmp_path: Path) -> None:
    assert align(world, tmp_path / "run", "--set", "train.steps=3")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    code, _, stderr = align(world, tmp_path / "run", "--set", "train.steps=2", "--resume")
    assert (code, "has taken 3 steps, more than train.steps = 2" in stderr) == (2, True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["kill", "terminate", "interrupt"])
def test_a_stopped_run_resumes_bit_for_bit(world: Path, run: Path, tmp_path: Path, moment: str) -> None:
    """60 steps straight = some steps, a signal, and the rest."""
    out = tmp_path / "stopped"
    command = [
        sys.executable,
        "-m",
        "setclip_cli",
        "align",
        str(world / "recipe.toml"),
        "--data",
        str(world / "data"),
        "--out",
        str(out),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((out / "checkpoints").glob("step-*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    sent = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}[moment]
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=60)
    if not (out / "config.json").exists():
        expected = {"kill": -signal.SIGKILL, "terminate": 143, "interrupt": 130}[moment]
        assert process.returncode == expected, stderr
        assert "Traceback" not in stderr
        code, _, refused = align(world, out)
        assert (code, "add --resume" in refused) == (3, True)
        assert align(world, out, "--resume")[0] == 0
    for name in ("metrics.jsonl", "model.safetensors", "config.json"):
        assert sha256_file(run / name) == sha256_file(out / name), name


def test_a_tuned_run_that_stops_goes_on_as_if_it_had_not(world: Path, tmp_path: Path, stop: Stopper) -> None:
    settings = (*TUNED, "--set", "train.chunk=5", "--set", "optim.ema=0.5")
    assert align(world, tmp_path / "straight", *settings)[0] == 0
    stop.after(2)
    assert align(world, tmp_path / "broken", *settings)[0] == 130
    stop.never()
    assert align(world, tmp_path / "broken", *settings, "--resume")[0] == 0
    for name in ("metrics.jsonl", "model.safetensors", "tuned-protein.safetensors", "tuned-caption.safetensors"):
        assert sha256_file(tmp_path / "straight" / name) == sha256_file(tmp_path / "broken" / name), name


def test_a_second_stop_before_the_next_checkpoint_loses_no_line(
    world: Path, run: Path, tmp_path: Path, stop: Stopper
) -> None:
    """Stopped at 12, resumed, killed at 14 without a word: the checkpoint at 12 still has its 12 lines."""
    stop.after(12)
    assert align(world, tmp_path / "run")[0] == 130
    stop.at(14, ZeroDivisionError())  # nothing is saved, as after kill -9
    with pytest.raises(ZeroDivisionError):
        align(world, tmp_path / "run", "--resume")
    stop.never()
    assert align(world, tmp_path / "run", "--resume")[0] == 0
    assert sha256_file(tmp_path / "run" / "metrics.jsonl") == sha256_file(run / "metrics.jsonl")


def allocator_error() -> Exception:
    """What torch really raises on a CPU."""

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.int8)
    return caught.value


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (allocator_error(), ["step 3: out of memory with train.batch = 16", "--set projection.dim=8", "step-00000002"]),
        (MemoryError("no room"), ["step 3: out of memory", "train.batch = 16", "--set train.batch=8", "step-00000002"]),
        (SetClipError("step 3: objective.sdd is nan", fix="lower optim.lr"), ["objective.sdd", "step-00000002"]),
    ],
)
def test_a_failed_step_saves_what_was_reached_and_says_how_to_go_on(
    world: Path, tmp_path: Path, stop: Stopper, error: Exception, words: list[str]
) -> None:
    stop.at(2, error)
    code, _, stderr = align(world, tmp_path / "run")
    assert code == 3
    for word in words:
        assert word in stderr
    stop.never()
    assert align(world, tmp_path / "run", "--resume")[0] == 0


def test_a_rate_that_blows_training_up_ends_in_a_message_and_a_good_checkpoint(world: Path, tmp_path: Path) -> None:
    from setclip_cli.run import checkpoint

    code, _, stderr = align(world, tmp_path / "run", "--set", "optim.lr=1e36", "--set", "optim.weight_decay=0.0")
    assert code == 3, stderr
    assert "not finite" in stderr
    assert "lower optim.lr (1e+36)" in stderr
    saved = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert saved is not None
    assert saved.name in stderr
    reached = checkpoint.load(saved)
    assert f"step {reached.step + 1}: " in stderr
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == reached.step
    assert all(value.isfinite().all() for value in reached.tensors.values())


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(
    world: Path, run: Path, tmp_path: Path, stop: Stopper
) -> None:
    stop.after(25)
    assert align(world, tmp_path / "run")[0] == 130
    stop.never()
    newest = tmp_path / "run/checkpoints/step-00000025.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    code, _, stderr = align(world, tmp_path / "run", "--resume")
    assert (code, str(newest) in stderr, "remove this file" in stderr) == (3, True, True)
    newest.unlink()
    code, _, stderr = align(world, tmp_path / "run", "--resume")
    assert (code, "step 20 of 60" in stderr) == (0, True)
    assert sha256_file(tmp_path / "run/model.safetensors") == sha256_file(run / "model.safetensors")


def test_a_checkpoint_of_another_schema_version_is_refused(
    world: Path, tmp_path: Path, stop: Stopper, monkeypatch: pytest.MonkeyPatch
) -> None:
    from setclip_cli.run import checkpoint

    stop.after(3)
    assert align(world, tmp_path / "run")[0] == 130
    stop.never()
    monkeypatch.setattr(checkpoint, "SCHEMA_VERSION", 2)
    code, _, stderr = align(world, tmp_path / "run", "--resume")
    assert (code, "has schema version 1, this setclip reads 2" in stderr) == (3, True)


def test_early_stopping_resumes_with_its_best_state(world: Path, tmp_path: Path, stop: Stopper) -> None:
    settings = (*VALIDATED, "--set", "train.steps=40")
    assert align(world, tmp_path / "straight", *settings)[0] == 0
    stop.after(7)
    assert align(world, tmp_path / "broken", *settings)[0] == 130
    stop.never()
    assert align(world, tmp_path / "broken", *settings, "--resume")[0] == 0
    for name in ("metrics.jsonl", "model.safetensors"):
        assert sha256_file(tmp_path / "straight" / name) == sha256_file(tmp_path / "broken" / name), name


def test_a_finished_run_takes_more_steps_as_if_it_had_been_asked_for_them(world: Path, tmp_path: Path) -> None:
    ten, twenty = (("--set", f"train.steps={n}", "--set", "optim.schedule=constant") for n in (10, 20))
    assert align(world, tmp_path / "run", *ten)[0] == 0
    code, _, refused = align(world, tmp_path / "run", *twenty)
    assert (code, "train.steps differ" in refused) == (2, True)
    code, _, refused = align(world, tmp_path / "run", *twenty, "--set", "optim.lr=0.1", "--resume")
    assert (code, "(optim.lr differ)" in refused) == (2, True)
    assert align(world, tmp_path / "run", *twenty, "--resume")[0] == 0
    assert align(world, tmp_path / "straight", *twenty)[0] == 0
    for name in ("metrics.jsonl", "model.safetensors", "recipe.toml"):
        assert sha256_file(tmp_path / "run" / name) == sha256_file(tmp_path / "straight" / name), name

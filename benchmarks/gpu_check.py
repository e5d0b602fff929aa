"""What the checks of gpu.py share: where they run, what they find, and how they measure time and memory."""

from __future__ import annotations

import gc
import importlib
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from setclip_cli.errors import first_line
from setclip_cli.version import __version__

if TYPE_CHECKING:
    from gpu import Check

UNJUDGED = "goals are judged at full size on a GPU"


class NotHereError(Exception):
    """This machine does not have what the check needs; the message says what."""


@dataclass(frozen=True)
class Place:
    """Where the checks run.

    Attributes:
        toy: At toy sizes; speed and memory are then not judged.
        folder: For files, which are removed in the end.
    """

    device: torch.device
    toy: bool
    folder: Path

    @property
    def judged(self) -> bool:
        return self.device.type == "cuda" and not self.toy


@dataclass
class Findings:
    """What a check has found so far.

    Attributes:
        misses: What is not as wanted; a check without any passes.
        unjudged: Whether there was a goal that this place cannot judge.
    """

    place: Place
    figures: dict[str, Any] = field(default_factory=dict)
    misses: list[str] = field(default_factory=list)
    unjudged: bool = False

    def must(self, holds: bool, otherwise: str) -> None:
        """What has to hold everywhere, such as a right result."""
        if not holds:
            self.misses.append(otherwise)

    def goal(self, holds: bool, otherwise: str) -> None:
        """What has to hold at full size on a GPU, such as a speed."""
        self.unjudged = self.unjudged or not self.place.judged
        if self.place.judged:
            self.must(holds, otherwise)


Measure = Callable[[Place, Findings], None]


def find_place(folder: Path, *, toy: bool) -> tuple[Place | None, str]:
    """The GPU, or the CPU for toy sizes; else None and the reason."""
    if toy:
        return Place(torch.device("cpu"), True, folder), ""
    if reason := why_no_gpu():
        return None, reason
    return Place(torch.device("cuda"), False, folder), ""


def why_no_gpu() -> str | None:
    """Why torch cannot compute on a CUDA GPU here; None if it can: a product was computed."""
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # says more than is_available: that the driver is too old, for instance
        rows = torch.ones(64, 64, device="cuda")
        if float((rows @ rows).sum()) != 64**3:
            return "a product of ones on the GPU is wrong"
    except (RuntimeError, AssertionError) as error:
        return f"torch can use no CUDA GPU ({first_line(error)})"
    return None


def describe(place: Place | None) -> dict[str, Any]:
    """The machine and the versions, for the JSON line."""
    found: dict[str, Any] = {"setclip": __version__, "torch": torch.__version__, "triton": _version("triton")}
    if place is None or place.device.type != "cuda":
        return found | {"device": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(place.device)
    return found | {
        "device": properties.name,
        "device_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "gpus": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
    }


def outcome_of(check: Check, place: Place) -> dict[str, Any]:
    """Runs a check. Whatever it raises becomes its outcome, so that the next one can run."""
    findings, started = Findings(place), time.perf_counter()
    try:
        measure: Measure = getattr(importlib.import_module(check.module), check.function)
        measure(place, findings)
        state, reason = ("fail", "; ".join(findings.misses)) if findings.misses else ("pass", "")
        if state == "pass" and findings.unjudged:
            state, reason = "not here", UNJUDGED
    except NotHereError as error:
        state, reason = "not here", str(error)
    except Exception as error:
        if out_of_memory(error):
            state, reason = "not here", f"out of memory ({first_line(error)})"
        else:
            traceback.print_exc(file=sys.stderr)
            state, reason = "fail", f"{type(error).__name__}: {first_line(error)}"
        error.__traceback__ = None  # its frames hold tensors
    gc.collect()
    if place.device.type == "cuda":
        torch.cuda.empty_cache()
    wall_s = round(time.perf_counter() - started, 1)
    return {"state": state, "reason": reason, "figures": findings.figures, "wall_s": wall_s}


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the GPU or off it: also in a library that raises a plain error for it."""
    words = ("out of memory", "alloc_failed", "can't allocate memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error).lower() for word in words)


def seconds(call: Callable[[], object], place: Place, *, repeats: int = 3, warm: bool = True) -> float:
    """Median wall time of a call whose work on the device is finished."""
    if warm:
        call()
    taken = []
    for _ in range(repeats):
        synchronize(place)
        started = time.perf_counter()
        call()
        synchronize(place)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def peak_mib(call: Callable[[], object], place: Place) -> float | None:
    """Peak memory of a call on the GPU, above what was held before; None on a CPU, where torch does not count it."""
    if place.device.type != "cuda":
        call()
        return None
    gc.collect()
    synchronize(place)
    before = torch.cuda.memory_allocated(place.device)
    torch.cuda.reset_peak_memory_stats(place.device)
    call()
    synchronize(place)
    return (torch.cuda.max_memory_allocated(place.device) - before) / 2**20


def synchronize(place: Place) -> None:
    if place.device.type == "cuda":
        torch.cuda.synchronize(place.device)


def dense_rate(place: Place) -> float:
    """Operations a second of a large matrix product in bf16, measured here: what the chip can do at most."""
    n = 128 if place.toy else 8192
    a, b = (torch.randn(n, n, device=place.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / seconds(lambda: a @ b, place, repeats=10)


def short(value: float) -> float:
    """Three digits, for people."""
    return float(f"{value:.3g}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

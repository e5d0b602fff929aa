"""Everything that a claim about GPUs rests on, checked and measured in one command.

    python benchmarks/gpu.py                       under 8 minutes on an NVIDIA H100 or a GPU like it
    python benchmarks/gpu.py --toy                 the same code at toy sizes on a CPU, as CI runs it
    python benchmarks/gpu.py --only kernels_right  one check; the option may be repeated

It installs nothing and needs no network: weights are random, in the real architectures. Each check says "pass", "fail"
or "not here", with a reason. A check that runs out of memory is skipped, and the rest goes on; so it is after a check
that ends the process or takes too long. Prints one line of JSON and a Markdown table, and writes both to --out
(gpu.json, gpu.md). The exit code is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

START_S = 180  # until the worker has imported its libraries
MINUTES = 8.0


@dataclass(frozen=True)
class Check:
    """One check: what passes, the function that measures it, and how long it may take."""

    wanted: str
    module: str
    function: str
    seconds: int

    def limit(self, *, toy: bool) -> int:
        """At toy sizes only what hangs is stopped: the machine may be slow, or busy."""
        return 900 if toy else self.seconds


CHECKS = {
    "kernels_right": Check(
        "Triton kernels: value within 0.0001 of float64, gradients within 0.0001 (bf16 inputs: 0.01) of their largest",
        *("gpu_kernels", "right", 60),
    ),
    "kernels_cost": Check(
        "sdd, forward and backward: Triton takes no more time and memory than plain torch", *("gpu_kernels", "cost", 60)
    ),
    "step": Check(
        "sdd + mk_mmd are under 5% of a step of ViT-S and MiniLM in bf16, both tuned", *("gpu_towers", "step", 90)
    ),
    "proteins": Check(
        "ESM-2 650M in bf16: 10 times fair-esm in float32, 3 times fair-esm under autocast",
        *("gpu_towers", "proteins", 90),
    ),
    "compile": Check(
        "train.compile: the same losses (within 2%), and steps that are not slower", *("gpu_towers", "compiled", 150)
    ),
    "caching": Check(
        "gradient caching: the gradient of one pass (within 1%), and at most 1.2 times the memory of one chunk",
        *("gpu_towers", "caching", 45),
    ),
    "ranks": Check("one rank and two ranks compute what one process does (within 1%)", *("gpu_runs", "ranks", 90)),
    "resume": Check(
        "a RUN that was stopped and resumed has the metrics of one that was not (within 0.1%)",
        *("gpu_runs", "resume", 60),
    ),
    "quickstart": Check("the whole quickstart, from ingest to report", *("gpu_runs", "quickstart", 180)),
}


def main() -> int:
    if sys.argv[1:2] == ["--worker"]:
        return work(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="toy sizes, on the CPU: figures mean nothing")
    parser.add_argument("--only", action="append", choices=CHECKS, help="only this check")
    parser.add_argument("--minutes", type=minutes, help=f"stop after so many (default: {MINUTES:g}; 60 with --toy)")
    parser.add_argument("--out", type=Path, default=Path("gpu-benchmark"), help="folder of gpu.json and gpu.md")
    given = parser.parse_args()
    try:
        given.out.mkdir(parents=True, exist_ok=True)  # before what takes minutes
        (given.out / "gpu.json").touch()
        (given.out / "gpu.md").touch()
    except OSError as error:
        parser.error(f"--out {given.out}: cannot be written ({error.strerror}); choose another folder")
    started = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as folder:
        limit = given.minutes or (60.0 if given.toy else MINUTES)
        names = list(dict.fromkeys(given.only or CHECKS))
        machine, outcomes = run_all(names, Path(folder), toy=given.toy, minutes=limit)
    wall_s = round((datetime.now(UTC) - started).total_seconds(), 1)
    line = {"date": f"{started:%Y-%m-%d}", "toy": given.toy, "wall_s": wall_s, **machine, "checks": outcomes}
    written, page = json.dumps(line), table(line)
    (given.out / "gpu.json").write_text(written + "\n")
    (given.out / "gpu.md").write_text(page)
    print(written)
    print(page)
    return int(any(outcome["state"] == "fail" for outcome in outcomes.values()))


def minutes(text: str) -> float:  # argparse shows the name of the function
    """A positive number. Raises ValueError, of which argparse makes its message."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def run_all(names: list[str], folder: Path, *, toy: bool, minutes: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs the checks in a worker process; a new one goes on with the next check when one ends early.

    Returns:
        What the worker said of the machine, and the outcome of each check.
    """
    deadline = time.monotonic() + 60 * minutes
    machine: dict[str, Any] = {"machine": platform.machine(), "python": platform.python_version()}
    outcomes: dict[str, Any] = {}
    while left := [name for name in names if name not in outcomes]:
        if time.monotonic() > deadline:
            outcomes |= {name: told("not here", f"the {minutes:g} minutes were used up") for name in left}
            break
        reader, writer = os.pipe()
        command = [sys.executable, __file__, "--worker", str(writer), str(folder), "toy" if toy else "full", *left]
        worker = subprocess.Popen(
            command, pass_fds=(writer,), stdout=sys.stderr, start_new_session=True, env=_environment()
        )
        os.close(writer)
        with os.fdopen(reader, "rb", buffering=0) as messages:
            current, why = _follow(messages, machine, outcomes, deadline, toy=toy)
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)  # with all that it started
        code = worker.wait()
        if current is None and all(name in outcomes for name in names):
            break
        if not why:
            ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            why = f"ended the process ({ended})"
        late = time.monotonic() > deadline
        state, reason = ("not here", f"the {minutes:g} minutes were used up") if late else ("fail", why)
        outcomes[current or left[0]] = told(state, reason)
    return machine, {name: outcomes[name] for name in names}


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


def _follow(
    messages: IO[bytes], machine: dict[str, Any], outcomes: dict[str, Any], deadline: float, *, toy: bool
) -> tuple[str | None, str]:
    """Reads what the worker reports until it ends or is late; returns the check that it was at, and why it is late."""
    current, until, pending = None, time.monotonic() + (900 if toy else START_S), b""
    while True:
        wait = min(until, deadline) - time.monotonic()
        if wait <= 0 or not select.select([messages], [], [], wait)[0]:
            seconds = START_S if current is None else CHECKS[current].limit(toy=toy)
            what = "importing the libraries" if current is None else "the check"
            return current, f"{what} took longer than {seconds} s"
        piece = messages.read(65536)
        if not piece:
            return current, ""
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "starts" in message:
                current = message["starts"]
                until = time.monotonic() + CHECKS[current].limit(toy=toy)
                print(f"{current} ...", file=sys.stderr, flush=True)
            elif "ends" in message:
                current, until = None, time.monotonic() + START_S
                outcomes[message.pop("ends")] = message
            else:
                machine.update(message)


def work(descriptor: str, folder: str, size: str, *names: str) -> int:
    """The worker: takes the checks one by one and reports each on a pipe."""
    import gpu_check

    with os.fdopen(int(descriptor), "w", buffering=1) as pipe:

        def report(message: dict[str, Any]) -> None:
            print(json.dumps(message), file=pipe, flush=True)

        place, reason = gpu_check.find_place(Path(folder), toy=size == "toy")
        report(gpu_check.describe(place))
        for name in names:
            report({"starts": name})
            check = CHECKS[name]
            outcome = told("not here", reason) if place is None else gpu_check.outcome_of(check, place)
            report({"ends": name} | outcome)
    return 0


def told(state: str, reason: str, figures: dict[str, Any] | None = None, wall_s: float = 0.0) -> dict[str, Any]:
    """The outcome of a check as JSON values."""
    return {"state": state, "reason": reason, "figures": figures or {}, "wall_s": wall_s}


def table(line: dict[str, Any]) -> str:
    """The Markdown table of a JSON line."""
    about = ", ".join(f"{name} {line[name]}" for name in line if name not in ("checks", "toy", "date"))
    size = "**Toy sizes: the figures mean nothing.** " if line["toy"] else ""
    rows = [
        f"| {name} | {outcome['state']} | {outcome['reason']} | {in_words(outcome['figures'])} "
        f"| {CHECKS[name].wanted} | {outcome['wall_s']:g} |"
        for name, outcome in line["checks"].items()
    ]
    head = "| check | result | reason | figures | wanted | seconds |\n| --- | --- | --- | --- | --- | ---: |"
    return "\n".join([f"`python benchmarks/gpu.py`, {line['date']}. {size}{about}.", "", head, *rows, ""])


def in_words(figures: dict[str, Any]) -> str:
    return "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())


if __name__ == "__main__":
    sys.exit(main())

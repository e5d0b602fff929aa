"""Claims about worker processes: when the caller stops, they and the threads that wait for them end."""

from __future__ import annotations

import threading
import time
from concurrent.futures import process as pools

import pytest

from setclip_cli.processes import run_in_processes


def managers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, pools._ExecutorManagerThread)]


def test_no_thread_of_a_pool_is_left_when_the_caller_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is would be woken when Python ends, perhaps just when it has closed what it is woken by."""
    ends = pools._ExecutorManagerThread.terminate_broken

    def slowly(self: threading.Thread, cause: object) -> None:
        time.sleep(0.3)
        ends(self, cause)  # type: ignore[arg-type]

    monkeypatch.setattr(pools._ExecutorManagerThread, "terminate_broken", slowly)
    running = run_in_processes(abs, [-1, -2, -3, -4], processes=2)
    assert next(running).results[0] in (1, 2)
    assert managers()
    running.close()
    assert not managers()

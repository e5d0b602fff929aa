"""A fixture of the tests about sources that workers read ahead."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ahead_world import Done

from setclip_cli import processes
from setclip_cli.ingest.read_ahead import SourceRead
from setclip_cli.ingest.read_source import SourceReader


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Done:
    """Workers without processes, which end in the wrong order; what the ingest did with what they read."""
    done = Done()

    def backwards(
        work: Callable[[Any], Any], jobs: Sequence[Any], **_: object
    ) -> Generator[processes.Finished[Any, Any], None, None]:
        for job in reversed(jobs):
            yield processes.Finished(job, (work(job),))

    real = SourceReader._decided_again

    def noting(self: SourceReader, folder: Path, read: SourceRead, *rest: Any) -> Any:
        decided = real(self, folder, read, *rest)
        found = done.read if decided is None else done.again if decided.changed else done.taken
        found.append(read.batches[0].source)
        return decided

    monkeypatch.setattr(processes, "run_in_processes", backwards)
    monkeypatch.setattr(SourceReader, "_decided_again", noting)
    return done

"""What a run tells of every step: metrics.jsonl always, TensorBoard unless the recipe says no."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from setclip_cli import atomic
from setclip_cli.run_folder import METRICS_NAME

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from torch.utils.tensorboard import SummaryWriter

TENSORBOARD_NAME = "tensorboard"


class RunLog:
    """Appends a record a step. Started at a step, it first drops what an earlier process wrote after that step."""

    def __init__(self, run: Path, *, step: int, tensorboard: bool) -> None:
        path = run / METRICS_NAME
        kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:step] if step else []
        atomic.write_text(path, "".join(kept))
        self._metrics = path.open("a", encoding="utf-8")
        self._board: SummaryWriter | None = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run / TENSORBOARD_NAME), purge_step=step + 1 if step else None)

    def write(self, record: dict[str, float]) -> None:
        self._metrics.write(json.dumps(record, allow_nan=False) + "\n")
        if self._board is not None:
            for name, value in record.items():
                if name != "step":
                    self._board.add_scalar(name, value, int(record["step"]))

    def flush(self) -> None:
        """Before a checkpoint: a checkpoint at step n counts on n lines."""
        self._metrics.flush()
        if self._board is not None:
            self._board.flush()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metrics.close()
        if self._board is not None:
            self._board.close()

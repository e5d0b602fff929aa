"""Where the metrics of every step go: to metrics.jsonl, and to the loggers that the recipe names. Never weights."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic
from setclip_cli.files.write_errors import writing
from setclip_cli.places import named
from setclip_cli.run.config import METRICS_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

TENSORBOARD_NAME = "tensorboard"
MAP_ROWS = 1000  # of each side in a map
MAP_PX = 480
_DOT_PX = 3


class Logger(ABC):
    """A place for metrics beside metrics.jsonl."""

    @abstractmethod
    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    def picture(self, step: int, left: Tensor, right: Tensor, gaps: Tensor) -> None:  # noqa: B027  # scalars only
        """A map of the two sides' embeddings, and the histogram of the rows' density gaps."""

    def flush(self) -> None:  # noqa: B027  # most loggers send at once, or by themselves
        """Writes what is not written yet."""


class RunLog:
    """Appends one record a step.

    Args:
        kept: The lines of the steps that are taken already; others in the file are dropped.
    """

    def __init__(self, run: Path, *, kept: Sequence[bytes], loggers: Sequence[str], recipe: Mapping[str, Any]) -> None:
        path, step = run / METRICS_NAME, len(kept)
        atomic.write_bytes(path, b"".join(kept))
        self._digest = hashlib.sha256(b"".join(kept))
        self._loggers = [_LOGGERS[name](run, step, recipe) for name in loggers]
        self._path = path
        with writing(path):
            self._metrics = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, float]) -> None:
        line = json.dumps(record, allow_nan=False) + "\n"
        self._digest.update(line.encode())
        with writing(self._path):
            self._metrics.write(line)
        values = {name: value for name, value in record.items() if name != "step"}
        for logger in self._loggers:
            logger.write(int(record["step"]), values)

    def picture(self, step: int, left: Tensor, right: Tensor, gaps: Tensor) -> None:
        for logger in self._loggers:
            logger.picture(step, left[:MAP_ROWS], right[:MAP_ROWS], gaps)

    def sha256(self) -> str:
        """Of all lines so far."""
        return self._digest.hexdigest()

    def flush(self) -> None:
        """Call it before a checkpoint: a checkpoint at step n needs n lines."""
        with writing(self._path):
            self._metrics.flush()
        for logger in self._loggers:
            logger.flush()

    def close(self) -> None:
        with writing(self._path):
            self._metrics.close()
        for logger in self._loggers:
            logger.close()


class TensorBoard(Logger):
    """Scalars, maps and histograms under RUN/tensorboard."""

    def __init__(self, run: Path, step: int, _recipe: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = run / TENSORBOARD_NAME
        with writing(self._folder):
            self._board = SummaryWriter(str(self._folder), purge_step=step + 1 if step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        with writing(self._folder):
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def picture(self, step: int, left: Tensor, right: Tensor, gaps: Tensor) -> None:
        with writing(self._folder):
            self._board.add_histogram("density_gap/rows", gaps, step)
            self._board.add_image("map", _map(left, right), step)

    def flush(self) -> None:
        with writing(self._folder):
            self._board.flush()

    def close(self) -> None:
        with writing(self._folder):
            self._board.close()


class WeightsAndBiases(Logger):
    """Scalars to a Weights & Biases run. A resumed RUN goes on in the same one."""

    def __init__(self, run: Path, _step: int, recipe: Mapping[str, Any]) -> None:
        wandb = _imported("wandb")
        identity = atomic.sha256_bytes(named(run.resolve()).encode())[:16]
        self._run = wandb.init(project="setclip", name=run.name, id=identity, resume="allow", config=dict(recipe))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow(Logger):
    """Scalars to the tracking server that MLFLOW_TRACKING_URI names."""

    def __init__(self, run: Path, _step: int, recipe: Mapping[str, Any]) -> None:
        self._mlflow = _imported("mlflow")
        self._mlflow.start_run(run_name=run.name)
        self._mlflow.log_dict(dict(recipe), "recipe.json")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


_LOGGERS: dict[str, Callable[[Path, int, Mapping[str, Any]], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def check_loggers(names: Sequence[str]) -> None:
    """Raises SetClipError if the package of a logger is not installed."""
    for name in names:
        if name != "tensorboard" and name not in sys.modules and importlib.util.find_spec(name) is None:
            raise _not_installed(name)


def _imported(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise _not_installed(package) from error


def _not_installed(package: str) -> SetClipError:
    return SetClipError(
        f"train.loggers: {package} is not installed", fix=f"pip install 'setclip[{package}]', or leave it out"
    )


def _map(left: Tensor, right: Tensor) -> Tensor:
    """(3, MAP_PX, MAP_PX) picture of both sides on the two principal axes of their union: left blue, right orange."""
    import torch

    both = torch.cat([left, right]).float().cpu()
    centred = torch.nn.functional.pad(both - both.mean(0), (0, 1))  # two axes, even of one-dimensional embeddings
    points = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
    points -= points.amin(0)
    columns, rows = (points / points.max().clamp_min(1e-12) * (MAP_PX - _DOT_PX)).long().T
    picture = torch.full((3, MAP_PX, MAP_PX), 255, dtype=torch.uint8)
    for side, colour in ((slice(len(left)), (31, 119, 180)), (slice(len(left), None), (255, 127, 14))):
        for down in range(_DOT_PX):
            for across in range(_DOT_PX):
                at = MAP_PX - 1 - rows[side] - down, columns[side] + across
                picture[:, at[0], at[1]] = torch.tensor(colour, dtype=torch.uint8)[:, None]
    return picture

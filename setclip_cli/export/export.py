"""`export`: a RUN as a folder that other programs load, checked before it is finished.

DIR/setclip_export.json   what was exported, from which RUN, and the differences that the check found; written last
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from setclip_cli.console import text_of_lines
from setclip_cli.errors import SetClipError, argument
from setclip_cli.export.check import TOLERANCE, own_embeddings, require_equal, sentence_embeddings
from setclip_cli.export.heads import write_heads
from setclip_cli.export.native import require_plain_parts
from setclip_cli.export.onnx_graphs import require_onnx, write_onnx
from setclip_cli.export.options import ExportOptions
from setclip_cli.export.rows import rows_of
from setclip_cli.export.sentence_folder import encoders_of, has_plain_form, write_sentence_transformers
from setclip_cli.export.towers import load_towers
from setclip_cli.files import atomic, leftovers
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.files.lock import LOCK_NAME, exclusive
from setclip_cli.files.write_errors import writing
from setclip_cli.options import path_of
from setclip_cli.remote.arguments import takes_places
from setclip_cli.run.model import load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from setclip_cli.encoders import Encoder
    from setclip_cli.run.model import Model

INDEX_NAME = "setclip_export.json"


@dataclass(frozen=True)
class ExportResult:
    """What `export` wrote.

    Attributes:
        out: The folder.
        to, form: As asked for.
        dim: Width of the embeddings.
        bytes: Of all files.
        differences: By modality, the largest difference to the RUN's own embeddings on the checked rows.
        modules: Names of module files of ours in it; loading it runs them, so it needs trust_remote_code.
        agreement: Of the plain form: the correlation of its cosines across the sides with those of the whole RUN; None
            if it leaves nothing out.
        plain: Whether there is a plain form, which needs no trust_remote_code.
        whole: Whether the embeddings are those of the RUN; False if the plain form leaves parts of it out.
        wall_s: Seconds.
    """

    out: Path
    to: str
    form: str
    dim: int
    bytes: int
    differences: dict[str, float]
    wall_s: float
    modules: list[str] = field(default_factory=list)
    agreement: float | None = None
    plain: bool = False
    whole: bool = True

    @property
    def trust_remote_code(self) -> bool:
        """Whether loading it runs module files of the folder."""
        return bool(self.modules)

    def as_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "out": str(self.out),
            "wall_s": round(self.wall_s, 3),
            "trust_remote_code": self.trust_remote_code,
        }

    def summary(self) -> str:
        worst, heads = max(self.differences.values()), self.to == "safetensors"
        lines = [
            f"{self.out}: {' and '.join(self.differences)}, {self.dim} values, {self.bytes / 1e6:.1f} MB, "
            f"{self.wall_s:.1f} s",
            f"largest difference to {'the RUN on made-up features' if heads else 'setclip embed'}: {worst:.1e}",
        ]
        if heads and not self.whole:
            lines.append("the plain form has the trained heads alone, so its embeddings are not those of setclip embed")
        if self.agreement is not None:
            lines.append(
                f"the plain form leaves parts of the RUN out: its cosines correlate with those of the whole by "
                f"{self.agreement:.3f}"
            )
        if self.to == "sentence-transformers":
            lines.append(self._how_to_load())
            if self.trust_remote_code and self.plain:
                lines.append("--form plain writes a model that needs no trust_remote_code")
        return text_of_lines(lines)

    def _how_to_load(self) -> str:
        trust = ", trust_remote_code=True" if self.trust_remote_code else ""
        why = f"  # it runs {', '.join(self.modules)} of this folder" if self.trust_remote_code else ""
        return f'load it: SentenceTransformer("{self.out}"{trust}){why}'


@takes_places("run")
def export_run(run: str | Path, out: str | Path, *, options: ExportOptions = ExportOptions()) -> ExportResult:
    """Writes a RUN for another library. An export that is already in the folder is replaced when the new one is whole.

    Args:
        run: The RUN folder.
        out: The folder to write.
        options: For which library, and how much of the RUN.

    Raises:
        SetClipError: the RUN is not finished, its weights are gone or have changed, a part of it cannot be exported so,
            ``out`` holds other things, or the result differs from the RUN.
    """
    started = time.perf_counter()
    run, out = path_of(run, "run"), path_of(out, "out")
    model = load_model(run)
    refuse_foreign(out, "an export", [INDEX_NAME])
    _refuse_strange(out)
    if options.to == "onnx":
        require_onnx()
    write = _heads(model, options) if options.to == "safetensors" else _towers(model, options)
    with exclusive(out):
        building = leftovers.temporary_folder(out / "export")
        try:
            with writing(out):
                building.mkdir()
                made = write(building)
                size = sum(path.stat().st_size for path in building.rglob("*") if path.is_file())
                result = ExportResult(out=out, to=options.to, form=options.form, bytes=size, wall_s=0.0, **made)
                described = {key: value for key, value in result.as_json().items() if key not in ("out", "wall_s")}
                _replace(out, building, {**described, "run": model.identity, "method": model.config.method})
        finally:
            leftovers.remove(building)
    return replace(result, wall_s=time.perf_counter() - started)


def _heads(model: Model, options: ExportOptions) -> Callable[[Path], dict[str, Any]]:
    """What writes the heads alone; no backbone is loaded."""
    chosen = list(model.encoders.values()) if options.form == "full" else require_plain_parts(model.encoders.values())
    encoders = dict(zip(model.encoders, chosen, strict=True))

    def write(folder: Path) -> dict[str, Any]:
        whole = all(one is model.encoders[modality] for modality, one in encoders.items())
        return {"dim": chosen[0].dim, "whole": whole, "differences": write_heads(folder, model, encoders)}

    return write


def _towers(model: Model, options: ExportOptions) -> Callable[[Path], dict[str, Any]]:
    """What writes both towers, and checks what is there."""
    graphs = options.to == "onnx"
    towers = load_towers(model, graphs=graphs)
    if graphs and options.form == "plain":
        encoders: Sequence[Encoder] = require_plain_parts([tower.encoder for tower in towers])
    else:
        encoders = encoders_of(towers, options.form)
    rows = [rows_of(tower, options.data) for tower in towers]
    whole = [own_embeddings(tower, tower.encoder, items) for tower, items in zip(towers, rows, strict=True)]
    wanted = [own_embeddings(*given) for given in zip(towers, encoders, rows, strict=True)]
    less = any(encoder is not tower.encoder for encoder, tower in zip(encoders, towers, strict=True))
    about = {"dim": encoders[0].dim, "whole": not less, "agreement": _correlation(whole, wanted) if less else None}

    def write(folder: Path) -> dict[str, Any]:
        if graphs:
            return {**about, "differences": write_onnx(folder, towers, encoders, rows, wanted, options.opset)}
        files = write_sentence_transformers(folder, towers, encoders, options.form)
        found = sentence_embeddings(folder, towers, rows, trusted=bool(files))
        differences = {
            tower.modality: require_equal(tower.modality, own, theirs, TOLERANCE)
            for tower, own, theirs in zip(towers, wanted, found, strict=True)
        }
        return {**about, "differences": differences, "modules": files, "plain": has_plain_form(towers)}

    return write


def _correlation(whole: Sequence[Any], part: Sequence[Any]) -> float:
    cosines = [(left @ right.T).ravel() for left, right in (whole, part)]
    return float(np.corrcoef(cosines)[0, 1])


def _files_of(folder: Path) -> list[str]:
    """The files below a folder that are neither the index nor left by a killed command."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    return sorted(
        path.as_posix()
        for path in found
        if path.parts[0] not in (INDEX_NAME, LOCK_NAME) and not leftovers.is_temporary(path.parts[0])
    )


def _refuse_strange(out: Path) -> None:
    """Refuses to replace an export if files lie beside it that it did not write: they would be removed."""
    if not (out / INDEX_NAME).exists():
        return
    try:
        ours = set(json.loads((out / INDEX_NAME).read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()  # it says nothing of the files: none of them is removed
    if strange := [name for name in _files_of(out) if name not in ours]:
        raise SetClipError(
            f"{out}: holds files that are not of the export, such as {strange[0]!r}",
            fix=f"move them away, or choose another {argument('out')}; nothing was changed",
        )


def _replace(out: Path, building: Path, index: dict[str, Any]) -> None:
    """Puts the new files in the place of the old ones. The index says that it is not finished until all are there."""
    files = _files_of(building)
    atomic.write_json(out / INDEX_NAME, {"finished": False, "files": sorted({*_files_of(out), *files})})
    kept = {INDEX_NAME, LOCK_NAME, building.name}
    for path in sorted(out.iterdir()):
        if path.name not in kept and not leftovers.is_temporary(path.name):
            atomic.remove_folder(path) if path.is_dir() and not path.is_symlink() else atomic.remove_file(path)
    for path in sorted(building.iterdir(), key=lambda one: one.name == "modules.json"):  # what a reader looks for: last
        atomic.move(path, out / path.name)
    atomic.write_json(out / INDEX_NAME, {**index, "finished": True, "files": files})

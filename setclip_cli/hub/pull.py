"""`setclip pull`: a RUN on a model hub becomes a RUN folder on this machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setclip_cli.errors import SetClipError, argument
from setclip_cli.files import atomic
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.files.lock import exclusive
from setclip_cli.files.write_errors import writing
from setclip_cli.options import path_of
from setclip_cli.places import named
from setclip_cli.remote.hub import hub_copy
from setclip_cli.remote.place import parse_hub
from setclip_cli.remote.run_files import CONFIG_NAME, is_run_file
from setclip_cli.run.config import RECIPE_NAME, require_whole
from setclip_cli.run.model import load_model


@dataclass(frozen=True)
class PullResult:
    """A RUN that was copied.

    Attributes:
        name: ``hub:NAME@COMMIT``.
        out: The RUN folder.
        unchanged: Whether it held this RUN already.
    """

    name: str
    out: Path
    files: tuple[str, ...]
    unchanged: bool

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "out": str(self.out), "files": list(self.files), "unchanged": self.unchanged}

    def summary(self) -> str:
        if self.unchanged:
            return f"{self.out}: is {self.name} already"
        return f"{self.out}: the RUN {self.name}, {len(self.files)} files"


def pull(name: str, out: str | Path) -> PullResult:
    """Copies a RUN from a model hub and checks it before it is there.

    Args:
        name: ``OWNER/NAME``, ``OWNER/NAME@REVISION``, or the same after ``hub:``.
        out: The RUN folder to write.

    Raises:
        SetClipError: the hub has no such RUN, its files are damaged or of a later version, or ``out`` holds another RUN
            or other things.
    """
    place = parse_hub(name if name.startswith("hub:") else f"hub:{name}")
    out = path_of(out, "out")
    refuse_foreign(out, "a RUN folder", [RECIPE_NAME, CONFIG_NAME])
    copy = hub_copy(place)
    model = load_model(copy)
    require_whole(copy, model.config)
    files = tuple(sorted(path.name for path in copy.iterdir() if is_run_file(path.name)))
    there = [name for name in files if (out / name).exists()]
    if not all(_is_same(copy / name, out / name) for name in there):
        raise SetClipError(
            f"{out}: holds another RUN than {named(copy)} (identity {model.identity[:12]}); nothing was changed",
            fix=f"choose another {argument('out')}, or remove that folder yourself",
        )
    if len(there) == len(files):
        return PullResult(named(copy), out, files, unchanged=True)
    with exclusive(out), writing(out):
        for name in sorted(files, key=lambda one: one == CONFIG_NAME):  # config.json marks a whole RUN
            with atomic.atomic_path(out / name) as temporary:
                shutil.copyfile(copy / name, temporary)
        load_model(out)
    return PullResult(named(copy), out, files, unchanged=False)


def _is_same(one: Path, other: Path) -> bool:
    return other.is_file() and atomic.sha256_file(one) == atomic.sha256_file(other)

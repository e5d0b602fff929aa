"""The house: its rooms, their floors, and imports that go down only."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "setclip_cli"

# Room -> floor. A file imports its own room and rooms of lower floors. `__init__` is the Python face of all of them.
FLOORS = {
    "__main__": 16,
    "__init__": 15,
    "cli": 15,
    "arrays": 14,
    "export": 14,
    "hub": 14,
    "inspection": 14,
    "labelling": 14,
    "quickstart": 14,
    "serving": 14,
    "study": 14,
    "verify": 14,
    "viewing": 14,
    "evaluation": 13,
    "matching": 13,
    "pools": 12,
    "training": 11,
    "embedding": 10,
    "trust": 9,
    "methods": 8,
    "run": 8,
    "features": 8,
    "recipe": 7,
    "ingest": 7,
    "backbones": 6,
    "web": 6,
    "dataset": 5,
    "encoders": 3,
    "files": 3,
    "joins": 3,
    "cluster": 2,
    "console": 2,
    "processes": 2,
    "losses": 2,
    "remote": 4,
    "options": 2,
    "pixels": 2,
    "defaults": 1,
    "errors": 1,
    "sampling": 1,
    "vectors": 1,
    "version": 1,
    "places": 0,
}


def room_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imported_rooms(path: Path) -> Iterator[str]:
    """The rooms that a file names in its imports, those inside functions and for types alone included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, *rest = name.split(".")
            if package == "setclip_cli" and rest:
                yield rest[0] if rest[0] in FLOORS else "__init__"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_import_runs_up(path: Path) -> None:
    room = room_of(path)
    for other in imported_rooms(path):
        assert other == room or FLOORS[other] < FLOORS[room], f"{room} (floor {FLOORS[room]}) imports {other}"


def test_every_room_is_in_the_table_and_says_what_it_is_for() -> None:
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")}
    assert rooms == set(FLOORS)
    for room in rooms:
        start = PACKAGE / room / "__init__.py" if (PACKAGE / room).is_dir() else PACKAGE / f"{room}.py"
        assert ast.get_docstring(ast.parse(start.read_text(encoding="utf-8"))), room


@pytest.mark.parametrize("room", sorted({path.parent for path in PACKAGE.rglob("*/*.py")}), ids=lambda path: path.name)
def test_files_of_a_room_import_each_other_without_a_circle(room: Path) -> None:
    prefix = ".".join(("setclip_cli", *room.relative_to(PACKAGE).parts))
    files = {path.stem: path for path in room.glob("*.py")}
    graph = {name: _siblings(path, prefix) & files.keys() for name, path in files.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


def _siblings(path: Path, prefix: str) -> set[str]:
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == prefix:
                found |= {alias.name for alias in node.names}
            elif node.module.startswith(f"{prefix}."):
                found.add(node.module.removeprefix(f"{prefix}.").split(".")[0])
    return found


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by their names alone, so two of one name stop the whole run, but no run of one room."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, times in names.items() if times > 1] == []

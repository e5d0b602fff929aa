"""What a folder is said to be: every folder that a command writes is known by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from setclip_cli.errors import SetClipError
from setclip_cli.files.what_is import what_is
from setclip_cli.run.model import load_model


@pytest.mark.parametrize(
    ("names", "command"),
    [
        (("labels.json", "labels.jsonl", "pairs.csv", "recipe.toml"), "setclip label"),
        (("suggest.csv", "suggest.html"), "setclip suggest"),
        (("inspect.html", "inspect.json", "unmatched.csv"), "setclip inspect"),
        (("check_pairs.csv", "check_pairs.json"), "setclip check-pairs"),
    ],
)
def test_the_folders_of_questions_and_looks_are_no_runs(tmp_path: Path, names: tuple[str, ...], command: str) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    assert what_is(tmp_path).words == f"is a folder of `{command}`"
    with pytest.raises(SetClipError, match=f"it is a folder of `{command}`") as caught:
        load_model(tmp_path)
    assert caught.value.fix == "give the folder that `setclip align` wrote"

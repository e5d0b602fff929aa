"""What does not belong together is not served."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from serve_world import service_of
from small_world import invoke

from setclip_cli.errors import SetClipError


def test_embeddings_of_another_run_are_told_with_the_command_that_serves_them(
    vectors: Path, pictures: Path, tmp_path: Path
) -> None:
    code, _, told = invoke("serve", vectors / "run", pictures / "embeddings")
    assert code == 3
    assert f"fix: setclip serve {pictures / 'run'} {pictures / 'embeddings'}\n" in told
    moved = (pictures / "run").rename(tmp_path / "run")
    try:
        _, _, told = invoke("serve", vectors / "run", pictures / "embeddings")
    finally:
        moved.rename(pictures / "run")
    assert f"fix: setclip embed {vectors / 'run'} DATASET" in told


def test_what_does_not_belong_together_is_refused(pictures: Path, vectors: Path, tmp_path: Path) -> None:
    for words, told in (
        ((pictures / "embeddings", pictures / "run"), "wrong order"),
        ((vectors / "run", pictures / "embeddings"), "was not made by"),
        ((pictures / "run", tmp_path), "is not an EMBEDDINGS folder"),
        ((pictures / "data", pictures / "embeddings"), ""),
        ((pictures / "run", pictures / "embeddings", "--split", "tset"), "holds no image embeddings of split 'tset'"),
        ((pictures / "run", pictures / "embeddings", "--host", "203.0.113.7"), "is not an address of this computer"),
    ):
        code, _, said = invoke("serve", *words)
        assert code in (2, 3), said
        assert told in said
        assert "fix: " in said
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SetClipError, match="another program uses this port"), service_of(pictures, port=port):
            pass

"""The service ends quietly, and an error of one request does not end it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from serve_world import Caller, service_of
from untrained_pictures import CAPTIONS

from setclip_cli.matching import match

SLOW_MATCH = """
import sys, torch
from setclip_cli.matching import match
from setclip_cli.cli import program

def compare(*_given):  # for ever, most of the time in C++ code
    print("comparing", file=sys.stderr, flush=True)
    while True:
        torch.randn(600, 600) @ torch.randn(600, 600)

match.Matches.of = compare
program.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_while_rows_are_compared_ends_quietly_and_is_told_to_who_waits(
    vectors: Path, tmp_path: Path, number: int, code: int
) -> None:
    (tmp_path / "token").write_text("a_token-for-the-test")
    words = ["serve", vectors / "run", vectors / "embeddings", "--token-file", tmp_path / "token"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_MATCH, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    assert process.stderr is not None
    address = next(line.split()[1] for line in process.stderr if line.startswith("ready: "))
    answers: list[tuple[int, Any]] = []
    asked = {"modality": "audio", "ids": ["a7"]}
    client = threading.Thread(target=lambda: answers.append(Caller(address).post("/match", asked)))
    client.start()
    for line in process.stderr:
        if line == "comparing\n":
            break
    process.send_signal(number)
    out, told = process.communicate(timeout=60)
    client.join(60)
    assert (process.returncode, answers[0][0], set(answers[0][1])) == (code, 503, {"error", "fix"})
    assert "stopping" in answers[0][1]["error"]
    assert told.count("\n") == (1 if code else 0), told
    assert ("was served" in out) == (code == 0)


def test_an_unexpected_error_of_one_query_does_not_spoil_the_others(
    of_pictures: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    from setclip_cli.embedding.query_tower import QueryTower

    embed = QueryTower.embed

    def breaking(self: QueryTower, items: Any) -> Any:
        if "poison" in items:
            raise RuntimeError("broken: /srv/secret/weights.safetensors")
        return embed(self, items)

    monkeypatch.setattr(QueryTower, "embed", breaking)
    results: dict[str, int] = {}
    told: dict[str, Any] = {}

    def send(text: str) -> None:
        results[text], told[text] = of_pictures.post("/search", {"text": text})

    threads = [threading.Thread(target=send, args=(text,)) for text in ("poison", *CAPTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {"poison": 500, **dict.fromkeys(CAPTIONS, 200)}
    assert set(told["poison"]) == {"error", "fix"}
    assert "secret" not in json.dumps(told["poison"])


def test_a_comparison_that_is_under_way_ends_with_the_service(
    vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = threading.Event()

    def compare(*_given: object) -> None:
        began.set()
        while True:
            torch.randn(100, 100)

    monkeypatch.setattr(match.Matches, "of", compare)
    (tmp_path / "token").write_text("a_token-for-the-test")
    with service_of(vectors, token_file=tmp_path / "token") as address:
        asked = {"modality": "audio", "ids": ["a7"]}
        client = threading.Thread(target=lambda: Caller(address).post("/match", asked))
        client.start()
        assert began.wait(60)
        [comparing] = [one for one in threading.enumerate() if one.name == "setclip-match"]
    client.join(60)
    assert not comparing.is_alive()

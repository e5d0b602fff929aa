"""Who may ask the service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from serve_world import Caller, service_of, token_of
from small_world import invoke

from setclip_cli.errors import UsageError
from setclip_cli.serving.options import ServeOptions


def test_only_health_needs_no_token(of_pictures: Caller) -> None:
    status, _, content = of_pictures.ask("GET", "/health", cookie=None)
    assert (status, json.loads(content)["status"]) == (200, "ok")
    for path in ("/about", "/openapi.json", "/docs", "/", "/picture/image/0/small"):
        assert of_pictures.ask("GET", path, cookie=None)[0] == 403, path
    assert of_pictures.post("/search", {"text": "a"}, authorization=None)[0] == 403
    assert of_pictures.ask("GET", "/health", host="evil.example")[0] == 403


def test_a_page_of_another_site_is_refused_with_and_without_a_token(of_pictures: Caller, pictures: Path) -> None:
    with service_of(pictures, no_token=True) as address:
        caller = Caller(address)
        assert "token" not in address
        assert caller.fine("/search", text="forest")["hits"]
        here = {"origin": f"http://{caller.host}"}
        assert caller.post("/search", {"text": "a"}, **here)[0] == 200
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
            assert caller.post("/search", {"text": "a"}, origin=origin)[0] == 403
            assert of_pictures.post("/search", {"text": "a"}, origin=origin, authorization=None)[0] == 403
        assert caller.post("/search", {"text": "a"}, host="evil.example")[0] == 403
        assert caller.ask("GET", "/about", host="evil.example")[0] == 403


def test_other_computers_need_the_token_and_no_host_is_refused_there(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("a_token-for-the-test\n")
    with service_of(pictures, host="0.0.0.0", token_file=tmp_path / "token") as address:
        port = address.partition("?")[0].strip("/").rpartition(":")[2]
        caller = Caller(f"http://127.0.0.1:{port}/", "a_token-for-the-test")
        assert token_of(address) == "a_token-for-the-test"
        for host in ("gpu.lab.example:80", f"192.168.1.7:{port}"):
            assert caller.post("/search", {"text": "a"}, host=host)[0] == 200
            assert caller.post("/search", {"text": "a"}, host=host, authorization=None)[0] == 403
    assert "WARNING: what is sent is not encrypted" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "short", "a token with spaces in it", "ä" * 20])
def test_a_token_file_without_a_good_token_is_refused(pictures: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    code, _, told = invoke("serve", pictures / "run", pictures / "embeddings", "--token-file", tmp_path / "token")
    assert code in (2, 3)
    assert not content or content not in told.replace(str(tmp_path), "")


def test_options_that_would_let_everybody_in_are_refused() -> None:
    with pytest.raises(UsageError, match="would let in all of them"):
        ServeOptions(host="0.0.0.0", no_token=True)
    with pytest.raises(UsageError, match="are both given"):
        ServeOptions(token_file="x", no_token=True)

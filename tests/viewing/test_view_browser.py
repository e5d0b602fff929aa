"""The map in a real browser without a network: headless Chromium, if the machine has one, and the viewer itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_world import chromium
from untrained_pictures import CAPTIONS, make_pictures
from view_world import HOSTILE, view_of

pytest.importorskip("embedding_atlas")

pytestmark = pytest.mark.slow


def test_the_map_opens_without_a_network_and_shows_texts_as_text(
    tmp_path: Path, tiny_timm: Path, tiny_sentence: Path
) -> None:
    make_pictures(tmp_path, tiny_timm, tiny_sentence, [*CAPTIONS, *HOSTILE])
    rows = 7 + len(CAPTIONS) + len(HOSTILE)
    elsewhere: list[str] = []
    dialogs: list[str] = []
    refused: list[str] = []
    drawing = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
    with view_of(tmp_path / "embeddings") as address, chromium(*drawing) as browser:
        here = address.partition("?")[0]
        context = browser.new_context(viewport={"width": 1300, "height": 1000})
        page = context.new_page()
        page.set_default_timeout(120_000)

        def answer(route: object) -> None:
            if route.request.url.startswith((here, "blob:", "data:")):  # type: ignore[attr-defined]
                route.continue_()  # type: ignore[attr-defined]
            else:
                elsewhere.append(route.request.url)  # type: ignore[attr-defined]
                route.abort()  # type: ignore[attr-defined]

        context.route("**/*", answer)
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda told: refused.append(told.text) if "Content Security" in told.text else None)
        page.goto(address)
        page.get_by_text(f"{rows} / {rows} points").first.wait_for()
        page.get_by_text("modality", exact=True).first.wait_for()
        page.get_by_text(HOSTILE[2]).first.wait_for()  # in the table
        page.locator("canvas").first.wait_for()
        for name in ("id", "picture"):  # in the table; a panel that counts them would say 1 for each
            assert page.get_by_text(name, exact=True).count() == 1
        pictures = page.locator("img[src*='/picture/image/']")
        pictures.first.wait_for()
        width = pictures.first.evaluate("(image) => image.decode().then(() => image.naturalWidth)")
        assert width == 64
    assert elsewhere == []
    assert dialogs == []
    assert [text for text in refused if "script" in text] == []  # it evaluates nothing

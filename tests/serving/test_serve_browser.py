"""The search page in a real browser: headless Chromium, if the machine has one."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from browser_world import Window
from serve_world import service_of
from untrained_pictures import CAPTIONS, make_pictures

HOSTILE = (
    "<script>window.ran = 1; alert(1)</script>",
    '"><img src=x onerror="window.ran=2">',
    "{{constructor.constructor('window.ran=4')()}}",
    "\u202egnirts desrever\u2066\x1b[31m",
)
pytestmark = pytest.mark.slow
DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, tiny_timm: Path, tiny_sentence: Path) -> Iterator[str]:
    folder = make_pictures(tmp_path_factory.mktemp("page"), tiny_timm, tiny_sentence, [*CAPTIONS, *HOSTILE])
    with service_of(folder) as found:
        yield found


class Search(Window):
    """The search page."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        super().__init__(browser, address, **context)
        self.page.wait_for_selector('body[data-page="ready"]')

    def searched(self, number: int) -> list[str]:
        self.page.wait_for_selector(f'body[data-searched="{number}"]')
        return [str(text) for text in self.page.locator("#hits .id").all_inner_texts()]


@pytest.fixture
def window(browser: Any, address: str) -> Iterator[Search]:
    opened = Search(browser, address)
    yield opened
    opened.close()


def test_a_person_types_words_drops_a_picture_and_searches_with_a_row(window: Search) -> None:
    page = window.page
    assert "token" not in page.url
    assert "7 image rows" in page.locator("#about").inner_text()
    page.fill("#words", "boats in a harbour")
    page.keyboard.press("Enter")
    assert len(window.searched(1)) == 7
    assert "7 of 7 image rows" in page.locator("#status").inner_text()
    assert page.locator("#why").inner_text() == "no probabilities"
    page.click("#why summary")
    assert "the RUN was trained on" in page.locator("#why-text").inner_text()
    width = page.locator(".hit img").first.evaluate("(image) => image.decode().then(() => image.naturalWidth)")
    assert width == 64
    page.evaluate(DROP, ["photo.jpg", base64.b64encode(tiny.jpeg(3)).decode()])
    assert len(window.searched(2)) == 10  # captions
    assert page.evaluate("document.getElementById('preview').width") == 64
    page.select_option("#in", "image")
    assert window.searched(3)[0].startswith("image-3 ")
    page.select_option("#in", "")
    page.click("#clear")
    page.fill("#words", "forest")
    page.click("button.main")
    window.searched(5)
    page.locator(".hit button").nth(2).click()
    window.searched(6)
    assert "nearest to the image first" in page.locator("#status").inner_text()


def test_hostile_captions_are_text(window: Search) -> None:
    page = window.page
    page.select_option("#in", "caption")
    page.fill("#words", HOSTILE[0])
    page.keyboard.press("Enter")
    page.locator(".hit").nth(9).wait_for()
    shown = page.locator("#hits .text").all_inner_texts()
    assert HOSTILE[0] in shown
    assert HOSTILE[1] in shown
    assert "\\u202egnirts desrever\\u2066\\x1b[31m" in shown
    assert page.evaluate("window.ran") is None
    assert page.evaluate("document.querySelectorAll('main script, main img').length") == 0


def test_nothing_in_the_page_can_run_or_reach_another_site(browser: Any, address: str) -> None:
    opened = Search(browser, address)
    assert opened.page.evaluate("fetch('https://evil.example/').then(() => 'sent', () => 'refused')") == "refused"
    refused = opened.page.evaluate(
        "() => { try { document.body.innerHTML = '<img src=x>'; return '' } catch (error) { return error.name } }"
    )
    assert refused == "TypeError"
    opened.context.close()


def test_a_problem_is_told_and_goes_away(window: Search) -> None:
    page = window.page
    page.fill("#words", "forest")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit")
    page.evaluate(DROP, ["broken.jpg", base64.b64encode(b"no picture").decode()])
    page.wait_for_selector("#problem:not([hidden])")
    assert "image: is not a picture that can be read" in page.locator("#problem").inner_text()
    assert "base64" not in page.locator("#problem").inner_text()
    assert page.locator("#why").is_hidden()
    assert page.locator(".hit").count() == 0  # they were of another query
    window.told.clear()  # the browser writes the 422 down
    page.click("#clear")
    page.fill("#words", "forest")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit")
    assert page.locator("#problem").is_hidden()


def test_the_requests_are_described(window: Search) -> None:
    page = window.page
    page.click("header a")
    page.wait_for_selector('body[data-page="ready"]')
    assert "POST /search" in page.locator("#requests").inner_text()
    assert "why_no_probability" in page.locator("#SearchAnswer").inner_text()


@pytest.mark.parametrize("width", [320, 360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_fit_their_window(browser: Any, address: str, width: int, scheme: str) -> None:
    opened = Search(browser, address, viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened.page.fill("#words", "forest")
    opened.page.keyboard.press("Enter")
    opened.searched(1)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    opened.page.goto(opened.page.url + "docs")
    opened.page.wait_for_selector('body[data-page="ready"]')
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    opened.close()

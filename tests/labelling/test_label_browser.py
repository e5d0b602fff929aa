"""The label page in a real browser: headless Chromium, if the machine has one."""

from __future__ import annotations

import csv
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import label_world
import pytest
from browser_world import Window
from small_world import run_ok

from setclip_cli.dataset.dataset import open_dataset

HOSTILE = (
    "<script>window.ran = 1; alert(1)</script>",
    '"><img src=x onerror="window.ran=2">',
    "<svg onload=alert(2)>",
    "javascript:alert(3)//",
    "{{constructor.constructor('window.ran=4')()}}",
    "<iframe src='https://evil.example/'></iframe><link rel=stylesheet href=//evil.example/x.css>",
    "\u202egnirts desrever\u2066\x1b[31m",
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return label_world.make_dataset(tmp_path_factory.mktemp("world"))


class Label(Window):
    """The label page."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        super().__init__(browser, address, **context)
        self.wait(0)

    def wait(self, revision: int) -> None:
        self.page.wait_for_selector(f'body[data-revision="{revision}"]')

    def key(self, key: str, revision: int) -> None:
        """Presses a key and waits for what it changes."""
        self.page.keyboard.press(key)
        self.wait(revision)

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())

    def item(self) -> str:
        return self.text("#item .id").partition(" · ")[0]


@pytest.fixture
def window(browser: Any) -> Iterator[Callable[..., Label]]:
    opened: list[Label] = []

    def open_window(address: str, **context: Any) -> Label:
        opened.append(Label(browser, address, **context))
        return opened[-1]

    yield open_window
    for one in opened:
        one.close()


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


def test_a_person_labels_with_keys_and_clicks_to_the_end(data: Path, tmp_path: Path, window: Any) -> None:
    out = tmp_path / "labels"
    with label_world.page_of(out, label_world.pools_of(data), count=7) as (address, results):
        one = window(address)
        assert "token" not in one.page.url
        assert one.text("#count") == "1 of 7"
        first = one.item()
        assert one.page.get_by_role("button", name="Undo").is_disabled()
        third_choice = one.page.locator(".candidate").nth(2).locator(".id").inner_text()
        one.key("3", 1)
        assert rows(out / "pairs.csv") == [[first, third_choice]]
        assert one.text("#count") == "2 of 7"
        second = one.item()
        one.page.locator(".candidate").nth(4).click()
        one.wait(2)
        one.key("u", 3)  # undo brings the question back
        assert one.item() == second
        assert len(rows(out / "pairs.csv")) == 1
        one.key("0", 4)
        assert rows(out / "pairs.csv")[-1] == [second, "-"]
        skipped = one.item()
        one.key("s", 5)
        one.page.reload()
        one.wait(5)
        assert one.text("#count") == "4 of 7"
        one.page.keyboard.press("m")
        one.page.locator(".candidate").nth(17).wait_for()
        tenth = one.page.locator(".candidate").nth(9).locator(".id").inner_text()
        fourth = one.item()
        one.key("1", 6)  # the keys belong to the new ones
        assert rows(out / "pairs.csv")[-1] == [fourth, tenth]
        one.page.keyboard.press("/")
        one.page.locator("#words").fill("number 33")
        one.page.wait_for_selector('body[data-searched="number 33"]')
        one.page.keyboard.press("s")  # a letter of the words, not a skip
        one.page.keyboard.press("Backspace")
        one.page.wait_for_selector('body[data-searched="number 33"]')
        one.page.keyboard.press("Enter")
        one.page.wait_for_selector("#words:not(:focus)")
        fifth = one.item()
        one.key("1", 7)
        assert rows(out / "pairs.csv")[-1] == [fifth, "c33"]
        one.key("1", 8)
        one.key("2", 9)
        assert one.text("#end h2") == "That was the last question."
        assert "5 pairs, 1 without a partner, 1 skipped" in one.text("#end")
        commands = one.page.locator("#end pre").all_inner_texts()
        assert commands[0] == f"setclip ingest --pairs {out}/pairs.csv --out {data}"
        assert commands[1] == f"setclip align {out}/recipe.toml --data {data} --out {out}/run"
        one.page.get_by_role("button", name="Show the skipped ones again").click()
        one.wait(10)
        assert one.item() == skipped
        one.key("1", 11)
        one.page.locator("#close").click()
        one.page.wait_for_selector('body[data-page="closed"]')
        _wait_for(lambda: bool(results))
    assert (results[0].partners, results[0].none, results[0].skipped) == (6, 1, 0)
    copied = shutil.copytree(data, tmp_path / "copy")
    told = run_ok(*[str(copied) if word == str(data) else word for word in commands[0].split()[1:]])
    assert "6 known pairs" in told
    known = {(pair.left_id, pair.right_id) for pair in open_dataset(copied).pairs()}
    assert known == {(left, right) for left, right in rows(out / "pairs.csv") if right != "-"}


def _wait_for(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(600):
        if condition():
            return
        waiting.wait(0.1)
    raise AssertionError("it did not happen")


def test_a_browser_that_is_closed_in_the_middle_loses_nothing(data: Path, tmp_path: Path, browser: Any) -> None:
    out = tmp_path / "labels"
    with label_world.page_of(out, label_world.pools_of(data), count=5) as (address, _):
        one = Label(browser, address)
        one.key("1", 1)
        one.page.keyboard.press("2")
        one.context.close()  # while the answer is on its way
        again = browser.new_context().new_page()
        again.set_default_timeout(60_000)
        again.goto(address)
        again.wait_for_selector("body[data-revision]")
        done = int(again.get_attribute("body", "data-revision"))
        assert done in (1, 2)
        assert len(rows(out / "pairs.csv")) == done
        again.keyboard.press("1")
        again.wait_for_selector(f'body[data-revision="{done + 1}"]')
        again.context.close()


def test_two_windows_of_one_session_do_not_answer_a_question_twice(data: Path, tmp_path: Path, browser: Any) -> None:
    out = tmp_path / "labels"
    with label_world.page_of(out, label_world.pools_of(data), count=5) as (address, _):
        one, other = Label(browser, address), Label(browser, address)
        one.key("1", 1)
        other.page.keyboard.press("2")
        other.wait(1)  # it shows what the first one has done, and says so
        assert "has been answered" in other.text("#problem")
        assert len(rows(out / "pairs.csv")) == 1
        other.key("2", 2)
        assert other.page.locator("#problem").is_hidden()
        for window in (one, other):
            window.context.close()


def test_a_server_that_has_gone_is_told(data: Path, tmp_path: Path, browser: Any) -> None:
    with label_world.page_of(tmp_path / "labels", label_world.pools_of(data), count=5) as (address, _):
        one = Label(browser, address)
        one.key("1", 1)
    one.page.keyboard.press("2")
    one.page.wait_for_selector("#problem:not([hidden])")
    assert "run the same command again" in one.text("#problem")
    assert one.page.get_attribute("body", "data-revision") == "1"
    one.context.close()


def test_hostile_captions_and_ids_are_text(tmp_path: Path, window: Any) -> None:
    folder = tmp_path / "world"
    extra = tuple(f"{text} {number}" for number, text in enumerate(HOSTILE))
    label_world.make_dataset(folder, pictures=8, captions=1, extra=extra)
    names = ("<img src=x onerror=alert(5)>.png", "' onload='alert(6).png", "-.png", "=1+1.png")
    for number, name in enumerate(names):
        (folder / "hostile").mkdir(exist_ok=True)
        (folder / "pictures" / f"picture0{number}.png").rename(folder / "hostile" / name)
    run_ok("ingest", folder / "hostile", "--modality", "image", "--out", folder / "more")
    run_ok("ingest", folder / "captions.jsonl", "--modality", "caption", "--out", folder / "more")
    out = tmp_path / "labels"
    with label_world.page_of(out, label_world.pools_of(folder / "more"), count=4) as (address, _):
        one = window(address)
        shown: set[str] = set()
        for revision in range(1, 5):
            shown |= set(one.page.locator(".candidate").all_inner_texts())
            assert one.page.evaluate("window.ran") is None
            assert one.page.locator("#asking script, #asking iframe, #asking svg, #asking link").count() == 0
            one.key(str(revision), revision)
        one.page.locator("#end pre").nth(1).wait_for()
        assert one.page.evaluate("window.ran") is None
        text = "\n".join(shown)
        assert HOSTILE[0] in text
        assert HOSTILE[1] in text
        assert "\\u202egnirts desrever\\u2066\\x1b[31m" in text
        assert one.page.evaluate("document.querySelectorAll('img:not(.picture)').length") == 0
    told = run_ok("ingest", "--pairs", out / "pairs.csv", "--out", folder / "more")
    assert "4 known pairs" in told
    assert {pair.left_id for pair in open_dataset(folder / "more").pairs()} == set(names)


def test_nothing_that_stands_in_a_page_can_run_even_if_it_got_there(data: Path, tmp_path: Path, browser: Any) -> None:
    with label_world.page_of(tmp_path / "labels", label_world.pools_of(data), count=2) as (address, _):
        one = Label(browser, address)
        for attempt in (
            "document.body.innerHTML = `<img src=x onerror='window.ran=1'>`",
            "document.body.setAttribute('onclick', 'window.ran=1')",
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran=1'}))",
        ):
            refused = one.page.evaluate(
                f"() => {{ try {{ {attempt}; return '' }} catch (error) {{ return error.name }} }}"
            )
            assert refused == "TypeError", attempt  # trusted types: no text becomes mark-up or script
        assert one.page.evaluate("window.ran") is None
        assert one.page.evaluate("fetch('https://evil.example/').then(() => 'sent', () => 'refused')") == "refused"
        one.context.close()


@pytest.mark.parametrize("width", [380, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_window(data: Path, tmp_path: Path, window: Any, width: int, scheme: str) -> None:
    with label_world.page_of(tmp_path / "labels", label_world.pools_of(data), count=1) as (address, _):
        one = window(address, viewport={"width": width, "height": 800}, color_scheme=scheme)
        for revision, ink in ((0, None), (1, None)):
            if revision:
                one.key("1", revision)
            one.page.wait_for_load_state("networkidle")
            assert one.page.evaluate("document.documentElement.scrollWidth") == width, ink
        ink = one.page.evaluate("getComputedStyle(document.body).color")
        assert ink == ("rgb(231, 232, 230)" if scheme == "dark" else "rgb(29, 33, 39)")

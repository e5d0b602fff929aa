"""Headless Chromium for the tests of pages, and a page in it that writes down all that it must not do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium_path() -> str:
    """The program; the test is skipped if the machine has none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here: make browser")
    return found


@contextmanager
def chromium(*arguments: str) -> Iterator[Any]:
    """A browser; the test is skipped if the machine has none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = chromium_path()
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", *arguments])
        try:
            yield started
        finally:
            started.close()


class Window:
    """A page in the browser.

    Attributes:
        told: What the console, errors and dialogs said, and the addresses elsewhere that the page asked for.
    """

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.told: list[str] = []
        self.page.on("console", lambda message: self.told.append(message.text))
        self.page.on("pageerror", lambda error: self.told.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.told.append(dialog.message), dialog.dismiss()))
        here = address.partition("?")[0]
        self.page.on("request", lambda one: None if one.url.startswith(here) else self.told.append(one.url))
        self.page.goto(address)

    def close(self) -> None:
        assert self.told == []
        self.context.close()

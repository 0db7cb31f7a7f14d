"""The page in Chromium."""

from __future__ import annotations

import shutil
import time
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


class Tab:
    """A page, and what it asked for and complained of."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.requests: list[str] = []
        self.problems: list[str] = []
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        self.page = browser.new_page(**options)
        self.page.on("request", lambda one: self.requests.append(one.url))
        self.page.on("websocket", lambda one: self.requests.append(one.url))
        self.page.on("pageerror", lambda one: self.problems.append(str(one)))
        self.page.on(
            "console",
            lambda one: (
                self.problems.append(one.text)
                if one.type in ("error", "warning")
                else None
            ),
        )
        self.page.goto(url)
        self.ready()

    def wait(self, condition: str) -> None:
        """Wait for a condition; the page's own policy forbids Playwright's way."""
        until = time.monotonic() + 20
        while not self.page.evaluate(condition):
            assert time.monotonic() < until, condition
            self.page.wait_for_timeout(20)

    def ready(self) -> None:
        """Wait until the patient that is asked for is drawn."""
        self.wait(
            "Boolean(document.body.dataset.ready && "
            "!document.querySelector('.waiting') && "
            "document.querySelector('.panel .content').children.length)"
        )

    def pick(self, label: str, choice: str, side: int = 0) -> None:
        """Choose in a panel's controls, and wait for what follows."""
        self.page.evaluate("delete document.body.dataset.ready")
        panel = self.page.locator(f".panel[data-side='{side}']")
        panel.get_by_label(label, exact=True).select_option(label=choice)
        self.ready()

    def click(self, selector: str) -> None:
        self.page.evaluate("delete document.body.dataset.ready")
        self.page.locator(selector).first.click()
        self.ready()

    def chips(self, side: int = 0) -> list[tuple[str, float]]:
        """Code and attribution of every chip, from its tooltip."""
        found = self.page.locator(f".panel[data-side='{side}'] .chip").evaluate_all(
            "all => all.map(one => [one.dataset.code, one.title])"
        )
        return sorted((code, float(title.rpartition(" ")[2])) for code, title in found)

    def saved(self, selector: str) -> tuple[str, bytes]:
        """What a button saves."""
        with self.page.expect_download() as waiting:
            self.page.locator(selector).click()
        return waiting.value.suggested_filename, waiting.value.path().read_bytes()

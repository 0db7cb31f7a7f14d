"""The bridge to Captum Insights, served: Captum's page in a browser."""

from __future__ import annotations

import json
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.request import Request, urlopen

import pytest

from captum_ehr.datasets import tiny_model
from captum_ehr.insights.bridge import captum_visualizer

pytest.importorskip(
    "captum.insights", reason="Captum Insights is not installed: make test-insights"
)
FETCH = {
    "attribution_method": "DeepLiftEHR",
    "arguments": {},
    "prediction": "all",
    "classes": [],
}


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    return tiny_model()


def test_it_serves_on_loopback_and_two_requests_at_once(tiny: Any) -> None:
    before = set(threading.enumerate())
    port = captum_visualizer(tiny[0]).serve(port=0)
    assert all(t.daemon for t in set(threading.enumerate()) - before)
    root = f"http://127.0.0.1:{port}"
    assert b"Captum Insights" in urlopen(root, timeout=60).read()
    assert "DeepLiftEHR" in json.load(urlopen(f"{root}/init", timeout=60))["methods"]
    request = Request(f"{root}/fetch", json.dumps(FETCH).encode())

    def fetch() -> int:
        return len(json.load(urlopen(request, timeout=60)))

    with ThreadPoolExecutor(2) as pool:
        assert [f.result() for f in [pool.submit(fetch) for _ in range(2)]] == [4, 4]
    with pytest.raises(OSError, match=f"Port {port} cannot be served"):
        captum_visualizer(tiny[0]).serve(port=port)


def test_captums_page_shows_it(tiny: Any) -> None:
    """The page itself, in a browser: what is drawn is what was answered."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not on PATH")
    playwright = pytest.importorskip("playwright.sync_api")
    names = {"I10": "<img src=x onerror=alert(1)>"}
    visualizer = captum_visualizer(tiny[0], classes=["survived", "died"], names=names)
    port = visualizer.serve()
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-gpu"]
        )
        page = opened.new_page()
        asked: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.goto(f"http://127.0.0.1:{port}/")
        method = page.locator("select[name=selected_method]")
        method.locator("option").first.wait_for(state="attached")
        assert method.input_value() == "DeepLiftEHR"
        page.get_by_role("button", name="Fetch").click()
        page.get_by_text("Model 1").first.wait_for()
        text = page.inner_text("body")
        page.get_by_role("button", name=re.compile("survived .0")).first.click()
        page.wait_for_load_state("networkidle")
        opened.close()
    assert "N18.3" in text and "conditions (Text)" in text and names["I10"] in text
    assert re.search(r"died \(0\.\d{3}\)", text)
    assert any(url.endswith("/attribute") for url in asked)
    assert all(url.startswith(f"http://127.0.0.1:{port}/") for url in asked)
    assert errors == []

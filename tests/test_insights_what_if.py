"""Asking the model on the page: the answers are those of DeepLiftEHR.what_if."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest
from insights_cases import NAMES, stagenet

from captum_ehr import DeepLiftEHR
from captum_ehr.adapter import collated
from captum_ehr.datasets import tiny_model
from captum_ehr.insights import AttributionVisualizer
from captum_ehr.insights.api import answer

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


#: A click on the first patient of the list, which is drawn anew by it.
OPEN = "document.querySelector('.trow').click();"


def asked(visualizer: Any, **question: Any) -> Any:
    return answer(visualizer, {"kind": "what_if", "row": 2, **question})


def visualizer(**options: Any) -> tuple[Any, Any]:
    model, _ = tiny_model()
    return model, AttributionVisualizer(model, model.dataset, **options)


def test_the_answer_is_that_of_the_explainer() -> None:
    model, page = visualizer()
    batch = collated([model.dataset[row] for row in range(4)])
    found = DeepLiftEHR(model).what_if(batch, ["I10"], {"labs[0]": 2.5})
    questions = (
        {"remove": [["conditions", "I10"]]},
        {"set": [["labs", "labs[0]", 2.5]]},
        {"remove": [["conditions", "I10"]], "set": [["labs", "labs[0]", 2.5]]},
    )
    for case, question in enumerate(questions):
        said = asked(page, **question)["result"]
        names = ("f_changed", "probability_changed", "attributed_change", "difference")
        for name in names:
            wanted = getattr(found, name)[2, case].item()
            assert said[name] == pytest.approx(wanted, abs=1e-6), name
        assert said["words"].startswith("logit −0.146 → ")
        assert "probability 46 % →" in said["words"]


def test_where_the_model_has_no_answer_that_is_said() -> None:
    _, page = visualizer()
    question = {"remove": [["conditions", "E11.9"]], "row": 1}  # all that there is
    said = asked(page, **question)["result"]
    assert said["f_changed"] is None and said["words"].endswith("has no answer.")


def test_of_no_shares_there_is_nothing_to_compare() -> None:
    _, page = visualizer(methods=["DeepLiftEHR", "Saliency"])
    said = asked(page, method="Saliency", remove=[["conditions", "I10"]])["result"]
    assert said["attributed_change"] is None and said["model_change"] is not None
    assert said["words"].endswith("do not say by how much.")


def test_codes_and_columns_are_called_as_they_are_shown() -> None:
    def readable(explanation: Any) -> Any:
        labs = replace(explanation.features["labs"], columns=("lactate", "glucose"))
        return replace(explanation, features={**explanation.features, "labs": labs})

    _, plain = visualizer()
    _, named = visualizer(readable=readable)
    wanted = asked(plain, set=[["labs", "labs[1]", 3.0]])
    assert asked(named, set=[["labs", "glucose", 3.0]]) == wanted
    assert "error" in asked(named, set=[["labs", "labs[7]", 3.0]])


def test_values_in_other_units_are_not_set() -> None:
    def readable(explanation: Any) -> Any:
        labs = explanation.features["labs"]
        labs = replace(labs, values=labs.values * 10)
        return replace(explanation, features={**explanation.features, "labs": labs})

    _, page = visualizer(readable=readable)
    assert "other units" in asked(page, set=[["labs", "labs[0]", 3.0]])["error"]
    assert "result" in asked(page, remove=[["conditions", "I10"]])


@pytest.mark.complete
@pytest.mark.skipif(BROWSER is None, reason="chromium is not on PATH")
def test_the_page_asks_and_shows_the_answer() -> None:
    model = stagenet()
    page = AttributionVisualizer(model, model.dataset, names=NAMES)
    playwright = pytest.importorskip("playwright.sync_api")
    with page.serve() as server, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-quic"]
        )
        tab = browser.new_page()
        tab.goto(server.url)
        tab.wait_for_selector("form.what-if")
        old = tab.locator("form.what-if").element_handle()
        tab.evaluate(f"() => {{ {2 * OPEN} }}")
        tab.wait_for_function("(old) => !old.isConnected", arg=old)
        tab.wait_for_selector("form.what-if")
        assert tab.locator("form.what-if").count() == 1
        chip = tab.locator(".chip[data-code]:not([data-value])").first
        chip.click()
        key, code = (chip.get_attribute(f"data-{n}") for n in ("feature", "code"))
        tab.get_by_role("button", name="Ask the model").click()
        playwright.expect(tab.locator(".what-if output")).to_contain_text("logit")
        setting = page.setting()
        words = page.what_if(0, setting, [(key, code)])["words"]
        assert tab.locator(".what-if output").inner_text() == words
        browser.close()

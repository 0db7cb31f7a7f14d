"""The page below the cell of a notebook."""

from __future__ import annotations

import html
from typing import Any

import pytest
from insights_cases import SCRIPT, Bag, bag_arguments

from captum_ehr.insights import AttributionVisualizer, ExportLimitError, Server


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    display = pytest.importorskip("IPython.display")
    found: list[Any] = []
    monkeypatch.setattr(display, "display", found.append)
    return found


def visualizer() -> AttributionVisualizer:
    model = Bag()
    classes, features, batches = bag_arguments(model)
    batches[0].patient_ids = [SCRIPT, "q1", "q2"]
    return AttributionVisualizer(model, classes, features, batches)


def test_live_it_frames_the_served_page(shown: list[Any]) -> None:
    server = visualizer().render()
    assert isinstance(server, Server)
    with server:
        (frame,) = shown
        assert frame.src == server.url and server.token in frame.src


def test_otherwise_the_notebook_holds_the_page(shown: list[Any]) -> None:
    assert visualizer().render(live=False, patients=[0, 1]) is None
    text = shown[0].data
    # Everything is inside the one attribute, and what is inside runs apart.
    assert text.count("<") == 2 and 'sandbox="allow-scripts' in text
    assert "allow-same-origin" not in text
    page = html.unescape(text)
    assert "the data of 2 patients" in page and SCRIPT not in page


def test_the_limit_holds_there_too(shown: list[Any]) -> None:
    with pytest.raises(ExportLimitError, match="5 patients, more than limit=2"):
        visualizer().render(live=False, limit=2)
    assert shown == []

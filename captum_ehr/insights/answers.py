"""Questions of the page and their answers, both plain data; without any network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .explainer import Setting
from .page import placed, places, saved

if TYPE_CHECKING:
    from .visualizer import AttributionVisualizer

_MOST_AT_ONCE = 64


def answer(visualizer: AttributionVisualizer, question: Any) -> dict[str, Any]:
    """Answer one question.

    Args:
        visualizer: What is shown.
        question: ``id`` and ``kind``, and for the kind ``"view"`` the ``row`` and how
            to explain; for ``"parts"`` ``rows`` and how to explain; for ``"page"``
            ``rows`` and ``settings``.

    Returns:
        ``id``, and ``result`` or ``error`` in words.

    Example:
        >>> answer(None, {"id": 1, "kind": "nothing"})
        {'id': 1, 'error': "There is no question of the kind 'nothing'."}
    """
    number = question.get("id") if isinstance(question, Mapping) else None
    try:
        return {"id": number, "result": _result(visualizer, question)}
    except Exception as error:  # whatever a method raises is its answer
        words = str(error.args[0]) if error.args else type(error).__name__
        return {"id": number, "error": " ".join(words.split())[:600]}


def _result(visualizer: AttributionVisualizer, question: Any) -> Any:
    if not isinstance(question, Mapping):
        raise ValueError("A question is an object with a kind.")
    kind = question.get("kind")
    if kind == "view":
        way = _setting(visualizer, question)
        row = _row(question.get("row"))
        return visualizer.view(row, way.method, way.target, way.baseline, way.model)
    if kind == "parts":
        rows = [_row(row) for row in question["rows"]][:_MOST_AT_ONCE]
        found = visualizer.contributions(rows, _setting(visualizer, question))
        codes = places(visualizer.overview())
        return {row: placed(part, codes) for row, part in found.items()}
    if kind == "page":
        rows = list(dict.fromkeys(_row(row) for row in question["rows"]))
        ways = [_setting(visualizer, one) for one in question["settings"]]
        return saved(visualizer, rows, ways)
    raise ValueError(f"There is no question of the kind {kind!r}.")


def _setting(visualizer: AttributionVisualizer, asked: Mapping[str, Any]) -> Setting:
    model = asked.get("model", 0)
    if not isinstance(model, int):
        raise ValueError(f"A model is given by its place, got {model!r}.")
    return visualizer.setting(
        asked.get("method"), asked.get("target"), asked.get("baseline"), model
    )


def _row(row: Any) -> int:
    if not isinstance(row, int) or isinstance(row, bool) or row < 0:
        raise ValueError(f"A patient is given by its place, got {row!r}.")
    return row

"""Questions of the page and their answers, both plain data; without any network."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from itertools import batched
from queue import SimpleQueue
from typing import Any

from .explainer import Setting
from .page import LIMIT, TOP, cohort_piece, patient_piece, saved
from .viewer import Viewer
from .views import sums_of
from .watching import watched

_LOG = logging.getLogger(__name__)

_TOLD = (
    ArithmeticError,
    AssertionError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Errors whose words are for people: ours, and what methods say of a model."""

_PAUSE = 0.3
"""Seconds between two pieces of a long answer, unless a batch takes longer."""

ANSWERING = "insights-answer"
"""The name of threads that work out answers."""

_PATH = re.compile(r"(?<![\w.)])(~|[A-Za-z]:)?[/\\][\w.~-]+[/\\]|\.py\b")


def answer(visualizer: Viewer, question: Any) -> dict[str, Any]:
    """Answer one question.

    Its ``kind`` is ``"view"`` of a ``row``, ``"what_if"`` of a ``row`` with pairs of
    feature and code to ``remove`` or triples with a value to ``set``, the sums of a
    ``"cohort"`` of ``rows``, all with how to explain, or a ``"page"`` of ``rows`` and
    ``settings``, ``all`` of them where they are more than a file is meant for.

    Returns:
        ``result``, or ``error`` in words.

    Example:
        >>> answer(None, {"kind": "nothing"})
        {'error': "There is no question of the kind 'nothing'."}
    """
    try:
        return {"result": _result(visualizer, question)}
    except Exception as error:  # whatever a method raises is its answer
        return {"error": told(error)}


def progress(
    visualizer: Viewer, question: Any, stopped: threading.Event | None = None
) -> Iterator[dict[str, Any]]:
    """Explain one patient or a cohort piece by piece, until it is ``stopped``.

    Of the ``rows`` only ``explain`` are explained, if that is given. The table has
    ``all`` codes, or the strongest.

    Yields:
        Of a question of the kind ``"view"`` how far it is, ``done`` of ``of`` runs of
        the model (None where that is not known), then what :func:`answer` gives. Else
        ``deltas``, by row the residual, its words and the verdict, of some patients;
        ``html``, the cohort so far, where it is to be drawn, and whether that is
        ``done``; or at last ``error`` in words.
    """
    stopped = stopped or threading.Event()
    try:
        if _checked(question).get("kind") == "view":
            yield from _view(visualizer, question, stopped)
            return
        setting = _setting(visualizer, question)
        size = max(2, visualizer.methods[setting.method].together)
        # In the dataset's order, in which patients are padded together.
        shown = sorted(_rows(question["rows"]))
        rows = sorted(_rows(question.get("explain", shown)))
        most = None if question.get("all") else TOP
        parts: dict[int, dict[str, Any]] = {}
        new: dict[int, Any] = {}
        begun = time.monotonic()
        for chunk in [*batched(rows, size)] or [()]:
            with watched(lambda *_: None, stopped):
                batch = visualizer.contributions(chunk, setting)
            parts |= batch
            told_of = ("delta", "delta_words", "status")
            new |= {r: [part[key] for key in told_of] for r, part in batch.items()}
            is_done = len(parts) == len(rows)
            if is_done or time.monotonic() - begun > _PAUSE:
                piece: dict[str, Any] = {"deltas": new, "done": is_done}
                if question.get("drawn"):
                    known = parts.values()
                    html = cohort_piece(visualizer, shown, known, setting, most)
                    piece["html"] = html
                yield piece
                begun, new = time.monotonic(), {}
    except Exception as error:
        yield {"error": told(error)}


def _view(
    visualizer: Viewer, question: Any, stopped: threading.Event
) -> Iterator[dict[str, Any]]:
    """One patient, worked out in a thread, and how far that is."""
    pieces: SimpleQueue[dict[str, Any]] = SimpleQueue()
    told_at = time.monotonic()

    def tell(done: int, of: int | None) -> None:
        nonlocal told_at
        if time.monotonic() - told_at > _PAUSE:
            told_at = time.monotonic()
            pieces.put({"done": done, "of": of})

    def work() -> None:
        with watched(tell, stopped):
            pieces.put(answer(visualizer, question))

    threading.Thread(target=work, name=ANSWERING, daemon=True).start()
    piece = pieces.get()
    while "done" in piece:
        yield piece
        piece = pieces.get()
    yield piece


def told(error: Exception) -> str:
    """What the browser is told of an error: nothing of this machine's files.

    Example:
        >>> told(ValueError("There is no method 'x'."))
        "There is no method 'x'."
        >>> told(FileNotFoundError(2, "No such file", "/home/somebody/model.pt"))
        'This could not be worked out (FileNotFoundError); the log says why.'
    """
    words = " ".join(str(error.args[0]).split()) if error.args else ""
    if isinstance(error, _TOLD) and words and not _PATH.search(words):
        return words[:600]
    _LOG.error("a question of the page could not be answered", exc_info=error)
    return f"This could not be worked out ({type(error).__name__}); the log says why."


def as_json(said: dict[str, Any]) -> str:
    """What is said, as JSON.

    Example:
        >>> as_json({"result": float("nan")})
        '{"error":"The answer has numbers that are none (NaN)."}'
    """
    try:
        return json.dumps(said, separators=(",", ":"), allow_nan=False)
    except ValueError:  # no browser reads NaN
        return '{"error":"The answer has numbers that are none (NaN)."}'


def _result(visualizer: Viewer, question: Any) -> Any:
    kind = _checked(question).get("kind")
    if kind == "view":
        row = _row(question.get("row"))
        return patient_piece(visualizer, row, _setting(visualizer, question))
    if kind == "what_if":
        remove = [(str(key), str(code)) for key, code in question.get("remove", ())]
        put = {(str(k), str(c)): value for k, c, value in question.get("set", ())}
        row, setting = _row(question.get("row")), _setting(visualizer, question)
        return visualizer.what_if(row, setting, remove, put)
    if kind == "cohort":
        setting = _setting(visualizer, question)
        parts = visualizer.contributions(_rows(question["rows"]), setting).values()
        return sums_of(parts, visualizer.overview()["codes"])
    if kind == "page":
        ways = [_setting(visualizer, way) for way in question["settings"]]
        rows = _rows(question["rows"])
        limit = len(rows) if question.get("all") is True else LIMIT
        return saved(visualizer, rows, ways, limit)
    raise ValueError(f"There is no question of the kind {kind!r}.")


def _checked(question: Any) -> Mapping[str, Any]:
    if not isinstance(question, Mapping):
        raise ValueError("A question is an object with a kind.")
    return question


def _setting(visualizer: Viewer, asked: Mapping[str, Any]) -> Setting:
    model = asked.get("model", 0)
    if not isinstance(model, int):
        raise ValueError(f"A model is given by its place, got {model!r}.")
    return visualizer.setting(
        asked.get("method"), asked.get("target"), asked.get("baseline"), model
    )


def _rows(rows: Any) -> list[int]:
    return list(dict.fromkeys(map(_row, rows)))


def _row(row: Any) -> int:
    if not isinstance(row, int) or isinstance(row, bool) or row < 0:
        raise ValueError(f"A patient is given by its place, got {row!r}.")
    return row

"""What makes a cohort this one: contents that differ have digests that differ."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cohort_cases import dataset, mlp, written

from captum_ehr import CohortError, explain_cohort
from captum_ehr.cohort.contents import digest


def adding(number: int) -> Any:
    return lambda x: x + number


class Scaled:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, x: float) -> float:
        return self.scale * x

    def twice(self, x: float) -> float:
        return 2 * self(x)


def test_digests_tell_contents_apart() -> None:
    contents: list[Any] = [
        *(None, 0, 1, 1.0, True, "1", "", b"", [], {}, [1], [[1]], (1, 2), [12]),
        *(torch.ones(2), torch.ones(2).double(), torch.ones(1, 2), torch.ones(())),
        *({"a": 1}, {"a": 2}, {"b": 1}, np.ones(3), lambda x: x, lambda x: x + 1),
        *(lambda x: x + 2, lambda x, y=1: x, lambda x, y=2: x, adding(1), adding(2)),
        *(partial(adding, 1), partial(adding, 2), Scaled(1), Scaled(2)),
        *(int, str, dict, torch.zeros(0), np.float64(3.5), {1}, {1, 2}, Scaled),
        *(np.array(["f", "m"]), np.array([["f", "m"]]), np.array(["f", "n"])),
        *(np.array(["2026-03-01"], "M8[D]"), np.array(["2026-03-01"], "M8[s]")),
        *(Scaled(1).twice, Scaled(2).twice, {"a": 1}.get, {"a": 2}.get, len, max),
        *(lambda x, *, y=1: x, lambda x, *, y=2: x, torch, np, torch.Tensor.relu),
        *(itemgetter(1), itemgetter(2), torch.relu, np.log),
    ]
    assert len({digest(content) for content in contents}) == len(contents)
    assert (
        digest(torch.ones(3)) == digest(torch.ones(6)[::2]) == digest(np.ones(3, "f"))
    )
    assert [*{0, 8}] != [*{8, 0}] and digest({0, 8}) == digest({8, 0})


def made(source: str, value: Any = None) -> Any:
    """A function of a script, in which there is a global ``value``."""
    return eval(source, {"value": value, "torch": torch})


@pytest.mark.parametrize(
    "source, other",
    [
        ("lambda e: torch.tensor([80.0, 1.2, 37.0])", "99.0"),
        ("lambda e: e in {80.0, 1.2, 37.0}", "99.0"),
        ("lambda e: [(lambda: 37.0)() for _ in e]", "99.0"),
        ("lambda e: ((1, 37.0), 2)", "99.0"),
    ],
)
def test_functions_with_other_constants_are_others(source: str, other: str) -> None:
    assert digest(made(source)) == digest(made(source))
    assert digest(made(source)) != digest(made(source.replace("37.0", other)))


def module(number: float) -> ModuleType:
    """A file of the user's."""
    held = ModuleType("of_a_study")
    held.number = number  # type: ignore[attr-defined]
    return held


def kind(number: float) -> type:
    return type("Kind", (), {"number": number, "of": lambda self: number})


def closed(number: float) -> Callable[[], float]:
    """It names itself, in a circle."""
    scope: dict[str, Any] = {"number": number}
    exec("def again(): return number or again()", scope)
    again: Callable[[], float] = scope["again"]
    return again


@pytest.mark.parametrize(
    "make",
    [
        *(float, torch.tensor, np.float32, lambda n: [n, {"a": (n,)}]),
        *(lambda n: pd.Series([n]), lambda n: np.array([n]), Scaled, closed, kind),
        *(lambda n: Scaled(n).twice, lambda n: {"a": n}.get, lambda n: kind(n)()),
        *(adding, partial(partial, adding), module),
        pytest.param(lambda n: torch.nn.Threshold(0.0, n), id="module of torch"),
    ],
)
@pytest.mark.parametrize(
    "source", ["lambda e: value.number", "lambda e: [value.number for _ in e]"]
)
def test_functions_that_use_other_globals_are_others(source: str, make: Any) -> None:
    one, same, other = (made(source, make(number)) for number in (1.0, 1.0, 2.0))
    assert digest(one) == digest(same) != digest(other)


def test_what_a_function_does_not_use_makes_no_difference() -> None:
    source = "lambda e: (e.value, torch.zeros(1))"
    assert digest(made(source, 1)) == digest(made(source, 2))


def test_of_what_it_cannot_be_told_it_is_said() -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match="Of a _thread.lock it cannot be told"):
        digest(lambda: lock)


def test_another_function_is_another_cohort(tmp_path: Path) -> None:
    data = dataset(8)
    model, out = mlp(data), tmp_path / "out"
    source = "lambda e: {'labs': torch.tensor([80.0, 1.2, 37.0])}"
    explain_cohort(model, data, out, baselines=made(source))
    before = written(out)
    explain_cohort(model, data, out, baselines=made(source))
    other = made(source.replace("37.0", "36.0"))
    with pytest.raises(CohortError, match=r"options\.baselines: 'function "):
        explain_cohort(model, data, out, baselines=other)
    assert written(out) == before

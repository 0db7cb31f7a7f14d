"""Time of one attribution, over the floor that the plain model sets."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from . import peers
from .data import batch_of, long_histories
from .families import FULL, Family, Size, named
from .peers import Case

FLOOR = ("forward", "forward_backward")

DEFAULT_MODELS = (
    "MLP (ReLU)",
    "Transformer",
    "StageNet",
    "StageAttentionNet",
    "RNN (GRU)",
    "RNN (LSTM)",
    "RETAIN",
    "EHRMamba",
    "JambaEHR",
)


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        models: Names of families.
        size: Sizes of the models.
        batch: Patients of the batch.
        lengths: Shortest and longest history.
        seconds: About how long the quick methods of one model are repeated.
        fewest: Rounds of the quick methods, at least.
        most: Rounds of the quick methods, at most.
        slow: Rounds in which Integrated Gradients take part.
        captum_ig: Whether Captum's Integrated Gradients are timed too.
    """

    models: tuple[str, ...] = DEFAULT_MODELS
    size: Size = FULL
    batch: int = 32
    lengths: tuple[int, int] = (40, 60)
    seconds: float = 30.0
    fewest: int = 9
    most: int = 200
    slow: int = 3
    captum_ig: bool = False


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: median and quartiles over the repeats."""

    median: float
    lower: float
    upper: float
    repeats: int


@dataclass(frozen=True)
class Row:
    """One model.

    Args:
        model: Its name.
        milliseconds: By method.
        over_floor: Medians divided by the floor: one plain forward and one plain
            forward-and-backward.
        refused: Why methods did not take the model.
    """

    model: str
    milliseconds: dict[str, Timing]
    over_floor: dict[str, float]
    refused: dict[str, str]


def quick(*, captum_ig: bool = False) -> Settings:
    """Settings that take seconds."""
    from .families import TINY

    models = ("MLP (ReLU)", "RNN (GRU)")
    return Settings(models, TINY, 4, (6, 9), 0.2, 2, 5, 1, captum_ig)


def measure(settings: Settings) -> list[Row]:
    """Measure every model, its methods in turn."""
    rows = []
    for family in tqdm(named(*settings.models), desc="speed"):
        rows.append(_row(family, settings))
    return rows


def _row(family: Family, settings: Settings) -> Row:
    schema = family.timed or family.schema
    dataset = long_histories(schema, settings.batch, settings.lengths)
    model = family.build(dataset, settings.size)
    case = Case(model, batch_of(dataset, range(settings.batch)))
    slow: dict[str, Callable[[Case], Any]] = {
        "pyhealth_ig_50": peers.pyhealth_ig_default
    }
    if settings.captum_ig:
        slow["captum_ig_50"] = peers.captum_ig
    fast: dict[str, Callable[[Case], Any]] = {
        "forward": forward,
        "forward_backward": forward_backward,
        "ours": peers.ours,
        "pyhealth_deeplift": peers.pyhealth_deeplift_default,
    }
    first, refused = _warm_up({**fast, **slow}, case)
    once = sum(first.get(name, 0.0) for name in fast)
    rounds = int(np.clip(settings.seconds / once, settings.fewest, settings.most))
    times: dict[str, list[float]] = {name: [] for name in first}
    for turn in tqdm(range(rounds), desc=family.name, leave=False):
        spread = {int(n * rounds / settings.slow) for n in range(settings.slow)}
        for name, method in (fast | slow if turn in spread else fast).items():
            if name in first:
                times[name].append(_timed(method, case))
    return _summary(family.name, times, refused)


def _warm_up(
    methods: Mapping[str, Callable[[Case], Any]], case: Case
) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of each method's first call, or why it refuses the model."""
    first, refused = {}, {}
    for name, method in methods.items():
        try:
            first[name] = _timed(method, case)
        except Exception as error:  # whatever a peer raises is its answer
            if name in (*FLOOR, "ours"):
                raise
            refused[name] = peers.refusal(error)
    return first, refused


def _timed(method: Callable[[Case], Any], case: Case) -> float:
    start = time.perf_counter()
    method(case)
    return time.perf_counter() - start


def _summary(
    model: str, times: Mapping[str, list[float]], refused: dict[str, str]
) -> Row:
    timings = {}
    for name, values in times.items():
        lower, median, upper = np.percentile(np.array(values) * 1e3, (25, 50, 75))
        timings[name] = Timing(float(median), float(lower), float(upper), len(values))
    floor = sum(timings[name].median for name in FLOOR)
    over = {k: t.median / floor for k, t in timings.items() if k not in FLOOR}
    return Row(model, timings, over, refused)


def forward(case: Case) -> Any:
    """The plain model without gradients."""
    with torch.no_grad():
        return case.model(**case.batch)["logit"]


def forward_backward(case: Case) -> Any:
    """The plain model, and its gradient down to the embeddings and nothing else."""
    tables = [
        parameter
        for name, module in case.model.named_modules()
        if "embedding" in name and isinstance(module, nn.Embedding | nn.Linear)
        for parameter in module.parameters(recurse=False)
    ]
    logit = case.model(**case.batch)["logit"]
    return torch.autograd.grad(logit.sum(), tables, allow_unused=True)

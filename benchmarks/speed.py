"""Time of one attribution, over the floor that the plain model sets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from . import peers
from .data import batch_of, long_histories, on
from .families import FULL, MEASURED, TINY, Family, Size, named
from .peers import Case

FLOOR = ("forward", "forward_backward")

#: Batches that do not count: the passes, the recording of a plan, its first run, and
#: the passes once more.
WARM = 5

type Method = Callable[[Case], Any]
type Round = dict[str, float]


def slow_methods() -> dict[str, Method]:
    """The methods that evaluate the model 50 times for each patient."""
    return {
        "pyhealth_ig_50": peers.pyhealth_ig_default,
        "captum_ig_50": peers.captum_ig,
        "gradient_shap": peers.gradient_shap,
        "kernel_shap": peers.kernel_shap,
        "shap_gradient": peers.shap_gradient,
    }


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        models: Names of families.
        threads: Numbers of threads; methods that sample are timed on the first alone.
        size: Sizes of the models.
        batch: Patients of the batch.
        lengths: Shortest and longest history.
        seconds: About how long the quick methods of one model are repeated.
        fewest: Rounds of the quick methods, at least.
        most: Rounds of the quick methods, at most.
        sampling: The methods that evaluate the model many times, by name.
        slow: Rounds in which such a method takes part, at most.
        slow_seconds: After so long, such a method takes part no more.
        compiled: Models of which compile=True is timed as well, on the first number of
            threads.
        device: Where model and batch are.
    """

    models: tuple[str, ...] = MEASURED
    threads: tuple[int, ...] = (1, 2)
    size: Size = FULL
    batch: int = 32
    lengths: tuple[int, int] = (40, 60)
    seconds: float = 10.0
    fewest: int = 9
    most: int = 200
    sampling: tuple[str, ...] = tuple(slow_methods())
    slow: int = 3
    slow_seconds: float = 5.0
    device: str = "cpu"
    compiled: tuple[str, ...] = ("MLP (ReLU)", "Transformer")


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    lower: float
    upper: float
    repeats: int


@dataclass(frozen=True)
class Row:
    """One model.

    Args:
        model: Its name.
        threads: On how many it was timed.
        milliseconds: Of one call, by method.
        over_floor: A method's time over that of one plain forward and one plain
            forward-and-backward in the same round.
        refused: Why methods did not take the model.
        compile_seconds: What compile=True took before the first round that counts.
        pays_after: After how many batches that is made up for.
    """

    model: str
    threads: int
    milliseconds: dict[str, Spread]
    over_floor: dict[str, Spread]
    refused: dict[str, str]
    compile_seconds: float | None = None
    pays_after: float | None = None


def quick() -> Settings:
    """Settings that take seconds."""
    models = ("MLP (ReLU)", "RNN (GRU)")
    return Settings(models, (1, 2), TINY, 4, (6, 9), 0.2, 2, 5, slow=1, compiled=())


def jobs(settings: Settings) -> dict[str, Callable[[], Row]]:
    """One per model and number of threads."""
    return {
        f"{family.name}, {threads}": partial(_row, family, threads, settings)
        for family in named(*settings.models)
        for threads in settings.threads
    }


def quick_methods() -> dict[str, Method]:
    """The floor, ours, and PyHealth's DeepLift as it is delivered."""
    return {
        "forward": forward,
        "forward_backward": forward_backward,
        "ours": peers.ours,
        "ours_first": peers.ours_first,
        "pyhealth_deeplift": peers.pyhealth_deeplift_default,
    }


def _row(family: Family, threads: int, settings: Settings) -> Row:
    schema = family.timed or family.schema
    dataset = long_histories(schema, settings.batch, settings.lengths)
    model = family.build(dataset, settings.size).to(settings.device)
    case, pair = (
        Case(model, on(settings.device, batch_of(dataset, range(count))))
        for count in (settings.batch, 2)
    )
    first = threads == settings.threads[0]
    slow = {n: m for n, m in slow_methods().items() if first and n in settings.sampling}
    with on_threads(threads):
        fast, refused = willing(quick_methods(), pair)
        slow, more = willing(slow, pair)
        if first and family.name in settings.compiled:
            fast["ours_compiled"] = peers.ours_compiled
        warm = [one_round(fast, case) for _ in range(WARM)]
        rounds = _rounds(fast, slow, case, settings, family.name)
    taken = {
        name: spread([1e3 * r[name] for r in rounds if name in r])
        for name in (*fast, *slow)
    }
    compiling = sum(one.get("ours_compiled", 0.0) for one in warm) or None
    gain = taken["ours"].median - taken.get("ours_compiled", taken["ours"]).median
    return Row(
        family.name,
        threads,
        taken,
        {
            name: over_floor(name, rounds)
            for name in (*fast, *slow)
            if name not in FLOOR
        },
        refused | more,
        compiling,
        1e3 * compiling / gain if compiling and gain > 0 else None,
    )


@contextmanager
def on_threads(threads: int) -> Iterator[None]:
    """So many threads of torch, and then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def willing(
    methods: Mapping[str, Method], case: Case
) -> tuple[dict[str, Method], dict[str, str]]:
    """The methods that take the model, each called once, and why the others do not."""
    found, refused = {}, {}
    for name, method in methods.items():
        try:
            method(case)
            found[name] = method
        except Exception as error:  # whatever a peer raises is its answer
            if name in (*FLOOR, "ours"):
                raise
            refused[name] = peers.refusal(error)
    return found, refused


def _rounds(
    fast: Mapping[str, Method],
    slow: Mapping[str, Method],
    case: Case,
    settings: Settings,
    name: str,
) -> list[Round]:
    """Seconds of each method, round by round; after a round that does not count."""
    first = sum(one_round(fast, case).values())
    count = int(np.clip(settings.seconds / first, settings.fewest, settings.most))
    turns = {int(n * count / settings.slow) for n in range(settings.slow)}
    spent = dict.fromkeys(slow, 0.0)
    rounds = []
    for turn in tqdm(range(count), desc=name, leave=False):
        taking = dict(fast)
        if turn in turns:
            left = {n: m for n, m in slow.items() if spent[n] < settings.slow_seconds}
            taking |= left
        rounds.append(one_round(taking, case))
        for each in spent:
            spent[each] += rounds[-1].get(each, 0.0)
    return rounds


def one_round(methods: Mapping[str, Method], case: Case) -> Round:
    """Seconds of one call of each, in turn; a card is done with one before the next."""
    found = {}
    card = torch.cuda.is_initialized()
    wait = torch.cuda.synchronize if card else lambda: None
    for name, method in methods.items():
        wait()
        start = time.perf_counter()
        method(case)
        wait()
        found[name] = time.perf_counter() - start
    return found


def over_floor(name: str, rounds: list[Round]) -> Spread:
    """A method's time over the floor's in the same round."""
    taken = [one for one in rounds if name in one]
    return spread([one[name] / sum(one[f] for f in FLOOR) for one in taken])


def spread(values: list[float]) -> Spread:
    """Median and quartiles."""
    lower, median, upper = np.percentile(values, (25, 50, 75)).tolist()
    return Spread(median, lower, upper, len(values))


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

"""Many threads explain, infer and draw at once, with plans on: nobody sees another."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from snapshots import model_state
from torch import Tensor

from captum_ehr import DeepLiftEHR
from captum_ehr.datasets import tiny_model

EXPLAINING, INFERRING = 8, 2


class Work:
    """A model, its explainer, and what one thread alone gets of a batch."""

    def __init__(self, model: Any, batch: Any) -> None:
        self.model, self.batch = model.eval(), batch
        self.explainer = DeepLiftEHR(model)
        self.explained = DeepLiftEHR(model).explain(batch)
        for _ in range(2):  # of which a plan is made, before others draw numbers
            self.explainer.explain(batch)
        self.inferred = self.infer()
        self.before = model_state(model)

    def infer(self) -> Tensor:
        with torch.no_grad():
            output: Tensor = self.model(**self.batch)["logit"]
        return output

    def wrong_explanation(self) -> str:
        """What is not as it is in one thread, if anything."""
        found = self.explainer.explain(self.batch)
        for key, expected in self.explained.attributions.items():
            if not torch.allclose(found.attributions[key], expected, 1e-5, 1e-7):
                return f"attributions of {key}"
        if not torch.equal(found.f_input, self.explained.f_input):
            return "f(x)"
        same = found.diagnostics == self.explained.diagnostics
        return "" if same else f"{found.diagnostics}"

    def wrong_inference(self) -> str:
        output = self.infer()
        same = torch.equal(output, self.inferred) and not output.requires_grad
        return "" if same else "an inference"


@contextmanager
def drawing() -> Iterator[dict[str, list[float]]]:
    """A thread that draws from Python's, NumPy's and a generator of torch's."""
    own = torch.Generator().manual_seed(5)
    ways: dict[str, Callable[[], float]] = {
        "python": random.random,
        "numpy": np.random.rand,
        "torch": lambda: torch.rand((), dtype=torch.float64).item(),
        "own": lambda: torch.rand((), generator=own, dtype=torch.float64).item(),
    }
    drawn: dict[str, list[float]] = {name: [] for name in ways}
    done = threading.Event()

    def draw() -> None:
        while not done.wait(2e-4):
            for name, way in ways.items():
                drawn[name].append(way())

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        yield drawn
    finally:
        done.set()
        thread.join()


def together(tasks: list[Callable[[], str]], threads: int) -> list[str]:
    """What went wrong of tasks that are shared out among threads."""
    wrong: list[str] = []
    start = threading.Barrier(threads)

    def go(mine: list[Callable[[], str]]) -> None:
        start.wait()
        for task in mine:
            try:
                wrong.append(task())
            except BaseException as error:
                wrong.append(repr(error))

    shares = [tasks[k::threads] for k in range(threads)]
    workers = [threading.Thread(target=go, args=(share,)) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(wrong) == len(tasks)
    return [words for words in wrong if words]


def models(names: tuple[str, ...]) -> list[Work]:
    configs = {config.model: config for config in zoo.configs()}
    others = [Work(*zoo.shared(configs[name], False)) for name in names]
    return [Work(*tiny_model()), *others]


@pytest.mark.parametrize(
    ("names", "calls"),
    [
        (("Transformer",), 100),
        pytest.param(
            ("Transformer", "RNN", "StageNet"), 2000, marks=pytest.mark.complete
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::captum_ehr.AttributionWarning")
def test_threads_do_not_see_each_other(
    names: tuple[str, ...], calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which of the two is quicker is chance.
    monkeypatch.setattr("captum_ehr.propagation.plans._Entry.slow", False)
    work = models(names)
    states = torch.get_rng_state(), torch.get_num_threads()
    threads = EXPLAINING + INFERRING
    tasks = [
        one.wrong_inference if k % threads < INFERRING else one.wrong_explanation
        for k, one in ((k, work[k // threads % len(work)]) for k in range(calls))
    ]
    with drawing() as drawn:
        assert together(tasks, threads) == []
    for one in work:
        assert model_state(one.model) == one.before
    assert sum(plan.replays for one in work for plan in one.explainer.plans) > calls / 4
    for name, numbers in drawn.items():
        assert len(numbers) > 20
        assert len({*numbers}) == len(numbers), f"{name}: a number was drawn twice"
    own = torch.Generator().manual_seed(5)
    alone = [
        torch.rand((), generator=own, dtype=torch.float64).item() for _ in drawn["own"]
    ]
    assert drawn["own"] == alone
    assert torch.get_num_threads() == states[1]
    assert not torch.equal(torch.get_rng_state(), states[0])


def test_a_plan_may_be_dropped_by_another_thread_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was there when it was looked up, and is run all the same."""
    work = Work(*tiny_model())

    def dropped(entry: Any) -> bool:
        entry.give_up("dropped", "it is no faster than the passes")
        return False

    with monkeypatch.context() as patch:
        patch.setattr(
            "captum_ehr.propagation.plans._Entry.unmeasured", property(dropped)
        )
        assert work.wrong_explanation() == ""
    (plan,) = work.explainer.plans
    assert (plan.state, plan.replays) == ("dropped", 1)
    assert work.wrong_explanation() == ""

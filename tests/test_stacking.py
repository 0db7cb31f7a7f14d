"""Several references at a time give what one after the other gives, or one does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn

from captum_ehr import DeepLiftShapEHR, PyHealthAdapter
from captum_ehr.attr import AttributionWarning, engine
from captum_ehr.attr.engine import in_stacks
from captum_ehr.attr.result import Result

type Took = list[bool]

CONFIGS = [
    zoo.Config("MLP", "sequence", "multiclass", zoo.HIDDEN),
    zoo.Config("RNN", "nested", options=zoo.HIDDEN),
    zoo.Config("StageNet", "stagenet", options=zoo.STAGES),
    zoo.Config("Transformer", "sequence", options=zoo.SMALL),
    zoo.Config("RETAIN", "sequence", options={"embedding_dim": 8}),
]


@pytest.fixture
def took(monkeypatch: pytest.MonkeyPatch) -> Took:
    """Whether each batch was explained against several references at a time."""
    made: Took = []

    def watched(*args: Any) -> Result | None:
        result = in_stacks(*args)
        made.append(result is not None)
        return result

    monkeypatch.setattr(engine, "in_stacks", watched)
    return made


def explained(explain: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What comes out, and what is said of it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = explain()
    ours = (one for one in said if one.category is AttributionWarning)
    return result, [str(one.message) for one in ours]


def both(
    monkeypatch: pytest.MonkeyPatch, explain: Callable[[], Any]
) -> tuple[tuple[Any, list[str]], tuple[Any, list[str]]]:
    """The same with several references at a time, and with one after the other."""
    ours = explained(explain)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "how_many", lambda *_: 0)
        return ours, explained(explain)


def check(ours: Result, theirs: Result) -> None:
    pairs = [
        *zip(ours.attributions, theirs.attributions, strict=True),
        *zip(ours.each, theirs.each, strict=True),
        (ours.f_input, theirs.f_input),
        (ours.f_baseline, theirs.f_baseline),
        (ours.factor, theirs.factor),
    ]
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert ours.deltas.shape == theirs.deltas.shape
    torch.testing.assert_close(ours.deltas, theirs.deltas, rtol=0, atol=1e-5)
    assert torch.equal(ours.index, theirs.index)
    assert torch.equal(ours.balance.off, theirs.balance.off)
    assert ours.diagnostics == theirs.diagnostics


def references(inputs: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    torch.manual_seed(3)
    return tuple(torch.randn(count, *x.shape[1:]) for x in inputs)


@pytest.mark.parametrize("rows", [None, 36])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_models(
    monkeypatch: pytest.MonkeyPatch, took: Took, config: zoo.Config, rows: int | None
) -> None:
    model, batch = zoo.shared(config)
    enc = PyHealthAdapter(model).encode(batch)
    baselines = references(enc.inputs, 7)
    dl = DeepLiftShapEHR(model, internal_batch_size=rows, completeness="check")

    def explain() -> Result:
        return dl.run(enc.pairs, baselines, None, None, None, True, True)[1]

    (ours, said), (theirs, said_then) = both(monkeypatch, explain)
    assert took == [True] and len(enc.inputs[0]) == 9
    check(ours, theirs)
    assert said == said_then


class Net(nn.Module):
    """Small, its output changed by an argument."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        out: Tensor = self.layers(x)
        return out if weights is None else self.weighed(out, weights)

    def weighed(self, out: Tensor, weights: Tensor) -> Tensor:
        return out * weights


class Crossed(Net):
    """Takes a matrix of as many rows as there happen to be patients."""

    def weighed(self, out: Tensor, weights: Tensor) -> Tensor:
        return out @ weights[:3, :3]


class Listed(Net):
    """Takes a list with an entry per patient."""

    def weighed(self, out: Tensor, weights: Any) -> Tensor:
        return out * torch.tensor(weights).unsqueeze(1)


class Mixing(Net):
    """Each patient has a part in the others' outputs."""

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        out: Tensor = self.layers(x)
        return out + out.sum(0)


class Counting(Net):
    """How many patients there are is added, which no sum can tell."""

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        out: Tensor = self.layers(x)
        return out + 0.1 * len(x)


class Fixed(Net):
    """Knows how many patients there are."""

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        out: Tensor = self.layers(x.view(3, 4))
        return out


class Drawing(Net):
    """Draws a number that it does not use."""

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        out: Tensor = self.layers(x)
        return out + 0 * torch.rand(len(x), 1)


class Noisy(Net):
    """Draws from a generator that torch does not know of."""

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        import numpy as np

        noise = torch.from_numpy(np.random.rand(len(x), 1)).float()
        out: Tensor = self.layers(x)
        return out + noise


class Keeping(Net):
    """Which column is first belongs to the patient."""

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        out: Tensor = self.layers(x)
        return out * x.argmax(1, keepdim=True)


X = torch.linspace(-1, 1, 12).view(3, 4)


@pytest.mark.parametrize(
    ("kind", "args", "stacks"),
    [
        (Net, (), True),
        (Net, torch.tensor([[1.0], [2.0], [3.0]]), True),  # one per patient
        (Net, torch.tensor([1.0, 2.0, 3.0]), True),  # one per output, as may be
        (Net, torch.tensor(2.0), True),
        (Crossed, torch.eye(3) + 1, True),
        (Listed, [1.0, 2.0, 3.0], False),
        (Mixing, (), False),
        (Counting, (), False),
        (Fixed, (), False),
        (Drawing, (), False),
        (Noisy, (), False),
        (Keeping, (), False),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.parametrize("options", [{}, {"mixing": "together"}], ids=str)
def test_where_it_is_right(
    monkeypatch: pytest.MonkeyPatch,
    took: Took,
    kind: type[Net],
    args: Any,
    stacks: bool,
    options: Any,
) -> None:
    dl = DeepLiftShapEHR(kind(), completeness="check", **options)
    baselines = references((X,), 6)

    def explain() -> Result:
        torch.manual_seed(0)
        return dl.run(X, baselines, 1, args, None, True)[1]

    (ours, said), (theirs, said_then) = both(monkeypatch, explain)
    assert took == [stacks]
    check(ours, theirs)
    assert said == said_then


def test_one_patient_of_a_model_that_mixes(took: Took) -> None:
    DeepLiftShapEHR(Mixing()).attribute(X[:1], *references((X,), 5), target=0)
    assert took == [False]


def test_patients_are_numbered_as_they_came(
    monkeypatch: pytest.MonkeyPatch, took: Took
) -> None:
    class Summing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (3 * x).tanh().sum(1)

    dl = DeepLiftShapEHR(Summing())
    # the second patient's values in other columns: shares that cancel
    baselines = torch.stack([X[1].roll(k) for k in range(1, 4)] * 2) + 1e-6
    ours, theirs = both(monkeypatch, lambda: dl.run(X, baselines, None, None, None)[1])
    check(ours[0], theirs[0])
    assert took == [True] and ours[1] == theirs[1]
    assert "patient(s) [1] cancel" in ours[1][0]


def test_custom_functions_see_their_own_patients(took: Took) -> None:
    seen: list[int] = []

    def custom(ms: Any, xs: Any, bs: Any) -> Any:
        seen.append(len(xs[0]))
        return tuple(m * (x - b) for m, x, b in zip(ms, xs, bs))

    dl = DeepLiftShapEHR(Net())
    dl.attribute(X, *references((X,), 5), 0, custom_attribution_func=custom)
    assert seen == [3] * 5 and took == []

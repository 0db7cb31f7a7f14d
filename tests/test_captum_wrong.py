"""Captum's own cases in which its numbers do not add up, and what is right there.

Each shows how far Captum's attributions are from f(x) - f(x0), and that ours are not;
the right ones come from the calculus of oracles.py, one scalar at a time, or by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from captum.attr import DeepLift, DeepLiftShap
from captum_models import ConvNet, PoolThenReLU, Reused, ones
from oracles import Array
from oracles_more import windows
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR, DeepLiftShapEHR

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks"),
    pytest.mark.filterwarnings("ignore:Input Tensor . did not already"),
]


def missing(model: nn.Module, found: Tensor, x: Tensor, x0: Tensor, k: Any) -> Tensor:
    """Per patient, how far the sum of the attributions is from f(x) - f(x0)."""
    with torch.no_grad():
        change = model(x) - model(x0)
    change = change.flatten() if k is None else change[:, k]
    return (found.detach().double().flatten(1).sum(1) - change.double()).abs()


class Of(nn.Module):
    """A function, as a module that Captum does not know."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Plus(nn.Module):
    """h + relu(h)."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, h: Tensor) -> Tensor:
        return h + self.act(h)


class Recurrent(nn.Module):
    """Six values as three steps of two, and the last state of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 3, batch_first=True)

    def forward(self, h: Tensor) -> Tensor:
        return self.lstm(h.unflatten(1, (3, 2)))[0][:, -1]

    def formula(self, h: Array) -> Array:
        weights = [w.detach().numpy() for w in self.lstm.parameters()]
        state = cell = np.zeros((len(h), 3), dtype=object)
        for step in range(3):
            part = h[:, 2 * step : 2 * step + 2]
            state, cell = oracles.lstm_step(part, state, cell, weights)
        return state


def pooled(*size: int, first: tuple[nn.Module, ...] = ()) -> nn.Module:
    pool = nn.MaxPool1d(*size)
    return nn.Sequential(nn.Unflatten(1, (1, 6)), *first, pool, Of(flat))


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def normed(h: Array) -> Array:
    return oracles.standardise(h, (1,), 1e-5, True)


#: name: what stands between two linear layers, its width, and its formula.
MIDDLES: dict[str, tuple[Callable[[], Any], int, Any]] = {
    "h + relu(h)": (Plus, 6, lambda h: h + oracles.relu(h)),
    "ReLU into tanh": (
        lambda: nn.Sequential(nn.ReLU(), nn.Tanh()),
        6,
        lambda h: oracles.tanh(oracles.relu(h)),
    ),
    "ReLU into max-pool": (
        lambda: pooled(2, first=(nn.ReLU(),)),
        3,
        lambda h: windows((2,), 2)(oracles.relu(h)),
    ),
    "overlapping max-pool": (lambda: pooled(3, 1), 4, windows((3,))),
    "softmax in a batch": (lambda: nn.Softmax(1), 6, lambda h: oracles.softmax(h, 1)),
    "layer norm": (lambda: nn.LayerNorm(6), 6, normed),
    "GELU": (nn.GELU, 6, oracles.mapped("gelu")),
    "SELU": (nn.SELU, 6, oracles.mapped("selu")),
    "functional ReLU": (lambda: Of(F.relu), 6, oracles.relu),
    "LSTM": (Recurrent, 3, None),
}


@pytest.mark.parametrize("name", MIDDLES)
def test_between_two_linear_layers(name: str) -> None:
    torch.manual_seed(0)
    make, width, formula = MIDDLES[name]
    middle = make()
    model = nn.Sequential(nn.Linear(4, 6), middle, nn.Linear(width, 2)).double()
    x, x0 = 3 * torch.randn(3, 4).double(), 3 * torch.randn(3, 4).double()
    theirs = DeepLift(model).attribute(x, x0, 1)
    ours, delta = DeepLiftEHR(model, completeness="raise").attribute(
        x, x0, 1, return_convergence_delta=True
    )
    assert float(missing(model, theirs, x, x0, 1).max()) > 2e-3
    assert float(missing(model, ours, x, x0, 1).max()) < 1e-12
    assert float(delta.abs().max()) < 1e-12
    (first, *_, last) = [m for m in model if isinstance(m, nn.Linear)]
    w, b, v = (t.detach().numpy() for t in (first.weight, first.bias, last.weight))
    inside = middle.formula if formula is None else formula
    half = (x + x0) / 2  # through which a scan goes
    steps = [(x, half), (half, x0)] if name == "LSTM" else [(x, x0)]
    m = sum(
        oracles.oracle(
            lambda a: inside(a @ w.T + b) @ v[1:2].T, [end], [start], torch.ones(3, 1)
        )[0][0]
        for end, start in steps
    )
    right = torch.from_numpy(m / len(steps)) * (x - x0)
    torch.testing.assert_close(ours, right, rtol=1e-9, atol=1e-12)


def test_captum_is_wrong_of_the_first_of_two_modules_in_a_row() -> None:
    """The first gets the gradient of the second; not so with a view between them."""
    torch.manual_seed(0)
    x, x0 = torch.randn(3, 4), torch.randn(3, 4)
    ends = nn.Linear(4, 6), nn.Linear(3, 2)
    for between, right in ((), False), ((nn.Unflatten(1, (1, 6)),), True):
        shape = () if right else (nn.Unflatten(1, (1, 6)),)
        middle = (*shape, nn.ReLU(), *between, nn.MaxPool1d(2), nn.Flatten())
        model = nn.Sequential(ends[0], *middle, ends[1])
        theirs = DeepLift(model).attribute(x, x0, 1)
        assert (float(missing(model, theirs, x, x0, 1).max()) < 1e-6) == right
        ours = DeepLiftEHR(model, completeness="raise").attribute(x, x0, 1)
        assert torch.allclose(ours, theirs, atol=1e-6) == right


def test_a_reused_module() -> None:
    torch.manual_seed(0)
    model, x = Reused(), torch.rand(3, 3)
    with pytest.raises(RuntimeError, match="used more than once"):
        DeepLift(model).attribute(x, target=0)
    ours = DeepLiftEHR(model, completeness="raise").attribute(x, target=0)
    assert float(missing(model, ours, x, 0 * x, 0).max()) < 1e-6


def test_a_relu_after_a_max_pool_and_references() -> None:
    """Captum's test of it needs a later version than these; by hand."""
    model = PoolThenReLU().double()
    x = [[15.41, -2.9343, -21.7879], [5.6843, -10.8452, -13.986]]
    references = [
        [[-1.4347, -1.1161, -6.1358], [0.3159, -4.9268, 2.4841]],
        [[-11.256, -3.17, -10.9247], [-0.8519, 3.2761, -7.6071]],
    ]
    given = (torch.tensor([x]).double(), torch.tensor(references).double())
    each, delta = DeepLiftShapEHR(model).attribute(
        *given, return_convergence_delta=True, per_reference=True
    )
    # The input's maxima are the higher ones throughout, and take what they rise by.
    right = torch.zeros_like(each)
    right[0, :, 0, 0] = 15.41  # from a ReLU of 0
    right[0, :, 1, 0] = 5.6843 - torch.tensor([2.4841, 3.2761])
    torch.testing.assert_close(each, right, rtol=1e-6, atol=1e-6)
    assert float(delta.abs().max()) < 1e-10
    _, theirs = DeepLiftShap(model).attribute(*given, return_convergence_delta=True)
    assert float(theirs.abs().max()) > 3


@pytest.mark.parametrize("scale", [20.0, 500.0])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions_each_with_a_relu_and_a_max_pool(dims: int, scale: float) -> None:
    """Captum's own test looks behind a softmax whose inputs are all alike."""
    torch.manual_seed(1)
    model, shape = ConvNet(dims, head=False).double(), (2, 1, *[10] * dims)
    x, x0 = (s * torch.randn(shape).double() for s in (100, scale))
    theirs = DeepLift(model).attribute(x, x0, 2)
    ours = DeepLiftEHR(model, completeness="raise").attribute(x, x0, 2)
    size = float(ours.abs().sum())
    assert float(missing(model, theirs, x, x0, 2).max()) > 1e-2 * scale
    assert float(missing(model, ours, x, x0, 2).max()) < 1e-13 * size
    with torch.no_grad():
        model.head = nn.Softmax(1)
    behind = DeepLiftEHR(model, completeness="off").attribute(x, x0, 2)
    assert float(missing(model, behind, x, x0, 2).max()) < 1e-13 * size


# Logits that are all alike ------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 3])
def test_softmax_of_large_logits_that_move_together(rows: int, dtype: Any) -> None:
    """Logits of up to 1.6 million, whose softmax does not change at all.

    Float32 knows them to a tenth. No residual may be larger than an eighth of that.
    """
    torch.manual_seed(0)
    model = ones(40, 20, 20, 10, head=nn.Softmax(1)).to(dtype)
    x = torch.arange(rows * 40.0, dtype=dtype).reshape(rows, 40)
    references = torch.randn(5, 40, dtype=dtype)
    with torch.no_grad():
        largest = float(model[:-1](x).max())
    digits = torch.finfo(dtype).eps * largest / 8
    for x0 in (0.0, torch.arange(1.0, 41.0, dtype=dtype).reshape(1, 40)):
        _, delta = DeepLiftEHR(model, completeness="off").attribute(
            x, x0, [2] * rows, return_convergence_delta=True
        )
        assert float(delta.abs().max()) < digits
    _, delta = DeepLiftShapEHR(model, completeness="off").attribute(
        x, references, 1, return_convergence_delta=True
    )
    assert delta.shape == (5 * rows,) and float(delta.abs().max()) < digits


# Functions that are no modules -------------------------------------------------------

X = torch.tensor([[1.0, -2.0, 0.5], [-0.5, 2.0, 1.5]])
REFERENCES = torch.tensor([[0.0, 0.0, 0.0], [0.25, -0.25, 0.5], [-0.5, 0.5, -0.25]])


def many(x: Tensor) -> Tensor:
    parts = [F.relu(x), F.leaky_relu(x, 0.2), x.sigmoid(), x.tanh(), F.softplus(x)]
    parts += [F.elu(x), F.selu(x), F.gelu(x), (x + 4).rsqrt(), x.clamp(-0.25, 1.25)]
    return torch.stack(parts).sum(0)


#: Functions of each value alone: it gets its own change, whatever the others do.
ALONE: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "square": lambda x: x * x,
    "gate": lambda x: (1.702 * x).sigmoid() * x,
    "many": many,
    "bounds": lambda x: (
        torch.maximum(x, torch.zeros_like(x))
        + torch.minimum(x, torch.full_like(x, 0.5))
    ),
    "modules": nn.Sequential(nn.SELU(), nn.GELU()),
}


@pytest.mark.parametrize("name", ALONE)
def test_functions_of_each_value(name: str) -> None:
    function = ALONE[name]
    model = Of(lambda x: function(x).sum(1))
    ours = DeepLiftEHR(model, completeness="check").attribute(X)
    right = function(X.double()) - function(torch.zeros(2, 3).double())
    torch.testing.assert_close(ours.double(), right, rtol=1e-5, atol=1e-6)
    theirs = DeepLift(model).attribute(X)
    assert float(missing(model, theirs, X, 0 * X, None).max()) > 1e-2
    ours, delta = DeepLiftShapEHR(model).attribute(
        X, REFERENCES, return_convergence_delta=True
    )
    right = (function(X).unsqueeze(1) - function(REFERENCES)).mean(1)
    torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-5)
    assert float(delta.abs().max()) < 1e-5


def profile(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (centred.softmax(-1) * centred).sum(-1)


def extremes(x: Tensor) -> Tensor:
    other = x.flip(1) + 0.25
    found = torch.minimum(x, other) + torch.maximum(0.5 * x, other)
    return (found + torch.min(x + 0.1, other) + torch.max(x - 0.1, other)).sum(1)


#: Functions that bring values together, and whether Captum's sum is right by chance.
TOGETHER: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "softmax profile": (profile, False),
    "minimum and maximum": (extremes, False),
    "outer product": (lambda x: (x.unsqueeze(2) @ x.unsqueeze(1)).sum((1, 2)), False),
    "amax": (lambda x: torch.amax(x, 1), True),
    "max": (lambda x: torch.max(x, 1).values, True),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_functions_of_several_values(name: str) -> None:
    function, by_chance = TOGETHER[name]
    model = Of(function)
    theirs = DeepLift(model).attribute(X)
    assert (float(missing(model, theirs, X, 0 * X, None).max()) < 1e-2) == by_chance
    ours = DeepLiftEHR(model, completeness="check").attribute(X)
    assert float(missing(model, ours, X, 0 * X, None).max()) < 1e-5
    _, delta = DeepLiftShapEHR(model).attribute(
        X, REFERENCES, return_convergence_delta=True
    )
    assert float(delta.abs().max()) < 1e-5
    if name == "outer product":  # (Σx)², of which each value has its part of Σx
        torch.testing.assert_close(ours, X * X.sum(1, keepdim=True))
    if by_chance:  # where the reference is 0 throughout, the maximum's change is its
        torch.testing.assert_close(ours, torch.where(X == X.amax(1, True), X, 0.0))
        theirs = DeepLift(model).attribute(X, REFERENCES[1:])
        assert float(missing(model, theirs, X, REFERENCES[1:], None).max()) > 0.1


def test_a_functional_max_pool() -> None:
    x = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]], [[[0.0, 3.0], [1.0, 2.0]]]])
    x0 = torch.tensor([[[[0.0, 2.0], [0.0, 0.0]]], [[[1.0, 0.0], [4.0, 0.0]]]])
    model = Of(lambda x: F.max_pool2d(x, 2).flatten(1).sum(1))
    ours = DeepLiftEHR(model, completeness="raise").attribute(x, x0)
    right = torch.tensor([[[[0.0, -1.0], [0.0, 0.0]]], [[[0.0, 0.0], [-1.0, 0.0]]]])
    torch.testing.assert_close(ours, right)
    theirs = DeepLift(model).attribute(x, x0)
    assert float(missing(model, theirs, x, x0, None).max()) > 1

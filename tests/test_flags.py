"""Flags: comparisons of attributed values, carried through all that is made of them.

Over every comparison, every use of a flag and references of several kinds: f(x0) is
the model's own output at the reference, or it is said that it is not and by how much;
and the attributions sum to the change from that f(x0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from calls import in_turn, run_call
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captum_ehr.propagation import Attributions, attributions

type Function = Callable[[Tensor], Tensor]
type Use = Callable[[Tensor, Tensor], Tensor]

#: From values to flags of their shape.
COMPARISONS: dict[str, Function] = {
    "gt": lambda x: x > 0.5,
    "gt of 0": lambda x: x > 0,
    "ge": lambda x: x.ge(0.0),
    "lt": lambda x: torch.lt(x, 0.3),
    "le": lambda x: x <= 0,
    "eq": lambda x: x == 0,
    "ne": lambda x: torch.ne(x, 0.0),
    "ne of a bound": lambda x: x != 0.7,
    "reversed": lambda x: 0.5 > x,  # noqa: SIM300
    "two sides": lambda x: x > x.flip(1),
    "tensor bound": lambda x: torch.greater(x, torch.full_like(x, 0.2)),
    "bool": lambda x: x.bool(),
    "to": lambda x: x.to(torch.bool),
    "type": lambda x: x.type(torch.bool),
    "signbit": lambda x: torch.signbit(x),
    "long": lambda x: x.long(),
    "int": lambda x: (3 * x).int(),
    "to long": lambda x: (2 * x).to(torch.int64),
    "bounds": lambda x: (x > -0.5) & (x < 0.8),
    "after relu": lambda x: torch.relu(x - 0.4) > 0,
    "logical": lambda x: torch.logical_and(x, x < 1),
    "logical not": lambda x: torch.logical_not(x),
    "of a flag": lambda x: (x > 0.1) == (x < 0.9),
    "where": lambda x: torch.where(x > 0.5, 2, 1),
}

#: From values and flags to one number per patient.
USES: dict[str, Use] = {
    "float": lambda x, c: x + c.float(),
    "to": lambda x, c: x + 2 * c.to(x.dtype),
    "type": lambda x, c: x + c.type(x.dtype),
    "type_as": lambda x, c: x + c.type_as(x),
    "int": lambda x, c: x + c.int(),
    "long, double": lambda x, c: x + c.long().double(),
    "times": lambda x, c: x * c,
    "in-place times": lambda x, c: (x * 1).mul_(c),
    "added": lambda x, c: torch.add(x, c, alpha=2),
    "in-place added": lambda x, c: (x * 1).add_(c),
    "one minus": lambda x, c: x * (1 - c.float()),
    "where": lambda x, c: torch.where(c.bool(), x.exp(), x * x),
    "where of numbers": lambda x, c: x * torch.where(c.bool(), 2.0, -1.0),
    "where's method": lambda x, c: x.where(c.bool(), x * x),
    "masked_fill": lambda x, c: x.masked_fill(c.bool(), -2.0),
    "masked_fill_": lambda x, c: (x * 1).masked_fill_(c.bool(), 2.0),
    "item": lambda x, c: with_item(x * 1, c.bool(), 3.0),
    "item of a row": lambda x, c: with_item(x * 1, c.bool().any(1), 3.0),
    "not": lambda x, c: x * ~c.bool(),
    "and": lambda x, c: x * (c.bool() & (x < 0.9)),
    "or": lambda x, c: x * (c.bool() | (x > 0.9)),
    "xor": lambda x, c: x * (c.bool() ^ (x.flip(1) > 0)),
    "in-place and": lambda x, c: x * c.bool().clone().__iand__(x < 0.9),
    "in-place or": lambda x, c: x * c.bool().clone().logical_or_(x > 0.9),
    "any": lambda x, c: x * c.bool().any(1, keepdim=True),
    "all": lambda x, c: x * c.bool().all(1, keepdim=True),
    "all of several": lambda x, c: (
        x * c.bool().unflatten(1, (2, 2)).all(2).all(1)[:, None]
    ),
    "sum": lambda x, c: x / (1 + c.bool().sum(1, keepdim=True)),
    "clamped sum": lambda x, c: x / c.bool().sum(1, keepdim=True).clamp(min=1),
    "mean": lambda x, c: x * c.float().mean(1, keepdim=True),
    "cumsum": lambda x, c: x * c.bool().cumsum(1),
    "max": lambda x, c: x * c.long().max(1, keepdim=True).values,
    "matmul": lambda x, c: (x[:, None] @ c.double()[..., None])[..., 0],
    "cat": lambda x, c: torch.cat([x, c], 1).tanh(),
    "stack": lambda x, c: torch.stack([c.bool(), c.bool().flip(1)]).double()[1] * x,
    "views": lambda x, c: x * c.unsqueeze(1).expand(-1, 2, -1).transpose(1, 2)[..., 0],
    "slice": lambda x, c: x[:, 1:] * c[:, :-1],
    "written": lambda x, c: x * with_item(c.bool().clone(), (slice(None), 0), True),
    "written into": lambda x, c: x * written_into(c.bool()),
    "copied into": lambda x, c: x * torch.zeros_like(c).copy_(c),
    "padded": lambda x, c: x * F.pad(c, (1, -1)),
    "compared": lambda x, c: x * (c.bool() == (x > 0.2)),
    "counted": lambda x, c: x * torch.count_nonzero(c, 1)[:, None],
    "counted, compared": lambda x, c: x * (c.bool().sum(1, keepdim=True) > 1),
    "positions": lambda x, c: x * (torch.arange(4) < c.bool().sum(1, keepdim=True)),
    "detached": lambda x, c: x * c.detach(),
    "attention": lambda x, c: attention(x, c.bool()),
    "filled with -inf": lambda x, c: x.masked_fill(blocked(c), -torch.inf).softmax(1),
    "power": lambda x, c: (x.abs() + 1) ** c.double(),
    "sum of booleans": lambda x, c: x + (c.bool() + (x < 0.9)).double(),
    "in-place sum of booleans": lambda x, c: x * c.bool().clone().add_(x < 0.9),
    "whole numbers' matmul": lambda x, c: x * (c.long() @ torch.arange(16).view(4, 4)),
    "whole numbers' einsum": lambda x, c: (
        x * torch.einsum("bi,i->b", c.long(), torch.arange(4))[:, None]
    ),
    "in-place clamp": lambda x, c: x * changed(c.long(), Tensor.clamp_, max=1),
    "in-place relu": lambda x, c: x * changed(1 - c.long(), F.relu, inplace=True),
    "out of a clamp": lambda x, c: x * changed(c, torch.clamp, max=1, out=c * 1),
    "out on itself": lambda x, c: x * torch.cumsum(n := c.long() * 1, 1, out=n),
    "out of a sort": lambda x, c: x * torch.sort(c * 1, out=(c * 1, c.long()))[0],
    "out of an aminmax": lambda x, c: (
        x * torch.aminmax(c * 1, dim=1, out=(c[:, 0] * 1, c[:, 1] * 1))[0][:, None]
    ),
    "bounds between numbers": lambda x, c: x * c.long().clamp(0.5, 1.5),
    "fill of heads": lambda x, c: torch.stack([x, 2 * x]).masked_fill(c.bool(), 3.0)[1],
    "where's names": lambda x, c: torch.where(c.bool(), input=x.exp(), other=x * x),
    "where's method's names": lambda x, c: x.where(c.bool(), other=x * x),
    "out": lambda x, c: x * torch.logical_and(c, x < 0.9, out=X > 9),
    "out of a comparison": lambda x, c: x * c * torch.gt(x, 0.2, out=X > 9),
    "written on a view": lambda x, c: x * written_on_a_view(c.bool()),
    "written on rows": lambda x, c: x * written_on_rows(c.long()),
    "written below a view": lambda x, c: x * written_below_a_view(c.bool(), x < 0.9),
    "without gradient": lambda x, c: x * c.double().requires_grad_(False),
    "sequences": lambda x, c: pad_sequence(list(x * c.bool()), batch_first=True),
    "additive mask": lambda x, c: (
        x + blocked(c).double() * torch.finfo(x.dtype).min
    ).softmax(1),
}

#: What cannot be attributed, and is said.
STEERING: dict[str, Use] = {
    "branch": lambda x, c: x * 2 if c.bool().any() else x,
    "number": lambda x, c: x * int(c.bool().sum()),
    "item": lambda x, c: x * c.bool().sum().item(),
    "list": lambda x, c: x * torch.tensor(c.double().tolist(), dtype=x.dtype),
    "index": lambda x, c: x * torch.tensor([0.5, 2.0])[c.bool().long()],
    "embedding": lambda x, c: x * F.embedding(c.bool().long(), TABLE)[..., 0],
    "selected": lambda x, c: x * len(x[c.bool()]),
    "masked_select": lambda x, c: x * len(x.masked_select(c.bool())),
    "nonzero": lambda x, c: x * (1 + c.nonzero().sum()),
    "where alone": lambda x, c: x * (1 + torch.where(c)[0].sum()),
    "gather": lambda x, c: x.gather(1, c.bool().long()),
    "one hot": lambda x, c: x * F.one_hot(c.bool().long(), 2)[..., 0],
    "argmax": lambda x, c: x.gather(1, c.double().argmax(1, keepdim=True)),
    "scatter_reduce": lambda x, c: (x * 0).scatter_reduce(1, c.long() % 2, x, "sum"),
    "written rows": lambda x, c: with_item(x * 1, (c.bool()[:, 0], 0), 5.0),
    "bits": lambda x, c: x * (c.long() & 3),
    "not of bits": lambda x, c: x * ~c.long(),
    "overflow": lambda x, c: x * (c.bool().byte() - 1),
    "difference of booleans": lambda x, c: x[:, 1:] * c.bool().diff(dim=1),
    "numpy": lambda x, c: x * torch.from_numpy(c.double().numpy()),
}

TABLE = torch.tensor([[1.0], [3.0]], dtype=torch.float64)


def with_item(x: Tensor, index: object, value: object) -> Tensor:
    x[index] = value  # type: ignore[index]
    return x


def changed(x: Tensor, change: Callable[..., object], *args: Any, **kw: Any) -> Tensor:
    made = x * 1
    change(made, *args, **kw)
    return kw.get("out", made)


def written_into(c: Tensor) -> Tensor:
    made = torch.zeros(c.shape, dtype=torch.bool)
    made[:, 1:] = c[:, 1:]
    return made


def written_on_a_view(c: Tensor) -> Tensor:
    made = c.clone()
    made[:, 0] |= made[:, 1]
    return made


def written_on_rows(c: Tensor) -> Tensor:
    made = torch.zeros_like(c)
    for row, flags in zip(made, c):
        row += flags
    return made


def written_below_a_view(c: Tensor, other: Tensor) -> Tensor:
    made = c.clone()
    view = made.t()
    made &= other
    return view.t()


def guarded_mean(x: Tensor, c: Tensor) -> Tensor:
    """Of the flagged values; 0 where there are none, and not 0 / 0."""
    count = c.sum(1)
    return torch.where(count > 0, (x * c).sum(1) / count, 0.0)[:, None]


def blocked(c: Tensor) -> Tensor:
    """All but one of the flags, so that something is left."""
    return with_item(c.bool().clone(), (slice(None), 2), False)


def attention(x: Tensor, mask: Tensor) -> Tensor:
    seen = mask.clone()
    seen[:, 0] = True
    q = x[..., None] * torch.tensor([1.0, -0.5], dtype=x.dtype)
    return F.scaled_dot_product_attention(q, q, q, attn_mask=seen[:, None])


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


X = torch.tensor(
    [[1.0, 2.0, 0.7, -0.4], [0.6, -1.5, 0.2, 0.0], [0.0, 0.3, 3.0, -0.9]],
    dtype=torch.float64,
)
REFERENCES = {
    "zeros": torch.zeros_like(X),
    "own values": torch.where(X > 0.5, X, torch.zeros_like(X)),
    "others": torch.tensor([0.4, -0.7, 0.9, 0.55], dtype=torch.float64).expand(3, -1),
    "itself": X,
}


def explained(use: Use, comparison: Function, reference: Tensor) -> Attributions:
    def model(x: Tensor) -> Tensor:
        return use(x, comparison(x)).flatten(1).sum(1)

    run = attributions(model, (X,), (reference,))
    with torch.no_grad():
        torch.testing.assert_close(run.f_input, model(X.clone()))
        try:
            own = model(reference.clone())
        except RuntimeError:
            assert run.diagnostics.messages
            return run
    off = (run.f_reference - own).abs().max().item()
    said = max((kept.shift for kept in run.diagnostics.structure), default=0.0)
    assert off == pytest.approx(said, rel=1e-6, abs=1e-12)
    assert bool(run.diagnostics.messages) == (off > 1e-12) or run.diagnostics.fallbacks
    total = run.attributions[0].sum(1)
    torch.testing.assert_close(total, run.f_input - run.f_reference)
    return run


@pytest.mark.parametrize(
    "use, comparison, reference", in_turn(USES, COMPARISONS, REFERENCES)
)
def test_flags_are_carried(use: str, comparison: str, reference: str) -> None:
    run = explained(USES[use], COMPARISONS[comparison], REFERENCES[reference])
    assert run.diagnostics.exact, run.diagnostics.messages


@pytest.mark.parametrize(
    "use, comparison, reference", in_turn(STEERING, COMPARISONS, REFERENCES)
)
def test_what_steers_is_kept_and_said(
    use: str, comparison: str, reference: str
) -> None:
    explained(STEERING[use], COMPARISONS[comparison], REFERENCES[reference])


def test_of_rows_that_are_there_on_both_sides_a_question_is_a_flag() -> None:
    """The first row's sum changes its sign, the second is absent, the third stays."""
    x = torch.tensor([[[1.0, 1.0], [0.0, 2.0], [3.0, 1.0]]])
    x0 = torch.tensor([[[-1.0, -2.0], [0.0, 0.0], [1.0, 1.0]]])
    weights = torch.tensor([1.0, 10.0, 100.0])
    run = attributions(lambda x: (x.sum(-1) > 0).double() @ weights, (x,), (x0,))
    (kept,) = run.diagnostics.structure
    assert (kept.places, kept.shift) == (1, 10.0)
    assert (run.f_input.item(), run.f_reference.item()) == (111.0, 110.0)
    found = run.attributions[0].sum(2)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_kept_is_said_in_half_precision(dtype: torch.dtype) -> None:
    def model(x: Tensor) -> Tensor:
        return (x * 2 if bool((x > 0.5).any()) else x).sum(1)

    x, reference = X.to(dtype), torch.full_like(X, 0.25).to(dtype)
    run = attributions(model, (x,), (reference,))
    (kept,) = run.diagnostics.structure
    assert kept.shift == pytest.approx(1.0, abs=0.01)
    assert run.diagnostics.messages


@pytest.mark.parametrize(
    "guarded",
    [
        lambda x: torch.where(x != 0, 1 / x, 0.0),
        lambda x: torch.where(x > 0, x.log(), 0.0),
        lambda x: x.sqrt().masked_fill(~(x > 0), -1.0),
        lambda x: guarded_mean(x, x > 0.5),
        lambda x: with_item(x / (x > 0.5).sum(1, keepdim=True), ~(x > 0.5).any(1), 0.0),
    ],
)
@pytest.mark.parametrize("reference", REFERENCES)
def test_what_a_guard_leaves_out_has_no_share(
    guarded: Function, reference: str
) -> None:
    run = explained(lambda x, _: guarded(x), lambda x: x > 0.5, REFERENCES[reference])
    assert run.diagnostics.exact


# Written by hand ----------------------------------------------------------------------


def by_hand(function: Callable[..., Tensor], *sides: Tensor) -> tuple[list, Tensor]:
    """The multipliers of a function of several flags, and the upstream gradient."""
    ran = run_call(function, [s[0] for s in sides], [s[1] for s in sides])
    return [np.asarray(m) for m in ran.multipliers], ran.upstream.numpy()


#: Values on both sides of 0.5, which three of them cross.
FIRST = torch.tensor([[0.9, 0.1, 0.7, 0.2], [0.3, 0.4, 0.8, 0.1]])
SECOND = torch.tensor([[0.8, 0.6, 0.2, 0.1], [0.6, 0.7, 0.9, 0.3]])


def flags_of(sides: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x > .5) at the input, at the reference, and its secant, one by one."""
    c, c0 = ([float(v > 0.5) for v in side] for side in sides.tolist())
    steps = [
        (a - b) / (x - x0) if x != x0 else 0.0
        for a, b, x, x0 in zip(c, c0, *sides.tolist())
    ]
    return np.array(c), np.array(c0), np.array(steps)


def test_the_multiplier_of_a_step() -> None:
    (found,), m = by_hand(lambda t: (t > 0.5).double(), FIRST)
    np.testing.assert_allclose(found, m * flags_of(FIRST)[2])
    (found, other), m = by_hand(lambda a, b: (a < b).double(), FIRST, SECOND)
    a, b = FIRST.tolist(), SECOND.tolist()
    for k in range(4):
        change = float(a[0][k] < b[0][k]) - float(a[1][k] < b[1][k])
        step = change / ((a[0][k] - a[1][k]) - (b[0][k] - b[1][k]))
        assert found[k] == pytest.approx(m[k] * step)
        assert other[k] == pytest.approx(-m[k] * step)


LOGIC: dict[str, tuple[Callable[..., Tensor], Callable[[float], float]]] = {
    "and": (torch.logical_and, lambda other: other),
    "or": (torch.logical_or, lambda other: 1 - other),
    "xor": (torch.logical_xor, lambda other: 1 - 2 * other),
}


@pytest.mark.parametrize("name", LOGIC)
def test_the_multipliers_of_logic(name: str) -> None:
    function, slope = LOGIC[name]
    found, m = by_hand(lambda a, b: function(a > 0.5, b > 0.5).double(), FIRST, SECOND)
    (a, a0, step), (b, b0, other) = flags_of(FIRST), flags_of(SECOND)
    np.testing.assert_allclose(found[0], m * slope((b + b0) / 2) * step)
    np.testing.assert_allclose(found[1], m * slope((a + a0) / 2) * other)


@pytest.mark.parametrize("name", ["any", "all"])
def test_the_flags_that_decide_share_equally(name: str) -> None:
    """Shapley's values of both, by the orders in which the flags change."""
    x = torch.tensor([[[0.9, 0.7, 0.8], [0.1, 0.2, 0.3]], [[0.6] * 3, [0.9, 0.1, 0.2]]])
    decide = {"any": any, "all": all}[name]
    for high, low in x.tolist():
        sides = torch.tensor([high, low])
        (found,), m = by_hand(lambda t: getattr(t > 0.5, name)().double(), sides)
        c, c0 = ([v > 0.5 for v in side] for side in (high, low))
        shares = np.zeros(3)
        for order in permutations(range(3)):
            now = list(c0)
            for k in order:
                before, now[k] = float(decide(now)), c[k]
                shares[k] += (float(decide(now)) - before) / 6
        change = np.array(high) - np.array(low)
        np.testing.assert_allclose(found * change, m * shares, atol=1e-12)


def test_the_multipliers_of_a_choice() -> None:
    c, a, b = FIRST, SECOND, SECOND.flip(1)
    found, m = by_hand(lambda c, a, b: torch.where(c > 0.5, a, b), c, a, b)
    flag, flag0, step = flags_of(c)
    mean = (flag + flag0) / 2
    a, b = a.numpy().mean(0), b.numpy().mean(0)
    np.testing.assert_allclose(found[0], m * (a - b) * step)
    np.testing.assert_allclose(found[1], m * mean)
    np.testing.assert_allclose(found[2], m * (1 - mean))

"""Every rule of the table against a formula, at any values that float64 holds.

The table is the list: each of its rules must be served by a case, and the case must
really have used it. A formula is a chain of scalars with many digits
(:mod:`oracles`), and where the rule is the straight line's, integrated gradients of
torch's own function with two thousand nodes give the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import Any

import mpmath as mp
import numpy as np
import oracles
import pytest
import torch
from calls import assert_close, examples, seeds
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles_chains import CELLS, CHAINS
from oracles_more import ELEMENTWISE, MULTILINEAR, Case, unit_by_unit
from torch import Tensor

from captum_ehr.propagation import default_table, two_passes
from captum_ehr.propagation.declarations import Entry, Kind, label

#: Of each of some hundred and fifty cases.
few = settings(examples, max_examples=4)

RULED = (Kind.RULE, Kind.PRODUCT, Kind.QUOTIENT, Kind.EXPAND)

CASES: dict[str, Case] = {
    **{
        name: Case(function, oracles.each(formula), domain=domain, line=True)
        for name, (function, formula, domain) in ELEMENTWISE.items()
    },
    **MULTILINEAR,
    **{
        f"{name} of many" if name in ELEMENTWISE else name: c
        for name, c in CHAINS.items()
    },
    **CELLS,
}
del CASES["gumbel_softmax"]

#: Rules that test_torch_calls.py holds against torch, and test_passes_trace.py
#: gumbel_softmax, whose noise is drawn anew in every call.
ELSEWHERE = frozenset(
    "cumulative_trapezoid linalg_vecdot linalg_multi_dot convolution heaviside cummax "
    "cummin std_mean var_mean aminmax msort hypot dist pairwise_distance cdist frac "
    "logaddexp2 logcumsumexp embedding_bag scatter_reduce scatter_reduce_ "
    "gumbel_softmax".split()
)

#: Rules that nothing here holds against a formula yet.
OPEN = frozenset("index_reduce index_reduce_".split())


def served() -> dict[str, Any]:
    """Every rule of the table, by the labels of the functions that it serves."""
    labels: dict[Any, set[str]] = defaultdict(set)
    for function, entry in default_table().items():
        if entry.kind in RULED:
            labels[entry.rule].add(label(function))
        if entry.whole is not None:
            labels[entry.whole].add(label(function))
    return {
        f"{' '.join(sorted(names))} #{k}": rule
        for k, (rule, names) in enumerate(labels.items())
        if not names & (ELSEWHERE | OPEN)
    }


SERVED = served()


@cache
def used() -> frozenset[Any]:
    """The rules that the cases have run, each to its end."""
    found: set[Any] = set()

    def noting(entry: Entry) -> Entry:
        def noted(rule: Any) -> Any:
            @wraps(rule)
            def watched(*args: Any, **kwargs: Any) -> Any:
                result = rule(*args, **kwargs)
                if result is not NotImplemented and result is not None:
                    found.add(rule)
                return result

            return rule and watched

        return entry._replace(rule=noted(entry.rule), whole=noted(entry.whole))

    table = {f: noting(e) if e.kind in RULED else e for f, e in default_table().items()}
    for case in CASES.values():
        inputs, references = points(case, 0)
        leaves = [x.requires_grad_() for x in inputs]
        output = two_passes(case.function, leaves, references, table=table).output
        output.sum().backward()
    return frozenset(found)


@pytest.mark.parametrize("rule", SERVED)
def test_every_rule_of_the_table_has_a_case(rule: str) -> None:
    assert SERVED[rule] in used(), f"no case of CASES runs the rule of {rule}"


# The values ----------------------------------------------------------------------


def points(case: Case, seed: int, alike: str = "") -> tuple[list[Tensor], list[Tensor]]:
    """Two sides of every operand, a fifth of it the same on both.

    Args:
        case: Whose shapes and domain to take.
        seed: Of the values.
        alike: ``"equal"``: input is reference; ``"ties"``: few different values.
    """
    generator = torch.Generator().manual_seed(seed)
    low, high = case.domain
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for shape in case.shapes:
        both = torch.rand((2, *shape), generator=generator, dtype=torch.float64)
        both = (both * 3).round() / 3 if alike == "ties" else both
        x, x0 = low + (high - low) * both
        same = torch.rand(shape, generator=generator) < (
            1.1 if alike == "equal" else 0.2
        )
        sides[0].append(x)
        sides[1].append(torch.where(same, x, x0))
    return sides


def multipliers(
    function: Callable[..., Any], inputs: Sequence[Tensor], references: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """What the passes give, the upstream gradient, and the change of the output."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    output, reference, tape = two_passes(
        lambda *xs: function(*xs).clone(), leaves, references
    )
    assert tape.diagnostics().exact
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    found = torch.autograd.grad(output, leaves, upstream)
    return list(found), upstream, output.detach() - reference


def expected(
    case: Case, inputs: Sequence[Tensor], references: Sequence[Tensor], upstream: Tensor
) -> list[Any]:
    if case.formula is None:
        return unit_by_unit(case.function, inputs, references, upstream)
    with mp.workdps(150):
        if case not in [CASES[name] for name in SCANS]:
            return oracles.oracle(case.formula, inputs, references, upstream)[0]
        halfway = [(x + x0) / 2 for x, x0 in zip(inputs, references)]
        upper = oracles.oracle(case.formula, inputs, halfway, upstream)[0]
        lower = oracles.oracle(case.formula, halfway, references, upstream)[0]
        return [(m + n) / 2 for m, n in zip(upper, lower)]


#: What goes through the midpoint, and is explained on both halves of the way.
CELLS = ("gru", "lstm", "rnn_tanh", "rnn_relu")
SCANS = tuple(f"{cell}{end}" for cell in CELLS for end in ("", "_cell"))


# The oracles ----------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@few
@given(seed=seeds, alike=st.sampled_from(["", "ties"]))
def test_a_rule_is_its_formula(name: str, seed: int, alike: str) -> None:
    case = CASES[name]
    inputs, references = points(case, seed, alike)
    found, upstream, _ = multipliers(case.function, inputs, references)
    for m, e in zip(found, expected(case, inputs, references, upstream)):
        if name in ELEMENTWISE and alike:  # ties may stand right on a kink
            same = (inputs[0] == references[0]).numpy()
            m, e = m.numpy() * ~same, np.where(same, 0.0, e)
        assert_close(m, e, 1e-8, 1e-6)


#: Where f jumps, its integral over the line misses the jump, which the secant has.
JUMPS = frozenset(
    "threshold hardshrink floor ceil round trunc fix sign sgn floor_divide __floordiv__"
    " fmod remainder frac".split()
)

#: Where f' jumps, the quadrature is as good as its pieces are short.
KINKED = frozenset(
    "relu leaky_relu abs __abs__ absolute clamp_min clamp_max clamp hardtanh relu6 elu "
    "selu celu softsign hardsigmoid hardswish softshrink prelu rrelu max min fmax fmin "
    "sort topk median kthvalue".split()
)
LINES = [name for name, case in CASES.items() if case.line and name not in JUMPS]


def line_integral(
    name: str, inputs: Any, references: Any, upstream: Tensor, pieces: int = 500
) -> Any:
    """The mean gradient over the line: pieces of four nodes each."""
    nodes, weights = np.polynomial.legendre.leggauss(4)
    grid = (np.arange(pieces)[:, None] + (nodes + 1) / 2).reshape(-1) / pieces
    share = torch.from_numpy(np.tile(weights / 2 / pieces, pieces))
    leaves = [
        torch.stack([x0 + at * (x - x0) for at in grid]).requires_grad_()
        for x, x0 in zip(inputs, references)
    ]
    function = CASES[name].function
    if name in ELEMENTWISE:
        outputs = function(*leaves)
    else:
        outputs = torch.stack([function(*row) for row in zip(*leaves)])
    grads = torch.autograd.grad(outputs, leaves, upstream.expand_as(outputs))
    return [torch.tensordot(share, g, 1).numpy() for g in grads]


@pytest.mark.complete
@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_rule_of_one_path_is_its_local_integrated_gradients(
    name: str, seed: int
) -> None:
    inputs, references = points(CASES[name], seed)
    found, upstream, _ = multipliers(CASES[name].function, inputs, references)
    for m, e in zip(found, line_integral(name, inputs, references, upstream)):
        assert_close(m, e, 2e-3 if name in KINKED else 1e-7)


@pytest.mark.complete
@pytest.mark.parametrize("name", [n for n in CASES if n not in LINES])
def test_a_chain_adds_up_like_local_integrated_gradients_do(name: str) -> None:
    """Of a chain the shares are its own; their sum is any complete method's."""
    inputs, references = points(CASES[name], 3)
    found, upstream, change = multipliers(CASES[name].function, inputs, references)
    moves = [x - x0 for x, x0 in zip(inputs, references)]
    sums = [float((m * d).sum()) for m, d in zip(found, moves)]
    assert sum(sums) == pytest.approx(float((upstream * change).sum()), rel=1e-9)
    if name not in JUMPS:
        line = line_integral(
            name, inputs, references, upstream, 300 if "pool" in name else 60
        )
        parts = [m * d.numpy() for m, d in zip(line, moves)]
        gross = sum(np.abs(p).sum() for p in parts)
        assert abs(sum(sums) - sum(p.sum() for p in parts)) <= 1e-2 * gross


#: torch has no derivative of these.
UNDERIVED = ("floor_divide", "__floordiv__")


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNDERIVED])
@few
@given(seed=seeds)
def test_equal_sides_have_the_gradient(name: str, seed: int) -> None:
    case = CASES[name]
    inputs, references = points(case, seed, "equal")
    found, upstream, _ = multipliers(case.function, inputs, references)
    leaves = [x.requires_grad_() for x in inputs]
    output = case.function(*leaves)
    plain = torch.autograd.grad(
        output, leaves, upstream, allow_unused=True, materialize_grads=True
    )
    for m, e in zip(found, plain):
        # torch's own derivative of hardsigmoid has a sixth in float32
        assert_close(m, (e + 0).numpy(force=True), 1e-7 if "hard" in name else 1e-10)


#: Sums and products of larger terms, which are rounded at the size of x.
IN_PARTS = frozenset(
    ["gelu", "gelu, tanh", "silu", "mish", "hardswish", "tanhshrink", "frac"]
)


@pytest.mark.complete
@pytest.mark.parametrize("name", ELEMENTWISE)
@few
@given(seed=seeds)
def test_elementwise_rules_at_huge_and_tiny_values(name: str, seed: int) -> None:
    """From 1e-30 to 1e30; off by no more than the rounding of f(x) itself."""
    function, formula, _ = ELEMENTWISE[name]
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(3, 2, 12, generator=generator, dtype=torch.float64)
    x, x0 = (draw[0] - 0.5).sign() * 10 ** (60 * draw[1] - 30)
    x0 = torch.where(draw[2, 0] < 0.3, x * (1 + 1e-6 * draw[2, 1]), x0)
    finite = function(x).isfinite() & function(x0).isfinite() & (x != x0)
    assume(bool(finite.any()))
    x, x0 = x[finite], x0[finite]
    (found,), upstream, _ = multipliers(function, (x,), (x0,))
    y, y0 = function(x), function(x0)
    with mp.workdps(150):
        exact = [
            float((formula(mp.mpf(a)) - formula(mp.mpf(b))) / (mp.mpf(a) - mp.mpf(b)))
            for a, b in zip(x.tolist(), x0.tolist())
        ]
    error = (found / upstream - torch.tensor(exact, dtype=x.dtype)).abs()
    sizes = [y, y0, x, x0] if name in IN_PARTS else [y, y0]
    size = torch.stack(sizes).abs().amax(0)
    rounding = 16 * torch.finfo(x.dtype).eps * size
    bound = 1e-9 * (found / upstream).abs() + rounding / (x - x0).abs()
    assert bool((error <= bound).all()), (x, x0, error, bound)


SCALED = [(n, s) for n in CASES if n not in ELEMENTWISE for s in CASES[n].scales]


@pytest.mark.complete
@pytest.mark.parametrize(("name", "scale"), SCALED)
def test_other_rules_at_huge_and_tiny_values(name: str, scale: float) -> None:
    case = CASES[name]
    for seed in range(3):
        inputs, references = ([x * scale for x in side] for side in points(case, seed))
        found, upstream, _ = multipliers(case.function, inputs, references)
        for m, e in zip(found, expected(case, inputs, references, upstream)):
            assert_close(m, e, 1e-8)

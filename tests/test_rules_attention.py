"""Fused attention in one step: against sums over single keys, in blocks, in memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.live_memory import peak
from captum_ehr.propagation import attributions, tuning, two_passes
from captum_ehr.propagation.explain import recorded
from captum_ehr.propagation.registry import default_table
from captum_ehr.propagation.rules import fused_attention
from captum_ehr.propagation.tape import Tape

sdpa = F.scaled_dot_product_attention

#: Both sides of queries, keys and values.
Sides = list[Tensor]

#: torch's function as its parts.
PARTS = {
    **default_table(),
    sdpa: default_table()[sdpa]._replace(whole=None),
}


def made(
    *shapes: Sequence[int], seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Sides, Sides]:
    generator = torch.Generator().manual_seed(seed)
    both = [torch.randn(2, *shape, generator=generator).to(dtype) for shape in shapes]
    return [x[0] for x in both], [x[1] for x in both]


def random_mask(*shape: int, blind: bool = True) -> Tensor:
    """Of which a third is shut, and all of the second query's if it is to be blind."""
    seen = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.3
    seen[..., 0] = True
    if blind and shape[-2] > 1:
        seen[..., 1, :] = False
    return seen


def additive(seen: Tensor) -> Tensor:
    """Numbers; padding as Hugging Face writes it, and -inf, in one row as well."""
    numbers = torch.linspace(-1, 1, seen.numel()).double().view(seen.shape)
    bias = torch.where(seen, numbers, -math.inf)
    bias[..., 2, :] = torch.finfo(bias.dtype).min
    bias[..., 2, 3:] = -math.inf
    return bias


def weighed(output: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(output.shape, generator=generator).to(output.dtype)
    return (output * weights).sum()[None]


def multipliers(
    inputs: Sides, references: Sides, table: Any = None, **options: Any
) -> tuple[list[Tensor], set[str], Tensor]:
    """Of queries, keys and values; the rules that gave them; and f(x)."""
    leaves = [x.clone().requires_grad_() for x in inputs]

    def model(*operands: Tensor) -> Tensor:
        outputs.append(sdpa(*(t.view_as(t) for t in operands), **options))
        return weighed(outputs[-1])

    outputs: list[Tensor] = []
    run = two_passes(model, leaves, references, table=table)
    found = torch.autograd.grad(run.output, leaves)
    rules = {op.rule for op in run.tape.diagnostics().operations}
    return list(found), rules, outputs[0].detach()


def slow(inputs: Sides, references: Sides, **options: Any) -> list[Tensor]:
    """The formulas, key by key, in float64."""
    (q, k, v), (q0, k0, v0) = ([x.double() for x in s] for s in (inputs, references))
    mask = options.get("attn_mask", torch.tensor(True))
    groups = q.shape[-3] // k.shape[-3] if options.get("enable_gqa") else 1
    lead = q.shape[:-2]
    if options.get("is_causal"):
        mask = torch.ones(q.shape[-2], k.shape[-2]).tril().bool()
    bias = mask if mask.is_floating_point() else torch.where(mask, 0.0, -math.inf)
    bias = bias.double().expand(*lead, q.shape[-2], k.shape[-2])
    scale = options.get("scale", 1 / math.sqrt(q.shape[-1]))
    upstream = torch.randn(
        *lead, q.shape[-2], v.shape[-1], generator=torch.Generator().manual_seed(2)
    )
    shares = [torch.zeros_like(t) for t in (q, k, v)]
    for at in itertools.product(*map(range, q.shape[:-1])):
        head = at[:-1]
        on = (*head[:-1], head[-1] // groups) if groups > 1 else head
        m = upstream[at].to(inputs[0].dtype).double()
        ends = [scale * k[on] @ q[at] + bias[at], scale * k0[on] @ q0[at] + bias[at]]
        seen = (bias[at] > -math.inf).nonzero().flatten().tolist()
        ends = [end - end.max() if seen else end for end in ends]
        logs = [end - end.logsumexp(0) for end in ends]
        means = {}
        for j in seen:
            a, b = float(logs[0][j]), float(logs[1][j])
            y, y0 = math.exp(a), math.exp(b)
            means[j] = (y - y0) / (a - b) if a != b else y
            shares[2][on][j] += (y + y0) / 2 * m
        of_weights = {j: float(m @ (v[on][j] + v0[on][j])) / 2 for j in seen}
        total = sum(means.values())
        middle = sum(means[j] * of_weights[j] for j in seen) / (total or 1.0)
        for j in seen:
            of_score = means[j] * (of_weights[j] - middle) * scale
            shares[0][at] += of_score * (k[on][j] + k0[on][j]) / 2
            shares[1][on][j] += of_score * (q[at] + q0[at]) / 2
    return shares


HEADS = ((2, 2, 5, 3), (2, 2, 6, 3), (2, 2, 6, 2))

#: Shapes of queries, keys and values, and options.
CASES: dict[str, tuple[Sequence[Sequence[int]], dict[str, Any]]] = {
    "plain": (HEADS, {}),
    "scale": (HEADS, {"scale": 1.5}),
    "causal": (HEADS, {"is_causal": True}),
    "causal, fewer keys": (((2, 7, 3), (2, 4, 3), (2, 4, 3)), {"is_causal": True}),
    "of keys": (HEADS, {"attn_mask": random_mask(2, 1, 1, 6, blind=False)}),
    "of patients": (HEADS, {"attn_mask": random_mask(2, 1, 5, 6)}),
    "of heads": (HEADS, {"attn_mask": random_mask(2, 5, 6)}),
    "of all": (HEADS, {"attn_mask": random_mask(5, 6)}),
    "of queries": (HEADS, {"attn_mask": random_mask(5, 1)}),
    "repeated": (HEADS, {"attn_mask": random_mask(2, 1, 1, 6).expand(2, 2, 5, 6)}),
    "added": (HEADS, {"attn_mask": additive(random_mask(5, 6))}),
    "added to heads": (HEADS, {"attn_mask": additive(random_mask(2, 2, 5, 6))}),
    "without heads": (((5, 3), (6, 3), (6, 2)), {"attn_mask": random_mask(5, 6)}),
    "three dimensions": (tuple(s[1:] for s in HEADS), {}),
    "five dimensions": (((2, 1, 2, 3, 2), (2, 1, 2, 4, 2), (2, 1, 2, 4, 2)), {}),
    "groups": (
        ((2, 4, 5, 3), (2, 2, 6, 3), (2, 2, 6, 2)),
        {"enable_gqa": True, "attn_mask": random_mask(4, 5, 6)},
    ),
}


@pytest.mark.parametrize("block", [1, 7, 1 << 17])
@pytest.mark.parametrize("name", CASES)
def test_blocks_of_any_size_give_the_formulas(
    name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, options = CASES[name]
    monkeypatch.setattr(tuning, "SCORES", block)
    inputs, references = made(*shapes)
    found, rules, output = multipliers(inputs, references, **options)
    assert "attention" in rules and "softmax" not in rules
    torch.testing.assert_close(output, sdpa(*inputs, **options), rtol=0.0, atol=0.0)
    expected = slow(inputs, references, **options)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_one_step_is_its_parts(name: str) -> None:
    shapes, options = CASES[name]
    sides = made(*shapes)
    found, _, _ = multipliers(*sides, **options)
    parts, rules, _ = multipliers(*sides, table=PARTS, **options)
    assert "softmax" in rules and "attention" not in rules
    torch.testing.assert_close(found, parts, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 2e-6), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)],
)
@pytest.mark.parametrize("name", ["plain", "of patients", "groups"])
def test_multipliers_of_other_dtypes(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    shapes, options = CASES[name]
    sides = made(*shapes, dtype=dtype)
    found, _, output = multipliers(*sides, **options)
    assert all(m.dtype == dtype for m in found)
    torch.testing.assert_close(output, sdpa(*sides[0], **options), rtol=0.0, atol=0.0)
    for m, expected in zip(found, slow(*sides, **options)):
        error = (m.double() - expected).abs().max()
        assert error <= tolerance * expected.abs().max()


@pytest.mark.parametrize("which", ["q", "k", "v", "qk", "kv", "qv"])
def test_some_of_queries_keys_and_values_are_attributed(which: str) -> None:
    inputs, references = made(*HEADS)
    places = ["qkv".index(name) for name in which]
    leaves = [inputs[n].clone().requires_grad_() for n in places]

    def model(*live: Tensor) -> Tensor:
        operands = list(inputs)
        for n, tensor in zip(places, live):
            operands[n] = tensor.view_as(tensor)
        return weighed(sdpa(*operands))

    run = two_passes(model, leaves, [references[n] for n in places])
    found = torch.autograd.grad(run.output, leaves)
    ends = [references[n] if n in places else inputs[n] for n in range(3)]
    expected = slow(inputs, ends)
    torch.testing.assert_close(list(found), [expected[n] for n in places])


def test_one_tensor_as_query_key_and_value() -> None:
    (x,), (x0,) = made((2, 5, 3))
    leaf = x.clone().requires_grad_()

    def model(x: Tensor) -> Tensor:
        h = x * 1.0
        return weighed(sdpa(h, h, h))

    run = two_passes(model, [leaf], [x0])
    (found,) = torch.autograd.grad(run.output, leaf)
    torch.testing.assert_close(found, sum(slow([x] * 3, [x0] * 3)))


def test_far_sides_and_large_scores_stay_exact() -> None:
    inputs, references = ([30 * t for t in side] for side in made(*HEADS))
    found, _, _ = multipliers(inputs, references)
    expected = slow(inputs, references)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"attn_mask": None}])
def test_queries_that_no_gradient_reaches_are_left_out(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = ((2, 40, 8), (2, 40, 8), (2, 40, 8))
    if "attn_mask" in options:
        options = {"attn_mask": random_mask(40, 40)}
    inputs, references = made(*shapes)

    def run(parts: bool) -> tuple[Tensor, ...]:
        leaves = [x.clone().requires_grad_() for x in inputs]
        ran = two_passes(
            lambda *t: weighed(sdpa(*(x * 1 for x in t), **options)[:, 30:33]),
            leaves,
            references,
            table=PARTS if parts else None,
        )
        return torch.autograd.grad(ran.output, leaves)

    expected = run(parts=True)
    monkeypatch.setattr(tuning, "BLOCK", 64)
    found: list[Any] = []
    search = fused_attention.reached_positions

    def watched(upstream: Tensor) -> Tensor | None:
        found.append(search(upstream))
        return found[-1]

    monkeypatch.setattr(fused_attention, "reached_positions", watched)
    torch.testing.assert_close(run(parts=False), expected)
    assert found[0].tolist() == [30, 31, 32]


def test_several_references_of_one_input() -> None:
    inputs, first = made(*HEADS)
    _, second = made(*HEADS, seed=5)
    leaves = [x.clone().requires_grad_() for x in inputs]

    def model(*t: Tensor) -> Tensor:
        return weighed(sdpa(*(x * 1 for x in t)))

    tape = Tape(default_table(), lasting=True)
    with recorded(model, leaves, (), tape) as (output, at_reference):
        for references in (first, second, first):
            at_reference(references)
            for _ in range(2):
                found = torch.autograd.grad(output, leaves, retain_graph=True)
                torch.testing.assert_close(list(found), slow(inputs, references))


def test_an_attributed_mask_is_run_as_parts() -> None:
    inputs, references = made(*HEADS, (5, 6))
    leaves = [x.clone().requires_grad_() for x in inputs]
    run = two_passes(lambda *t: weighed(sdpa(*(x * 1 for x in t))), leaves, references)
    shares = torch.autograd.grad(run.output, leaves)
    total = sum((m * (x - b)).sum() for m, x, b in zip(shares, inputs, references))
    torch.testing.assert_close(total, (run.output - run.reference_output)[0].detach())
    assert "softmax" in {op.rule for op in run.tape.diagnostics().operations}
    assert float(shares[3].abs().max()) > 0


def test_operands_that_are_overwritten_after_the_call() -> None:
    sides = made((2, 5, 3))

    def model(x: Tensor) -> Tensor:
        q, mask = x * 1.0, torch.ones(5, 5).tril().bool()
        y = sdpa(q, q * 2, q.tanh(), attn_mask=mask)
        q.mul_(0.0)
        mask.fill_(True)
        return weighed(y) + q.sum()

    def plain(x: Tensor) -> Tensor:
        q = x * 1.0
        return weighed(sdpa(q, q * 2, q.tanh(), is_causal=True))

    found, expected = (attributions(f, *sides) for f in (model, plain))
    torch.testing.assert_close(found.attributions, expected.attributions)


def test_multi_head_attention_without_weights_is_one_step() -> None:
    torch.manual_seed(0)
    heads = nn.MultiheadAttention(4, 2, batch_first=True).double()
    (x,), (x0,) = made((2, 5, 4))
    pads = torch.tensor([[False] * 5, [False] * 2 + [True] * 3])

    def model(x: Tensor, weights: bool) -> Tensor:
        y: Tensor = heads(x, x, x, pads, need_weights=weights)[0]
        return y.flatten(1).tanh().sum(1)

    found = [attributions(model, (x,), (x0,), (weights,)) for weights in (False, True)]
    torch.testing.assert_close(found[0].attributions, found[1].attributions)
    rules = [{op.rule for op in run.diagnostics.operations} for run in found]
    assert "attention" in rules[0] - rules[1] and "softmax" in rules[1] - rules[0]


def test_multipliers_are_worked_out_in_float32_under_autocast() -> None:
    sides = made(*HEADS, dtype=torch.float32)
    leaves = [x.clone().requires_grad_() for x in sides[0]]
    run = two_passes(lambda *t: weighed(sdpa(*(x * 1 for x in t))), leaves, sides[1])
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(run.output, leaves)
    expected = [share.float() for share in slow(*sides)]
    torch.testing.assert_close(list(found), expected, rtol=1e-4, atol=1e-5)


def test_no_keys_give_no_shares() -> None:
    sides = made((2, 3, 4), (2, 0, 4), (2, 0, 4))
    found, _, _ = multipliers(*sides)
    assert not any(float(m.abs().sum()) for m in found)


class _Questions(TorchDispatchMode):
    """What is asked of the values of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func.name() in {
            *("aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero"),
            *("aten::nonzero", "aten::masked_select", "aten::item"),
        }:
            self.asked.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CASES)
def test_no_values_are_read(name: str) -> None:
    shapes, options = CASES[name]
    sides = made(*shapes)
    leaves = [x.clone().requires_grad_() for x in sides[0]]
    tape = Tape(default_table(), seeks_missing=False)
    with _Questions() as questions:
        run = two_passes(
            lambda *t: weighed(sdpa(*(x.view_as(x) for x in t), **options)),
            leaves,
            sides[1],
            tape=tape,
        )
        torch.autograd.grad(run.output, leaves)
    assert questions.asked == []


def test_memory_grows_with_the_length_and_not_its_square(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuning, "SCORES", 1 << 10)
    taken = []
    for length in (128, 512):
        (x,), (x0,) = made((1, 2, length, 8), dtype=torch.float32)
        pads = torch.arange(length) < length - 3

        def model(x: Tensor, pads: Tensor = pads) -> Tensor:
            return weighed(sdpa(x * 1, x * 2, x.tanh(), attn_mask=pads[None]))

        taken.append(peak(lambda x=x, x0=x0: attributions(model, (x,), (x0,))))
    assert taken[1] <= 4.5 * taken[0]

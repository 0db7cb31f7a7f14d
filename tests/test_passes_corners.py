"""Corners: zeros under a root, rounding modes, complex values, compiled parts."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calls import explained, run_call, sides, total
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from captum_ehr import DeepLiftEHR
from captum_ehr.propagation import attributions

Model = Callable[[Tensor], Tensor]

LENGTHS: dict[str, Model] = {
    "sqrt": lambda x: (x * x).sum(-1).sqrt(),
    "power": lambda x: (x * x).sum(-1) ** 0.5,
    "Tensor.norm": lambda x: x.norm(dim=-1),
    "torch.norm": lambda x: torch.norm(x, dim=-1),
    "linalg.norm": lambda x: torch.linalg.norm(x, dim=-1),
    "vector_norm": lambda x: torch.linalg.vector_norm(x, dim=-1),
    "normalize": lambda x: F.normalize(x, dim=-1).sum(-1),
    "std": lambda x: x.std(-1),
    "cosine": lambda x: F.cosine_similarity(x, torch.ones_like(x), dim=-1),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_rows_of_zeros_on_both_sides_get_nothing(name: str) -> None:
    """A pad's embedding is zero, at the input and at the reference."""
    x, x0 = sides((2, 3, 4), 2)
    x[:, 2], x0[:, 2] = 0, 0
    run = attributions(lambda x: total(LENGTHS[name](x)), (x,), (x0,))
    assert run.attributions[0].isfinite().all()
    assert (run.attributions[0][:, 2] == 0).all()
    assert run.delta.abs().max() < 1e-3


@pytest.mark.parametrize("name", LENGTHS)
def test_rows_of_zeros_at_the_reference_alone(name: str) -> None:
    x, _ = sides((2, 3, 4), 2)
    run = attributions(lambda x: total(LENGTHS[name](x)), (x,), (torch.zeros_like(x),))
    assert run.attributions[0].isfinite().all()


@pytest.mark.parametrize("value", [1e-20, 1e-12, 1e12, 1e20])
def test_inverse_roots_of_extreme_values(value: float) -> None:
    x, x0 = torch.tensor([value]), torch.tensor([3 * value])
    ran = run_call(torch.rsqrt, (x,), (x0,))
    slope = (ran.multipliers[0] / ran.upstream).double()
    expected = (x.double().rsqrt() - x0.double().rsqrt()) / (x.double() - x0.double())
    limit = torch.finfo(torch.float32)
    if limit.tiny < abs(expected) < limit.max:
        torch.testing.assert_close(slope, expected, rtol=1e-4, atol=0)


ROUNDED: dict[str, Model] = {
    "floor": lambda x: torch.div(3 * x, 1.0, rounding_mode="floor"),
    "trunc": lambda x: torch.div(3 * x, 1.0, rounding_mode="trunc"),
    "by a tensor": lambda x: torch.div(3 * x, x.abs() + 1, rounding_mode="floor"),
    "floor_divide": lambda x: 3 * x // 1.0,
    "remainder": lambda x: (3 * x) % 1.0,
    "fmod": lambda x: torch.fmod(3 * x, 1.0),
    "frac": lambda x: (3 * x).frac(),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_rounded_quotients_are_exact_or_reported(name: str) -> None:
    x, x0 = sides((4, 5), 2)
    run = attributions(lambda x: total(ROUNDED[name](x) + x), (x,), (x0,))
    assert run.diagnostics.messages or run.delta.abs().max() < 1e-10


@pytest.mark.parametrize(
    "model",
    [
        lambda x: torch.fft.fft(x).real,
        lambda x: torch.fft.rfft(x).abs(),
        lambda x: torch.view_as_real(torch.fft.rfft(x)),
    ],
    ids=["real part", "modulus", "both parts"],
)
def test_spectra(model: Model) -> None:
    x, x0 = sides((3, 8), 2)
    run = attributions(lambda x: total(model(x)), (x,), (x0,))
    complete = run.delta.abs().max() <= 1e-4 * run.f_input.abs().max()
    assert complete or "abs" in run.diagnostics.fallbacks  # a modulus has a corner
    assert run.attributions[0].dtype is x.dtype


class Product(nn.Module):
    """To be compiled to TorchScript, out of the passes' sight."""

    def forward(self, x: Tensor) -> Tensor:
        return (torch.tanh(x) * x).sum(1)


@pytest.mark.parametrize(
    "before", [nn.Identity(), nn.Tanh(), nn.Sigmoid()], ids=lambda m: type(m).__name__
)
def test_a_scripted_part_is_exact_or_reported(before: nn.Module) -> None:
    """Also where the model has calls of the same name that the passes do see."""
    model = nn.Sequential(before, torch.jit.script(Product()))
    x, x0 = sides((3, 4), 2)
    run = attributions(model, (x,), (x0,))
    error = run.delta.abs() / (run.f_input - run.f_reference).abs()
    assert run.diagnostics.messages or error.max() < 1e-9


@pytest.mark.parametrize("script", [torch.jit.script, torch.jit.trace])
def test_a_scripted_part_with_weights_is_exact_where_it_is_linear(script: Any) -> None:
    linear = nn.Linear(4, 2).double()
    given = () if script is torch.jit.script else (torch.zeros(3, 4).double(),)
    x, x0 = sides((3, 4), 2)
    last = nn.Linear(2, 1).double()
    models = [nn.Sequential(linear, nn.Tanh(), last) for _ in range(2)]
    models[1][0] = script(linear, *given)
    found = [DeepLiftEHR(m, completeness="raise").attribute(x, x0) for m in models]
    torch.testing.assert_close(found[1], found[0])
    assert all(p.requires_grad and p.grad is None for p in models[1].parameters())


def test_a_function_of_no_module() -> None:
    made = types.FunctionType((lambda x, y=None: y(x)).__code__, {})
    made.__defaults__, made.__module__ = (nn.Tanh(),), None  # type: ignore[assignment]

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.out = made, nn.Linear(4, 1).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.act(x))

    x, x0 = sides((3, 4), 2)
    assert DeepLiftEHR(Holder(), completeness="raise").attribute(x, x0).shape == x.shape


def test_checkpointed_parts_are_exact() -> None:
    from torch.utils.checkpoint import checkpoint

    def part(h: Tensor) -> Tensor:
        return h.tanh() * h.exp() + 2 * h

    def model(x: Tensor) -> Tensor:
        return total(checkpoint(part, x.sigmoid(), use_reentrant=False))

    x, x0 = sides((3, 4), 2)
    assert explained(model, x, x0).diagnostics.exact


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_of_patients_without_keys_is_torchs_own(
    need_weights: bool, grad: bool
) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True).double().eval()
    pads = torch.tensor([[False, False, True], [True, True, True]])

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: Tensor) -> Tensor:
            return total(self.attention(x, x, x, pads, need_weights=need_weights)[0])

    model = Model().eval()
    x, x0 = sides((2, 3, 4), 3)
    with torch.set_grad_enabled(grad):
        plain = model(x).detach()
    run = attributions(model, (x,), (x0,))
    torch.testing.assert_close(run.f_input[0], plain[0])
    assert run.delta[0].abs() < 1e-10
    # Torch's fast path gives NaN where its own slow path gives a number.
    if grad:
        torch.testing.assert_close(run.f_input, plain, equal_nan=True)


class Node(torch.autograd.Function):
    """A user's own, of the most common name."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.exp())
        return x.exp()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0]


@pytest.mark.parametrize("name", ["Node", "RuleNode"])
def test_an_autograd_function_of_any_name_is_foreign(name: str) -> None:
    own = type(name, (Node,), {})
    x, x0 = sides((3, 4), 5)
    run = attributions(lambda t: total(own.apply(t.tanh())), (x,), (x0,))
    assert any(
        m.startswith(f"{name}: came past no rule") for m in run.diagnostics.messages
    )


@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_checkpoints_are_explained_or_refused() -> None:
    x, x0 = sides((3, 4), 5)

    def model(x: Tensor, reentrant: bool) -> Tensor:
        return checkpoint(lambda t: total(t.exp() * t), x, use_reentrant=reentrant)

    explained(lambda t: model(t, False), x, x0)
    with pytest.raises(NotImplementedError, match="use_reentrant=False"):
        attributions(lambda t: model(t, True), (x,), (x0,))

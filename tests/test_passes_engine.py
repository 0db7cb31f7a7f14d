"""The two passes on plain functions and modules: what flows, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calls import explained, sides, total
from torch import Tensor, nn

from captum_ehr.propagation import (
    DivergenceError,
    attributions,
    elementwise,
    foreign_functions,
    two_passes,
)

Model = Callable[..., Tensor]


class Reused(nn.Module):
    """One activation and one layer, each used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for _ in range(3):
            h = h + self.relu(self.layer(h))
        return h.sum(1)


def _chunks(x: Tensor) -> Tensor:
    a, b = x.tanh().chunk(2, dim=1)
    return total(torch.stack([a * b, a.exp(), b]).sum(0))


def _loop(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for column in x.unbind(1):
        h = torch.sigmoid(h + column) * column
    return h


def _unused(x: Tensor) -> Tensor:
    y = x.tanh()
    x.exp().softmax(1)
    return y.sum(1)


def _constant_branch(x: Tensor) -> Tensor:
    c = torch.softmax(torch.arange(4.0, dtype=x.dtype), 0).tanh()
    return (x.tanh() * c).sum(1) + F.gelu(c).sum()


def _views(x: Tensor) -> Tensor:
    v = x.view(len(x), 2, 2)
    return total(torch.tanh(v.transpose(1, 2)).reshape(len(x), 4)[:, 1:].exp())


FUNCTIONS: dict[str, Model] = {
    "functional": lambda x: total(F.gelu(x) * torch.sigmoid(x)),
    "residual": lambda x: total(x + F.relu(x)),
    "operators": lambda x: total((2 - x) * (x + 1) / (x * x + 1) - 3 / (x**2 + 2)),
    "twice in a product": lambda x: total(x * x),
    "twice in a matrix product": lambda x: total(x[:, None] * 2 @ x[..., None]),
    "three times": lambda x: total(x * x * x),
    "twice in a list": lambda x: total(torch.cat([x.tanh(), x, x], 1)),
    "einsum": lambda x: torch.einsum("bi,bi->b", x.tanh(), x.exp()),
    "chunks and stack": _chunks,
    "loop": _loop,
    "outputs unused": _unused,
    "constant branch": _constant_branch,
    "views": _views,
    "the input itself": lambda x: x[:, 0],
    "a copy of the input": lambda x: x.clone().sum(1),
    "split attributes": lambda x: total(x.T.mT * x.tanh()),
    "broadcast": lambda x: total(x[:, :1].tanh() * x.exp()),
    "detached": lambda x: total(torch.softmax(x, 1).detach() * x),
    "data": lambda x: total(torch.softmax(x, 1).data * x),
    "keyword axis": lambda x: torch.softmax(x, dim=-1)[:, 0],
    "linear alone": lambda x: total(x.cumsum(1)[:, ::2]),
    "normalised": lambda x: total(F.softmax(F.layer_norm(x, (4,)), -1) ** 2),
    "new tensors": lambda x: total(torch.zeros_like(x) + x.new_ones(4) * x.tanh()),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_add_up(name: str) -> None:
    x, x0 = sides((3, 4), 1)
    run = explained(FUNCTIONS[name], x, x0)
    assert run.diagnostics.exact


def test_without_gradients_inside() -> None:
    """What a model computes under no_grad depends on the input all the same."""

    def model(x: Tensor) -> Tensor:
        with torch.no_grad():
            w = torch.softmax(2 * x, 1) + x
        return total(w * x)

    x, x0 = sides((3, 4), 1)
    explained(model, x, x0)


def test_a_reused_module_and_a_residual() -> None:
    model = Reused().double()
    x, x0 = sides((3, 4), 2)
    run = explained(model, x, x0)
    (relu,) = run.diagnostics.operations
    assert (relu.name, relu.calls) == ("relu", 3)


def test_bare_parameters_of_a_function_take_no_share() -> None:
    weight = nn.Parameter(torch.randn(4, 4, dtype=torch.float64))
    x, x0 = sides((3, 4), 2)
    run = explained(lambda x: total((x @ weight.t()).tanh()), x, x0)
    assert run.diagnostics.exact
    assert weight.grad is None


def test_what_is_computed_beside_the_output_is_not_reported() -> None:
    def model(x: Tensor) -> Tensor:
        y = x.tanh().sum(1)
        F.mse_loss(torch.atan2(y, y + 1), torch.zeros_like(y))
        return y

    x, x0 = sides((3, 4), 2)
    run = explained(model, x, x0)
    assert [op.name for op in run.diagnostics.operations] == ["tanh"]


def test_an_output_that_ignores_the_input_gets_zeros() -> None:
    x, x0 = sides((3, 4), 2)
    run = attributions(lambda x: torch.ones(3, dtype=x.dtype), (x,), (x0,))
    assert (run.attributions[0] == 0).all()


def test_an_input_that_is_ignored_gets_zeros() -> None:
    (x, x0), (z, z0) = sides((3, 4), 2), sides((3, 2), 3)
    run = attributions(lambda x, z: x.tanh().sum(1), (x, z), (x0, z0))
    assert (run.attributions[1] == 0).all()
    assert run.delta.abs().max() < 1e-12


def test_a_target_is_asked_for_where_there_are_columns() -> None:
    x, x0 = sides((3, 4), 2)
    explained(lambda x: x.tanh(), x, x0, target=1)
    with pytest.raises(ValueError, match="target="):
        attributions(lambda x: x.tanh(), (x,), (x0,))


# Structure ------------------------------------------------------------------------


def masked_mean(x: Tensor) -> Tensor:
    mask = x.abs().sum(-1) != 0
    h = x.sum(-1).tanh().masked_fill(~mask, 0.0)
    return h.sum(1) / mask.sum(1)


MASKS: dict[str, Model] = {
    "ne": masked_mean,
    "gt": lambda x: total(x.sum(-1) * (x.abs().sum(-1) > 0)),
    "bool": lambda x: x.sum((1, 2)) / x.abs().sum(-1).bool().sum(1),
    "any": lambda x: x.sum((1, 2)) / (x != 0).any(-1).sum(1),
    "to bool": lambda x: x.sum((1, 2)) / x.abs().sum(-1).to(torch.bool).sum(1),
    "type bool": lambda x: x.sum((1, 2)) / x.abs().sum(-1).type(torch.bool).sum(1),
    "eq": lambda x: x.sum((1, 2)) / (~(x == 0).all(-1)).sum(1),
    "lengths": lambda x: total(x.tanh().sum(-1)[:, : int((x.sum(-1) != 0).sum())]),
    "index": lambda x: total(x.tanh()[:, (x[0].sum(-1) != 0)]),
    "attention": lambda x: total(
        (x @ x.mT).masked_fill((x.sum(-1) == 0)[:, None], -1e9).softmax(-1) @ x
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_from_values_are_kept_for_a_reference_of_zeros(name: str) -> None:
    x, _ = sides((2, 3, 2), 4)
    x[:, 2] = 0
    run = explained(MASKS[name], x, torch.zeros_like(x))
    assert run.f_reference.isfinite().all()
    assert run.diagnostics.structure
    own = MASKS[name](torch.zeros_like(x))
    same = torch.allclose(own, run.f_reference)
    assert same is run.diagnostics.exact  # what was kept and matters is said
    assert (run.attributions[0][:, 2] == 0).all()


STEERING: dict[str, tuple[str, Model]] = {
    "argmax": ("argmax", lambda x: x.gather(1, x.argmax(1)[:, None])[:, 0]),
    "item": ("item", lambda x: x[:, 0] * x.mean().item()),
    "tolist": ("tolist", lambda x: x[:, 0] * x.mean(1).tolist()[0]),
    "numpy": ("numpy", lambda x: total(x + torch.tensor(x.detach().numpy()))),
}


@pytest.mark.parametrize("name", STEERING)
def test_what_steers_the_model_and_differs_is_reported_by_name(name: str) -> None:
    operation, model = STEERING[name]
    x = torch.tensor([[1.0, -1.0], [0.7, 2.0]], dtype=torch.float64)
    x0 = torch.tensor([[0.2, 3.0], [0.9, -2.0]], dtype=torch.float64)
    run = attributions(model, (x,), (x0,))
    assert not run.diagnostics.exact
    assert any(m.startswith(f"{operation}:") for m in run.diagnostics.messages)


def test_a_threshold_that_nobody_crosses_is_not_reported() -> None:
    x, x0 = (t.abs() + 1 for t in sides((3, 4), 2))
    run = explained(lambda x: total(torch.where(x > 0.5, 2 * x, x)), x, x0)
    assert run.diagnostics.exact


@pytest.mark.parametrize(
    "model",
    [lambda x: x[x > 0].tanh().sum().expand(2), lambda x: x[x > 0].sum().expand(2)],
    ids=["ruled", "linear alone"],
)
def test_selections_of_other_sizes_are_never_silent(model: Model) -> None:
    x = torch.tensor([[1.0, -1.0], [0.7, 2.0]], dtype=torch.float64)
    x0 = torch.tensor([[1.0, -1.0], [-0.7, -2.0]], dtype=torch.float64)
    try:
        run = attributions(model, (x,), (x0,))
    except DivergenceError as error:
        assert "tanh" in str(error) and "shape" in str(error)
    else:
        (message,) = run.diagnostics.messages
        assert message.startswith("__getitem__:")


def test_another_path_raises_with_the_operations_name() -> None:
    def model(x: Tensor) -> Tensor:
        return x.tanh().sum(1) if x.sum().item() > 0 else x.exp().sum(1)

    x, x0 = torch.ones(2, 3), -torch.ones(2, 3)
    with torch.no_grad():
        assert model(x).shape == model(x0).shape
    # The branch depends on a number taken from the input, which is kept.
    run = attributions(model, (x,), (x0,))
    assert run.delta.abs().max() < 1e-5
    state = {"passes": 0}

    def fickle(x: Tensor) -> Tensor:
        state["passes"] += 1
        return x.tanh().sum(1) if state["passes"] % 2 else x.exp().sum(1)

    with pytest.raises(DivergenceError, match=r"exp .*tanh"):
        attributions(fickle, (x,), (x0,))

    def shorter(x: Tensor) -> Tensor:
        state["passes"] += 1
        y = x.tanh()
        return y.exp().sum(1) if state["passes"] % 2 else y

    state["passes"] = 0
    with pytest.raises(DivergenceError, match="stopped earlier"):
        attributions(shorter, (x,), (x0,))


# Fallbacks and rules --------------------------------------------------------------


def test_an_unknown_operation_is_integrated_and_reported() -> None:
    x, x0 = sides((3, 4), 2)
    run = explained(lambda x: total(torch.sinc(torch.sinc(x))), x, x0, 1e-8)
    assert run.diagnostics.fallbacks == ("sinc",)
    (operation,) = run.diagnostics.operations
    assert (operation.calls, operation.exact) == (2, False)
    assert any("sinc" in m and "2 calls" in m for m in run.diagnostics.messages)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: x.max(dim=1).values,
        lambda x: x.max(dim=1)[0],
        lambda x: total(x.sort(dim=1).values[:, 1:]),
        lambda x: total(torch.topk(x, 2, dim=1).values),
        lambda x: x.median(dim=1).values,
        lambda x: torch.aminmax(x, dim=1).max,
    ],
    ids=["max", "max[0]", "sort", "topk", "median", "aminmax"],
)
def test_named_results_keep_their_names(model: Model) -> None:
    x, _ = sides((3, 4), 2)
    attributions(model, (x,), (x + 0.5,))


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return gradient * 3 * x**2


def test_custom_autograd_functions_are_named() -> None:
    x, x0 = sides((3, 4), 2)
    leaf = x.clone().requires_grad_()
    run = two_passes(lambda x: total(Cube.apply(x.tanh())), (leaf,), (x0,))
    assert foreign_functions(run.output) == ("Cube",)
    plain = two_passes(lambda x: total(x.tanh() ** 3), (leaf,), (x0,))
    assert foreign_functions(plain.output) == ()


def test_custom_autograd_functions_are_in_the_diagnostics() -> None:
    x, x0 = sides((3, 4), 2)
    run = attributions(lambda x: total(Cube.apply(x.tanh())), (x,), (x0,))
    assert any("Cube" in m for m in run.diagnostics.messages)


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return torch.tanh(x) * x


def test_scripted_code_is_exact_or_reported() -> None:
    """Torch calls inside TorchScript do not come past the function mode."""
    x, x0 = sides((3, 4), 2)
    run = attributions(lambda x: total(scripted(x)), (x,), (x0,))
    error = run.delta.abs() / (run.f_input - run.f_reference).abs()
    assert run.diagnostics.messages or error.max() < 1e-9


def test_a_users_rule_for_a_function_serves_this_call_alone() -> None:
    x, x0 = sides((3, 4), 2)
    doubled = elementwise(lambda x: 1 - x.tanh() ** 2)
    seen: list[int] = []

    def rule(y: Any, x: Any, *args: Any) -> Any:
        seen.append(1)
        return doubled(y, x)

    run = explained(lambda x: total(x.tanh()), x, x0, rules={Tensor.tanh: rule})
    assert seen == [1]
    assert [op.rule for op in run.diagnostics.operations] == ["rule"]
    after = explained(lambda x: total(x.tanh()), x, x0)
    assert seen == [1]
    assert [op.rule for op in after.diagnostics.operations] == ["tanh"]


class Block(nn.Module):
    """Two activations that a rule may treat as one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Tanh(), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def secant(module: nn.Module, y: Any, x: Any) -> Any:
    assert isinstance(module, (Block, nn.Tanh))
    moved = x.delta != 0
    slope = torch.where(moved, y.delta / x.delta.masked_fill(~moved, 1), 0)
    return lambda upstream: ((x, upstream * slope),)


@pytest.mark.parametrize("kinds", [(Block,), (nn.Tanh,), (Block, nn.Tanh)])
def test_a_users_rule_for_a_module_type(kinds: tuple[type[nn.Module], ...]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Block(), Block(), nn.Linear(4, 1)).double()
    x, x0 = sides((3, 4), 2)
    run = explained(model, x, x0, rules=dict.fromkeys(kinds, secant))
    names = {op.name for op in run.diagnostics.operations}
    assert names == ({"Block"} if Block in kinds else {"Tanh", "sigmoid"})
    plain = explained(model, x, x0)
    assert {op.name for op in plain.diagnostics.operations} == {"tanh", "sigmoid"}


def test_a_rule_that_declines_falls_back() -> None:
    x, x0 = sides((3, 4), 2)
    declines = {Tensor.tanh: lambda *_: NotImplemented}
    run = explained(lambda x: total(x.tanh()), x, x0, 1e-8, rules=declines)
    assert run.diagnostics.fallbacks == ("tanh",)

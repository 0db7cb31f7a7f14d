"""Calls that overwrite memory, whatever was recorded in it before or after."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from calls import explained, sides, total
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR
from captum_ehr.propagation import attributions, two_passes

Model = Callable[[Tensor], Tensor]

MASK = torch.tensor([True, False, True, True])


def _inplace(change: Callable[[Tensor, Tensor], Tensor | None]) -> Model:
    """h is used by two rules, changed in place, and used again."""

    def model(x: Tensor) -> Tensor:
        h = x * 2.0
        before = torch.tanh(h) * torch.exp(h)
        changed = change(h, x)
        h = h if changed is None else changed
        return total(before) + total(torch.sigmoid(h) * h)

    return model


def _assign(h: Tensor, x: Tensor) -> None:
    h[:, 1:3] = x[:, :2].exp()


def _assign_mask(h: Tensor, x: Tensor) -> None:
    h[:, ~MASK] = 0


def _assign_values(h: Tensor, x: Tensor) -> None:
    h[:, MASK] = x[:, :3].tanh()


def _add(h: Tensor, x: Tensor) -> None:
    h += x.exp()


def _subtract(h: Tensor, x: Tensor) -> None:
    h -= 1.0


def _multiply(h: Tensor, x: Tensor) -> None:
    h *= x.tanh()


def _multiply_constant(h: Tensor, x: Tensor) -> None:
    h *= MASK


def _divide(h: Tensor, x: Tensor) -> None:
    h /= x.exp()


def _power(h: Tensor, x: Tensor) -> None:
    h **= 2


def _rows(h: Tensor, x: Tensor) -> None:
    for t in range(1, 4):
        h[:, t] = h[:, t] + h[:, t - 1].tanh()


def _view(h: Tensor, x: Tensor) -> None:
    h.view(-1, 2, 2)[:, 0].mul_(x[:, :2])


def _view_relu(h: Tensor, x: Tensor) -> None:
    h[:, :2].relu_()


CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor | None]] = {
    "F.relu": lambda h, x: F.relu(h, inplace=True),
    "relu_": lambda h, x: h.relu_(),
    "torch.relu_": lambda h, x: torch.relu_(h),
    "elu": lambda h, x: F.elu(h, inplace=True),
    "nn.ReLU": lambda h, x: nn.ReLU(inplace=True)(h),
    "nn.LeakyReLU": lambda h, x: nn.LeakyReLU(0.1, inplace=True)(h),
    "nn.Dropout": lambda h, x: F.dropout(h, 0.5, False, inplace=True),
    "clamp_": lambda h, x: h.clamp_(-1, 1),
    "tanh_": lambda h, x: h.tanh_(),
    "sigmoid_": lambda h, x: torch.sigmoid_(h),
    "exp_": lambda h, x: h.exp_(),
    "mul_": lambda h, x: h.mul_(x.tanh()),
    "mul_ self": lambda h, x: h.mul_(h),
    "div_": lambda h, x: h.div_(x.exp()),
    "pow_": lambda h, x: h.pow_(2),
    "add_": lambda h, x: h.add_(x.exp(), alpha=0.5),
    "copy_": lambda h, x: h.copy_(x.exp()),
    "zero_": lambda h, x: h.zero_(),
    "fill_": lambda h, x: h.fill_(2.0),
    "masked_fill_": lambda h, x: h.masked_fill_(~MASK, -1.0),
    "index_add_": lambda h, x: h.index_add_(1, torch.tensor([0]), x[:, :1].exp()),
    "slice": _assign,
    "mask": _assign_mask,
    "mask with values": _assign_values,
    "+=": _add,
    "-=": _subtract,
    "*=": _multiply,
    "*= mask": _multiply_constant,
    "/=": _divide,
    "**=": _power,
    "recurrence": _rows,
    "view": _view,
    "relu of a view": _view_relu,
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_in_place(name: str) -> None:
    x, x0 = sides((3, 4), 5)
    run = explained(_inplace(CHANGES[name]), x, x0)
    assert run.diagnostics.exact


@pytest.mark.parametrize("name", ["addcmul_", "lerp_", "sinc_", "hypot_"])
def test_changes_in_place_without_a_rule_are_exact_or_reported(name: str) -> None:
    operands = {"addcmul_": 2, "lerp_": 2, "sinc_": 0, "hypot_": 1}[name]

    def change(h: Tensor, x: Tensor) -> None:
        getattr(h, name)(*[x.tanh()] * operands)

    def alone(x: Tensor) -> Tensor:
        h = x * 2.0
        before = total(torch.tanh(h) * torch.exp(h))
        change(h, x)
        return before + 0.0 * total(h)

    x, x0 = sides((3, 4), 5)
    run = attributions(_inplace(change), (x,), (x0,))
    reported = any(name.rstrip("_") in m for m in run.diagnostics.messages)
    assert reported or run.delta.abs().max() < 1e-10
    # What was recorded before is as it was.
    explained(alone, x, x0)


def test_a_buffer_filled_step_by_step() -> None:
    def model(x: Tensor) -> Tensor:
        out = torch.zeros(len(x), 4, 2, dtype=x.dtype)
        h = torch.zeros(len(x), 2, dtype=x.dtype)
        for t in range(4):
            h = torch.tanh(h + x[:, t : t + 1])
            out[:, t] = h
            out[:, t, 0] *= 0.5
        return total(out.softmax(1) * out)

    x, x0 = sides((3, 4), 5)
    assert explained(model, x, x0).diagnostics.exact


def test_a_constant_overwritten_after_its_use() -> None:
    def model(x: Tensor) -> Tensor:
        c = torch.ones(4, dtype=x.dtype)
        y = c / (x * x + 1)
        c.add_(1.0)
        return total(y) + total(c / (x * x + 2))

    x, x0 = sides((3, 4), 5)
    explained(model, x, x0)


def test_a_fallbacks_operand_overwritten_after_its_use() -> None:
    """The quadrature runs in the backward pass, long after the overwriting."""

    def model(x: Tensor) -> Tensor:
        h = x * 2
        y = torch.sinc(h)
        h.add_(1.0)
        return total(y + h)

    x, x0 = sides((3, 4), 5)
    explained(model, x, x0, tolerance=1e-6)


@pytest.mark.parametrize("as_list", [False, True])
def test_a_contractions_operand_overwritten_after_its_use(as_list: bool) -> None:
    def model(x: Tensor) -> Tensor:
        q, k = x * 2, x.tanh()
        operands = ([q, k],) if as_list else (q, k)
        y = torch.einsum("bi,bi->b", *operands)
        q.add_(5.0)
        return y + total(q)

    x, x0 = sides((3, 4), 5)
    explained(model, x, x0)


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.LSTMCell, nn.RNNCell])
def test_a_cells_state_masked_in_place(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    cell = kind(1, 4).double().requires_grad_(False)

    def model(x: Tensor) -> Tensor:
        state = None
        for t in range(4):
            state = cell(x[:, t : t + 1], state)
            for s in state if isinstance(state, tuple) else (state,):
                s.mul_(0.5)
                s[:, 2] = 0.0
        return total(state[0] * state[1] if isinstance(state, tuple) else state)

    x, x0 = sides((3, 4), 5)
    assert explained(model, x, x0).diagnostics.exact


def test_inputs_and_references_are_not_overwritten() -> None:
    x, x0 = sides((3, 4), 5)
    kept = x.clone(), x0.clone()
    attributions(lambda x: total(x.mul_(2).tanh_()), (x,), (x0,))
    assert torch.equal(x, kept[0]) and torch.equal(x0, kept[1])


class Writes(nn.Module):
    """Zeroes a column of its input in place, in several ways, and draws."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(())
        try:
            if self.how == "index":
                x[:, 0] = 0.0
            elif self.how == "view":
                x.view(-1).mul_(2.0)
            elif self.how == "detached":
                x.detach().mul_(2.0)
            elif self.how == "numpy":
                x.detach().numpy()[:] = 1.0
        except Exception:  # begins again past any handler of the model's
            return x.sum(1, keepdim=True)
        return (noise * x).tanh().sum(1, keepdim=True)


@pytest.mark.parametrize("how", ["index", "view", "detached", "numpy", "nothing"])
@pytest.mark.filterwarnings("ignore:numpy")
@pytest.mark.filterwarnings("ignore:the attributions of patient")
def test_the_callers_tensors_are_not_written_on(how: str) -> None:
    x, x0 = torch.randn(4, 3), torch.randn(4, 3)
    kept, kept0, model = x.clone(), x0.clone(), Writes(how)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    found, delta = DeepLiftEHR(model).attribute(x, x0, 0, return_convergence_delta=True)
    assert torch.equal(x, kept)
    assert torch.equal(x0, kept0)
    assert torch.equal(torch.get_rng_state(), state)
    if how != "numpy":
        torch.manual_seed(1)
        after = model(x.clone())
        torch.manual_seed(1)
        change = after - model(x0.clone())
        assert torch.allclose(found.sum(1), change[:, 0], atol=1e-5)
        assert delta.abs().max() < 1e-5


def test_outputs_that_are_the_inputs_are_copies() -> None:
    x, x0 = torch.randn(4, 1), torch.randn(4, 1)
    run = attributions(nn.Identity(), (x.requires_grad_(),), (x0,))
    sides = two_passes(nn.Identity(), (x,), (x0,))
    x0.zero_()
    assert torch.equal(sides.reference_output, run.f_reference.view(4, 1))
    memory = {x.untyped_storage().data_ptr(), x0.untyped_storage().data_ptr()}
    assert sides.output.untyped_storage().data_ptr() not in memory


def test_references_that_are_expanded_come_in_rows() -> None:
    x, x0 = torch.randn(4, 6), torch.zeros(1, 6)

    def model(x: Tensor) -> Tensor:
        return x.view(-1, 2, 3).tanh().sum((1, 2))

    run = attributions(model, (x,), (x0.expand(4, 6),))
    assert run.delta.abs().max() < 1e-5
    found = DeepLiftEHR(Lambda(model)).attribute(x, x0)
    assert torch.allclose(found, run.attributions[0], atol=1e-6)
    two_passes(model, (x.requires_grad_(),), (x0.expand(4, 6),))


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Model) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

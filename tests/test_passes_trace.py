"""No trace: what an explanation leaves behind, and what it finds on its way in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calls import explained, sides, total
from torch import Tensor, nn

from captum_ehr.propagation import attributions, private_view, two_passes

Stack = torch.overrides._get_current_function_mode_stack


class Model(nn.Module):
    """Dropout, batch norm, a GRU, a buffer, a list of modules and a module twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.gru = nn.GRU(4, 3, batch_first=True)
        self.drop = nn.Dropout(0.5)
        self.heads = nn.ModuleList([nn.Linear(3, 2) for _ in range(2)])
        self.plain_list = [nn.Tanh(), nn.Linear(2, 1).double()]
        self.twice = self.drop
        self.register_buffer("scale", torch.tensor([2.0]))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x.mT).mT
        h = self.drop(self.gru(h)[0]).softmax(-1).sum(1)
        h = self.twice(h) * self.scale + h
        out = sum(F.gelu(head(h)) for head in self.heads)
        tanh, last = self.plain_list
        return last(tanh(out))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    model = Model().double().train()
    model(torch.randn(6, 5, 4, dtype=torch.float64))
    return model


@pytest.fixture
def points() -> tuple[Tensor, Tensor]:
    return sides((3, 5, 4), 7)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that an explanation could have touched."""
    found: dict[str, Any] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        found[name] = value.detach().clone(), value._version, value.requires_grad
        found[name + ".grad"] = value.grad
    for name, module in model.named_modules():
        state = module.__dict__
        found[name + ".module"] = (
            module.training,
            sorted(state),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            len(module._backward_hooks),
            type(module).forward is getattr(module.forward, "__func__", None),
        )
    return found


@contextmanager
def no_trace(model: nn.Module) -> Iterator[None]:
    """State, modes, generators and settings are afterwards as they were."""
    before = snapshot(model)
    rng = torch.get_rng_state()
    settings = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    threads = torch.get_num_threads(), torch.get_default_dtype()
    yield
    after = snapshot(model)
    assert after.keys() == before.keys()
    for name, value in before.items():
        if isinstance(value, tuple) and isinstance(value[0], Tensor):
            assert torch.equal(after[name][0], value[0]), name
            assert after[name][1:] == value[1:], name
        else:
            assert after[name] == value, name
    assert torch.equal(torch.get_rng_state(), rng)
    assert settings == (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    assert threads == (torch.get_num_threads(), torch.get_default_dtype())
    assert Stack() == []


def test_an_explanation_leaves_no_trace(
    model: Model, points: tuple[Tensor, Tensor]
) -> None:
    with no_trace(model):
        run = attributions(model, points[:1], points[1:])
    assert run.delta.abs().max() < 1e-10
    assert model.training


@pytest.mark.parametrize(
    "context", [torch.no_grad, torch.inference_mode, torch.enable_grad]
)
def test_callers_without_gradients(
    model: Model, points: tuple[Tensor, Tensor], context: Callable[[], Any]
) -> None:
    expected = attributions(model, points[:1], points[1:])
    with context(), no_trace(model):
        run = attributions(model, points[:1], points[1:])
    torch.testing.assert_close(run.attributions[0], expected.attributions[0])


def test_tensors_born_in_inference_mode() -> None:
    with torch.inference_mode():
        x, x0 = sides((3, 4), 1)
        weights = torch.rand(3, 4, dtype=torch.float64)
        linear = nn.Linear(4, 1).double()
        run = attributions(lambda x: x.tanh().sum(1), (x,), (x0,))
        assert run.delta.abs().max() < 1e-12
        for model, args in (
            (nn.Sequential(linear, nn.Tanh()), ()),
            (lambda x, w: total((x * w).tanh()), (weights,)),
        ):
            run = attributions(model, (x,), (x0,), args)
            assert run.delta.abs().max() < 1e-12


class Failing(nn.Module):
    """Fails in the pass asked for."""

    def __init__(self, fatal: int) -> None:
        super().__init__()
        self.drop, self.fatal, self.state = nn.Linear(4, 1).double(), fatal, [0]

    def forward(self, x: Tensor) -> Tensor:
        self.state[0] += 1
        y = self.drop(F.dropout(x, 0.5, True).tanh())
        if Failing.passes() == self.fatal:
            raise ZeroDivisionError("in forward")
        return y

    count = 0

    @classmethod
    def passes(cls) -> int:
        cls.count += 1
        return cls.count


@pytest.mark.parametrize("fatal", [1, 2])
def test_an_exception_inside_leaves_no_trace(fatal: int) -> None:
    model = Failing(fatal)
    Failing.count = 0
    x, x0 = sides((3, 4), 1)
    with no_trace(model), pytest.raises(ZeroDivisionError):
        attributions(model, (x,), (x0,))
    Failing.count = 2
    with no_trace(model):
        run = attributions(model, (x,), (x0,))
    assert run.delta.abs().max() < 1e-12


def test_an_exception_in_a_rule_leaves_no_trace(model: Model) -> None:
    x, x0 = sides((3, 5, 4), 7)

    def rule(*_: Any) -> Any:
        raise ZeroDivisionError

    with no_trace(model), pytest.raises(ZeroDivisionError):
        attributions(model, (x,), (x0,), rules={F.gelu: rule})


# Randomness -----------------------------------------------------------------------

RANDOM: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: total(F.dropout(x, 0.5, True).tanh()),
    "dropout in place": lambda x: total(F.dropout(x * 2, 0.5, True, True).tanh()),
    "rand": lambda x: total((x * torch.rand(4, dtype=x.dtype)).exp()),
    "rand_like": lambda x: total(torch.sigmoid(x + torch.rand_like(x))),
    "randn and perm": lambda x: total(x[:, torch.randperm(4)] * torch.randn(4)),
    "bernoulli": lambda x: total(x * torch.bernoulli(torch.full_like(x, 0.5))),
    "normal_": lambda x: total(x.exp() * torch.empty(4).normal_()),
    "an initialisation": lambda x: total(
        x.exp() * nn.init.kaiming_uniform_(torch.empty(4, 4))[0]
    ),
    "two of them": lambda x: total(
        F.dropout(x.tanh() * torch.rand(4), 0.3, True) * torch.rand_like(x)
    ),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_operations_are_the_same_in_both_passes(name: str) -> None:
    x, x0 = sides((3, 4), 1)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    run = attributions(RANDOM[name], (x,), (x0,))
    assert torch.equal(torch.get_rng_state(), before)
    assert run.delta.abs().max() < 1e-12
    again = attributions(RANDOM[name], (x,), (x0,))
    torch.testing.assert_close(run.attributions[0], again.attributions[0])


RANDOM_UNRULED: dict[str, Callable[[Tensor], Tensor]] = {
    "gumbel_softmax": lambda x: F.gumbel_softmax(x, dim=1)[:, 0],
    "transposed": lambda x: F.gumbel_softmax(x.t(), dim=0)[0],
    "followed by more": lambda x: total(
        F.gumbel_softmax(x, dim=1) * F.dropout(x, 0.5, True)
    ),
}


@pytest.mark.parametrize("name", RANDOM_UNRULED)
def test_random_operations_without_a_rule_are_the_same_too(name: str) -> None:
    x, x0 = sides((3, 4), 1)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    run = attributions(RANDOM_UNRULED[name], (x,), (x0,))
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        expected = RANDOM_UNRULED[name](x)
    torch.testing.assert_close(run.f_input, expected)
    assert run.delta.abs().max() < 1e-6


# Threads --------------------------------------------------------------------------


def test_threads_explain_and_infer_on_one_model(
    model: Model, points: tuple[Tensor, Tensor]
) -> None:
    model.eval()
    x, x0 = points
    expected = attributions(model, (x,), (x0,))
    with torch.no_grad():
        plain = model(x)
    found: list[Tensor] = []
    wrong: list[Any] = []
    done = threading.Event()

    def explain() -> None:
        try:
            for _ in range(20):
                found.append(attributions(model, (x,), (x0,)).attributions[0])
        except Exception as error:
            wrong.append(error)

    def infer() -> None:
        while not done.is_set():
            with torch.no_grad():
                y = model(x)
            if not torch.allclose(y, plain, atol=1e-6) or y.requires_grad or Stack():
                wrong.append(y)

    reader = threading.Thread(target=infer)
    workers = [threading.Thread(target=explain) for _ in range(4)]
    with no_trace(model):
        for thread in (reader, *workers):
            thread.start()
        for thread in workers:
            thread.join()
        done.set()
        reader.join()
    assert wrong == []
    assert len(found) == 80
    for attribution in found:
        torch.testing.assert_close(attribution, expected.attributions[0])


# The view -------------------------------------------------------------------------


def test_a_view_shares_memory_and_nothing_else(model: Model) -> None:
    view = private_view(model)
    for name, value in model.state_dict().items():
        assert view.state_dict()[name].data_ptr() == value.data_ptr()
    for module, copy in zip(model.modules(), view.modules()):
        assert type(module) is type(copy) and module is not copy
        assert not copy.training
    assert view.twice is view.drop and view.twice is not model.twice
    assert view.plain_list[1] is not model.plain_list[1]
    weight = view.plain_list[1].weight
    assert weight.data_ptr() == model.plain_list[1].weight.data_ptr()
    view.drop.p = 0.0
    view.extra = 1
    assert model.drop.p == 0.5 and not hasattr(model, "extra")
    assert not any(p.requires_grad for p in view.state_dict(keep_vars=True).values())


def test_a_view_sees_later_updates_of_the_weights(model: Model) -> None:
    view = private_view(model)
    x, _ = sides((3, 5, 4), 7)
    with torch.no_grad():
        model.heads[0].bias.add_(1.0)
        torch.testing.assert_close(view(x), model.eval()(x))


def test_buffers_are_not_written_in_training_mode(
    model: Model, points: tuple[Tensor, Tensor]
) -> None:
    batches = int(model.norm.num_batches_tracked)
    mean = model.norm.running_mean.clone()
    attributions(model, points[:1], points[1:])
    assert int(model.norm.num_batches_tracked) == batches == 1
    assert torch.equal(model.norm.running_mean, mean)


def test_the_users_hooks_are_called_and_change_what_is_explained() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    seen: list[str] = []

    def doubles(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        seen.append(type(module).__name__)
        return output * output

    handle = model[1].register_forward_hook(doubles)
    model[2].register_forward_pre_hook(lambda m, a: seen.append("pre"))
    x, x0 = sides((3, 4), 1)
    explained(model, x, x0)
    assert seen[-4:] == ["Tanh", "pre"] * 2
    handle.remove()
    assert len(model[1]._forward_hooks) == 0
    seen.clear()
    explained(model, x, x0)
    assert "Tanh" not in seen


def test_inputs_keep_their_gradients_and_flags() -> None:
    x, x0 = sides((3, 4), 1)
    x.requires_grad_()
    x.grad = torch.ones_like(x)
    attributions(lambda x: x.tanh().sum(1), (x,), (x0,))
    assert x.requires_grad and torch.equal(x.grad, torch.ones_like(x))
    assert not x0.requires_grad


def test_two_passes_release_what_they_recorded() -> None:
    x, x0 = sides((3, 4), 1)
    leaf = x.clone().requires_grad_()
    run = two_passes(lambda x: total(torch.softmax(x, 1) * x), (leaf,), (x0,))
    assert all(call.args is None for call in run.tape.calls.values())
    assert all(call.output is None for call in run.tape.calls.values())

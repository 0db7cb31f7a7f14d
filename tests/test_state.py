"""No trace: what a forward writes is seen by neither the other pass nor the model."""

from __future__ import annotations

import copy
import functools
import random
from collections import UserDict, UserList, deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from calls import sides
from snapshots import snapshot
from stateful import (
    HIDDEN,
    HOOKS,
    PREPARED,
    WRITES,
    Base,
    MethodCache,
    Parts,
    prepared,
)
from torch import Tensor, nn

from captum_ehr.propagation import Attributions, attributions, private_view


def explain(model: nn.Module) -> Attributions:
    """Explain, and see that the model is as before."""
    x, x0 = sides((3, 4), 1)
    before = snapshot(model)
    run = attributions(model, (x,), (x0,))
    after = snapshot(model)
    assert after.keys() == before.keys()
    assert [name for name, value in before.items() if after[name] != value] == []
    return run


def in_eval(thing: Any) -> None:
    """Every module that is found in a thing, in eval mode."""
    if isinstance(thing, nn.Module):
        thing.eval()
        for module in thing.modules():
            for value in vars(module).values():
                in_eval(value)
    elif isinstance(thing, (dict, UserDict)):
        in_eval([*thing, *thing.values()])
    elif isinstance(thing, (list, tuple, set, frozenset, deque, UserList)):
        for item in thing:
            in_eval(item)
    elif isinstance(thing, SimpleNamespace):
        in_eval(vars(thing))
    elif isinstance(thing, Parts):
        in_eval(thing.module)


def is_the_models_own(kind: type, model: nn.Module, run: Attributions) -> None:
    """f(x) and f(x0) are those of the model as it stands, and the sums add up."""
    for point, found in zip(sides((3, 4), 1), (run.f_input, run.f_reference)):
        torch.manual_seed(0)
        fresh = kind().double()
        fresh.load_state_dict(model.state_dict())
        in_eval(fresh)
        with torch.no_grad():
            torch.testing.assert_close(found, fresh(point).squeeze(1))
    assert run.delta.abs().max() <= 1e-10 * max(1.0, run.f_input.abs().max())


def made(kind: type) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = kind().double().train()
    return model


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, id=f"{group}: {name}")
        for group, kinds in (("hidden", HIDDEN), ("writes", WRITES), ("hook", HOOKS))
        for name, kind in kinds.items()
    ]
    + [pytest.param(prepared(write), id=f"once: {n}") for n, write in PREPARED.items()],
)
def test_a_model_is_explained_from_the_state_that_it_is_in(kind: type) -> None:
    model = made(kind)
    run = explain(model)
    is_the_models_own(kind, model, run)
    again = explain(model)
    assert torch.equal(again.attributions[0], run.attributions[0])


def test_the_passes_have_copies_of_what_shares_memory() -> None:
    class Overlapping(Base):
        def setup(self) -> None:
            self.register_buffer("whole", torch.zeros(6))
            self.register_buffer("part", self.whole[1:5])

        def forward(self, x: Tensor) -> Tensor:
            self.whole.add_(1)
            return self.out(self.body(x + self.part))

    x = sides((3, 4), 1)[0]
    run = explain(made(Overlapping))
    assert run.delta.abs().max() < 1e-12
    torch.testing.assert_close(run.f_input, made(Overlapping).eval()(x)[:, 0])


def test_a_counter_is_copied_and_the_weights_are_not() -> None:
    addresses: list[tuple[int, int]] = []

    class Counting(Base):
        def setup(self) -> None:
            self.register_buffer("n", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.n += 1
            addresses.append((self.n.data_ptr(), self.lin.weight.data_ptr()))
            return self.out(self.body(x))

    model = made(Counting)
    own = model.n.data_ptr(), model.lin.weight.data_ptr()
    explain(model)
    assert len(addresses) == 2
    assert all(n != own[0] and weight == own[1] for n, weight in addresses)


def test_writing_out_of_sight_is_said() -> None:
    @torch.jit.script
    def unseen(x: Tensor) -> Tensor:
        return x.add_(1)

    class Unseen(Base):
        def forward(self, x: Tensor) -> Tensor:
            unseen(self.norm.running_mean)
            return self.out(self.body(x))

    x, x0 = sides((3, 4), 1)
    run = attributions(made(Unseen), (x,), (x0,))
    assert any(
        "written on while it was explained" in m for m in run.diagnostics.messages
    )


@pytest.mark.parametrize("way", ["__reduce__", "__getstate__", "__del__", "builtin"])
def test_writing_on_what_only_its_class_can_copy_is_said(way: str) -> None:
    base, more = (float,) if way == "builtin" else (), {way: lambda self: None}
    kind = type("Odd", base, {} if base else more)

    class Held(Base):
        def forward(self, x: Tensor) -> Tensor:
            if self.writes:
                self.odd.n = self.odd.n + 1
            return self.out(self.body(x)) * (self.odd if base else 1.0)

    model = made(Held)
    model.odd, model.writes = kind(*[2.5] * len(base)), False
    model.odd.n = 0
    x, x0 = sides((3, 4), 1)
    run = attributions(model, (x,), (x0,))
    torch.testing.assert_close(run.f_input, model.eval()(x).squeeze(1).detach())
    assert run.diagnostics.exact
    model.writes = True
    said = attributions(model, (x,), (x0,)).diagnostics.messages
    assert any(
        "shared with the model: a Odd, which only" in message for message in said
    )


def test_a_large_table_is_shared_and_growth_of_it_is_said() -> None:
    class Vocabulary(Base):
        def setup(self) -> None:
            self.codes = {f"I{n}": n for n in range(5000)}

        def forward(self, x: Tensor) -> Tensor:
            if self.grows:
                self.codes[f"J{len(self.codes)}"] = 0
            return self.out(self.body(x))

    model = made(Vocabulary)
    model.grows = False
    assert private_view(model).codes is model.codes
    x, x0 = sides((3, 4), 1)
    assert attributions(model, (x,), (x0,)).diagnostics.exact
    model.grows = True
    said = attributions(model, (x,), (x0,)).diagnostics.messages
    assert any("a dict of 5000 plain values" in message for message in said)


# Arguments ---------------------------------------------------------------------


def test_arguments_that_are_written_on_are_the_same_for_both_passes() -> None:
    x, x0 = sides((3, 4), 1)
    time, kept = torch.rand(3, 4).double() * 50, [torch.ones(1).double()]
    before = time.clone()

    def model(x: Tensor, time: Tensor, kept: list[Tensor]) -> Tensor:
        kept.append(torch.ones(1))
        return torch.tanh(x + time.div_(10)).sum(1) * len(kept)

    run = attributions(model, (x,), (x0,), (time, kept))
    assert torch.equal(time, before) and time._version == 0 and len(kept) == 1
    for point, found in ((x, run.f_input), (x0, run.f_reference)):
        torch.testing.assert_close(found, torch.tanh(point + time / 10).sum(1) * 2)
    assert run.delta.abs().max() < 1e-12


def test_an_argument_in_the_input_s_memory() -> None:
    both, x0 = torch.randn(3, 8).double(), torch.randn(3, 4).double()
    x, other = both[:, :4], both[:, 4:]
    run = attributions(lambda x, y: (x.exp() * y.mul_(2)).sum(1), (x,), (x0,), (other,))
    torch.testing.assert_close(run.f_input, (x.exp() * other * 2).sum(1))
    torch.testing.assert_close(run.f_reference, (x0.exp() * other * 2).sum(1))


# Caches that are not the model's ------------------------------------------------------


@functools.lru_cache
def table(size: int) -> Tensor:
    return torch.linspace(0, 1, size).sin().double()


def test_a_cache_of_a_function_is_warm_for_both_passes() -> None:
    table.cache_clear()
    x, x0 = sides((3, 4), 1)
    run = attributions(lambda x: torch.tanh(x * table(4)).sum(1), (x,), (x0,))
    torch.testing.assert_close(run.f_reference, torch.tanh(x0 * table(4)).sum(1))
    assert run.delta.abs().max() < 1e-12


def test_caches_of_methods_hold_no_view() -> None:
    MethodCache.table.cache_clear()
    explain(made(MethodCache))
    assert MethodCache.table.cache_info().currsize == 0


# Generators ---------------------------------------------------------------------


class Drawing(Base):
    """Draws from generators of its own, of all four kinds."""

    def setup(self) -> None:
        self.torchs = torch.Generator().manual_seed(1)
        self.python = random.Random(2)
        self.numpy = np.random.default_rng(3)
        self.draw = np.random.RandomState(4).rand

    def forward(self, x: Tensor) -> Tensor:
        h = x * torch.rand(4, generator=self.torchs) * self.python.random()
        return self.out(self.body(h * self.numpy.random() * self.draw()))


def test_generators_of_the_model_s_own_are_replayed_and_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = made(Drawing)
    states = _stand(model)
    torch.set_rng_state(before)
    run = explain(model)
    assert _stand(model) == states and torch.equal(torch.get_rng_state(), before)
    is_the_models_own(Drawing, model, run)


def _stand(model: Any) -> list[Any]:
    return [
        model.torchs.get_state().tolist(),
        model.python.getstate(),
        str(model.numpy.bit_generator.state),
        str(model.draw.__self__.get_state()),
    ]


def test_a_generator_that_is_not_the_model_s_is_left_as_it_was() -> None:
    own = torch.Generator().manual_seed(3)
    before, torchs = own.get_state(), torch.get_rng_state()
    x, x0 = sides((3, 4), 1)

    def model(x: Tensor) -> Tensor:
        torch.rand(1)
        return (x * torch.rand(4, generator=own, dtype=x.dtype)).exp().sum(1)

    run = attributions(model, (x,), (x0,))
    assert run.delta.abs().max() < 1e-12
    assert torch.equal(own.get_state(), before)
    assert torch.equal(torch.get_rng_state(), torchs)


# Views ---------------------------------------------------------------------


def test_hooks_write_what_is_the_user_s() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    layer, seen = model[1], {}
    calls = 0

    def save(module: Any, args: Any, output: Tensor) -> None:
        nonlocal calls
        calls += 1
        seen[layer] = output.detach()

    layer.register_forward_hook(save)
    x, x0 = sides((3, 4), 1)
    attributions(model, (x,), (x0,))
    assert calls == 2 and list(seen) == [layer]


@pytest.mark.parametrize("where", ["module", "pre", "global", "global pre"])
def test_full_backward_hooks_have_no_part_in_multipliers(where: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x, x0 = sides((3, 4), 1)
    plain = attributions(model, (x,), (x0,))
    called: list[Any] = []

    def hook(module: Any, *gradients: Any) -> Any:
        called.append(module)
        return tuple(None if g is None else g * 7 for g in gradients[0])

    everywhere = nn.modules.module
    register = {
        "module": model[0].register_full_backward_hook,
        "pre": model[0].register_full_backward_pre_hook,
        "global": everywhere.register_module_full_backward_hook,
        "global pre": everywhere.register_module_full_backward_pre_hook,
    }[where]
    handle = register(hook)
    try:
        run = attributions(model, (x,), (x0,))
        assert called == []
        assert torch.equal(run.attributions[0], plain.attributions[0])
        model(x.clone().requires_grad_()).sum().backward()
        assert called != []
    finally:
        handle.remove()


def test_a_plain_view_keeps_backward_hooks() -> None:
    model = nn.Sequential(nn.Linear(4, 1)).double()
    called: list[int] = []
    model[0].register_full_backward_hook(lambda *_: called.append(1))
    private_view(model)(torch.randn(2, 4).double().requires_grad_()).sum().backward()
    assert called == [1]


def test_fx_graphs() -> None:
    x, x0 = sides((3, 4), 1)
    net = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 1)).double().eval()
    for model in (
        torch.fx.symbolic_trace(net),
        torch.export.export(net, (x,)).module(),
    ):
        run = attributions(model, (x,), (x0,))
        torch.testing.assert_close(run.f_reference, net(x0)[:, 0])
        assert run.delta.abs().max() < 1e-12


def test_a_view_is_gone_as_soon_as_nobody_has_it() -> None:
    import gc
    import weakref

    gc.collect()
    gc.disable()
    try:
        view = private_view(made(WRITES["attribute"]))
        left = weakref.ref(view), weakref.ref(view.lin)
        del view
        assert [one() for one in left] == [None, None]
    finally:
        gc.enable()


def test_views_of_what_is_more_than_its_attributes() -> None:
    class Shown(dict):
        """A dict with attributes."""

    class Both(nn.Module, dict):
        """A module in a dict's memory."""

        def forward(self, x: Tensor) -> Tensor:
            return x * self["factor"]

    model = nn.Module()
    model.kept = Shown(a=[1])
    model.kept.note = [2]
    model.both = Both()
    model.both["factor"] = 3
    view = private_view(model)
    view.kept["a"].append(2)
    view.kept.note.append(3)
    assert type(view.kept) is Shown and model.kept == {"a": [1]}
    assert view.kept.note == [2, 3] and model.kept.note == [2]
    copied = copy.copy(view.both)
    assert (
        type(view.both) is Both and view.both is not model.both and copied is not None
    )

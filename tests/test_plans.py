"""Plans: what was recorded gives what the passes give, or is not used.

A stale answer is the worst that a plan can give: each change of a model, each value
that a computation asked for, is one test.
"""

from __future__ import annotations

import copy
import gc
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn
from torch.nn.utils import rnn

from captum_ehr import DeepLiftEHR, DeepLiftShapEHR, Explanation
from captum_ehr.datasets import tiny_model
from captum_ehr.propagation import elementwise, pure
from captum_ehr.propagation.program import PlanChanged
from captum_ehr.propagation.recording import PlanRefused, opaque, recorded_program
from captum_ehr.propagation.watch import Watched

#: The others read the lengths of packed sequences as Python numbers, or keep some of
#: the input's structure for the reference.
ALWAYS = frozenset(
    "MLP LogisticRegression CNN StageNet StageAttentionNet Transformer JambaEHR Deepr"
    " TCN GCN GAT GAMENet SafeDrug MICRON MoleRec EHRMambaCEHR".split()
)


@pytest.fixture(autouse=True)
def plans_are_never_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of the two is quicker is chance on a small net; one test asks."""
    monkeypatch.setattr("captum_ehr.propagation.plans._Entry.slow", False)


def rolled(batch: Any) -> Any:
    """The same patients in another order: other values of the same shapes."""

    def roll(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.roll(1, 0)
        if isinstance(value, tuple):
            return tuple(map(roll, value))
        return [value[-1], *value[:-1]] if isinstance(value, list) else value

    return {key: roll(value) for key, value in batch.items()}


def by_the_passes(model: nn.Module, batch: Any, **more: Any) -> Explanation:
    """What an explainer says that has no plan yet."""
    return DeepLiftEHR(model).explain(batch, **more)


def assert_same(ours: Explanation, theirs: Explanation) -> None:
    for key, attribution in theirs.attributions.items():
        torch.testing.assert_close(ours.attributions[key], attribution, equal_nan=True)
    torch.testing.assert_close(ours.f_baseline, theirs.f_baseline)
    torch.testing.assert_close(ours.delta, theirs.delta)
    assert ours.diagnostics == theirs.diagnostics
    assert ours.target == theirs.target


@zoo.each(zoo.configs(), weights=("random",))
def test_the_zoo_on_another_batch(config: zoo.Config, trained: bool) -> None:
    model, batch = zoo.shared(config, trained)
    explainer = DeepLiftEHR(model)
    for _ in range(2):
        explainer.explain(batch)
    other = rolled(batch)
    assert_same(explainer.explain(other), by_the_passes(model, other))
    (plan,) = explainer.plans
    if config.model in ALWAYS or plan.state == "ready":
        assert plan.state == "ready" and plan.replays + plan.changes == 1, plan
    else:
        assert plan.state == "refused" and plan.reason, plan


class Net(nn.Module):
    """A model in which much can be exchanged."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(4, 6)
        self.act: nn.Module = nn.Tanh()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 2)
        self.register_buffer("shift", torch.full((6,), 0.3))
        self.scale = 1.0
        self.table = [1.0, 2.0]
        self.plain = torch.tensor([0.5, 1.2345])
        self.double = lambda x: 2 * x
        self.bounds = np.array([0.0, 0.9])

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.inner(x)) * self.scale * self.shift
        h = h * self.table[0] * float(self.bounds[1])
        return self.head(self.drop(self.double(h))) * self.plain


def swap(name: str, value: Any) -> Callable[[Net], None]:
    return lambda net: setattr(net, name, value)


def train_a_step(net: Net) -> None:
    net(torch.randn(3, 4)).sum().backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter -= 0.1 * parameter.grad
            parameter.grad = None


def new_weight(net: Net) -> None:
    net.head.weight = nn.Parameter(torch.randn(2, 6))


def new_data(net: Net) -> None:
    net.head.weight.data = torch.randn(2, 6)


def other_method(net: Net) -> None:
    net.inner.forward = lambda x: F.linear(x, -net.inner.weight)  # type: ignore


CHANGES: dict[str, Callable[[Net], Any]] = {
    "weights in place": train_a_step,
    "a weight replaced": new_weight,
    "a weight's data replaced": new_data,
    "a hook": lambda net: net.inner.register_forward_hook(lambda m, i, o: 2 * o),
    "a hook before": lambda net: net.act.register_forward_pre_hook(
        lambda m, i: (i[0] + 1,)
    ),
    "a module swapped": swap("act", nn.Sigmoid()),
    "a plain number": swap("scale", -1.5),
    "a number in a list": lambda net: net.table.__setitem__(0, 3.0),
    "a NumPy array in place": lambda net: net.bounds.__setitem__(1, 0.5),
    "a plain tensor in place": lambda net: net.plain.mul_(3),
    "a plain tensor replaced": swap("plain", torch.tensor([1.0, -1.0])),
    "a buffer in place": lambda net: net.shift.add_(1),
    "a buffer replaced": swap("shift", torch.full((6,), -0.2)),
    "a function": swap("double", lambda x: x * x),
    "a method": other_method,
    "dtype": lambda net: setattr(net, "plain", net.plain.half()),
    "an option of a module": lambda net: setattr(net, "act", nn.LeakyReLU(0.3)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_answer_is_stale(change: str) -> None:
    net = Net().eval()
    explainer = DeepLiftEHR(net)
    x = torch.randn(5, 4)
    for _ in range(4):
        before = explainer.attribute(x, target=1)
    assert explainer.plans[0].replays
    CHANGES[change](net)
    fresh = DeepLiftEHR(net).attribute(x, target=1)
    assert not torch.allclose(fresh, before)
    for _ in range(4):  # seen, recorded, replayed and measured anew
        torch.testing.assert_close(explainer.attribute(x, target=1), fresh)


def test_train_mode_explains_eval_mode_all_the_same() -> None:
    net = Net().train()
    explainer, x = DeepLiftEHR(net), torch.randn(5, 4)
    first = [explainer.attribute(x, target=1) for _ in range(3)][-1]
    net.eval()
    for _ in range(3):
        torch.testing.assert_close(explainer.attribute(x, target=1), first)


class Asking(nn.Module):
    """A model whose way depends on values."""

    def __init__(self, ask: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.ask, self.a, self.b = ask, nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        return (self.b(h) if self.ask(x.detach()) else h * 2).pow(2).sum(1)


GUARDED: dict[str, Callable[[Tensor], Any]] = {
    "bool": lambda x: (x > 2).any(),
    "item": lambda x: x.max().item() > 2,
    "float": lambda x: float(x.min()) > 0,
    "equal": lambda x: torch.equal(x[0], x[1]),
    "allclose": lambda x: torch.allclose(x[0], x[1]),
    "unique": lambda x: len(x.round().unique()) > 8,
}
ESCAPING: dict[str, Callable[[Tensor], Any]] = {
    "numpy": lambda x: x.numpy().max() > 2,
    "tolist": lambda x: max(x.flatten().tolist()) > 2,
    "array": lambda x: np.asarray(x).max() > 2,
    "a tensor of a list": lambda x: torch.tensor([x.max(), x.min()])[0] > 2,
    "an old tensor of a list": lambda x: torch.FloatTensor([x.max()])[0] > 2,
    "a list as an index": lambda x: torch.eye(9)[:, [x.max().long()]].argmax() > 2,
    "repr": lambda x: "[4." in repr(x),
    "format": lambda x: f"{x.max():.1f}" > "2",
}


@pytest.mark.parametrize("name", [*GUARDED, *ESCAPING])
def test_a_branch_on_values(name: str) -> None:
    net = Asking({**GUARDED, **ESCAPING}[name]).eval()
    explainer = DeepLiftEHR(net, completeness="off")
    x = torch.linspace(-1, 1, 12).view(4, 3)
    others = [x, x, -x, 3 * x, x[:1].expand(4, -1).clone(), x + 5]
    for each in others:
        got = explainer.attribute(each, each.flip(0))
        fresh = DeepLiftEHR(net, completeness="off").attribute(each, each.flip(0))
        torch.testing.assert_close(got, fresh)
    (plan,) = explainer.plans
    if name in ESCAPING:
        assert plan.state == "refused" and plan.reason
    else:
        assert plan.changes, "no guard has seen the change"


def test_a_sparse_matrix_in_the_model_is_refused() -> None:
    class Sparse(Net):
        def forward(self, x: Tensor) -> Tensor:
            links = torch.eye(4).to_sparse()
            return super().forward(torch.sparse.mm(links, x.t()).t())

    net, x = Sparse().eval(), torch.randn(3, 4)
    explainer = DeepLiftEHR(net)
    for _ in range(3):
        got = explainer.attribute(x, target=0)
    torch.testing.assert_close(got, DeepLiftEHR(net).attribute(x, target=0))
    assert explainer.plans[0].state == "refused"


def test_an_error_is_the_model_s_own_in_every_call() -> None:
    class Failing(Net):
        def forward(self, x: Tensor) -> Tensor:
            if x.max() > 5:
                raise ValueError("too large")
            return super().forward(x)

    explainer, x = DeepLiftEHR(Failing().eval()), torch.rand(3, 4)
    for each in (x, 9 * x + 1, x, 9 * x + 1, x, x, 9 * x + 1):
        if each.max() > 5:
            with pytest.raises(ValueError, match="too large"):
                explainer.attribute(each, target=0)
        else:
            explainer.attribute(each, target=0)
    assert explainer.plans[0].replays


def test_what_draws_is_refused() -> None:
    class Drawing(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.rand(()) * random.random()

    explainer, x = DeepLiftEHR(Drawing()), torch.randn(2, 4)
    for _ in range(3):
        explainer.attribute(x, target=0)
    assert "draws random numbers" in explainer.plans[0].reason


def test_a_generator_of_its_own_is_refused() -> None:
    net = Net().eval()
    net.random = random.Random(0)  # type: ignore
    explainer = DeepLiftEHR(net)
    explainer.attribute(torch.randn(2, 4), target=0)
    assert explainer.plans[0].reason == "it holds a Random of its own"


def test_hooks_rules_and_modes_are_refused() -> None:
    net, x = Net().eval(), torch.randn(2, 4)
    square = elementwise(lambda x: 1 - x.tanh() ** 2)
    explainers = {
        "a Linear has forward hooks": DeepLiftEHR(copy.deepcopy(net)),
        "rules of your own": DeepLiftEHR(net, rules={torch.tanh: square}),
        "a mode of torch's": DeepLiftEHR(net),
    }
    hooked = explainers["a Linear has forward hooks"].model
    hooked.head.register_forward_hook(lambda m, i, o: 2 * o)
    for reason, explainer in explainers.items():
        mode = torch.device("cpu") if "mode" in reason else torch.no_grad()
        for _ in range(3):
            with mode:
                explainer.attribute(x, target=0)
        assert reason in explainer.plans[0].reason
        assert explainer.plans[0].state == "refused"


def test_a_pure_rule_is_recorded() -> None:
    net, x, calls = Net().eval(), torch.randn(2, 4), []

    def slope(x: Tensor) -> Tensor:
        calls.append(1)
        return 1 - x.tanh() ** 2

    explainer = DeepLiftEHR(net, rules={torch.tanh: pure(elementwise(slope))})
    seen = [explainer.attribute(x, target=0) for _ in range(3)]
    torch.testing.assert_close(seen[2], seen[0])
    before = len(calls)
    explainer.attribute(x + 1, target=0)  # the passes are measured once more
    explainer.attribute(x + 2, target=0)
    assert explainer.plans[0].replays == 2 and len(calls) == before + before // 2


def test_each_form_of_target_and_option_has_a_plan_of_its_own() -> None:
    net, x = Net().eval(), torch.randn(4, 4)
    explainer = DeepLiftEHR(net)
    targets = [None, 0, 1, [0, 1, 1, 0], torch.tensor([1, 1, 0, 0]), [1, 0, 1, 0]]
    for _ in range(3):
        for target in targets:
            for output in (x, x.double().float().T.contiguous().T):
                got = explainer.attribute(output, target=target)
                fresh = DeepLiftEHR(net).attribute(output, target=target)
                torch.testing.assert_close(got, fresh)
    assert len(explainer.plans) == 2 * 4  # those of one per patient share theirs
    with pytest.raises(IndexError, match="between 0 and 1"):
        explainer.attribute(x, target=[0, 1, 2, 0])


class Steps(nn.Module):
    """Two classes at each step; scaled by a time, shifted by a shift."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2)

    def forward(self, x: Tensor, time: Any = None, shift: Any = None) -> Tensor:
        h = self.head(x.unsqueeze(-1)).tanh()
        if time is not None:
            h = h * time.view(-1, 1, 1)
        return h if shift is None else (h + shift.view(-1, 1, 1)).square()


def test_which_of_the_arguments_is_a_tensor_is_in_the_key() -> None:
    torch.manual_seed(0)
    model, x, t = Steps(), torch.randn(3, 5), torch.rand(3) + 1
    explainer = DeepLiftEHR(model)
    for _ in range(3):
        for args in ((t, None), (None, t), (t, t)):
            given = {"target": (1, 0), "additional_forward_args": args}
            got = explainer.attribute(x, **given)
            torch.testing.assert_close(got, DeepLiftEHR(model).attribute(x, **given))
    assert len(explainer.plans) == 3


def test_targets_per_patient_are_of_this_batch_s_output() -> None:
    torch.manual_seed(0)
    explainer = DeepLiftEHR(Steps())
    for steps in (4, 6) * 4:
        x = torch.randn(3, steps)
        found = explainer.attribute(x, target=[(-1, 0), (-2, 1), (steps - 1, 1)])
        last = steps - 1
        assert found.nonzero().tolist() == [[0, last], [1, last - 1], [2, last]]
        with pytest.raises(IndexError, match=f"has {steps} output"):
            explainer.attribute(x, target=[(0, 0), (0, 1), (steps, 1)])
    assert sum(plan.replays for plan in explainer.plans) > 1


class Shown(nn.Module):
    """As many steps as the longest patient has."""

    def forward(self, x: Tensor) -> Tensor:
        longest = int(x.detach().ne(0).sum(1).max())
        return x[:, :longest, None].expand(-1, -1, 2).tanh()


def test_targets_per_patient_where_values_decide_the_shape() -> None:
    explainer = DeepLiftEHR(Shown())
    for longest in (2, 4, 4, 3, 2, 2, 2, 2):
        x = torch.zeros(3, 5)
        x[:, :longest] = torch.rand(3, longest) + 1
        found = explainer.attribute(x, target=[(-1, 0), (-1, 1), (0, 0)])
        assert found.nonzero().tolist() == [[0, longest - 1], [1, longest - 1], [2, 0]]


def test_settings_of_torch_are_in_the_key() -> None:
    net, x = Net().eval(), torch.randn(4, 4)
    explainer = DeepLiftEHR(net)
    for _ in range(4):  # the fourth takes the passes once more, to be measured
        plain = explainer.attribute(x, target=0)
    with torch.autocast("cpu", torch.bfloat16):
        cast = explainer.attribute(x, target=0)
        fresh = DeepLiftEHR(net).attribute(x, target=0)
    assert not torch.equal(plain, cast)
    torch.testing.assert_close(cast, fresh)
    assert len(explainer.plans) == 2
    explainer.segments = 3
    torch.testing.assert_close(
        explainer.attribute(x, target=0),
        DeepLiftEHR(net, segments=3).attribute(x, target=0),
    )


def test_warnings_and_messages_come_with_a_plan() -> None:
    class Late(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.sinc(x).sum(1, keepdim=True)

    explainer, x = DeepLiftEHR(Late().eval()), torch.rand(3, 4)
    said = []
    for _ in range(3):
        with pytest.warns(UserWarning, match="sinc") as caught:
            explainer.attribute(x, target=0)
        said.append([str(w.message) for w in caught])
    assert explainer.plans[0].replays == 1
    assert said[0] == said[1] == said[2]


def test_missing_and_infinite_values_take_the_passes() -> None:
    class Tolerant(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.nan_to_num(x, 0.0))

    net, x = Tolerant().eval(), torch.randn(3, 4)
    explainer = DeepLiftEHR(net)
    for _ in range(4):
        explainer.attribute(x, target=0)
    gap = x.clone()
    gap[1, 2] = torch.nan
    got = explainer.attribute(gap, target=0)
    torch.testing.assert_close(got, DeepLiftEHR(net).attribute(gap, target=0))
    assert got.isfinite().all() and got[1].abs().sum() > 0
    assert explainer.plans[0].changes == 1


def test_copies_have_plans_of_their_own_and_none_travels() -> None:
    model, batch = tiny_model()
    explainer = DeepLiftEHR(model)
    for _ in range(3):
        explainer.explain(batch)
    twin = copy.deepcopy(explainer)
    assert explainer.plans and not twin.plans
    assert_same(twin.explain(batch), explainer.explain(batch))


def test_plans_are_bounded_and_the_last_used_stay() -> None:
    net = Net().eval()
    explainer = DeepLiftEHR(net)
    for rows in range(1, 80):
        explainer.attribute(torch.randn(rows, 4), target=0)
    assert len(explainer.plans) == 64
    assert max(plan.shapes[0][0] for plan in explainer.plans) == 79
    assert min(plan.shapes[0][0] for plan in explainer.plans) == 16


def test_a_plan_that_is_no_faster_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    explainer, x = DeepLiftEHR(Net().eval()), torch.randn(3, 4)
    for _ in range(4):
        explainer.attribute(x, target=0)
    (entry,) = explainer._plans._entries.values()
    entry.passes = [0.0, 0.0]  # as if they took no time
    for _ in range(4):
        explainer.attribute(x, target=0)
    (plan,) = explainer.plans
    assert (plan.state, plan.calls, plan.replays) == ("dropped", 0, 3)
    assert plan.reason == "it is no faster than the passes"


def test_plans_that_nobody_uses_are_not_made() -> None:
    explainer = DeepLiftEHR(Net().eval())
    for rows in range(1, 30):
        for _ in range(2):
            explainer.attribute(torch.randn(rows, 4), target=0)
    assert [plan.state for plan in explainer.plans].count("ready") == 2
    for _ in range(4):
        for rows in range(1, 10):
            explainer.attribute(torch.randn(rows, 4), target=0)
    assert [plan.state for plan in explainer.plans].count("ready") == 9


def test_calls_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captum_ehr.propagation.plans.MOST_CALLS", 500)
    explainer = DeepLiftEHR(Net().eval())
    for rows in (1, 2, 3, 4, 5):
        for _ in range(3):
            explainer.attribute(torch.randn(rows, 4), target=0)
    plans = explainer.plans
    assert sum(plan.calls for plan in plans) <= 500
    assert plans and plans[-1].shapes[0] == (5, 4)


def test_a_plan_holds_no_batch() -> None:
    net = Net().eval()
    explainer = DeepLiftEHR(net)

    def alive() -> int:
        gc.collect()
        return sum(
            isinstance(o, Tensor) and o.shape[:1] == (77,) for o in gc.get_objects()
        )

    for _ in range(3):
        explainer.attribute(torch.randn(77, 4), torch.randn(77, 4), target=0)
    assert explainer.plans[0].state == "ready" and not alive()


def test_a_plan_in_the_way_of_nobody() -> None:
    """Two inputs in one memory, then in two: they are two all the same."""

    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a * b.tanh()).sum(1)

    explainer, x, y = DeepLiftEHR(Two()), torch.randn(3, 4), torch.randn(3, 4)
    for _ in range(2):
        explainer.attribute((x, x))
    for pair in ((x, y), (y, x), (x, x)):
        for got, want in zip(
            explainer.attribute(pair), DeepLiftEHR(Two()).attribute(pair)
        ):
            torch.testing.assert_close(got, want)
    assert explainer.plans[0].replays


# What is written down ----------------------------------------------------------------


def replayed(
    function: Callable[..., list[Tensor]], *tensors: Tensor, **more: Any
) -> None:
    """A function's program gives what it gives, on the same and on other numbers."""
    outputs, program = recorded_program(function, tensors, more.get("constants", ()))
    others = [
        x.flip(0) * 2 if x.is_floating_point() else x.flip(0).clone() for x in tensors
    ]
    for given in (list(tensors), others):
        before = [x.clone() for x in given]
        for got, want in zip(program.run(*given), function(*given), strict=True):
            torch.testing.assert_close(got, want, equal_nan=True)
        for x, was in zip(given, before):
            assert torch.equal(x, was)
    del outputs


def write_through_a_view(x: Tensor) -> list[Tensor]:
    y = x * 1
    part = y[1:, :2]
    part += 1
    y.t()[0].mul_(3)
    return [y, part]


def shape_in_place(x: Tensor) -> list[Tensor]:
    y = x * 2
    alias = y.detach()
    y.unsqueeze_(1)
    y.add_(1)
    return [y, alias, y.squeeze_(1).t_()]


def gradient(x: Tensor) -> list[Tensor]:
    leaf = x.detach().requires_grad_()
    value = (leaf.exp() * leaf.sigmoid()).sum() + leaf.softmax(1).pow(2).sum()
    return list(torch.autograd.grad(value, [leaf]))


def lists_and_numbers(x: Tensor) -> list[Tensor]:
    parts = x.split([1, x.shape[1] - 1], 1)
    number = torch.tensor(2.5)
    return [
        torch.cat(parts[::-1], 1) * number,
        torch.stack(x.unbind(0)).sum(0),
        x.max(1)[0],
    ]


def put_by_mask(x: Tensor) -> list[Tensor]:
    y = x.clone()
    y[y > 0] = -1.0
    return [y, torch.where(y < 0, 0.0, x)]


@pytest.mark.parametrize(
    "function",
    [write_through_a_view, shape_in_place, gradient, lists_and_numbers, put_by_mask],
)
def test_programs(function: Callable[..., list[Tensor]]) -> None:
    replayed(function, torch.randn(4, 3))


def test_constants_are_read_where_they_are() -> None:
    weight, x = torch.randn(3, 3), torch.randn(2, 3)
    _, program = recorded_program(lambda x: [x @ weight.t()], [x], [weight])
    weight.mul_(2)
    torch.testing.assert_close(program.run(x)[0], x @ weight.t())


def test_what_nobody_reads_is_left_out() -> None:
    _, program = recorded_program(lambda x: [[x.exp(), x.sin()][1]], [torch.ones(2)])
    assert program.calls == 1


def strangers() -> dict[str, Callable[[Tensor], list[Tensor]]]:
    other, weight = torch.randn(3), torch.randn(3)

    def write(x: Tensor) -> list[Tensor]:
        x.add_(1)
        return [x]

    def opaque_closure(x: Tensor) -> list[Tensor]:
        y = x.exp()
        return [opaque(lambda x: x * y, x)]

    def opaque_write(x: Tensor) -> list[Tensor]:
        y = x.exp()
        return [opaque(lambda y: y.mul_(2), y)]

    def swallowed(x: Tensor) -> list[Tensor]:
        try:
            return [x * float(x.numpy().sum())]
        except BaseException:
            return [x]

    return {
        "none of the inputs": lambda x: [x + other],
        "writes on an input": write,
        "draws random numbers": lambda x: [x + torch.randn(3)],
        "own generator": lambda x: [x * random.random()],
        "of another call": opaque_closure,
        "writes on what it was given": opaque_write,
        "numpy": swallowed,
        "from_numpy": lambda x: [x + torch.from_numpy(weight.numpy())],
    }


@pytest.mark.parametrize("reason", strangers())
def test_what_cannot_be_written_down(reason: str) -> None:
    function = strangers()[reason]
    with pytest.raises(PlanRefused) as refusal:
        recorded_program(function, [torch.randn(3)])
    if reason != "from_numpy":
        assert reason in str(refusal.value)


def test_a_guard_stops_the_program() -> None:
    def branch(x: Tensor) -> list[Tensor]:
        return [x * 2 if x.sum() > 0 else x * 3]

    _, program = recorded_program(branch, [torch.ones(2)])
    assert program.guards == 1
    with pytest.raises(PlanChanged):
        program.run(-torch.ones(2))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[x > 0],
        lambda x: (x > 0).nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.sign().unique(),
        lambda x: torch.repeat_interleave(x, (x > 0).long()),
    ],
)
def test_a_shape_that_depends_on_values_is_a_guard(function: Any) -> None:
    x = torch.tensor([1.0, -1.0, 2.0])
    _, program = recorded_program(lambda x: [function(x).sum() * x], [x])
    torch.testing.assert_close(program.run(x)[0], function(x).sum() * x)
    with pytest.raises(PlanChanged):
        program.run(x.abs())


GRU, pad = nn.GRU(3, 2, batch_first=True), rnn.pad_packed_sequence


def packed(x: Tensor, lengths: Tensor) -> Tensor:
    steps = rnn.pack_padded_sequence(x, lengths, batch_first=True)
    found: Tensor = pad(GRU(steps)[0], batch_first=True)[0]
    return found


@pytest.mark.parametrize(
    ("function", "first", "other"),
    [
        (packed, [5, 3, 2], [5, 4, 1]),
        (lambda x, n: GRU(rnn.PackedSequence(x[0], n))[0].data, [2, 2, 1], [3, 1, 1]),
        (lambda x, n: pad(rnn.PackedSequence(x[0], n))[0], [2, 2, 1], [3, 1, 1]),
        (lambda x, n: torch.tensor_split(x, n, dim=1)[0], [1, 3], [2, 3]),
    ],
)
def test_whole_numbers_that_are_read_in_c_are_guards(
    function: Any, first: list[int], other: list[int]
) -> None:
    x, n = torch.rand(3, 5, 3), torch.tensor(first)
    with torch.no_grad():
        _, program = recorded_program(
            lambda x, n: [function(x, n)], [x, n], [*GRU.parameters()]
        )
        torch.testing.assert_close(program.run(2 * x, n)[0], function(2 * x, n))
        with pytest.raises(PlanChanged):
            program.run(x, torch.tensor(other))
        _, program = recorded_program(lambda n: [n.tensor_split(2)[0]], [n])
        assert program.guards == 0  # these are what is split


def test_an_opaque_function_may_look_at_values() -> None:
    def largest_first(x: Tensor) -> Tensor:
        return x.flip(0) if x[0].item() < x[1].item() else x.clone()

    def function(x: Tensor) -> list[Tensor]:
        return [opaque(largest_first, x * 2) + 1]

    _, program = recorded_program(function, [torch.tensor([1.0, 2.0])])
    assert program.guards == 0
    assert program.run(torch.tensor([5.0, 2.0]))[0].tolist() == [11.0, 5.0]
    assert program.run(torch.tensor([2.0, 5.0]))[0].tolist() == [11.0, 5.0]


def test_vocabularies_are_not_watched() -> None:
    model, batch = tiny_model()
    explainer = DeepLiftEHR(model)
    for _ in range(2):
        explainer.explain(batch)
    watched = explainer._plans._model
    assert watched is not None
    codes = [feature.ids for feature in explainer.model.features]
    assert not any(each is ids for each in watched._mappings for ids in codes)


def test_watched_parts_of_a_class_and_of_globals() -> None:
    net = Net()
    seen = Watched([net])
    assert seen.same([net])
    original = Net.forward
    try:
        Net.forward = lambda self, x: original(self, 2 * x)  # type: ignore
        assert not seen.same([net])
    finally:
        Net.forward = original  # type: ignore
    assert seen.same([net]) and not seen.same([Net()])


# compile=True -------------------------------------------------------------------------


@pytest.mark.complete
def test_one_program_serves_all_sizes() -> None:
    pytest.importorskip("torch._inductor")
    net = Net().eval()
    explainer = DeepLiftEHR(net, compile=True)
    for rows in (4, 6, 9, 2, 33):
        x, x0 = torch.randn(rows, 4), torch.randn(rows, 4)
        fresh = DeepLiftEHR(net).attribute(x, x0)
        torch.testing.assert_close(explainer.attribute(x, x0), fresh)
    (plan,) = [plan for plan in explainer.plans if plan.shapes is None]
    assert plan.state == "ready" and plan.replays == 3
    train_a_step(net)
    x = torch.randn(5, 4)
    got, fresh = explainer.attribute(x), DeepLiftEHR(net).attribute(x)
    torch.testing.assert_close(got, fresh)
    net.act = nn.Sigmoid()
    for _ in range(3):
        fresh = DeepLiftEHR(net).attribute(x)
        torch.testing.assert_close(explainer.attribute(x), fresh)


@pytest.mark.complete
@pytest.mark.parametrize("name", ["bool", "item", "equal"])
def test_a_branch_on_values_stops_a_compiled_program(name: str) -> None:
    net = Asking(GUARDED[name]).eval()
    explainer = DeepLiftEHR(net, completeness="off", compile=True)
    x = torch.linspace(-1, 1, 12).view(4, 3)
    for each in (x, x, -x, x + 5, x[:1].expand(4, -1).clone()):
        got = explainer.attribute(each, each.flip(0))
        fresh = DeepLiftEHR(net, completeness="off").attribute(each, each.flip(0))
        torch.testing.assert_close(got, fresh)
    (plan,) = [plan for plan in explainer.plans if plan.shapes is None]
    assert plan.replays and plan.changes


def test_what_is_not_compiled_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_model()
    monkeypatch.setattr("captum_ehr.propagation.plans.LARGEST", 10)
    explainer = DeepLiftEHR(model, compile=True)
    notes = [explainer.explain(batch).diagnostics.notes for _ in range(4)]
    assert "compile" not in str(notes[0])
    assert "too large to compile" in str(notes[1])
    assert notes[3] == notes[1]
    shaped = [plan for plan in explainer.plans if plan.shapes is not None]
    assert [plan.state for plan in shaped] == ["ready"]


def notes_of(model: nn.Module, *, custom: Any = None, **options: Any) -> str:
    explainer = DeepLiftEHR(model, compile=True, **options)
    return str(explainer.run(ROWS, None, 0, None, custom)[1].diagnostics.notes)


class Mixing(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.tanh().mean(0))


ROWS = torch.linspace(-1, 2, 12).view(3, 4)
HOOKED = Net()
HOOKED.head.register_forward_hook(lambda *_: None)
UNCOMPILED: dict[str, Callable[[], str]] = {
    "has forward hooks": lambda: notes_of(HOOKED),
    "rules of your own": lambda: notes_of(
        Net(), rules={torch.tanh: lambda y, x: lambda m: [(x, m)]}
    ),
    "a function of your own": lambda: notes_of(Net(), custom=lambda m, x, x0: m),
    "it mixes patients": lambda: notes_of(Mixing()),
    "several references": lambda: str(
        DeepLiftShapEHR(Net(), compile=True)
        .run(ROWS, torch.rand(2, 4), 0, None, None)[1]
        .diagnostics.notes
    ),
}


@pytest.mark.parametrize("why", UNCOMPILED)
@pytest.mark.filterwarnings("ignore::captum_ehr.AttributionWarning")
def test_what_takes_the_passes_says_why(why: str) -> None:
    said = UNCOMPILED[why]()
    assert "compile=True has no effect" in said and why in said


def test_no_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler was found")

    monkeypatch.setattr(torch, "compile", broken)
    model, batch = tiny_model()
    explainer = DeepLiftEHR(model, compile=True)
    for _ in range(2):
        notes = explainer.explain(batch).diagnostics.notes
    assert "RuntimeError: no C++ compiler was found" in str(notes)

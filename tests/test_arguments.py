"""How a call is read: by place or by name, it is the same call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from calls import Ran, assert_complete, run_call, sides
from test_torch_calls import EXACT, INTEGRATED, weighed
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from versions import TORCH, before

from captum_ehr.propagation import default_table
from captum_ehr.propagation.arguments import names_of, positional
from captum_ehr.propagation.declarations import Kind, label

Function = Callable[..., Any]


def renamed(function: Function, args: Any, kwargs: Any, by_name: bool) -> Any:
    """The arguments all by name, or all by place, as far as torch takes them so."""
    names = names_of(function).all
    if not by_name:
        args, kwargs = list(args), dict(kwargs)
        while len(args) < len(names) and names[len(args)] in kwargs:
            args.append(kwargs.pop(names[len(args)]))
        return tuple(args), kwargs
    first = 1 if type(function) is type(torch.Tensor.add) else 0  # a method's own
    return args[:first], {**dict(zip(names[first:], args[first:])), **kwargs}


class Renamed(TorchFunctionMode):
    """Makes a model's calls by name, or by place, where torch takes them so."""

    def __init__(self, by_name: bool) -> None:
        super().__init__()
        self.by_name = by_name

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given, named = renamed(func, args, kwargs, self.by_name)
        complete = len(given) + len(named) == len(args) + len(kwargs)
        if complete and accepts(func, given, named):
            return func(*given, **named)
        return func(*args, **kwargs)


def accepts(function: Function, args: Any, kwargs: Any) -> bool:
    """Whether torch takes the call so, tried out where no pass sees it."""
    with torch._C.DisableTorchFunction(), torch.no_grad():
        try:
            return function(*copies(args), **copies(kwargs)) is not NotImplemented
        except (TypeError, RuntimeError, ValueError, IndexError, AttributeError):
            return False


def copies(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copies(item) for key, item in value.items()}
    return type(value)(map(copies, value)) if type(value) in (list, tuple) else value


def same(one: Ran, other: Ran) -> None:
    """Two runs of one function."""
    for a, b in ((other.output, one.output), (other.reference, one.reference)):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(
        other.reference, one.reference, rtol=0, atol=0, equal_nan=True
    )
    for m, n in zip(one.multipliers, other.multipliers):
        torch.testing.assert_close(n, m, rtol=1e-12, atol=1e-12, equal_nan=True)
    reports = [run.tape.diagnostics() for run in (one, other)]
    assert reports[0].operations == reports[1].operations


@pytest.mark.parametrize("by_name", [True, False], ids=["by name", "by place"])
@pytest.mark.parametrize("name", {**EXACT, **INTEGRATED})
def test_calls_are_the_same_by_name_and_by_place(name: str, by_name: bool) -> None:
    function = {**EXACT, **INTEGRATED}[name]
    x, x0 = sides((4, 4), 6)

    def other(t: Tensor) -> Any:
        with Renamed(by_name):
            return function(t)

    runs = [
        run_call(lambda t, f=f: weighed(f(t)), (x,), (x0,)) for f in (function, other)
    ]
    same(*runs)


# All functions, with arguments found by their names --------------------------------


def _values(shape: Sequence[int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 0.6 + 0.2


MATRIX, VECTOR, BATCH = _values((4, 4), 1), _values((4,), 2), _values((2, 4, 4), 3)
INDEX = torch.tensor([[0, 1, 2, 0]] * 4)

#: What an argument of this name may be; every one that torch takes is tried.
VALUES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys("vec vec1 vec2".split(), (VECTOR,)),
    **dict.fromkeys("batch1 batch2".split(), (BATCH,)),
    **dict.fromkeys("k kernel_size output_size num_groups".split(), (2,)),
    **dict.fromkeys("dim sections split_size groups start index".split(), (1,)),
    **dict.fromkeys("eps momentum lambd".split(), (0.1,)),
    **dict.fromkeys("mask condition".split(), (MATRIX > 0.5,)),
    "normalized_shape": ((4,),), "negative_slope": (0.2,), "min": (0.3,), "max": (0.7,),
    "threshold": (0.5,), "reduce": ("sum",), "min_val": (0.3,), "max_val": (0.7,),
    "training": (False,), "stride": (1,), "dims": (1,), "index": (INDEX, 1),
    "value": (MATRIX, BATCH, 0.5), "use_input_stats": (True,),
    "running_mean": (VECTOR,), "running_var": (VECTOR,), "cudnn_enabled": (False,),
    "padding": (0,), "dilation": (1,), "output_padding": (0,), "transposed": (False,),
}  # fmt: skip

#: Of the names of tensors, the shapes that are tried.
TENSORS = (MATRIX, VECTOR, BATCH)


def _calls(function: Function) -> Any:
    """The first arguments, by the names that a function needs, that it takes."""
    names = names_of(function).operands
    if not 0 < len(names) < 10 or label(function) in NOT_CALLED:
        return None
    candidates = [VALUES.get(name, TENSORS) for name in names]
    for chosen in itertools.islice(itertools.product(*candidates), 243):
        args = tuple(  # each another, or it would not show which is which
            value * (1 - k / 50) if _is_float(value) else copies(value)
            for k, value in enumerate(chosen)
        )
        if accepts(function, args, {}):
            return args
    return None


#: Random, of no value, or not a function of tensors.
NOT_CALLED = frozenset(
    "dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout bernoulli "
    "feature_alpha_dropout poisson multinomial normal gumbel_softmax rrelu set_ "
    "backward share_memory_ register_hook __repr__ __format__ cuda to numpy".split()
)

WORKED_OUT = (Kind.RULE, Kind.EXPAND, Kind.PRODUCT, Kind.QUOTIENT)


def _by_name(function: Function, args: Any, places: Sequence[int], by: bool) -> Any:
    """A function of the tensors at some places, by name or by place."""

    def call(*tensors: Tensor) -> Any:
        given = list(copies(args))
        for place, tensor in zip(places, tensors):
            given[place] = tensor * 1
        given, named = renamed(function, tuple(given), {}, by)
        return weighed(function(*given, **named))

    return call


def derivable(function: Function, inputs: Sequence[Tensor]) -> bool:
    """Whether autograd can take it, as models are trained."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    try:
        torch.autograd.grad(function(*leaves), leaves, allow_unused=True)
    except RuntimeError:
        return False
    return True


RULED = [f for f, e in default_table().items() if e.kind in WORKED_OUT]


@pytest.mark.skipif(before(TORCH, "2.8"), reason="cells crash where shapes do not fit")
@pytest.mark.filterwarnings("ignore")
def test_every_ruled_function_is_read_by_name_as_by_place() -> None:
    other, silent, seen = set(), [], set()
    for function in RULED:
        args, name = _calls(function), label(function)
        if args is None:
            continue
        seen.add(name)
        if not _means_the_same(function, args):
            other.add(name)
            continue
        floats = [i for i, a in enumerate(args) if _is_float(a)]
        for places in dict.fromkeys([*((i,) for i in floats), tuple(floats)]):
            if not _reads_alike(function, args, places):
                silent.append((name, places))
    assert not other
    assert not silent
    assert len(seen) > 220


def _means_the_same(function: Function, args: Any) -> bool:
    """Whether torch takes the names for the same arguments; random ones cannot say."""
    given, named = renamed(function, args, {}, True)
    if not accepts(function, given, named):
        return False
    found = (function(*copies(args)), function(*copies(given), **copies(named)))
    try:
        torch.testing.assert_close(*found, rtol=0, atol=0, equal_nan=True)
    except AssertionError:
        return False
    return True


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _reads_alike(function: Function, args: Any, places: Sequence[int]) -> bool:
    """One call by place and by name; whether it adds up or says that it does not."""
    inputs = [args[i] for i in places]
    references = [_values(a.shape, 9 + i) for i, a in enumerate(inputs)]
    calls = [_by_name(function, args, places, by) for by in (False, True)]
    if not derivable(calls[0], inputs):
        return True
    runs = [run_call(call, inputs, references) for call in calls]
    same(*runs)
    if not runs[0].output.isfinite().all() or not runs[0].tape.diagnostics().exact:
        return True
    try:
        assert_complete(runs[0], inputs, references, 100)
    except AssertionError:
        return False
    return True


WEIGHTS = sides((4, 3), 21)[0]

#: Written in other words that torch takes, and as it is usually written.
OTHER_WORDS: dict[str, tuple[Function, Function]] = {
    "addmm": (
        lambda t: torch.addmm(WEIGHTS, mat2=WEIGHTS, mat1=t.exp()),
        lambda t: torch.addmm(WEIGHTS, t.exp(), WEIGHTS),
    ),
    "addmv": (
        lambda t: torch.addmv(t[0], vec=t[1].exp(), mat=t),
        lambda t: torch.addmv(t[0], t, t[1].exp()),
    ),
    "dot": (
        lambda t: torch.dot(tensor=t[0].exp(), input=t[1]),
        lambda t: torch.dot(t[1], t[0].exp()),
    ),
    "vecdot": (
        lambda t: torch.linalg.vecdot(y=t, x=t.exp()),
        lambda t: torch.linalg.vecdot(t.exp(), t),
    ),
    "trapezoid": (
        lambda t: torch.trapezoid(x=t, y=t.tanh()),
        lambda t: torch.trapezoid(t.tanh(), t),
    ),
    "where": (
        lambda t: torch.where(input=t.exp(), other=t, condition=MATRIX > 0.5),
        lambda t: torch.where(MATRIX > 0.5, t.exp(), t),
    ),
    "pow": (
        lambda t: torch.pow(exponent=t, self=2.0),
        lambda t: torch.pow(2.0, t),
    ),
    "x1, x2": (
        lambda t: torch.mul(x2=t, x1=t.exp()),
        lambda t: torch.mul(t.exp(), t),
    ),
    "axis": (
        lambda t: torch.softmax(t, axis=0) * t.amax(axis=0, keepdims=True),
        lambda t: torch.softmax(t, 0) * t.amax(0, True),
    ),
    "axis of a sort": (
        lambda t: torch.sort(t, axis=0).values,
        lambda t: t.sort(0).values,
    ),
    "axis of a norm": (
        lambda t: t.var(axis=0) + t.std(axis=0, keepdims=False),
        lambda t: t.var(0) + t.std(0),
    ),
    "elu's scales": (
        lambda t: torch._C._nn.elu(t, 0.5, 1.5, 2.0),
        lambda t: 1.5 * torch.where(t > 0, t, 0.5 * torch.expm1(2 * t.clamp(max=0))),
    ),
}


@pytest.mark.parametrize("words", OTHER_WORDS)
def test_a_call_in_other_words_is_the_same(words: str) -> None:
    x, x0 = sides((4, 4), 6)
    x0 = torch.where(x0.sign() == x.sign(), x0, -x0)  # no threshold is crossed
    runs = [
        run_call(lambda t, f=f: weighed(f(t)), (x,), (x0,)) for f in OTHER_WORDS[words]
    ]
    torch.testing.assert_close(runs[0].output, runs[1].output)
    torch.testing.assert_close(runs[0].multipliers, runs[1].multipliers)
    assert_complete(runs[0], (x,), (x0,), 10)


def test_torchs_own_bags_have_numbers_for_modes() -> None:
    """The highest, 2, is not linear as the mean and the sum are."""
    rows, starts = torch.tensor([0, 1, 1, 2, 3]), torch.tensor([0, 3])
    x, x0 = sides((4, 4), 6)
    for mode in (0, 1, 2):
        ran = run_call(
            lambda t, k=mode: torch.embedding_bag(t.exp(), rows, starts, False, k)[0],
            (x,),
            (x0,),
        )
        assert ran.tape.diagnostics().fallbacks == ("embedding_bag",)
        if mode != 2:
            assert_complete(ran, (x,), (x0,))


def test_a_method_takes_its_own_names() -> None:
    class Module(nn.Module):
        def forward(self, x: Any, mask: Any = None, *, scale: float = 1.0) -> None: ...

    module = Module()
    read = positional(module.forward, (), {"scale": 3.0, "mask": 2, "x": 1})
    assert read == ((1, 2), {"scale": 3.0})
    assert positional(module.forward, (), {"mask": 2}) == ((), {"mask": 2})


def test_calls_without_names_are_not_looked_up() -> None:
    args, kwargs = (1, 2), {}
    assert positional(None, args, kwargs) == (args, kwargs)  # type: ignore[arg-type]

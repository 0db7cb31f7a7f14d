"""Captum's attribution classes, given what their ``attribute`` asks for."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import captum.attr
import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..adapter import EncodedBatch

#: Orders of the players, Captum's own default.
SAMPLES = 25

#: What a class's attribute is given beyond what its signature asks of everybody.
OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "IntegratedGradients": {"n_steps": 50},
        "ShapleyValueSampling": {"n_samples": SAMPLES},
        "KernelShap": {"n_samples": 200},
        "Lime": {"n_samples": 200},
    }
)


def class_of(asked: Any, choices: Sequence[str]) -> Any:
    """The class of captum.attr of this name, or the class itself.

    Args:
        asked: A name or a class.
        choices: What the message proposes of what there is.

    Raises:
        ValueError: If there is none of this name, or it needs more than a model.
        TypeError: If it is neither.
    """
    kind = getattr(captum.attr, asked, None) if isinstance(asked, str) else asked
    if not inspect.isclass(kind):
        if isinstance(asked, str):
            raise ValueError(
                f"There is no method {asked!r}; there are {', '.join(choices)}, and "
                "every other class of captum.attr that needs no layer."
            )
        raise TypeError(
            f"A method is a name or an attribution class, got {type(asked).__name__}."
        )
    needed = [
        name
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and name not in ("self", "model")
    ]
    if set(needed) - {"forward_func"}:
        raise ValueError(
            f"{kind.__name__} needs {', '.join(needed)}; a class that takes a model "
            "and nothing else is wanted."
        )
    return kind


def attributed_by(
    method: Any,
    encoded: EncodedBatch,
    baselines: Sequence[Tensor],
    args: tuple[Any, ...],
    mask: Sequence[Tensor] | None,
    **options: Any,
) -> tuple[Tensor, ...]:
    """What a method gives each number of the inputs.

    Where it takes players away, each of their places has an equal share of what it gave
    them; nothing is given to padding.

    Args:
        method: An instance of one of Captum's classes.
        encoded: The patients; one alone where the method :func:`takes_distribution`.
        baselines: Their reference.
        args: Additional arguments of the method's model.
        mask: The feature mask of the players, if the method takes one.
        **options: Further arguments of its ``attribute``, where it takes them.
    """
    name = type(method).__name__
    takes = inspect.signature(method.attribute).parameters
    baselines = tuple(baselines)
    if isinstance(method, captum.attr.DeepLiftShap):  # takes two at least
        baselines = tuple(x.expand(2, *x.shape[1:]) for x in baselines)
    options = {
        "baselines": baselines,
        "additional_forward_args": args or None,
        "feature_mask": None if mask is None else tuple(mask),
        "sliding_window_shapes": windows(encoded),
        **OPTIONS.get(name, {}),
        **options,
    }
    given = method.attribute(
        encoded.inputs, **{k: v for k, v in options.items() if k in takes}
    )
    # Captum 0.7's integrals are float64, whatever the inputs are.
    parts = tuple(a.detach().to(x.dtype) for a, x in zip(given, encoded.inputs))
    if mask is not None and _ablates_apart(method):
        return tuple(_shared([part], [whose])[0] for part, whose in zip(parts, mask))
    if mask is not None:
        return _shared(parts, mask)
    if "sliding_window_shapes" in takes:
        return tuple(map(once, parts, encoded.masks))
    return parts


def takes_players(method: Any) -> bool:
    """Whether a class, or an instance, can be told what to take away together."""
    return "feature_mask" in inspect.signature(method.attribute).parameters


def takes_distribution(method: Any) -> bool:
    """Whether a class, or an instance, explains each patient against all baselines."""
    kind = method if inspect.isclass(method) else type(method)
    return issubclass(kind, (captum.attr.GradientShap, captum.attr.DeepLiftShap))


class DrawnAlike(TorchFunctionMode):
    """The same random numbers of torch's each time, whoever draws beside it.

    Modes are local to their thread: torch's own generators, from which all threads
    draw, are neither set nor moved. What is drawn from NumPy's is not seen.

    Example:
        >>> with DrawnAlike():
        ...     one = torch.rand(3)
        >>> with DrawnAlike():
        ...     torch.equal(torch.rand(3), one)
        True
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        drawing = getattr(func, "__name__", "") in _DRAWING
        if drawing and kwargs.get("generator") is None:
            kwargs = {**kwargs, "generator": self._generator(args, kwargs)}
        return func(*args, **kwargs)

    def _generator(self, args: Any, kwargs: Any) -> torch.Generator:
        """That of the device on which the call draws."""
        given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        asked = kwargs.get("device") or torch.get_default_device()
        device = given[0].device if given else torch.device(asked)
        if device not in self.generators:
            made = torch.Generator(device).manual_seed(self.seed)
            self.generators[device] = made
        return self.generators[device]


#: Functions that take a generator.
_DRAWING = frozenset(
    "rand randn randint randperm normal bernoulli multinomial poisson uniform_ normal_ "
    "bernoulli_ exponential_ random_ cauchy_ geometric_ log_normal_ trunc_normal_ "
    "xavier_uniform_ xavier_normal_ kaiming_uniform_ kaiming_normal_ orthogonal_ "
    "sparse_".split()
)


@contextmanager
def drawn_alike(seed: int = 0) -> Iterator[None]:
    """The same random numbers each time, and all generators as before afterwards.

    Captum draws from torch, and for GradientShap from NumPy's global generator, which
    is set back.
    """
    kept = np.random.get_state()
    np.random.seed(seed)
    try:
        with DrawnAlike(seed):
            yield
    finally:
        np.random.set_state(kept)


def windows(encoded: EncodedBatch) -> tuple[tuple[int, ...], ...]:
    """What Occlusion takes away at a time: one token or value."""
    pairs = zip(encoded.masks, encoded.inputs)
    return tuple((*[1] * (m.dim() - 1), *x.shape[m.dim() :]) for m, x in pairs)


def once(part: Tensor, mask: Tensor) -> Tensor:
    """A token's attribution, which each number of its embedding has, shared out."""
    return part / part.shape[-1] if part.dim() > mask.dim() else part


def _ablates_apart(method: Any) -> bool:
    """Whether it takes a player away from one input at a time: Captum before 0.9."""
    across = hasattr(method, "_construct_ablated_input_across_tensors")
    return isinstance(method, captum.attr.FeatureAblation) and not across


def _shared(parts: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """A player's attribution, which stands at all of its places, shared among them."""
    flat = [mask.expand_as(part).flatten(1) for part, mask in zip(parts, masks)]
    counts = torch.stack([row.bincount()[row] for row in torch.cat(flat, 1)])
    each = counts.split([numbers.shape[1] for numbers in flat], 1)
    return tuple(part / count.view_as(part) for part, count in zip(parts, each))

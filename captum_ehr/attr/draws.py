"""Random numbers of a thread's own, for methods that sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


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

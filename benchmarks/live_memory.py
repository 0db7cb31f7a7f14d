"""How much of memory tensors hold."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak(run: Callable[[], Any]) -> int:
    """Bytes that tensors held at most while this ran, beyond those from before.

    Every storage counts from the operation that makes it until nobody holds it; what
    an operation holds only inside of itself does not.
    """
    with _Live() as live:
        run()
    return live.most


class _Live(TorchDispatchMode):
    """Follows the storages that operations make, of the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0
        self.known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation, and count what it made that was not given to it."""
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            self._see(tensor, 0)
        found = func(*args, **kwargs)
        for tensor in _tensors(found):
            self._see(tensor, tensor.untyped_storage().nbytes())
        return found

    def _see(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return

        def gone(_: Any) -> None:
            self.held -= size
            del self.known[key]

        self.known[key] = weakref.ref(storage, gone)
        self.held += size
        self.most = max(self.most, self.held)


def _tensors(values: Any) -> list[Tensor]:
    return [v for v in tree_leaves(values) if isinstance(v, Tensor)]

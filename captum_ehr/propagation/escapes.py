"""What takes values out of tensors where no dispatcher sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .containers import tensors_in
from .declarations import label


class Escapes(TorchFunctionMode):
    """Refuses it, or has what was read fixed.

    Args:
        varies: Whether other inputs may give a tensor other values.
        fix: Sees to it that a tensor's values are the same in each run.
        refuse: Breaks off, and says why.
    """

    def __init__(
        self,
        varies: Callable[[Tensor], bool],
        fix: Callable[[Tensor], None],
        refuse: Callable[[str], Any],
    ) -> None:
        super().__init__()
        self.varies, self.fix, self.refuse = varies, fix, refuse

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name, given = label(func), (*args, *(kwargs or {}).values())
        if any(map(self.varies, _taken(name, given))):
            self.refuse(f"{name}() takes values out of torch")
        if name in _POINTED:
            for tensor in tensors_in(given[1:]):
                if not tensor.is_floating_point() and self.varies(tensor):
                    self.fix(tensor)
        return func(*args, **(kwargs or {}))


def _taken(name: str, given: tuple[Any, ...]) -> Iterator[Tensor]:
    """The tensors whose values a call hands to Python, or takes from its lists."""
    if name in _ESCAPES or (name in _NUMBERS and _unseen()):
        yield given[0]
    elif name in _OF_LISTS:
        yield from tensors_in([each for each in given if isinstance(each, _LISTS)])
    elif name in _INDEXED:  # in a tuple each index has its own tensor, in a list none
        index = given[1] if isinstance(given[1], tuple) else given[1:2]
        yield from tensors_in([each for each in index if isinstance(each, _LISTS)])


def _unseen() -> bool:
    """Whether torch calls past the modes, as where it reads a list of tensors."""
    return torch._C._dispatch_tls_is_dispatch_key_excluded("Python")


_LISTS = list, tuple

#: Methods that hand values to Python unseen.
_ESCAPES = frozenset(
    "numpy tolist __repr__ __format__"
    " __array__ __dlpack__ __cuda_array_interface__".split()
)

#: Methods that give a number, which a dispatcher sees as a rule.
_NUMBERS = frozenset("__float__ __index__ __int__ __bool__ item".split())

#: What makes a tensor of lists, whose items may be tensors.
_OF_LISTS = frozenset("tensor as_tensor asarray new_tensor new".split())

_INDEXED = frozenset(("__getitem__", "__setitem__"))

#: What reads whole numbers in C++: where to split, and the sizes of packed sequences.
_POINTED = frozenset(
    "tensor_split gru lstm rnn_tanh rnn_relu _pad_packed_sequence".split()
)

"""A computation written down as the flat list of its aten calls.

A :class:`torch.utils._python_dispatch.TorchDispatchMode` stands below autograd, where
both passes and the chain rule are one sequence of calls. Run again on other numbers of
the same shapes, they give what the computation would have given, without modules,
function modes and autograd's graph; parameters are read where they are, so that
training is followed.

What came out of a call and was no tensor (a branch on ``mask.any()``, an ``item()``),
and shapes that depend on values (``nonzero``), are *guards*: they have to come out the
same, else the computation might take another way. What reaches no dispatcher
(:mod:`.escapes`) and what draws random numbers cannot be written down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode,
    _pop_mode_temporarily,
)

from .containers import tensors_in
from .escapes import Escapes
from .generators import global_states, globals_moved
from .program import Program, Writer

#: Where and how a tensor lies: two that are equal in this are one.
type Place = tuple[Any, ...]


class PlanRefused(BaseException):
    """A computation that cannot be written down; no exception that a model catches."""


def recorded_program(
    function: Callable[..., Sequence[Tensor]],
    tensors: Sequence[Tensor],
    constants: Sequence[Tensor] = (),
) -> tuple[list[Tensor], Program]:
    """Run a function of tensors, and write down what it does.

    Args:
        function: Of the tensors alone; nothing else that it reads may change, but the
            values of the constants.
        tensors: Its arguments.
        constants: What it may read beside them, by reference: parameters and buffers.

    Returns:
        Its outputs, and the program that gives them for other tensors.

    Raises:
        PlanRefused: If it does what cannot be written down.

    Example:
        >>> weight = torch.ones(2, 2)
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> _, program = recorded_program(lambda x: [x @ weight], [x], [weight])
        >>> program.run(2 * x)
        [tensor([[6., 6.]])]
    """
    tensors = _separate(tensors, constants)
    recorder, drawn = Recorder(tensors, constants), global_states()
    with Escapes(recorder.varies, recorder.fix, recorder.refuse), recorder:
        outputs = list(function(*tensors))
    if globals_moved(drawn):
        recorder.refuse("random numbers of Python's or NumPy's own generator")
    if recorder.refused is not None:
        raise PlanRefused(recorder.refused)
    return outputs, recorder.program(outputs)


def written_down() -> bool:
    """Whether what this thread computes is written down, by a plan or a compiler.

    Then no values are to be asked for that would only save time.
    """
    return isinstance(_get_current_dispatch_mode(), (Recorder, Traced))


def compiled() -> bool:
    """Whether it is written down by a compiler, which has no values at all."""
    return isinstance(_get_current_dispatch_mode(), Traced)


def opaque[T](function: Callable[..., T], *tensors: Tensor) -> T:
    """Call a function that a plan takes as one operation, whatever values it asks for.

    It computes from its tensors alone, and writes on none of them.
    """
    mode = _get_current_dispatch_mode()
    if isinstance(mode, Recorder):
        return mode.opaque(function, tensors)
    return function(*tensors)


class Traced(TorchDispatchMode):
    """Within it a compiler traces; it changes nothing but :func:`compiled`."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


class Recorder(TorchDispatchMode):
    """Writes down what comes past, while it is computed for the first time."""

    def __init__(self, inputs: Sequence[Tensor], constants: Sequence[Tensor]) -> None:
        super().__init__()
        self.refused: str | None = None
        self.writer = Writer()
        self.names: dict[Place, str] = {}
        #: A storage that is referred to is no other's, also when its memory is let go.
        self.storages: dict[int, StorageWeakRef] = {}
        self.constants = {_place(c): c for c in constants}
        self.given = {_storage(x) for x in (*inputs, *constants)}
        self.varying = set(self.given)
        self.inputs = [self.name(x) for x in inputs]

    def refuse(self, why: str) -> NoReturn:
        """Break off; it is known also where the model catches what is raised."""
        self.refused = self.refused or why
        raise PlanRefused(why)

    def varies(self, tensor: Tensor) -> bool:
        """Whether other inputs or parameters may give this tensor other values."""
        return _place(tensor) not in self.names or _storage(tensor) in self.varying

    def fix(self, tensor: Tensor) -> None:
        """A guard for all values of a tensor."""
        name = self.word(tensor, [])
        self.writer.guard(f"{name}.tolist()", tensor.tolist(), [name])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _SAME:
            output = func(*args, **kwargs)
            self.names[_place(output)] = self.word(args[0], [])
            return output
        if func is torch.ops.aten.lift_fresh.default:  # a number that the code says
            number = self.writer.hold(args[0].clone())
            self.writer.add([self.name(args[0])], f"{number}.clone()", ())
            return args[0]
        if func in _VIEWED:
            return self._viewed(func, args)
        if why := _impossible(func, args, kwargs):
            self.refuse(f"{func.name()} {why}")
        reads: list[Tensor] = []
        words = [self.word(value, reads) for value in args]
        words += [f"{key}={self.word(value, reads)}" for key, value in kwargs.items()]
        written = _written(func, args, kwargs)
        if any(_storage(t) in self.given for t in written):
            self.refuse(f"{func.name()} writes on an input, a parameter or a buffer")
        output = func(*args, **kwargs)
        text = f"{self.writer.hold(func)}({', '.join(words)})"
        self._give(output, text, reads, written, _shaped_by_values(func, args))
        return output

    def opaque(self, function: Callable[..., Any], tensors: Sequence[Tensor]) -> Any:
        """A call of a function of ours in one line, whatever it does."""
        words = [self.word(x, []) for x in tensors]
        with _pop_mode_temporarily(), _Inside(self, tensors):
            output = function(*tensors)
        self._give(output, f"{self.writer.hold(function)}({', '.join(words)})", tensors)
        return output

    def program(self, outputs: Sequence[Tensor]) -> Program:
        """The program that gives these."""
        return self.writer.program(self.inputs, [self.word(x, []) for x in outputs])

    def name(self, tensor: Tensor) -> str:
        """A new variable for a tensor."""
        storage = tensor.untyped_storage()
        self.storages[storage._cdata] = StorageWeakRef(storage)
        name = self.names[_place(tensor)] = self.writer.name()
        return name

    def word(self, value: Any, reads: list[Tensor]) -> str:
        """An argument as it stands in a line; tensors are added to those it reads."""
        if isinstance(value, Tensor):
            reads.append(value)
            return self.names.get(_place(value)) or self._stranger(value)
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(self.word(item, reads) for item in value)}]"
        if value is None or isinstance(value, (bool, int)):
            return repr(value)
        if isinstance(value, (torch.Generator, torch.UntypedStorage)):
            self.refuse(f"it uses a {type(value).__name__}")
        return self.writer.hold(value)

    def _viewed(self, func: Any, args: Any) -> Tensor:
        """A tensor that is given another shape in its place: a view, from now on."""
        words = [self.word(value, []) for value in args]
        reads = [self.names[_place(args[0])]] if _place(args[0]) in self.names else []
        output: Tensor = func(*args)
        text = f"{self.writer.hold(_VIEWED[func])}({', '.join(words)})"
        self.writer.add([self.name(output)], text, reads)
        return output

    def _stranger(self, tensor: Tensor) -> str:
        """A tensor that came from no call."""
        place = _place(tensor)
        if place in self.constants:
            name = self.names[place] = self.writer.hold(self.constants[place])
            self.storages[_storage(tensor)] = StorageWeakRef(tensor.untyped_storage())
            return name
        if _is_number(tensor):
            return self.writer.hold(tensor)
        self.refuse(
            f"a tensor of shape {tuple(tensor.shape)} is none of the inputs, none of "
            "the model's, and not computed of these"
        )

    def _give(
        self,
        output: Any,
        text: str,
        reads: Sequence[Tensor],
        written: Sequence[Tensor] = (),
        shaped: bool = False,
    ) -> None:
        """Write a line, and guards for what came out of it and may come out other."""
        several = isinstance(output, (tuple, list))
        results = list(output) if several else [output]
        read = [self.names[_place(t)] for t in reads if _place(t) in self.names]
        varies = any(_storage(t) in self.varying for t in reads)
        places = {_place(t) for t in written}
        fresh = [
            None
            if r is None or (isinstance(r, Tensor) and _place(r) in places)
            else (self.name(r) if isinstance(r, Tensor) else self.writer.name())
            for r in results
        ]
        if varies:
            owned = [r for r in (*results, *written) if isinstance(r, Tensor)]
            self.varying.update(map(_storage, owned))
        self.writer.add(fresh, text, read, several=several, effect=bool(written))
        for result, name in zip(results, fresh):
            if name and varies and not isinstance(result, Tensor):
                self.writer.guard(name, result, [name])
            elif name and varies and shaped:
                self.writer.guard(f"{name}.shape", result.shape, [name])


class _Inside(TorchDispatchMode):
    """Sees that an opaque function reads its tensors alone, and writes on none."""

    def __init__(self, recorder: Recorder, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self.recorder = recorder
        self.given = set(map(_storage, tensors)) | recorder.given
        self.made: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.ops.aten.lift_fresh.default:
            for tensor in tensors_in((*args, *kwargs.values())):
                known = _storage(tensor) in self.given or _storage(tensor) in self.made
                if not known and not _is_number(tensor):
                    self.recorder.refuse(f"{func.name()} of a tensor of another call")
        if any(_storage(t) in self.given for t in _written(func, args, kwargs)):
            self.recorder.refuse(f"{func.name()} writes on what it was given")
        output = func(*args, **kwargs)
        for tensor in tensors_in((output,)):
            storage = tensor.untyped_storage()
            self.made[storage._cdata] = StorageWeakRef(storage)
        return output


#: In-place changes of a shape, and the views that do the same.
_VIEWED = {
    torch.ops.aten.transpose_.default: torch.ops.aten.transpose.int,
    torch.ops.aten.t_.default: torch.ops.aten.t.default,
    torch.ops.aten.squeeze_.default: torch.ops.aten.squeeze.default,
    torch.ops.aten.squeeze_.dim: torch.ops.aten.squeeze.dim,
    torch.ops.aten.unsqueeze_.default: torch.ops.aten.unsqueeze.default,
}

#: What gives its argument itself.
_SAME = frozenset({torch.ops.aten.detach.default, torch.ops.aten.alias.default})


def _separate(tensors: Sequence[Tensor], constants: Sequence[Tensor]) -> list[Tensor]:
    """The same, none in another's memory, which it will not be in the next time."""
    taken, separate = set(map(_storage, constants)), []
    for x in tensors:
        own = x.detach()
        if _storage(x) in taken:
            own = own.clone()
            if own.stride() != x.stride():
                raise PlanRefused("two of its tensors are one in memory")
        taken.add(_storage(own))
        separate.append(own)
    return separate


def _place(tensor: Tensor) -> Place:
    return (
        _storage(tensor),
        tensor.storage_offset(),
        tensor.shape,
        tensor.stride(),
        tensor.dtype,
        tensor.is_conj(),
        tensor.is_neg(),
    )


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError) as error:
        raise PlanRefused(f"a tensor of {tensor.layout} has no memory") from error


def _is_number(tensor: Tensor) -> bool:
    """Whether it is a Python number in a tensor's place, as promotion tells."""
    if tensor.dim() or tensor.device.type != "cpu":
        return False
    other = _NARROWER.get(tensor.dtype)
    return other is not None and torch.result_type(tensor, other) is not tensor.dtype


#: To what a Python number gives way, though a tensor of no dimensions does not.
_NARROWER = {
    torch.float64: torch.zeros((), dtype=torch.float32),
    torch.complex128: torch.zeros((), dtype=torch.complex64),
    torch.int64: torch.zeros((), dtype=torch.int32),
}


def _written(func: Any, args: Any, kwargs: Mapping[str, Any]) -> list[Tensor]:
    """What a call writes on, by its schema."""
    arguments = func._schema.arguments
    values = [
        kwargs.get(a.name, args[k] if k < len(args) else None)
        for k, a in enumerate(arguments)
        if a.alias_info is not None and a.alias_info.is_write
    ]
    return list(tensors_in(values))


def _impossible(func: Any, args: Any, kwargs: Mapping[str, Any]) -> str:
    """Why a call cannot be written down, if it cannot."""
    if torch.Tag.inplace_view in func.tags:
        return "changes the shape of a tensor in its place"
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return ""
    names = [a.name for a in func._schema.arguments]
    given = {**dict(zip(names, args)), **kwargs}
    if "dropout_p" in names and not given.get("dropout_p"):
        return ""
    return "" if given.get("train") is False else "draws random numbers"


def _shaped_by_values(func: Any, args: Any) -> bool:
    """Whether the shape of what a call gives depends on values."""
    if func is torch.ops.aten._pack_padded_sequence.default:
        return True
    if torch.Tag.dynamic_output_shape not in func.tags:
        return False
    if func is not torch.ops.aten.index.Tensor:
        return True
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])

"""Passes of a model: from the same state, with the same random numbers, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from .generators import (
    alone,
    global_states,
    globals_moved,
    put_back,
    put_back_globals,
    states,
)
from .passes import BeginAgain, InputPass
from .reference import ReferencePass
from .tape import Tape
from .view import private_args

#: A function of tensors, and what it is given beside them.
type Forward = Callable[..., Tensor]


class Runs:
    """Runs a forward again and again, each time as if it were the first.

    Args:
        forward: Any function of tensors.
        args: Its further arguments.
        tape: What the first pass is recorded on.
    """

    def __init__(self, forward: Forward, args: Sequence[Any], tape: Tape) -> None:
        self.forward = forward
        self.args, self.state = private_args(args)
        self._tape = ref(tape)  # which may hold these runs
        self._start, self._drawn, self._alone = global_states(), False, alone()

    @property
    def tape(self) -> Tape:
        """What the input pass is recorded on; whoever runs passes has it."""
        tape = self._tape()
        assert tape is not None
        return tape

    def first(self, inputs: Sequence[Tensor], pass_type: type[InputPass]) -> Tensor:
        """The input pass.

        Where Python's or NumPy's generators have moved and other threads are running,
        nobody can tell who has drawn, and the draws of others must not be repeated.
        So the pass is run again, and what the model gives must be the same.
        """
        output = self._through(inputs, self.tape, pass_type)
        self._drawn = globals_moved(self._start)
        self._alone = self._alone and alone()
        if not self._drawn or self._alone:
            return output
        self.rewind()
        self.tape.clear()
        again = self._through(inputs, self.tape, pass_type)
        if not torch.allclose(again, output, equal_nan=True):
            self.tape.messages.append(_UNREPEATABLE)
        return again

    def next(self, references: Sequence[Tensor], mode: ReferencePass) -> Tensor:
        """A reference pass."""
        self.rewind()
        try:
            return self._run(references, mode)
        finally:
            self.rewind()

    def aside(self, tensors: Sequence[Tensor]) -> Tensor:
        """What the model itself gives, recorded nowhere."""
        with self._replayed(), torch.no_grad():
            return self._through(tensors, Tape(self.tape.table), InputPass).detach()

    def rewind(self) -> None:
        """The generators stand where they did, if a pass has drawn from them."""
        self.tape.rewind()
        if self._drawn and self._alone:
            put_back_globals(self._start)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """The generators are left as they were, also where a pass breaks off."""
        try:
            yield
        except BaseException:
            self._drawn = self._drawn or globals_moved(self._start)
            raise
        finally:
            self.rewind()

    @contextmanager
    def _replayed(self) -> Iterator[None]:
        """The random numbers of the passes, later on."""
        ours = states() if self.tape.generators else ()
        users = [(one, one.get_state()) for one in self.tape.drawn_from]
        others = global_states() if self._drawn else None
        self.rewind()
        try:
            yield
        finally:
            put_back(ours)
            for generator, state in users:
                generator.set_state(state)
            if others is not None and self._alone:
                put_back_globals(others)

    def _through(
        self, tensors: Sequence[Tensor], tape: Tape, pass_type: type[InputPass]
    ) -> Tensor:
        """A pass that begins again with copies of what it is about to write on."""
        lent = memory_of(tensors)
        while True:
            tape.lent = lent
            try:
                output = self._run(tensors, pass_type(tape))
            except (BeginAgain, Exception):
                if tape.overwritten is None:
                    raise
            if tape.overwritten is None:  # else also where the model caught it
                return output
            if tape.overwritten in lent:
                lent = frozenset()
            self._drawn = globals_moved(self._start)
            self.rewind()
            tape.clear()

    def _run(
        self, tensors: Sequence[Tensor], mode: InputPass | ReferencePass
    ) -> Tensor:
        """One pass over inputs or references, no leaves, and in rows of memory.

        Copies cost as much as a small model, and are made only where it writes on them.
        """
        tape = mode.tape
        with torch.enable_grad():
            given = [
                x.view_as(x) if tape.lent and x.is_contiguous() else x.clone()
                for x in tensors
            ]
            try:
                tape.enter(self.state)
                with mode:
                    return self.forward(*given, *self.args)
            finally:
                tape.leave()


def memory_of(tensors: Sequence[Tensor]) -> frozenset[int]:
    """Where tensors lie."""
    return frozenset(x.untyped_storage().data_ptr() for x in tensors)


_UNREPEATABLE = (
    "random numbers: the model does not give the same twice, though torch's generator "
    "stands where it did. Python's random and NumPy's generator are not set back while "
    "other threads may draw from them, so input and reference saw other numbers; give "
    "the model a generator of its own (random.Random, numpy.random.Generator), which "
    "every pass has a copy of"
)

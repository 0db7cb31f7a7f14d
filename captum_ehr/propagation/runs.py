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
from .state import address_of
from .tape import Tape
from .view import private_args

#: A function of tensors, and what it is given beside them.
type Forward = Callable[..., Tensor]


class Runs:
    """Runs a forward again and again, each time as if it were the first."""

    def __init__(self, forward: Forward, args: Sequence[Any], tape: Tape) -> None:
        self.forward = forward
        self.args, self.state = private_args(args)
        self._tape = ref(tape)  # which may hold these runs
        self._start, self._alone = global_states(), alone()
        self._end: Any = None  # where they stand after a pass that has drawn

    @property
    def tape(self) -> Tape:
        """What the input pass is recorded on; whoever runs passes has it."""
        tape = self._tape()
        assert tape is not None
        return tape

    def first(self, inputs: Sequence[Tensor], pass_type: type[InputPass]) -> Tensor:
        """The input pass.

        Where Python's or NumPy's generators have moved and other threads are running,
        nobody can tell who has drawn. A model that has not gives the same once more;
        one that has begins where it did, as all its passes will.
        """
        output = self._through(inputs, self.tape, pass_type)
        if not globals_moved(self._start):
            return output
        if not (self._alone and alone()):
            self._alone = False
            self._clear()
            again = self._through(inputs, self.tape, pass_type)
            if torch.allclose(again, output, equal_nan=True):
                return again
            self._clear()
            put_back_globals(self._start)
            output = self._through(inputs, self.tape, pass_type)
        self._end, self.tape.draws_globals = global_states(), True
        put_back_globals(self._start)
        return output

    def next(self, references: Sequence[Tensor], mode: ReferencePass) -> Tensor:
        """A reference pass."""
        with self._from_the_start():
            return self._run(references, mode)

    def aside(self, tensors: Sequence[Tensor]) -> Tensor:
        """What the model itself gives, recorded nowhere; generators stay."""
        tape, before = Tape(self.tape.table), states(self.tape.drawn_from)
        try:
            with self._from_the_start(), torch.no_grad():
                return self._through(tensors, tape, InputPass).detach()
        finally:
            put_back(tape.drawn_from | before)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """The generators are left as they were, also where a pass breaks off."""
        try:
            yield
        except BaseException:
            if self._alone and globals_moved(self._start):
                put_back_globals(self._start)
            raise
        finally:
            self.tape.rewind()

    def _clear(self) -> None:
        self.tape.rewind()
        self.tape.clear()

    @contextmanager
    def _from_the_start(self) -> Iterator[None]:
        """The random numbers of the first pass, once more.

        Python's and NumPy's generators go back to where others have left them; they
        stay where they are, and it is said, if others have drawn meanwhile.
        """
        self.tape.rewind()
        others = global_states() if self._end else None
        if others is not None:
            put_back_globals(self._start)
        try:
            yield
        finally:
            self.tape.rewind()
            if others is not None:
                if self._alone or not globals_moved(self._end):
                    put_back_globals(others)
                else:
                    self.tape.messages.append(_DISTURBED)

    def _through(
        self, tensors: Sequence[Tensor], tape: Tape, pass_type: type[InputPass]
    ) -> Tensor:
        """A pass that begins again with copies of what it is about to write on."""
        borrowed = memory_of(tensors)
        while True:
            tape.borrowed = borrowed
            try:
                output = self._run(tensors, pass_type(tape))
            except (BeginAgain, Exception):
                if tape.overwritten is None:
                    raise
            if tape.overwritten is None:  # else also where the model caught it
                return output
            if tape.overwritten in borrowed:
                borrowed = frozenset()
            self.tape.rewind()
            if self._alone and globals_moved(self._start):
                put_back_globals(self._start)
            tape.clear()

    def _run(
        self, tensors: Sequence[Tensor], mode: InputPass | ReferencePass
    ) -> Tensor:
        """One pass over inputs or references, no leaves, and in rows of memory.

        Copies cost as much as a small model, and are made only where it writes on them.
        """
        tape = mode.tape
        with torch.enable_grad():
            private = [
                x.view_as(x) if tape.borrowed and x.is_contiguous() else x.clone()
                for x in tensors
            ]
            try:
                tape.enter(self.state)
                with mode:
                    return self.forward(*private, *self.args)
            finally:
                tape.leave()


def memory_of(tensors: Sequence[Tensor]) -> frozenset[int]:
    """Where tensors lie."""
    return frozenset(map(address_of, tensors))


_DISTURBED = (
    "random numbers: the model draws from Python's random or NumPy's generator, and so "
    "did another thread meanwhile: input and reference saw other numbers. Give the "
    "model a generator of its own (random.Random, numpy.random.Generator), of which "
    "every pass has a copy"
)

"""Layers, and integer inputs, watched in both passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..propagation.calls import depends
from ..propagation.containers import tensors_in
from ..propagation.passes import InputPass
from ..propagation.view import active_pass
from .probes import Activations, Owner, Probe, patients_axis


class Seen(NamedTuple):
    """What a pass showed.

    Args:
        parts: What each watched layer takes or gives, one layer after the other.
        numbers: The floating-point tensors that were made of integer inputs.
    """

    parts: Activations
    numbers: Activations


class Watch:
    """Watches layers in every pass of a forward.

    Args:
        probes: One per layer.
    """

    def __init__(self, probes: Sequence[Probe]) -> None:
        self.probes = probes
        self.passes: list[Seen] = []
        self.inputs = 0
        self.numbers: list[Tensor] = []
        self.shapes: list[torch.Size] = []
        self.placed: list[Owner] = []

    def look(self, view: nn.Module) -> None:
        """Watch the layers of a view, anew each time that it starts to run."""
        for probe in self.probes:
            probe.look(view)
        forward = view.forward

        def anew(*args: Any, **kwargs: Any) -> Any:
            for probe in self.probes:
                probe.seen = []
            self.numbers = []
            return forward(*args, **kwargs)

        view.__dict__["forward"] = anew

    def watched(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A forward of that view, each of whose passes is kept.

        An input pass begins anew, also where it is run once more.
        """
        self.passes = []

        def kept(*args: Any) -> Any:
            mode = active_pass()
            if isinstance(mode, InputPass):
                self.passes = []
                self._count(forward, args, mode)
            with torch._C.DisableTorchFunction():
                own = [self._integers(a) for a in args[: self.inputs]]
            output = forward(*own, *args[self.inputs :])
            parts = tuple(part for probe in self.probes for part in probe.take())
            self.passes.append(Seen(parts, tuple(self.numbers)))
            return output

        return kept

    def owners(self, size: int) -> tuple[list[Owner], list[Owner]]:
        """Where the patients are, in the layers' tensors and in the numbers."""
        numbers: list[Owner] = [patients_axis(n, size) for n in self.numbers]
        owners = [one for p in self.probes for one in p.owners(size)]
        if self.placed:  # a later slice, which may be shorter
            pairs = zip(owners, self.placed)
            owners = [old if isinstance(old, int) else new for new, old in pairs]
        self.placed = owners
        return owners, numbers

    def same_shapes(self, rows: Sequence[Tensor]) -> None:
        """Check that slices of patients can be put together again.

        Raises:
            ValueError: If the layers' tensors are larger in one than in another.
        """
        shapes = [row.shape[1:] for row in rows]
        self.shapes = self.shapes or shapes
        if shapes != self.shapes:
            raise ValueError(
                "With internal_batch_size the layer's tensors differ in shape from "
                f"slice to slice: {[tuple(s) for s in self.shapes]}, then "
                f"{[tuple(s) for s in shapes]}. Explain all patients at once."
            )

    def mark(self, made: Any) -> Any:
        """What is made of integer inputs, as something to attribute to."""
        if isinstance(made, (tuple, list)):
            return type(made)(self.mark(item) for item in made)
        if not isinstance(made, Tensor) or made.dtype == torch.bool:
            return made
        if not made.is_floating_point():
            return Integers.of(made, self)
        if self.passes:  # the reference
            self.numbers.append(made.detach())
            return made
        with torch.enable_grad():
            leaf = made.detach().requires_grad_()
            self.numbers.append(leaf)
            return leaf.clone()

    def _integers(self, value: Any) -> Any:
        whole = isinstance(value, Tensor) and not value.is_floating_point()
        return Integers.of(value, self) if whole else value

    def _count(
        self, forward: Callable[..., Any], args: Sequence[Any], mode: InputPass
    ) -> None:
        """Turn calls that are counted from the last one into ones from the first."""
        late = [p for p in self.probes if p.call is not None and p.call < 0]
        if not late:
            return
        forward(*args)
        for probe in late:
            probe.take()  # says if there is no such call
            probe.call = len(probe.seen) + (probe.call or 0)
        mode.begin_again()


class Integers(Tensor):
    """Integer inputs; what becomes a number of them is marked (an embedding, say).

    A subclass sees the torch calls that it takes part in, and no others.
    """

    watch: Watch

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the call on plain tensors, and mark what it gives."""
        given = tuple(tensors_in((*args, *(kwargs or {}).values())))
        with torch._C.DisableTorchFunctionSubclass():
            made = func(*args, **(kwargs or {}))
            if made is None or any(made is t or depends(t) for t in given):
                return made
            watch: Watch = next(t.watch for t in given if isinstance(t, Integers))
            return watch.mark(made)

    @staticmethod
    def of(values: Tensor, watch: Watch) -> Integers:
        """Integers whose numbers a watch is told."""
        made: Integers = values.as_subclass(Integers)
        made.watch = watch
        return made

"""What layers take or give, and what integer inputs become, seen in both passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..adapter import PyHealthAdapter
from ..propagation.calls import depends
from ..propagation.containers import mapped, tensors_in
from ..propagation.passes import InputPass
from ..propagation.view import active_pass

#: What one call of a layer took or gave: its floating-point tensors.
type Activations = tuple[Tensor, ...]

#: Where the patients of a tensor are: an axis, the patient of each row (of a packed
#: sequence), or None where there are no patients.
type Owner = int | Tensor | None


class Probe:
    """Looks at one layer of a private view whenever it runs.

    Args:
        model: The explained model.
        layer: A module of it, or its path.
        of_input: Look at what the layer takes, not at what it gives.
        call: Which of its calls, where it runs several times.
        cut: Let the model go on from tensors of their own, as if these were its
            inputs: several tensors of a layer, one made of the other, are then
            independent of each other.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module | str,
        of_input: bool,
        call: int | None,
        cut: bool = False,
    ) -> None:
        self.path = layer_path(model, layer)
        self.of_input = of_input
        self.call = call
        self.cut = cut
        self.module: nn.Module | None = None
        self.seen: list[list[tuple[Tensor, Tensor | None]]] = []

    def look(self, view: nn.Module) -> None:
        """Have the layer of a view show what passes it."""
        module = self.module = view.get_submodule(self.path)
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"The layer {self.path!r} is TorchScript: nobody sees it.")
        forward = module.forward

        def shown(*args: Any, **kwargs: Any) -> Any:
            tensors: list[tuple[Tensor, Tensor | None]] = []
            cut = self.cut and (self.call or 0) == len(self.seen)
            if self.of_input:
                args = tuple(_split(a, tensors, cut) for a in args)
                kwargs = {key: _split(a, tensors, cut) for key, a in kwargs.items()}
                self.seen.append(tensors)
                return forward(*args, **kwargs)
            output = _split(forward(*args, **kwargs), tensors, cut)
            self.seen.append(tensors)
            return output

        module.__dict__["forward"] = shown

    def take(self) -> Activations:
        """What one call showed in the pass that has just run."""
        return tuple(tensor for tensor, _ in self._taken())

    def owners(self, size: int) -> list[Owner]:
        """Where the patients of each of these tensors are."""
        owners: list[Owner] = []
        for k, (tensor, rows) in enumerate(self._taken()):
            if rows is not None:
                owners.append(rows)
            elif isinstance(self.module, nn.RNNBase) and tensor.dim() == 3:
                owners.append(int(k > 0 or not self.module.batch_first))
            else:
                owners.append(patients_axis(tensor, size))
        return owners

    def _taken(self) -> list[tuple[Tensor, Tensor | None]]:
        seen = self.seen
        where = f"The layer {self.path!r}"
        if not seen:
            raise ValueError(
                f"{where} did not run; the model's forward never calls it."
            )
        if self.call is None and len(seen) > 1:
            raise ValueError(
                f"{where} ran {len(seen)} times; say which call is meant: call=0 to "
                f"call={len(seen) - 1}."
            )
        call = self.call or 0
        if not -len(seen) <= call < len(seen):
            raise ValueError(
                f"{where} ran {len(seen)} time(s); there is no call={call}."
            )
        if not seen[call]:
            side = "takes" if self.of_input else "gives"
            raise ValueError(f"{where} {side} no floating-point tensor.")
        return seen[call]


def patients_axis(tensor: Tensor, size: int) -> int | None:
    """The axis along which a tensor has its patients, None if it cannot be told."""
    if tensor.dim() and tensor.shape[0] == size:
        return 0
    axes = [axis for axis, length in enumerate(tensor.shape) if length == size]
    return axes[0] if len(axes) == 1 else None


def layer_path(model: nn.Module, layer: nn.Module | str) -> str:
    """Where a layer stands in the model; of an adapter, in the model it wraps."""
    features = model.features if isinstance(model, PyHealthAdapter) else ()
    inside: nn.Module = model.model if isinstance(model, PyHealthAdapter) else model
    kind = type(inside).__name__
    if isinstance(layer, str):
        path: str | None = layer if layer in dict(inside.named_modules()) else None
    else:
        path = next((n for n, m in inside.named_modules() if m is layer), None)
    if path is None:
        names = [name for name, _ in inside.named_modules() if name]
        some = ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
        what = repr(layer) if isinstance(layer, str) else type(layer).__name__
        raise ValueError(f"{kind} has no layer {what}; it has: {some}.")
    for feature in features:
        if feature.embedding == path:
            raise ValueError(
                f"The layer {path!r} embeds feature {feature.key!r}: its embeddings "
                "are an input; DeepLiftEHR with sum_tokens=False attributes to them."
            )
    return path


def _split(value: Any, tensors: list[tuple[Tensor, Tensor | None]], cut: bool) -> Any:
    """Keep each tensor, and hand on a copy, which may then be written on."""

    def copied(part: Any) -> Any:
        if isinstance(part, PackedSequence):
            data: list[tuple[Tensor, Tensor | None]] = []
            packed = part._replace(data=_split(part.data, data, cut))
            tensors.extend((tensor, _packed_patients(part)) for tensor, _ in data)
            return packed
        if not (part.is_floating_point() or part.is_complex()):
            return part
        if not cut:
            tensors.append((part, None))
            return part.clone()
        with torch._C.DisableTorchFunction(), torch.enable_grad():
            leaf = part.detach().requires_grad_()
            tensors.append((leaf, None))
            return leaf.clone()

    return mapped(copied, value, kind=(Tensor, PackedSequence))


def _packed_patients(packed: PackedSequence) -> Tensor:
    """The patient of each row of a packed sequence's data."""
    with torch._C.DisableTorchFunction():
        sizes = packed.batch_sizes.tolist()
        order = packed.sorted_indices
        if order is None:
            order = torch.arange(sizes[0], device=packed.data.device)
        return torch.cat([order[:n] for n in sizes])


#: From what a layer shows to one value per patient.
type Selector = int | tuple[int | slice, ...] | Callable[[Any], Tensor]


def neuron(activations: Activations, selector: Selector) -> Tensor:
    """One value per patient of what a layer shows, as Captum's neuron methods say.

    The selector is an index, or a tuple of one per dimension after the batch (the last
    may be left out where they have one entry), slices for several neurons, which are
    added up; or a function of the tensor (of the tuple, if there are several).
    """
    if callable(selector):
        chosen = selector(activations[0] if len(activations) == 1 else activations)
        if not isinstance(chosen, Tensor):
            raise ValueError(f"neuron_selector returned {type(chosen).__name__}.")
        return chosen.reshape(len(chosen), -1).sum(1)
    if len(activations) > 1:
        raise ValueError(
            f"The layer has {len(activations)} tensors; give a neuron_selector that is "
            "a function of them."
        )
    tensor = activations[0]
    index = selector if isinstance(selector, tuple) else (selector,)
    if len(index) >= tensor.dim() or tensor.shape[len(index) + 1 :].numel() != 1:
        raise ValueError(
            f"neuron_selector {selector!r} does not fit a layer of shape (batch, "
            f"{', '.join(map(str, tensor.shape[1:]))})."
        )
    try:
        chosen = tensor[(slice(None), *index)]
    except IndexError as error:
        raise ValueError(f"neuron_selector {selector!r}: {error}.") from None
    return chosen.reshape(len(tensor), -1).sum(1)


class Seen(NamedTuple):
    """What a pass showed: all layers' tensors, and the numbers.

    These are the floating-point tensors that were made of integer inputs.
    """

    parts: Activations
    numbers: Activations


class Watch:
    """Watches layers, each with its probe, in every pass of a forward."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self.probes = probes
        self.passes: list[Seen] = []
        self.inputs = self.patients = 0
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
                inputs = [
                    Integers.of(x, self) if not x.is_floating_point() else x
                    for x in args[: self.inputs]
                ]
            output = forward(*inputs, *args[self.inputs :])
            parts = tuple(part for probe in self.probes for part in probe.take())
            self.passes.append(Seen(parts, tuple(self.numbers)))
            return output

        return kept

    def owners(self, size: int) -> tuple[list[Owner], list[Owner]]:
        """Where the patients are, in the layers' tensors and in the numbers."""
        numbers: list[Owner] = [patients_axis(n, size) for n in self.numbers]
        owners = [owner for p in self.probes for owner in p.owners(size)]
        if self.placed:  # a later slice, which may be shorter
            pairs = zip(owners, self.placed)
            owners = [old if isinstance(old, int) else new for new, old in pairs]
        self.placed = owners
        return owners, numbers

    def same_shapes(self, rows: Sequence[Tensor]) -> None:
        """Check that slices of patients can be put together again."""
        shapes = [row.shape[1:] for row in rows]
        self.shapes = self.shapes or shapes
        if shapes != self.shapes:
            raise ValueError(
                "With internal_batch_size the layer's tensors differ in shape from "
                f"slice to slice: {[tuple(s) for s in self.shapes]}, then "
                f"{[tuple(s) for s in shapes]}. Explain all patients at once."
            )

    def mark(self, value: Any) -> Any:
        """What is made of integer inputs, as something to attribute to."""
        if isinstance(value, (tuple, list)):
            return type(value)(self.mark(item) for item in value)
        if not isinstance(value, Tensor) or value.dtype == torch.bool:
            return value
        if not value.is_floating_point():
            return Integers.of(value, self)
        if self.passes:  # the reference
            self.numbers.append(value.detach())
            return value
        with torch.enable_grad():
            leaf = value.detach().requires_grad_()
            self.numbers.append(leaf)
            return leaf.clone()

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
        tensors = tuple(tensors_in((*args, *(kwargs or {}).values())))
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
            if result is None or any(result is t or depends(t) for t in tensors):
                return result
            watch: Watch = next(t.watch for t in tensors if isinstance(t, Integers))
            return watch.mark(result)

    @staticmethod
    def of(values: Tensor, watch: Watch) -> Integers:
        """Integers whose numbers a watch is told."""
        integers: Integers = values.as_subclass(Integers)
        integers.watch = watch
        return integers

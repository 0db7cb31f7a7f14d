"""A batch by its plan: of what there is one, and how tensors go in and come out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules

from ..adapter import PyHealthAdapter
from ..explanation.explained import Contrast
from ..propagation import Diagnostics
from ..propagation.plans import Plans, compiled_for_all
from ..propagation.recording import PlanRefused
from ..propagation.watch import UnwatchableError
from .classes import ALL, Label
from .completeness import mixes
from .inputs import Prepared
from .result import Result
from .targets import Chosen, Targets, chosen, labels_of

#: Explains a slice of patients, each with a target, by the passes.
type Passes = Callable[[Prepared, Any], Result]


class _NoPlanError(Exception):
    """Why there can be no plan."""


def planned(
    plans: Plans,
    model: nn.Module,
    options: Hashable,
    prepared: Prepared,
    targets: Targets,
    passes: Passes,
    compile: bool = False,
) -> Result:
    """What the passes give, by a plan where there is one.

    Args:
        plans: The explainer's.
        model: What it explains.
        options: What the passes depend on beside their arguments and the model.
        prepared: A slice of patients, with one reference.
        targets: One for each; or None for the predicted classes, where they are, or
            every output.
        passes: The passes.
        compile: Whether one program for all sizes is made first.
    """
    try:
        plans.of(*_parts(model))
        given = _given(prepared)
    except (_NoPlanError, UnwatchableError) as reason:
        plans.refuse(str(reason))
        return uncompiled(passes(prepared, targets), str(reason), compile)
    plain = tuple(Tensor if isinstance(a, Tensor) else repr(a) for a in prepared.args)
    around = _surroundings(given)
    key: tuple[Hashable, ...] = (prepared.summed, plain, options, around)
    form = *map(_form, given), *key
    shape = plans.known.get(form)

    def by_passes() -> Result:
        result = passes(prepared, targets)
        plans.know(form, result.shape)
        return result

    try:
        target, way = _target(targets, model, shape)
    except (LookupError, ValueError):  # which the passes meet too, if it is one
        return by_passes()
    if isinstance(target, Chosen):
        given = [*given, target.places]

    def core(*tensors: Tensor) -> tuple[list[Tensor], Result]:
        piece, rest = _filled(prepared, tensors)
        result = passes(piece, Chosen(rest[0]) if rest else target)
        if reason := _unfit(result):
            raise PlanRefused(reason)
        if target is not targets and result.shape != shape:
            raise PlanRefused("the output's shape differs between batches of one form")
        held = result.tensors()
        return held, result.filled([torch.empty(0)] * len(held))

    key = *key, way
    sized = *map(_form, given), *key
    more = core, (lambda tensors, rest: rest.filled(tensors)), _unfit
    by_plan = partial(plans.run, sized, given, by_passes, *more)
    if not compile:
        return by_plan()
    general = *((x.dim(), x.dtype, x.device) for x in given), *key
    result = plans.run(general, given, by_plan, *more, compiled_for_all)
    return uncompiled(result, plans.reason(general))


def uncompiled(result: Result, why: str, compile: bool = True) -> Result:
    """The result; with a note, if a compiled program was wanted and there is none."""
    if not (compile and why):
        return result
    note = Diagnostics(notes=(f"compile=True has no effect: {why}",))
    return replace(result, diagnostics=result.diagnostics + note)


def _unfit(result: Result) -> str:
    """Why what led to a result is no plan for other batches."""
    if result.drawn:
        return "it draws random numbers"
    if result.diagnostics.structure:
        return "structure of the input is kept for the reference"
    if mixes(result.balance):
        return "the model mixes the patients of a batch"
    return ""


def _parts(model: nn.Module) -> tuple[list[Any], list[Any]]:
    """What the model's answer depends on, and what it does not: its data."""
    for hooks in ("_global_forward_hooks", "_global_forward_pre_hooks"):
        if getattr(modules, hooks):
            raise _NoPlanError("there are forward hooks for all modules")
    if torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack():
        raise _NoPlanError("a mode of torch's is active, which would see no calls")
    if not isinstance(model, PyHealthAdapter):
        return [model], []
    inside = model.model
    parts = [inside, model.features, model.score, model.extra_keys]
    dataset = getattr(inside, "dataset", None)
    processors = getattr(dataset, "input_processors", {})
    return parts, [dataset, *processors.values(), *model.features]


def _given(prepared: Prepared) -> list[Tensor]:
    """All tensors that an explanation starts from."""
    plain = (bool, int, float, str, type(None))
    for value in prepared.args:
        if not isinstance(value, (Tensor, *plain)):
            raise _NoPlanError(f"an additional argument is a {type(value).__name__}")
    tensors = [a for a in prepared.args if isinstance(a, Tensor)]
    tensors = [*prepared.inputs, *prepared.references[0], *tensors]
    for x in tensors:
        if type(x) not in (Tensor, nn.Parameter) or x.layout is not torch.strided:
            raise _NoPlanError(f"it is given a {type(x).__name__} of {x.layout}")
    return tensors


def _filled(
    like: Prepared, tensors: Sequence[Tensor]
) -> tuple[Prepared, Sequence[Tensor]]:
    """The slice with other tensors, and those that are left."""
    count = len(like.inputs)
    rest = iter(tensors[2 * count :])
    args = tuple(next(rest) if isinstance(a, Tensor) else a for a in like.args)
    piece = replace(
        like,
        inputs=tuple(tensors[:count]),
        references=(tuple(tensors[count : 2 * count]),),
        args=args,
        encoded=None,
        masks=None,
    )
    return piece, list(rest)


def _target(targets: Targets, model: nn.Module, shape: Any) -> tuple[Any, Hashable]:
    """The targets as the passes take them, and what a plan is bound to of them.

    Raises:
        LookupError: If a place in an output of this shape, which is not known of the
            first batch of a form, has to be looked up; or is not in it.
    """
    if targets is None or targets == ALL:
        return targets, targets
    if isinstance(targets, Chosen):
        return targets, "each"
    if all(t is targets[0] for t in targets) and isinstance(targets[0], _WRITTEN):
        return targets, repr(targets[0])  # True and 1 are equal
    if shape is None:
        raise LookupError("The output's shape is not known yet.")
    return chosen(targets, shape, labels_of(model)), "each"


#: Targets that are the same where they are written the same.
_WRITTEN = (int, str, tuple, Contrast, Label)


def _form(x: Tensor) -> Hashable:
    """All of a tensor but its values."""
    flags = x.requires_grad, x.is_inference(), x.is_conj(), x.is_neg()
    return x.shape, x.stride(), x.dtype, x.device, flags


def _surroundings(given: Sequence[Tensor]) -> Hashable:
    """What torch's functions depend on beside their arguments."""
    devices = {"cpu", "cuda", *(x.device.type for x in given)}
    casts = (
        (d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d))
        for d in sorted(filter(torch.amp.is_autocast_available, devices))
    )
    modes = torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()
    return torch.get_default_dtype(), *casts, *modes

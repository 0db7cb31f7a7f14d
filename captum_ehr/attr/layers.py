"""LayerDeepLiftEHR and NeuronDeepLiftEHR: inside the model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from captum.attr import LayerDeepLift, NeuronDeepLift
from captum.log import log_usage
from torch import Tensor, nn

from ..adapter import Baseline
from .completeness import (
    AttributionWarning,
    Completeness,
    CompletenessError,
    balance,
)
from .deep_lift import DeepLiftEHR
from .engine import View
from .inputs import Prepared
from .layer_engine import LayerEngine
from .layer_tap import Probe, Selector, Watch, layer_path, neuron
from .outputs import per_patient_output
from .result import Result
from .targets import Target, asked


class LayerDeepLiftEHR(LayerDeepLift):
    r"""DeepLIFT of what a layer gives (or takes): :math:`m_h\,(h(x) - h(x_0))`.

    The layer's tensors are taken as if they were the model's own inputs: the graph is
    cut there. So where a layer gives several tensors, one made of the other (all steps
    and the last one), nothing is counted twice: what goes through the last one counts
    there alone, and together they add up to what passes the layer. What goes past it
    (a residual connection, other features) is in none of them, also where what the
    layer takes is used elsewhere too; it is said, and left in the delta. Captum's own
    counts both several times.

    Args:
        model: See :class:`DeepLiftEHR`.
        layer: A module of the model (of the PyHealth model, not of its adapter), or
            its path in it; or a list of these, which are then cut all at once: of two
            in a row the first has what does not go through the second.
        multiply_by_inputs: As in Captum: False returns multipliers.
        completeness: ``"check"`` warns if the layer's attributions do not add up to
            f(x) - f(x0), and says how much goes past the layer; ``"raise"`` raises;
            ``"off"`` does nothing. Nothing is rescaled.
        **options: Of :class:`DeepLiftEHR`, but for ``sum_tokens``, ``segments`` and
            ``compile``.

    Raises:
        ValueError: If the model has no such layer, or it embeds a feature; or if an
            option is given that a layer cannot have.

    Example:
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> layer = LayerDeepLiftEHR(model, model.fc)
        >>> attributions, delta = layer.attribute(batch, return_convergence_delta=True)
        >>> bool(delta.abs().max() < 1e-5)  # everything passes the last layer
        True
    """

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module | str | Sequence[nn.Module | str],
        multiply_by_inputs: bool = True,
        *,
        completeness: Completeness = "check",
        **options: Any,
    ) -> None:
        _refuse(completeness, options)
        options["completeness"] = completeness
        self.engine = LayerEngine(model, multiply_by_inputs, **options)
        self.several = isinstance(layer, (list, tuple, nn.ModuleList))
        layers: Any = layer if self.several else [layer]
        self.paths = [layer_path(self.engine.model, module) for module in layers]
        super().__init__(self.engine.model, layer, multiply_by_inputs)

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Any,
        baselines: Baseline = None,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        custom_attribution_func: Callable[..., tuple[Tensor, ...]] | None = None,
        grad_kwargs: Mapping[str, Any] | None = None,
        *,
        call: int | None = None,
    ) -> Any:
        """Attributions of the target output to the layer.

        Args:
            inputs: See :meth:`DeepLiftEHR.attribute`; also integers, such as token ids
                in front of an embedding, with integers as reference.
            baselines: See :meth:`DeepLiftEHR.attribute`.
            target: See :meth:`DeepLiftEHR.attribute`.
            additional_forward_args: As for Captum.
            return_convergence_delta: Also return ``(batch,)``: the sum of the layer's
                attributions minus f(x) - f(x0). What goes past the layer is missing
                from it.
            attribute_to_layer_input: Attribute to what the layer takes.
            custom_attribution_func: As for Captum, of the layer's tensors.
            grad_kwargs: Captum's, for torch's gradients; of these options only
                ``materialize_grads=True`` has a meaning here, and always holds.
            call: Which call of the layer, where it runs several times in a forward.

        Returns:
            A tensor shaped like what the layer gives (or takes); a tuple of them if
            these are several; for a list of layers a list of these. For every output
            (``target="all"``) a tuple of what it is for each.

        Raises:
            CompletenessError: If they do not add up and ``completeness="raise"``.
            ValueError: If the layer does not run, or several times and ``call`` does
                not say which is meant; if its tensors have no patients and the delta
                is asked for.
        """
        if grad_kwargs and dict(grad_kwargs) != {"materialize_grads": True}:
            raise ValueError(
                f"grad_kwargs={dict(grad_kwargs)}: the multipliers are no gradients of "
                "torch's that these could be passed to."
            )
        engine = copy.copy(self.engine)
        to_input = attribute_to_layer_input
        engine.watch = watch = Watch(
            [Probe(engine.model, path, to_input, call, cut=True) for path in self.paths]
        )
        prepared, result = engine.run(
            inputs, baselines, target, additional_forward_args, custom_attribution_func
        )
        shaped, deltas = [], []
        for each in result.outputs_of(prepared):
            past = each.attributions[-1]
            if engine.multiplies_by_inputs and custom_attribution_func is None:
                self._say(each, past)
            if return_convergence_delta:
                deltas.append(self._delta(each, past))
            shaped.append(self._shaped(each, watch))
        if return_convergence_delta:
            return asked(target, shaped), asked(target, deltas)
        return asked(target, shaped)

    def _shaped(self, result: Result, watch: Watch) -> Any:
        """The attributions in the form of what the layers give or take."""
        *rows, _ = result.attributions
        parts = [  # the patients where the layer has them
            part.movedim(0, owner) if isinstance(owner, int) else part
            for part, owner in zip(rows, watch.placed)
        ]
        grouped = [
            group[0] if len(group) == 1 else tuple(group)
            for group in ([parts.pop(0) for _ in p.take()] for p in watch.probes)
        ]
        return grouped if self.several else grouped[0]

    def _delta(self, result: Result, past: Tensor) -> Tensor:
        """What the layers' attributions miss of f(x) - f(x0), or have too much."""
        if bool(past.isnan().any()) and not bool(result.f_input.isnan().any()):
            raise ValueError(
                f"The layer {', '.join(self.paths)!r} gives or takes a tensor without "
                "an axis for the patients: there is no residual per patient."
            )
        return result.balance.delta - past

    def _say(self, result: Result, past: Tensor) -> None:
        """Say how much goes past the layer, if it is more than rounding."""
        mode = self.engine.completeness
        change = result.f_input - result.f_baseline
        through = change + result.balance.delta - past
        off = balance((through.unsqueeze(1),), result.f_input, result.f_baseline).off
        off = off & ~result.balance.off & (past.abs() > result.balance.bound)
        if mode == "off" or not bool(off.any()):
            return
        part = (past.abs() / change.abs())[off].max().item()
        size = "all of it" if part == float("inf") else f"up to {part:.2g} of it"
        words = (
            f"layer {', '.join(map(repr, self.paths))}: f(x) - f(x0) goes past it, for "
            f"patient(s) {off.nonzero().flatten().tolist()} {size}; that is in none of "
            "its attributions"
        )
        if mode == "raise":
            raise CompletenessError(words)
        warnings.warn(words, AttributionWarning, stacklevel=4)


def _refuse(completeness: str, options: Mapping[str, Any]) -> None:
    """Refuse what makes no sense of a layer."""
    if completeness == "rescale":
        raise ValueError(
            "completeness='rescale': what goes past a layer is in none of its "
            "attributions, so there is nothing to scale them to; it is 'check', "
            "'raise' or 'off'."
        )
    if options.get("sum_tokens"):
        raise ValueError(
            "sum_tokens=True: a layer's tensors keep their shape; sum them over the "
            "dimension that you mean."
        )
    _refuse_compiling(options)
    if options.get("segments", 1) != 1:
        raise ValueError(
            f"segments={options['segments']}: a layer's values do not follow the "
            "inputs' straight line, so there are no pieces of it; leave it at 1."
        )


def _refuse_compiling(options: Mapping[str, Any]) -> None:
    if options.get("compile"):
        raise ValueError(
            "compile=True: an explanation of a layer has no plan; leave it out."
        )


class NeuronDeepLiftEHR(NeuronDeepLift):
    """DeepLIFT of one neuron of a layer with respect to the inputs.

    Args:
        model: See :class:`DeepLiftEHR`.
        layer: A module of the model (of the PyHealth model, not of its adapter), or
            its path in it.
        multiply_by_inputs: As in Captum: False returns multipliers.
        **options: Of :class:`DeepLiftEHR`, but for ``output`` and ``compile``.

    Raises:
        ValueError: If the model has no such layer, or it embeds a feature; or if an
            option is given that a neuron cannot have.

    Example:
        >>> import torch
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> neuron = NeuronDeepLiftEHR(model, model.fc)
        >>> attributions = neuron.attribute(batch, 0)
        >>> same = DeepLiftEHR(model).attribute(batch)  # fc's only neuron is the logit
        >>> torch.allclose(attributions["conditions"], same["conditions"], atol=1e-6)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module | str,
        multiply_by_inputs: bool = True,
        **options: Any,
    ) -> None:
        _refuse_compiling(options)
        if options.get("output", "logit") != "logit":
            raise ValueError(
                f"output={options['output']!r}: a neuron is explained, and not the "
                "model's output; leave it out."
            )
        self.engine = _NeuronEngine(model, multiply_by_inputs, **options)
        self.path = layer_path(self.engine.model, layer)
        super().__init__(model, layer, multiply_by_inputs)

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Any,
        neuron_selector: Selector,
        baselines: Baseline = None,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        custom_attribution_func: Callable[..., tuple[Tensor, ...]] | None = None,
        *,
        call: int | None = None,
    ) -> Any:
        """Attributions of a neuron to the inputs.

        Args:
            inputs: See :meth:`DeepLiftEHR.attribute`.
            neuron_selector: As for Captum: an index, a tuple of indices or slices, or
                a function of what the layer gives.
            baselines: See :meth:`DeepLiftEHR.attribute`.
            additional_forward_args: As for Captum.
            attribute_to_neuron_input: Explain what the layer takes.
            custom_attribution_func: As for Captum.
            call: Which call of the layer, where it runs several times in a forward.

        Returns:
            Attributions in the form of the inputs; see :meth:`DeepLiftEHR.attribute`.

        Raises:
            ValueError: If the selector does not fit the layer, or the layer runs
                several times and ``call`` does not say which is meant.
        """
        engine = copy.copy(self.engine)
        engine.probe = Probe(engine.model, self.path, attribute_to_neuron_input, call)
        engine.selector = neuron_selector
        return engine.attribute(
            inputs,
            baselines,
            None,
            additional_forward_args,
            False,
            custom_attribution_func,
        )


class _NeuronEngine(DeepLiftEHR):
    """Explains a neuron in place of the model's output."""

    probe: Probe
    selector: Selector

    def _single(self, prepared: Prepared, target: Any) -> Result:
        """Always by the passes, which alone run the layer."""
        return self._slice(prepared, target, None, False)

    def _rounded_at(self, index: Tensor, *outputs: Tensor) -> None:
        """A neuron is what the model has rounded, whatever its output is."""

    def forward_view(self, look: Callable[[nn.Module], object] | None = None) -> View:
        """A forward that returns the neuron."""
        view = self.model_view(Watch([self.probe]).look)

        def chosen(*args: Any) -> Tensor:
            view.forward(*args)
            return neuron(self.probe.take(), self.selector)

        forward = per_patient_output(chosen, "The neuron's layer")
        return View(forward, {}, view.rewrites)

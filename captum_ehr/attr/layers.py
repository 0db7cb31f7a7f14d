"""LayerDeepLiftEHR and NeuronDeepLiftEHR: inside the model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from captum.attr import LayerDeepLift, NeuronDeepLift
from captum.attr._utils.common import _call_custom_attribution_func
from captum.log import log_usage
from torch import Tensor, nn

from ..adapter import Baseline
from ..propagation import Tape, multipliers, recorded, settled
from .completeness import AttributionWarning
from .deep_lift import DeepLiftEHR
from .engine import Engine
from .probes import Activations, Probe, Selector, layer_path, neuron
from .targets import Target, select, select_again


class LayerDeepLiftEHR(LayerDeepLift):
    r"""DeepLIFT of what a layer gives (or takes): :math:`m_h\,(h(x) - h(x_0))`.

    Args:
        model: See :class:`DeepLiftEHR`.
        layer: A module of the model (of the PyHealth model, not of its adapter), or
            its path in it.
        multiply_by_inputs: As in Captum: False returns multipliers.
        **options: Of :class:`DeepLiftEHR`: ``rules``, ``output``, ``attribute_time``.

    Raises:
        ValueError: If the model has no such layer, or it embeds a feature; or if
            ``segments`` are asked for, as a layer's values follow no straight line.

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
        layer: nn.Module | str,
        multiply_by_inputs: bool = True,
        **options: Any,
    ) -> None:
        self.engine = Engine(model, multiply_by_inputs, **options)
        if self.engine.segments != 1:
            raise ValueError(
                f"segments={self.engine.segments}: a layer's values do not follow the "
                "inputs' straight line, so there are no pieces of it; leave it at 1."
            )
        path = layer_path(self.engine.model, layer)
        super().__init__(self.engine.model, layer, multiply_by_inputs)
        self.path = path

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
            inputs: See :meth:`DeepLiftEHR.attribute`.
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
            these are several.

        Raises:
            ValueError: If the layer does not run, or several times and ``call`` does
                not say which is meant.
        """
        if grad_kwargs and dict(grad_kwargs) != {"materialize_grads": True}:
            raise ValueError(
                f"grad_kwargs={dict(grad_kwargs)}: the multipliers are no gradients of "
                "torch's that these could be passed to."
            )
        engine = self.engine
        probe = Probe(engine.model, self.path, attribute_to_layer_input, call)
        with torch.inference_mode(False):
            own = engine.prepare(inputs, baselines, additional_forward_args).fresh()
            forward, labels = engine.forward_view(probe.look)
            forward = probe.watched(forward)
            tape = Tape(engine.table)

            def attempt() -> tuple[Tensor, Tensor, Activations, Activations]:
                with recorded(forward, own.inputs, own.args, tape) as (output, against):
                    value, index = select(output, target, labels)
                    found = probe.take()
                    reference = select_again(against(own.references[0]), index)
                    return value, reference, found, probe.take()

            value, reference, found, references = settled(tape, attempt)
            ms = multipliers(value, found)
            references = tuple(r.detach() for r in references)
        found = tuple(h.detach() for h in found)
        if custom_attribution_func is not None:
            parts = tuple(
                _call_custom_attribution_func(
                    custom_attribution_func, ms, found, references
                )
            )
        elif self.multiplies_by_inputs:
            parts = tuple(m * (h - r) for m, h, r in zip(ms, found, references))
        else:
            parts = ms
        for message in tape.diagnostics().messages:
            warnings.warn(message, AttributionWarning, stacklevel=3)
        shaped = parts if len(parts) > 1 else parts[0]
        if not return_convergence_delta:
            return shaped
        return shaped, _residual(parts, value.detach() - reference, self.path)


class NeuronDeepLiftEHR(NeuronDeepLift):
    """DeepLIFT of one neuron of a layer with respect to the inputs.

    Args:
        model: See :class:`DeepLiftEHR`.
        layer: A module of the model (of the PyHealth model, not of its adapter), or
            its path in it.
        multiply_by_inputs: As in Captum: False returns multipliers.
        **options: Of :class:`DeepLiftEHR`.

    Raises:
        ValueError: If the model has no such layer, or it embeds a feature.

    Example:
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
        self.options = {"multiply_by_inputs": multiply_by_inputs, **options}
        engine = Engine(model, **self.options)
        self.path = layer_path(engine.model, layer)
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
        engine = _NeuronEngine(self.forward_func, **self.options)
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

    def forward_view(
        self, look: Callable[[nn.Module], object] | None = None
    ) -> tuple[Callable[..., Tensor], Mapping[Any, int]]:
        """A forward that returns the neuron."""
        forward, _ = super().forward_view(self.probe.look)
        forward = self.probe.watched(forward)

        def chosen(*args: Any) -> Tensor:
            forward(*args)
            return neuron(self.probe.take(), self.selector)

        return chosen, {}


def _residual(parts: Activations, change: Tensor, path: str) -> Tensor:
    """Σ attributions - (f(x) - f(x0)), per patient."""
    for part in parts:
        if part.dim() == 0 or len(part) != len(change):
            raise ValueError(
                f"The layer {path!r} has shape {tuple(part.shape)}, not {len(change)} "
                "patients along dimension 0: there is no residual per patient."
            )
    total = torch.stack([p.reshape(len(p), -1).double().sum(1) for p in parts]).sum(0)
    return (total - change.double()).to(change.dtype)

"""DeepLiftEHR: Captum's DeepLift with exact multipliers, on any model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, overload

from captum.log import log_usage
from torch import Tensor

from ..adapter import Baseline, PyHealthAdapter
from ..explanation import Explanation
from ..explanation.labels import Grouping
from .assembly import assembled, in_words
from .classes import is_all
from .inputs import in_form
from .questions import Questions
from .result import Result
from .targets import Target, asked


class DeepLiftEHR(Questions):
    r"""DeepLIFT for electronic health records, exact for every operation.

    Captum's ``DeepLift.attribute`` runs; the multipliers come from
    :mod:`captum_ehr.propagation`, so modules used twice, functional calls, gates,
    attention, normalisation and recurrent layers are all exact: the attributions add
    up to f(x) - f(x0) before any rescaling. The model is not touched: it is explained
    in eval mode on a private view of its modules.

    (Shrikumar et al., Learning Important Features Through Propagating Activation
    Differences, 2017: Rescale rule; Aumann & Shapley, 1974, for products.)

    Args:
        model: A PyHealth model, a :class:`PyHealthAdapter`, or any ``nn.Module``,
            which is then taken as it is.
        multiply_by_inputs: As in Captum: False returns multipliers.
        eps: As in Captum; nothing here needs it.
        sum_tokens: Sum attributions over the embedding dimension, for batches and
            (embedding, mask) pairs. Tensors and tuples keep the inputs' shapes.
        completeness: The raw residual is always measured first. ``"rescale"`` then
            polishes rounding away, and like ``"check"`` warns, naming the operations,
            where it is more than rounding (which is never rescaled); ``"raise"``
            raises there; ``"off"`` does nothing.
        output: ``"logit"``, or ``"probability"`` to explain the probability.
        attribute_time: Also attribute to the times of features that have some
            (StageNet's), under ``"<feature key>.time"``, adding up with the rest.
        rules: From torch function or ``nn.Module`` type to a rule of your own, for
            this explainer alone; see :func:`captum_ehr.propagation.elementwise`.
        mixing: For models whose patients influence each other within a batch:
            ``"apart"`` explains each with the others held fixed, at the price of a
            run per patient; ``"together"`` gives each one's part in all of the
            batch's scores, which add up over the batch alone.
        internal_batch_size: Explain so many patients at a time, to bound memory;
            with several references so many rows, a patient having one for each that is
            taken at the same time.
        segments: Take the line from reference to input in so many pieces, each exact.
            More come nearer to Integrated Gradients' limit, at as many times the
            price; see :mod:`captum_ehr.attr.segments`.
        compile: Make one program for batches of all sizes, by :func:`torch.compile`;
            for many batches, as it takes from half a minute to some minutes. Where
            that cannot be, ``diagnostics.notes`` say why, and plans are used.
            Interactions, audits and the like take the passes.

    From the third batch of the same shapes on, a plan is run in place of the passes,
    with the same results: see :attr:`plans`.

    Raises:
        TypeError: If the model is no ``nn.Module``, or a rule not callable.
        ValueError: If an option is unknown, or ``output="probability"`` is asked of a
            model that is not PyHealth's.

    Example:
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> dl = DeepLiftEHR(model)
        >>> attributions, delta = dl.attribute(batch, return_convergence_delta=True)
        >>> attributions["conditions"].shape == batch["conditions"].shape
        True
        >>> bool(delta.abs().max() < 1e-5)
        True
    """

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Any,
        baselines: Baseline = None,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: Callable[..., tuple[Tensor, ...]] | None = None,
    ) -> Any:
        """Attributions of the target output to the inputs.

        Args:
            inputs: A tensor or tuple of tensors, as for Captum; (embedding, mask)
                pairs; an :class:`EncodedBatch`; or a batch of PyHealth's data loader.
            baselines: For batches and pairs what :meth:`PyHealthAdapter.baseline`
                takes, ``"unk"`` by default; for tensors what Captum takes, 0 by
                default.
            target: None for the predicted class of each patient; an index; a label of
                the dataset (:func:`captum_ehr.label` where a number is both); a tuple
                ``(a, b)`` for class a rather than b, which is
                :func:`captum_ehr.contrast`; a tuple of indices for outputs of more
                dimensions; or a list or tensor with one per patient. ``"all"`` is
                every output, from one input pass. A one-logit binary model has one
                output, the positive label's: None, 0, or that label.
            additional_forward_args: As for Captum; batches and ``enc.pairs`` bring
                their own.
            return_convergence_delta: Also return ``(batch,)`` raw residuals, Σ
                attributions - (f(x) - f(x0)), before any rescaling.
            custom_attribution_func: As for Captum: from multipliers, inputs and
                baselines to attributions. Completeness is then not looked after.

        Returns:
            Attributions in the form of the inputs: shaped like them for tensors and
            tuples; for a batch a dict per feature key, shaped like the token ids or
            raw values; for pairs a tuple, likewise. For ``target="all"`` a tuple of
            these, one per output in their order, and likewise of the residuals.

        Raises:
            CompletenessError: If they do not add up and ``completeness="raise"``.
            DivergenceError: If the model takes another path on the reference.
            IndexError: If a target is out of range; the message names the range.
            KeyError: If it is no label of the dataset; the message names these.
            ValueError: If it does not fit the output, is an index and another class's
                label, or the contrast of a class with itself.
        """
        prepared, result = self.run(
            inputs,
            baselines,
            target,
            additional_forward_args,
            custom_attribution_func,
            tokens=self.sum_tokens,
        )
        outputs = result.outputs_of(prepared)
        parts = [one.attributions for one in outputs]
        shaped = asked(
            target, [in_form(prepared, p, self.model, self.sum_tokens) for p in parts]
        )
        delta = asked(target, [one.balance.delta for one in outputs])
        return (shaped, delta) if return_convergence_delta else shaped

    @overload
    def explain(
        self,
        batch: Any,
        baselines: Baseline = "unk",
        *,
        target: Literal["all"],
        names: Grouping | None = None,
    ) -> dict[str, Explanation]: ...

    @overload
    def explain(
        self,
        batch: Any,
        baselines: Baseline = "unk",
        target: Target = None,
        names: Grouping | None = None,
    ) -> Explanation: ...

    def explain(
        self,
        batch: Any,
        baselines: Baseline = "unk",
        target: Target = None,
        names: Grouping | None = None,
    ) -> Explanation | dict[str, Explanation]:
        """Attributions with all that it takes to read them.

        Args:
            batch: A batch of PyHealth's data loader, or an encoded one.
            baselines: See :meth:`PyHealthAdapter.baseline`.
            target: See :meth:`attribute`.
            names: Human names of codes; see :meth:`Explanation.with_names`.

        Returns:
            The explanation; for ``target="all"`` one for each output by its name, in
            their order. :meth:`Explanation.concat` makes one of these, of which tables
            have rows for each output.

        Raises:
            TypeError: If the model is not PyHealth's, or the batch no batch.
            ValueError: If the explainer returns multipliers, or the target is wrong;
                see :meth:`attribute`.

        Example:
            >>> from captum_ehr.datasets import tiny_model
            >>> model, batch = tiny_model()
            >>> list(DeepLiftEHR(model).explain(batch, target="all"))
            ['label']
        """
        pairs = self._explained(batch, baselines, target, names)
        each = [explanation for explanation, _ in pairs]
        if is_all(target):
            return {one.target_label(0): one for one in each}
        return each[0]

    def _explained(
        self,
        batch: Any,
        baselines: Any,
        target: Target,
        names: Grouping | None,
        per_reference: bool = False,
    ) -> list[tuple[Explanation, Result]]:
        """The explanation of each output that is asked for, with what it is made of."""
        if not self.multiplies_by_inputs:
            raise ValueError(
                "explain needs multiply_by_inputs=True: multipliers have no sum."
            )
        prepared, whole = self.run(
            batch, baselines, target, None, None, per_reference, tokens=True
        )
        if prepared.encoded is None or not isinstance(self.model, PyHealthAdapter):
            raise TypeError(
                "explain takes a batch; use attribute for tensors and pairs."
            )
        references = prepared.references
        words = in_words(baselines, len(references))
        given = self.model, prepared.encoded, references
        each = []
        for result in whole.outputs_of(prepared):
            one = assembled(*given, result, self.output, words)
            each.append((one if names is None else one.with_names(names), result))
        return each

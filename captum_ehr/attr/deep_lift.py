"""DeepLiftEHR: Captum's DeepLift with exact multipliers, on any model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from captum.log import log_usage
from torch import Tensor, nn

from ..adapter import Baseline, EncodedBatch, Name, PyHealthAdapter
from ..adapter.fast_stagenet import use_fast_forward
from ..explanation import Explanation, Interactions, WhatIf
from ..explanation.labels import Grouping
from ..propagation import (
    AuditTape,
    TwoSided,
    foreign_functions,
    multipliers,
    two_passes,
)
from .assembly import assembled, assembled_pairs, in_words
from .completeness import AttributionWarning, CompletenessError
from .engine import Engine
from .inputs import Prepared, in_form
from .options import counts
from .pairwise import Scored, pairs_of, rows_at_once
from .result import Result
from .targets import Chosen, Target, rounded_at, select, select_again
from .what_if import answered

if TYPE_CHECKING:
    import pandas as pd


class DeepLiftEHR(Engine):
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
                the dataset; a tuple for outputs of more dimensions; or a list or
                tensor with one per patient. A one-logit binary model has one output,
                the positive label's: None, 0, or that label.
            additional_forward_args: As for Captum; batches and ``enc.pairs`` bring
                their own.
            return_convergence_delta: Also return ``(batch,)`` raw residuals, Σ
                attributions - (f(x) - f(x0)), before any rescaling.
            custom_attribution_func: As for Captum: from multipliers, inputs and
                baselines to attributions. Completeness is then not looked after.

        Returns:
            Attributions in the form of the inputs: shaped like them for tensors and
            tuples; for a batch a dict per feature key, shaped like the token ids or
            raw values; for pairs a tuple, likewise.

        Raises:
            CompletenessError: If they do not add up and ``completeness="raise"``.
            DivergenceError: If the model takes another path on the reference.
        """
        prepared, result = self.run(
            inputs,
            baselines,
            target,
            additional_forward_args,
            custom_attribution_func,
            tokens=self.sum_tokens,
        )
        shaped = in_form(prepared, result.attributions, self.model, self.sum_tokens)
        return (shaped, result.balance.delta) if return_convergence_delta else shaped

    def explain(
        self,
        batch: Any,
        baselines: Baseline = "unk",
        target: Target = None,
        names: Grouping | None = None,
    ) -> Explanation:
        """Attributions with all that it takes to read them.

        Args:
            batch: A batch of PyHealth's data loader, or an encoded one.
            baselines: See :meth:`PyHealthAdapter.baseline`.
            target: See :meth:`attribute`.
            names: Human names of codes; see :meth:`Explanation.with_names`.

        Raises:
            TypeError: If the model is not PyHealth's, or the batch no batch.
            ValueError: If the explainer returns multipliers.
        """
        if not self.multiplies_by_inputs:
            raise ValueError(
                "explain needs multiply_by_inputs=True: multipliers have no sum."
            )
        prepared, result = self.run(batch, baselines, target, None, None, tokens=True)
        if prepared.encoded is None or not isinstance(self.model, PyHealthAdapter):
            raise TypeError(
                "explain takes a batch; use attribute for tensors and pairs."
            )
        references = prepared.references
        words = in_words(baselines, len(references))
        explanation = assembled(
            self.model, prepared.encoded, references, result, self.output, words
        )
        return explanation if names is None else explanation.with_names(names)

    def interactions(
        self,
        batch: Any,
        baselines: Baseline = "unk",
        target: Target = None,
        players: str = "code",
        among: int | None = None,
    ) -> Interactions:
        """Which players of each patient's record act together, in this model.

        Of n players it takes 2n + 1 explanations, as rows of one batch where they are
        few (``internal_batch_size`` bounds them), all for the output that is explained
        of the record itself.

        Args:
            batch: A batch of PyHealth's data loader, or an encoded one.
            baselines: See :meth:`PyHealthAdapter.baseline`.
            target: See :meth:`attribute`.
            players: Who they are; see :meth:`PyHealthAdapter.feature_mask`.
            among: Only so many of each patient's players, those with the largest
                attributions; all where there are fewer, or by default.

        Raises:
            TypeError: If the model is not PyHealth's, or the batch no batch.
            ValueError: If there are no such players, ``among`` is no positive integer,
                the explainer returns multipliers, or the model's score of a patient
                depends on who else is in the batch (give such patients one by one).
            CompletenessError: If rows do not add up and ``completeness="raise"``.

        Example:
            >>> from captum_ehr.datasets import tiny_model
            >>> model, batch = tiny_model()
            >>> pairs = DeepLiftEHR(model).interactions(batch, among=3)
            >>> len(pairs["p1"].to_frame())
            3
        """
        if among is not None and not counts(among):
            raise ValueError(f"among={among!r}; a whole number, at least 1, or None.")
        if not self.multiplies_by_inputs:
            raise ValueError(
                "interactions needs multiply_by_inputs=True: multipliers have no sum."
            )
        grad = torch.is_grad_enabled()
        with torch.set_grad_enabled(grad), torch.inference_mode(False):
            scored, encoded = self._scored(batch, baselines, target, players)
            limit = self.internal_batch_size
            step = limit or rows_at_once(self.model, scored.prepared)
            found = pairs_of(scored, among, self._row_results, step)
        words = in_words(baselines, len(scored.prepared.references))
        pairs = assembled_pairs(self.model, encoded, scored, found, self.output, words)
        if self.completeness == "raise" and any(bool(r.off.any()) for r in found.rows):
            raise CompletenessError(" ".join(pairs.diagnostics.messages))
        for message in pairs.diagnostics.messages:
            warnings.warn(message, AttributionWarning, stacklevel=2)
        return pairs

    def _scored(
        self, batch: Any, baselines: Baseline, target: Target, players: str
    ) -> tuple[Scored, EncodedBatch]:
        """The patients of a batch as they are, and whom they consist of."""
        prepared = self.prepare(batch, baselines, None).in_sums(self.model)
        encoded = prepared.encoded
        if encoded is None or not isinstance(self.model, PyHealthAdapter):
            raise TypeError("interactions takes a batch, and a PyHealth model.")
        mask = self.model.feature_mask(encoded, players)
        value, index = self._scores(prepared, target)
        coarse = rounded_at(self.model, self.output, value)
        largest = 0.0 if coarse is None else float(coarse.max())
        checked = self.completeness != "off"
        return Scored(prepared, mask, value, index, largest, checked), encoded

    def _row_results(self, rows: Prepared, chosen: Chosen) -> Result:
        """The explanation of rows, of which nothing is said yet."""
        result = self._slice(rows, chosen, None, False)
        return result.rescaled() if self.completeness == "rescale" else result

    def what_if(
        self,
        batch: Any,
        remove: str | Iterable[Name] = (),
        set: Mapping[Name, float] | None = None,
        *,
        baselines: Baseline = "unk",
        target: Target = None,
        how: Literal["drop", "reference"] = "drop",
    ) -> WhatIf:
        """The model's own answer without a code, or with another value.

        The honest check of an explanation: what the model itself then says, beside what
        the attributions say that it would. It takes a forward for each change and, of
        several, one for all together; the batch is not touched.

        Args:
            batch: A batch of PyHealth's data loader, or an encoded one.
            remove: Codes to take away, wherever they stand in a record: ``"I50.9"``,
                ``("drugs", "N02BE01")`` where several features have such a code, or
                with a visit (from 0, as in ``to_frame``) behind it.
            set: From a column of values, named likewise, to the value that stands there
                instead, in the units of the data, at all steps that the record has or
                in the one visit; what is missing (NaN) or padding stays so.
            baselines: See :meth:`PyHealthAdapter.baseline`; what the attributions are
                measured from.
            target: See :meth:`attribute`; for both records it is the original's.
            how: ``"drop"``: the record as if the code had never been in it: the tokens
                behind it move up, the row is padded to the batch's width, a visit that
                is left empty stays (as PyHealth's processors write it), a time that is
                the token's own goes along, a category becomes 0. ``"reference"``: it is
                put to its reference, which is the change that its attribution is a
                share of; columns of values may then be removed as well.

        Raises:
            KeyError: If there is no such feature, code or column; near ones are named.
            TypeError: If the model is not PyHealth's, or the batch no batch.
            ValueError: If a name fits several features or asks for a visit where there
                are none, nothing is asked for, a value is not finite, ``how`` is
                unknown, the explainer returns multipliers or attributes patients
                together, there are several references to remove to, or the model reads
                other entries place by place with the tokens to drop.

        Example:
            >>> from captum_ehr.datasets import tiny_model
            >>> model, batch = tiny_model()
            >>> answers = DeepLiftEHR(model).what_if(batch, remove=["I50.9"])
            >>> answers.to_frame()["places"].tolist()
            [1, 0, 0, 1]
        """
        return answered(self, batch, remove, set, baselines, target, how)

    def audit(
        self,
        inputs: Any,
        baselines: Baseline = None,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> pd.DataFrame:
        """The account of an explanation, operation by operation.

        Where attributions do not add up, the operations that lose the difference come
        first. Takes what :meth:`attribute` takes, the whole batch in one run and the
        line from the reference in one segment.

        Returns:
            A frame with a row per operation, module and rule, the largest residual
            first: ``operation``, ``module`` (its path, ``""`` for the model itself),
            ``calls``, ``rule``, ``exact``, ``share`` (how much of ``Σ|f(x) - f(x0)|``
            over the patients flows through the output of these calls: operations in a
            row each carry it again, those side by side divide it and may cancel) and
            ``residual`` (how much of it they lose: Σ over the calls of
            ``|Σ m·Δin - Δout|``). The last two rows are what came past every rule,
            linear operations where all is well, and the whole explanation.

        Example:
            >>> from captum_ehr.datasets import tiny_model
            >>> model, batch = tiny_model()
            >>> account = DeepLiftEHR(model).audit(batch)
            >>> bool(account["residual"].max() < 1e-5)
            True
        """
        with torch.inference_mode(False):
            prepared = self.prepare(inputs, baselines, additional_forward_args).fresh()
            tape = AuditTape(self.table)

            def follow(inside: nn.Module) -> None:
                use_fast_forward(inside)  # the account is of what is explained
                tape.follow(inside)

            view = self.forward_view(follow)
            inputs, baselines = prepared.inputs, prepared.references[0]
            sides = two_passes(
                view.forward, inputs, baselines, prepared.args, tape=tape
            )
            value, index = select(sides.output, target, view.labels)
            reference = select_again(sides.reference_output, index)
            return _audited(sides, tape, value, reference, inputs, baselines)


def _audited(
    sides: TwoSided,
    tape: AuditTape,
    value: Tensor,
    reference: Tensor,
    inputs: tuple[Tensor, ...],
    baselines: tuple[Tensor, ...],
) -> pd.DataFrame:
    """Run the backward pass on the batch's change, and draw up the account.

    Every patient counts with the sign of its change, so that increases and decreases
    do not cancel; all shares are of the sum of the changes' absolute values.
    """
    import pandas as pd

    change = value.detach() - reference
    whole = change.abs().sum().clamp_min(torch.finfo(change.dtype).tiny)
    ms = multipliers(value * (change.sign() / whole), inputs)
    with torch.no_grad():
        parts = zip(ms, inputs, baselines)
        total = sum(float((m * (x - b)).double().sum()) for m, x, b in parts)
    delta = total - float((change.abs().sum() / whole).item())
    columns = "operation module calls rule exact share residual".split()
    table = pd.DataFrame(tape.lines(), columns=columns)
    table = table.sort_values("residual", ascending=False, kind="stable")
    foreign = foreign_functions(sides.output)
    name = ", ".join(foreign) or "linear operations"
    rest = [name, "", 0, "autograd", not foreign, float("nan"), abs(delta - tape.net())]
    table.loc[len(table)] = rest
    table.loc[len(table)] = ["all together", "", 0, "", True, 1.0, abs(delta)]
    exact = table["exact"].astype(bool)
    return table.assign(exact=exact).reset_index(drop=True)

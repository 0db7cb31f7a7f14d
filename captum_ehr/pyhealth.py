"""DeepLiftEHR as one of PyHealth's own interpreters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyhealth.interpret.methods import BaseInterpreter
from torch import Tensor, nn

from .adapter import Baseline, PyHealthAdapter
from .attr import DeepLiftEHR
from .attr.classes import Label, alike, plain
from .attr.targets import Target


class DeepLift(BaseInterpreter):
    """In the place of ``pyhealth.interpret.methods.DeepLift``, and exact.

    PyHealth's evaluators, metrics and ensembles take it as it is. It differs in what
    it says, and in what it takes and leaves:

    - The multipliers are those of :class:`captum_ehr.DeepLiftEHR`, so attributions
      add up to f(x) - f(x0) before anything is rescaled.
    - The default reference is ``"unk"``: the UNK token at real tokens, 0 for values
      and categories; padding stays padding and gets exactly 0. PyHealth's own, UNK on
      padding too and 0.01 for values, is ``baseline="pyhealth"``.
    - Every PyHealth model will do, with or without ``Interpretable``. It is neither
      put into eval mode nor changed in any other way, and may be shared by threads.

    Args:
        model: A PyHealth model, in any mode; or a :class:`captum_ehr.PyHealthAdapter`,
            for a model of your own that needs describing.
        use_embeddings: As in PyHealth: False says that all features are continuous.
            Their raw values are attributed to either way.
        baseline: The name of the reference where :meth:`attribute` is given none, as
            by PyHealth's evaluators and ensembles.
        **options: Further options of :class:`captum_ehr.DeepLiftEHR`, such as
            ``completeness`` and ``internal_batch_size``.

    Raises:
        TypeError: If it is not a PyHealth model.
        ValueError: If ``use_embeddings=False`` and a feature is made of tokens.

    Example:
        >>> from captum_ehr.datasets import tiny_model
        >>> from captum_ehr.pyhealth import DeepLift
        >>> model, batch = tiny_model()
        >>> attributions = DeepLift(model)(**batch)
        >>> {key: tuple(value.shape) for key, value in attributions.items()}
        {'conditions': (4, 3), 'labs': (4, 2)}
    """

    def __init__(
        self,
        model: nn.Module,
        use_embeddings: bool = True,
        *,
        baseline: str = "unk",
        **options: Any,
    ) -> None:
        # BaseInterpreter's own constructor would leave the model in eval mode.
        if not isinstance(model, PyHealthAdapter):
            timed = options.pop("attribute_time", False)
            model = PyHealthAdapter(model, attribute_time=timed)
        self.adapter = model
        self.model = self.adapter.model
        tokens = [f.key for f in self.adapter.features if f.embedding is not None]
        if tokens and not use_embeddings:
            raise ValueError(
                f"use_embeddings=False, but {', '.join(map(repr, tokens))} is made of "
                "tokens, whose ids are no quantities to attribute to. Leave "
                "use_embeddings=True: continuous features keep their raw values."
            )
        self.use_embeddings = use_embeddings
        self.baseline = baseline
        self.explainer = DeepLiftEHR(self.adapter, **options)

    def attribute(
        self,
        baseline: Baseline = None,
        target_class_idx: Target = None,
        **batch: Any,
    ) -> dict[str, Tensor]:
        """Attributions of the target logit to every token and value of a batch.

        Args:
            baseline: The reference, as :meth:`captum_ehr.PyHealthAdapter.baseline`
                takes it: a name, or a mapping from feature key to raw values (token
                ids too, or a whole tuple as in the batch) or to embeddings. Features
                that it lacks take the default; a mapping that has them all, such as
                another batch, may hold other entries beside them.
            target_class_idx: None for the predicted class of each patient; the index
                or label of one for all; a contrast; or a list or tensor of these, one
                per patient; see :meth:`captum_ehr.DeepLiftEHR.attribute`.
                A binary model's one logit is explained whichever of its two is named,
                as by PyHealth's.
            **batch: The entries of the data loader's batch: tensors, or tuples in the
                processor's schema. Those that are no features are ignored.

        Returns:
            For each feature key a tensor shaped like the feature's ids or values.

        Raises:
            KeyError: If a feature is missing, or the baseline names an unknown one.
            ValueError: If an entry or baseline does not fit its feature.
            IndexError: If a target is out of range; the message names the range.
        """
        if baseline is None:
            baseline = self.baseline
        elif isinstance(baseline, Mapping):
            baseline = self._completed(baseline)
        if self.adapter.mode == "binary":
            target_class_idx = _whichever(target_class_idx, self.adapter.labels)
        return self.explainer.attribute(batch, baseline, target_class_idx)

    def _completed(self, baseline: Mapping[str, Any]) -> dict[str, Any]:
        """A reference for every feature; of a whole batch, only the features."""
        keys = [f.key for f in self.adapter.features if f.owner is None]
        if all(key in baseline for key in keys):
            known = self.adapter.feature_keys
            return {key: part for key, part in baseline.items() if key in known}
        return {**dict.fromkeys(keys, self.baseline), **baseline}


def _whichever(target: Any, labels: Mapping[Any, int]) -> Any:
    """The positive class of two where the negative one is named."""
    column = hasattr(target, "to_numpy")  # of a table
    target = plain(target.to_numpy() if column else target)
    if isinstance(target, list):
        return [_whichever(part, labels) for part in target]
    value = target.value if isinstance(target, Label) else target
    return 1 if value == 0 or 0 in alike(value, labels) else target

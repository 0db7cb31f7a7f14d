"""PyHealthAdapter: any PyHealth model as a function of float tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from ..explanation import FeatureKeyError
from ..propagation import private_view
from . import beside
from .baselines import Baseline, at_positions, reference
from .encoded import EncodedBatch, as_batch, patient_ids
from .feature_masks import FeatureMask, feature_mask
from .features import Feature
from .known_models import description, without_loss
from .lookups import rows, run
from .observations import Observations, ValueRange
from .packing import Entry, assumed, extra, misfits, own, packed, unpacked
from .schema import any_number, describe, target_names, times, zero_labels
from .token_ids import Lookup
from .vocabularies import check_dataset

#: Puts a model's modules aside for an explanation; see propagation.private_view.
Viewer = Callable[[nn.Module], Any]


class PyHealthAdapter(nn.Module):
    """Makes a PyHealth model a Captum-compatible forward function.

    The model's own ``forward`` runs, in eval mode and on a private view of its
    modules, with the given embeddings put in where its embedding tables would have
    looked up the token ids. No mask, label or default is added, so the output equals
    ``model.eval()(**batch)["logit"]``; the model itself is not touched. Models need
    not implement PyHealth's ``Interpretable``.

    Args:
        model: A PyHealth model, in any mode, on any device.
        embeddings: Where a feature's embedding table is, for models of your own:
            feature key to module path. By default the ``nn.Embedding`` whose name
            ends in the feature key.
        score: The key of the model's output to explain: by default ``"logit"``, or
            ``"y_prob"`` for the medication models, which return no logit.
        extra_keys: Batch entries besides features and labels that the model's
            forward reads; tensors with the batch as dimension 0.
        attribute_time: Also give the times of each feature that has some (StageNet's)
            as an input of its own, ``"<feature key>.time"``, after the features.

    Raises:
        TypeError: If it is not a PyHealth model.
        ValueError: If a token feature has no embedding table.

    Example:
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> adapter = PyHealthAdapter(model)
        >>> enc = adapter.encode(batch)
        >>> logits = adapter(*enc.inputs, *enc.additional_forward_args)
        >>> torch.equal(logits, model.eval()(**batch)["logit"])
        True
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        embeddings: Mapping[str, str] | None = None,
        score: str | None = None,
        extra_keys: Sequence[str] = (),
        attribute_time: bool = False,
    ) -> None:
        super().__init__()
        known = description(model)
        tables = {**known.embeddings, **(embeddings or {})}
        structure = [key for key in known.structure if key not in tables]
        features = describe(model, tables, structure)
        self.features: tuple[Feature, ...] = features
        if attribute_time:
            self.features = (*features, *times(features))
        self.model: Any = model
        self.score = known.score if score is None else score
        self.extra_keys = (*structure, *extra_keys)
        self.observations = Observations(self.model.dataset)
        self._losses = known.losses
        self._is_view = False
        self._traces = True
        #: How the model looks ids up, as far as it is known; private copies share it.
        self._habits: dict[str, bool] = {}

    @cached_property
    def ranges(self) -> dict[str, ValueRange]:
        """The range of each column of continuous values in the model's dataset."""
        return self.observations.ranges(self.features)

    @property
    def feature_keys(self) -> tuple[str, ...]:
        """The feature keys, in the order of the inputs."""
        return tuple(feature.key for feature in self.features)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return any_number(self.model).device

    @property
    def mode(self) -> str | None:
        """PyHealth's word for the label: binary, multiclass, multilabel, regression."""
        return getattr(self.model, "mode", None)

    @property
    def scale(self) -> str:
        """What the score is: ``"logit"`` or ``"probability"``."""
        probable = self.score == "y_prob" and self.mode != "regression"
        return "probability" if probable else "logit"

    @property
    def labels(self) -> dict[Any, int]:
        """The label vocabulary of the dataset: from label to index."""
        for key in getattr(self.model, "label_keys", ()):
            processor = self.model.dataset.output_processors.get(key)
            return dict(getattr(processor, "label_vocab", {}))
        return {}

    @property
    def target_names(self) -> tuple[str, ...] | None:
        """The name of each output: a binary model's positive, a regression's label."""
        return target_names(self.model, self.labels)

    def encode(self, batch: Mapping[str, Any]) -> EncodedBatch:
        """A data loader's batch as inputs, masks and additional arguments.

        Args:
            batch: What PyHealth's data loader yields, one entry per feature key: a
                tensor, or a tuple of tensors in the processor's schema, with or
                without a mask appended. A single sample of the dataset is a batch of
                one patient. Other entries are not needed: ``"<feature key>_measured"``,
                shaped like the values, says which of them were measured; those with one
                word, number or truth value per sample (a label, sex, age) are kept.

        Returns:
            The encoded batch, on the model's device.

        Raises:
            TypeError: If the batch is no mapping, or an entry no tensor.
            KeyError: If a feature key is missing.
            ValueError: If an entry does not fit its schema or values, is infinite, is
                empty, or has another number of patients than the others.
        """
        batch = as_batch(batch, self.features)
        wanted = (*(feature.source for feature in self.features), *self.extra_keys)
        missing = [key for key in wanted if key not in batch]
        if missing:
            raise FeatureKeyError(
                f"The batch lacks {', '.join(map(repr, missing))}, which the model "
                f"reads. It has: {', '.join(map(repr, batch))}."
            )
        device = self.device
        inputs, rest, records = [], [], {}
        with torch.inference_mode(False), torch.no_grad():
            for feature in self.features:
                parts = own(feature.read(batch[feature.source]), device)
                ids = parts["value"]
                inputs.append(self.embed(feature, ids) if feature.embedding else ids)
                rest += packed(feature, parts)
                record = feature.record(parts)
                records[feature.key] = beside.with_measured(record, feature.key, batch)
            more = own({key: extra(batch, key) for key in self.extra_keys}, device)
        sizes = {key: len(record.values) for key, record in records.items()}
        sizes |= {key: len(part) for key, part in more.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"The entries differ in their number of patients: {sizes}."
            )
        rest += more.values()
        floats = tuple(
            x.detach() if x.is_floating_point() else x.float() for x in inputs
        )
        ids = patient_ids(batch, next(iter(sizes.values())))
        masks = tuple(record.mask for record in records.values())
        known = beside.sample_columns(batch, len(ids), self.model, wanted)
        return EncodedBatch(floats, masks, tuple(rest), records, ids, floats, known)

    def baseline(
        self,
        batch: Mapping[str, Any] | EncodedBatch,
        baselines: Baseline = "unk",
        *,
        dataset: Any = None,
    ) -> tuple[Tensor, ...]:
        """The reference of a batch: a tuple like ``encode(batch).inputs``.

        Padding stays padding: masked positions keep the input's own values, in every
        reference but ``"pyhealth"`` and tuples of tensors, which are taken as they are.

        Args:
            batch: A data loader's batch, or an encoded one.
            baselines: ``"unk"`` (the UNK token for tokens, 0 for values), ``"pad"``
                (absence: the zero embedding, 0 for values), ``"typical"`` (UNK for
                tokens, the dataset's median for values), ``"mean"`` or ``"median"`` of
                the dataset, ``"pyhealth"`` (what PyHealth's DeepLift takes: UNK also
                on padding, 0.01 for values); a mapping from feature key to one of
                these names, to a number, to raw values as the data loader gives them
                (tuples included) or to embeddings, others taking the default; or a
                callable that is given the encoded batch and returns such a mapping,
                or a tuple of tensors.
            dataset: For its mean and median; the model's by default.

        Raises:
            ValueError: If the name is unknown, or a shape or the dataset does not fit.
            KeyError: If the mapping names a feature that the model does not have.
        """
        encoded = self._encoded(batch)
        held = self.observations
        if dataset is not None:
            check_dataset(self.features, self.model, dataset)
            held = Observations(dataset)
        with torch.inference_mode(False), torch.no_grad():
            return reference(self.features, self.embed, encoded, baselines, held)

    def patient_baselines(
        self,
        batch: Mapping[str, Any] | EncodedBatch,
        patients: Mapping[str, Any] | EncodedBatch,
    ) -> tuple[tuple[Tensor, ...], ...]:
        """One reference per reference patient, at the explained ones' positions.

        A reference's tokens and values stand at the explained patient's positions;
        where it has none is nothing (the zero embedding, 0), and more is left out.

        Args:
            batch: The explained patients: a data loader's batch, or an encoded one.
            patients: The reference patients, likewise.

        Returns:
            Per reference patient a tuple of tensors like ``encode(batch).inputs``.
        """
        encoded, others = self._encoded(batch), self._encoded(patients)
        return tuple(
            self.baseline(encoded, values)
            for values in at_positions(self.features, encoded, others)
        )

    def feature_mask(
        self, batch: Mapping[str, Any] | EncodedBatch, players: str = "code"
    ) -> FeatureMask:
        """What Captum's perturbation methods take away together, as feature_mask.

        Padding is a player of its own, whose removal changes nothing, but for
        FeaturePermutation, which puts there what other patients have.

        Args:
            batch: A data loader's batch, or an encoded one.
            players: ``"code"``: all occurrences of a code, or all steps of a column
                of values; ``"token"``: each token or value; ``"visit"``: visit k in
                all features that have visits or steps, each other feature as a whole;
                ``"feature"``: each feature. For FeaturePermutation, which exchanges
                patients, only the last two are the same thing in each.

        Returns:
            A tuple of integer tensors, ``(patients, positions ..., 1)`` for tokens
            and shaped like the values for others. Its ``players`` names them.

        Raises:
            ValueError: If there are no such players, or the features' visits differ.

        Example:
            >>> from captum_ehr.datasets import tiny_model
            >>> model, batch = tiny_model()
            >>> mask = PyHealthAdapter(model).feature_mask(batch)
            >>> [player.code for player in mask.players[0]]
            ['I50.9', 'N18.3', 'I10', 'labs[0]', 'labs[1]']
        """
        return feature_mask(self._encoded(batch), players)

    def _encoded(self, batch: Mapping[str, Any] | EncodedBatch) -> EncodedBatch:
        return batch if isinstance(batch, EncodedBatch) else self.encode(batch)

    def embed(self, feature: Feature, ids: Tensor) -> Tensor:
        """Look token ids up in the feature's own table: ``(*ids.shape, width)``."""
        assert feature.embedding is not None
        table = self.model.get_submodule(feature.embedding)
        try:
            return rows(table, ids)
        except IndexError:
            raise ValueError(
                f"Feature {feature.key!r}: token ids from {int(ids.min())} to "
                f"{int(ids.max())}, but its table {feature.embedding!r} has "
                f"{len(table.weight)} rows. Is the batch of another dataset?"
            ) from None

    def private(self, viewer: Viewer = private_view) -> PyHealthAdapter:
        """This adapter over a private view of the model, made once for many calls."""
        copy = PyHealthAdapter.__new__(PyHealthAdapter)
        nn.Module.__init__(copy)
        copy.features, copy.score = self.features, self.score
        copy.extra_keys, copy._losses = self.extra_keys, self._losses
        copy.model = without_loss(viewer(self.model), self._losses)
        copy._is_view = True
        copy._habits, copy._traces = self._habits, self._habits.get("traces", True)
        copy.training = False
        return copy

    def forward(self, *args: Tensor) -> Tensor:
        """The model's score for given embeddings and values.

        Args:
            *args: ``*enc.inputs, *enc.additional_forward_args``; or (embedding, mask)
                pairs as ``enc.pairs`` has them, followed by the rest.

        Returns:
            ``(batch, outputs)``, what the model itself returns as its logit.
        """
        if not self._is_view:
            grad = torch.is_grad_enabled()
            return self.private().forward(*map(_tracked, args) if grad else args)
        with torch._C.DisableTorchFunction():  # no part of the model
            entries, more = self._entries(args)
        return self._score(self._run(entries, more))

    def _entries(self, args: Sequence[Any]) -> tuple[list[Entry], dict[str, Any]]:
        """The parts of each feature's entry, and the batch's other entries."""
        count = len(self.features)
        inputs = [x[0] if isinstance(x, (tuple, list)) else x for x in args[:count]]
        rest_args = args[count:] if len(args) > count else self.assumed_args(args)
        entries, rest = unpacked(self.features, inputs, rest_args)
        if len(rest) != len(self.extra_keys):
            raise ValueError(
                f"{len(rest_args)} additional arguments, expected "
                f"{len(rest_args) - len(rest) + len(self.extra_keys)} as in "
                "enc.additional_forward_args."
            )
        more = dict(zip(self.extra_keys, rest))
        more |= zero_labels(self.model, inputs[0].shape[0], inputs[0].device)
        return entries, more

    def _run(self, entries: Sequence[Entry], more: Mapping[str, Any]) -> Any:
        """What the view returns, the embeddings put in where it looks tokens up."""
        lookups = {}
        for e in entries:
            key, path, ids = e.feature.key, e.feature.embedding, e.parts["value"]
            if path is not None:
                table = ref(self.model.get_submodule(path))
                lookups[key] = Lookup(key, path, table, e.given, ids)

        def model(ids: Callable[[Lookup], Tensor]) -> Any:
            known = {key: ids(lookup) for key, lookup in lookups.items()}
            batch = {e.feature.key: e.whole(known.get(e.feature.key)) for e in entries}
            return self.model(**batch, **more)

        try:
            output, traced = run(model, tuple(lookups.values()), self._traces)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            said = misfits(entries, any_number(self.model).dtype)
            if not said:
                raise
            raise ValueError(" ".join(said)) from error
        self._habits["traces"] = self._habits.get("traces", False) or traced
        return output

    def _score(self, output: Any) -> Tensor:
        try:
            score = output[self.score]
        except (KeyError, TypeError, IndexError):
            keys = ", ".join(map(repr, output)) if isinstance(output, Mapping) else "?"
            raise FeatureKeyError(
                f"{type(self.model).__name__} returns no {self.score!r}; it returns "
                f"{keys}. Say which with PyHealthAdapter(model, score=...)."
            ) from None
        return score

    def assumed_args(self, pairs: Sequence[Any]) -> list[Tensor]:
        """The additional arguments of bare pairs; see :func:`.packing.assumed`."""
        if self.extra_keys:
            raise ValueError(
                f"The model needs more than embeddings: {', '.join(self.extra_keys)}. "
                "Pass additional_forward_args=enc.additional_forward_args."
            )
        return assumed(self.features, pairs)


def _tracked(part: Any) -> Any:
    """Needing a gradient, as a model's activations do; Captum hooks them for it."""
    if isinstance(part, (tuple, list)):
        return (_tracked(part[0]), *part[1:])
    if not part.is_floating_point() or part.requires_grad or part.is_inference():
        return part
    return part.detach().requires_grad_()

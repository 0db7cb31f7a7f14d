"""PyHealth's models and DeepLiftEHR inside Captum's own Captum Insights.

Captum Insights left Captum with 0.9; the extra ``captum-ehr[captum-insights]`` brings
the last one that goes with PyHealth 2. Nothing of Captum's is changed: its classes are
subclassed, its page, its server and its other attribution methods are its own.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice, repeat
from typing import Any, NamedTuple

import captum
import pandas as pd
import torch
from captum.attr import FeatureAblation, Occlusion
from torch import Tensor, nn

from ..adapter import Baseline, EncodedBatch, PyHealthAdapter
from ..adapter.encoded import like
from ..attr import DeepLiftEHR
from ..attr.captums import once, windows
from ..explanation import Explanation
from ..explanation.feature_record import Words
from ..scene.wording import number
from .explainer import unexplained
from .output_head import Head
from .sources import PyHealthSource

try:
    from captum.insights.attr_vis.app import (
        AttributionVisualizer,
        FilterConfig,
        OutputScore,
        SampleCache,
        VisualizationOutput,
    )
    from captum.insights.attr_vis.features import GeneralFeature, TextFeature
except ImportError as error:
    # The bridge can be imported without it, for its documentation, not used.
    MISSING: ImportError | None = error
    AttributionVisualizer = GeneralFeature = TextFeature = object
else:
    MISSING = None

#: The name under which our method stands in Captum's list.
METHOD = DeepLiftEHR.__name__

#: The class of patients who have none of a multilabel model's labels.
NO_LABEL = "(no label)"

_PERTURBING = (FeatureAblation.get_name(), Occlusion.get_name())
_log = logging.getLogger(__name__)


def captum_visualizer(
    model: nn.Module,
    dataset: Any = None,
    classes: Sequence[str] | None = None,
    *,
    baselines: Baseline = "unk",
    names: Words | None = None,
    num_examples: int = 4,
    **options: Any,
) -> Any:
    """A Captum Insights visualizer of a PyHealth model's patients.

    Codes become text features (one word per real token, padding left out) and values
    general features; masks, ids and times are additional arguments; a model with one
    logit has two classes, whose attributions differ in sign. Patients are encoded one
    at a time, when the page fetches them, and the last ones kept: after training on,
    make another.

    Args:
        model: A PyHealth classifier, or a :class:`~captum_ehr.PyHealthAdapter` of one.
        dataset: PyHealth samples (anything with ``len`` and integer indices); by
            default those of the model.
        classes: The name of each class, in the order of the label vocabulary; by
            default the labels. A model with one logit has two.
        baselines: See :meth:`~captum_ehr.PyHealthAdapter.baseline`, for all methods.
        names: Human names of codes, shown after the code, and of values, shown in its
            place; or such a table per feature key.
        num_examples: How many patients a fetch shows.
        **options: Of :class:`~captum_ehr.DeepLiftEHR`, ``rules`` or ``completeness``
            for example.

    Returns:
        A ``captum.insights.AttributionVisualizer``, with ``serve``, ``render`` and
        ``visualize``. Its list of methods begins with ``DeepLiftEHR``. Each feature
        of its output also has ``attributions``: what is drawn, before Captum Insights
        scales it, in the units of the model's score.

    Raises:
        ImportError: If Captum Insights is not installed.
        TypeError: If the model is not PyHealth's.
        OSError: From ``serve``, if the port is in use.
        ValueError: If it is no classifier, has no patients or labels, or ``classes``
            does not fit it.

    Example:
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()  # doctest: +SKIP
        >>> visualizer = captum_visualizer(
        ...     model, classes=["survived", "died"]
        ... )  # doctest: +SKIP
        >>> visualizer.serve(port=8080)  # doctest: +SKIP
        8080
    """
    if MISSING is not None:
        raise ImportError(
            f"Captum Insights cannot be imported ({MISSING}); Captum here is "
            f"{captum.__version__}, and Captum Insights left it with 0.9. Install it "
            "with pip install 'captum-ehr[captum-insights]', in an environment of its "
            "own, or use captum_ehr.insights.AttributionVisualizer, which needs no "
            "Captum Insights."
        ) from MISSING
    explainer = DeepLiftEHR(model, **options)
    adapter = explainer.model
    if not isinstance(adapter, PyHealthAdapter):
        adapter = PyHealthAdapter(model)  # says what is wrong with it
    if adapter.mode not in ("binary", "multiclass", "multilabel"):
        raise ValueError(
            f"Captum Insights shows classes, and {type(adapter.model).__name__} is "
            f"a {adapter.mode} model; use DeepLiftEHR(model).explain(batch)."
        )
    if num_examples < 1:
        raise ValueError(f"num_examples is {num_examples}, expected at least 1.")
    source = PyHealthSource(
        [adapter],
        adapter.model.dataset if dataset is None else dataset,
        {"given": baselines},
        groups={},
        classes=classes,
        block=1,
        kept=64,
    )
    if any(label is None for label in source.labels):
        raise ValueError(
            f"The samples have no label {adapter.model.label_keys[0]!r}; Captum "
            "Insights shows every patient's actual class and cannot do without."
        )
    return EHRVisualizer(source, explainer, names or {}, num_examples)


class FeatureOutput(NamedTuple):
    """Captum Insights' ``FeatureOutput``, and what it was scaled from.

    Args:
        name: The feature key.
        base: What is shown: words, or values with their names.
        modified: Percent of the largest absolute attribution of the feature (text),
            or of their L2 norm (general); what Captum Insights draws.
        type: ``"text"`` or ``"general"``.
        contribution: The feature's part of the ``Σ |sum over a feature|``.
        attributions: One number per entry of ``base``, in units of the score.
    """

    name: str
    base: list[str]
    modified: list[float]
    type: str
    contribution: float
    attributions: list[float]


class CodesFeature(TextFeature):
    """Tokens as text: a word for each real token, in the order of the record."""

    def visualize(
        self, attribution: Tensor, data: pd.DataFrame, contribution_frac: float
    ) -> FeatureOutput:
        """Codes with their names; a visit's first one says which visit it is."""
        words, last = [], -1
        for code, name, visit in zip(data["code"], data["name"], data["visit"]):
            word = code if name == code else f"{code} {name}"
            first = pd.notna(visit) and visit != last
            words.append(f"visit {visit + 1}: {word}" if first else word)
            last = visit
        return _scaled(self, words, attribution, contribution_frac, math.inf)


class ValuesFeature(GeneralFeature):
    """Values, multi-hot categories and series as a bar each."""

    def visualize(
        self, attribution: Tensor, data: pd.DataFrame, contribution_frac: float
    ) -> FeatureOutput:
        """Values with their names, and the step where there are steps."""
        steps = [f", step {k + 1}" if pd.notna(k) else "" for k in data["visit"]]
        said = map("{}{}: {}".format, data["name"], steps, map(number, data["value"]))
        return _scaled(self, list(said), attribution, contribution_frac, 2)


class ClassScores(nn.Module):
    """A PyHealth classifier with one score per class, as Captum Insights needs it."""

    def __init__(self, adapter: PyHealthAdapter, head: Head) -> None:
        super().__init__()
        self.adapter, self.head = adapter, head
        self.eval()

    def forward(self, *args: Tensor) -> Tensor:
        """``(patients, classes)``: one logit z as the classes -z and z."""
        score = self.adapter(*args)
        if self.head.mode == "binary":
            return torch.cat([-score, score], dim=1)
        if self.head.mode == "multilabel":
            return torch.cat([score, 0 * score[:, :1]], dim=1)
        return score


class EHRVisualizer(AttributionVisualizer):
    """Captum Insights' visualizer of patients; made by :func:`captum_visualizer`."""

    def __init__(
        self,
        source: PyHealthSource,
        explainer: DeepLiftEHR,
        names: Words,
        num_examples: int,
    ) -> None:
        self.source, self.explainer, self.names = source, explainer, names
        self.adapter, self.head = source.adapters[0], source.head(0)
        classes = [*self.head.classes]
        if self.head.mode == "multilabel":
            classes.append(NO_LABEL)
        features = [
            ValuesFeature(feature.key, [])
            if feature.embedding is None
            else CodesFeature(feature.key, None, None, None)
            for feature in self.adapter.features
        ]
        rows = range(len(source.ids))
        scores = ClassScores(self.adapter, self.head)
        super().__init__(scores, classes, features, rows)
        self.num_examples = num_examples
        self._config = FilterConfig(METHOD, {}, num_examples=num_examples)
        self._dataset_iter = chain.from_iterable(repeat(rows))
        self._busy = threading.Lock()

    def get_insights_config(self) -> dict[str, Any]:
        """What the page offers: Captum's methods, and ours before them."""
        config = super().get_insights_config()
        return {**config, "methods": [METHOD, *config["methods"]]}

    def visualize(self) -> list[Any]:
        """The next patients that the filters let through, as many as there are.

        Each patient once at most, going on where the last fetch stopped; Captum's own
        goes on looking until it has enough, for ever if nobody matches.
        """
        with self._busy:
            rows = islice(self._dataset_iter, len(self.dataset))
            samples = (SampleCache(row, None, self._label(row)) for row in rows)
            outputs = ((self._calculate_vis_output(*s), s) for s in samples)
            matches = (pair for pair in outputs if pair[0] is not None)
            self._outputs = list(islice(matches, self._config.num_examples))
            return [output for output, _ in self._outputs]

    def _calculate_vis_output(
        self,
        inputs: int,
        additional_forward_args: None,
        label: int,
        target: Any = None,
        single_model_index: int | None = None,
    ) -> list[Any] | None:
        """One patient, by its row, in Captum's form; None if filtered out."""
        encoded = self.source.encode([inputs])
        chances = self.head.probabilities(self.source.score(encoded)[0].cpu())
        assert chances is not None
        if self.head.mode == "binary":
            chances = torch.cat([1 - chances, chances])
        best = chances.topk(min(4, len(chances)))  # as many as Captum Insights lists
        predicted = self.attribution_calculation._get_labels_from_scores(*best)
        actual = OutputScore(100, label, self.classes[label])
        if not self._should_keep_prediction(predicted, actual):
            return None
        target = int(predicted[0].index if target is None else target)
        explanation = self._explanation(encoded, target)
        parts = tuple(explanation.attributions.values())
        contributions = self.attribution_calculation.calculate_net_contrib(parts)
        frame = explanation.to_frame()
        outputs = []
        for feature, contribution in zip(self.features, contributions):
            rows = frame[frame["feature"] == feature.name]
            each = torch.tensor(rows["attribution"].to_numpy())
            outputs.append(feature.visualize(each, rows, contribution))
        return [VisualizationOutput(outputs, actual, predicted, target, 0)]

    def _label(self, row: int) -> int:
        """The actual class; of several labels the first, of none the one after."""
        classes = self.head.actual(self.source.labels[row])
        return classes[0] if classes else len(self.classes) - 1

    def _explanation(self, encoded: EncodedBatch, target: int) -> Explanation:
        """Attributions of a class, by ours or one of Captum's; padding gets 0."""
        reference = self.source.reference(encoded, "given")
        if self._config.attribution_method != METHOD:
            parts = self._captums(encoded, reference, target)
            sums, features = encoded.attributed(parts, torch.tensor([True]))
            explanation = replace(unexplained(encoded), features=features)
        else:
            output, sign = target, 1
            if self.head.mode == "binary":
                output, sign = 0, 2 * target - 1
            elif target == len(self.head.targets):  # the class of no label
                output, sign = 0, 0
            explanation = self.explainer.explain(encoded, reference, (output,))
            sums = {key: sign * a for key, a in explanation.attributions.items()}
        return replace(explanation, attributions=sums, names=self.names)

    def _captums(
        self, encoded: EncodedBatch, reference: tuple[Tensor, ...], target: int
    ) -> list[Tensor]:
        """What one of Captum's methods finds, token by token."""
        method = self._config.attribution_method
        options = dict(self._config.attribution_arguments)  # Captum writes into them
        if method == Occlusion.get_name():
            chosen = {k: v for k, v in options.items() if v not in ("", ())}
            options = {"sliding_window_shapes": windows(encoded), **chosen}
        elif method == FeatureAblation.get_name():
            mask = self.adapter.feature_mask(encoded, "token")
            options = {**options, "feature_mask": mask}
        try:
            parts = self.attribution_calculation.calculate_attribution(
                [reference],
                encoded.inputs,
                encoded.additional_forward_args,
                torch.tensor(target),
                method,
                options,
                self.models[0],
            )
        except Exception:
            _log.error(
                "%s cannot explain %s; the page waits for it in vain: reload it and "
                "choose another method.",
                method,
                type(self.adapter.model).__name__,
            )
            raise
        if method in _PERTURBING:  # it then stands in each dimension of an embedding
            parts = [once(part, mask) for part, mask in zip(parts, encoded.masks)]
        rows = zip(parts, encoded.masks, encoded.inputs, reference)
        return [a.detach() * (like(mask, x) | (x != x0)) for a, mask, x, x0 in rows]

    def _update_config(self, settings: Mapping[str, Any]) -> None:
        super()._update_config(settings)
        self._config = self._config._replace(num_examples=self.num_examples)

    def _serve(
        self,
        blocking: bool = False,
        debug: bool = False,
        port: int | None = None,
        bind_all: bool = False,
    ) -> int:
        """Captum's page and routes on a server that today's Werkzeug can start."""
        from captum.insights.attr_vis import server
        from werkzeug.serving import make_server

        server.visualizer = self  # where Captum's routes look for it
        host = "0.0.0.0" if bind_all else "127.0.0.1"
        try:  # a socket of our own: Werkzeug ends the process where a port is in use
            heard = socket.create_server((host, port or 0))
        except OSError as error:
            raise OSError(
                error.errno,
                f"Port {port} cannot be served ({error.strerror}); name another.",
            ) from error
        with heard:  # the server takes a copy of it
            port = heard.getsockname()[1]
            running = make_server(
                host, port, server.app, threaded=True, fd=heard.fileno()
            )
        running.log_startup()
        if blocking:
            running.serve_forever()
        else:
            threading.Thread(target=running.serve_forever, daemon=True).start()
        return port


def _scaled(
    feature: Any, base: list[str], each: Tensor, contribution: float, order: float
) -> FeatureOutput:
    """Scaled as Captum Insights scales text (order inf) and general (2) features."""
    norm = torch.linalg.vector_norm(each, order) if len(each) else each.new_ones(())
    percent = 100 * each / torch.where(norm == 0, 1, norm)
    kind = feature.visualization_type()
    return FeatureOutput(
        feature.name, base, percent.tolist(), kind, contribution, each.tolist()
    )

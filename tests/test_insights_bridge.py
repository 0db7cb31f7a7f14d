"""The bridge to Captum Insights, on Captum's own routes and page."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
import zoo
from pyhealth.datasets import get_dataloader
from zoo import HIDDEN, STAGES, Config

from captum_ehr import DeepLiftEHR, PyHealthAdapter
from captum_ehr.datasets import tiny_model
from captum_ehr.insights.bridge import captum_visualizer

pytest.importorskip(
    "captum.insights", reason="Captum Insights is not installed: make test-insights"
)
BLOCKS = {"embedding_dim": 8, "num_layers": 1}
CONFIGS = [
    Config("MLP", "tensor", "binary", HIDDEN),
    Config("MLP", "multi_hot", "binary", HIDDEN),
    Config("RNN", "nested", "binary", HIDDEN),
    Config("RNN", "timeseries", "multiclass", HIDDEN),
    Config("StageNet", "stagenet_nested", "multiclass", STAGES),
    Config("Transformer", "sequence", "multilabel", BLOCKS),
    Config("MICRON", "medication", "multilabel", HIDDEN),
]
SETTINGS = {
    "attribution_method": "DeepLiftEHR",
    "arguments": {},
    "prediction": "all",
    "classes": [],
}


class Page:
    """Captum's routes, as its page calls them."""

    def __init__(self, visualizer: Any) -> None:
        server = import_module("captum.insights.attr_vis.server")
        server.visualizer = visualizer
        self.client = server.app.test_client()

    def init(self) -> Any:
        return self.client.get("/init").get_json()

    def fetch(self, method: str = "DeepLiftEHR", **settings: Any) -> list[Any]:
        """The patients that are answered, by the first (and only) model."""
        settings = {**SETTINGS, "attribution_method": method, **settings}
        if "arguments" not in settings or not settings["arguments"]:
            offered = self.init()["method_arguments"].get(method, {})
            settings["arguments"] = {k: v["value"] for k, v in offered.items()}
        answer = self.client.post("/fetch", json=settings)
        assert answer.status_code == 200
        return [models[0] for models in answer.get_json()]

    def attribute(self, patient: int, label: int) -> Any:
        body = {"inputIndex": patient, "modelIndex": 0, "labelIndex": label}
        return self.client.post("/attribute", json=body).get_json()


def attributions(shown: Any) -> list[float]:
    """What is answered for a patient, feature after feature."""
    return [a for output in shown["feature_outputs"] for a in output["attributions"]]


def explained(model: Any, batch: Any, row: int, shown: Any) -> torch.Tensor:
    """What DeepLiftEHR says of a patient of a batch and the class that is shown."""
    single = PyHealthAdapter(model).mode == "binary"
    target = None if single else shown["active_index"]
    frame = DeepLiftEHR(model).explain(batch, target=target)[row].to_frame()
    found = torch.tensor(frame["attribution"].to_numpy())
    return -found if single and shown["active_index"] == 0 else found


def assert_shown(shown: Any, expected: torch.Tensor) -> None:
    found = torch.tensor(attributions(shown), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    return tiny_model()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_fetch_and_attribute_answer_what_explain_says(config: Config) -> None:
    model, _ = zoo.build(config, trained=True)
    page = Page(captum_visualizer(model, num_examples=4))
    patients = page.fetch()
    one_by_one = get_dataloader(model.dataset, batch_size=1, shuffle=False)
    for row, (shown, batch) in enumerate(zip(patients, one_by_one)):
        assert_shown(shown, explained(model, batch, 0, shown))
        other = shown["predicted"][-1]["index"]
        again = page.attribute(row, other)
        assert again["active_index"] == other
        assert_shown(again, explained(model, batch, 0, again))
        chances = model(**batch)["y_prob"][0].detach()
        if config.mode == "binary":
            chances = torch.cat([1 - chances, chances])
        best = chances.topk(min(4, len(chances)))
        assert [p["index"] for p in shown["predicted"]] == best.indices.tolist()
        scores = torch.tensor([p["score"] for p in shown["predicted"]])
        torch.testing.assert_close(scores, best.values, rtol=1e-4, atol=1e-5)
    assert len(patients) == 4


@pytest.mark.parametrize("config", CONFIGS[:3], ids=str)
def test_a_padded_batch_of_all_says_the_same(config: Config) -> None:
    model, batch = zoo.build(config, trained=True)
    patients = Page(captum_visualizer(model, num_examples=9)).fetch()
    assert len(patients) == 9
    for row, shown in enumerate(patients):
        assert_shown(shown, explained(model, batch, row, shown))


def test_the_list_of_methods_has_ours_by_its_name(tiny: Any) -> None:
    config = Page(captum_visualizer(tiny[0])).init()
    theirs = import_module("captum.insights.attr_vis.config")
    assert config["methods"] == ["DeepLiftEHR", *theirs.ATTRIBUTION_NAMES_TO_METHODS]
    assert config["selected_method"] == "DeepLiftEHR"
    assert config["classes"] == ["0", "1"]
    assert "DeepLiftEHR" not in theirs.ATTRIBUTION_NAMES_TO_METHODS


def test_one_logit_is_two_classes_of_opposite_sign(tiny: Any) -> None:
    page = Page(captum_visualizer(tiny[0], classes=["survived", "died"]))
    page.fetch()
    no, yes = page.attribute(0, 0), page.attribute(0, 1)
    assert attributions(no) == [-a for a in attributions(yes)]
    assert {p["label"] for p in yes["predicted"]} == {"survived", "died"}
    assert sum(p["score"] for p in yes["predicted"]) == pytest.approx(1)
    assert yes["actual"]["label"] == "died"


def test_codes_are_text_and_labs_general_as_captum_draws_them(tiny: Any) -> None:
    shown = Page(captum_visualizer(tiny[0], names={"I10": "Hypertension"})).fetch()
    codes, labs = shown[0]["feature_outputs"]
    assert (codes["type"], labs["type"]) == ("text", "general")
    assert codes["base"] == ["I50.9", "N18.3", "I10 Hypertension"]
    assert labs["base"] == ["labs[0]: 1.8", "labs[1]: 0.4"]
    assert shown[1]["feature_outputs"][0]["base"] == ["E11.9"]  # of a batch of 3 wide
    for feature, order in ((codes, torch.inf), (labs, 2)):
        given = torch.tensor(feature["attributions"])
        expected = 100 * given / torch.linalg.vector_norm(given, order)
        torch.testing.assert_close(torch.tensor(feature["modified"]), expected)
    sums = torch.tensor([sum(codes["attributions"]), sum(labs["attributions"])])
    parts = torch.tensor([codes["contribution"], labs["contribution"]])
    torch.testing.assert_close(parts, sums / sums.abs().sum())


def test_text_and_general_are_captums_own_features(tiny: Any) -> None:
    theirs = import_module("captum.insights.attr_vis.features")
    visualizer = captum_visualizer(tiny[0])
    insights = import_module("captum.insights")
    assert isinstance(visualizer, insights.AttributionVisualizer)
    assert isinstance(visualizer.features[0], theirs.TextFeature)
    assert isinstance(visualizer.features[1], theirs.GeneralFeature)


def test_nested_codes_say_their_visit_and_padding_is_left_out() -> None:
    model, batch = zoo.build(Config("RNN", "nested", "binary", HIDDEN))
    shown = Page(captum_visualizer(model, num_examples=9)).fetch()
    vocabulary = {
        i: c for c, i in model.dataset.input_processors["visits"].code_vocab.items()
    }
    for row, patient in enumerate(shown):
        expected = []
        for number, visit in enumerate(batch["visits"][row].tolist(), 1):
            codes = [vocabulary[k] for k in visit if k]
            expected += [
                f"visit {number}: {c}" if not k else c for k, c in enumerate(codes)
            ]
        assert patient["feature_outputs"][0]["base"] == expected


@pytest.mark.parametrize(
    "method",
    "Integrated Gradients;Saliency;Input X Gradient;Deep Lift;Guided Backprop;"
    "Deconvolution;Feature Ablation;Occlusion".split(";"),
)
def test_captums_methods_work_beside_ours(method: str) -> None:
    model, batch = zoo.build(Config("CNN", "tensor", "binary", HIDDEN), trained=True)
    page = Page(captum_visualizer(model))
    ours = page.fetch()[0]
    page.fetch(method)
    page = Page(captum_visualizer(model))
    shown = page.fetch(method)[0]
    assert len(attributions(shown)) == len(attributions(ours))
    assert any(attributions(shown))


@pytest.mark.parametrize("method", ["Feature Ablation", "Occlusion"])
def test_perturbations_take_whole_tokens_away(method: str, tiny: Any) -> None:
    model, batch = tiny
    shown = Page(captum_visualizer(model, baselines="pad")).fetch(method)[0]
    adapter = PyHealthAdapter(model)
    one = adapter.encode({k: v[:1] for k, v in batch.items()})
    sign = 1 if shown["active_index"] == 1 else -1
    full = adapter(*one.inputs, *one.additional_forward_args)
    expected = []
    for place, x in enumerate(one.inputs):
        for position in range(x.shape[1]):
            less = [t.clone() for t in one.inputs]
            less[place][:, position] = 0
            change = full - adapter(*less, *one.additional_forward_args)
            expected.append(sign * change.item())
    torch.testing.assert_close(
        torch.tensor(attributions(shown)), torch.tensor(expected)
    )


def test_integrated_gradients_are_captums(tiny: Any) -> None:
    from captum.attr import IntegratedGradients

    model, batch = tiny
    arguments = {"n_steps": 40, "method": "riemann_middle"}
    page = Page(captum_visualizer(model))
    shown = page.fetch("Integrated Gradients", arguments=arguments)[0]
    adapter = PyHealthAdapter(model)
    one = adapter.encode({k: v[:1] for k, v in batch.items()})
    codes, labs = IntegratedGradients(adapter).attribute(
        one.inputs,
        adapter.baseline(one),
        target=0,
        additional_forward_args=one.additional_forward_args,
        **arguments,
    )
    sign = 1 if shown["active_index"] == 1 else -1
    expected = sign * torch.cat([codes.sum(-1), labs], 1)[0]
    torch.testing.assert_close(torch.tensor(attributions(shown)), expected.detach())


def test_padding_is_left_out_of_gradients_too() -> None:
    model, _ = zoo.build(Config("RNN", "nested", "binary", HIDDEN), trained=True)
    ours = Page(captum_visualizer(model, num_examples=9)).fetch()
    theirs = Page(captum_visualizer(model, num_examples=9)).fetch("Saliency")
    for one, other in zip(ours, theirs):
        words = [f["base"] for f in one["feature_outputs"]]
        assert words == [f["base"] for f in other["feature_outputs"]]
        assert not any("<pad>" in word for word in words[0])


def test_a_filter_that_matches_nobody_ends(tiny: Any) -> None:
    model, batch = tiny
    page = Page(captum_visualizer(model, classes=["no", "yes"]))
    found = {
        (cls, word): page.fetch(classes=[cls], prediction=word)
        for cls in ("no", "yes")
        for word in ("correct", "incorrect")
    }
    assert sum(map(len, found.values())) == 4  # each of the patients in one of these
    assert [] in found.values()


def test_each_patient_is_shown_once_then_the_next_come() -> None:
    model, _ = zoo.build(Config("MLP", "tensor", "binary", HIDDEN))
    page = Page(captum_visualizer(model, num_examples=6))
    count = len(model.dataset)
    bases = [str(p["feature_outputs"]) for _ in range(2) for p in page.fetch()]
    everyone = Page(captum_visualizer(model, num_examples=99)).fetch()
    assert len(everyone) == count
    order = [str(p["feature_outputs"]) for p in everyone]
    assert bases == (order + order)[:12]


def test_baselines_are_those_asked_for(tiny: Any) -> None:
    model, batch = tiny
    shown = Page(captum_visualizer(model, baselines="mean")).fetch()[0]
    explanation = DeepLiftEHR(model).explain(batch, baselines="mean")[0]
    sign = 1 if shown["active_index"] == 1 else -1
    expected = sign * explanation.to_frame()["attribution"].to_numpy()
    assert attributions(shown) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_who_has_no_label_of_many_is_shown_so() -> None:
    config = Config("Transformer", "sequence", "multilabel", BLOCKS)
    model, _ = zoo.build(config)
    key = model.label_keys[0]
    sample = dict(model.dataset[0])
    sample[key] = torch.zeros_like(sample[key])
    page = Page(captum_visualizer(model, [sample]))
    for method in ("DeepLiftEHR", "Integrated Gradients"):
        shown = page.fetch(method)[0]
        assert shown["actual"]["label"] == "(no label)"
        assert any(attributions(shown))
        assert not any(attributions(page.attribute(0, shown["actual"]["index"])))
    listed = [p["label"] for p in shown["predicted"]]
    assert "(no label)" not in listed


def test_the_notebook_widget_takes_it(tiny: Any) -> None:
    widget = import_module("captum.insights.attr_vis.widget").CaptumInsights
    shown = widget(visualizer=captum_visualizer(tiny[0]))
    assert shown.insights_config["methods"][0] == "DeepLiftEHR"
    shown.config = SETTINGS
    assert len(shown.output) == 4
    shown.label_details = {"inputIndex": 0, "modelIndex": 0, "labelIndex": 0}
    assert shown.attribution["active_index"] == 0


def test_nothing_of_captums_is_changed(tiny: Any) -> None:
    insights = import_module("captum.insights.attr_vis.app")
    config = import_module("captum.insights.attr_vis.config")
    before = (
        dict(config.ATTRIBUTION_NAMES_TO_METHODS),
        dict(insights.FilterConfig._field_defaults["attribution_arguments"]),
    )
    page = Page(captum_visualizer(tiny[0]))
    page.fetch()
    page.fetch("Integrated Gradients")
    assert before == (
        config.ATTRIBUTION_NAMES_TO_METHODS,
        insights.FilterConfig._field_defaults["attribution_arguments"],
    )


def test_a_method_that_fails_is_named(
    tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    page = Page(captum_visualizer(tiny[0]))
    with caplog.at_level("ERROR", "captum_ehr"):
        body = {**SETTINGS, "attribution_method": "Deep Lift"}
        assert page.client.post("/fetch", json=body).status_code == 500
    assert "Deep Lift cannot explain MLP" in caplog.text
    assert len(page.fetch()) == 4


def test_what_cannot_be_shown_is_refused(tiny: Any) -> None:
    model, _ = zoo.build(Config("MLP", "sequence", "regression", HIDDEN))
    with pytest.raises(ValueError, match="shows classes, and MLP is a regression"):
        captum_visualizer(model)
    with pytest.raises(ValueError, match=r"has 3 name\(s\), expected 2: one for each"):
        captum_visualizer(tiny[0], classes=["a", "b", "c"])
    with pytest.raises(ValueError, match="no patients"):
        captum_visualizer(tiny[0], [])
    with pytest.raises(ValueError, match="num_examples is 0"):
        captum_visualizer(tiny[0], num_examples=0)
    with pytest.raises(TypeError, match="Expected a PyHealth model"):
        captum_visualizer(torch.nn.Linear(2, 2))


def test_samples_without_a_label_are_refused(tiny: Any) -> None:
    sample = {k: v for k, v in dict(tiny[0].dataset[0]).items() if k != "label"}
    with pytest.raises(ValueError, match="have no label 'label'"):
        captum_visualizer(tiny[0], [sample])

"""Dependence plots and a cohort's heatmap: the numbers of to_frame and to_shap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from explanations import explain, tokens, values
from matplotlib.colors import to_rgba

from captum_ehr import Explanation
from captum_ehr.scene.dependence import cohort_grid
from captum_ehr.visualization import cohort_heatmap, dependence


@pytest.fixture(scope="module")
def explained() -> Explanation:
    """Twelve samples with codes, some twice, and labs; one sample has no lab."""
    torch.manual_seed(3)
    codes = torch.randint(0, 5, (12, 6))
    labs = values(torch.randn(12, 2).tolist(), columns=("lactate", "glucose"))
    mask = labs.mask.clone()
    mask[4, 0] = False
    record = replace(labs, mask=mask)
    return explain({"conditions": tokens(codes.tolist()), "labs": record})


def columns(explanation: Explanation) -> list[tuple[str, str]]:
    rows = explanation.to_frame().drop_duplicates(["feature", "code"])
    return list(zip(rows["feature"], rows["code"]))


def test_dots_stand_where_shap_has_them(explained: Explanation) -> None:
    shap = explained.to_shap("codes")
    for place, column in enumerate(columns(explained)):
        _, ax = dependence(explained, column)
        amounts, sizes = shap.data[:, place], shap.values[:, place]
        has = np.isfinite(amounts)
        wanted = np.stack([amounts[has], sizes[has]], 1)
        np.testing.assert_allclose(ax.collections[0].get_offsets(), wanted, atol=1e-12)
        said = " ".join(text.get_text() for text in ax.texts)
        assert ("without a value" in said) == bool((~has).any())


def test_the_usual_range_is_shaded_and_what_was_not_measured_is_hollow(
    explained: Explanation,
) -> None:
    flags = torch.ones(12, 2, dtype=torch.bool)
    flags[7, 0] = False
    shown = explained.with_measured({"labs": flags})
    shown = shown.with_ranges({"labs": {"lactate": (-0.5, None), "glucose": (90, 99)}})
    for other in (None, ("labs", "glucose")):
        _, ax = dependence(shown, "lactate", other)
        (dots,), (band,) = ax.collections, ax.patches
        samples = [sample for sample in range(12) if sample != 4]  # it has no value
        paper = np.array(to_rgba(ax.get_facecolor()))
        hollow = (dots.get_facecolors() == paper).all(1)
        assert [s for s, is_so in zip(samples, hollow) if is_so] == [7]
        assert (dots.get_edgecolors() == paper).all(1).tolist() == (~hollow).tolist()
        ends = band.get_x(), band.get_x() + band.get_width()
        assert ends == pytest.approx((-0.5, ax.get_xlim()[1]))
        said = " ".join(text.get_text() for text in ax.texts)
        assert "shaded: usual > −0.5" in said and "not measured" in said
    _, ax = dependence(shown, "glucose")  # all of it beyond the axes
    said = " ".join(text.get_text() for text in ax.texts)
    assert not ax.patches and "usual 90–99" in said and "not measured" not in said
    _, ax = dependence(explained, "lactate")
    assert not ax.patches


def test_another_columns_values_are_the_colours(explained: Explanation) -> None:
    shap, known = explained.to_shap("codes"), columns(explained)
    value = next(c for c in known if not explained.features[c[0]].is_token)
    code = next(c for c in known if explained.features[c[0]].is_token)
    _, ax = dependence(explained, code, color=value)
    amounts = shap.data[:, known.index(value)]
    brightness = ax.collections[0].get_facecolors()[:, :3].sum(1)
    order = np.argsort(amounts[np.isfinite(amounts)])
    bright = brightness[np.isfinite(amounts)][order]
    assert (np.diff(bright) >= -1e-9).all() and bright[-1] > bright[0]


def test_cells_are_the_sums_of_the_frame(explained: Explanation) -> None:
    _, ax = cohort_heatmap(explained, k=3)
    cells = np.ma.filled(ax.collections[0].get_array(), np.nan)
    top, frame = explained.top(None), explained.to_frame()
    order = np.argsort(-explained.f_input.numpy(), kind="stable")
    table = frame.pivot_table(
        index=["feature", "code"], columns="sample", values="attribution", aggfunc="sum"
    )
    pairs = list(zip(top["feature"], top["code"]))
    wanted = table.reindex(index=pairs, columns=order).to_numpy()
    np.testing.assert_allclose(cells, wanted[:3], atol=1e-12)
    said = " ".join(text.get_text() for text in ax.texts)
    assert f"+{len(pairs) - 3} more codes" in said
    _, ax = cohort_heatmap(explained)
    cells = np.ma.filled(ax.collections[0].get_array(), np.nan)
    np.testing.assert_allclose(np.nansum(cells, axis=0), explained.total[order])


def test_like_samples_stand_side_by_side(explained: Explanation) -> None:
    rows = [0, 1, 2, 0, 1, 2, 0, 1, 2]
    twins = explained[rows]
    grid = cohort_grid(twins, twins.to_frame(), twins.top(None), "similarity")
    alike = np.array(rows)[grid.samples]
    assert (np.diff(alike) != 0).sum() == 2  # three blocks of three


def test_one_sample_takes_the_colour_from_no_other(explained: Explanation) -> None:
    many = explained[[0] * 300 + [1]]
    key = next(iter(many.attributions))
    loud = many.attributions[key].clone()
    loud[-1] *= 1e6
    many = replace(many, attributions={**many.attributions, key: loud})
    _, ax = cohort_heatmap(many)
    assert ax.collections[0].norm.vmax < 1e3
    assert any("beyond" in text.get_text() for text in ax.texts)


@pytest.mark.parametrize("width", [3.5, 7.0])
def test_long_names_stay_on_the_paper(explained: Explanation, width: float) -> None:
    known = columns(explained)
    names = {
        code: f"{code} a name as long as only registries have it" for _, code in known
    }
    named = explained.with_names(names)
    for figure, _ in (
        dependence(named, known[0], known[-1], width=width),
        dependence(named, known[-1], known[0], width=width),
        cohort_heatmap(named, width=width),
    ):
        box = figure.get_tightbbox()
        assert box.x0 >= -0.02 and box.x1 <= width + 0.02
        assert figure.get_figwidth() == width


@pytest.mark.parametrize(
    ("draw", "error", "words"),
    [
        (lambda e: dependence(e, "no such"), KeyError, "near are"),
        (lambda e: dependence(e, ("none", "I10")), KeyError, "no sample has"),
        (lambda e: cohort_heatmap(e, order="risk"), ValueError, "'similarity'"),
        (lambda e: cohort_heatmap(e, k=0), ValueError, "at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    explained: Explanation, draw: Any, error: Any, words: str
) -> None:
    with pytest.raises(error, match=words):
        draw(explained)

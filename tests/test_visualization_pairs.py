"""Pictures of pairs: what is drawn and said is what the interactions are."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from captum_ehr import DeepLiftEHR, Explanation, Interactions
from captum_ehr.datasets import tiny_model
from captum_ehr.scene.pairing import pair_scene, sentence
from captum_ehr.scene.palette import LOWERS, RAISES
from captum_ehr.visualization import pair_heatmap, pair_network, write_report

NAMES = {"I50.9": "heart <b>failure</b> $x_1$"}


@cache
def made() -> tuple[Explanation, Interactions]:
    model, batch = tiny_model()
    dl = DeepLiftEHR(model)
    return dl.explain(batch, names=NAMES), dl.interactions(batch)


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_cells_are_the_matrix_and_every_sum_is_kept(k: int) -> None:
    pairs = made()[1]["p1"]
    scene = pair_scene(pairs, k)
    matrix = pairs.matrix()
    shown = [label for label in scene.labels if "others" not in label]
    assert len(shown) == min(k, 5) and len(scene.labels) == min(k + 1, 5)
    for i, row in enumerate(shown):
        assert scene.totals[i] == pytest.approx(matrix.loc[row].sum())
        for j, column in enumerate(shown):
            assert scene.cells[i, j] == matrix.loc[row, column]
    assert scene.cells.sum() == pytest.approx(matrix.to_numpy().sum())
    _, ax = pair_heatmap(pairs, k=k)
    drawn = np.asarray(ax.collections[0].get_array()).reshape(scene.cells.shape)
    assert np.array_equal(drawn, scene.cells)
    assert ax.collections[0].get_clim() == (-scene.scale.limit, scene.scale.limit)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [label.get_text() for label in ax.get_xticklabels()]
    assert labels == list(scene.labels)


def test_the_strongest_pair_comes_first() -> None:
    pairs = made()[1]["p1"]
    row = pairs.to_frame().iloc[0]
    scene = pair_scene(pairs, 3, 2)
    first = scene.bonds[0]
    assert {scene.labels[end] for end in first.ends} == {row.code_a, row.code_b}
    assert (first.effect, first.asymmetry) == (row.effect, row.asymmetry)
    assert len(scene.bonds) == 2


def test_lines_are_as_wide_as_effects_and_coloured_by_their_sign() -> None:
    pairs = made()[1]["p1"]
    _, ax = pair_network(pairs, edges=4)
    frame = pairs.to_frame().head(4)
    lines = sorted(ax.lines, key=lambda line: -line.get_linewidth())
    assert len(lines) == 4
    widths = [line.get_linewidth() - 0.4 for line in lines]
    for width, size in zip(widths, frame["effect"].abs()):
        assert width / widths[0] == pytest.approx(size / frame["effect"].abs().max())
    for line, effect in zip(lines, frame["effect"]):
        color = RAISES if effect > 0 else LOWERS
        assert to_hex(line.get_color()) == color
    assert {"I50.9", "N18.3", "I10", "labs[0]", "labs[1]"} <= set(texts(ax))
    _, few = pair_network(pairs, k=2)
    assert len(few.lines) == 1
    assert any("3 codes with weaker pairs are not shown" in t for t in texts(few))


def test_a_sentence_says_what_it_may() -> None:
    pairs = made()[1]
    effect = pairs["p1"].to_frame().iloc[0]
    words = sentence(pairs["p1"], NAMES)
    assert {effect.code_a, effect.code_b} == {"I50.9", "I10"}
    assert "Together I50.9 heart <b>failure</b> $x_1$ and I10 add +0.017" in words
    assert "in this model and against unk (give or take 2e−04)." in words
    one = pairs["p1"]
    nothing = replace(one, one_way=torch.zeros_like(one.one_way))
    assert sentence(nothing) == "No two codes act together in this model."
    lost = replace(one, one_way=torch.full_like(one.one_way, torch.nan))
    assert "no answer" in sentence(lost)
    for picture in (pair_heatmap, pair_network):
        picture(nothing)
        with pytest.raises(ValueError, match="not finite"):
            picture(lost)
        with pytest.raises(ValueError, match="of one patient, and there are 4"):
            picture(pairs)
        with pytest.raises(ValueError, match="k is 0"):
            picture(one, k=0)


def test_a_report_names_each_patients_strongest_pair(tmp_path: Path) -> None:
    explanation, pairs = made()
    path = tmp_path / "report.html"
    write_report(explanation, path, title="t", interactions=pairs)
    page = path.read_text()
    said = re.findall(r'<p class="together">(.*?)</p>', page)
    assert len(said) == 4 and "heart &lt;b&gt;failure" in said[0]
    assert said[0].startswith("Together I50.9") and "I10 add +0.017" in said[0]
    write_report(explanation, path, title="t")
    assert 'class="together"' not in path.read_text()
    with pytest.raises(ValueError, match="another patient_ids"):
        write_report(explanation, path, title="t", interactions=pairs[:2])
    with pytest.raises(ValueError, match="another baseline"):
        other = replace(pairs, baseline="pad")
        write_report(explanation, path, title="t", interactions=other)
    with pytest.raises(ValueError, match="'RNN', which is no explanation"):
        write_report({"a": explanation}, path, title="t", interactions={"RNN": pairs})

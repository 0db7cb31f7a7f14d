"""How sure the tables of an explanation are, for whom, and over several models."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cohort_files import synthetic, write_cohort
from explanations import explain, tokens

from captum_ehr import DeepLiftShapEHR, Explanation, reference_patients
from captum_ehr.cohort import Cohort
from captum_ehr.datasets import tiny_model
from captum_ehr.explanation import FeatureRecord
from captum_ehr.explanation.subgroups import banded
from captum_ehr.visualization import cohort_bar, intervals, write_report

KEYS = ["feature", "code"]


def drawn(
    seed: int,
    patients: int = 60,
    codes: int = 12,
    planted: float = 0.0,
    has: float = 0.5,
    **changes: Any,
) -> Explanation:
    """Patients of one to three samples each, of two sexes; C0 weighs more in men."""
    random = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), random.integers(1, 4, patients))
    sex = random.permutation(patients) % 2
    mean = random.normal(0.3, 0.2, codes)
    size = mean + 0.3 * random.normal(size=(patients, codes))
    size[:, 0] += planted * sex
    mask = torch.from_numpy((random.random((patients, codes)) < has)[owner])
    noise = 0.1 * random.normal(size=(len(owner), codes))
    shares = torch.from_numpy(size[owner] + noise) * mask
    columns = tuple(f"C{k}" for k in range(codes))
    record = FeatureRecord(mask.double(), mask, None, None, columns)
    given: dict[str, Any] = {
        "patient_ids": tuple(f"p{k}" for k in owner),
        "f_input": shares.sum(1),
        "f_baseline": torch.zeros(len(owner)).double(),
        "rescale_factor": torch.ones(len(owner)).double(),
        "target": (0,) * len(owner),
        "sample_columns": {"sex": tuple("FM"[sex[k]] for k in owner)},
    }
    return explain({"codes": record}, {"codes": shares}, **(given | changes))


def weights_of(explanation: Explanation, seed: int, draws: int) -> np.ndarray:
    """The exponential weight of each sample's patient in each replicate, one by one."""
    names = sorted(set(explanation.patient_ids))
    each = np.random.default_rng(seed).standard_exponential((2_048, draws))
    return np.array([each[names.index(name)] for name in explanation.patient_ids])


def replicates(
    explanation: Explanation, code: str, weights: np.ndarray, mine: np.ndarray
) -> dict[str, list[float]]:
    """The weighted means of a code over some samples, a replicate after the other."""
    frame = explanation.to_frame()
    totals = np.zeros(len(explanation))
    for row in frame[frame["code"] == code].itertuples():
        totals[row.sample] += row.attribution
    found: dict[str, list[float]] = {"mean": [], "mean_abs": []}
    for weight in weights.T:
        share = weight[mine] / weight[mine].sum()
        found["mean"].append(float(share @ totals[mine]))
        found["mean_abs"].append(float(share @ np.abs(totals[mine])))
    return found


class TestTop:
    def test_ends_are_percentiles_of_means_of_patients_drawn_again(self) -> None:
        whole = drawn(0)
        table = whole.top(None, level=0.9, replicates=50, seed=3)
        weights, everybody = weights_of(whole, 3, 50), np.ones(len(whole), dtype=bool)
        for row in table.to_dict("records"):
            means = replicates(whole, row["code"], weights, everybody)
            for name, each in means.items():
                ends = row[f"{name}_low"], row[f"{name}_high"]
                np.testing.assert_allclose(ends, np.percentile(each, (5, 95)))

    def test_means_are_the_same_with_and_without(self) -> None:
        table, plain = drawn(1).top(5, level=0.95, replicates=20), drawn(1).top(5)
        pd.testing.assert_frame_equal(table[list(plain)], plain)
        assert list(table)[-7:] == [
            *("mean", "mean_low", "mean_high"),
            *("mean_abs", "mean_abs_low", "mean_abs_high", "sum"),
        ]

    def test_a_cohort_on_disk_says_the_same(self, tmp_path) -> None:
        whole = synthetic(60)
        stored = Cohort(write_cohort(tmp_path, whole)).codes(replicates=50, seed=1)
        table = whole.top(None, level=0.95, replicates=50, seed=1).set_index(KEYS)
        stored = stored.set_index(KEYS).loc[table.index]
        for name in ("mean_low", "mean_high", "mean_abs_low", "mean_abs_high"):
            np.testing.assert_allclose(table[name], stored[name], rtol=1e-4, atol=1e-7)

    def test_groups_of_codes_have_them_too(self) -> None:
        table = drawn(2).top(None, lambda code: code[:2], level=0.95, replicates=20)
        assert (table["mean_low"] <= table["mean"]).all() and "group" in table

    def test_in_blocks_they_are_the_same(self, monkeypatch) -> None:
        whole = drawn(3).top(None, level=0.95, replicates=20)
        monkeypatch.setattr("captum_ehr.explanation.aggregates._MOST_SUMS", 60)
        parts = drawn(3).top(None, level=0.95, replicates=20)
        pd.testing.assert_frame_equal(whole, parts)

    def test_patients_in_blocks_have_weights_of_their_own(self, monkeypatch) -> None:
        whole = drawn(7).top(None, level=0.95, replicates=20)
        monkeypatch.setattr("captum_ehr.explanation.resampling._TOGETHER", 7)
        parts = drawn(7).top(None, level=0.95, replicates=20)
        pd.testing.assert_frame_equal(whole, parts)

    def test_of_each_target_its_own_samples_are_drawn(self) -> None:
        target = tuple(k % 2 for k in range(len(drawn(4))))
        both = drawn(4, target=target).top(None, level=0.95, replicates=30)
        for value in (0, 1):
            mine = drawn(4, target=target)
            weights, among = weights_of(mine, 0, 30), np.array(target) == value
            row = both[(both["target"] == str(value)) & (both["code"] == "C0")].iloc[0]
            each = replicates(mine, "C0", weights, among)["mean"]
            ends = row["mean_low"], row["mean_high"]
            np.testing.assert_allclose(ends, np.percentile(each, (2.5, 97.5)))

    def test_one_patient_has_no_interval(self) -> None:
        table = drawn(5)["p0"].top(level=0.95)
        assert table["mean_low"].isna().all() and table["mean"].notna().all()

    def test_nobody_has_an_empty_table(self) -> None:
        table = drawn(5)[[]].top(level=0.95)
        assert not len(table) and list(table) == list(drawn(5).top(level=0.95))

    def test_no_answer_has_no_interval_and_harms_no_other(self) -> None:
        whole = drawn(6)
        shares = whole.attributions["codes"].clone()
        row = int(whole.features["codes"].mask[:, 1].nonzero()[0])
        shares[row, 1] = math.nan
        odd = replace(whole, attributions={"codes": shares})
        with pytest.warns(UserWarning, match="no numbers"):
            table = odd.top(None, level=0.95, replicates=20).set_index("code")
        plain = whole.top(None, level=0.95, replicates=20).set_index("code")
        assert table.loc["C1", ["mean", "mean_low", "mean_high"]].isna().all()
        others = table.index.difference(["C1"])
        pd.testing.assert_frame_equal(table.loc[others], plain.loc[others])

    @pytest.mark.parametrize("wrong", [{"level": 1.0}, {"replicates": -1}])
    def test_wrong_numbers_are_refused(self, wrong: dict) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            drawn(0).top(**({"level": 0.9} | wrong))


class TestGroups:
    def test_a_band_has_its_lower_edge_and_not_its_upper(self) -> None:
        bands = ["[0, 65)", "[0, 65)", "[65, 120)", None]
        assert banded("age", [0, 64, 65, 120], [0, 65, 120]) == bands

    def test_differences_and_their_ends(self) -> None:
        whole = drawn(0, planted=0.5)
        table = whole.groups("sex", reference="F", replicates=50, seed=3)
        weights = weights_of(whole, 3, 50)
        sexes = np.array(whole.sample_columns["sex"])
        assert {*table["value"]} == {"M"} and {*table["reference"]} == {"F"}
        for row in table.to_dict("records"):
            men, women = (
                np.array(replicates(whole, row["code"], weights, sexes == sex)["mean"])
                for sex in "MF"
            )
            ends = row["difference_low"], row["difference_high"]
            np.testing.assert_allclose(ends, np.percentile(men - women, (2.5, 97.5)))
        for sex, end in (("M", ""), ("F", "_reference")):
            top = whole[sexes == sex].top(None).set_index("code").loc[table["code"]]
            np.testing.assert_allclose(table[f"mean{end}"], top["mean"])
            assert table[f"patients{end}"].tolist() == top["patients"].tolist()
            shares = top["samples"] / (sexes == sex).sum()
            np.testing.assert_allclose(table[f"prevalence{end}"], shares)
        gap = table["mean"] - table["mean_reference"]
        np.testing.assert_allclose(table["difference"], gap)
        assert table["difference"].abs().is_monotonic_decreasing

    def test_p_and_q_are_those_of_the_textbook(self) -> None:
        whole = drawn(1, planted=0.5)
        once = whole[[whole.patient_ids.index(name) for name in set(whole.patient_ids)]]
        table = once.groups("sex", replicates=4_000).set_index("code")
        sexes, shares = np.array(once.sample_columns["sex"]), once.attributions["codes"]
        men, women = (shares[torch.from_numpy(sexes == sex)].numpy() for sex in "MF")
        gap = men.mean(0) - women.mean(0)
        error = np.sqrt(
            men.var(0, ddof=1) / len(men) + women.var(0, ddof=1) / len(women)
        )
        from scipy.stats import t

        expected = 2 * t.sf(np.abs(gap / error), min(len(men), len(women)) - 1)
        p = table.loc[[f"C{k}" for k in range(len(gap))], "p_value"].to_numpy()
        np.testing.assert_allclose(p, expected, rtol=0.15, atol=1e-4)
        ranks, most = np.argsort(p)[::-1], 1.0
        for place, k in enumerate(ranks):  # Benjamini and Hochberg, from the largest
            most = min(most, p[k] * len(p) / (len(p) - place))
            assert table.loc[f"C{k}", "q_value"] == pytest.approx(most)
        assert table.attrs["compared"] == len(p)

    def test_bands_of_numbers_and_functions(self) -> None:
        whole = drawn(2)
        ages = [None if k % 10 == 0 else 20 + k % 90 for k in range(len(whole))]
        whole = whole.with_sample_columns({"age": ages})
        table = whole.groups("age", bins=[0, 50, 65, 90], replicates=20)
        words = {"[0, 50)", "[50, 65)", "[65, 90)"}
        assert {*table["value"]} | {*table["reference"]} == words
        left = sum(age is None or age >= 90 for age in ages)
        assert table.attrs["left_out"] == left > 0
        old = whole.groups("age", bins=lambda age: age >= 65, replicates=20)
        assert {*old["value"]} | {*old["reference"]} == {True, False}
        assert old.attrs["left_out"] == ages.count(None)

    def test_names_of_columns_are_free(self) -> None:
        whole = drawn(2)
        sex = whole.sample_columns["sex"]
        expected = whole.groups("sex", replicates=20)
        for name in ("stratum", "patient", "place", "samples", "reference", "count"):
            table = whole.with_sample_columns({name: sex}).groups(name, replicates=20)
            pd.testing.assert_frame_equal(table, expected)

    def test_a_function_gives_words_numbers_or_none(self) -> None:
        whole = drawn(2).with_sample_columns({"n": [k for k in range(len(drawn(2)))]})
        with pytest.raises(TypeError, match="sample column 'n': list"):
            whole.groups("n", bins=lambda n: [n])
        with pytest.raises(ValueError, match="numbers and words"):
            whole.groups("n", bins=lambda n: "a" if n else n)

    def test_several_values_are_compared_with_the_largest(self) -> None:
        whole = drawn(3)
        sites = ["abcc"[k % 4] for k in range(len(whole))]
        table = whole.with_sample_columns({"site": sites}).groups("site", replicates=20)
        assert {*table["reference"]} == {"c"} and {*table["value"]} == {"a", "b"}
        assert table.attrs["compared"] == len(table) == 24

    def test_each_target_has_rows_of_its_own(self) -> None:
        target = tuple(k % 2 for k in range(len(drawn(4))))
        whole = drawn(4, target=target)
        table = whole.groups("sex", reference="F", replicates=20)
        for value in (0, 1):
            alone = whole[[t == value for t in target]]
            alone = alone.groups("sex", reference="F", replicates=0).set_index("code")
            mine = table[table["target"] == str(value)].set_index("code")
            np.testing.assert_allclose(
                mine["difference"], alone.loc[mine.index, "difference"]
            )

    def test_a_group_of_one_has_no_interval_and_that_is_said(self) -> None:
        whole = drawn(5)
        one = ["X" if name == "p0" else "Y" for name in whole.patient_ids]
        whole = whole.with_sample_columns({"who": one})
        with pytest.warns(UserWarning, match="two patients have who 'X'"):
            table = whole.groups("who", replicates=20)
        assert "no interval" in table.attrs["note"] and table.attrs["compared"] == 0
        names = ["difference_low", "difference_high", "p_value", "q_value"]
        assert table[names].isna().all(axis=None) and table["difference"].notna().all()
        intervals(table)

    def test_equal_groups_differ_in_nothing(self) -> None:
        record = tokens([[2, 3], [2, 3], [2, 0], [2, 0]])
        shares = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 0.0], [1.0, 0.0]])
        whole = explain({"c": record}, {"c": shares.double()})
        whole = whole.with_sample_columns({"g": ["a", "b", "a", "b"]})
        table = whole.groups("g").set_index("code")
        assert table["difference"].eq(0).all() and table.loc["I50", "p_value"] > 0.9

    def test_what_cannot_be_compared_is_said(self) -> None:
        whole = drawn(6)
        count = len(whole)
        whole = whole.with_sample_columns(
            {"one": ["A"] * count, "n": list(range(count)), "none": [None] * count}
        )
        with pytest.raises(KeyError, match="no sample column 'age'.*'sex'"):
            whole.groups("age")
        with pytest.raises(ValueError, match="'one' has 1 values .'A' alone"):
            whole.groups("one")
        with pytest.raises(ValueError, match="'none' has 0 values"):
            whole.groups("none")
        with pytest.raises(ValueError, match="expected 2 to 50 groups.*bands"):
            whole.groups("n")
        with pytest.raises(ValueError, match="edges of bands of numbers.*'sex'"):
            whole.groups("sex", bins=[0, 1])
        with pytest.raises(ValueError, match="two rising edges"):
            whole.groups("n", bins=[5, 1])
        with pytest.raises(ValueError, match="reference is 'X'"):
            whole.groups("sex", reference="X")
        with pytest.raises(ValueError, match="'sex' has 0 values"):
            whole[[]].groups("sex")

    def test_a_planted_effect_is_found(self) -> None:
        found = drawn(7, patients=200, planted=0.5).groups("sex", reference="F")
        first = found.iloc[0]
        assert first["code"] == "C0" and first["q_value"] < 0.001
        assert first["difference_low"] > 0
        assert not (found["q_value"][1:] <= 0.05).any()

    @pytest.mark.complete
    def test_where_there_is_none_none_is_found(self) -> None:
        cohorts = 150
        found = [
            (drawn(k, codes=20).groups("sex", replicates=400)["q_value"] <= 0.05).any()
            for k in range(cohorts)
        ]
        error = math.sqrt(0.05 * 0.95 / cohorts)
        assert np.mean(found) < 0.05 + 3 * error

    @pytest.mark.complete
    def test_intervals_hold_the_truth_as_often_as_they_say(self) -> None:
        held, codes, cohorts = [], 40, 25
        for seed in range(cohorts):
            table = drawn(seed, patients=200, codes=codes).groups("sex", replicates=500)
            ends = table["difference_low"], table["difference_high"]
            held.append(((ends[0] <= 0) & (ends[1] >= 0)).mean())
        error = math.sqrt(0.95 * 0.05 / (codes * cohorts))
        assert abs(np.mean(held) - 0.95) < 4 * error


class TestAcross:
    def parts(self, **changes: Any) -> list[Explanation]:
        """Three models on the same samples."""
        whole, random = drawn(0), np.random.default_rng(1)
        mask = whole.features["codes"].mask
        each = []
        for k in range(3):
            factor = torch.from_numpy(random.normal(0.5, 1.0, mask.shape[1]))
            shares = {"codes": whole.attributions["codes"] * factor}
            made = replace(whole, attributions=shares, fingerprint=f"f{k}")
            each.append(replace(made, **changes) if k == 1 else made)
        return each

    def test_means_spread_and_agreement_by_hand(self) -> None:
        parts = self.parts()
        table = Explanation.across(parts)
        tops = [part.top(None).set_index("code") for part in parts]
        for row in table.to_dict("records"):
            means = [float(top.loc[row["code"], "mean"]) for top in tops]
            mean = sum(means) / 3
            spread = math.sqrt(sum((one - mean) ** 2 for one in means) / 2)
            alike = sum((one > 0) == (mean > 0) for one in means) / 3
            expected = [mean, spread, alike, min(means), max(means)]
            names = ["mean", "spread", "agreement", "lowest", "highest"]
            np.testing.assert_allclose([row[name] for name in names], expected)
            assert row["models"] == 3
        assert table["mean_abs"].is_monotonic_decreasing
        assert table.attrs["samples"] == "the same" and table.attrs["models"] == 3
        pairs = [(0, 1), (0, 2), (1, 2)]
        ranks = [top.loc[tops[0].index, "mean"].rank() for top in tops]
        expected = np.mean([np.corrcoef(ranks[a], ranks[b])[0, 1] for a, b in pairs])
        assert table.attrs["rank_correlation"] == pytest.approx(expected)

    def test_folds_have_samples_of_their_own(self) -> None:
        whole = drawn(0, has=0.03)
        ids = sorted(set(whole.patient_ids))
        parts = [
            replace(whole[ids[k::3]], fingerprint=f"f{k}", sample_columns={})
            for k in range(3)
        ]
        parts = [part for part in parts if len(part.top())]
        table = Explanation.across(parts)
        assert table.attrs["samples"] == "of their own"
        few = table[table["models"] < len(parts)].iloc[0]
        tops = [part.top(None).set_index("code") for part in parts]
        means = [
            float(top.loc[few["code"], "mean"]) if few["code"] in top.index else 0.0
            for top in tops
        ]
        assert few["mean"] == pytest.approx(np.mean(means))  # 0 where it is not
        assert few["agreement"] == 1.0 or few["models"] > 1

    def test_codes_are_matched_by_name(self) -> None:
        """Folds have processors of their own, which number codes otherwise."""
        parts = self.parts()
        expected = Explanation.across(parts)
        order = [5, 0, 11, *(k for k in range(12) if k not in (0, 5, 11))]
        record, shares = parts[1].features["codes"], parts[1].attributions["codes"]
        names = tuple((record.columns or ())[k] for k in order)
        other = replace(
            record,
            values=record.values[:, order],
            mask=record.mask[:, order],
            columns=("C99", *names[1:]),  # its vocabulary has no C5, and another one
        )
        changed = {"codes": other}, {"codes": shares[:, order]}
        parts[1] = replace(parts[1], features=changed[0], attributions=changed[1])
        table = Explanation.across(parts)
        by_code, mine = expected.set_index("code"), table.set_index("code")
        same = [code for code in by_code.index if code != "C5"]
        pd.testing.assert_frame_equal(mine.loc[same], by_code.loc[same])
        assert mine.loc[["C5", "C99"], "models"].tolist() == [2, 1]

    def test_groups_of_codes(self) -> None:
        parts = self.parts()
        table = Explanation.across(parts, {"codes": lambda code: f"{code[-1]} last"})
        tops = [
            part.top(None, {"codes": lambda code: f"{code[-1]} last"}).set_index(
                "group"
            )
            for part in parts
        ]
        mean = sum(top["mean"] for top in tops) / 3
        assert len(table) == len(mean) == 10
        np.testing.assert_allclose(table["mean"], mean.loc[table["group"]])

    def test_nobody_has_an_empty_table(self) -> None:
        table = Explanation.across([part[[]] for part in self.parts()])
        assert not len(table) and table.attrs["models"] == 3

    def test_each_target_has_rows_of_its_own(self) -> None:
        target = tuple(k % 2 for k in range(len(drawn(0))))
        parts = [replace(part, target=target) for part in self.parts()]
        table = Explanation.across(parts).set_index(["target", "code"])
        tops = [part.top(None).set_index(["target", "code"]) for part in parts]
        mean = sum(top["mean"] for top in tops) / 3
        np.testing.assert_allclose(table["mean"], mean.loc[table.index])

    def test_no_answer_is_none(self) -> None:
        parts = self.parts()
        shares = parts[1].attributions["codes"].clone()
        shares[parts[1].features["codes"].mask[:, 2], 2] = math.nan
        parts[1] = replace(parts[1], attributions={"codes": shares})
        with pytest.warns(UserWarning, match="no numbers"):
            table = Explanation.across(parts).set_index("code")
        names = ["mean", "spread", "agreement", "lowest", "highest"]
        assert table.loc["C2", names].isna().all()
        assert table.drop("C2")[names].notna().all(axis=None)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"output": "probability"}, "different scales of the output"),
            ({"baseline": "pad"}, "different baselines"),
            ({"mode": "regression"}, "different kinds of label"),
            ({"fingerprint": "f0"}, "0 and 1 are of one model"),
        ],
    )
    def test_unlike_ones_are_refused(self, changes: dict, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            Explanation.across(self.parts(**changes))

    def test_too_few_other_codes_and_other_targets_are_refused(self) -> None:
        parts = self.parts()
        for few in ([], parts[:1]):
            with pytest.raises(ValueError, match=r"[01] explanation.*two or more"):
                Explanation.across(few)
        record = parts[1].features["codes"]
        for names in (tuple(f"D{k}" for k in range(12)), None):
            codes = {"codes": replace(record, columns=names)}
            with pytest.raises(ValueError, match="other codes in feature 'codes'"):
                Explanation.across([parts[0], replace(parts[1], features=codes)])
        target = (1, *parts[1].target[1:])
        with pytest.raises(ValueError, match="of different targets"):
            Explanation.across([parts[0], replace(parts[1], target=target)])


class TestPictures:
    def tables(self) -> dict[str, Callable[[], pd.DataFrame]]:
        return {
            "means": lambda: drawn(0).top(level=0.95, replicates=20),
            "groups": lambda: drawn(0, planted=2.0).groups("sex", replicates=200),
            "models": lambda: Explanation.across(TestAcross().parts()),
        }

    @pytest.mark.parametrize("kind", ["means", "groups", "models"])
    def test_rows_lines_and_words(self, kind: str) -> None:
        table = self.tables()[kind]()
        figure, ax = intervals(table, k=4)
        assert [t.get_text() for t in ax.get_yticklabels()] == list(table["code"][:4])
        low, high = {
            "means": ("mean_low", "mean_high"),
            "groups": ("difference_low", "difference_high"),
            "models": ("lowest", "highest"),
        }[kind]
        lines = [line for line in ax.lines if len(line.get_xdata()) == 2][:4]
        for line, row in zip(lines, table.head(4).to_dict("records")):
            assert tuple(line.get_xdata()) == (row[low], row[high])
        figure.canvas.draw()

    def test_lines_are_as_long_as_references_differ(self) -> None:
        model, batch = tiny_model()
        dl = DeepLiftShapEHR(model)
        table = dl.spread(batch, reference_patients(model.dataset, 4))
        mine = table[table["sample"] == 0].copy()
        mine.loc[mine.index[0], "visit"] = 2
        _, ax = intervals(mine, k=len(mine))
        lines = [line for line in ax.lines if len(line.get_xdata()) == 2]
        for line, row in zip(lines, mine.to_dict("records")):
            spread = row["spread_over_references"]
            ends = row["attribution"] - spread, row["attribution"] + spread
            assert tuple(line.get_xdata()) == ends
        labels = [text.get_text() for text in ax.get_yticklabels()]
        assert labels[0] == f"{mine['code'].iloc[0]}, visit 3"
        assert labels[1:] == mine["code"].tolist()[1:]
        with pytest.raises(ValueError, match="of 4 samples, expected one"):
            intervals(table)

    def test_what_is_found_is_filled(self) -> None:
        table = self.tables()["groups"]()
        _, ax = intervals(table)
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        filled = [dot.get_markerfacecolor() == dot.get_color() for dot in dots]
        assert filled == (table["q_value"] <= 0.05).tolist() and any(filled)

    def test_tables_without_intervals_are_refused(self) -> None:
        with pytest.raises(ValueError, match="no intervals"):
            intervals(drawn(0).top())
        with pytest.raises(ValueError, match="no column 'code' or 'group'"):
            intervals(drawn(0).by_feature())
        with pytest.raises(ValueError, match="no rows"):
            intervals(drawn(0)[[]].top(level=0.95))

    def test_bars_have_lines(self) -> None:
        whole = drawn(0)
        table = whole.top(5, level=0.95)
        _, axes = cohort_bar(whole, k=5, level=0.95)
        for ax, name in zip(axes, ("mean", "mean_abs")):
            (lines,) = ax.collections
            ends = [segment[:, 0] for segment in lines.get_segments()]
            np.testing.assert_allclose(ends, table[[f"{name}_low", f"{name}_high"]])
        assert not axes[2].collections

    def test_reports_have_them(self, tmp_path) -> None:
        page = write_report(drawn(0), tmp_path / "r.html", title="t", patients=[0])
        text = page.read_text()
        assert "95 % interval" in text and text.count('class="interval muted"') == 12
        one = write_report(drawn(0)["p0"], tmp_path / "o.html", title="t", patients=[])
        assert 'class="interval muted"' not in one.read_text()

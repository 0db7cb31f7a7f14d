"""The tables of a cohort: those of one explanation of all, and how sure they are."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from cohort_files import synthetic, write_cohort
from explanations import cohorts
from hypothesis import given, settings

from captum_ehr import DeepLiftEHR, explain_cohort
from captum_ehr.cohort import Cohort
from captum_ehr.datasets import tiny_model
from captum_ehr.explanation import Explanation, aggregates

ENDS = ("_low", "_high")


@pytest.fixture(scope="module")
def whole() -> Explanation:
    """A thousand samples of five hundred patients, explained in ten batches."""
    drawn = synthetic(1_000)
    return Explanation.concat(drawn[k : k + 100] for k in range(0, 1_000, 100))


@pytest.fixture(scope="module")
def cohort(whole: Explanation, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    sex = ["F" if k % 10 < 6 else "M" if k % 10 < 9 else None for k in range(1_000)]
    band = [int(k % 3) for k in range(1_000)]
    folder = tmp_path_factory.mktemp("cohort")
    return Cohort(write_cohort(folder, whole, columns={"sex": sex, "band": band}))


def assert_top(table: pd.DataFrame, top: pd.DataFrame) -> None:
    """Assert that a table has the numbers of Explanation.top, in its order."""
    assert table["mean_abs"].is_monotonic_decreasing or table["mean_abs"].isna().any()
    keys = [name for name in ("feature", "code", "group") if name in top]
    both = table.set_index(keys).loc[top.set_index(keys).index].reset_index()
    columns = [name for name in top if name != "sum"]
    pd.testing.assert_frame_equal(
        both[columns], top[columns], check_dtype=False, rtol=1e-5, atol=1e-6
    )
    assert len(table) == len(top)


def test_codes_are_those_of_one_explanation_of_all(
    cohort: Cohort, whole: Explanation
) -> None:
    table = cohort.codes(replicates=0)
    assert_top(table, whole.top(None))
    assert not [name for name in table if name.endswith(ENDS)]
    sums = whole.by_code()
    sums["absolute"] = sums["attribution"].abs()
    rows = sums.groupby(["feature", "code"])
    each, by_code = rows["attribution"], table.set_index(["feature", "code"])
    wanted = {
        "samples": rows.size(),
        "patients": rows["patient_id"].nunique(),
        "mean": each.sum() / len(whole),
        "mean_abs": rows["absolute"].sum() / len(whole),
    }
    for name, numbers in wanted.items():
        expected = numbers.loc[by_code.index]
        np.testing.assert_allclose(by_code[name], expected, rtol=1e-5, atol=1e-6)
    assert (by_code["patients"] < by_code["samples"]).any()
    for name, share in (("q25", 0.25), ("median", 0.5), ("q75", 0.75)):
        wanted = each.quantile(share).loc[by_code.index]
        np.testing.assert_allclose(by_code[name], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        by_code["mean_present"], each.mean().loc[by_code.index], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(by_code["prevalence"], by_code["samples"] / len(whole))
    assert by_code.loc[("conditions", "C001"), "name"] == "heart failure"


def test_codes_of_a_model_are_those_of_its_explanation(tmp_path: Path) -> None:
    model, batch = tiny_model()
    cohort = explain_cohort(model, model.dataset, tmp_path)
    explanation = DeepLiftEHR(model).explain(batch)
    assert_top(cohort.codes(), explanation.top(None))
    back, wanted = cohort["p2"].by_visit(), explanation["p2"].by_visit()
    pd.testing.assert_frame_equal(back, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "mapping",
    [
        {"drugs": "atc1"},
        {"drugs": "atc3", "conditions": lambda code: code[:2]},
        {"sodium": "labs", "static[1]": "one"},
    ],
)
def test_groups_of_codes_are_those_of_one_explanation_of_all(
    cohort: Cohort, whole: Explanation, mapping: dict
) -> None:
    table = cohort.codes(mapping, rest="rest", replicates=0)
    assert_top(table, whole.top(None, mapping, "rest"))


def test_a_ready_grouping_that_fits_several_features_is_refused(
    cohort: Cohort,
) -> None:
    with pytest.raises(ValueError, match="say whose codes the grouping 'atc1' is for"):
        cohort.codes("atc1")


def test_features_and_visits_are_those_of_one_explanation_of_all(
    cohort: Cohort, whole: Explanation
) -> None:
    features = cohort.features(replicates=0).set_index("feature")
    assert list(features.index) == list(whole.features)
    each = whole.by_feature().groupby("feature")["attribution"]
    np.testing.assert_allclose(features["mean_present"], each.mean()[features.index])
    visits = cohort.visits(replicates=0)
    frame = whole.by_visit()
    frame["series"] = frame["features"].where(frame["features"] == "labs", "")
    each = frame.groupby(["series", "visit"], dropna=False)["attribution"]
    assert visits["visit"].fillna(-1).tolist() == [0, 1, 2, -1, 0, 1, 2]
    assert visits["series"].tolist() == [None] * 4 + ["labs"] * 3
    np.testing.assert_allclose(visits["mean_present"], each.mean(), rtol=1e-4)
    assert visits["samples"].tolist() == each.size().tolist()


@settings(max_examples=10)
@given(cohorts())
def test_any_explanation_has_the_same_codes_in_a_cohort(whole: Explanation) -> None:
    if not len(whole):
        return
    with TemporaryDirectory() as folder:
        cohort = Cohort(write_cohort(Path(folder), whole, parts=min(2, len(whole))))
        assert_top(cohort.codes(replicates=3), whole.top(None))
        assert_top(cohort.codes(lambda code: code[:1], replicates=3), whole.top(
            None, lambda code: code[:1]
        ))  # fmt: skip


def test_some_patients_are_counted_as_if_they_were_all(
    cohort: Cohort, whole: Explanation
) -> None:
    ids = ["p00007", "p00001", "p00007", "p00300"]
    some = whole[["p00001", "p00007", "p00300"]]
    assert_top(cohort.codes(among=ids), some.top(None))
    women = whole[[k % 10 < 6 for k in range(1_000)]]
    assert_top(cohort.codes(among=pl.col("sex") == "F"), women.top(None))
    everybody = pl.col("messages").list.len() == 0
    assert_top(cohort.codes(among=everybody, replicates=0), whole.top(None))
    with pytest.raises(KeyError, match="no patient 'nobody'"):
        cohort.codes(among=["nobody"])
    with pytest.raises(ValueError, match="among leaves none"):
        cohort.codes(among=pl.col("sex") == "X")
    with pytest.raises(pl.exceptions.ColumnNotFoundError, match="age"):
        cohort.codes(among=pl.col("age") > 60)


def test_what_is_no_number_makes_no_sum(tmp_path: Path) -> None:
    whole = synthetic(20)
    whole.attributions["labs"][3] = whole.f_input[3] = torch.nan
    cohort = Cohort(write_cohort(tmp_path, whole))
    with pytest.warns(UserWarning, match="1 of 20 patient"):
        table = cohort.codes()
    with pytest.warns(UserWarning, match="1 of 20 patient"):
        assert_top(table, whole.top(None))
    assert table["code"].tolist()[-2:] == ["lactate", "sodium"]
    lost = table.iloc[-2:]
    assert lost[["mean", "mean_low", "mean_abs", "median"]].isna().all(None)
    assert lost["prevalence"].notna().all() and table["mean"][:-2].notna().all()
    assert "no numbers" in table.attrs["note"]


def test_several_targets_are_not_added_up_without_a_word(tmp_path: Path) -> None:
    whole = synthetic(30, target=(0, 1, 1) * 10, target_names=("home", "died"))
    cohort = Cohort(write_cohort(tmp_path, whole))
    for table in (cohort.codes, cohort.features, cohort.visits):
        with pytest.warns(UserWarning, match="2 different targets"):
            noted = table(replicates=0)
        assert "'died', 'home'" in noted.attrs["note"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = cohort.codes(among=pl.col("target") == 1)
    assert "note" not in one.attrs
    assert_top(one, whole[[k % 3 > 0 for k in range(30)]].top(None))


def test_blocks_make_no_difference(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = cohort.codes(replicates=50), cohort.groups("sex", replicates=50)
    monkeypatch.setattr(aggregates, "_MOST_TOTALS", 700)
    monkeypatch.setattr(aggregates, "_MOST_SUMS", 350)
    in_blocks = cohort.codes(replicates=50), cohort.groups("sex", replicates=50)
    for one, other in zip(at_once, in_blocks, strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_intervals_go_by_the_seed_and_hold_the_mean(cohort: Cohort) -> None:
    one, again = (cohort.codes(replicates=200, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(one, again)
    other = cohort.codes(replicates=200, seed=4)
    assert (one["mean_low"] != other["mean_low"]).all()
    narrow = cohort.codes(replicates=200, seed=3, level=0.5)
    for name in ("prevalence", "mean", "mean_abs", "mean_present"):
        assert one[f"{name}_low"].le(one[name]).all()
        assert one[f"{name}_high"].ge(one[name]).all()
        widths = [t[f"{name}_high"] - t[f"{name}_low"] for t in (one, narrow)]
        assert widths[0].gt(widths[1]).all()


def test_what_one_patient_has_says_nothing_of_others_who_have_it(
    cohort: Cohort, whole: Explanation
) -> None:
    two = list(dict.fromkeys(whole.patient_ids))[:2]
    table = cohort.codes(among=two, replicates=20)
    alone = table["patients"] == 1
    assert alone.any() and not alone.all()
    for end in ("low", "high"):
        assert (table[f"mean_present_{end}"].isna() == alone).all()
        assert table[f"mean_{end}"].notna().all()


@pytest.mark.parametrize("wrong", [{"level": 1.0}, {"replicates": -1}, {"seed": -1}])
def test_wrong_numbers_are_refused(cohort: Cohort, wrong: dict) -> None:
    with pytest.raises(
        ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"
    ):
        cohort.codes(**wrong)


def test_all_samples_of_a_patient_are_drawn_together(tmp_path: Path) -> None:
    once = synthetic(200, per_patient=1)
    twice = Explanation.concat([once, once])
    tables = [
        Cohort(write_cohort(tmp_path / name, each)).codes()
        for name, each in (("once", once), ("twice", twice))
    ]
    same = [name for name in tables[0] if name not in ("count", "samples")]
    same = [name for name in same if name not in ("q25", "median", "q75")]
    pd.testing.assert_frame_equal(tables[0][same], tables[1][same])
    assert (tables[1]["samples"] == 2 * tables[0]["samples"]).all()


def test_groups_are_compared_with_the_largest(
    cohort: Cohort, whole: Explanation
) -> None:
    table = cohort.groups("sex").set_index(["feature", "code"])
    assert {*table["value"]} == {"M"} and {*table["reference"]} == {"F"}
    assert table["difference"].abs().is_monotonic_decreasing
    for value, end in (("F", "_reference"), ("M", "")):
        mine = [k % 10 < 6 if value == "F" else 6 <= k % 10 < 9 for k in range(1_000)]
        top = whole[mine].top(None).set_index(["feature", "code"]).loc[table.index]
        np.testing.assert_allclose(
            table[f"mean{end}"], top["mean"], rtol=1e-4, atol=1e-6
        )
        assert (table[f"patients{end}"] == top["patients"]).all()
        shares = top["samples"] / sum(mine)
        np.testing.assert_allclose(table[f"prevalence{end}"], shares)
    gap = table["mean"] - table["mean_reference"]
    np.testing.assert_allclose(table["difference"], gap)
    assert (
        table["difference_low"].lt(gap).all() and table["difference_high"].gt(gap).all()
    )


def test_groups_are_those_of_an_explanation(cohort: Cohort, whole: Explanation) -> None:
    sex = ["F" if k % 10 < 6 else "M" if k % 10 < 9 else None for k in range(1_000)]
    stored = cohort.groups("sex", replicates=50)
    table = whole.with_sample_columns({"sex": sex}).groups("sex", replicates=50)
    keys = ["feature", "code"]
    stored, table = stored.set_index(keys), table.set_index(keys)
    pd.testing.assert_frame_equal(
        stored, table.loc[stored.index], check_dtype=False, rtol=1e-3, atol=1e-6
    )
    assert stored.attrs == table.attrs and stored.attrs["left_out"] == 100


def test_several_groups_and_groups_of_codes(cohort: Cohort) -> None:
    table = cohort.groups("band", {"drugs": "atc1"}, reference=2, replicates=20)
    assert {*table["reference"]} == {2} and {*table["value"]} == {0, 1}
    assert table.groupby("group").size().eq(2).all()
    other = cohort.groups("band", reference=0, among=pl.col("band") < 2)
    assert {*other["value"]} == {1}


def test_what_cannot_be_compared_is_said(cohort: Cohort) -> None:
    with pytest.raises(KeyError, match="no column 'age'.*columns="):
        cohort.groups("age")
    with pytest.raises(ValueError, match="500 values, expected 2 to 50"):
        cohort.groups("patient_id")
    with pytest.raises(ValueError, match="1 values .'F' alone"):
        cohort.groups("sex", among=pl.col("sex") == "F")
    with pytest.raises(ValueError, match="reference is 'X'; 'sex' has 'F', 'M'"):
        cohort.groups("sex", reference="X")

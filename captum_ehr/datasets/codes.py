"""The vocabulary of the built-in cohort: ICD-10-CM diagnoses and ATC drugs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Code:
    """One diagnosis or drug of the synthetic cohort.

    Args:
        code: The ICD-10-CM or ATC code.
        name: Its ordinary title.
        prevalence: Share of patients who ever have it, between 0 and 1.
        persistence: Chance that it is recorded again at each later visit, once
            it has been recorded; high for chronic disease, low for acute.

    Example:
        >>> Code("I10", "Essential (primary) hypertension", 0.45, 0.9).code
        'I10'
    """

    code: str
    name: str
    prevalence: float
    persistence: float


CONDITIONS: tuple[Code, ...] = (
    Code("A41.9", "Sepsis, unspecified organism", 0.20, 0.60),
    Code(
        "C34.90",
        "Malignant neoplasm of unspecified part of unspecified bronchus or lung",
        0.18,
        0.95,
    ),
    Code("I50.9", "Heart failure, unspecified", 0.24, 0.90),
    Code("J96.01", "Acute respiratory failure with hypoxia", 0.20, 0.65),
    Code("K74.60", "Unspecified cirrhosis of liver", 0.18, 0.95),
    Code("I10", "Essential (primary) hypertension", 0.45, 0.90),
    Code("E78.5", "Hyperlipidemia, unspecified", 0.38, 0.90),
    Code("E11.9", "Type 2 diabetes mellitus without complications", 0.28, 0.95),
    Code("K21.9", "Gastro-esophageal reflux disease without esophagitis", 0.26, 0.80),
    Code("Z87.891", "Personal history of nicotine dependence", 0.30, 0.70),
    Code("D64.9", "Anemia, unspecified", 0.22, 0.60),
    Code("N39.0", "Urinary tract infection, site not specified", 0.20, 0.30),
    Code("F32.A", "Depression, unspecified", 0.18, 0.80),
    Code("F41.9", "Anxiety disorder, unspecified", 0.16, 0.80),
    Code("M54.50", "Low back pain, unspecified", 0.20, 0.50),
    Code("M17.9", "Osteoarthritis of knee, unspecified", 0.16, 0.85),
    Code("M19.90", "Unspecified osteoarthritis, unspecified site", 0.14, 0.80),
    Code("E03.9", "Hypothyroidism, unspecified", 0.15, 0.90),
    Code("E55.9", "Vitamin D deficiency, unspecified", 0.12, 0.60),
    Code("E66.9", "Obesity, unspecified", 0.20, 0.85),
    Code("G47.33", "Obstructive sleep apnea (adult) (pediatric)", 0.14, 0.85),
    Code("J45.909", "Unspecified asthma, uncomplicated", 0.12, 0.80),
    Code("J30.9", "Allergic rhinitis, unspecified", 0.10, 0.60),
    Code("H26.9", "Unspecified cataract", 0.10, 0.60),
    Code("H40.9", "Unspecified glaucoma", 0.07, 0.80),
    Code("K59.00", "Constipation, unspecified", 0.16, 0.40),
    Code("K57.30", "Diverticulosis of large intestine without bleeding", 0.10, 0.60),
    Code("L30.9", "Dermatitis, unspecified", 0.08, 0.40),
    Code("N40.0", "Benign prostatic hyperplasia without symptoms", 0.10, 0.85),
    Code("R07.9", "Chest pain, unspecified", 0.14, 0.30),
    Code("R42", "Dizziness and giddiness", 0.10, 0.30),
    Code("R51.9", "Headache, unspecified", 0.10, 0.30),
    Code("S82.90XA", "Unspecified fracture of unspecified lower leg", 0.05, 0.20),
    Code("Z79.82", "Long term (current) use of aspirin", 0.18, 0.80),
    Code("Z96.641", "Presence of right artificial hip joint", 0.06, 0.80),
)
"""Every diagnosis of the cohort, with its ICD-10-CM title."""

DRUGS: tuple[Code, ...] = (
    Code("C10AA05", "Atorvastatin", 0.36, 0.92),
    Code("B01AA03", "Warfarin", 0.38, 0.92),
    Code("M01AE01", "Ibuprofen", 0.40, 0.88),
    Code("N02BE01", "Paracetamol", 0.46, 0.60),
    Code("A02BC02", "Pantoprazole", 0.36, 0.80),
    Code("C09AA05", "Ramipril", 0.26, 0.90),
    Code("C08CA01", "Amlodipine", 0.24, 0.90),
    Code("A10BA02", "Metformin", 0.24, 0.92),
    Code("H03AA01", "Levothyroxine sodium", 0.14, 0.92),
    Code("N06AB06", "Sertraline", 0.14, 0.85),
    Code("R03AC02", "Salbutamol", 0.14, 0.75),
    Code("A11CC05", "Colecalciferol", 0.18, 0.75),
    Code("A06AD15", "Macrogol", 0.14, 0.40),
    Code("N05CF01", "Zopiclone", 0.10, 0.55),
    Code("N03AX12", "Gabapentin", 0.12, 0.80),
    Code("J01CA04", "Amoxicillin", 0.16, 0.20),
    Code("J01XE01", "Nitrofurantoin", 0.08, 0.20),
    Code("R06AE07", "Cetirizine", 0.10, 0.50),
    Code("S01ED01", "Timolol", 0.06, 0.85),
    Code("G04CA02", "Tamsulosin", 0.10, 0.88),
    Code("A12AX", "Calcium, combinations with vitamin D", 0.12, 0.75),
    Code("D07AC01", "Betamethasone", 0.06, 0.40),
)
"""Every drug of the cohort, with its ATC title."""

CODE_NAMES: Mapping[str, str] = MappingProxyType(
    {entry.code: entry.name for entry in CONDITIONS + DRUGS}
)
"""Code to title, for every diagnosis and every drug of the cohort."""

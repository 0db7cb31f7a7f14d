"""What is said of a patient and of a cohort, worked out once, for all that draw it."""

from .palette import TABLE, ColorScale
from .patient import PatientScene, patient_scene
from .population import PopulationScene, population_scene, top_codes
from .verdict import Verdict, verdict_of

__all__ = [
    "TABLE",
    "ColorScale",
    "PatientScene",
    "PopulationScene",
    "Verdict",
    "patient_scene",
    "population_scene",
    "top_codes",
    "verdict_of",
]

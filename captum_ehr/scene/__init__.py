"""What is said of a patient and of a cohort, worked out once, for all that draw it."""

from .palette import TABLE as TABLE
from .palette import ColorScale as ColorScale
from .patient import PatientScene as PatientScene
from .patient import patient_scene as patient_scene
from .population import PopulationScene as PopulationScene
from .population import population_scene as population_scene
from .population import top_codes as top_codes
from .verdict import Verdict as Verdict
from .verdict import verdict_of as verdict_of

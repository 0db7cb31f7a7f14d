"""The calculus: exact multipliers for every torch call, for any ``nn.Module``.

Torch alone; nothing here knows of Captum, of PyHealth or of patients.
"""

from .calls import DivergenceError
from .diagnostics import Diagnostics, Operation, Structure
from .explain import Attributions, attributions, multipliers
from .pairs import Multiplier, Pair, Rule, middle, pure, sum_to
from .rules.elementwise import elementwise, secant_rule
from .rules.handlers import captum_handler
from .rules.integral import path_integral
from .rules.products import product
from .rules.sparsemax import sparsemax

# What the packages above take besides.
# isort: split
from .audit import AuditTape as AuditTape
from .explain import TwoSided as TwoSided
from .explain import foreign_functions as foreign_functions
from .explain import recorded as recorded
from .explain import settled as settled
from .explain import two_passes as two_passes
from .explain import viewed as viewed
from .registry import Table as Table
from .registry import default_table as default_table
from .registry import module_types as module_types
from .registry import with_rules as with_rules
from .tape import Tape as Tape
from .view import private_view as private_view

__all__ = [
    "Attributions",
    "Diagnostics",
    "DivergenceError",
    "Multiplier",
    "Operation",
    "Pair",
    "Rule",
    "Structure",
    "attributions",
    "captum_handler",
    "elementwise",
    "middle",
    "multipliers",
    "path_integral",
    "product",
    "pure",
    "secant_rule",
    "sparsemax",
    "sum_to",
]

"""The calculus: exact multipliers for every torch call, for any ``nn.Module``.

Torch alone; nothing here knows of Captum, of PyHealth or of patients.
"""

from .audit import AuditTape, Line
from .calls import DivergenceError
from .diagnostics import Diagnostics, Operation, Structure
from .explain import (
    Attributions,
    TwoSided,
    attributions,
    foreign_functions,
    multipliers,
    recorded,
    two_passes,
    viewed,
)
from .pairs import Multiplier, Pair, Rule, middle, sum_to
from .registry import default_table, module_types, with_rules
from .rules.elementwise import elementwise, secant_rule
from .rules.handlers import captum_handler
from .rules.integral import path_integral
from .rules.products import product
from .rules.sparsemax import sparsemax
from .tape import Tape
from .view import private_view

__all__ = [
    "Attributions",
    "AuditTape",
    "Diagnostics",
    "DivergenceError",
    "Line",
    "Multiplier",
    "Operation",
    "Pair",
    "Rule",
    "Structure",
    "Tape",
    "TwoSided",
    "attributions",
    "captum_handler",
    "default_table",
    "elementwise",
    "foreign_functions",
    "middle",
    "module_types",
    "multipliers",
    "path_integral",
    "private_view",
    "product",
    "recorded",
    "secant_rule",
    "sparsemax",
    "sum_to",
    "two_passes",
    "viewed",
    "with_rules",
]

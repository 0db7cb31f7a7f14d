"""What our words mean, for people who have not read the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .patient import PatientScene

BASELINES = {
    "unk": "every code replaced by the unknown code, every value by 0: a record of the "
    "same shape that says nothing",
    "pad": "no codes at all, as if the record were empty, and every value 0",
    "typical": "every code replaced by the unknown code, every value by the dataset's "
    "median: somebody usual of whom nothing is known",
    "mean": "the dataset's mean in place of each value, and of each code's embedding",
    "median": "the dataset's median in place of each value, and of each code's "
    "embedding",
    "pyhealth": "what PyHealth's own DeepLift takes: the unknown code also on padding, "
    "0.01 for values",
    "drawn patients": "some patients drawn from the dataset, over whom is averaged",
}
"""What a patient is compared with, by the name of the baseline."""

OTHER_BASELINE = "the record that this patient is compared with"
"""The same of one that has no name of ours."""

OUTPUTS = {
    "logit": "the model's score before it becomes a probability: 0 is 50 %, and 1 more "
    "multiplies the odds by 2.7",
    "probability": "the model's risk, from 0 to 1",
    "output": "the number that the model returns",
}
"""What is explained, by the scale."""

ACCOUNT = {
    "f(x)": "the model's output for this patient",
    "f(x0)": "the model's output for the baseline",
    "attribution": "how far a code or value moves the output from f(x0) to f(x); it "
    "describes the model and is no cause",
}
"""What the account of a patient speaks of."""

UNSIGNED = "how much the output reacts to a code or value, whichever way"
"""What an attribution is that has no sign."""

DELTA = (
    "what the attributions together have too much or too little to be "
    "f(x) − f(x0), before any rescaling; rounding where all is well"
)
"""What is missing or too much."""


def explained(scene: PatientScene) -> dict[str, str]:
    """The words that a patient's page uses, and what each means."""
    baseline = f"baseline {scene.baseline}" if scene.baseline else "baseline"
    words = {
        scene.output: OUTPUTS[scene.output],
        baseline: BASELINES.get(scene.baseline, OTHER_BASELINE),
        **ACCOUNT,
    }
    if not scene.scale.is_signed:
        words["attribution"] = UNSIGNED
    return words | ({"delta": DELTA} if scene.adds_up else {})

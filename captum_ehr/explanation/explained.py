"""What is explained of a patient: an output, or one output rather than another."""

from __future__ import annotations

from dataclasses import dataclass

#: The index of an output, or several where outputs have more dimensions.
type Place = int | tuple[int, ...]


@dataclass(frozen=True)
class Contrast:
    """One output rather than another: f_a - f_b is explained.

    Args:
        a: The index of the output that is explained; in targets also a label.
        b: That of the output it is compared with.
    """

    a: Place
    b: Place


#: What an explanation says of each patient.
type Explained = Place | Contrast


def label_of(target: Explained, names: tuple[str, ...] | None = None) -> str:
    """The name of an output where it has one, else its index.

    Example:
        >>> label_of(Contrast(1, 0), ("home", "died"))
        'died rather than home'
    """
    if isinstance(target, Contrast):
        return f"{label_of(target.a, names)} rather than {label_of(target.b, names)}"
    if isinstance(target, int) and 0 <= target < len(names or ()):
        return (names or ())[target]
    return str(target)


def word_of(output: str, mode: str | None) -> str:
    """What the explained number is: a logit, a probability or, else, an output."""
    return "output" if mode == "regression" else output


class OfPatients:
    """What is said of several patients and one model; dataclasses below have fields."""

    patient_ids: tuple[str, ...]
    output: str
    mode: str | None

    def __len__(self) -> int:
        """The number of patients."""
        return len(self.patient_ids)

    @property
    def output_word(self) -> str:
        """What the explained number is called."""
        return word_of(self.output, self.mode)


class OfTargets(OfPatients):
    """The same of an explained output for each patient."""

    target: tuple[Explained, ...]
    target_names: tuple[str, ...] | None

    def target_label(self, patient: int) -> str:
        """The name of the output explained for a patient, else its index."""
        return label_of(self.target[patient], self.target_names)

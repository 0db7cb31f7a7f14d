"""The laboratory panel of the built-in cohort: names, units, ranges, scales."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lab:
    """One column of the laboratory panel.

    Models see z-values, ``(value - mean) / sd``; people see values.

    Args:
        name: What is measured.
        unit: The unit of ``mean``, ``sd``, ``low`` and ``high``.
        mean: The cohort's mean.
        sd: The cohort's standard deviation.
        low: Lower end of the reference range.
        high: Upper end of the reference range.
    """

    name: str
    unit: str
    mean: float
    sd: float
    low: float
    high: float

    def to_value(self, z: float) -> float:
        """The value, in ``unit``, of a z-value.

        Args:
            z: Standard deviations above the mean.

        Returns:
            ``mean + sd * z``.

        Example:
            >>> Lab("Sodium", "mmol/L", 139.0, 4.0, 135.0, 145.0).to_value(-1.0)
            135.0
        """
        return self.mean + self.sd * z

    def to_z(self, value: float) -> float:
        """The z-value of a value in ``unit``; the inverse of :meth:`to_value`.

        Args:
            value: A measurement in ``unit``.

        Returns:
            ``(value - mean) / sd``.

        Example:
            >>> Lab("Sodium", "mmol/L", 139.0, 4.0, 135.0, 145.0).to_z(145.0)
            1.5
        """
        return (value - self.mean) / self.sd

    def is_abnormal(self, z: float) -> bool:
        """Whether a z-value lies outside the reference range.

        Args:
            z: Standard deviations above the mean.

        Returns:
            True below ``low`` or above ``high``.

        Example:
            >>> Lab("Sodium", "mmol/L", 139.0, 4.0, 135.0, 145.0).is_abnormal(2.0)
            True
        """
        return not self.low <= self.to_value(z) <= self.high


LABS: tuple[Lab, ...] = (
    Lab("Lactate", "mmol/L", 1.6, 0.7, 0.5, 2.0),
    Lab("Creatinine", "umol/L", 88.0, 24.0, 50.0, 110.0),
    Lab("Haemoglobin", "g/L", 131.0, 15.0, 120.0, 170.0),
    Lab("Sodium", "mmol/L", 139.0, 3.5, 135.0, 145.0),
    Lab("Potassium", "mmol/L", 4.2, 0.45, 3.5, 5.1),
    Lab("White cell count", "10^9/L", 8.2, 2.4, 4.0, 11.0),
    Lab("Platelets", "10^9/L", 245.0, 65.0, 150.0, 400.0),
    Lab("Glucose", "mmol/L", 6.4, 1.6, 3.9, 7.8),
)
"""The columns of ``labs``, in order."""

LAB_NAMES: tuple[str, ...] = tuple(lab.name for lab in LABS)
"""The names of the columns of ``labs``, in order."""

"""Why there is no threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._native import InputError

__all__ = ["InputError", "RefusedError"]


class RefusedError(Exception):
    """The data cannot support the target: what was given is in order, and no threshold was chosen.

    reason          CALIBRATION_UNDERPOWERED: too few labels. CALIBRATION_UNATTAINABLE: more would not help.
                    STRANGERS_UNNAMED: nobody named the strangers.
    needed          labels that the target takes; None if that cannot be said
    present         labels that there are, each of which counts once
    best_supported  the lowest rate of the kind asked for that so many labels can support; asking for an FRR
                    takes new labels
    findings        all that was found, as `matchpoint calibrate --embeddings --json` prints it
    report          the same as one HTML page
    """

    reason: str
    needed: int | None
    present: int | None
    best_supported: float | None
    findings: Mapping[str, Any]
    report: str

    def __init__(self, findings: Mapping[str, Any], report: str) -> None:
        refusal = findings["refusal"]
        super().__init__(refusal["message"])
        self.reason = refusal["reason"]
        self.needed = refusal["needed"]
        self.present = refusal["independent_trials"]
        self.best_supported = refusal["best_supported"]
        self.findings = findings
        self.report = report

    def __reduce__(self) -> tuple[type[RefusedError], tuple[Mapping[str, Any], str]]:
        return type(self), (self.findings, self.report)

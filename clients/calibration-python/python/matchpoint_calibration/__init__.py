"""From labelled embeddings or scores to an accept threshold that keeps a promised error rate, or a refusal.

    import matchpoint_calibration as mc

    found = mc.calibrate(embeddings=gallery, labels=labels, queries=queries, query_labels=query_labels, target_far=0.01)
    print(found)                       # a notebook shows the report if it stands last in a cell
    found.accepts(mc.similarities(queries, gallery).max(axis=1))

Queries whose label is not among `labels` are the strangers, and the promise rests on them. If they are too few for the
rate asked for, `RefusedError` says how many it takes. docs/calibration-python.md of the repository has all of it.
"""

from ._calibrate import Costs, calibrate, similarities
from ._errors import InputError, RefusedError
from ._results import Calibration, Consistency, OperatingPoint, Rate

__all__ = [
    "Calibration",
    "Consistency",
    "Costs",
    "InputError",
    "OperatingPoint",
    "Rate",
    "RefusedError",
    "calibrate",
    "similarities",
]

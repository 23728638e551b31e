#!/usr/bin/env python3
"""Calibrates a deployment while it serves, from a list of labelled pictures.

    calibrate.py labelled.csv --target-far 0.01 [--activate]

Without --activate it changes nothing.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import matchpoint


def labelled(source: Path) -> Iterator[matchpoint.LabelledQuery]:
    """Each labelled picture of the list; paths are relative to it."""
    with source.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield matchpoint.LabelledQuery(row["path"], row["label"], source.parent / row["path"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Calibrate a deployment while it serves.")
    parser.add_argument("queries", type=Path, help="CSV file with the columns path and label")
    parser.add_argument("--target-far", type=float, required=True)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--activate", action="store_true", help="let the new operating point decide")
    arguments = parser.parse_args()

    with matchpoint.Client() as client:
        found = client.calibrate(
            labelled(arguments.queries),
            target_far=arguments.target_far,
            confidence=arguments.confidence,
            activate=arguments.activate,
        )
    point = found.operating_point
    promise = f"FAR <= {point.target_far:g} at {point.confidence:.0%} confidence"
    state = "active" if found.active else "not active"
    print(f"{point.id}: threshold {point.threshold:.4f}, {promise}, {state}")
    print(f"false rejects: {point.frr}")
    for failed in found.doubts.failed:
        print(f"{failed.id}: {failed.reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (matchpoint.MatchpointError, OSError, ValueError) as error:
        sys.exit(str(error))

#!/usr/bin/env python3
"""Searches for every picture of a folder, and says which are accepted as something that is enrolled.

    search_folder.py photos/ --csv decisions.csv
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import matchpoint

PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}


def main() -> int:
    parser = argparse.ArgumentParser(description="Search for every picture of a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--csv", type=Path, help="write all decisions to this file")
    arguments = parser.parse_args()

    pictures = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in PICTURES)
    rows, failed = [["picture", "decision", "label", "score", "decision_id"]], 0
    # Server, key and certificates are those of the variables of `matchpoint search`.
    with matchpoint.Client() as client:
        for outcome in client.search_many(pictures):
            if outcome.error is not None:
                failed += 1
                print(outcome.error, file=sys.stderr)
                continue
            answer = outcome.result.answer
            picture, decision, label = str(outcome.given), answer.decision.value, answer.label or ""
            rows.append([picture, decision, label, str(answer.score), answer.decision_id])
            print(f"{picture}: {decision} {label}".rstrip())
    if arguments.csv:
        with arguments.csv.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
    return 3 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (matchpoint.MatchpointError, OSError, ValueError) as error:
        sys.exit(str(error))

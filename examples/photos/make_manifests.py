#!/usr/bin/env python3
"""Derive the other files from labels.csv, the record of this sample.

  gallery.csv     the images to enrol: role gallery, all of split test and every second of split
                  calib, so that the others can play strangers in the calibration
  calibrate.csv   split calib, roles query and unknown: the searches that set the threshold
  evaluate.csv    split test, roles query and unknown: the searches that test it
  CREDITS.md      one line for each photograph: who made it, its licence, its source

Needs only Python.
"""

import argparse
import csv
import io
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
GALLERY_COLUMNS = ["path", "label", "split", "kind", "credit", "licence"]
SEARCH_COLUMNS = ["path", "label", "role", "kind"]

Row = dict[str, str]


def read_labels() -> list[Row]:
    """The rows of labels.csv; every image that they name has to be there."""
    with (FOLDER / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    missing = [row["path"] for row in rows if not (FOLDER / row["path"]).is_file()]
    if missing:
        sys.exit(f"labels.csv names {len(missing)} missing images; first {missing[0]}")
    return rows


def searches(rows: list[Row], split: str) -> list[Row]:
    """The searches of a split; those of labels that gallery.csv does not enrol are unknown."""
    roles = ("query", "unknown")
    known = {row["label"] for row in enrolled(rows)}
    return [
        row if row["label"] in known else row | {"role": "unknown"}
        for row in rows
        if row["split"] == split and row["role"] in roles
    ]


def enrolled(rows: list[Row]) -> list[Row]:
    """All labels to be judged, and half of those that calibrate.

    The labels of the other half are strangers to this gallery, like those that have no gallery
    image at all: without them there would be too few to promise anything on.
    """
    gallery = [row for row in rows if row["role"] == "gallery"]
    calibrating = [row for row in gallery if row["split"] == "calib"]
    strangers = {row["path"] for row in calibrating[1::2]}
    return [row for row in gallery if row["path"] not in strangers]


def to_csv(rows: list[Row], columns: list[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_credits(rows: list[Row]) -> str:
    """One line for each label, since all images of a label come from one photograph."""
    lines = [
        "# Credits",
        "",
        "Every photograph is in the public domain or was released under CC0 1.0. The images",
        "here are scaled down and, but for `g0_ref.jpg`, transformed as `labels.csv` records.",
        "`make_manifests.py` writes this file.",
        "",
        "| label | credit | licence | source |",
        "| --- | --- | --- | --- |",
    ]
    photographs = {row["label"]: row for row in rows}
    for label, row in sorted(photographs.items()):
        lines.append(
            f"| {label} | {row['credit']} | {row['licence']} | <{row['source']}> |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Derive the three manifests and CREDITS.md from labels.csv.",
        epilog="""examples:
  make_manifests.py            write the four files
  make_manifests.py --check    fail if one of them is out of date, write nothing""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--check", action="store_true", help="compare instead of writing"
    )
    arguments = parser.parse_args()

    rows = read_labels()
    files = {
        "gallery.csv": to_csv(enrolled(rows), GALLERY_COLUMNS),
        "calibrate.csv": to_csv(searches(rows, "calib"), SEARCH_COLUMNS),
        "evaluate.csv": to_csv(searches(rows, "test"), SEARCH_COLUMNS),
        "CREDITS.md": to_credits(rows),
    }
    stale = 0
    for name, text in files.items():
        path = FOLDER / name
        if not arguments.check:
            path.write_text(text, encoding="utf-8", newline="")
            print(f"wrote {name}")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{name} is out of date; run make_manifests.py", file=sys.stderr)
            stale += 1
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

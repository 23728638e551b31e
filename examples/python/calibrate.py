#!/usr/bin/env python3
"""Calibrates a deployment while it serves, from a list of labelled pictures.

    calibrate.py labelled.csv --target-far 0.01 [--activate]

Without --activate it changes nothing. Calibrate is a stream, which the client has no method for: it is called
by its stub, over the client's channel.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc

import matchpoint
from matchpoint.v1 import calibration_pb2, calibration_pb2_grpc

SECONDS_MAX = 600


def requests(arguments: argparse.Namespace) -> Iterator[calibration_pb2.CalibrateRequest]:
    """The settings, then each labelled picture; paths are relative to the list."""
    settings = calibration_pb2.CalibrationSettings(
        target_far=arguments.target_far,
        confidence=arguments.confidence,
        validate_only=not arguments.activate,
    )
    yield calibration_pb2.CalibrateRequest(settings=settings)
    with arguments.queries.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            image = (arguments.queries.parent / row["path"]).read_bytes()
            query = calibration_pb2.LabelledQuery(id=row["path"], label=row["label"], image=image)
            yield calibration_pb2.CalibrateRequest(query=query)


def main() -> int:
    parser = argparse.ArgumentParser(description="Calibrate a deployment while it serves.")
    parser.add_argument("queries", type=Path, help="CSV file with the columns path and label")
    parser.add_argument("--target-far", type=float, required=True)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--activate", action="store_true", help="let the new operating point decide")
    arguments = parser.parse_args()

    with matchpoint.Client() as client:
        stub = calibration_pb2_grpc.CalibrationServiceStub(client.channel)
        operation = stub.Calibrate(requests(arguments), metadata=client.call_metadata, timeout=SECONDS_MAX)
    response = calibration_pb2.CalibrateResponse()
    if not operation.response.Unpack(response):
        print("refused:", operation.error.message)
        return 5
    point = response.operating_point
    promise = f"FAR <= {point.target_far:g} at {point.confidence:.0%} confidence"
    print(f"{point.id}: threshold {point.threshold:.4f}, {promise}{', active' if response.active else ''}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
    except (OSError, ValueError) as error:
        sys.exit(str(error))

#!/usr/bin/env python3
"""Snapshots in an object store: `snapshot`, `restore` and `serve` against a server that speaks as S3 does.

    test_object_stores.py --program target/debug/matchpoint

The program must have the feature `object-stores`. Needs the Python of `scripts/venv.sh stores
scripts/stores-requirements.txt`, which has the server (moto). Ends with exit code 1 and says what was not so.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
# More than one part of an upload, which have 8 MiB.
ITEMS, COMPONENTS = 6000, 512
WAIT_SECONDS = 60.0
OURS = ("AWS_", "MATCHPOINT_")

wrong: list[str] = []


def check(held: bool, what: str) -> None:
    print(f"   {'ok  ' if held else 'NOT '} {what}", flush=True)
    if not held:
        wrong.append(what)


class Program:
    """The program, and what a store has to know of who asks."""

    def __init__(self, program: Path, endpoint: str) -> None:
        self.program = program
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("AWS_", "MATCHPOINT_"))
            },
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ALLOW_HTTP": "true",
        }

    def run(self, *arguments: str | Path, **environment: str) -> tuple[int, str, str]:
        ended = subprocess.run(
            [self.program, *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS * 3,
        )
        check(SECRET not in ended.stdout + ended.stderr, f"no secret is shown by {arguments[0]}")
        return ended.returncode, ended.stdout, ended.stderr

    def refused(self, code: int, says: str, *arguments: str | Path, **environment: str) -> None:
        begun = time.monotonic()
        returned, _, said = self.run(*arguments, **environment)
        said = said.strip().replace("\n", " ")
        right = returned == code and says in said and time.monotonic() - begun < WAIT_SECONDS
        check(right, f"{arguments[0]}: {returned}, {said[-200:]}")


def build(program: Program, folder: Path) -> None:
    """A deployment of vectors that were made elsewhere."""
    vectors, labels = folder / "shop.fvecs", folder / "shop.csv"
    with vectors.open("wb") as out, labels.open("w", encoding="utf-8") as names:
        names.write("id,label\n")
        for item in range(ITEMS):
            values = [((item * 7919 + axis * 104729) % 1009) / 1009 - 0.5 for axis in range(COMPONENTS)]
            out.write(struct.pack(f"<i{COMPONENTS}f", COMPONENTS, *values))
            names.write(f"{item},label {item // 3}\n")
    made = ["--embeddings", vectors, "--labels", labels, "--vectors-of", "x"]
    code, _, said = program.run("build", folder / "shop", *made)
    if code != 0:
        sys.exit(f"test_object_stores.py: build: {said}")


@contextmanager
def serving(program: Program, *arguments: str | Path) -> Iterator[dict]:
    """What a server says of the one deployment that it has, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [program.program, "serve", "--listen", address, "--metrics-listen=off", *arguments]
    process = subprocess.Popen(command, env=program.environment, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + WAIT_SECONDS
        while program.run("health", "--quiet", "--server", f"http://{address}")[0] != 0:
            if end < time.monotonic() or process.poll() is not None:
                sys.exit("test_object_stores.py: the server is not ready")
            time.sleep(0.2)
        # Without an operating point, which these have not, its exit code says so.
        _, said, _ = program.run("status", "--json", "--server", f"http://{address}")
        yield json.loads(said)
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


def check_there_and_back(program: Program, folder: Path, store) -> None:
    shop, address = folder / "shop", "s3://bucket/folder/shop.snapshot"
    code, said, errors = program.run("snapshot", shop, address, "--json")
    check(code == 0, f"a snapshot is taken: {errors.strip()[-200:]}")
    taken = json.loads(said)
    check(taken["archive"] == address and 8 << 20 < taken["bytes"], f"in several parts: {taken['bytes']} B")
    program.refused(2, "already", "snapshot", shop, address)
    code, said, errors = program.run("restore", address, folder / "again", "--json")
    restored = json.loads(said) if code == 0 else {}
    check(
        restored.get("gallery_digest") == taken["gallery_digest"], f"it is restored: {errors.strip()[-200:]}"
    )
    code, said, _ = program.run("restore", address, folder / "again", "--if-absent", "--json")
    check(code == 0 and "unchanged" in said, "once more does nothing")
    left = [path.name for path in folder.iterdir() if path.name.startswith(".matchpoint")]
    check(not left, f"nothing is left beside it: {left}")

    # As the store's own tool copies it, without our word for its version.
    body = store.get_object(Bucket="bucket", Key="folder/shop.snapshot")["Body"].read()
    store.put_object(Bucket="bucket", Key="copied", Body=body)
    code, _, errors = program.run("restore", "s3://bucket/copied", "--check")
    check(code == 0, f"a copy by another tool is whole: {errors.strip()[-200:]}")
    store.put_object(Bucket="bucket", Key="cut", Body=body[: len(body) // 2])
    program.refused(65, "s3://bucket/cut", "restore", "s3://bucket/cut", folder / "cut")
    store.put_object(Bucket="bucket", Key="other", Body=b"PK not a snapshot")
    program.refused(65, "s3://bucket/other", "restore", "s3://bucket/other", folder / "other")
    check(not (folder / "cut").exists() and not (folder / "other").exists(), "nothing is made of them")


def check_refusals(program: Program, folder: Path, store) -> None:
    shop = folder / "shop"
    program.refused(66, "no such bucket", "restore", "s3://bucket/none", folder / "none")
    program.refused(66, "no such bucket", "restore", "s3://elsewhere/none", folder / "none")
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    program.refused(69, "refused", "restore", "s3://bucket/copied", folder / "none", **nowhere)
    program.refused(69, "refused", "snapshot", shop, "s3://bucket/new", **nowhere)
    # An upload that was killed: the name is claimed, and nothing more.
    store.put_object(Bucket="bucket", Key="half", Body=b"matchpoint: this object is being written")
    program.refused(69, "not whole", "restore", "s3://bucket/half", folder / "none")
    program.refused(69, "not whole", "snapshot", shop, "s3://bucket/half")


def check_serving(program: Program, folder: Path) -> None:
    below = folder / "restored"
    given = [
        "--deployments",
        "shop=s3://bucket/folder/shop.snapshot",
        "--restore-dir",
        below,
        "--read-only",
        "true",
    ]
    states = []
    for _start in range(2):
        with serving(program, *given) as status:
            states.append(json.dumps(status).count(f'"gallery_items": {ITEMS}'))
        folders = [path.name for path in below.iterdir()]
        check(len(folders) == 1 and folders[0].startswith("shop-"), f"one folder is restored: {folders}")
    check(all(states), "it is served, and served again")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--program", required=True, type=Path, help="the program matchpoint")
    path = parser.parse_args().program.resolve()
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        program = Program(path, endpoint)
        store = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
            aws_secret_access_key=SECRET,
        )
        store.create_bucket(Bucket="bucket")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            build(program, folder)
            check_there_and_back(program, folder, store)
            check_refusals(program, folder, store)
            check_serving(program, folder)
    finally:
        moto.stop()
    print("\n".join(wrong) or "snapshots come and go by an object store")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

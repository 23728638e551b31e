#!/usr/bin/env python3
"""Tests clients/typescript: generates and compiles it, and runs its first program against a real server.

    test_typescript.py --program target/debug/matchpoint

The server is encrypted and asks for a key, as one that others reach. Needs `node` 20 or newer, `npm` and
`openssl`. Ends with exit code 1 and says what was not so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "clients/typescript"
PHOTOS = ROOT / "examples/photos"
MODEL = ROOT / "models/efficientnet-lite0"
ENROLLED = PHOTOS / "images/gc_fishes_fish14/g0_ref.jpg"


def run(*command: object, **options: object) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        sys.exit(f"{' '.join(words[:4])} failed:\n{done.stdout}{done.stderr}")
    return str(done.stdout)


def certificate(folder: Path) -> tuple[Path, Path]:
    pem, key = folder / "server.pem", folder / "server.key"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 2]
    name = ["-subj", "/CN=matchpoint", "-addext", "subjectAltName=DNS:localhost"]
    run("openssl", "req", "-x509", *kind, *name, "-keyout", key, "-out", pem)
    return pem, key


def search(environment: dict[str, str], *pictures: Path) -> subprocess.CompletedProcess[str]:
    command = ["node", str(CLIENT / "dist/search.js"), *map(str, pictures)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def main() -> int:
    keep_lines = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=keep_lines)
    parser.add_argument("--program", type=Path, required=True)
    program = parser.parse_args().program.resolve()
    run("npm", "ci", "--silent", "--no-audit", "--no-fund", cwd=CLIENT)
    run("npm", "run", "--silent", "generate", cwd=CLIENT)
    run("npm", "run", "--silent", "build", cwd=CLIENT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shop, keys = folder / "shop", folder / "keys.json"
        run(program, "build", shop, "--images", PHOTOS / "gallery.csv", "--model", MODEL)
        target = ["--target-far", 0.1, "--confidence", 0.9]
        run(program, "calibrate", shop, "--queries", PHOTOS / "calibrate.csv", *target)
        pem, private = certificate(folder)
        made = run(program, "keys", "new", "typescript", "--scopes", "search", "--keys-file", keys)
        key = made.splitlines()[0]
        flags = ["--tls-certificate", pem, "--tls-key", private, "--keys-file", keys, "--log-format", "json"]
        addresses = ["--listen", "127.0.0.1:0", "--metrics-listen", "off"]
        command = [str(word) for word in (program, "serve", "--deployments", shop, *addresses, *flags)]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            address = ""
            for line in server.stderr:
                said = json.loads(line)
                address = said.get("address", address) if said.get("message") == "listening" else address
                if said.get("message") == "ready":
                    break
            port = address.rpartition(":")[2]
            there = {"MATCHPOINT_SERVER": f"https://localhost:{port}", "MATCHPOINT_SERVER_CA": str(pem)}
            asked = {**os.environ, **there}
            problems = check(asked, key, folder)
        finally:
            server.terminate()
            server.wait()
    for problem in problems:
        print(f"NOT SO   {problem}")
    if not problems:
        print("TypeScript: generated, compiled, and the first program was answered")
    return 1 if problems else 0


def check(asked: dict[str, str], key: str, folder: Path) -> list[str]:
    problems = []

    def expect(is_so: bool, what: str, found: subprocess.CompletedProcess[str]) -> None:
        if not is_so:
            problems.append(f"{what}: {found.stdout}{found.stderr}")

    found = search({**asked, "MATCHPOINT_API_KEY": key}, ENROLLED)
    accepted = "ACCEPT gc_fishes_fish14" in found.stdout and "1.0000 gc_fishes_fish14" in found.stdout
    expect(found.returncode == 0 and accepted, "an enrolled picture is accepted under its label", found)
    none = folder / "none.jpg"
    none.write_bytes(b"no picture")
    found = search({**asked, "MATCHPOINT_API_KEY": key}, none)
    refused = found.returncode == 1 and "invalid_argument" in found.stderr
    expect(refused, "what is no picture is refused", found)
    found = search({**asked, "MATCHPOINT_API_KEY": "mp_nobody"}, ENROLLED)
    expect(found.returncode == 1 and "unauthenticated" in found.stderr, "another key is refused", found)
    far = {**asked, "MATCHPOINT_API_KEY": key, "MATCHPOINT_SERVER": "http://192.0.2.1:1"}
    found = search(far, ENROLLED)
    expect(found.returncode == 1 and "unencrypted" in found.stderr, "a key is not sent unencrypted", found)
    return problems


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Tests clients/typescript: generates and compiles it, and runs its first program against a real server.

    test_typescript.py --program target/debug/matchpoint

The server is encrypted and asks for a key, as one that others reach. Needs `node` 20 or newer, `npm` and
`openssl`. Ends with exit code 1 and says what was not so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from testing import PHOTOS, ROOT, Server, certificate, check, make_deployment, parser_of, run, verdict

CLIENT = ROOT / "clients/typescript"
ENROLLED = PHOTOS / "images/gc_fishes_fish14/g0_ref.jpg"


def search(environment: dict[str, str], *pictures: Path) -> subprocess.CompletedProcess[str]:
    command = ["node", str(CLIENT / "dist/search.js"), *map(str, pictures)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def main() -> int:
    program = parser_of(__doc__).parse_args().program
    run("npm", "ci", "--silent", "--no-audit", "--no-fund", cwd=CLIENT)
    run("npm", "run", "--silent", "generate", cwd=CLIENT)
    run("npm", "run", "--silent", "build", cwd=CLIENT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shop, keys = folder / "shop", folder / "keys.json"
        make_deployment(program, shop)
        pem, private = certificate(folder)
        made = run(program, "keys", "new", "typescript", "--scopes", "search", "--keys-file", keys)
        flags = ["--tls-certificate", pem, "--tls-key", private, "--keys-file", keys]
        with Server(program, shop, *flags) as server:
            there = {"MATCHPOINT_SERVER": f"https://localhost:{server.port()}"}
            asked = {**os.environ, **there, "MATCHPOINT_SERVER_CA": str(pem)}
            check_searches(asked, made.splitlines()[0], folder)
    return verdict("TypeScript: generated, compiled, and the first program was answered")


def check_searches(asked: dict[str, str], key: str, folder: Path) -> None:
    def expect(is_so: bool, what: str, found: subprocess.CompletedProcess[str]) -> None:
        check(is_so, what if is_so else f"{what}: {found.stdout}{found.stderr}")

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


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Gives the program every test picture of Pillow, and compares what becomes of each with a list.

  scripts/test_corpus.py --program target/debug/matchpoint
  scripts/test_corpus.py --program target/debug/matchpoint --write   # after a change that is meant

Pillow's source distribution has 1,060 files: pictures of every kind, broken ones, and those of its own past
crashes. They are fetched with pip from the package index once (47 MB, into .cache) and compared with a
digest; they have licences of their own, and are not kept here. The list, scripts/corpus-pillow.csv, has the
SHA-256 of each file, and whether it is embedded or refused. The program has 4 GB of address space and 20
minutes: a crash, a hang, a file that it says nothing of, or another outcome than the list's fails.
"""

import csv
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from testing import ROOT, parser_of

LIST = ROOT / "scripts/corpus-pillow.csv"
VERSION = "13.0.0"
ARCHIVE = f"pillow-{VERSION}.tar.gz"
SHA256 = "cdcd1ba258178f7356d74170c9a81ba4eab6a5d55748bc402a5a2a6fe6be3510"
MEMORY_BYTES = 4_000_000_000
SECONDS_MAX = 1200


def fetched() -> Path:
    folder = ROOT / ".cache/corpus"
    archive = folder / ARCHIVE
    if not archive.exists():
        print(f"fetching {ARCHIVE}", file=sys.stderr)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        wanted = ["--no-binary", "pillow", f"pillow=={VERSION}", "-d", str(folder)]
        subprocess.run([*download, *wanted], check=True)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{archive} has SHA-256 {found}, and not {SHA256}: remove it, and run this again")
    return archive


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Puts every picture into one folder, by its path, as a file with an ending that the program looks at."""
    files = []
    inside = f"pillow-{VERSION}/Tests/images/"
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.startswith(inside):
                path = folder / member.name.removeprefix(inside).replace("/", "__")
                content = tar.extractfile(member)
                assert content is not None
                path.write_bytes(content.read())
                files.append(path)
    return sorted(files)


def outcomes(program: Path, files: list[Path], out: Path) -> dict[str, str]:
    """What the program does with each file, by name."""
    # Each by its own name: of a folder, only files with endings of pictures would be looked at.
    command = ["prlimit", f"--as={MEMORY_BYTES}", str(program), "embed", *map(str, files), "--json"]
    model = ROOT / "models/efficientnet-lite0"
    command += ["--model", str(model), "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX)
    # 3: some were refused.
    if done.returncode not in (0, 3) or "panicked" in done.stderr:
        sys.exit(f"the program ended with {done.returncode}:\n{done.stderr[-4000:]}")
    report = json.loads(done.stdout)
    refused = {Path(one["item"]).name for one in report["failed"]}
    if report["rows"] + len(refused) != len(files):
        said = f"{report['rows']} embedded and {len(refused)} refused"
        sys.exit(f"{said} of {len(files)}: the rest is not accounted for")
    return {path.name: "refused" if path.name in refused else "embedded" for path in files}


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--write", action="store_true", help="write the list in place of comparing with it")
    arguments = parser.parse_args()
    archive = fetched()
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        files = unpack(archive, pictures)
        found = outcomes(arguments.program, files, Path(folder) / "vectors.npy")
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    rows = [[name, digests[name], found[name]] for name in sorted(found)]
    if arguments.write:
        with LIST.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([["file", "sha256", "outcome"], *rows])
        return 0
    with LIST.open(newline="") as file:
        expected = list(csv.reader(file))[1:]
    wrong = [row for row in rows if row not in expected] + [row for row in expected if row not in rows]
    for row in wrong:
        print(" ".join(row))
    embedded = sum(outcome == "embedded" for outcome in found.values())
    refused = len(found) - embedded
    print(f"{len(found)} files: {embedded} embedded, {refused} refused, {len(wrong)} differ from the list")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Checks that the documents speak of commands and flags that the program has, and that links lead somewhere.

    check_docs.py --program target/debug/matchpoint

Of every `matchpoint …` in a block of commands or between backticks: its subcommands and flags are in
`--help`. Of every link within the project: the file is there, and the heading too. Of every test that the
catalogue of failures names: there is one. The tables of settings, metrics and reasons have what the program
has, and nothing else, with its defaults and kinds. Prints each finding, and ends with exit code 1 where there
is one.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = [ROOT / name for name in ("docs", "examples", "models", "crates", "clients")]
BELOW = (page for folder in FOLDERS for page in folder.rglob("*.md"))
# What npm has fetched is not ours.
PAGES = [*ROOT.glob("*.md"), *(page for page in BELOW if "node_modules" not in page.parts)]
# Texts with commands in them that are no documents.
OTHERS = [path for end in ("json", "yml", "yaml", "conf") for path in (ROOT / "deploy").rglob(f"*.{end}")]
# It says what was renamed, too.
WITH_OLD_NAMES = {ROOT / "CHANGELOG.md"}
# Names a test for each way to fail.
RELIABILITY = ROOT / "docs/reliability.md"
FENCE = re.compile(r"^ *```.*$", flags=re.MULTILINE)


class Program:
    def __init__(self, path: Path) -> None:
        self.path = path

    @functools.cache  # noqa: B019 one program, for as long as the script runs
    def help(self, command: tuple[str, ...]) -> str:
        asked = subprocess.run([self.path, *command, "--help"], capture_output=True, text=True, check=True)
        return asked.stdout

    def below(self, command: tuple[str, ...]) -> set[str]:
        """The subcommands of a command."""
        listed = self.help(command).partition("\nOptions:")[0]
        return set(re.findall(r"^  ([a-z-]+)  ", listed, flags=re.MULTILINE))

    def finding(self, words: list[str]) -> str | None:
        """What of these words the program does not have."""
        command: tuple[str, ...] = ()
        while words and self.below(command):
            # `audit list|show` speaks of both.
            options = words[0].split("|")
            if not set(options) <= self.below(command):
                named = re.fullmatch(r"[a-z][a-z-]*", words[0])
                return f"there is no command `{' '.join([*command, words[0]])}`" if named else None
            command, words = (*command, options[0]), words[1:]
        for word in words:
            flag = re.match(r"[\"'\[(]?(--[a-z][a-z0-9-]*)", word)
            if flag and not re.search(re.escape(flag[1]) + r"(?![\w-])", self.help(command)):
                return f"`{' '.join(command)}` has no {flag[1]}"
        return None


def commands(text: str) -> Iterator[str]:
    """What stands behind `matchpoint` in a text."""
    for number, part in enumerate(FENCE.split(text)):
        if number % 2 == 0:
            yield from re.findall(r"`matchpoint(?:-new)? ([^`]+)`", part)
            continue
        for line in re.sub(r"\\\n\s*", " ", part).splitlines():
            for one in re.split(r" \| | && |; |\$\(", line.split(" #")[0].strip().removeprefix("$ ")):
                called = re.match(r"(?:[A-Z_]+=\S+ )*(?:target/\w+/)?matchpoint(?:-new)? (.*)", one.strip())
                if called:
                    yield called[1]


def anchors(text: str) -> set[str]:
    """What headings are called in a link, as GitHub has it."""
    headings = re.findall(r"^#+ (.+)$", "".join(FENCE.split(text)[::2]), flags=re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


def broken_links(page: Path, text: str) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)\s]+)\)", "".join(FENCE.split(text)[::2])):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.exists():
            yield f"a link to {link}, which is not there"
        elif anchor and to.suffix == ".md" and anchor not in anchors(to.read_text(encoding="utf-8")):
            yield f"a link to {link}, and no heading is called so"


def missing_tests() -> Iterator[str]:
    """Tests that the catalogue of failures names, and that are not there."""
    sources = [path for part in ("src", "crates", "tests") for path in (ROOT / part).rglob("*.rs")]
    tests = set(re.findall(r"fn (\w+)\(\)", "\n".join(path.read_text(encoding="utf-8") for path in sources)))
    named = re.findall(r"`(\w+)`", RELIABILITY.read_text(encoding="utf-8"))
    # Names of tests are sentences.
    yield from (f"no test is called {name}" for name in named if name.count("_") >= 3 and name not in tests)


def rows(page: str) -> Iterator[list[str]]:
    """The cells of each row of the tables of a page in docs/."""
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            yield [one.strip() for one in re.split(r"(?<!\\)\|", line.strip("| "))]


def settings(program: Program) -> Iterator[str]:
    """What the table of settings has otherwise than the program."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MATCHPOINT_")}
    asked = [program.path, "config", "show", "--json"]
    shown = subprocess.run(asked, capture_output=True, text=True, env=plain, check=False)
    there = {one["key"]: one["value"] for one in json.loads(shown.stdout)}
    documented = {}
    for first, default, *_ in rows("settings.md"):
        for key in re.findall(r"`([a-z_]+)`", first):
            documented[key] = default.strip("`")
    for key in sorted(there.keys() | documented.keys()):
        if key not in documented or key not in there:
            yield f"{key} is in the {'table' if key in documented else 'program'} alone"
        elif (there[key] or "none") != (documented[key].replace("required", "none") or "none"):
            yield f"the default of {key} is {there[key]}, and not {documented[key]}"


def metrics() -> Iterator[str]:
    """What the table of metrics has otherwise than that of the program."""
    source = (ROOT / "src/telemetry/metric.rs").read_text(encoding="utf-8")
    kinds = re.findall(
        r'^    (counter|gauge|histogram)\b.* = "(matchpoint_\w+)":', source, flags=re.MULTILINE
    )
    there = {name: kind for kind, name in kinds}
    documented = {}
    for first, kind, *_ in rows("metrics.md"):
        documented.update({name: kind for name in re.findall(r"`(matchpoint_\w+)`", first)})
    for name in sorted(there.keys() | documented.keys()):
        if there.get(name) != documented.get(name):
            yield f"{name} is {there.get(name)} in the program, and {documented.get(name)} in the table"


def reasons(program: Program) -> Iterator[str]:
    """Reasons of errors that the table has, and the server has not, or the other way round."""
    codes = {
        *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "DATA_LOSS"),
        *("ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED"),
        *("OUT_OF_RANGE", "UNIMPLEMENTED", "UNAVAILABLE", "UNAUTHENTICATED"),
    }
    server = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/server").rglob("*.rs"))
    there = set(re.findall(r'"([A-Z]+(?:_[A-Z]+)+|INTERNAL)"', server)) - codes - {"CARGO_PKG_VERSION"}
    documented = set()
    for code, reason, *_ in rows("errors.md"):
        if code in codes | {"INTERNAL"}:
            documented |= set(re.findall(r"[A-Z_]{4,}", reason))
    yield from (f"{reason} is not in the table" for reason in sorted(there - documented))
    # Of a limit that clients share, the reason is the name of its setting.
    of_settings = {
        word.upper().replace("-", "_") for word in re.findall(r"--([a-z-]+)", program.help(("serve",)))
    }
    elsewhere = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.rs"))
    for reason in sorted(documented - there - of_settings):
        if f'"{reason}"' not in elsewhere:
            yield f"{reason} is in the table, and the server has no such reason"


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--program", required=True, type=Path, help="the program matchpoint")
    program = Program(parser.parse_args().program.resolve())
    findings, checked = [], 0
    for page in [*PAGES, *OTHERS]:
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(ROOT)
        if page not in WITH_OLD_NAMES:
            for command in commands(text):
                checked += 1
                found = program.finding(command.replace("\\|", "|").split())
                findings += [f"{name}: {found}, in `matchpoint {command}`"] if found else []
        if page in PAGES:
            findings += [f"{name}: {found}" for found in broken_links(page, text)]
    findings += [f"{RELIABILITY.relative_to(ROOT)}: {found}" for found in missing_tests()]
    findings += [f"docs/settings.md: {found}" for found in settings(program)]
    findings += [f"docs/metrics.md: {found}" for found in metrics()]
    findings += [f"docs/errors.md: {found}" for found in reasons(program)]
    if checked < 100:
        findings.append("scripts/check_docs.py finds no commands any more: adapt it")
    print(
        "\n".join(findings)
        or f"{checked} commands, all links and the tables of settings, metrics and reasons are true"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

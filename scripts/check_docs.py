#!/usr/bin/env python3
"""Checks that the documents speak of commands and flags that the program has, and that links lead somewhere.

    check_docs.py --program target/debug/matchpoint

Of every `matchpoint …` in a block of commands or between backticks: its subcommands and flags are in
`--help`. Of every link within the project: the file is there, and the heading too. Of every test that the
catalogue of failures names: there is one. Prints each finding, and ends with exit code 1 where there is one.
"""

from __future__ import annotations

import argparse
import functools
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
OTHERS = [
    path for end in ("json", "yml", "yaml", "conf") for path in (ROOT / "deploy").rglob(f"*.{end}")
]
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
    if checked < 100:
        findings.append("scripts/check_docs.py finds no commands any more: adapt it")
    print("\n".join(findings) or f"{checked} commands and all links are true")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

"""The pages of the site that nobody writes: commands, by the program's own help, and the protocol, by
docs/openapi.json."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Where a program may have been built, the likeliest first; another is named by MATCHPOINT_PROGRAM.
BUILT = ("target/debug/matchpoint", "target/demo/matchpoint", "target/release/matchpoint")


def program() -> Path:
    given = os.environ.get("MATCHPOINT_PROGRAM")
    places = [Path(given)] if given else [ROOT / place for place in BUILT]
    for place in places:
        if place.exists():
            return place
    looked = ", ".join(map(str, places))
    raise FileNotFoundError(
        f"the page of commands is made by the program, which is not at {looked}: `cargo build`, "
        "or name it in MATCHPOINT_PROGRAM"
    )


@cache
def help_of(command: tuple[str, ...]) -> str:
    asked = [program(), *command, "--help"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout


def below(command: tuple[str, ...]) -> list[str]:
    """The subcommands, which stand before the options."""
    listed = help_of(command).partition("\nOptions:")[0].partition("Usage:")[2]
    found = re.findall(r"^  ([a-z][a-z-]*)  ", listed, flags=re.MULTILINE)
    return [name for name in found if name != "help"]


def section(command: tuple[str, ...]) -> Iterator[str]:
    name = " ".join(["matchpoint", *command])
    level = "#" * (len(command) + 1)
    yield f"{level} {name}\n"
    yield f"```text\n{help_of(command).rstrip()}\n```\n"
    for one in below(command):
        yield from section((*command, one))


def commands() -> str:
    """Every command with what `--help` says."""
    said = "With this page you can look up every command and flag: what `--help` prints in this version.\n"
    parts = ["# Commands\n", said, f"```text\n{help_of(()).rstrip()}\n```\n"]
    for name in below(()):
        parts += section((name,))
    return "\n".join(parts)


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


class Protocol:
    """Calls and messages, from the OpenAPI file, which `make protocol` makes of proto/."""

    def __init__(self) -> None:
        self.api = json.loads((ROOT / "docs/openapi.json").read_text(encoding="utf-8"))
        self.schemas = self.api["components"]["schemas"]

    @staticmethod
    def link(name: str) -> str:
        anchor = re.sub(r"[^\w\- ]", "", name.lower())
        return f"[{name}](#{anchor})"

    def kind(self, schema: dict[str, Any]) -> str:
        if "$ref" in schema:
            return self.link(schema["$ref"].rpartition("/")[2])
        if schema.get("type") == "array":
            return f"list of {self.kind(schema['items'])}"
        if "additionalProperties" in schema:
            return f"map of text to {self.kind(schema['additionalProperties'])}"
        if "contentEncoding" in schema:
            return "bytes"
        return {"string": "text", "boolean": "true or false"}.get(
            schema.get("format", schema["type"]), schema.get("format", schema["type"])
        )

    def calls(self, service: str) -> Iterator[str]:
        yield "| call | takes | gives | |\n| --- | --- | --- | --- |"
        for path, item in self.api["paths"].items():
            call = item["post"]
            if call["tags"] != [service]:
                continue
            takes = call["requestBody"]["content"]["application/json"]["schema"]
            gives = call["responses"]["200"]["content"]["application/json"]["schema"]
            name = path.rpartition("/")[2]
            streams = [
                self.kind(one).replace("list of", "stream of", 1)
                if one.get("type") == "array"
                else self.kind(one)
                for one in (takes, gives)
            ]
            yield f"| `{name}` | {streams[0]} | {streams[1]} | {cell(call['description'])} |"

    def message(self, name: str, schema: dict[str, Any]) -> Iterator[str]:
        yield f"### {name}\n"
        yield f"{schema.get('description', '')}\n"
        if schema.get("properties"):
            yield "| field | type | meaning |\n| --- | --- | --- |"
            for field, one in schema["properties"].items():
                yield f"| `{field}` | {self.kind(one)} | {cell(one.get('description', ''))} |"
            yield ""

    def page(self) -> str:
        parts = [
            "# Protocol\n",
            "With this page you can look up every call and message, with the comments of the protocol "
            "([proto](../proto/matchpoint/v1/retrieval.proto)). As JSON over HTTP: [json.md](json.md) and "
            "[openapi.json](openapi.json).\n",
        ]
        for tag in self.api["tags"]:
            parts += [f"## {tag['name']}\n", f"{tag['description']}\n", *self.calls(tag["name"]), ""]
        parts.append("## Messages\n")
        # Its own messages before those of others.
        for name, schema in sorted(self.schemas.items(), key=lambda one: ("." in one[0], one[0])):
            parts += self.message(name, schema)
        return "\n".join(parts)


def pages() -> dict[str, str]:
    """Each page by its place in docs/."""
    return {"commands.md": commands(), "protocol.md": Protocol().page()}

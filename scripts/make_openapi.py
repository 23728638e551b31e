#!/usr/bin/env python3
"""Writes what JSON over HTTP is made of, from proto/: the descriptors by which Envoy makes messages of JSON,
and the OpenAPI file with the comments of the protocol.

    make_openapi.py            deploy/envoy/matchpoint.binpb and docs/openapi.json
    make_openapi.py --check    whether they are what proto/ gives, and the OpenAPI file is one

Needs buf, and for --check openapi-spec-validator: the Python of `scripts/venv.sh lint
scripts/lint-requirements.txt` has both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DESCRIPTORS = ROOT / "deploy/envoy/matchpoint.binpb"
OPENAPI = ROOT / "docs/openapi.json"
OURS = "matchpoint.v1."
# What Envoy is told to translate, in the order of docs/json.md.
SERVICES = [
    *(f"{OURS}{name}Service" for name in ("Retrieval", "Gallery", "OperatingPoint", "Calibration")),
    *(f"{OURS}{name}Service" for name in ("Monitoring", "Snapshot", "Server")),
    "google.longrunning.Operations",
]
DESCRIPTION = """\
The calls of Matchpoint as JSON over HTTP, as Envoy translates them by `deploy/envoy`: docs/json.md. Each call
is a POST of a JSON object, with `content-type: application/json`. Bytes are base64, 64-bit integers are
strings, numbers that are none are "NaN", "Infinity" and "-Infinity". A call of a stream takes or gives an
array. A request may leave fields out; what it means if a field of an answer is absent stands beside it.
Generated from proto/ by scripts/make_openapi.py."""
# As proto3's JSON has them.
WELL_KNOWN: dict[str, dict[str, Any]] = {
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string", "description": "Which message it is."}},
        "required": ["@type"],
        "description": "A message, with its name.",
    },
    "google.protobuf.Duration": {
        "type": "string",
        "examples": ["0.100s"],
        "description": "Seconds, and `s`.",
    },
    "google.protobuf.Empty": {"type": "object", "description": "Nothing."},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
}
SCALARS: dict[str, dict[str, Any]] = {
    "BOOL": {"type": "boolean"},
    "BYTES": {"type": "string", "contentEncoding": "base64"},
    "DOUBLE": {"type": "number", "format": "double"},
    "FLOAT": {"type": "number", "format": "float"},
    "INT32": {"type": "integer", "format": "int32"},
    "INT64": {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"},
    "STRING": {"type": "string"},
    "UINT32": {"type": "integer", "format": "int64", "minimum": 0},
    "UINT64": {"type": "string", "format": "uint64", "pattern": "^[0-9]+$"},
}


class Protocol:
    """The descriptors, by name, with their comments."""

    def __init__(self, image: dict[str, Any]) -> None:
        self.messages: dict[str, dict[str, Any]] = {}
        self.enums: dict[str, dict[str, Any]] = {}
        self.services: dict[str, dict[str, Any]] = {}
        for file in image["file"]:
            places = file.get("sourceCodeInfo", {}).get("location", [])
            with_comments = [at for at in places if "leadingComments" in at]
            said = {tuple(at.get("path", ())): at["leadingComments"] for at in with_comments}
            self._take(file, file["package"], (), said)

    def _take(
        self, of: dict[str, Any], name: str, path: tuple[int, ...], said: dict[tuple[int, ...], str]
    ) -> None:
        """Takes the definitions of a file, or of a message. The numbers are those of descriptor.proto."""
        in_file = not path
        kinds = {
            "messageType" if in_file else "nestedType": (self.messages, 4 if in_file else 3, "field", 2),
            "enumType": (self.enums, 5 if in_file else 4, "value", 2),
        }
        if in_file:
            kinds["service"] = (self.services, 6, "method", 2)
        for kind, (into, number, part, part_number) in kinds.items():
            for index, one in enumerate(of.get(kind, [])):
                at = (*path, number, index)
                one["said"] = plain(said.get(at, ""))
                for place, inner in enumerate(one.get(part, [])):
                    inner["said"] = plain(said.get((*at, part_number, place), ""))
                into[f"{name}.{one['name']}"] = one
                if into is self.messages:
                    self._take(one, f"{name}.{one['name']}", at, said)

    def reached(self, start: str) -> set[str]:
        """The messages and enums that a message is made of, and itself."""
        found, ahead = set(), [start]
        while ahead:
            name = ahead.pop()
            if name in found:
                continue
            found.add(name)
            if name in self.messages and name not in WELL_KNOWN:
                fields = self.messages[name].get("field", [])
                ahead += [field["typeName"][1:] for field in fields if "typeName" in field]
        return found

    def schema_of(self, name: str, answered_only: bool) -> dict[str, Any]:
        if name in WELL_KNOWN:
            return WELL_KNOWN[name]
        if name in self.enums:
            values, said = self.enums[name]["value"], self.enums[name]["said"]
            each = "\n".join(f"- `{value['name']}`: {value['said']}" for value in values)
            names = [value["name"] for value in values]
            return {"type": "string", "enum": names, "description": f"{said}\n\n{each}"}
        message = self.messages[name]
        fields = message.get("field", [])
        schema: dict[str, Any] = {"type": "object", "description": message["said"]}
        schema["properties"] = {field["name"]: self.field(field) for field in fields}
        always = [field["name"] for field in fields if always_there(field)]
        if answered_only and always:
            schema["required"] = always
        return schema

    def field(self, field: dict[str, Any]) -> dict[str, Any]:
        kind, target = field["type"].removeprefix("TYPE_"), field.get("typeName", "")[1:]
        entry = self.messages.get(target, {})
        if entry.get("options", {}).get("mapEntry"):
            schema = {"type": "object", "additionalProperties": self.field(entry["field"][1])}
        elif kind in ("MESSAGE", "ENUM"):
            schema = reference(target)
        else:
            schema = dict(SCALARS[kind])
        if field["label"] == "LABEL_REPEATED" and not entry.get("options", {}).get("mapEntry"):
            schema = {"type": "array", "items": schema}
        return {**schema, "description": field["said"]} if field.get("said") else schema


def plain(comment: str) -> str:
    """A comment as a text of Markdown: lines of one paragraph are joined by what shows it."""
    return "\n".join(line.strip() for line in comment.strip().splitlines())


def always_there(field: dict[str, Any]) -> bool:
    """Whether an answer has it whatever its value is."""
    repeated = field["label"] == "LABEL_REPEATED"
    return repeated or (field["type"] != "TYPE_MESSAGE" and "oneofIndex" not in field)


def named(name: str) -> str:
    return name.removeprefix(OURS)


def reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{named(name)}"}


def openapi(protocol: Protocol) -> dict[str, Any]:
    paths, tags, asked = {}, [], set()
    answered = {"google.rpc.Status", "google.rpc.ErrorInfo", "google.rpc.RetryInfo"}
    for service in SERVICES:
        tags.append({"name": named(service), "description": protocol.services[service]["said"]})
        for method in protocol.services[service]["method"]:
            request, answer = method["inputType"][1:], method["outputType"][1:]
            asked |= protocol.reached(request)
            answered |= protocol.reached(answer)
            paths[f"/{service}/{method['name']}"] = {"post": operation(service, method, request, answer)}
    # Of answers that carry others (`Operation.metadata`, `details`), and are named nowhere else.
    answered |= protocol.reached(f"{OURS}CalibrateMetadata") | protocol.reached(f"{OURS}CalibrateResponse")
    for name in list(answered):
        answered |= protocol.reached(name)
    maps = {name for name, one in protocol.messages.items() if one.get("options", {}).get("mapEntry")}
    shown = sorted((asked | answered) - maps)
    schemas = {named(name): protocol.schema_of(name, name not in asked) for name in shown}
    key = {"type": "http", "scheme": "bearer", "description": "A key of `matchpoint keys new`."}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Matchpoint",
            "version": "v1",
            "summary": "Image search that says ACCEPT or REJECT at an error rate that you chose",
            "description": DESCRIPTION,
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:8080", "description": "Envoy by deploy/envoy/json.yaml"}],
        "security": [{}, {"key": []}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"Error": error()},
            "securitySchemes": {"key": key},
        },
    }


def operation(service: str, method: dict[str, Any], request: str, answer: str) -> dict[str, Any]:
    def content(name: str, several: bool) -> dict[str, Any]:
        one = reference(name)
        return {"application/json": {"schema": {"type": "array", "items": one} if several else one}}

    return {
        "operationId": f"{named(service).rpartition('.')[2]}_{method['name']}",
        "tags": [named(service)],
        "summary": method["said"].replace("\n", " ").split(". ")[0].rstrip("."),
        "description": method["said"],
        "requestBody": {"required": True, "content": content(request, method.get("clientStreaming", False))},
        "responses": {
            "200": {
                "description": "The answer.",
                "content": content(answer, method.get("serverStreaming", False)),
            },
            "default": {"$ref": "#/components/responses/Error"},
        },
    }


def error() -> dict[str, Any]:
    return {
        "description": "What went wrong: `code` is that of gRPC, and `details` has the reason, and when to "
        "come back. What Envoy itself refuses has no reason; an unknown path and a body that is no JSON come "
        "as text.",
        "content": {
            "application/json": {
                "schema": reference("google.rpc.Status"),
                "example": {
                    "code": 5,
                    "message": "there is no item `no` in the gallery",
                    "details": [
                        {
                            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                            "reason": "ITEM_NOT_FOUND",
                            "domain": "matchpoint.dev",
                            "metadata": {},
                        }
                    ],
                },
            },
            "text/plain": {"schema": {"type": "string"}},
        },
    }


def made() -> Iterator[tuple[Path, bytes]]:
    beside = Path(sys.executable).with_name("buf")
    buf = str(beside) if beside.exists() else "buf"
    with tempfile.TemporaryDirectory() as folder:
        image, descriptors = Path(folder) / "image.json", Path(folder) / "descriptors.binpb"
        for flags in (
            ["-o", image],
            ["--exclude-source-info", "--as-file-descriptor-set", "-o", descriptors],
        ):
            subprocess.run([buf, "build", *flags], check=True, cwd=ROOT)
        yield DESCRIPTORS, descriptors.read_bytes()
        protocol = Protocol(json.loads(image.read_text(encoding="utf-8")))
    yield OPENAPI, (json.dumps(openapi(protocol), indent=1, ensure_ascii=False) + "\n").encode()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if something is stale")
    check = parser.parse_args().check
    stale = []
    for path, content in made():
        if not check:
            path.write_bytes(content)
        elif not path.exists() or path.read_bytes() != content:
            stale.append(f"{path.relative_to(ROOT)} is not what proto/ gives: make protocol writes it")
    if check:
        from openapi_spec_validator import validate

        validate(json.loads(OPENAPI.read_text(encoding="utf-8")))
        for name in ("matchpoint.yaml", "json.yaml"):
            told = (ROOT / "deploy/envoy" / name).read_text(encoding="utf-8")
            missing = [one for one in SERVICES if f"- {one}\n" not in told]
            stale += [f"deploy/envoy/{name} does not translate {one}" for one in missing]
    print("\n".join(stale) or "the descriptors for Envoy and the OpenAPI file are what proto/ gives")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

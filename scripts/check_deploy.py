#!/usr/bin/env python3
"""Checks that deploy/ and the Dockerfile speak of what the program really has.

    check_deploy.py             names of metrics and settings, defaults, versions, dashboards
    check_deploy.py --promtool  that every query of the dashboards parses

The sources are the tables in src/telemetry/metric.rs and src/config/settings.rs. Prints each finding, and
ends with exit code 1 where there is one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))

findings: list[str] = []


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def finding(path: Path, text: str) -> None:
    findings.append(f"{path.relative_to(ROOT)}: {text}")


def metrics() -> dict[str, bool]:
    """The name of every metric, and whether it is a histogram."""
    source = read(ROOT / "src/telemetry/metric.rs")
    row = r'^    (counter|gauge|histogram)(?:\(\w+\))? \w+ = "(matchpoint_\w+)":$'
    rows = re.findall(row, source, flags=re.MULTILINE)
    if len(rows) < 10 or len(rows) != source.count('"matchpoint_'):
        sys.exit("src/telemetry/metric.rs: the table of metrics cannot be read; adapt this script")
    return {name: kind == "histogram" for kind, name in rows}


def settings() -> dict[str, str | None]:
    """The key of every setting, and its default."""
    source = read(ROOT / "src/config/settings.rs")
    rows = re.findall(r'(?:engine|server)\(\s*"(\w+)",\s*(?:Some\("([^"]*)"\)|None)', source)
    if len(rows) < 10:
        sys.exit("src/config/settings.rs: the table of settings cannot be read; adapt this script")
    return {key: default or None for key, default in rows}


def check_metric_names() -> None:
    known = metrics()
    series = set(known)
    for name, histogram in known.items():
        if histogram:
            series.remove(name)
            series |= {f"{name}_{suffix}" for suffix in ("bucket", "count", "sum")}
    shown: set[str] = set()
    for path in [*DEPLOY.rglob("*.yml"), *DEPLOY.rglob("*.yaml"), *DASHBOARDS]:
        # Recorded series are named level:metric:operation.
        for name in set(re.findall(r"(?<![\w:])matchpoint_[a-z_]+(?![\w:])", read(path))):
            if name in series:
                shown.add(name)
            # The name of the file with the tests, in a comment.
            elif name != "matchpoint_test":
                finding(path, f"{name} is no series of src/telemetry/metric.rs")
    for name in sorted(known):
        if not any(one.startswith(name) for one in shown):
            finding(DEPLOY, f"{name} is shown nowhere")


def check_runbook() -> None:
    rules = DEPLOY / "prometheus/rules/matchpoint.yml"
    alerts = re.findall(r"- alert: (\w+)", read(rules))
    for name in alerts:
        if f" runbook_url: docs/runbook.md#{name.lower()}\n" not in read(rules):
            finding(rules, f"{name} has no runbook_url docs/runbook.md#{name.lower()}")
    path = ROOT / "docs/runbook.md"
    sections = re.findall(r"^## (\w+)$", read(path), flags=re.MULTILINE)
    for name in sorted(set(alerts) ^ set(sections)):
        finding(path, f"{name} is an alert without a section, or a section without an alert")


def check_settings() -> None:
    known = settings()
    path = DEPLOY / "matchpoint.toml"
    given = re.findall(r"^(# )?(\w+) = (.+)$", read(path), flags=re.MULTILINE)
    for commented, key, value in given:
        if key not in known:
            finding(path, f"{key} is no setting")
        elif commented and known[key] is not None and value.strip('"') != known[key]:
            finding(path, f"{key} = {value} is said to be the default, which is {known[key]}")
    for key in sorted(known.keys() - {key for _, key, _ in given}):
        finding(path, f"{key} is missing")

    path = DEPLOY / "kubernetes/configmap.yaml"
    for key in re.findall(r"^ {4}(\w+) = ", read(path), flags=re.MULTILINE):
        if key not in known:
            finding(path, f"{key} is no setting")

    variables = {f"MATCHPOINT_{key.upper()}" for key in known} | {"MATCHPOINT_CONFIG"}
    for path in [ROOT / "Dockerfile", *DEPLOY.rglob("*.yaml"), DEPLOY / "matchpoint.toml"]:
        # Not in comments, which may name others.
        text = re.sub(r"^\s*#.*$", "", read(path), flags=re.MULTILINE)
        for name in sorted(set(re.findall(r"\bMATCHPOINT_[A-Z_]+", text)) - variables):
            finding(path, f"{name} is no setting")


def check_image() -> None:
    """What the Dockerfile copies reaches the builder."""
    kept = [line[1:] for line in read(ROOT / ".dockerignore").splitlines() if line.startswith("!")]
    lines = re.findall(r"^COPY ((?!--)[^\n]+) \S+$", read(ROOT / "Dockerfile"), flags=re.MULTILINE)
    for name in sorted({name for line in lines for name in line.split()} - {"."}):
        if not any(f"{one}/".startswith(f"{name}/") or name.startswith(f"{one}/") for one in kept):
            finding(ROOT / ".dockerignore", f"leaves out {name}, which the Dockerfile copies")


def check_versions() -> None:
    version = re.search(r'^version = "(.+)"', read(ROOT / "Cargo.toml"), flags=re.MULTILINE).group(1)
    path = ROOT / "Dockerfile"
    if f"ARG VERSION={version}\n" not in read(path):
        finding(path, f"ARG VERSION is not {version}, the version of Cargo.toml")
    package = ROOT / "clients/typescript/package.json"
    if f'"version": "{version}"' not in read(package):
        finding(package, f"the version is not {version}, that of Cargo.toml")
    toolchain = re.search(r'channel = "(\d+\.\d+)', read(ROOT / "rust-toolchain.toml")).group(1)
    if f"FROM rust:{toolchain}-" not in read(path):
        finding(path, f"does not build with Rust {toolchain}, as rust-toolchain.toml says")
    for path in DEPLOY.rglob("*.yaml"):
        for tag in re.findall(r"image: matchpoint:([\w.]+)", read(path)):
            if tag != version:
                finding(path, f"image matchpoint:{tag} is not {version}, the version of Cargo.toml")


def filled(query: str) -> str:
    for variable, value in {"$__rate_interval": "5m", "$instance": ".*", "$deployment": ".*"}.items():
        query = query.replace(variable, value)
    return query


def queries() -> list[tuple[str, str]]:
    """Every query of the dashboards' panels, with its panel's title and with variables filled in."""
    panels = [panel for path in DASHBOARDS for panel in json.loads(read(path))["panels"]]
    return [(panel["title"], filled(one["expr"])) for panel in panels for one in panel.get("targets", [])]


def annotations() -> dict[str, str]:
    """What is marked on every chart, by its name."""
    lists = [json.loads(read(path)).get("annotations", {}).get("list", []) for path in DASHBOARDS]
    return {one["name"]: filled(one["expr"]) for found in lists for one in found}


def check_shards() -> None:
    """The Job has as many tasks as its program thinks that there are."""
    path = DEPLOY / "kubernetes/job-shards.yaml"
    completions = re.search(r"^  completions: (\d+)$", read(path), flags=re.MULTILINE)
    shards = re.search(r"--shard=auto/(\d+)$", read(path), flags=re.MULTILINE)
    if not completions or not shards or completions.group(1) != shards.group(1):
        finding(path, "completions and the N of --shard=auto/N are not the same number")
    codes = read(ROOT / "src/cli/exit.rs")
    never = re.search(r"^            Self::Never => (\d+),$", codes, flags=re.MULTILINE)
    for path in (DEPLOY / "kubernetes/job-shards.yaml", DEPLOY / "kubernetes/job-merge.yaml"):
        if not never or not re.search(rf"values: \[(\d+, )?{never.group(1)}\]", read(path)):
            finding(path, "the exit code that ends all attempts is not that of src/cli/exit.rs")


def check_dashboards() -> None:
    for title, query in [*queries(), *annotations().items()]:
        if "$" in query:
            finding(DASHBOARDS[0].parent, f"`{title}` has an unknown variable: {query}")
    for path in DASHBOARDS:
        # A relative link leads nowhere in Grafana.
        for link in re.findall(r"\]\((?!/d/|https?://)([^)]*)\)", read(path)):
            finding(path, f"a link to {link}, which is no place in Grafana")


def check_queries_with_promtool() -> None:
    found = [*queries(), *annotations().items()]
    rules = [{"record": "query", "labels": {"n": str(n)}, "expr": q} for n, (_, q) in enumerate(found)]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        # JSON is YAML.
        json.dump({"groups": [{"name": "dashboards", "rules": rules}]}, file)
        file.flush()
        checked = subprocess.run(["promtool", "check", "rules", file.name], capture_output=True, text=True)
    if checked.returncode != 0:
        finding(DASHBOARDS[0].parent, checked.stdout + checked.stderr)


def main() -> int:
    if sys.argv[1:] == ["--promtool"]:
        check_queries_with_promtool()
    else:
        check_metric_names()
        check_runbook()
        check_settings()
        check_image()
        check_versions()
        check_shards()
        check_dashboards()
    for line in findings:
        print(line)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

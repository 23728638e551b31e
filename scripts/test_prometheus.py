#!/usr/bin/env python3
"""Lets a real Prometheus watch `matchpoint demo --drift`, with the rules of deploy/.

    test_prometheus.py --program target/debug/matchpoint [--picture docs/dashboard.svg]

Each alert on a rate must fire in its own chapter of the story, and in none before; every query of the
dashboards must give what it is about. --picture draws the first of them as it then is. Needs `prometheus`
(Debian: apt-get install prometheus). Ends with exit code 1 and says what was not so.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

from check_deploy import DEPLOY, annotations, queries
from dashboard_picture import asker, draw
from testing import free_ports, parser_of

# The chapter in which each alert fires, and stays until the last, when another operating point decides.
EXPECTED = {
    "A quiet week": set(),
    "Strangers come more often": set(),
    "The camera blurs": {"MatchpointFrrAboveLimit"},
    "Look-alikes arrive": {"MatchpointFrrAboveLimit", "MatchpointFarAboveLimit"},
    "The same traffic again": set(),
}
WATCHED = {"MatchpointFrrAboveLimit", "MatchpointFarAboveLimit", "MatchpointDecisionsNotRecorded"}
# The story has no candidate, and no review band.
EMPTY = {
    "Behind the store",
    "Candidates",
    "Changes that Qdrant lacks",
    "Compared and skipped",
    "Index in Qdrant",
    "Makes the changes",
    "Qdrant answers",
    "Share of decisions that differ",
    "Share of searches that goes to a person",
}
# Nor is evidence reset in it.
UNMARKED = {"Evidence reset"}
REST_SECONDS = 12


def write_config(folder: Path, metrics_port: int) -> Path:
    config = folder / "prometheus.yml"
    # JSON is YAML.
    content = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(DEPLOY / "prometheus/rules/matchpoint.yml")],
        "scrape_configs": [
            {"job_name": "matchpoint", "static_configs": [{"targets": [f"127.0.0.1:{metrics_port}"]}]}
        ],
    }
    config.write_text(json.dumps(content), encoding="utf-8")
    return config


def ask(port: int, query: str) -> list[dict]:
    arguments = urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{arguments}", timeout=10) as answer:
        return json.load(answer)["data"]["result"]


def firing(port: int) -> set[str]:
    return {one["metric"]["alertname"] for one in ask(port, 'ALERTS{alertstate="firing"}')}


def follow(story: subprocess.Popen[str], chapters: list[str]) -> None:
    """Notes each chapter as soon as it has begun."""
    for line in story.stdout or []:
        print(line, end="", flush=True)
        chapters.extend(title for title in EXPECTED if line.strip().startswith(title))


def watch(story: subprocess.Popen[str], port: int, picture: Path | None) -> list[str]:
    """Looks at the alerts until the story ends, and says what was wrong."""
    began, draw_at = time.time(), math.inf
    chapters: list[str] = []
    threading.Thread(target=follow, args=(story, chapters), daemon=True).start()
    wrong: list[str] = []
    fired: dict[str, set[str]] = {}
    asked = False
    while story.poll() is None:
        time.sleep(0.5)
        chapter = chapters[-1] if chapters else None
        if chapter is None:
            continue
        now = firing(port) & WATCHED
        fired.setdefault(chapter, set()).update(now)
        # In the last chapter the alarms of the chapter before end only with its operating point.
        if chapter != list(EXPECTED)[-1]:
            wrong += [f"{name} fires in `{chapter}`" for name in now - EXPECTED[chapter]]
        if chapter == "Look-alikes arrive" and now == EXPECTED[chapter] and not asked:
            asked = True
            wrong += empty_panels(port)
            draw_at = time.time() + REST_SECONDS / 2
        if picture is not None and draw_at <= time.time():
            span = (began, time.time())
            drawn = draw(DEPLOY / "grafana/dashboards/promise.json", asker(port), span)
            picture.write_text(drawn, encoding="utf-8")
            draw_at = math.inf
        last = now
    if story.returncode != 0:
        wrong.append(f"the story ended with {story.returncode}")
    for chapter, expected in EXPECTED.items():
        wrong += [f"{name} did not fire in `{chapter}`" for name in expected - fired.get(chapter, set())]
    wrong += [f"{name} still fires after recalibrating" for name in last]
    wrong += unmarked(port, began)
    if not asked:
        wrong.append("the dashboards' queries were not asked")
    return sorted(set(wrong))


def empty_panels(port: int) -> list[str]:
    """The panels of the dashboards that show nothing."""
    shown: dict[str, bool] = {}
    for title, query in queries():
        found = ask(port, query.replace("[5m]", "[30s]"))
        shown[title] = shown.get(title, False) or bool(found)
    print(f"   {len(shown)} panels of the dashboards asked, {sum(shown.values())} show something")
    nothing = [title for title, some in shown.items() if not some and title not in EMPTY]
    return [f"panel `{title}` shows nothing" for title in nothing]


def unmarked(port: int, began: float) -> list[str]:
    """The annotations that marked nothing in the whole story."""
    span = {"start": f"{began:.3f}", "end": f"{time.time():.3f}", "step": "1"}
    # Steps of a second in place of a minute.
    asked = {name: query.replace("offset 1m", "offset 1s") for name, query in annotations().items()}
    marked = {name for name, query in asked.items() if asker(port)("query_range", {"query": query, **span})}
    return [f"the annotation `{name}` marks nothing" for name in asked.keys() - marked - UNMARKED]


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--picture", type=Path, help="draw the dashboard of the promise into this SVG")
    arguments = parser.parse_args()
    metrics_port, port = free_ports(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prometheus = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={write_config(folder, metrics_port)}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=error",
            ]
        )
        story = subprocess.Popen(
            [
                str(arguments.program),
                "demo",
                "--drift",
                f"--pause={REST_SECONDS}",
                f"--metrics-listen=127.0.0.1:{metrics_port}",
                f"--deployment={folder / 'deployment'}",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            wrong = watch(story, port, arguments.picture)
        finally:
            story.kill()
            prometheus.terminate()
            prometheus.wait()
    for line in wrong:
        print(line)
    if not wrong:
        print("every alert fired in its own chapter and in none before; every panel shows something")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Makes the dashboards of deploy/grafana/dashboards, by Grafana's own types (grafana-foundation-sdk).

    make_dashboards.py          writes them
    make_dashboards.py --check  says which are not what this script makes, and ends with exit code 1

Three for those who watch: whether the promise is kept, what the traffic is like, how the machine does; and
the runbook, so that an alert's section is at hand where nothing but Grafana is. One panel a line.

Run it with the Python of `scripts/venv.sh lint scripts/lint-requirements.txt`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from dashboards.machine import machine
from dashboards.parts import page, words
from dashboards.promise import promise
from dashboards.traffic import traffic
from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy/grafana/dashboards"


def runbook() -> dashboard.Dashboard:
    content = (ROOT / "docs/runbook.md").read_text(encoding="utf-8").removeprefix("# Runbook\n").strip()
    # Grafana has no files beside it that a relative link could lead to.
    content = re.sub(r"\[([^]]+)\]\([^)]*?([\w-]+/[\w-]+\.yml|[\w-]+\.md)[^)]*\)", r"\1 (\2)", content)
    made = page(
        "runbook", "What each alert means, what to look at, what to do: docs/runbook.md.", "now-7d", ""
    )
    return made.with_panel(words("Runbook", (24, 24), content))


def written(made: dashboard.Dashboard) -> str:
    """As JSON, one panel a line, each with an id."""
    whole = json.loads(json.dumps(made.build(), cls=JSONEncoder))
    panels = whole.pop("panels")
    for n, one in enumerate(panels, start=1):
        one["id"] = n
    lines = ",\n".join("  " + json.dumps(one, ensure_ascii=False) for one in panels)
    head = json.dumps(whole, ensure_ascii=False, indent=1).rstrip("}").rstrip()
    return f'{head},\n "panels": [\n{lines}\n ]\n}}\n'


def main() -> int:
    stale = []
    for made in (promise(), traffic(), machine(), runbook()):
        path = FOLDER / f"{made.build().uid.removeprefix('matchpoint-')}.json"
        content = written(made)
        if sys.argv[1:] == ["--check"]:
            if not path.exists() or path.read_text(encoding="utf-8") != content:
                stale.append(f"{path.relative_to(ROOT)}: not what scripts/make_dashboards.py makes: run it")
        else:
            path.write_text(content, encoding="utf-8")
    print("\n".join(stale), end="\n" if stale else "")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

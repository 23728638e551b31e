"""Draws a dashboard of deploy/ as one SVG, from what a Prometheus answers to its queries.

Not Grafana: the same panels, in the same places, with the same queries, for the documents.
"""

from __future__ import annotations

import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from html import escape
from pathlib import Path

UNIT_X, UNIT_Y, GAP = 58, 27, 6
COLOURS = ["#2563a8", "#c2410c", "#15803d", "#7c3aed", "#b45309", "#0e7490", "#be185d", "#4d7c0f"]
INK, FAINT, LINE, RED = "#1f2328", "#5c6570", "#d8dde3", "#c02626"
STEPS = 140

Ask = Callable[[str, dict[str, str]], list[dict]]


def asker(port: int) -> Ask:
    """Asks a Prometheus on this machine."""

    def ask(kind: str, arguments: dict[str, str]) -> list[dict]:
        url = f"http://127.0.0.1:{port}/api/v1/{kind}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]["result"]

    return ask


def filled(expression: str) -> str:
    values = {"$__rate_interval": "30s", "$instance": ".*", "$deployment": ".*", "[1h]": "[30s]"}
    for name, value in values.items():
        expression = expression.replace(name, value)
    return expression


def named(target: dict, labels: dict[str, str]) -> str:
    form = target.get("legendFormat", "")
    return re.sub(r"{{\s*(\w+)\s*}}", lambda match: labels.get(match[1], ""), form).strip()


def shown(value: float, unit: str) -> str:
    if math.isnan(value):
        return "not known"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "dateTimeAsIso":
        return time.strftime("%H:%M:%S", time.gmtime(value / 1000))
    if unit == "bytes" or 10_000 <= abs(value):
        return f"{value / 1000:.3g} k" if abs(value) < 1e6 else f"{value / 1e6:.3g} M"
    return f"{value:.3g}"


class Drawing:
    """Elements of an SVG."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def text(self, x: float, y: float, text: str, size: int = 12, more: str = f'fill="{INK}"') -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" {more}>{escape(text)}</text>')

    def box(self, x: float, y: float, w: float, h: float, more: str) -> None:
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" {more}/>')

    def line(self, points: list[tuple[float, float]], colour: str, width: float = 1.6) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
            f'stroke-linejoin="round"/>'
        )


def ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if rough <= power * m)
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


class Panel:
    """One panel, and where it is."""

    def __init__(self, panel: dict, top: float) -> None:
        place = panel["gridPos"]
        self.panel = panel
        self.x, self.y = place["x"] * UNIT_X + GAP, top + GAP
        self.w, self.h = place["w"] * UNIT_X - GAP, place["h"] * UNIT_Y - GAP
        self.unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "none")

    def frame(self, to: Drawing) -> None:
        to.box(self.x, self.y, self.w, self.h, f'rx="4" fill="#ffffff" stroke="{LINE}"')
        room = int(self.w / 7.4)
        title = self.panel["title"]
        title = title if len(title) <= room else title[: room - 1] + "…"
        to.text(self.x + 10, self.y + 19, title, 12, f'font-weight="600" fill="{INK}"')

    def stat(self, to: Drawing, ask: Ask, at: float) -> None:
        names = self.panel["fieldConfig"]["defaults"].get("mappings") or [{"options": {}}]
        words = names[0]["options"]
        found = [
            (named(target, one["metric"]), float(one["value"][1]))
            for target in self.panel["targets"]
            for one in ask("query", {"query": filled(target["expr"]), "time": f"{at:.3f}"})
        ]
        if not found:
            to.text(self.x + 10, self.y + 58, "not known", 17, f'fill="{FAINT}"')
        step = (self.h - 30) / max(1, len(found))
        for n, (name, value) in enumerate(found):
            said = words.get(f"{value:g}", {})
            text = said.get("text") or shown(value, self.unit)
            colour = RED if said.get("color") == "red" else INK
            base = self.y + 30 + step * (n + 0.5) + 6
            size = 22 if len(found) == 1 else 16
            to.text(self.x + 10, base, text, size, f'font-weight="600" fill="{colour}"')
            if name and name != text and 1 < len(found):
                more = f'text-anchor="end" fill="{FAINT}"'
                to.text(self.x + self.w - 10, base, name.removeprefix("demo ")[:18], 11, more)

    def series(self, ask: Ask, span: tuple[float, float]) -> list[tuple[str, list[tuple[float, float]]]]:
        step = max(1.0, (span[1] - span[0]) / STEPS)
        times = {"start": f"{span[0]:.3f}", "end": f"{span[1]:.3f}", "step": f"{step:.3f}"}
        found = []
        for target in self.panel["targets"]:
            for one in ask("query_range", {"query": filled(target["expr"]), **times}):
                points = [(float(t), float(v)) for t, v in one["values"]]
                points = [(t, v) for t, v in points if math.isfinite(v)]
                if points:
                    found.append((named(target, one["metric"]) or "value", points))
        return found

    def chart(self, to: Drawing, ask: Ask, span: tuple[float, float]) -> None:
        found = self.series(ask, span)
        left, right = self.x + 52, self.x + self.w - 12
        top, bottom = self.y + 30, self.y + self.h - 36
        if not found:
            more = f'text-anchor="middle" fill="{FAINT}"'
            to.text(self.x + self.w / 2, self.y + self.h / 2, "no value: not known", 12, more)
            return
        values = [v for _, points in found for _, v in points]
        low, high = min([*values, 0.0]), max(values)
        high = high if low < high else low + 1
        high += 0.04 * (high - low)
        place = lambda v: bottom - (v - low) / (high - low) * (bottom - top)  # noqa: E731
        for tick in ticks(low, high):
            to.line([(left, place(tick)), (right, place(tick))], LINE, 0.8)
            more = f'text-anchor="end" fill="{FAINT}"'
            to.text(left - 6, place(tick) + 4, shown(tick, self.unit), 10, more)
        for n in range(1, 4):
            t = span[0] + (span[1] - span[0]) * n / 4
            x = left + (right - left) * n / 4
            minutes = f"{(t - span[0]) / 60:.1f} min"
            to.text(x, bottom + 13, minutes, 10, f'text-anchor="middle" fill="{FAINT}"')
        gap = 6 * max(1.0, (span[1] - span[0]) / STEPS)
        for n, (_, points) in enumerate(found):
            run: list[tuple[float, float]] = []
            before = None
            for t, v in [*points, (math.inf, 0.0)]:
                if before is not None and gap < t - before and run:
                    run = run if 1 < len(run) else [run[0], (run[0][0] + 2, run[0][1])]
                    to.line(run, COLOURS[n % len(COLOURS)])
                    run = []
                if math.isfinite(t):
                    run.append((left + (t - span[0]) / (span[1] - span[0]) * (right - left), place(v)))
                before = t
        self.legend(to, [name for name, _ in found])

    def legend(self, to: Drawing, names: list[str]) -> None:
        x, y = self.x + 12, self.y + self.h - 8
        for n, name in enumerate(names):
            name = re.sub(r"op-(\w{4})\w+", r"op-\1", name.removeprefix("demo "))
            width = 18 + 6.0 * len(name) + 12
            if self.x + self.w - 20 < x + width:
                to.text(x, y, f"and {len(names) - n} more", 10, f'fill="{FAINT}"')
                return
            to.box(x, y - 8, 10, 8, f'fill="{COLOURS[n % len(COLOURS)]}"')
            to.text(x + 14, y, name, 10, f'fill="{FAINT}"')
            x += width

    def heatmap(self, to: Drawing, ask: Ask, span: tuple[float, float]) -> None:
        found = self.series(ask, span)
        bounds = sorted({float(name) for name, _ in found if name != "+Inf"})
        rows = {float(name): dict(points) for name, points in found if name != "+Inf"}
        left, right = self.x + 52, self.x + self.w - 12
        top, bottom = self.y + 30, self.y + self.h - 24
        height = (bottom - top) / max(1, len(bounds))
        width = (right - left) / STEPS
        cells = []
        for n, bound in enumerate(bounds):
            below = rows.get(bounds[n - 1], {}) if n else {}
            cells += [(t, n, v - below.get(t, 0.0)) for t, v in rows[bound].items()]
            if n % 4 == 0:
                more = f'text-anchor="end" fill="{FAINT}"'
                to.text(left - 6, bottom - n * height + 3, f"{bound:g}", 10, more)
        most = max((count for _, _, count in cells), default=0.0)
        for t, n, count in cells:
            if 1e-9 < count:
                x = left + (t - span[0]) / (span[1] - span[0]) * (right - left)
                more = f'fill="{COLOURS[0]}" fill-opacity="{0.08 + 0.92 * math.sqrt(count / most):.2f}"'
                to.box(x, bottom - (n + 1) * height, width, height - 0.5, more)
        to.line([(left, bottom), (right, bottom)], LINE, 0.8)

    def table(self, to: Drawing, ask: Ask, at: float) -> None:
        hidden = {"__name__", "job", "fingerprint", "instance"}
        rows: dict[str, str] = {}
        for target in self.panel["targets"]:
            for one in ask("query", {"query": filled(target["expr"]), "time": f"{at:.3f}"}):
                labels = {k: v for k, v in one["metric"].items() if k not in hidden and v}
                words = [labels.pop("alertname", ""), *labels.values()]
                name = "  ".join(word for word in words if word)
                value = float(one["value"][1])
                text = shown(value, "dateTimeAsIso" if 1e11 < value else "none")
                rows[name] = f"{rows[name]}   {text}" if name in rows else text
        alerts = "ALERTS" in self.panel["targets"][0]["expr"]
        for n, (name, values) in enumerate(sorted(rows.items())):
            y = self.y + 42 + 18 * n
            if self.y + self.h - 8 < y:
                break
            to.text(self.x + 10, y, name[: int(self.w / 8)], 12, f'fill="{RED if alerts else INK}"')
            if not alerts and set(values) != {"1"}:
                more = f'text-anchor="end" fill="{FAINT}"'
                to.text(self.x + self.w - 10, y, values, 11, more)

    def words(self, to: Drawing) -> None:
        y, room = self.y + 40, int(self.w / 6.1)
        for line in self.panel["options"]["content"].splitlines():
            line = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", line.replace("`", ""))
            if set(line) <= set("|- "):
                continue
            line = ": ".join(cell.strip() for cell in line.strip("| ").split("|"))
            while line and y < self.y + self.h - 4:
                cut = len(line) if len(line) <= room else line.rfind(" ", 0, room)
                to.text(self.x + 10, y, line[:cut], 11, f'fill="{FAINT}"')
                line, y = line[cut:].strip(), y + 15
            y += 2


def draw(dashboard: Path, ask: Ask, span: tuple[float, float]) -> str:
    """The dashboard over `span`, as SVG."""
    panels = json.loads(dashboard.read_text(encoding="utf-8"))["panels"]
    to = Drawing()
    below = 0.0
    for panel in panels:
        top = panel["gridPos"]["y"] * UNIT_Y + 10
        below = max(below, top + panel["gridPos"]["h"] * UNIT_Y)
        if panel["type"] == "row":
            to.text(GAP + 2, top + 20, panel["title"], 16, f'font-weight="700" fill="{INK}"')
            continue
        one = Panel(panel, top)
        one.frame(to)
        if panel["type"] == "stat":
            one.stat(to, ask, span[1])
        elif panel["type"] == "timeseries":
            one.chart(to, ask, span)
        elif panel["type"] == "heatmap":
            one.heatmap(to, ask, span)
        elif panel["type"] == "table":
            one.table(to, ask, span[1])
        else:
            one.words(to)
    width, height = 24 * UNIT_X + 2 * GAP, below + 2 * GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" '
        f'width="{width}" height="{height:.0f}" font-family="system-ui, sans-serif">\n'
        f'<rect width="{width}" height="{height:.0f}" fill="#f4f6f8"/>\n' + "\n".join(to.parts) + "\n</svg>\n"
    )

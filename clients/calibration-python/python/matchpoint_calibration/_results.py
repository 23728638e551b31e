"""What a calibration came to."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _given as given
from ._native import InputError


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


@dataclass(frozen=True)
class Rate:
    """A measured share, with an interval over labels: pictures of one label are not independent of each other."""

    value: float
    lower: float
    upper: float
    confidence: float
    events: int
    trials: int
    labels: int

    def __str__(self) -> str:
        return f"{percent(self.value)} [{percent(self.lower)} .. {percent(self.upper)}], {self.labels} labels"

    @classmethod
    def _of(cls, found: Mapping[str, Any] | None) -> Rate | None:
        if found is None:
            return None
        interval, count = found["interval"], found["count"]
        return cls(
            value=found["estimate"],
            lower=interval["lower"],
            upper=interval["upper"],
            confidence=interval["confidence"],
            events=count["events"],
            trials=count["trials"],
            labels=found["labels"],
        )


@dataclass(frozen=True)
class Consistency:
    """How far labels agree about one threshold (OPIS): the variance of their utility over a band of thresholds.

    0 is best. Pairwise: of comparisons of two pictures, and not of searches. `split_half` says whether the figure is
    free of the excess that few pictures of a label cause.
    """

    opis: float
    lower: float
    upper: float
    confidence: float
    split_half: bool
    labels: int
    far_low: float
    far_high: float

    @classmethod
    def _of(cls, findings: Mapping[str, Any]) -> Consistency | None:
        pairwise = findings["analysis"]["pairwise"]
        found = pairwise["consistency"] if pairwise else None
        if not found:
            return None
        split = found["split_half"]
        figure = split or found["opis"]
        return cls(
            opis=figure["estimate"],
            lower=figure["lower"],
            upper=figure["upper"],
            confidence=figure["confidence"],
            split_half=split is not None,
            labels=found["split_half_labels"] if split else found["labels"],
            far_low=found["band"]["far_low"],
            far_high=found["band"]["far_high"],
        )


@dataclass(frozen=True)
class OperatingPoint:
    """The record of a calibration. Its id is a hash of its content.

    json       the record, format 1: docs/record.md
    recording  the searches that it was made from, as JSON
    """

    id: str
    json: str = field(repr=False)
    recording: str = field(repr=False)

    def save(self, folder: str | Path) -> Path:
        """Writes both as a deployment keeps them: `operating-points/ID.json` and `recordings/ID.json`."""
        for kind, content in (("operating-points", self.json), ("recordings", self.recording)):
            place = Path(folder) / kind
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{self.id}.json").write_text(content, encoding="utf-8")
        return Path(folder) / "operating-points" / f"{self.id}.json"


@dataclass(frozen=True)
class Searched:
    """What a calibration was made of: the settings, the gallery, and what was searched for in it."""

    settings: Mapping[str, Any]
    gallery: given.Labelled
    queries: given.Labelled

    def save(self, folder: Path, operating_point: str, digest: str) -> None:
        """Writes it for `matchpoint points import`, if the vectors are still those of `digest`."""
        hashed = hashlib.sha256(self.gallery.values.data)
        hashed.update(self.queries.values.data)
        if hashed.hexdigest() != digest:
            raise InputError("the vectors were changed since they were calibrated; calibrate again, then save")
        for name, vectors in (("gallery", self.gallery), ("queries", self.queries)):
            np.save(folder / f"{name}.npy", vectors.values)
        content = {
            "format": 1,
            "operating_point": operating_point,
            "settings": self.settings,
            "gallery": {"ids": self.gallery.ids, "labels": self.gallery.labels},
            "queries": {
                "ids": self.queries.ids,
                "labels": self.queries.labels,
                "conditions": self.queries.conditions,
            },
        }
        (folder / "calibration.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


@dataclass(frozen=True, repr=False)
class Calibration:
    """A threshold, what it promises, and what was measured.

    threshold       accept from this score on. It is a number of single precision; above 1 nothing is accepted
    certified       whether the target is promised, and not only aimed at
    goal            what is promised or aimed at, in words
    far_bound       the FAR that is not exceeded with the confidence asked for; None unless that is certified
    frr_bound       the same of the FRR
    far, frr        rates per search at the threshold, on the queries that chose it
    held_out_far    the same on labels that did not choose, by cross-fitting; None if they are too few
    held_out_frr
    recall_at_1     queries of known labels whose best match has the right label
    opis            how far labels agree about a threshold; None if only scores were given, or labels are too few
    assumptions     what must hold for the promise to hold
    doubts          what makes less of the queries than they seem
    operating_point the record
    findings        all of it, as `matchpoint calibrate --embeddings --json` prints it
    report          the same as one HTML page
    """

    threshold: float
    certified: bool
    goal: str
    far_bound: float | None
    frr_bound: float | None
    far: Rate | None
    frr: Rate | None
    held_out_far: Rate | None
    held_out_frr: Rate | None
    recall_at_1: Rate | None
    opis: Consistency | None
    assumptions: tuple[str, ...]
    doubts: tuple[str, ...]
    operating_point: OperatingPoint
    findings: Mapping[str, Any] = field(repr=False)
    report: str = field(repr=False)
    _searched: Searched | None = field(repr=False, compare=False)

    def accepts(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """Which scores are accepted, compared as the service compares them: in single precision, and none above 1.

        NaN and what is masked never are. A threshold above 1 accepts nothing, whatever a product of numpy rounds to.
        A score beyond what rounding does to a cosine (1.001) is an InputError, as it is for `calibrate`.

        Take them from `similarities`: a score of other arithmetic may fall on the other side of the threshold.
        """
        return np.asarray(given.decided(scores, "scores") >= np.float32(self.threshold))

    def save(self, folder: str | Path) -> Path:
        """Writes the record and all that it takes to make it again, for `matchpoint points import DEPLOYMENT FOLDER`.

        That is vectors, ids, labels and conditions: keep the folder as you keep them.
        """
        if self._searched is None:
            raise InputError(
                "only a calibration of embeddings and queries can be made again in a deployment; of its own items it "
                "is made there, by `matchpoint calibrate DEPLOYMENT --gallery-as-queries`; "
                "operating_point.save(folder) writes the record alone"
            )
        self.operating_point.save(folder)
        digest = self.findings["content"]["binding"]["gallery_digest"]
        self._searched.save(Path(folder), self.operating_point.id, digest)
        return Path(folder)

    def save_report(self, path: str | Path) -> Path:
        """Writes the report as one HTML file."""
        Path(path).write_text(self.report, encoding="utf-8")
        return Path(path)

    def __str__(self) -> str:
        lines = [
            f"accept from {self.threshold:.4f}: {self.goal}",
            f"  FAR here      {self.far or 'not known'}",
            f"  FRR here      {self.frr or 'not known'}",
        ]
        if self.held_out_far or self.held_out_frr:
            lines.append(f"  FAR held out  {self.held_out_far or 'not known'}")
            lines.append(f"  FRR held out  {self.held_out_frr or 'not known'}")
        if self.opis:
            kind = "split-half" if self.opis.split_half else "plain"
            interval = f"[{self.opis.lower:.1e} .. {self.opis.upper:.1e}]"
            lines.append(f"  OPIS          {self.opis.opis:.2e} {interval}, {kind}")
        lines += [f"  note: {doubt}" for doubt in self.doubts]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Calibration {self.operating_point.id}: accept from {self.threshold:.4f}, {self.goal}>"

    def _repr_html_(self) -> str:
        # The report has a style and a policy of its own, and so a frame of its own, in which nothing runs.
        return (
            f"<pre>{html.escape(str(self))}</pre><details><summary>Report</summary>"
            f'<iframe sandbox title="Calibration report" srcdoc="{html.escape(self.report)}" '
            'style="width:100%;height:70vh;border:1px solid #8886"></iframe></details>'
        )

    @classmethod
    def _of(
        cls,
        findings: Mapping[str, Any],
        goal: str,
        report: str,
        point: OperatingPoint,
        searched: Searched | None,
    ) -> Calibration:
        content = findings["content"]
        measured, held_out = content["measured"], content.get("held_out") or {}
        promise, frr = content.get("promise"), (content.get("evidence") or {}).get("frr")
        certified = findings["outcome"] == "certified"
        return cls(
            # The record has as few digits as tell single-precision numbers apart.
            threshold=float(np.float32(content["threshold"])),
            certified=certified,
            goal=goal,
            # A bound that is only estimated is exceeded more often than the confidence says.
            far_bound=promise["far_bound"] if promise and certified else None,
            frr_bound=frr["frr_bound"] if frr else None,
            far=Rate._of(measured["far"]),
            frr=Rate._of(measured["frr"]),
            held_out_far=Rate._of(held_out.get("far")),
            held_out_frr=Rate._of(held_out.get("frr")),
            recall_at_1=Rate._of(measured["recall_at_1"]),
            opis=Consistency._of(findings),
            assumptions=tuple(content["assumptions"]),
            doubts=tuple(doubts(findings)),
            operating_point=point,
            findings=findings,
            report=report,
            _searched=searched,
        )


def doubts(findings: Mapping[str, Any]) -> list[str]:
    """What makes less of the queries than they seem, a sentence each; `findings` has them one by one."""
    own = sum(copy["label"] == copy["item_label"] for copy in findings["copies"])
    other, near = len(findings["copies"]) - own, len(findings["near_copies"])
    unnamed, crowded = findings["unnamed"], findings["crowded"]
    counted = [
        (own, "queries are items of the gallery, or nearly, and are not counted (findings['copies'])"),
        (other, "queries are items of another label, or nearly: one of the two labels is wrong (findings['copies'])"),
        (
            near,
            "queries of strangers are nearly those of others, whose labels may be one thing: a certified FAR holds "
            "either way (findings['near_copies'])",
        ),
        (len(findings["alike"]), "labels are nearly another label: look whether they are the same (findings['alike'])"),
        (unnamed["pictures"] if unnamed else 0, "pictures show strangers whom nobody named (findings['unnamed'])"),
        (crowded["labels"] if crowded else 0, "labels of strangers may be fewer things (findings['crowded'])"),
        (findings["not_compared"], "queries of strangers were not compared with the others: there are too many"),
    ]
    return [f"{count} {what}" for count, what in counted if count]

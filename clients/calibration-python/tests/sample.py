"""Made-up vectors: things with a direction each, pictures around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Sample:
    """A gallery, and queries of enrolled things and of strangers."""

    gallery: Floats
    labels: list[str]
    queries: Floats
    query_labels: list[str]
    cameras: list[str]

    def arguments(self) -> dict[str, Any]:
        return {
            "embeddings": self.gallery,
            "labels": self.labels,
            "queries": self.queries,
            "query_labels": self.query_labels,
        }


def make(enrolled: int = 30, strangers: int = 120, components: int = 24, seed: int = 1) -> Sample:
    random = np.random.default_rng(seed)

    def pictures(count: int, each: int, kind: str) -> tuple[Floats, list[str], Floats]:
        centres = random.normal(size=(count, components))
        labels = [f"{kind} {number}" for number in range(count) for _ in range(each)]
        around = np.repeat(centres, each, axis=0)
        return around.astype(np.float32), labels, (around + 0.5 * random.normal(size=around.shape)).astype(np.float32)

    _, labels, gallery = pictures(enrolled, 3, "thing")
    # The first picture of each is enrolled, the others are searched for.
    first = np.arange(len(labels)) % 3 == 0
    _, stranger_labels, stranger = pictures(strangers, 2, "visitor")
    query_labels = [label for label, is_first in zip(labels, first, strict=True) if not is_first] + stranger_labels
    queries = np.concatenate([gallery[~first], stranger])
    return Sample(
        gallery=gallery[first],
        labels=[label for label, is_first in zip(labels, first, strict=True) if is_first],
        queries=queries,
        query_labels=query_labels,
        cameras=[("front", "back")[row % 2] for row in range(len(queries))],
    )

"""The outcome of an evaluation, as numbers, as JSON and as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class; the keys are IoU thresholds, and NaN stands for what nothing was there to measure."""

    objects: int
    """Ground-truth objects of the class."""
    recall: Mapping[float, float]
    """Share of them that the first `recall_limits[0]` detections of their scene cover, whatever label those have."""
    ap: Mapping[float, float] | None
    """Average precision of detections with this label among objects of this class; None for unlabelled detections."""
    labelled_recall: Mapping[float, float] | None
    """Share of the objects that any detection with this label found, as average precision counts them."""


@dataclass(frozen=True)
class DetectionScores:
    """Scores over scenes. Recall and average precision lie in [0, 1]; they are NaN without objects."""

    scenes: int
    objects: int
    detections: int
    recall: Mapping[int, Mapping[float, float]]
    """Class-agnostic recall: first detections of a scene that count -> IoU threshold -> share of the objects."""
    average_recall: Mapping[int, float]
    """Mean recall over the IoU thresholds 0.25, 0.3, ... 0.95, by the first detections that count."""
    ap: Mapping[float, float]
    """Class-agnostic average precision by IoU threshold."""
    classes: Mapping[str, ClassScores]
    """By class, for classes that have objects or detections; empty when objects have no labels."""

    @property
    def mean_ap(self) -> dict[float, float] | None:
        """Average precision by IoU threshold, averaged over classes with objects; None for unlabelled detections.

        A class that was never detected counts as 0.
        """
        found = [scores.ap for scores in self.classes.values() if scores.objects and scores.ap is not None]
        return {key: math.fsum(ap[key] for ap in found) / len(found) for key in found[0]} if found else None

    @property
    def mean_labelled_recall(self) -> dict[float, float] | None:
        """`ClassScores.labelled_recall` averaged over classes with objects; None for unlabelled detections."""
        found = [c.labelled_recall for c in self.classes.values() if c.objects and c.labelled_recall is not None]
        return {key: math.fsum(recall[key] for recall in found) / len(found) for key in found[0]} if found else None

    def summary(self) -> dict[str, float]:
        """The figures that papers quote, for loggers: `R25`, `R50` (of the first limit), `AP25`, `AP50`, `mAP25`, ...

        Those without a value are left out.
        """
        first = next(iter(self.recall.values()), {})
        rows = (("R", first), ("AP", self.ap), ("mAP", self.mean_ap), ("mR", self.mean_labelled_recall))
        values = {
            f"{name}{_percent(key)}": value for name, row in rows if row is not None for key, value in row.items()
        }
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def to_json(self) -> dict[str, Any]:
        """All numbers as JSON holds them: keys are strings, None for NaN."""
        return {
            **self.summary(),
            "scenes": self.scenes,
            "objects": self.objects,
            "detections": self.detections,
            "recall": {str(limit): _plain(row) for limit, row in self.recall.items()},
            "average_recall": _plain(self.average_recall),
            "ap": _plain(self.ap),
            "mean_ap": _plain(self.mean_ap),
            "mean_labelled_recall": _plain(self.mean_labelled_recall),
            "classes": {
                name: {
                    "objects": scores.objects,
                    "recall": _plain(scores.recall),
                    "ap": _plain(scores.ap),
                    "labelled_recall": _plain(scores.labelled_recall),
                }
                for name, scores in self.classes.items()
            },
        }

    def table(self, title: str = "Detections") -> Table:
        """A table for `rich.print`: all objects, then each class."""
        limit, overall = next(iter(self.recall.items()))
        table = Table(title=f"{title}: {self.scenes} scenes, recall of the first {limit}")
        table.add_column("class")
        names = [f"{kind}{_percent(key)}" for kind in ("R", "AP") for key in self.ap]
        for name in ("objects", *names):
            table.add_column(name, justify="right")
        cells = [_cell(row[key]) for row in (overall, self.ap) for key in self.ap]
        table.add_row("all, without classes", str(self.objects), *cells, end_section=True)
        for name, scores in sorted(self.classes.items(), key=lambda item: -item[1].objects):
            cells = [_cell(None if row is None else row[key]) for row in (scores.recall, scores.ap) for key in self.ap]
            table.add_row(name, str(scores.objects), *cells)
        if (mean := self.mean_ap) is not None:
            table.add_row("mean of classes", "", *[""] * len(self.ap), *[_cell(mean[key]) for key in self.ap])
        return table


def _percent(threshold: float) -> str:
    return f"{100 * threshold:g}"


def _plain(values: Mapping[Any, float] | None) -> dict[str, float | None] | None:
    if values is None:
        return None
    return {str(key): None if math.isnan(value) else value for key, value in values.items()}


def _cell(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"

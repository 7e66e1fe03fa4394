"""NeRF-RPN's evaluation once more, written down loop by loop in Python numbers, to compare with."""

from collections.abc import Sequence
from itertools import pairwise

Scene = tuple[list[list[float]], list[float]]
"""IoU of detections (rows) and objects (columns), and the scores of the detections."""


def slow_recall(scenes: Sequence[Scene], objects: Sequence[int], threshold: float, limit: int) -> float:
    """Pairs of detection and object are taken away best first; recall is the share of objects in good pairs."""
    hits = 0
    for (iou, scores), count in zip(scenes, objects, strict=True):
        rows = sorted(range(len(scores)), key=lambda row: -scores[row])[:limit]
        columns = list(range(count))
        while rows and columns:
            value, row, column = max((iou[row][column], row, column) for row in rows for column in columns)
            hits += value >= threshold
            rows.remove(row)
            columns.remove(column)
    return hits / sum(objects)


def slow_ap(scenes: Sequence[Scene], objects: Sequence[int], threshold: float, limit: int | None = None) -> float:
    """Detections of all scenes by descending score; each takes the object that it overlaps most, if that is free."""
    queue = []
    for number, (iou, scores) in enumerate(scenes):
        rows = sorted(range(len(scores)), key=lambda row: -scores[row])[:limit]
        queue += [(scores[row], number, iou[row]) for row in rows]
    taken: set[tuple[int, int]] = set()
    hits, curve = 0, [(0.0, 0.0)]
    for seen, (_, number, overlaps) in enumerate(sorted(queue, key=lambda item: -item[0]), 1):
        if overlaps:
            best = max(range(len(overlaps)), key=lambda column: overlaps[column])
            if overlaps[best] > threshold and (number, best) not in taken:
                taken.add((number, best))
                hits += 1
        curve.append((hits / sum(objects), hits / seen))
    area = 0.0
    for (before, _), (after, _) in pairwise(curve):
        if after != before:
            area += (after - before) * max(precision for recall, precision in curve if recall >= after)
    return area

"""Average precision as Pascal VOC has it since 2010: the area under the precision's envelope, at every recall."""

import numpy as np
from jaxtyping import Bool, Float, Float64


def precision_recall(
    scores: Float[np.ndarray, "N"], right: Bool[np.ndarray, "N"], objects: int
) -> tuple[Float64[np.ndarray, "N"], Float64[np.ndarray, "N"]]:
    """Precision and recall of the best detection, the best two, and so on; of equal scores the first comes first.

    Args:
        scores: of detections of all scenes.
        right: which of them are true positives.
        objects: number of objects in all scenes.

    Returns:
        Precision and recall; recall is NaN without objects.
    """
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    recall = hits / objects if objects else np.full(len(hits), np.nan)
    return hits / np.arange(1, len(hits) + 1), recall


def average_precision(scores: Float[np.ndarray, "N"], right: Bool[np.ndarray, "N"], objects: int) -> float:
    """Area under the precision-recall curve, precision being the best that is reached at that recall or a higher one.

    Args:
        scores: of detections of all scenes.
        right: which of them are true positives.
        objects: number of objects in all scenes.

    Returns:
        Between 0 and 1; 0 without detections, NaN without objects.
    """
    if objects == 0:
        return float("nan")
    precision, recall = precision_recall(scores, right, objects)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))

"""Average precision of instances as ScanNet's benchmark has it (Dai et al., CVPR 2017; its evaluation of instances)."""

import numpy as np
from jaxtyping import Bool, Float


def assign_instances(
    iou: Float[np.ndarray, "N M"], scores: Float[np.ndarray, "N"], threshold: float
) -> tuple[Float[np.ndarray, "P"], Bool[np.ndarray, "P"], int]:
    """Which detections of one scene are right.

    An object is found by the best detection whose IoU with it exceeds the threshold; others that do are wrong, and so
    are detections that do with no object. A detection finds one object only.

    Args:
        iou: N detections, the best first, by M objects, of one class or of all.
        scores: of the detections, descending.
        threshold: to be exceeded.

    Returns:
        Scores, whether they are of a right detection, and the number of objects that no detection found.
    """
    hits = iou > threshold
    values, right, missed = [], [], 0
    taken = np.zeros(len(scores), bool)
    for column in range(iou.shape[1]):
        found = np.flatnonzero(hits[:, column] & ~taken)
        if not len(found):
            missed += 1
            continue
        taken[found[0]] = True
        values += scores[found].tolist()
        right += [True] + [False] * (len(found) - 1)
    wrong = scores[~hits.any(1)].tolist()
    return np.array(values + wrong, np.float64), np.array(right + [False] * len(wrong), bool), missed


def instance_average_precision(scores: Float[np.ndarray, "P"], right: Bool[np.ndarray, "P"], missed: int) -> float:
    """Area under the precision-recall curve, each precision counting for half the way to both neighbouring recalls.

    Args:
        scores: of detections of all scenes.
        right: which of them are right.
        missed: objects of all scenes that no detection found.

    Returns:
        Between 0 and 1; 0 without detections, NaN without objects.
    """
    objects = int(right.sum()) + missed
    if objects == 0:
        return float("nan")
    if len(scores) == 0:
        return 0.0
    # Detections with equal scores enter together; every threshold on the score is one point of the curve.
    _, counts = np.unique(-scores, return_counts=True)
    ends = counts.cumsum()
    hits = right[np.argsort(-scores, kind="stable")].cumsum()[ends - 1]
    recall = np.concatenate([[0.0], hits / objects])
    precision = np.concatenate([[1.0], hits / ends])
    around = np.concatenate([[0.0], recall, recall[-1:]])
    return float(precision @ (0.5 * (around[2:] - around[:-2])))

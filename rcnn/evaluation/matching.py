"""Detections of one scene matched with its objects, from the IoU of all pairs; boxes and masks alike."""

import numpy as np
from jaxtyping import Bool, Float, Float32


def matched_ious(iou: Float[np.ndarray, "N M"]) -> Float32[np.ndarray, "M"]:
    """How well each object is covered when detections and objects are paired one to one, the best pair first.

    Detectron's rule for the recall of proposals, and NeRF-RPN's. Scores play no part.

    Args:
        iou: N detections by M objects.

    Returns:
        IoU of each object with its detection; 0 for those that are left without one.
    """
    # Objects first: of equal pairs, the first object's comes first, as with the original's nested maxima.
    left = np.array(iou, np.float32).T
    result = np.zeros(len(left), np.float32)
    for _ in range(min(left.shape)):
        item, detection = divmod(int(left.argmax()), left.shape[1])
        if left[item, detection] <= 0:
            break
        result[item] = left[item, detection]
        left[item] = left[:, detection] = -1
    return result


def first_detections(iou: Float[np.ndarray, "N M"], threshold: float) -> Bool[np.ndarray, "N"]:
    """Which detections are true positives for average precision.

    A detection goes to the object that it overlaps most. It is right when their IoU is above the threshold and no
    better detection went to that object; else it is wrong, even if another object is free (Pascal VOC's rule).

    Args:
        iou: N detections, the best first, by M objects.
        threshold: IoU that must be exceeded.
    """
    right = np.zeros(len(iou), bool)
    if iou.size == 0:
        return right
    target = iou.argmax(1)
    candidates = np.flatnonzero(iou[np.arange(len(iou)), target] > threshold)
    _, first = np.unique(target[candidates], return_index=True)
    right[candidates[first]] = True
    return right

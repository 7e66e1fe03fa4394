"""Masks out of the queries of MaskFormer's descendants (Mask2Former, EoMT): a class and a mask per query.

The two ways to read them are those of Mask2Former (Cheng et al., CVPR 2022), section 3 and its appendix.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from instance_nerfstudio.segments.mask_source import Detections

# A query keeps a pixel only if its own mask is more likely there than not.
MASK_PROBABILITY = 0.5


def instance_detections(
    classes: Float[Tensor, "Q C+1"],
    masks: Float[Tensor, "Q H W"],
    names: Sequence[str],
    min_score: float,
    top: int = 100,
) -> Detections:
    """Overlapping masks, one per pair of query and class: score = class probability x mean probability of the mask.

    Args:
        classes: logits of a photo's queries; the last class is none.
        masks: logits at the photo's size.
        names: of the classes.
        min_score: pairs below it are left out.
        top: so many pairs at most, the most likely classes first.
    """
    probability = classes.softmax(-1)[:, :-1]
    likely, pairs = probability.flatten().topk(min(top, probability.numel()))
    chosen = likely >= min_score  # the mask's own probability can only lower it
    likely, pairs = likely[chosen], pairs[chosen]
    query, label = pairs // probability.shape[1], pairs % probability.shape[1]
    inside = masks > 0
    mean = (masks.sigmoid() * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp(min=1)
    scores = likely * mean[query]
    kept = scores >= min_score
    return Detections(inside[query[kept]], scores[kept], [names[int(i)] for i in label[kept]])


def panoptic_detections(
    classes: Float[Tensor, "Q C+1"],
    masks: Float[Tensor, "Q H W"],
    names: Sequence[str],
    stuff: Collection[int],
    min_score: float,
    overlap: float = 0.8,
) -> Detections:
    """Masks that don't overlap: every pixel goes to the query with the highest class probability x mask probability.

    Stuff comes in one query per class, however many pieces there are; here each connected piece is a mask.

    Args:
        classes, masks, names, min_score: as for `instance_detections`.
        stuff: classes that are split.
        overlap: a query that keeps no more than this share of its mask is left out.
    """
    scores, labels = classes.softmax(-1).max(-1)
    kept = (labels < classes.shape[-1] - 1) & (scores >= min_score)
    scores, labels, masks = scores[kept], labels[kept], masks[kept].sigmoid()
    height, width = masks.shape[1:]
    found: list[tuple[Tensor, float, str]] = []
    if len(scores):
        owner = (scores[:, None, None] * masks).argmax(0)
        for row, label in enumerate(labels.tolist()):
            likely, owned = masks[row] >= MASK_PROBABILITY, owner == row
            mask = likely & owned
            if int(owned.sum()) <= overlap * int(likely.sum()) or not mask.any():
                continue
            pieces = split_pieces(mask) if label in stuff else [mask]
            found += [(piece, float(scores[row]), names[int(label)]) for piece in pieces]
    every = torch.stack([mask for mask, _, _ in found]) if found else masks.new_zeros((0, height, width))
    likeliness = torch.tensor([score for _, score, _ in found], device=masks.device)
    return Detections(every.bool(), likeliness, [name for _, _, name in found], complete=True)


def split_pieces(mask: Tensor) -> list[Tensor]:
    """The connected pieces of a mask (H, W), with neighbours across corners."""
    count, pieces = cv2.connectedComponents(mask.cpu().numpy().astype(np.uint8), connectivity=8)
    numbers = torch.from_numpy(pieces).to(mask.device)
    return [numbers == number for number in range(1, count)]

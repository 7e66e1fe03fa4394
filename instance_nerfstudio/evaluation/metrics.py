"""Scores of instance maps against ground truth, per view and per scene, from contingency tables of pixel counts."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64, Integer
from torch import Tensor

UNLISTED = -1
"""Category of every instance id that the mapping of categories does not name."""

PL_SMALLEST_SHARE = 0.005
"""Panoptic Lifting drops a category that covers less than this share of the pixels in prediction or target."""

_BACKGROUND, _VOID = -2, -3
_DENSE_TABLE = 2**20


@dataclass(frozen=True)
class ContingencyTable:
    """Pixel counts of each pair of ground-truth and predicted id that occurs; pairs are unique."""

    gt: Int64[Tensor, "pairs"]
    pred: Int64[Tensor, "pairs"]
    count: Int64[Tensor, "pairs"]

    @staticmethod
    def of_view(pred: Integer[Tensor, "*pixels"], gt: Integer[Tensor, "*pixels"]) -> "ContingencyTable":
        """Counts the pairs of one view; ids may lie on any device.

        Raises:
            ValueError: shapes differ, or ids are not integers.
        """
        if pred.shape != gt.shape:
            raise ValueError(f"predicted and true ids must have one shape, got {(*pred.shape,)} and {(*gt.shape,)}")
        if any(ids.is_floating_point() or ids.is_complex() for ids in (pred, gt)):
            raise ValueError(f"ids must be integers, got {pred.dtype} and {gt.dtype}")
        if pred.numel() == 0:
            return ContingencyTable.merge(())
        # NumPy, because PyTorch splits even small maps among threads: on busy cores that takes ten times as long.
        # All negative ids mean unlabelled; shifted by one they fit an unsigned key.
        gt_ids, pred_ids = (np.maximum(ids.numpy(force=True).ravel().astype(np.int64), -1) + 1 for ids in (gt, pred))
        width = int(pred_ids.max()) + 1
        key = gt_ids * width + pred_ids
        size = (int(gt_ids.max()) + 1) * width
        if size <= _DENSE_TABLE:
            dense = np.bincount(key, minlength=size)
            keys = np.flatnonzero(dense)
            counts = dense[keys]
        else:
            keys, counts = np.unique(key, return_counts=True)
        columns = (keys // width - 1, keys % width - 1, counts.astype(np.int64))
        return ContingencyTable(*(torch.from_numpy(column) for column in columns))

    @staticmethod
    def merge(tables: "Iterable[ContingencyTable]") -> "ContingencyTable":
        """The table of all pixels of the given tables."""
        tables = list(tables)
        none = torch.zeros(0, dtype=torch.long)
        pairs = torch.stack([torch.cat([none, *(getattr(t, name) for t in tables)]) for name in ("gt", "pred")])
        unique, place = torch.unique(pairs, dim=1, return_inverse=True)
        count = torch.cat([none, *(t.count for t in tables)])
        return ContingencyTable(unique[0], unique[1], torch.zeros_like(unique[0]).index_add_(0, place, count))

    @property
    def has_instances(self) -> bool:
        """Whether the ground truth shows any instance."""
        return bool((self.gt > 0).any())


@dataclass
class PanopticSums:
    """What panoptic quality is computed from, of one category: segment counts and the sum of the matches' IoU."""

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    iou: float = 0.0

    def add(self, other: "PanopticSums") -> None:
        self.true_positives += other.true_positives
        self.false_positives += other.false_positives
        self.false_negatives += other.false_negatives
        self.iou += other.iou


def instance_miou(table: ContingencyTable) -> float:
    """Mean over the true instances of the IoU with the prediction of the same id; NaN without a true instance.

    Pixels whose truth is unlabelled count nowhere. Prediction and truth must share ids: no matching takes place.
    """
    gt, pred, count = (x[table.gt >= 0] for x in (table.gt, table.pred, table.count))
    ids, place = torch.unique(torch.cat([gt, pred]), return_inverse=True)
    gt_at, pred_at = place[: len(gt)], place[len(gt) :]
    areas = torch.zeros(3, len(ids), dtype=torch.long)
    areas[0].index_add_(0, gt_at, count)
    areas[1].index_add_(0, pred_at, count)
    areas[2].index_add_(0, gt_at, count * (gt == pred))
    gt_area, pred_area, intersection = areas[:, ids > 0].double()
    iou = intersection / (gt_area + pred_area - intersection)
    return float(iou[gt_area > 0].mean())


def panoptic_sums(table: ContingencyTable, categories: Mapping[int, int] | None) -> dict[int, PanopticSums]:
    """Matches and misses per category by panoptic quality's rules (Kirillov et al. 2019, sections 4.1 and 4.2).

    A predicted and a true segment of one category match when their IoU exceeds 0.5; at most one partner can. Pixels of
    unlabelled truth belong to no union, and an unmatched prediction that lies mostly (> 50 %) on them is no false
    positive. Background has an area but is no segment. An unlabelled prediction counts as background: leaving pixels
    out must not pay.
    """
    pred = table.pred.clamp(min=0)
    merged = ContingencyTable.merge([ContingencyTable(table.gt, pred, table.count)])
    gt_category, pred_category = _category_of(merged.gt, categories), _category_of(merged.pred, categories)
    return _match(merged, gt_category, pred_category)


def panoptic_sums_lifting(table: ContingencyTable, categories: Mapping[int, int] | None) -> dict[int, PanopticSums]:
    """The same by the evaluation code of Panoptic Lifting (Siddiqui et al. 2023), whose rules published numbers follow.

    Only pixels on true instances count. A category that covers less than 0.5 % of them in prediction or truth becomes
    void in both; unlabelled predictions are void. Void pixels belong to no union, and unmatched segments (true or
    predicted) that are mostly void are dropped. One rule differs: background that is predicted on an instance takes
    area from the match, but its own score, always zero, is not averaged in.
    """
    kept = table.gt > 0
    table = ContingencyTable(table.gt[kept], table.pred[kept], table.count[kept])
    gt_category, pred_category = _category_of(table.gt, categories), _category_of(table.pred, categories)
    smallest = PL_SMALLEST_SHARE * int(table.count.sum())
    for category in {*gt_category.tolist(), *pred_category.tolist()} - {_VOID}:
        shares = [int(table.count[side == category].sum()) for side in (gt_category, pred_category)]
        if any(0 < share < smallest for share in shares):
            gt_category = gt_category.masked_fill(gt_category == category, _VOID)
            pred_category = pred_category.masked_fill(pred_category == category, _VOID)
    return _match(table, gt_category, pred_category)


def panoptic_quality(sums: Mapping[int, PanopticSums]) -> tuple[float, float, float]:
    """(PQ, SQ, RQ), each averaged over the categories with any true or predicted segment; NaN without one."""
    scores = []
    for s in sums.values():
        segments = s.true_positives + 0.5 * s.false_positives + 0.5 * s.false_negatives
        if segments > 0:
            quality = s.iou / s.true_positives if s.true_positives else 0.0
            scores.append((s.iou / segments, quality, s.true_positives / segments))
    if not scores:
        return math.nan, math.nan, math.nan
    pq, sq, rq = (sum(column) / len(scores) for column in zip(*scores, strict=True))
    return pq, sq, rq


def view_metrics(
    pred: Integer[Tensor, "*pixels"], gt: Integer[Tensor, "*pixels"], categories: Mapping[int, int] | None = None
) -> dict[str, float]:
    """Scores of one view: `instance_miou`, `pq`, `sq`, `rq`; all NaN where the truth shows no instance.

    Arguments as for `InstanceMetrics`.
    """
    table = ContingencyTable.of_view(pred, gt)
    pq, sq, rq = (math.nan,) * 3
    if table.has_instances:
        pq, sq, rq = panoptic_quality(panoptic_sums(table, categories))
    return {"instance_miou": instance_miou(table), "pq": pq, "sq": sq, "rq": rq}


class InstanceMetrics:
    """Scores of a set of views of one scene.

    `compute` returns, as fractions:

    * `instance_miou`: mean IoU of the true instances, ids compared as they are, one confusion matrix for all views;
    * `pq`, `sq`, `rq`: panoptic, segmentation and recognition quality (Kirillov et al. 2019); segments are matched
      within each view, matches and misses of all views pooled;
    * `pq_scene`, ...: all views seen as one image, so an object must keep one id from view to view
      (PQ^scene of Siddiqui et al. 2023);
    * `pq_scene_pl`, ...: the same with the pixel and category filters of that paper's code.

    Every value is NaN as long as the truth has shown no instance.

    Args:
        categories: instance id -> category index (>= 0), for true and predicted ids alike. Ids that it does not name
            share one category of their own, `UNLISTED`. None: all instances are of one category.
    """

    def __init__(self, categories: Mapping[int, int] | None = None) -> None:
        if categories is not None and any(category < 0 for category in categories.values()):
            raise ValueError("category indices must not be negative")
        self.categories = categories
        self.reset()

    def reset(self) -> None:
        """Forgets all views."""
        self._table = ContingencyTable.merge(())
        self._view_sums: defaultdict[int, PanopticSums] = defaultdict(PanopticSums)

    def update(self, pred_ids: Integer[Tensor, "*pixels"], gt_ids: Integer[Tensor, "*pixels"]) -> None:
        """Adds one view: ids -1 (unlabelled), 0 (background), 1.. (instances), on any device, of any integer type.

        Raises:
            ValueError: shapes differ, or ids are not integers.
        """
        table = ContingencyTable.of_view(pred_ids, gt_ids)
        self._table = ContingencyTable.merge([self._table, table])
        for category, sums in panoptic_sums(table, self.categories).items():
            self._view_sums[category].add(sums)

    def compute(self) -> dict[str, float]:
        """The scores of all views so far; the keys never change."""
        groups = {
            "": self._view_sums,
            "_scene": panoptic_sums(self._table, self.categories),
            "_scene_pl": panoptic_sums_lifting(self._table, self.categories),
        }
        scores = {"instance_miou": instance_miou(self._table)}
        for suffix, sums in groups.items():
            qualities = panoptic_quality(sums if self._table.has_instances else {})
            scores |= {name + suffix: value for name, value in zip(("pq", "sq", "rq"), qualities, strict=True)}
        return scores


def _category_of(ids: Tensor, categories: Mapping[int, int] | None) -> Tensor:
    unique, place = torch.unique(ids, return_inverse=True)
    named = [0 if categories is None else categories.get(i, UNLISTED) for i in unique.tolist()]
    found = torch.tensor(named, dtype=torch.long)
    found[unique == 0] = _BACKGROUND
    found[unique < 0] = _VOID
    return found[place]


def _areas(place: Tensor, size: int, count: Tensor, where: Bool[Tensor, "pairs"]) -> Tensor:
    return torch.zeros(size, dtype=torch.long).index_add_(0, place, count * where)


def _match(table: ContingencyTable, gt_category: Tensor, pred_category: Tensor) -> dict[int, PanopticSums]:
    """Panoptic matching of a table whose pairs carry categories; `_VOID` marks pixels outside the comparison."""
    count = table.count
    gt_void, pred_void = gt_category == _VOID, pred_category == _VOID
    everywhere = torch.ones_like(gt_void)
    gt_ids, gt_at = torch.unique(table.gt, return_inverse=True)
    pred_ids, pred_at = torch.unique(table.pred, return_inverse=True)
    gt_area = _areas(gt_at, len(gt_ids), count, everywhere)
    gt_on_void = _areas(gt_at, len(gt_ids), count, pred_void)
    pred_area = _areas(pred_at, len(pred_ids), count, everywhere)
    pred_on_void = _areas(pred_at, len(pred_ids), count, gt_void)

    union = (pred_area - pred_on_void)[pred_at] + (gt_area - gt_on_void)[gt_at] - count
    matched = (gt_category == pred_category) & (gt_category > _BACKGROUND) & (2 * count > union)
    gt_missed, pred_missed = 2 * gt_on_void <= gt_area, 2 * pred_on_void <= pred_area
    gt_missed[gt_at[matched]] = False
    pred_missed[pred_at[matched]] = False

    sums: defaultdict[int, PanopticSums] = defaultdict(PanopticSums)
    ious = count[matched].double() / union[matched]
    for kind, iou in zip(gt_category[matched].tolist(), ious.tolist(), strict=True):
        sums[kind].true_positives += 1
        sums[kind].iou += iou
    # A segment's category is the same in all its pairs: any one of them tells it.
    gt_kind = torch.empty_like(gt_ids).index_copy_(0, gt_at, gt_category)
    pred_kind = torch.empty_like(pred_ids).index_copy_(0, pred_at, pred_category)
    for kind in gt_kind[gt_missed & (gt_kind > _BACKGROUND)].tolist():
        sums[kind].false_negatives += 1
    for kind in pred_kind[pred_missed & (pred_kind > _BACKGROUND)].tolist():
        sums[kind].false_positives += 1
    return dict(sums)

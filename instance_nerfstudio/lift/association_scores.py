"""How well maps of instances keep objects apart and together over the views, against true maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse

from instance_nerfstudio.evaluation.metrics import ContingencyTable, InstanceMetrics


@dataclass(frozen=True)
class AssociationScores:
    """Scores of one scene."""

    pq_scene: float
    """Panoptic quality over all views seen as one picture; unlabelled pixels count as background."""
    id_switches: int
    """How often an object has another id than in the view before it in which it had any."""
    over_merged: int
    """Objects that share their main id with another, one of each id aside."""
    over_split: int
    """Ids that mainly show an object that another id shows more of."""
    abstained: float
    """Share of the objects' pixels that are unlabelled."""
    wrong: float
    """Share of the objects' labelled pixels that are of an id whose main object is another one; background is none."""
    objects: int
    """True objects."""
    found: int
    """Ids in the maps."""


def association_scores(
    maps: Sequence[Int[np.ndarray, "H W"]], truth: Sequence[Int[np.ndarray, "H W"]], least_share: float = 0.1
) -> AssociationScores:
    """Compares maps of the views along the camera's path, in this order, with the true ones.

    Args:
        maps: -1 unlabelled, 0 background, 1.. any ids that views share.
        truth: -1 no truth (counts nowhere), 0 background, 1.. objects.
        least_share: an object has an id in a view if at least this share of its pixels there have it: a border that is
            a pixel off is no switch.

    Raises:
        ValueError: maps of other shapes than the true ones, or another number of views.
    """
    if len(maps) != len(truth):
        raise ValueError(f"{len(maps)} maps and {len(truth)} true ones: they must be of the same views")
    metrics = InstanceMetrics()
    tables = []
    for ids, wanted in zip(maps, truth, strict=True):
        pred, gt = torch.from_numpy(np.ascontiguousarray(ids)), torch.from_numpy(np.ascontiguousarray(wanted))
        metrics.update(pred, gt)
        tables.append(ContingencyTable.of_view(pred, gt))
    whole = ContingencyTable.merge(tables)
    objects = np.unique(whole.gt[whole.gt > 0].numpy())
    shared = _counts(whole, objects)
    on_objects = (whole.gt > 0).numpy()
    pixels = whole.count.numpy()
    unlabelled = pixels[on_objects & (whole.pred < 0).numpy()].sum()
    # Of equally good partners the first.
    main_object = np.where(shared.any(0), shared.argmax(0), -1)
    main_id = np.where(shared.any(1), shared.argmax(1), -1)
    has_id = main_id >= 0
    right = shared[main_object[main_object >= 0], np.flatnonzero(main_object >= 0)].sum()
    return AssociationScores(
        metrics.compute()["pq_scene"],
        _switches(tables, objects, least_share),
        int(has_id.sum() - len(np.unique(main_id[has_id]))),
        int((main_object >= 0).sum() - len(np.unique(main_object[main_object >= 0]))),
        float(unlabelled / max(1, pixels[on_objects].sum())),
        float(1 - right / max(1.0, shared.sum())),
        len(objects),
        len(np.unique(whole.pred[whole.pred > 0].numpy())),
    )


def _counts(table: ContingencyTable, objects: Int[np.ndarray, "K"]) -> Float[np.ndarray, "K ids"]:
    """Pixels of each object and id, by their order; one empty row or column where there are none."""
    both = ((table.gt > 0) & (table.pred > 0)).numpy()
    rows = np.searchsorted(objects, table.gt.numpy()[both])
    columns = np.unique(table.pred.numpy()[both], return_inverse=True)[1].ravel()
    shape = (max(1, len(objects)), int(columns.max(initial=0)) + 1)
    return sparse.coo_matrix((table.count.numpy()[both].astype(float), (rows, columns)), shape=shape).toarray()


def _switches(tables: Sequence[ContingencyTable], objects: Int[np.ndarray, "K"], least_share: float) -> int:
    """Changes of the objects' main ids from view to view."""
    last = np.full(len(objects), -1)
    switches = 0
    for table in tables:
        gt, pred, count = table.gt.numpy(), table.pred.numpy(), table.count.numpy()
        for number in np.unique(gt[gt > 0]):
            of_object = gt == number
            with_id = of_object & (pred > 0)
            if not with_id.any() or count[with_id].max() < least_share * count[of_object].sum():
                continue
            current = pred[with_id][count[with_id].argmax()]
            row = np.searchsorted(objects, number)
            switches += int(last[row] not in (-1, current))
            last[row] = current
    return switches

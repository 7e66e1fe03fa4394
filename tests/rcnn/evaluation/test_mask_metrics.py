"""ScanNet's average precision, by hand and against its own steps."""

import numpy as np
import pytest
import torch

from rcnn.evaluation import InstanceMetrics, MaskMetrics, assign_instances, instance_average_precision
from rcnn.instances import SceneInstances, VoxelMasks

IOU = np.array([[0.8, 0.0, 0.0], [0.6, 0.3, 0.0], [0.0, 0.55, 0.0], [0.2, 0.0, 0.1]])
SCORES = np.array([0.9, 0.8, 0.7, 0.6])


def test_by_hand() -> None:
    scores, right, missed = assign_instances(IOU, SCORES, 0.5)
    # The first object is found by the best detection and, wrongly, again; the third by none; the last is nothing.
    assert missed == 1
    assert sorted(zip(scores, right, strict=True)) == [(0.6, False), (0.7, True), (0.8, False), (0.9, True)]
    # Precisions 1, 1, 1/2, 2/3, 1/2 at recalls 0, 1/3, 1/3, 2/3, 2/3, each for half the way to both neighbours.
    expected = (1 / 3) / 2 * 1 + (1 / 3) / 2 * 1 + (1 / 3) / 2 * (1 / 2) + (1 / 3) / 2 * (2 / 3) + 0
    assert instance_average_precision(scores, right, missed) == pytest.approx(expected)
    # At 0.25 the second detection is the second object's too, and is counted for both.
    scores, right, missed = assign_instances(IOU, SCORES, 0.25)
    assert sorted(zip(scores, right, strict=True)) == [
        (0.6, False), (0.7, False), (0.8, False), (0.8, True), (0.9, True),
    ]  # fmt: skip
    assert missed == 1


def test_nothing_to_find_and_nothing_found() -> None:
    none = np.zeros(0), np.zeros(0, bool)
    assert np.isnan(instance_average_precision(*none, 0))
    assert np.isnan(instance_average_precision(np.array([0.5]), np.array([False]), 0))
    assert instance_average_precision(*none, 3) == 0
    assert instance_average_precision(np.array([0.5, 0.4]), np.array([True, True]), 0) == pytest.approx(1)
    assert assign_instances(np.zeros((0, 2)), np.zeros(0), 0.5)[2] == 2
    assert assign_instances(np.zeros((2, 0)), SCORES[:2], 0.5)[1].tolist() == [False, False]


def step_by_step(scores: np.ndarray, right: np.ndarray, missed: int) -> float:
    """The curve from its low end, one score after the other."""
    precisions, recalls = [], []
    for least in sorted(set(scores)):
        chosen = scores >= least
        true = int(right[chosen].sum())
        precisions.append(true / chosen.sum())
        recalls.append(true / (right.sum() + missed))
    precisions, recalls = [*precisions, 1.0], [*recalls, 0.0]
    around = [recalls[0], *recalls, 0.0]
    return sum(p * (around[n] - around[n + 2]) / 2 for n, p in enumerate(precisions))


def test_equal_scores_enter_together() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        scores, right = rng.integers(0, 6, 12) / 6, rng.random(12) < 0.5
        missed = int(rng.integers(0, 4)) + (not right.any())
        assert instance_average_precision(scores, right, missed) == pytest.approx(step_by_step(scores, right, missed))


def test_classes_and_scenes() -> None:
    metrics = MaskMetrics(("chair", "table", "lamp"))
    labels, objects = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match="3 labels and 3 objects"):
        metrics.update("room", torch.from_numpy(IOU), torch.from_numpy(SCORES), labels[:3], objects)
    metrics.update("room", torch.from_numpy(IOU), torch.from_numpy(SCORES), labels, objects)
    metrics.update("room", torch.from_numpy(IOU), torch.from_numpy(SCORES), labels, objects)
    scores = metrics.compute()
    assert (scores.scenes, scores.objects, scores.detections) == (1, 3, 4), "a scene that comes again counts once"
    assert scores.ap["AP50"] == pytest.approx(instance_average_precision(*assign_instances(IOU, SCORES, 0.5)))
    # The chair is found first; one table is right and another one, which is better, is nothing; no lamp.
    assert scores.classes["chair"]["AP50"] == pytest.approx(1.0)
    table = step_by_step(np.array([0.8, 0.7]), np.array([False, True]), 0)
    assert scores.classes["table"]["AP50"] == pytest.approx(table)
    assert scores.classes["lamp"]["AP50"] == 0
    assert scores.mean_ap["AP50"] == pytest.approx((1 + table) / 3)
    every = [instance_average_precision(*assign_instances(IOU, SCORES, 0.5 + 0.05 * n)) for n in range(9)]
    assert scores.ap["AP"] == pytest.approx(np.mean(every))
    other = MaskMetrics(("chair", "table", "lamp"))
    other.update("hall", torch.zeros(0, 1), torch.zeros(0), torch.zeros(0).int(), torch.tensor([2]))
    both = metrics.merge([other]).compute()
    assert both.class_objects["lamp"] == 2
    assert both.to_json()["classes"]["lamp"]["AP50"] == 0
    assert {"maskAP", "maskAP50", "maskAP25", "maskmAP50"} <= both.summary().keys()
    assert len(both.table().rows) == 5


def test_instances_are_scored_by_boxes_and_masks() -> None:
    ids = torch.zeros(10, 10, 10, dtype=torch.int32)
    ids[1:5, 1:5, 1:5] = 1
    ids[6:9, 6:9, 6:9] = 2
    boxes = torch.tensor([[1.0, 1, 1, 5, 5, 5], [6, 6, 6, 9, 9, 9], [0, 0, 9, 1, 1, 10]])
    masks = VoxelMasks.of(torch.stack([ids == 1, ids == 2]))
    metrics = InstanceMetrics(("chair", "lamp"))
    found = SceneInstances(boxes[:2], torch.tensor([0.9, 0.8]), torch.tensor([0, 0]).int(), masks, ("chair", "lamp"))
    metrics.update("room", found, boxes, torch.tensor([0, 1, 1]), ids)
    scores = metrics.gather().compute()
    summary = scores.summary()
    assert summary["maskAP50"] == pytest.approx(1.0), "an object without a voxel has no mask to be found"
    assert summary["AP50"] == pytest.approx(2 / 3)
    assert summary["maskmAP50"] == pytest.approx(0.5 * (scores.masks.classes["chair"]["AP50"] + 0))
    assert scores.masks.classes["chair"]["AP50"] == pytest.approx(1 - 0.0, abs=0.3)
    assert scores.to_json()["masks"]["objects"] == 2
    assert len(list(scores.tables("test"))) == 2

"""Recall and average precision: by hand, against a slow restatement of the original, and over processes."""

import io
import json
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from rich.console import Console
from slow_evaluation import slow_ap, slow_recall
from torch import Tensor

from rcnn.boxes import aabb_to_obb, box_iou
from rcnn.evaluation import DetectionMetrics, DetectionMetricsConfig, average_precision, precision_recall
from rcnn.evaluation.matching import first_detections, matched_ious

NAMES = ("bed", "chair", "lamp")


def cubes(*corners: float, side: float = 2) -> Tensor:
    """Cubes along x, with their lower corner there."""
    low = torch.tensor([[corner, 0.0, 0.0] for corner in corners]).reshape(-1, 3)
    return torch.cat([low, low + side], 1)


def random_scene(seed: int, rotated: bool = False, count: int = 40, objects: int = 6) -> tuple[Tensor, ...]:
    """Objects, detections scattered around them, their scores and labels; no two scores are equal."""
    random = torch.Generator().manual_seed(seed)
    low = 20 * torch.rand(objects, 3, generator=random)
    truth = torch.cat([low, low + 2 + 4 * torch.rand(objects, 3, generator=random)], 1)
    if rotated:
        truth = aabb_to_obb(truth)
        truth[:, 6] = 3 * torch.rand(objects, generator=random)
    source = torch.randint(0, max(objects, 1), (count,), generator=random)
    noise = torch.randn(count, truth.shape[1], generator=random) * torch.tensor([0.8] * 6 + [0.2] * rotated)
    boxes = truth[source] + noise if objects else torch.rand(count, truth.shape[1], generator=random)
    boxes[:, 3:6] = torch.maximum(boxes[:, 3:6], (0 if rotated else boxes[:, :3]) + torch.tensor(0.5))
    scores = torch.rand(count, generator=random)
    object_labels = torch.randint(0, 3, (objects,), generator=random)
    labels = torch.randint(0, 3, (count,), generator=random)
    if objects:
        labels = torch.where(torch.rand(count, generator=random) < 0.7, object_labels[source], labels)
    return boxes, scores, truth, labels, object_labels


def test_a_scene_by_hand():
    """Objects at 0, 10 and 20. Shifts of 0.5 and 1 on cubes of side 2 give an IoU of 0.6 and 1/3."""
    metrics = DetectionMetrics()
    boxes = cubes(0.5, 1, 11, 40, 0)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    metrics.update("a", boxes, scores, cubes(0, 10, 20))
    result = metrics.compute()
    # Pairs: (last, 0) with IoU 1, (third, 10) with 1/3; nothing is left for 20.
    assert result.recall[300] == {0.25: pytest.approx(2 / 3), 0.5: pytest.approx(1 / 3)}
    # At 0.25 the first and third are right. Precision 1 up to a recall of 1/3, then 2/3 up to 2/3.
    assert result.ap[0.25] == pytest.approx(1 / 3 + 2 / 9)
    # At 0.5 the first takes the object at 0 and the perfect last one comes too late.
    assert result.ap[0.5] == pytest.approx(1 / 3)
    # Coverage 1 counts at 15 of 15 thresholds, 1/3 at 0.25 and 0.3.
    assert result.average_recall[300] == pytest.approx((15 + 2) / 15 / 3)
    assert (result.scenes, result.objects, result.detections) == (1, 3, 5)
    few = DetectionMetrics(DetectionMetricsConfig(recall_limits=(2, 3), ap_limit=2))
    few.update("a", boxes, scores, cubes(0, 10, 20))
    assert few.compute().recall[2][0.5] == pytest.approx(1 / 3)
    assert few.compute().recall[2][0.25] == pytest.approx(1 / 3)
    assert few.compute().recall[3][0.25] == pytest.approx(2 / 3)
    assert few.compute().ap[0.25] == pytest.approx(1 / 3)


def test_at_the_threshold_recall_counts_and_precision_does_not():
    """A cube and its half: an IoU of exactly 0.5."""
    metrics = DetectionMetrics()
    metrics.update("a", torch.tensor([[0.0, 0, 0, 1, 2, 2]]), torch.ones(1), cubes(0))
    result = metrics.compute()
    assert result.recall[300][0.5] == 1
    assert result.ap == {0.25: 1.0, 0.5: 0.0}


def test_voc_curve_by_hand():
    """Right, wrong, right of 2 objects: the envelope is 1 and then 2/3."""
    scores, right = np.array([0.1, 0.9, 0.5]), np.array([True, True, False])
    precision, recall = precision_recall(scores, right, 2)
    assert precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert recall.tolist() == [0.5, 0.5, 1]
    assert average_precision(scores, right, 2) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert average_precision(scores, right, 4) == pytest.approx(0.25 + 0.25 * 2 / 3)
    assert average_precision(np.zeros(0), np.zeros(0, bool), 2) == 0
    assert math.isnan(average_precision(scores, right, 0))


def test_matching_by_hand():
    iou = np.array([[0.6, 0.7], [0.5, 0.65], [0.0, 0.0]], np.float32)
    # The best pair, (0, 1), leaves (1, 0), though (0, 0) + (1, 1) would be more in sum.
    np.testing.assert_allclose(matched_ious(iou), [0.5, 0.7])
    # Both go to the second object; the first stays free.
    assert first_detections(iou, 0.25).tolist() == [True, False, False]
    np.testing.assert_allclose(matched_ious(iou[:1]), [0, 0.7])
    assert matched_ious(iou[:0]).tolist() == [0, 0]
    assert matched_ious(iou[:, :0]).tolist() == []
    assert first_detections(iou[:, :0], 0.25).tolist() == [False] * 3


@pytest.mark.parametrize("rotated", [False, True])
def test_equals_the_original(rotated: bool):
    """On scenes with detections and objects, where the original works."""
    scenes, objects = [], []
    metrics = DetectionMetrics(DetectionMetricsConfig(recall_limits=(3, 10, 300)))
    limited = DetectionMetrics(DetectionMetricsConfig(ap_limit=7))
    for seed in range(12):
        boxes, scores, truth, _, _ = random_scene(seed, rotated, 5 + 3 * seed, 1 + seed % 7)
        for one in (metrics, limited):
            one.update(f"{seed:02}", boxes, scores, truth)
        scenes.append((box_iou(boxes, truth).tolist(), scores.tolist()))
        objects.append(len(truth))
    result = metrics.compute()
    values = []
    for threshold in (0.25, 0.5):
        for limit in (3, 10, 300):
            values.append(slow_recall(scenes, objects, threshold, limit))
            assert result.recall[limit][threshold] == pytest.approx(values[-1], abs=1e-12)
        values.append(slow_ap(scenes, objects, threshold))
        assert result.ap[threshold] == pytest.approx(values[-1], abs=1e-12)
        assert limited.compute().ap[threshold] == pytest.approx(slow_ap(scenes, objects, threshold, 7), abs=1e-12)
    assert len(set(values)) > 5, "scenes too easy or too hard to tell rules apart"


def test_scenes_without_detections_are_missed_and_those_without_objects_wrong():
    """The original leaves the former out of the denominator and crashes over the latter."""
    metrics = DetectionMetrics(categories=NAMES)
    none, no_labels = torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64)
    metrics.update("found", cubes(0), torch.tensor([0.5]), cubes(0), torch.tensor([0]), torch.tensor([0]))
    metrics.update("missed", none, torch.zeros(0), cubes(0), no_labels, torch.tensor([1]))
    assert metrics.compute().recall[300][0.5] == 0.5
    assert metrics.compute().ap[0.5] == 0.5
    metrics.update("empty", cubes(0), torch.tensor([0.9]), none, torch.tensor([0]), no_labels)
    metrics.update("nothing", none, torch.zeros(0), none, no_labels, no_labels)
    result = metrics.compute()
    assert result.recall[300][0.5] == 0.5
    assert result.ap[0.5] == 0.25
    # A class that was never detected counts as 0, in the recall too.
    assert result.classes["chair"].ap == result.classes["chair"].labelled_recall == {0.25: 0.0, 0.5: 0.0}
    assert result.mean_ap == {0.25: 0.25, 0.5: 0.25}
    assert result.mean_labelled_recall == {0.25: 0.5, 0.5: 0.5}


def test_nothing_at_all_is_not_a_number():
    empty = DetectionMetrics().compute()
    assert math.isnan(empty.recall[300][0.5])
    assert math.isnan(empty.ap[0.5])
    assert math.isnan(empty.average_recall[300])
    assert empty.summary() == {}
    assert empty.mean_ap is None
    metrics = DetectionMetrics()
    metrics.update("a", cubes(0, 1), torch.ones(2), torch.zeros(0, 6))
    assert json.loads(json.dumps(metrics.compute().to_json(), allow_nan=False))["ap"] == {"0.25": None, "0.5": None}


def test_classes_are_scored_each_for_itself():
    metrics = DetectionMetrics(categories=NAMES)
    unlabelled = DetectionMetrics(categories=NAMES)
    by_class = {label: DetectionMetrics() for label in range(3)}
    for seed in range(6):
        boxes, scores, truth, labels, object_labels = random_scene(seed)
        metrics.update(str(seed), boxes, scores, truth, labels, object_labels)
        unlabelled.update(str(seed), boxes, scores, truth, object_labels=object_labels)
        for label, one in by_class.items():
            mine = labels == label
            one.update(str(seed), boxes[mine], scores[mine], truth[object_labels == label])
    result = metrics.compute()
    assert set(result.classes) == set(NAMES)
    for label, one in by_class.items():
        expected = one.compute()
        assert result.classes[NAMES[label]].ap == pytest.approx(expected.ap, abs=1e-12)
        assert result.classes[NAMES[label]].objects == expected.objects
    mean = result.mean_ap
    assert mean is not None
    assert mean[0.25] == pytest.approx(np.mean([one.compute().ap[0.25] for one in by_class.values()]))
    # Recall by class asks for no label, so that proposals have it too; over all classes it is the recall.
    proposals = unlabelled.compute()
    assert proposals.ap == result.ap
    assert all(scores.ap is None for scores in proposals.classes.values())
    hits = sum(scores.recall[0.5] * scores.objects for scores in proposals.classes.values())
    assert hits / proposals.objects == pytest.approx(proposals.recall[300][0.5])


def _gathered(rank: int, folder: Path) -> dict:
    """What a process of two gets."""
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        metrics = DetectionMetrics()
        for seed in (0, 2, 4) if rank == 0 else (1, 3, 0):  # the last batch is filled up with the first scene
            boxes, scores, truth, _, _ = random_scene(seed)
            metrics.update(str(seed), boxes, (scores * 8).round(), truth)
        return metrics.gather().compute().to_json()
    finally:
        torch.distributed.destroy_process_group()


def test_processes_together_give_what_one_gives(tmp_path: Path):
    """With equal scores in several scenes, and a scene that two processes have."""
    metrics = DetectionMetrics()
    for seed in (3, 1, 0, 4, 2):
        boxes, scores, truth, _, _ = random_scene(seed)
        metrics.update(str(seed), boxes, (scores * 8).round(), truth)
    assert metrics.gather().compute().to_json() == metrics.compute().to_json()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        other = pool.submit(_gathered, 1, tmp_path)
        results = [_gathered(0, tmp_path), other.result(60)]
    assert results == [metrics.compute().to_json()] * 2


def test_merging_checks_what_it_merges():
    first, second = DetectionMetrics(), DetectionMetrics(DetectionMetricsConfig(ap_limit=3))
    with pytest.raises(ValueError, match="same config"):
        first.merge([second])
    other = DetectionMetrics()
    first.update("a", cubes(0), torch.ones(1), cubes(0))
    other.update("a", cubes(0), torch.ones(1), cubes(0, 10))
    with pytest.raises(ValueError, match="came twice"):
        first.merge([other])
    assert len(first) == 1


def test_summary_json_and_table():
    metrics = DetectionMetrics(categories=NAMES)
    for seed in range(3):
        boxes, scores, truth, labels, object_labels = random_scene(seed)
        metrics.update(str(seed), boxes, scores, truth, labels, object_labels)
    result = metrics.compute()
    summary = result.summary()
    assert list(summary) == ["R25", "R50", "AP25", "AP50", "mAP25", "mAP50", "mR25", "mR50"]
    assert summary["R50"] == result.recall[300][0.5]
    loaded = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert loaded["AP25"] == loaded["ap"]["0.25"] == result.ap[0.25]
    assert loaded["classes"]["lamp"]["objects"] == result.classes["lamp"].objects
    text = io.StringIO()
    Console(file=text, width=120).print(result.table("Rooms"))
    assert all(word in text.getvalue() for word in ("Rooms", "lamp", "AP50", f"{result.ap[0.5]:.3f}"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((cubes(0), torch.ones(1), aabb_to_obb(cubes(0))), "OBBs with OBBs"),
        ((cubes(float("nan")), torch.ones(1), cubes(0)), "finite"),
        ((cubes(0), torch.tensor([float("nan")]), cubes(0)), "finite scores"),
        ((cubes(0), torch.ones(2), cubes(0)), "1 finite scores"),
        ((cubes(0), torch.ones(1), cubes(0), torch.tensor([3])), "0..2"),
        ((cubes(0), torch.ones(1), cubes(0), torch.tensor([1.0])), "integers"),
        ((cubes(0), torch.ones(1), cubes(0), None, torch.tensor([1, 2])), "object_labels must be 1"),
    ],
)
def test_arguments_that_cannot_be(arguments: tuple, message: str):
    with pytest.raises(ValueError, match=f"room: .*{message}"):
        DetectionMetrics(categories=NAMES).update("room", *arguments)


def test_half_precision_scores_and_other_thresholds():
    boxes, scores, truth, _, _ = random_scene(0)
    metrics = DetectionMetrics(DetectionMetricsConfig(iou_thresholds=(0.1,), recall_limits=(5,)))
    metrics.update("a", boxes.bfloat16(), scores.bfloat16(), truth.bfloat16())
    assert set(metrics.compute().summary()) == {"R10", "AP10"}
    makers = (
        lambda: DetectionMetricsConfig(iou_thresholds=(1.0,)),
        lambda: DetectionMetricsConfig(recall_limits=()),
        lambda: DetectionMetricsConfig(recall_limits=(0,)),
        lambda: DetectionMetricsConfig(ap_limit=0),
    )
    for make in makers:
        with pytest.raises(ValueError, match="must"):
            make()

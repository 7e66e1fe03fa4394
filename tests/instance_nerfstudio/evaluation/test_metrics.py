"""Metrics of instance maps: hand-computed cases, and torchmetrics as the oracle on random maps."""

import math
import time
import tracemalloc

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.detection import PanopticQuality

from instance_nerfstudio.evaluation.metrics import UNLISTED, InstanceMetrics, view_metrics

KEYS = ["instance_miou", *(name + suffix for suffix in ("", "_scene", "_scene_pl") for name in ("pq", "sq", "rq"))]
CATEGORIES = {1: 0, 2: 0, 3: 1, 4: 2, 5: 1, 6: 2, 7: 0}

# Categories as the oracle numbers them.
ORACLE_BACKGROUND, ORACLE_UNLISTED, ORACLE_VOID = 100, 101, 999


def _score(pred: Tensor, gt: Tensor, categories: dict[int, int] | None = None) -> dict[str, float]:
    """Metrics of maps (views, H, W) or (H, W)."""
    metrics = InstanceMetrics(categories)
    for view_pred, view_gt in zip(pred.reshape(-1, *pred.shape[-2:]), gt.reshape(-1, *gt.shape[-2:]), strict=True):
        metrics.update(view_pred, view_gt)
    return metrics.compute()


def _random_views(seed: int, views: int = 3, unlabelled: bool = True) -> tuple[Tensor, Tensor]:
    """Blocky maps of ids 0..7 and a prediction that moves borders, swaps, splits and invents some segments."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 8, (views, 4, 4), generator=generator)
    gt = coarse.repeat_interleave(10, 1).repeat_interleave(10, 2)
    pred = gt.roll(int(torch.randint(0, 4, (1,), generator=generator)), 2)
    for view in range(views):
        if torch.rand((), generator=generator) < 0.4:
            one, other = torch.randint(1, 8, (2,), generator=generator).tolist()
            pred[view] = torch.where(pred[view] == one, other, torch.where(pred[view] == other, one, pred[view]))
    noisy = torch.rand(gt.shape, generator=generator) < 0.1
    pred = torch.where(noisy, torch.randint(0, 10, gt.shape, generator=generator), pred)
    pred[:, :7, 30:] = 9
    if unlabelled:
        y, x = torch.randint(0, 20, (2,), generator=generator).tolist()
        gt[:, y : y + 15, x : x + 15] = -1
        pred[:, 35:, :12] = -1
    return pred, gt


def _coloured(ids: Tensor, categories: dict[int, int] | None) -> Tensor:
    """(category, instance) pairs as torchmetrics wants them."""
    kind = torch.full_like(ids, 0 if categories is None else ORACLE_UNLISTED)
    for instance, category in (categories or {}).items():
        kind[ids == instance] = category
    kind[ids == 0] = ORACLE_BACKGROUND
    kind[ids < 0] = ORACLE_VOID
    return torch.stack([kind, ids], dim=-1)


def _oracle(pred: Tensor, gt: Tensor, things: set[int], stuffs: set[int]) -> tuple[float, float, float]:
    """torchmetrics on (views, pixels, 2), averaged over the things that occur."""
    metric = PanopticQuality(things, stuffs, allow_unknown_preds_category=True, return_per_class=True)
    metric.return_sq_and_rq = True
    metric.update(pred, gt)
    found = (metric.true_positives + metric.false_positives + metric.false_negatives)[: len(things)] > 0
    pq, sq, rq = metric.compute()[: len(things)][found].mean(dim=0).tolist()
    return pq, sq, rq


def _plain_oracle(pred: Tensor, gt: Tensor, categories: dict[int, int] | None) -> tuple[float, float, float]:
    things = {0} if categories is None else {*categories.values(), ORACLE_UNLISTED}
    pred = _coloured(pred.clamp(min=0), categories).flatten(1, -2)
    return _oracle(pred, _coloured(gt, categories).flatten(1, -2), things, {ORACLE_BACKGROUND})


def _lifting_oracle(pred: Tensor, gt: Tensor, categories: dict[int, int] | None) -> tuple[float, float, float]:
    things = {0} if categories is None else {*categories.values(), ORACLE_UNLISTED}
    stuffs = {ORACLE_BACKGROUND}
    coloured_pred, coloured_gt = _coloured(pred, categories)[gt > 0], _coloured(gt, categories)[gt > 0]
    for side in (coloured_pred, coloured_gt):
        kinds, counts = side[:, 0].unique(return_counts=True)
        rare = set(kinds[counts / counts.sum() < 0.005].tolist())
        things, stuffs = things - rare, stuffs - rare
    return _oracle(coloured_pred[None], coloured_gt[None], things, stuffs)


def _qualities(scores: dict[str, float], suffix: str = "") -> tuple[float, ...]:
    return tuple(scores[name + suffix] for name in ("pq", "sq", "rq"))


@pytest.mark.parametrize("categories", [None, CATEGORIES], ids=["one category", "categories"])
@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_torchmetrics(seed, categories):
    pred, gt = _random_views(seed)
    scores = _score(pred, gt, categories)
    assert _qualities(scores) == pytest.approx(_plain_oracle(pred, gt, categories), abs=1e-6)
    # The whole scene is one image to PQ^scene.
    scene = (pred.reshape(1, 1, -1), gt.reshape(1, 1, -1))
    assert _qualities(scores, "_scene") == pytest.approx(_plain_oracle(*scene, categories), abs=1e-6)
    assert _qualities(scores, "_scene_pl") == pytest.approx(_lifting_oracle(pred, gt, categories), abs=1e-6)
    for view_pred, view_gt in zip(pred, gt, strict=True):
        found = view_metrics(view_pred, view_gt, categories)
        expected = _plain_oracle(view_pred[None], view_gt[None], categories)
        assert _qualities(found) == pytest.approx(expected, abs=1e-6)


def test_the_random_views_tell_protocols_apart():
    # Guards the comparison above against views on which everything is 0, 1, or the same.
    found = [_score(*_random_views(seed), CATEGORIES) for seed in range(8)]
    for key in KEYS:
        values = [scores[key] for scores in found]
        assert max(values) - min(values) > 0.05, key
        assert 0.05 < sum(values) / len(values) < 0.95, key
    assert all(len({round(scores[key], 6) for key in ("pq", "pq_scene", "pq_scene_pl")}) == 3 for scores in found)


@pytest.mark.parametrize("seed", range(4))
def test_miou_agrees_with_torchmetrics(seed):
    pred, gt = _random_views(seed)
    gt[gt == 3] = -1
    oracle = MulticlassJaccardIndex(num_classes=10, average="none", ignore_index=-1)
    per_class = oracle(pred.clamp(min=0).flatten(), gt.flatten())
    present = [i for i in range(1, 10) if (gt == i).any()]
    assert 3 not in present
    assert _score(pred, gt)["instance_miou"] == pytest.approx(float(per_class[present].mean()), abs=1e-6)


def test_by_hand():
    gt = torch.tensor([[1, 1, 1, 1], [2, 2, 2, 2], [0, 0, 0, 0]])
    pred = torch.tensor([[1, 1, 1, 0], [7, 7, 2, 2], [0, 0, 8, 8]])
    scores = _score(pred, gt)
    # Instance 1 matches with 3/4. Instance 2 is halved: 7 and 2 cover 2/4 each, which is not more than half.
    # FP: 7, 2, and 8 on the background; FN: instance 2.
    assert scores["sq"] == pytest.approx(0.75)
    assert scores["rq"] == pytest.approx(1 / (1 + 0.5 * 3 + 0.5 * 1))
    assert scores["pq"] == pytest.approx(0.25)
    # By identity: 1 -> 3/4, 2 -> 2/4.
    assert scores["instance_miou"] == pytest.approx(0.625)
    # Panoptic Lifting sees the first two rows only: no segment 8.
    assert scores["pq_scene_pl"] == pytest.approx(0.75 / 2.5)


def test_perfect_and_relabelled():
    gt = torch.tensor([[0, 1, 1], [2, 2, -1]])
    assert _score(gt, gt) == dict.fromkeys(KEYS, 1.0)
    # Panoptic quality matches by overlap, so a permutation costs nothing; mIoU compares ids.
    swapped = torch.tensor([[0, 2, 2], [1, 1, 0]])
    scores = _score(swapped, gt)
    assert _qualities(scores) == (1, 1, 1)
    assert scores["pq_scene"] == 1
    assert scores["instance_miou"] == 0


def test_identities_swapped_between_views():
    gt = torch.tensor([[1, 1, 1, 2, 2, 2], [0] * 6]).repeat(2, 1, 1)
    pred = gt.clone()
    pred[1, 0] = torch.tensor([2, 2, 2, 1, 1, 1])
    scores = _score(pred, gt)
    assert scores["pq"] == 1
    assert scores["pq_scene"] == 0
    assert scores["pq_scene_pl"] == 0
    assert scores["instance_miou"] == pytest.approx(1 / 3)


def test_views_are_pooled_not_averaged():
    # One view with three perfect instances, one with a single missed instance.
    gt = torch.tensor([[[1, 2, 3]], [[4, 4, 4]]])
    pred = torch.tensor([[[1, 2, 3]], [[0, 0, 0]]])
    assert _score(pred, gt)["pq"] == pytest.approx(3 / 3.5)


def test_threshold_is_more_than_half():
    # IoU of exactly 1/2 is no match; one pixel more is.
    gt = torch.ones(1, 100, dtype=torch.int32)
    pred = torch.zeros(1, 100, dtype=torch.int32)
    pred[0, :50] = 1
    assert _score(pred, gt)["pq"] == 0
    pred[0, 50] = 1
    assert _score(pred, gt)["pq"] == pytest.approx(0.51)


def test_unlabelled_truth_is_in_no_union():
    gt = torch.tensor([[1, 1, -1, -1]])
    scores = _score(torch.tensor([[1, 1, 1, 1]]), gt)
    assert scores == dict.fromkeys(KEYS, 1.0)


@pytest.mark.parametrize(("on_background", "expected"), [(1, 1), (2, 1 / 1.5), (3, 1 / 1.5)])
def test_prediction_mostly_on_unlabelled_is_dropped(on_background, expected):
    # Segment 5 has 4 pixels, on background and on unlabelled truth: dropped when more than half are unlabelled.
    gt = torch.tensor([[1, 1, 1, 1] + [0] * on_background + [-1] * (4 - on_background)])
    pred = torch.tensor([[1, 1, 1, 1, 5, 5, 5, 5]])
    assert _score(pred, gt)["pq"] == pytest.approx(expected)


def test_unlabelled_prediction_is_background_in_the_plain_protocol_and_void_in_panoptic_lifting():
    gt = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2]])
    pred = torch.tensor([[1, 1, 1, -1, -1, -1, -1, -1]])
    scores = _score(pred, gt)
    assert scores["pq_scene"] == pytest.approx(0.75 / 1.5)
    # Void leaves the union of 1, and 2 is all void: neither is held against the prediction.
    assert scores["pq_scene_pl"] == 1
    assert scores["instance_miou"] == pytest.approx(0.75 / 2)


@pytest.mark.parametrize(("void", "expected"), [(2, 1 / 1.5), (3, 1)])
def test_panoptic_lifting_drops_misses_that_are_mostly_void(void, expected):
    gt = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2]])
    pred = torch.tensor([[-1] * void + [0] * (4 - void) + [2, 2, 2, 2]])
    assert _score(pred, gt)["pq_scene_pl"] == pytest.approx(expected)


def test_panoptic_lifting_drops_small_categories():
    categories = {1: 0, 2: 1}
    gt = torch.ones(1, 1000, dtype=torch.int32)
    gt[0, :4] = 2
    pred = torch.ones(1, 1000, dtype=torch.int32)
    scores = _score(pred, gt, categories)
    # Category 1 has 0.4 % of the pixels; where it counts it is missed.
    assert scores["pq_scene"] == pytest.approx(0.996 / 2)
    assert scores["pq_scene_pl"] == 1
    gt[0, :5] = 2
    assert _score(pred, gt, categories)["pq_scene_pl"] == pytest.approx(0.995 / 2)


def test_panoptic_lifting_ignores_pixels_of_the_background():
    gt = torch.tensor([[1, 1, 0, 0, 0, 0]])
    pred = torch.tensor([[1, 1, 1, 1, 2, 2]])
    scores = _score(pred, gt)
    assert scores["pq_scene"] == 0
    assert scores["pq_scene_pl"] == 1


def test_categories_must_agree_and_are_averaged():
    gt = torch.tensor([[1, 1, 3, 3]])
    assert _score(torch.tensor([[3, 3, 1, 1]]), gt)["pq"] == 1
    assert _score(torch.tensor([[3, 3, 1, 1]]), gt, {1: 0, 3: 1})["pq"] == 0
    # Instances 1 and 2 found, 3 (alone in its category) missed: categories weigh the same.
    gt = torch.tensor([[1, 1, 2, 2, 3, 3]])
    pred = torch.tensor([[1, 1, 2, 2, 0, 0]])
    assert _score(pred, gt, {1: 0, 2: 0, 3: 1})["pq"] == pytest.approx(0.5)
    assert _score(pred, gt)["pq"] == pytest.approx(2 / 2.5)


def test_unlisted_ids_form_one_category():
    gt = torch.tensor([[1, 1, 8, 8]])
    # 8 is in no category; the prediction calls it 9, in none either: they match. Category 0 is not theirs.
    assert _score(torch.tensor([[1, 1, 9, 9]]), gt, {1: 0})["pq"] == 1
    assert _score(torch.tensor([[9, 9, 1, 1]]), gt, {1: 0})["pq"] == 0
    with pytest.raises(ValueError, match="negative"):
        InstanceMetrics({1: UNLISTED})


@pytest.mark.parametrize("scale", [40, 300, 40000, 9000])
def test_large_ids(scale):
    # Past 8 bits, past signed 16 bits, and past the dense table.
    pred, gt = (torch.where(ids > 0, ids * scale // 7, ids) for ids in _random_views(1))
    categories = {i * scale // 7: category for i, category in CATEGORIES.items()}
    assert int(gt.max()) == scale
    assert _score(pred, gt, categories) == pytest.approx(_score(*_random_views(1), CATEGORIES))


def test_large_ids_take_little_memory():
    pred, gt = torch.randint(0, 65535, (2, 100, 100), generator=torch.Generator().manual_seed(0))
    tracemalloc.start()
    _score(pred, gt)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_type_of_the_ids_does_not_matter(dtype):
    pred, gt = _random_views(2, unlabelled=False)
    assert _score(pred.to(dtype), gt.to(dtype)) == _score(pred, gt)
    assert _score(pred, gt.to(dtype)) == _score(pred, gt)


@pytest.mark.parametrize("truth", [-1, 0])
def test_nothing_to_find(truth):
    gt = torch.full((2, 3), truth)
    pred = torch.tensor([[0, 1, 1], [0, 1, -1]])
    for found, keys in ((view_metrics(pred, gt), KEYS[:4]), (_score(pred, gt), KEYS)):
        assert list(found) == keys
        assert all(math.isnan(value) for value in found.values())


def test_before_the_first_view_and_of_an_empty_view():
    metrics = InstanceMetrics()
    assert list(metrics.compute()) == KEYS
    assert all(math.isnan(value) for value in metrics.compute().values())
    metrics.update(torch.zeros(0, 4, dtype=torch.int32), torch.zeros(0, 4, dtype=torch.int32))
    assert all(math.isnan(value) for value in metrics.compute().values())


def test_view_without_instances_still_counts_in_the_scene():
    gt = torch.tensor([[[1, 1]], [[0, 0]]])
    pred = torch.tensor([[[1, 1]], [[2, 2]]])
    assert _score(pred, gt)["pq"] == pytest.approx(1 / 1.5)
    assert math.isnan(view_metrics(pred[1], gt[1])["pq"])


def test_nothing_predicted():
    scores = _score(torch.zeros(2, 2, dtype=torch.int32), torch.tensor([[1, 1], [0, 2]]))
    assert scores == dict.fromkeys(KEYS, 0.0)


def test_view_metrics_are_those_of_a_scene_of_one_view():
    pred, gt = _random_views(3, views=1)
    scores = _score(pred, gt, CATEGORIES)
    assert view_metrics(pred[0], gt[0], CATEGORIES) == {key: scores[key] for key in KEYS[:4]}
    assert scores["pq"] == pytest.approx(scores["pq_scene"])


def test_compute_leaves_the_state_alone_and_reset_clears_it():
    pred, gt = _random_views(4)
    metrics = InstanceMetrics(CATEGORIES)
    for _ in range(2):
        metrics.update(pred[0], gt[0])
        first = metrics.compute()
        assert metrics.compute() == first
        metrics.update(pred[1], gt[1])
        assert metrics.compute() == _score(pred[:2], gt[:2], CATEGORIES)
        metrics.reset()


def test_input_is_not_changed():
    pred, gt = _random_views(5)
    copies = pred.clone(), gt.clone()
    _score(pred, gt)
    assert torch.equal(pred, copies[0])
    assert torch.equal(gt, copies[1])


def test_refuses_what_is_no_pair_of_id_maps():
    ids = torch.zeros(2, 3, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(2, 3\)"):
        InstanceMetrics().update(ids.T, ids)
    with pytest.raises(ValueError, match="integers"):
        view_metrics(ids.float(), ids)


def test_time_of_a_scene():
    generator = torch.Generator().manual_seed(0)
    gt = torch.randint(0, 30, (12, 12, 16), generator=generator).repeat_interleave(20, 1).repeat_interleave(20, 2)
    pred = torch.where(torch.rand(gt.shape, generator=generator) < 0.1, 0, gt).int()
    fastest = math.inf
    for _ in range(3):
        start = time.perf_counter()
        _score(pred, gt)
        fastest = min(fastest, time.perf_counter() - start)
    assert fastest < 0.3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_cpu():
    pred, gt = _random_views(6)
    assert _score(pred.cuda(), gt.cuda(), CATEGORIES) == _score(pred, gt, CATEGORIES)
    assert _score(pred.cuda(), gt, CATEGORIES) == _score(pred, gt, CATEGORIES)

"""The benchmark's training of Mask R-CNN: against torchvision's own losses, and that it learns."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import box_iou, nms

from instance_nerfstudio.segments.mask_rcnn import MaskRCNNConfig, build_mask_rcnn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
HEIGHT, WIDTH = 64, 96


@pytest.fixture(scope="module")
def parts() -> Iterator[SimpleNamespace]:
    """Modules of the benchmark. Its folder isn't importable: a script there has the name of a package."""
    modules: dict[str, Any] = {}
    for name in ("room_views", "master_weights", "mask_rcnn_losses"):
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
    yield SimpleNamespace(**modules)
    for name in modules:
        del sys.modules[name]


def _samples() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Bright shapes on noise. The second view has fewer, the third none; 3 is no object, 5 too small."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 60, (3, HEIGHT, WIDTH, 3)).astype(np.uint8)
    ids = np.zeros((3, HEIGHT, WIDTH), np.int32)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for view, number, y, x, radius in ((0, 1, 20, 20, 14), (0, 4, 40, 66, 20), (0, 2, 12, 80, 10), (1, 2, 34, 30, 24)):
        inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2 if number != 2 else abs(rows - y) < radius / 2
        inside = inside & (abs(columns - x) < radius)
        ids[view][inside] = number
        pictures[view][inside] += np.array([60 * (number == 1), 150 * (number == 2), 180 * (number == 4)], np.uint8)
    ids[1, 50:60, 70:90], ids[1, 0, :3] = 3, 5
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    return [(torch.from_numpy(p), torch.from_numpy(i), labels) for p, i in zip(pictures, ids, strict=True)]


def _build(**options: Any) -> Any:
    torch.manual_seed(0)
    config = MaskRCNNConfig(("chair", "table"), "resnet18", min_size=HEIGHT, max_size=WIDTH, **options)
    return build_mask_rcnn(config)


def test_what_is_to_be_found(parts: SimpleNamespace) -> None:
    samples = _samples()
    _, truth = parts.room_views.collate(samples)
    assert truth.labels.tolist() == [[1, 2, 1], [2, 0, 0], [0, 0, 0]]
    assert truth.boxes[1, 0].tolist() == [7, 23, 54, 46]
    for new, old in enumerate((1, 2, 4), 1):
        assert torch.equal(truth.ids[0] == new, samples[0][1] == old)
    assert set(truth.ids[1].unique().tolist()) == {0, 1}


def test_losses_are_those_of_torchvision(parts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything sampled, nothing is left to chance. Small heads, for there are many regions then."""
    model = _build()
    heads = model.roi_heads
    heads.box_head, heads.box_predictor = TwoMLPHead(256 * 49, 32), FastRCNNPredictor(32, 3)
    heads.mask_head, heads.mask_predictor = torch.nn.Conv2d(256, 8, 1), MaskRCNNPredictor(8, 8, 3)
    model.rpn.fg_bg_sampler.batch_size_per_image = heads.fg_bg_sampler.batch_size_per_image = 2400
    monkeypatch.setattr(parts.mask_rcnn_losses, "SUPPRESSION_ROUNDS", 50)
    pictures, truth = parts.room_views.collate(_samples())
    targets = []
    for ids, boxes, labels in zip(*truth, strict=True):
        real = labels > 0
        masks = ids == torch.arange(1, int(real.sum()) + 1)[:, None, None]
        targets.append({"boxes": boxes[real], "labels": labels[real], "masks": masks.to(torch.uint8)})
    with torch.no_grad():
        theirs = model([picture.permute(2, 0, 1).float() / 255 for picture in pictures], targets)
        ours = parts.mask_rcnn_losses.MaskRCNNLosses(model, 1152, rois=2400)(pictures, truth)
    assert ours.keys() == theirs.keys()
    for name, loss in theirs.items():
        # True masks lie elsewhere by half a pixel, and so do a few proposals that rounding decides about.
        assert float(ours[name]) == pytest.approx(float(loss), rel=0.05 if name == "loss_mask" else 1e-3), name


def test_regions_are_pooled_as_when_the_network_is_used(parts: SimpleNamespace) -> None:
    losses = parts.mask_rcnn_losses
    model = _build()
    rng = torch.Generator().manual_seed(0)
    for size in ((128, 160), (64, 320), (320, 64)):
        features = [torch.rand(2, 3, size[0] >> n, size[1] >> n, generator=rng) for n in range(2, 6)]
        corner = torch.rand(2, 200, 2, generator=rng)
        boxes = torch.cat([corner, corner + (1 - corner) * torch.rand(2, 200, 2, generator=rng)], -1)
        boxes *= torch.tensor([size[1], size[0]] * 2)
        boxes[..., :2] = boxes[..., :2].minimum(boxes[..., 2:] - 4).clamp(min=0)  # not below the stride
        boxes[..., 2:] = boxes[..., 2:].maximum(boxes[..., :2] + 4)
        boxes[0, 0] = torch.tensor([0, 0, size[1], size[0]])
        boxes[1, 0] = torch.tensor([size[1] - 9, size[0] - 9, size[1], size[0]])
        pool = _build().roi_heads.box_roi_pool
        theirs = pool({str(n): feature for n, feature in enumerate(features)}, list(boxes), [size, size])
        where = losses.place_in_atlas(boxes, pool, losses.atlas_corners(features)).flatten(0, 1)
        ours = losses.roi_align(losses.make_atlas(features), where, (7, 7), 1.0, 2)
        assert where[:, 1].max() > size[1] / 4  # coarser levels too
        assert where[:, 1].min() < size[1] / 4
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert model.roi_heads.mask_roi_pool.canonical_scale == pool.canonical_scale


def test_boxes(parts: SimpleNamespace) -> None:
    losses = parts.mask_rcnn_losses
    rng = torch.Generator().manual_seed(0)
    corner = 80 * torch.rand(2, 60, 2, generator=rng)
    boxes = torch.cat([corner, corner + 1 + 60 * torch.rand(2, 60, 2, generator=rng)], -1)
    boxes[1, :5] = boxes[0, :5] + 1
    one, two = boxes
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    offsets = losses.encode(one, two, coder.weights)
    torch.testing.assert_close(offsets, coder.encode_single(one, two))
    torch.testing.assert_close(losses.decode(3 * offsets, two, coder), coder.decode_single(3 * offsets, two))
    kept = losses.suppress(boxes, 0.4)
    for group, keep in zip(boxes, kept, strict=True):
        assert keep.nonzero()[:, 0].tolist() == sorted(nms(group, -torch.arange(60.0), 0.4).tolist())
    assert 5 < int(kept[0].sum()) < 55
    truth = parts.room_views.Truth(torch.zeros(1, 1, 1), one[None, :9], torch.tensor([[1, 2, 1, 2, 1, 2, 0, 0, 0]]))
    for low_quality in (False, True):
        kind, place = losses.match(truth, two, 0.3, 0.6, low_quality)
        expected = Matcher(0.6, 0.3, low_quality)(box_iou(one[:6], two))
        assert torch.equal(kind[0] == 1, expected >= 0)
        assert torch.equal(kind[0] == 0, expected == Matcher.BELOW_LOW_THRESHOLD)
        assert torch.equal(place[0][expected >= 0], expected[expected >= 0])
        assert set(kind[0].tolist()) == {-1, 0, 1}


def test_sampling(parts: SimpleNamespace) -> None:
    kind = torch.tensor([[1] * 30 + [0] * 100 + [-1] * 20, [1] * 3 + [-1] * 127 + [0] * 20, [-1] * 150])
    chosen, weights = parts.mask_rcnn_losses.sample(kind, 40, 10)
    found = kind.gather(1, chosen)
    assert weights.sum(1).tolist() == [40, 23, 0]
    for row, positive, negative in ((0, 10, 30), (1, 3, 20)):
        used = chosen[row][weights[row] > 0]
        assert len(used.unique()) == len(used)
        assert found[row][weights[row] > 0].tolist() == [1] * positive + [0] * negative
    assert not torch.equal(chosen, parts.mask_rcnn_losses.sample(kind, 40, 10)[0])


def test_it_learns_two_views(parts: SimpleNamespace) -> None:
    model = _build(smallest_anchor=8).train()
    learner = parts.mask_rcnn_losses.MaskRCNNLosses(model, 64, rois=16)
    master = parts.master_weights.MasterWeights(model, torch.float32)
    optimizer = torch.optim.AdamW(master.values, lr=5e-4)
    samples = _samples()[:2]
    pictures, truth = parts.room_views.collate(samples)
    curve = []
    for step in range(50):
        optimizer.param_groups[0]["lr"] = 5e-4 if step < 35 else 1e-4  # so that the last steps leave no mark
        loss = torch.stack(list(learner(pictures, truth).values())).sum()
        loss.backward()
        master.take_gradients()
        optimizer.step()
        master.give_back()
        curve.append(float(loss))
    assert curve[-1] < 0.5 * curve[0]
    used = _build(smallest_anchor=8)
    used.load_state_dict(master.state_dict())
    used.eval()
    with torch.inference_mode():
        found = used([picture.permute(2, 0, 1).float() / 255 for picture in pictures])
    for view, result in enumerate(found):
        masks = result["masks"][:, 0] > 0.5
        for number in range(1, int((truth.labels[view] > 0).sum()) + 1):
            true = truth.ids[view] == number
            ious = (masks & true).flatten(1).sum(1) / (masks | true).flatten(1).sum(1)
            assert (ious * (result["scores"] > 0.2)).max() > 0.5

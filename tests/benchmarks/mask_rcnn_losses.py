"""The losses of torchvision's Mask R-CNN, for all pictures of a batch together and without waiting for the GPU.

torchvision's own training works picture by picture and asks the GPU for sizes all the time. Here what is variable is
padded and has weights, so that nothing on the host depends on values. Matching, sampling and losses are torchvision's
with three exceptions: proposals are not cut to the best of all levels together, non-maximum suppression stops after a
few rounds, and true masks are read from the map of instances at the pixel that contains a point (torchvision's lie half
a pixel beside).
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, Integer, UInt8
from room_views import Truth
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import box_iou, clip_boxes_to_image, roi_align

SUPPRESSION_ROUNDS = 6
"""Of non-maximum suppression; a box is treated as a greedy one would if no longer chain of boxes decides about it."""
FINEST_LEVEL = 2
"""Of the pyramid: stride 4."""
MASK_SAMPLES = 2
"""Points along each side of a pixel of a true mask in a region."""


class MaskRCNNLosses(nn.Module):
    """Losses of a Mask R-CNN by name, as its own forward gives them.

    Args:
        model: a network of `build_mask_rcnn`, in training mode; its resizing is not used.
        proposals: most of each level that are looked at.
        rois: regions of each picture that the heads learn from, a quarter of them with objects.
    """

    _mean: Tensor
    _deviation: Tensor

    def __init__(self, model: MaskRCNN, proposals: int = 512, rois: int = 128) -> None:
        super().__init__()
        self.model = model
        self._proposals, self._rois = proposals, rois
        mean, deviation = (torch.tensor(v) * 255 for v in (model.transform.image_mean, model.transform.image_std))
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_deviation", deviation, persistent=False)
        self._constants: dict[tuple[Any, ...], Constants] = {}

    def forward(self, pictures: UInt8[Tensor, "pictures height width 3"], truth: Truth) -> dict[str, Tensor]:
        """In the type of the weights; boxes and losses are float32."""
        model: Any = self.model
        first = next(model.backbone.parameters())
        normal = ((pictures - self._mean) / self._deviation).to(first.dtype).permute(0, 3, 1, 2).contiguous()
        features = list(model.backbone(normal).values())
        objectness, deltas = model.rpn.head(features)
        constants = self._make_constants(normal, features)
        flat_objectness, flat_deltas = concat_box_prediction_layers(objectness, deltas)
        flat_objectness = flat_objectness.float().view(len(pictures), -1)
        flat_deltas = flat_deltas.float().view(len(pictures), -1, 4)
        losses = rpn_losses(model.rpn, constants.anchors, flat_objectness, flat_deltas, truth)
        with torch.no_grad():
            size = (normal.shape[2], normal.shape[3])
            boxes, valid = propose(model.rpn, constants, flat_objectness, flat_deltas, size, self._proposals)
            regions = sample_regions(model.roi_heads, boxes, valid, truth, self._rois)
        return losses | self._head_losses(make_atlas(features[:4]), constants.corners, regions, truth)

    def _make_constants(self, pictures: Tensor, features: list[Tensor]) -> "Constants":
        key = (pictures.shape[-2:], pictures.device)
        if key not in self._constants:
            generator: Any = self.model.rpn.anchor_generator
            with torch.no_grad():
                image = ImageList(pictures[:1].float(), [(pictures.shape[2], pictures.shape[3])])
                (anchors,) = generator(image, [feature[:1].float() for feature in features])
            per_place = generator.num_anchors_per_location()
            counts = [math.prod(f.shape[-2:]) * n for f, n in zip(features, per_place, strict=True)]
            self._constants[key] = Constants(anchors, counts, atlas_corners(features[:4]).to(pictures.device))
        return self._constants[key]

    def _head_losses(self, atlas: Tensor, corners: Tensor, regions: "Regions", truth: Truth) -> dict[str, Tensor]:
        heads: Any = self.model.roi_heads
        where = place_in_atlas(regions.boxes, heads.box_roi_pool, corners)
        dtype = heads.box_predictor.cls_score.weight.dtype

        def pool(count: int, side: int) -> Tensor:  # of the first of each picture
            rois = where[:, :count].flatten(0, 1)
            return roi_align(atlas, rois, (side, side), 1.0, heads.box_roi_pool.sampling_ratio).to(dtype)

        logits, offset = heads.box_predictor(heads.box_head(pool(self._rois, heads.box_roi_pool.output_size[0])))
        labels, weights, positive = (part.flatten() for part in (regions.labels, regions.weights, regions.labels > 0))
        total = weights.sum().clamp(min=1)
        loss_classifier = (F.cross_entropy(logits.float(), labels, reduction="none") * weights).sum() / total
        chosen = labels[:, None, None].expand(-1, 1, 4)
        offset = offset.float().unflatten(1, (-1, 4)).gather(1, chosen)[:, 0]
        goal = encode(regions.true_boxes, regions.boxes, heads.box_coder.weights).flatten(0, 1)
        loss_box_reg = _masked_smooth_l1(offset, goal, positive) / total

        count = self._rois // 4
        labels, positive = (part[:, :count].flatten() for part in (regions.labels, regions.labels > 0))
        mask_features = heads.mask_head(pool(count, heads.mask_roi_pool.output_size[0]))
        predictor = heads.mask_predictor
        upscaled = predictor.relu(predictor.conv5_mask(mask_features)).flatten(2)
        last = predictor.mask_fcn_logits  # of it only the channel of the true class
        weight = last.weight.flatten(1).index_select(0, labels)[:, None]
        bias = last.bias.index_select(0, labels)[:, None]
        mask_logits = torch.bmm(weight, upscaled)[:, 0].float() + bias.float()
        side = math.isqrt(mask_logits.shape[1])
        goal = true_masks(truth.ids, regions.boxes[:, :count], regions.matched[:, :count], side).flatten(1)
        loss = F.binary_cross_entropy_with_logits(mask_logits, goal, reduction="none").mean(1)
        loss_mask = (loss * positive).sum() / positive.sum().clamp(min=1)
        return {"loss_classifier": loss_classifier, "loss_box_reg": loss_box_reg, "loss_mask": loss_mask}


class Constants(NamedTuple):
    """What depends on the size of pictures alone."""

    anchors: Float[Tensor, "anchors 4"]
    """Of one picture."""
    counts: list[int]
    """How many of them each level has."""
    corners: Float[Tensor, "levels 3"]
    """Of `atlas_corners`."""


class Regions(NamedTuple):
    """Regions that the heads learn from, those with an object first."""

    boxes: Float[Tensor, "pictures rois 4"]
    labels: Int64[Tensor, "pictures rois"]
    matched: Int64[Tensor, "pictures rois"]
    """Place of the object in the truth."""
    true_boxes: Float[Tensor, "pictures rois 4"]
    weights: Float[Tensor, "pictures rois"]
    """0 for places that are left empty."""


def match(
    truth: Truth, boxes: Float[Tensor, "*pictures boxes 4"], low: float, high: float, low_quality: bool
) -> tuple[Int64[Tensor, "pictures boxes"], Int64[Tensor, "pictures boxes"]]:
    """1 for objects, 0 for background, -1 for neither; and the place of the best object. As torchvision's `Matcher`.

    Args:
        truth: objects.
        boxes: of each picture, or the same for all.
        low: IoU below which a box is background.
        high: IoU from which on it is an object.
        low_quality: the best boxes for an object are its own whatever their IoU.
    """
    real = truth.labels[:, :, None] > 0
    iou = box_iou(truth.boxes, boxes).masked_fill(~real, -1.0)
    best, place = iou.max(1)
    kind = (best >= low).long().neg() + 2 * (best >= high).long()
    if low_quality:
        own = ((iou == iou.amax(2, keepdim=True)) & real).any(1)
        kind = torch.where(own, 1, kind)
    return kind, place


def sample(
    kind: Int64[Tensor, "pictures boxes"], count: int, most_positive: int
) -> tuple[Int64[Tensor, "pictures count"], Float[Tensor, "pictures count"]]:
    """Random boxes of each picture, objects first: places, and weights that are 0 where there are too few boxes."""
    noise = torch.rand(kind.shape, device=kind.device)
    positive, place = torch.where(kind == 1, noise, -1.0).topk(min(most_positive, kind.shape[1]))
    negative, elsewhere = torch.where(kind == 0, noise, -1.0).topk(min(count, kind.shape[1]))
    keys = torch.cat([torch.where(positive >= 0, positive + 1, -1.0), negative], 1)
    key, chosen = keys.topk(min(count, keys.shape[1]))
    return torch.cat([place, elsewhere], 1).gather(1, chosen), (key >= 0).float()


def rpn_losses(rpn: Any, anchors: Tensor, objectness: Tensor, deltas: Tensor, truth: Truth) -> dict[str, Tensor]:
    """Of anchors (A, 4) with logits (N, A) and offsets (N, A, 4)."""
    with torch.no_grad():
        matcher, sampler = rpn.proposal_matcher, rpn.fg_bg_sampler
        kind, place = match(truth, anchors, matcher.low_threshold, matcher.high_threshold, True)
        count = sampler.batch_size_per_image
        chosen, weights = sample(kind, count, int(count * sampler.positive_fraction))
        positive = (kind.gather(1, chosen) == 1) & (weights > 0)
        true_boxes = _pick(truth.boxes, place.gather(1, chosen))
        goal = encode(true_boxes, anchors[chosen], rpn.box_coder.weights).flatten(0, 1)
        total = weights.sum().clamp(min=1)
    loss = F.binary_cross_entropy_with_logits(objectness.gather(1, chosen), positive.float(), reduction="none")
    box_loss = _masked_smooth_l1(_pick(deltas, chosen).flatten(0, 1), goal, positive.flatten()) / total
    return {"loss_objectness": (loss * weights).sum() / total, "loss_rpn_box_reg": box_loss}


def propose(
    rpn: Any, constants: Constants, objectness: Tensor, deltas: Tensor, size: tuple[int, int], most: int
) -> tuple[Float[Tensor, "pictures proposals 4"], Bool[Tensor, "pictures proposals"]]:
    """The best boxes of each level, and which of them no better one of their level suppresses."""
    start, keys, places = 0, [], []
    for part, count in zip(objectness.split(constants.counts, 1), constants.counts, strict=True):
        key, place = part.topk(min(most, count))
        missing = most - key.shape[1]
        keys.append(F.pad(key, (0, missing), value=-torch.inf))
        places.append(F.pad(place + start, (0, missing)))
        start += count
    place, real = torch.cat(places, 1), torch.cat(keys, 1) > -torch.inf
    boxes = clip_boxes_to_image(decode(_pick(deltas, place), constants.anchors[place], rpn.box_coder), size)
    valid = real & (boxes[..., 2:] - boxes[..., :2] >= rpn.min_size).all(-1)
    boxes = torch.where(valid[..., None], boxes, boxes.new_zeros(()))  # these suppress none
    kept = suppress(boxes.view(-1, most, 4), rpn.nms_thresh).view(valid.shape)
    return boxes, valid & kept


def suppress(boxes: Float[Tensor, "groups boxes 4"], threshold: float) -> Bool[Tensor, "groups boxes"]:
    """Which boxes of each group, the best first, remain after non-maximum suppression."""
    better = torch.ones(boxes.shape[1], boxes.shape[1], device=boxes.device).tril(-1)
    overlaps = (box_iou(boxes, boxes) > threshold) * better
    kept = torch.ones_like(boxes[..., :1])
    for _ in range(SUPPRESSION_ROUNDS):
        kept = (torch.bmm(overlaps, kept) == 0).to(kept.dtype)
    return kept[..., 0] > 0


def sample_regions(heads: Any, boxes: Tensor, valid: Tensor, truth: Truth, count: int) -> Regions:
    """Proposals (N, P, 4) and true boxes, as many with objects as there are up to a quarter."""
    boxes = torch.cat([boxes, truth.boxes], 1)
    valid = torch.cat([valid, truth.labels > 0], 1)
    matcher = heads.proposal_matcher
    kind, place = match(truth, boxes, matcher.low_threshold, matcher.high_threshold, False)
    chosen, weights = sample(torch.where(valid, kind, -1), count, count // 4)
    place = place.gather(1, chosen)
    found = (kind.gather(1, chosen) == 1) & (weights > 0)
    labels = torch.where(found, truth.labels.gather(1, place), 0)
    return Regions(_pick(boxes, chosen), labels, place, _pick(truth.boxes, place), weights)


def make_atlas(features: list[Float[Tensor, "pictures channels _ _"]]) -> Float[Tensor, "pictures channels _ _"]:
    """All levels in one map, float32, so that one call pools from all: the finest left, the others below each other.

    Each ends in a copy of its last row and column: at borders `roi_align` finds what it would find there by itself,
    except for boxes below the finest stride, which it widens.
    """
    finest, *coarser = features
    height = max(finest.shape[2] + 1, sum(f.shape[2] + 1 for f in coarser))
    width = max(f.shape[3] + 1 for f in coarser)
    column, y = [], 0
    for f in coarser:
        rows = height - y if f is coarser[-1] else f.shape[2] + 1
        column.append(F.pad(f, (0, width - f.shape[3], 0, rows - f.shape[2]), mode="replicate"))
        y += rows
    left = F.pad(finest, (0, 1, 0, height - finest.shape[2]), mode="replicate")
    return torch.cat([left, torch.cat(column, 2)], 3).float()


def atlas_corners(features: list[Float[Tensor, "pictures channels _ _"]]) -> Float[Tensor, "levels 3"]:
    """Scale of each level in the map of `make_atlas`, relative to pictures, and x and y of its corner."""
    rows = [(0.5**FINEST_LEVEL, 0, 0)]
    y = 0
    for number, feature in enumerate(features[1:], FINEST_LEVEL + 1):
        rows.append((0.5**number, features[0].shape[3] + 1, y))
        y += feature.shape[2] + 1
    return torch.tensor(rows)


def place_in_atlas(
    boxes: Float[Tensor, "pictures rois 4"], pool: Any, corners: Float[Tensor, "levels 3"]
) -> Float[Tensor, "pictures rois 5"]:
    """For `roi_align`: number of the picture, and the box in the map, on the level that the pooling module chooses."""
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    level = torch.floor(pool.canonical_level + torch.log2(areas.sqrt() / pool.canonical_scale) + 1e-6)
    chosen = corners[(level - FINEST_LEVEL).clamp(0, len(corners) - 1).long()]
    numbers = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)
    numbers = numbers[:, None, None].expand(-1, boxes.shape[1], 1)
    return torch.cat([numbers, boxes * chosen[..., :1] + chosen[..., 1:].repeat(1, 1, 2)], -1)


def encode(true_boxes: Float[Tensor, "*N 4"], boxes: Float[Tensor, "*N 4"], weights: Any) -> Float[Tensor, "*N 4"]:
    """torchvision's `BoxCoder.encode_single`, which copies its weights to the GPU and waits."""
    true_size, size = (b[..., 2:] - b[..., :2] for b in (true_boxes, boxes))
    way = (true_boxes[..., :2] - boxes[..., :2] + 0.5 * (true_size - size)) / size
    return torch.cat([way * weights[0], (true_size / size).log() * weights[2]], -1)


def decode(offsets: Float[Tensor, "*N 4"], boxes: Float[Tensor, "*N 4"], coder: Any) -> Float[Tensor, "*N 4"]:
    """torchvision's `BoxCoder.decode_single`, which waits likewise."""
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + size * (0.5 + offsets[..., :2] / coder.weights[0])
    half = 0.5 * size * (offsets[..., 2:] / coder.weights[2]).clamp(max=coder.bbox_xform_clip).exp()
    return torch.cat([centre - half, centre + half], -1)


def true_masks(
    ids: Integer[Tensor, "pictures height width"],
    boxes: Float[Tensor, "pictures rois 4"],
    matched: Int64[Tensor, "pictures rois"],
    side: int,
) -> Float[Tensor, "rois side side"]:
    """How much of each pixel of a region belongs to its object."""
    count, height, width = ids.shape
    points = (torch.arange(side * MASK_SAMPLES, device=ids.device) + 0.5) / (side * MASK_SAMPLES)
    x, y = (
        (boxes[..., n, None] + points * (boxes[..., n + 2] - boxes[..., n])[..., None]).long().clamp(0, limit - 1)
        for n, limit in ((0, width), (1, height))
    )
    picture = torch.arange(count, device=ids.device)[:, None, None, None]
    found = ids[picture, y[..., :, None], x[..., None, :]] == matched[..., None, None] + 1
    return F.avg_pool2d(found.flatten(0, 1).float()[:, None], MASK_SAMPLES)[:, 0]


def _pick(values: Float[Tensor, "pictures all 4"], places: Int64[Tensor, "pictures some"]) -> Tensor:
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))


def _masked_smooth_l1(values: Tensor, goal: Tensor, mask: Tensor) -> Tensor:
    """Sum over rows of the mask; elsewhere the goal may be anything, infinite too."""
    goal = torch.where(mask[:, None], goal, values.detach())
    return F.smooth_l1_loss(values, goal, beta=1 / 9, reduction="sum")

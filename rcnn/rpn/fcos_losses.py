"""Losses of the anchor-free head (Tian et al., "FCOS", ICCV 2019, in 3D)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from rcnn.backbones import Extent
from rcnn.boxes import decode_location_distances, encode_location_distances, iou_loss, smooth_l1_box_loss
from rcnn.boxes.iou_losses import IoULossKind
from rcnn.rpn.host_numbers import numbers_on_device
from rcnn.rpn.location_assignment import LocationAssignmentConfig, assign_locations, level_numbers, pad_boxes
from rcnn.rpn.process_average import average_over_processes
from rcnn.rpn.projection_loss import projection_loss


@dataclass(frozen=True)
class FCOSLossConfig:
    """Losses of NeRF-RPN's anchor-free head."""

    assignment: LocationAssignmentConfig = field(default_factory=LocationAssignmentConfig)
    """Which locations learn which box."""
    focal_alpha: float = 0.25
    """Weight of the locations that learn a box; the others have 1 - alpha."""
    focal_gamma: float = 2.0
    """How little counts what is already right."""
    box: Literal["smooth_l1"] | IoULossKind = "log_iou"
    """On the regressed numbers, or on the overlap of the boxes, in the units in which distances are regressed."""
    box_weight: float = 1.0
    midpoint_weight: float = 1.0
    """Of an additional smooth L1 loss on the midpoint offsets of OBBs. Overlap alone has no gradient for those beyond
    ±0.5, and boxes stay aligned with the grid. NeRF-RPN's default is 0."""
    projection_weight: float = 0.0
    """Of the 2D loss, in pixels."""


def focal_loss(
    logits: Float[Tensor, "*N"], labels: Float[Tensor, "*N"], alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, "*N"]:
    """Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017), element by element."""
    # Importing torchvision takes as long as importing torch.
    from torchvision.ops import sigmoid_focal_loss

    return sigmoid_focal_loss(logits, labels, alpha, gamma)


def centerness(distances: Float[Tensor, "*N 6"]) -> Float[Tensor, "*N"]:
    """Root of the product, over the axes, of the nearer face's distance over the farther face's.

    1 in the middle of a box, 0 on a face.
    """
    near, far = distances[..., :3], distances[..., 3:]
    farther = torch.maximum(near, far)
    ratios = torch.minimum(near, far).clamp(min=0) / torch.where(farther > 0, farther, 1)
    return ratios.prod(-1).sqrt()


def fcos_losses(
    config: FCOSLossConfig,
    objectness: Float[Tensor, "N K"],
    distances: Float[Tensor, "N K outputs"],
    centerness_logits: Float[Tensor, "N K"],
    locations: Sequence[Float[Tensor, "_ 3"]],
    inside: Bool[Tensor, "N K"],
    strides: Sequence[int],
    units: Sequence[float],
    boxes: Sequence[Float[Tensor, "_ columns"]],
    extents: Sequence[Extent],
) -> dict[str, Float[Tensor, ""]]:
    """Losses of a batch; all are finite, with gradients, where no location learns a box.

    Args:
        config: rules, kinds and weights.
        objectness: logits of all levels.
        distances: to the faces in units of their level, `[..., 6]`, and midpoint offsets of OBBs, `[..., 8]`.
        centerness_logits: of all levels.
        locations: of each level, in voxels.
        inside: locations of padding are False: they learn nothing, not even to be background.
        strides: voxels per cell of each level.
        units: voxels per unit of distance of each level.
        boxes: ground truth of each grid in voxels, AABBs or, if 8 numbers are regressed, OBBs; may have no rows.
        extents: voxels of each grid.

    Returns:
        Weighted terms whose sum is the objective: `objectness`, focal loss, and `centerness`, binary cross-entropy,
        both over the number of locations that learn a box; `box`, and `midpoints` and `projection` if they have a
        weight, averages over these locations weighted by the centerness that they learn.
    """
    padded = pad_boxes(boxes)
    assigned = assign_locations(config.assignment, locations, strides, padded, inside)
    learns = assigned >= 0
    grid, place = learns.nonzero(as_tuple=True)  # the one time that the host waits
    position = torch.cat(list(locations))[place]
    unit = level_numbers(locations, [[unit] for unit in units])[0, place, None].to(distances.dtype)
    truth = padded.to(distances.dtype)[grid, assigned[grid, place]]
    target = scale_distances(encode_location_distances(truth, position), 1 / unit)
    predicted = distances[grid, place]

    count = average_over_processes(objectness.new_full((), len(place))).clamp(min=1)
    labels = learns.to(objectness.dtype)
    focal = focal_loss(objectness, labels, config.focal_alpha, config.focal_gamma)
    weight = centerness(target[:, :6])
    of_centerness = F.binary_cross_entropy_with_logits(centerness_logits[grid, place], weight, reduction="sum")
    total_weight = average_over_processes(weight.sum()).clamp(min=1e-6)

    def weighted_mean(loss: Float[Tensor, "P"]) -> Float[Tensor, ""]:
        return (loss * weight).sum() / total_weight

    if config.box == "smooth_l1":
        of_boxes = smooth_l1_box_loss(predicted, target, beta=1.0)
    else:
        # Seen from the locations: that costs fewer digits than coordinates in the grid.
        origin = torch.zeros_like(position)
        of_boxes = iou_loss(
            decode_location_distances(predicted, origin), decode_location_distances(target, origin), config.box
        )
    losses = {
        "objectness": torch.where(inside, focal, 0).sum() / count,
        "box": config.box_weight * weighted_mean(of_boxes),
        "centerness": of_centerness / count,
    }
    if config.midpoint_weight > 0 and target.shape[1] == 8:
        of_midpoints = smooth_l1_box_loss(predicted[:, 6:], target[:, 6:], beta=1.0)
        losses["midpoints"] = config.midpoint_weight * weighted_mean(of_midpoints)
    if config.projection_weight > 0:
        sides = numbers_on_device([max(extent) for extent in extents], distances)[grid]
        in_voxels = decode_location_distances(scale_distances(predicted, unit), position)
        losses["projection"] = config.projection_weight * weighted_mean(projection_loss(in_voxels, truth, sides))
    return losses


def scale_distances(
    distances: Float[Tensor, "*N outputs"], factor: float | Float[Tensor, "*N 1"]
) -> Float[Tensor, "*N outputs"]:
    """Distances to the faces in other units; midpoint offsets have none."""
    scaled = distances[..., :6] * factor
    return scaled if distances.shape[-1] == 6 else torch.cat([scaled, distances[..., 6:]], -1)

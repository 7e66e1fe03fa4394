"""Box operators of the detector: IoU, suppression, coders, anchors and losses in 3D, on CPUs and GPUs.

AABB: `(x1, y1, z1, x2, y2, z2)`. OBB: `(cx, cy, cz, w, l, h, yaw)`, yaw about z in radians, counter-clockwise seen from
above. Functions tell the two apart by their 6 or 7 columns.
"""

from rcnn.boxes.anchors import AnchorConfig, make_anchors
from rcnn.boxes.box_frame import from_box_frame, to_box_frame
from rcnn.boxes.box_matching import BoxMatches, MatchingConfig, match_boxes, sample_matches
from rcnn.boxes.clipping import clip_and_filter, clip_boxes, thicken_boxes, usable_boxes
from rcnn.boxes.conversions import (
    aabb_to_obb,
    box_corners,
    box_sizes,
    box_volume,
    enclosing_aabb,
    is_rotated,
    normalize_obb,
    normalize_yaw,
    obb_to_aabb,
    widen_boxes,
)
from rcnn.boxes.delta_coders import decode_aabb_deltas, decode_obb_deltas, encode_aabb_deltas, encode_obb_deltas
from rcnn.boxes.delta_losses import projected_box_loss, smooth_l1_box_loss
from rcnn.boxes.iou import box_intersection, box_iou, paired_box_iou
from rcnn.boxes.iou_losses import IoULoss, diou_loss, giou_loss, iou_loss, linear_iou_loss, log_iou_loss
from rcnn.boxes.midpoint_offsets import (
    decode_location_distances,
    decode_midpoint_offsets,
    encode_location_distances,
    encode_midpoint_offsets,
)
from rcnn.boxes.nms import batched_nms, nms

__all__ = [
    "AnchorConfig",
    "BoxMatches",
    "IoULoss",
    "MatchingConfig",
    "aabb_to_obb",
    "batched_nms",
    "box_corners",
    "box_intersection",
    "box_iou",
    "box_sizes",
    "box_volume",
    "clip_and_filter",
    "clip_boxes",
    "decode_aabb_deltas",
    "decode_location_distances",
    "decode_midpoint_offsets",
    "decode_obb_deltas",
    "diou_loss",
    "enclosing_aabb",
    "encode_aabb_deltas",
    "encode_location_distances",
    "encode_midpoint_offsets",
    "encode_obb_deltas",
    "from_box_frame",
    "giou_loss",
    "iou_loss",
    "is_rotated",
    "linear_iou_loss",
    "log_iou_loss",
    "make_anchors",
    "match_boxes",
    "nms",
    "normalize_obb",
    "normalize_yaw",
    "obb_to_aabb",
    "paired_box_iou",
    "projected_box_loss",
    "sample_matches",
    "smooth_l1_box_loss",
    "thicken_boxes",
    "to_box_frame",
    "usable_boxes",
    "widen_boxes",
]

"""Boxes drawn over a view as outlines, with their names and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from rcnn.boxes import box_corners
from rcnn.visualization.colours import INK
from rcnn.visualization.projections import View

_FRACTION_BITS = 4
_PALE = (245, 245, 245)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Pen:
    """Widths in pixels of the picture that is drawn on."""

    line: int
    casing: int
    """Of the contrasting rim on either side, which keeps lines visible on every colour."""
    text: float
    """Height of digits."""


def draw_outlines(
    picture: UInt8[np.ndarray, "rows columns 3"],
    boxes: Float[np.ndarray, "K columns"],
    colours: Sequence[tuple[int, int, int]],
    view: View,
    pen: Pen,
    pixels_per_voxel: float,
) -> None:
    """Draws what AABBs or OBBs (in voxels) cover in a view of their grid, the first box on top."""
    points = _on_picture(boxes, view, picture.shape[0], pixels_per_voxel)
    for corners, colour in reversed(list(zip(points, colours, strict=True))):
        outline = cv2.convexHull(np.round(corners * 2**_FRACTION_BITS).astype(np.int32))
        rim = _PALE if _is_dark(colour) else INK
        cv2.polylines(picture, [outline], True, rim, pen.line + 2 * pen.casing, cv2.LINE_AA, _FRACTION_BITS)
        cv2.polylines(picture, [outline], True, colour, pen.line, cv2.LINE_AA, _FRACTION_BITS)


def draw_labels(
    picture: UInt8[np.ndarray, "rows columns 3"],
    boxes: Float[np.ndarray, "K columns"],
    texts: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    view: View,
    pen: Pen,
    pixels_per_voxel: float,
) -> None:
    """Labels at a corner of each box; one that finds no free place is left out, the first boxes choose first."""
    points = _on_picture(boxes, view, picture.shape[0], pixels_per_voxel)
    scale = pen.text / cv2.getTextSize("0", _FONT, 1.0, 1)[0][1]
    stroke = max(1, round(pen.text / 9))
    pad = max(2, round(0.3 * pen.text))
    taken: list[tuple[float, float, float, float]] = []
    for corners, text, colour in zip(points, texts, colours, strict=True):
        (width, height), _ = cv2.getTextSize(text, _FONT, scale, stroke)
        width, height = width + 2 * pad, height + 2 * pad
        (left, top), (right, bottom) = corners.min(0), corners.max(0)
        for x, y in (
            (left, top - height),
            (right - width, top - height),
            (left, bottom),
            (right - width, bottom),
            (left, top),
            (right - width, bottom - height),
        ):
            place = (float(x), float(y), float(x + width), float(y + height))
            inside = x >= 0 and y >= 0 and place[2] <= picture.shape[1] and place[3] <= picture.shape[0]
            if inside and not any(_overlap(place, other) for other in taken):
                taken.append(place)
                corner = (round(place[0]), round(place[1]))
                cv2.rectangle(picture, corner, (corner[0] + width, corner[1] + height), colour, -1)
                at = (corner[0] + pad, corner[1] + height - pad)
                cv2.putText(picture, text, at, _FONT, scale, _PALE if _is_dark(colour) else INK, stroke, cv2.LINE_AA)
                break


def _on_picture(boxes: np.ndarray, view: View, rows: int, scale: float) -> Float[np.ndarray, "K 8 2"]:
    """Pixels of corners; (0, 0) is the middle of the first pixel, as OpenCV draws."""
    if len(boxes) == 0:
        return np.zeros((0, 8, 2))
    corners = box_corners(torch.from_numpy(np.ascontiguousarray(boxes))).numpy()
    return np.stack([corners[..., view.right] * scale, rows - corners[..., view.up] * scale], -1) - 0.5


def _is_dark(colour: tuple[int, int, int]) -> bool:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 100


def _overlap(one: tuple[float, float, float, float], two: tuple[float, float, float, float]) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]

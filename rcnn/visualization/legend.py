"""Lettering and the line above a sheet: what is shown, and what the colours mean."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from rcnn.visualization.colours import INK, TRUTH, score_colours
from rcnn.visualization.scene_contents import SceneContents

_PAPER = 255
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_OVERSAMPLING = 2
_GAP = 12
_HEIGHT = 36
_BASELINE = 23
_BAR = (110, 12)


def draw_header(
    contents: SceneContents, shown: SceneContents, title: str, width: int
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The line above a sheet.

    Args:
        contents: the scene.
        shown: the same with only the detections that are drawn.
        title: of the sheet.
        width: pixels; the line gets wider when its text needs that.
    """
    line = np.full((_HEIGHT, 2 * width + 1200, 3), _PAPER, np.uint8)
    x = _GAP
    if title:
        x += write_text(line, title, (x, _BASELINE), 0.6) + 2 * _GAP
    if contents.truth is not None:
        x = _swatch(line, x, TRUTH)
        x += write_text(line, _count(len(contents.truth), "object"), (x, _BASELINE)) + 2 * _GAP
    if contents.boxes is not None and shown.boxes is not None:
        colour = tuple(int(v) for v in score_colours(np.array(0.75)))
        x = _swatch(line, x, (colour[0], colour[1], colour[2]))
        some = len(shown.boxes) < len(contents.boxes)
        text = (
            f"best {len(shown.boxes)} of {_count(len(contents.boxes), 'detection')}"
            if some
            else _count(len(contents.boxes), "detection")
        )
        x += write_text(line, text, (x, _BASELINE)) + 2 * _GAP
    if contents.boxes is not None or contents.heatmap is not None:
        x += write_text(line, "score 0", (x, _BASELINE)) + 6
        top = _BASELINE - _BAR[1] + 1
        line[top : top + _BAR[1], x : x + _BAR[0]] = score_colours(np.linspace(0, 1, _BAR[0]))
        x += _BAR[0] + 6
        x += write_text(line, "1", (x, _BASELINE)) + _GAP
    return line[:, : max(x, width)]


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _swatch(line: np.ndarray, x: int, colour: tuple[int, int, int]) -> int:
    cv2.rectangle(line, (x, _BASELINE - 11), (x + 12, _BASELINE), INK, -1)
    cv2.rectangle(line, (x + 1, _BASELINE - 10), (x + 11, _BASELINE - 1), colour, -1)
    return x + 19


def write_text(picture: np.ndarray, text: str, at: tuple[int, int], size: float = 0.5) -> int:
    """Writes smoothly at (x, baseline); returns the width in pixels."""
    scale = _OVERSAMPLING * size
    (width, height), below = cv2.getTextSize(text, _FONT, scale, _OVERSAMPLING)
    width += (-width) % _OVERSAMPLING
    top = height + (-height) % _OVERSAMPLING
    mask = np.zeros((top + below + (-below) % _OVERSAMPLING, width), np.uint8)
    cv2.putText(mask, text, (0, top), _FONT, scale, (255,), _OVERSAMPLING, cv2.LINE_AA)
    cover = (
        cv2.resize(mask, (width // _OVERSAMPLING, mask.shape[0] // _OVERSAMPLING), interpolation=cv2.INTER_AREA)[
            ..., None
        ]
        / 255
    )
    x, y = at[0], at[1] - top // _OVERSAMPLING
    part = picture[max(y, 0) : y + cover.shape[0], x : x + cover.shape[1]]
    cover = cover[max(-y, 0) :][: part.shape[0], : part.shape[1]]
    part[:] = np.round(part * (1 - cover) + np.array(INK) * cover).astype(np.uint8)
    return width // _OVERSAMPLING

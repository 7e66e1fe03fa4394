"""One picture of a scene: the grid from above and from two sides with boxes, and where objects are seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from rcnn.instance_palette import colour_instances_uint8
from rcnn.safe_files import write_rgb_png
from rcnn.visualization.colours import TRUTH, score_colours
from rcnn.visualization.legend import draw_header, write_text
from rcnn.visualization.outlines import Pen, draw_labels, draw_outlines
from rcnn.visualization.projections import FRONT, PLAN, SIDE, View, project_colours, project_heatmap
from rcnn.visualization.scene_contents import SceneContents

_PAPER = 255
# Views are drawn so many times larger and then reduced, which smooths lines and letters.
_OVERSAMPLING = 2
_GAP = 12
_TITLE = 28
_GREY_LEVEL = 0.55


@dataclass(frozen=True)
class SheetConfig:
    """What a sheet shows, and how large."""

    view_size: int = 640
    """Pixels of the grid's longest side."""
    max_detections: int = 30
    """Detections that are drawn, the best ones."""
    min_score: float = 0.2
    """Detections below are not drawn."""
    score_labels: bool = True
    """Whether detections have their scores beside them, where there is room."""

    def __post_init__(self) -> None:
        if self.view_size < 32 or self.max_detections < 0:
            raise ValueError("view_size must be at least 32 and max_detections not negative")


def draw_sheet(
    contents: SceneContents, title: str = "", config: SheetConfig | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws a scene.

    Surfaces that face away from the viewer are not drawn, so ceilings and near walls are open. True boxes are green,
    detections coloured by score; objectness is the highest along the line of sight, over the grid in grey. Masks of
    detections have a view of their own, in a colour each.

    Args:
        contents: what there is to see.
        title: of the sheet, usually the scene's name.
        config: sizes and limits.

    Returns:
        sRGB.
    """
    config = config or SheetConfig()
    shown = contents.best(config.max_detections, config.min_score)
    colours = {view: project_colours(shown, view) for view in (PLAN, FRONT, SIDE)}
    parts = [_titled(_view(shown, colours[PLAN], PLAN, config), PLAN.title)]
    if shown.instances is not None:
        parts.append(_titled(_instance_view(shown, PLAN, config), "instances from above"))
    if shown.heatmap is not None:
        parts.append(_titled(_heat_view(shown, colours[PLAN], shown.heatmap, PLAN, config), "objectness from above"))
    sides = [_titled(_view(shown, colours[view], view, config), view.title) for view in (FRONT, SIDE)]
    wide, tall = _beside([*parts, _stack(sides)]), _stack([_beside(parts), _beside(sides)])
    # Plans that are long in y leave room beside them, others below; screens are wide.
    body = wide if wide.size <= 1.2 * tall.size else tall
    body = np.pad(body, ((0, _GAP), (_GAP, _GAP), (0, 0)), constant_values=_PAPER)
    header = draw_header(contents, shown, title, body.shape[1])
    return np.concatenate([header, _padded(body, header.shape[1])])


def write_sheet(path: Path, contents: SceneContents, title: str = "", config: SheetConfig | None = None) -> None:
    """Writes :func:`draw_sheet` as a PNG, whole or not at all."""
    write_rgb_png(path, draw_sheet(contents, title, config))


def sheet_tensor(contents: SceneContents, title: str = "", config: SheetConfig | None = None) -> UInt8[Tensor, "3 H W"]:
    """:func:`draw_sheet` as `SummaryWriter.add_image` takes it."""
    return torch.from_numpy(draw_sheet(contents, title, config).transpose(2, 0, 1).copy())


def _view(contents: SceneContents, colours: np.ndarray, view: View, config: SheetConfig) -> np.ndarray:
    picture, scale = _enlarged(colours, contents, config)
    width = 1 if config.view_size < 480 else 2
    _draw_truth(picture, contents, view, Pen(2 * width + 1, 1, 0), scale)
    if contents.boxes is not None and contents.scores is not None:
        pen = Pen(width + 1, 1, _OVERSAMPLING * min(max(config.view_size / 48, 8), 10))
        inks = [(int(r), int(g), int(b)) for r, g, b in score_colours(contents.scores)]
        draw_outlines(picture, contents.boxes, inks, view, pen, scale)
        if config.score_labels and view is PLAN:
            texts = _texts(contents) if contents.instances is None else _texts(replace(contents, names=None))
            draw_labels(picture, contents.boxes, texts, inks, view, pen, scale)
    return _reduced(picture)


def _instance_view(contents: SceneContents, view: View, config: SheetConfig) -> np.ndarray:
    picture, scale = _enlarged(project_colours(contents.coloured_by_instance(), view), contents, config)
    if contents.boxes is not None:
        inks = [(int(r), int(g), int(b)) for r, g, b in colour_instances_uint8(np.arange(1, len(contents.boxes) + 1))]
        pen = Pen(2, 1, _OVERSAMPLING * min(max(config.view_size / 56, 7), 9))
        draw_labels(picture, contents.boxes, _texts(contents), inks, view, pen, scale)
    return _reduced(picture)


def _texts(contents: SceneContents) -> list[str]:
    """What stands beside the detections."""
    assert contents.scores is not None
    scores = [f"{float(score):.2f}".removeprefix("0") for score in contents.scores]
    if contents.names is None:
        return scores
    return [f"{name.replace('_', ' ')} {score}" for name, score in zip(contents.names, scores, strict=True)]


def _heat_view(
    contents: SceneContents, colours: np.ndarray, heatmap: np.ndarray, view: View, config: SheetConfig
) -> np.ndarray:
    grey = colours @ np.array([0.299, 0.587, 0.114], np.float32)
    heat = project_heatmap(heatmap, view)[..., None]
    weight = np.sqrt(heat)
    blended = (1 - weight) * _GREY_LEVEL * grey[..., None] + weight * score_colours(heat[..., 0]) / np.float32(255)
    picture, scale = _enlarged(blended, contents, config)
    _draw_truth(picture, contents, view, Pen(2, 1, 0), scale)
    return _reduced(picture)


def _draw_truth(picture: np.ndarray, contents: SceneContents, view: View, pen: Pen, scale: float) -> None:
    if contents.truth is not None:
        draw_outlines(picture, contents.truth, [TRUTH] * len(contents.truth), view, pen, scale)


def _enlarged(
    picture: Float32[np.ndarray, "rows columns 3"], contents: SceneContents, config: SheetConfig
) -> tuple[np.ndarray, float]:
    """Also returns pixels per voxel."""
    scale = config.view_size / max(contents.features.shape[1:])
    size = [_OVERSAMPLING * max(1, round(n * scale)) for n in picture.shape[1::-1]]
    large = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    return np.round(255 * np.clip(large, 0, 1)).astype(np.uint8), _OVERSAMPLING * scale


def _reduced(picture: np.ndarray) -> np.ndarray:
    size = [n // _OVERSAMPLING for n in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _titled(picture: np.ndarray, title: str) -> np.ndarray:
    result = np.pad(picture, ((_TITLE, 0), (0, 0), (0, 0)), constant_values=_PAPER)
    write_text(result, title, (0, _TITLE - 8))
    return result


def _padded(picture: np.ndarray, width: int) -> np.ndarray:
    return np.pad(picture, ((0, 0), (0, max(0, width - picture.shape[1])), (0, 0)), constant_values=_PAPER)


def _stack(parts: list[np.ndarray]) -> np.ndarray:
    width = max(part.shape[1] for part in parts)
    return np.concatenate([_padded(part, width) for part in parts])


def _beside(parts: list[np.ndarray]) -> np.ndarray:
    height = max(part.shape[0] for part in parts)
    padding = [((0, height - p.shape[0]), (0, 0 if p is parts[-1] else _GAP), (0, 0)) for p in parts]
    return np.concatenate([np.pad(p, q, constant_values=_PAPER) for p, q in zip(parts, padding, strict=True)], axis=1)

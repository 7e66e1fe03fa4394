"""The pictures of a report: what each step makes of a view."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int32, UInt8
from PIL import Image

from instance_nerfstudio.masks.instance_masks import read_instance_mask
from instance_nerfstudio.pipeline.view_list import NamedView
from instance_nerfstudio.segments.photos import Photo
from instance_nerfstudio.segments.segments_folder import SegmentsFolder
from rcnn.instance_palette import overlay

WIDTH = 420
_QUALITY = 82
# Colours stand out from a photo that has few of its own.
_FADED = 0.65
_GREY = 128


@dataclass(frozen=True)
class ViewRow:
    """A view in four pictures, each as a `data:` address; None where there is nothing to show."""

    name: str
    photo: str
    segments: str | None
    matched: str | None
    rendered: str | None


def choose_views(views: Sequence[NamedView], count: int, held_out: bool) -> list[NamedView]:
    """So many views of a split, evenly chosen."""
    split = [view for view in views if view.held_out == held_out]
    places = np.unique(np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int))
    return [split[place] for place in places]


class ViewPictures:
    """Draws views.

    Args:
        segments: of single views.
        matched: folder of the matched masks.
        rendered: folder of the exported masks.
    """

    def __init__(self, segments: SegmentsFolder, matched: Path, rendered: Path) -> None:
        self.segments = segments
        self.matched = matched
        self.rendered = rendered

    def of(self, view: NamedView) -> ViewRow:
        """The pictures of one view.

        Raises:
            InputError: the photo or a mask is damaged.
        """
        full = Image.fromarray(Photo(view.photo, view.photo.name).rgb())
        photo = np.asarray(
            full.resize((WIDTH, max(1, round(full.height * WIDTH / full.width))), Image.Resampling.LANCZOS)
        )
        segments = None if self.segments.is_skipped(view.photo) else self.segments.view(view.photo).ids
        masks = [
            read_instance_mask(path) if path.is_file() else None
            for path in (self.matched / f"{view.name}.png", self.rendered / f"{view.name}.png")
        ]
        pictures = [None if ids is None else _jpeg(_colour(photo, ids)) for ids in (segments, *masks)]
        return ViewRow(view.name, _jpeg(photo), *pictures)


def _colour(photo: UInt8[np.ndarray, "H W 3"], ids: Int32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "H W 3"]:
    """Ids over a faded photo; where nobody has an opinion it is darker."""
    height, width = photo.shape[:2]
    rows, columns = ((np.arange(n) * 2 + 1) * m // (2 * n) for n, m in ((height, ids.shape[0]), (width, ids.shape[1])))
    fitted = ids[rows[:, None], columns].astype(np.int64)
    grey = photo.mean(-1, keepdims=True).repeat(3, -1)
    faded = _FADED * grey + (1 - _FADED) * _GREY
    faded = np.where((fitted < 0)[..., None], 0.45 * faded, faded)
    blended = overlay(torch.from_numpy(faded / 255).float(), torch.from_numpy(fitted), alpha=0.72, boundaries=True)
    return (blended.numpy() * 255).round().astype(np.uint8)


def _jpeg(picture: UInt8[np.ndarray, "H W 3"]) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"

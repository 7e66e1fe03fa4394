"""Draws the evaluation of a run as one picture: photo, rendered photo, instances, error."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from instance_nerfstudio.masks.instances_json import InstanceInfo
from rcnn.instance_palette import colour_instances_uint8
from rcnn.safe_files import write_atomically

_COLUMNS = ("photo (held out)", "rendered photo", "true instances", "rendered instances", "error")
_INK = (32, 32, 36)
_PAPER = (250, 250, 248)
_GAP = 6
_CELL_WIDTH = 320


def write_contact_sheet(
    path: Path, evaluation: Path, instances: Sequence[InstanceInfo], metrics: Mapping[str, float]
) -> None:
    """Writes a PNG with one row per evaluated view, a legend of the instances, and the scores.

    Args:
        path: file to write, atomically.
        evaluation: folder in which `get_average_image_metrics` wrote `eval_img_*.png` and `eval_instances_*.png`.
        instances: named in the legend.
        metrics: `psnr`, `instance_miou`, `pq` and `pq_scene` go into the title.
    """
    rows = [
        _row(img, img.with_name(img.name.replace("img", "instances"))) for img in sorted(evaluation.glob("eval_img_*"))
    ]
    width = rows[0].width
    title, head, body = (ImageFont.load_default(size) for size in (24, 18, 16))
    legend = _legend_rows(instances, width, body)
    top, line = 76, 28
    sheet = Image.new("RGB", (width, top + sum(row.height + _GAP for row in rows) + line * len(legend) + 16), _PAPER)
    draw = ImageDraw.Draw(sheet)
    scores = (
        f"PSNR {metrics['psnr']:.1f} dB    instance mIoU {metrics['instance_miou']:.3f}    "
        f"PQ {metrics['pq']:.3f}    PQ^scene {metrics['pq_scene']:.3f}"
    )
    draw.text((_GAP, 10), scores, _INK, title)
    for i, name in enumerate(_COLUMNS):
        draw.text((_GAP + i * (width - _GAP) // len(_COLUMNS), top - 28), name, _INK, head)
    y = top
    for row in rows:
        sheet.paste(row, (0, y))
        y += row.height + _GAP
    y += 8
    for entries in legend:
        for x, info in entries:
            colour = tuple(int(c) for c in colour_instances_uint8(np.array(info.id)))
            draw.rounded_rectangle((x, y + 3, x + 18, y + 19), 4, fill=colour)
            draw.text((x + 25, y), _label(info), _INK, body)
        y += line
    encoded = io.BytesIO()
    sheet.save(encoded, format="PNG")
    write_atomically(path, encoded.getvalue())


def _row(colour: Path, instances: Path) -> Image.Image:
    """Photo and rendering from one picture, true and rendered instances and error from the other, at one size."""
    cells = []
    for source, count, filter_ in ((colour, 2, Image.Resampling.LANCZOS), (instances, 3, Image.Resampling.NEAREST)):
        picture = Image.open(source).convert("RGB")
        width = picture.width // count
        size = (_CELL_WIDTH, round(_CELL_WIDTH * picture.height / width))
        for i in range(count):
            cells.append(picture.crop((i * width, 0, (i + 1) * width, picture.height)).resize(size, filter_))
    row = Image.new("RGB", (len(cells) * (_CELL_WIDTH + _GAP) + _GAP, cells[0].height), _PAPER)
    for i, cell in enumerate(cells):
        row.paste(cell, (_GAP + i * (_CELL_WIDTH + _GAP), 0))
    return row


def _legend_rows(
    instances: Sequence[InstanceInfo], width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[list[tuple[int, InstanceInfo]]]:
    """Instances with their x position, broken into lines that fit."""
    rows: list[list[tuple[int, InstanceInfo]]] = [[]]
    x = _GAP
    for info in instances:
        needed = 25 + round(font.getlength(_label(info))) + 22
        if x + needed > width and rows[-1]:
            rows.append([])
            x = _GAP
        rows[-1].append((x, info))
        x += needed
    return rows


def _label(info: InstanceInfo) -> str:
    return f"{info.id} {info.category.replace('_', ' ')}"

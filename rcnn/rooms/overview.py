"""A sheet of finished rooms to be looked at: photos, instance colours, and the plan seen from above."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rcnn.errors import InputError
from rcnn.rooms.piece import box_corners
from rcnn.safe_files import write_atomically

TILE = (320, 240)
LABEL_HEIGHT = 20


def write_contact_sheet(path: Path, rooms: Sequence[Path], photos: int = 1, columns: int = 2) -> None:
    """Writes a JPEG with `photos` pictures, one instance map and the plan of every room folder.

    Raises InputError when a room's files are missing or damaged.
    """
    tiles = [_room_tile(room, photos) for room in rooms]
    columns = min(columns, len(tiles))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[k : k + columns], axis=1) for k in range(0, len(tiles), columns)]
    encoded, data = cv2.imencode(".jpg", np.concatenate(rows), [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not encoded:
        raise RuntimeError(f"cannot encode {path}")
    write_atomically(path, data.tobytes())


def _room_tile(room: Path, photos: int) -> np.ndarray:
    try:
        content = json.loads((room / "instances.json").read_text(encoding="utf-8"))
        chosen = _telling_views(room, len(content["instances"]), photos)
        pictures = [cv2.resize(_read(room / "images" / f"{stem}.jpg", cv2.IMREAD_COLOR), TILE) for stem in chosen]
        ids = _read(room / "instance_masks" / f"{chosen[0]}.png", cv2.IMREAD_UNCHANGED)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{room}: its files are missing or damaged ({error}); delete the folder and run again"
        ) from error
    colours = np.array([[40, 40, 40], *(row["colour"] for row in content["instances"])], np.uint8)
    masks = cv2.resize(colours[ids][..., ::-1], TILE, interpolation=cv2.INTER_NEAREST)
    row = np.concatenate([*pictures, masks, draw_plan_view(content)], axis=1)
    label = np.full((LABEL_HEIGHT, row.shape[1], 3), 255, np.uint8)
    text = (
        f"{room.name}  {content['kind']}  {content['plan']}  {content['light']}  {len(content['instances'])} instances"
    )
    cv2.putText(label, text, (5, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([label, row])


def _read(path: Path, flags: int) -> np.ndarray:
    image = cv2.imread(str(path), flags)
    if image is None:
        raise ValueError(f"{path.name} cannot be read")
    return image


def _telling_views(room: Path, count: int, wanted: int) -> list[str]:
    """Stems of views that together show many instances, each much of them."""
    stems, shares = [], []
    for path in sorted((room / "instance_masks").iterdir()):
        ids = _read(path, cv2.IMREAD_UNCHANGED)
        shares.append(np.bincount(ids.ravel(), minlength=count + 1)[1:] / ids.size)
        stems.append(path.stem)
    seen = np.sqrt(np.stack(shares))
    best = np.zeros(count)
    chosen: list[int] = []
    for _ in range(min(wanted, len(stems))):
        gain = np.maximum(seen, best).sum(1)
        gain[chosen] = -1
        chosen.append(int(np.argmax(gain)))
        best = np.maximum(best, seen[chosen[-1]])
    return [stems[k] for k in chosen]


def draw_plan_view(content: dict[str, Any]) -> np.ndarray:
    """(240, 320, 3) uint8 BGR drawing of the boxes on the floor; a thick edge marks the front of a piece."""
    width, depth, _ = content["room_bbox"][1]
    scale = min((TILE[0] - 20) / width, (TILE[1] - 20) / depth)
    image = np.full((TILE[1], TILE[0], 3), 120, np.uint8)

    def pixel(x: float, y: float) -> tuple[int, int]:
        return round(TILE[0] / 2 + (x - width / 2) * scale), round(TILE[1] / 2 - (y - depth / 2) * scale)

    for part in content["floor"]:
        cv2.rectangle(image, pixel(part["x1"], part["y1"]), pixel(part["x2"], part["y2"]), (255, 255, 255), -1)
    for row in sorted(content["instances"], key=lambda row: row["obb"][2]):
        x, y, _, wide = row["obb"][:4]
        points = np.array([pixel(*corner) for corner in box_corners(tuple(row["obb"]))], np.int32)
        colour = tuple(int(value) for value in row["colour"][::-1])
        cv2.fillPoly(image, [points], colour)
        cv2.polylines(image, [points], True, (40, 40, 40), 1, cv2.LINE_AA)
        cv2.line(image, tuple(points[0]), tuple(points[1]), (0, 0, 0), 3, cv2.LINE_AA)
        if wide * scale > 30:
            cv2.putText(
                image,
                row["category"][:9],
                pixel(x - wide / 3, y),
                cv2.FONT_HERSHEY_PLAIN,
                0.7,
                (0, 0, 0),
                1,
                cv2.LINE_AA,
            )
    return image

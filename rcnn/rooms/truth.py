"""What a room's files say about it: instances, cameras, boxes, voxels."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rcnn.rooms.cameras import CameraPlan
from rcnn.rooms.piece import Piece
from rcnn.rooms.render import Pinhole


def instance_rows(pieces: Sequence[Piece], counts: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """One row per instance: id, category, score, colour, boxes in metres, counts (K + 1,) by name, and the model.

    Row 0 of the counts is the background.
    """
    rows = []
    for number, piece in enumerate(pieces, start=1):
        # the golden ratio spreads hues evenly for any number of pieces; neighbours in hue differ in strength
        colour = colorsys.hsv_to_rgb(
            number * 0.618034 % 1.0, (0.8, 0.5, 0.95)[number % 3], (0.95, 0.85, 0.6)[number % 3]
        )
        rows.append(
            {
                "id": number,
                "category": piece.category,
                "score": 1.0,
                "colour": [round(255 * value) for value in colour],
                "aabb": [round(float(value), 6) for value in piece.mesh.bounds().ravel()],
                "obb": [round(value, 6) for value in piece.box],
                **{name: int(values[number]) for name, values in counts.items()},
                "asset": piece.name,
                "library": piece.library,
            }
        )
    return rows


def transforms(
    plan: CameraPlan, camera: Pinhole, room_bbox: list[list[float]], suffix: str, maps: Mapping[str, str]
) -> dict[str, Any]:
    """nerfstudio's `transforms.json`; `maps` gives the key of a frame for every further folder of 16-bit PNG files."""
    stems = [f"{number:04d}" for number in range(len(plan.poses))]
    names = [f"images/{stem}{suffix}" for stem in stems]
    held_out = [names[number] for number in plan.held_out]
    return {
        "camera_model": "OPENCV",
        "w": camera.width,
        "h": camera.height,
        "fl_x": camera.focal,
        "fl_y": camera.focal,
        "cx": camera.width / 2,
        "cy": camera.height / 2,
        **{key: 0.0 for key in ("k1", "k2", "p1", "p2")},
        "room_bbox": room_bbox,
        "train_filenames": [name for name in names if name not in held_out],
        "val_filenames": held_out,
        "test_filenames": held_out,
        "frames": [
            {
                "file_path": name,
                **{key: f"{folder}/{stem}.png" for folder, key in maps.items()},
                "transform_matrix": pose.tolist(),
            }
            for name, stem, pose in zip(names, stems, plan.poses, strict=True)
        ],
    }


def box_of_room(size: np.ndarray) -> list[list[float]]:
    """Corners of the room, metres."""
    return [[0.0, 0.0, 0.0], [round(float(edge), 6) for edge in size]]

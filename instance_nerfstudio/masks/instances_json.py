"""`instances.json`: id, category, score, colour and box of each instance in a scene's masks."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instance_nerfstudio.errors import InputError
from rcnn.instance_palette import colour_instances_uint8
from rcnn.safe_files import read_json, write_atomically

MAX_ID = 65534
MASKS_FOLDER = "instance_masks"
INSTANCES_FILE = "instances.json"


def find_instances_json(data: Path, masks_dir: Path | None = None) -> Path | None:
    """The description of the instances: next to the masks, or in the scene's folder; None if there is none.

    The scene's own file describes the scene's own masks: it is not taken for masks in another `masks_dir`.
    """
    data = Path(data)
    scene = data.parent if data.suffix == ".json" or data.is_file() else data
    own = scene / MASKS_FOLDER
    if masks_dir is not None and Path(os.path.abspath(masks_dir)) != Path(os.path.abspath(own)):
        folders = [Path(masks_dir)]
    else:
        folders = [own, scene]
    return next((folder / INSTANCES_FILE for folder in folders if (folder / INSTANCES_FILE).is_file()), None)


@dataclass
class InstanceInfo:
    """What `instances.json` says of one instance."""

    id: int
    """1..65534, the value in the masks."""
    category: str = "object"
    score: float = 1.0
    """Confidence of the detector; 1 for ground truth."""
    colour: tuple[int, int, int] | None = None
    """RGB, 0 to 255; the palette's colour of the id when not given."""
    box_world: tuple[float, ...] | None = None
    """Axis-aligned box x1, y1, z1, x2, y2, z2 in world units."""
    obb_world: tuple[float, ...] | None = None
    """Oriented box cx, cy, cz, w, l, h, yaw; yaw in radians about z, counter-clockwise from above."""
    name: str = ""
    """What a user calls it; empty when it was not named."""

    def __post_init__(self) -> None:
        if self.colour is None:
            red, green, blue = colour_instances_uint8(np.array(self.id)).tolist()
            self.colour = (red, green, blue)


def read_instances_json(path: Path) -> list[InstanceInfo]:
    """Reads `{"instances": [{"id", "name"?, "category"?, "score"?, "colour"?, "aabb"?, "obb"?}, ...]}`.

    Other keys are ignored.

    Raises:
        InputError: missing or malformed file, an id twice or out of range, boxes or scores that are no finite numbers.
    """
    content = read_json(Path(path))
    records = content.get("instances")
    if not isinstance(records, list):
        raise InputError(f'{path}: has no list \'instances\'; write {{"instances": [{{"id": 1, ...}}]}}')
    return _check_unique(path, [_parse_instance(path, place, record) for place, record in enumerate(records)])


def write_instances_json(path: Path, infos: Sequence[InstanceInfo], **extra: Any) -> None:
    """Writes the file that `read_instances_json` reads, whole or not at all; `extra` are further top-level keys.

    Raises:
        InputError: what the reader would refuse.
    """
    path, records = Path(path), []
    for place, info in enumerate(infos):
        given = {"id": info.id, "name": info.name, "category": info.category, "score": info.score}
        given["colour"] = info.colour
        # Through the reader's checks, which also turn NumPy's numbers into Python's.
        info = _parse_instance(path, place, {**given, "aabb": info.box_world, "obb": info.obb_world})
        record: dict[str, Any] = {"id": info.id}
        if info.name:
            record["name"] = info.name
        record |= {"category": info.category, "score": info.score, "colour": info.colour}
        record["aabb"] = info.box_world
        if info.obb_world is not None:
            record["obb"] = info.obb_world
        records.append(record)
    _check_unique(path, infos)
    write_atomically(path, (json.dumps({**extra, "instances": records}, indent=1, allow_nan=False) + "\n").encode())


def _parse_instance(path: Path, place: int, record: Any) -> InstanceInfo:
    if not isinstance(record, dict):
        raise InputError(f'{path}: instance number {place} is no object {{...}}; write it as {{"id": ...}}')
    number = record.get("id")
    if not isinstance(number, int | np.integer) or isinstance(number, bool) or not 1 <= number <= MAX_ID:
        raise InputError(f"{path}: instance number {place} has id {number!r}; ids are integers from 1 to {MAX_ID}")
    number = int(number)
    category = record.get("category")
    score, colour = record.get("score"), record.get("colour")
    if category is not None and not isinstance(category, str):
        raise InputError(f"{path}: category of instance {number} is {category!r}; write a name in quotes")
    name = record.get("name")
    if name is not None and not isinstance(name, str):
        raise InputError(f"{path}: name of instance {number} is {name!r}; write it in quotes")
    if score is not None:
        (score,) = _parse_numbers(path, number, "score", [score], 1)
    if colour is not None:
        red, green, blue = _parse_numbers(path, number, "colour", colour, 3)
        if not all(0 <= c <= 255 and c == int(c) for c in (red, green, blue)):
            raise InputError(f"{path}: colour of instance {number} is {colour}; give three integers from 0 to 255")
        colour = (int(red), int(green), int(blue))
    boxes = {}
    for key, size in (("aabb", 6), ("obb", 7)):
        box = record.get(key)
        boxes[key] = None if box is None else _parse_numbers(path, number, key, box, size)
    box = boxes["aabb"]
    if box is not None and any(low > high for low, high in zip(box[:3], box[3:], strict=True)):
        raise InputError(f"{path}: aabb of instance {number} ends before it begins; write x1, y1, z1, x2, y2, z2")
    score = 1.0 if score is None else score
    return InstanceInfo(number, category or "object", score, colour, boxes["aabb"], boxes["obb"], name or "")


def _parse_numbers(path: Path, number: int, key: str, values: Any, size: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values if not isinstance(value, str))
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if len(numbers) != size or len(values) != size or not all(map(math.isfinite, numbers)):
        raise InputError(f"{path}: {key} of instance {number} is {values!r}; give {size} finite number(s)")
    return numbers


def _check_unique(path: Path, infos: Sequence[InstanceInfo]) -> list[InstanceInfo]:
    ids = [info.id for info in infos]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise InputError(f"{path}: id {twice} occurs twice; give each instance its own id")
    return list(infos)

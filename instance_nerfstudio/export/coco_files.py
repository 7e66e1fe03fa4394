"""Rendered masks in the two formats of the COCO data set: instance annotations and panoptic segmentation."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Integer
from PIL import Image
from scipy.ndimage import find_objects

from instance_nerfstudio.export.views import Frame
from instance_nerfstudio.masks.instance_masks import BACKGROUND
from instance_nerfstudio.masks.instances_json import MAX_ID

# Segment 0 is COCO's void, here the unlabelled pixels, so background needs an id that no instance can have.
BACKGROUND_SEGMENT = MAX_ID + 2
BACKGROUND_CATEGORY = "background"


def encode_rle(ids: Integer[np.ndarray, "height width"]) -> dict[int, list[int]]:
    """COCO's uncompressed run lengths of every id's mask: zeros, ones, zeros, ..., down the columns."""
    flat = ids.ravel(order="F")
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    ends = np.append(starts[1:], flat.size)
    encoded = {}
    for i in np.unique(flat):
        own = flat[starts] == i
        turns = np.stack([starts[own], ends[own]], axis=1).ravel()
        counts = np.diff(turns, prepend=0, append=flat.size).tolist()
        encoded[int(i)] = counts if counts[-1] else counts[:-1]
    return encoded


def bounding_boxes(ids: Integer[np.ndarray, "height width"]) -> dict[int, list[int]]:
    """COCO's box (x, y, width, height) in pixels around each id from 0 up."""
    boxes = {}
    for i, place in enumerate(find_objects(ids + 1)):
        if place is not None:
            rows, columns = place
            boxes[i] = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
    return boxes


class CocoFile:
    """Writes `coco.json`, which pycocotools reads: one annotation per instance and view.

    Beside COCO's keys an annotation holds `instance_id`, the same in every view, and `score`, the mean confidence in
    this view. Background and unlabelled pixels have no annotation. A context manager; the file is complete after it.

    Args:
        path: the file.
        categories: name of the category of every id that may come.
    """

    def __init__(self, path: Path, categories: Mapping[int, str]) -> None:
        self._categories = categories
        self._category_ids = {name: 1 + place for place, name in enumerate(sorted(set(categories.values())))}
        self._images: list[dict[str, Any]] = []
        self._annotations = 0
        self._file = path.open("w", encoding="utf-8")

    def __enter__(self) -> "CocoFile":
        self._file.write(f'{{"info": {json.dumps(_INFO)}, "licenses": [],\n"annotations": [')
        return self

    def add(self, frame: Frame) -> None:
        """Adds a view. Its annotations go to the file at once: those of a long path would fill the memory."""
        height, width = frame.ids.shape
        image_id = 1 + len(self._images)
        self._images.append(_image(image_id, frame))
        counts, boxes = encode_rle(frame.ids), bounding_boxes(frame.ids)
        for i, box in boxes.items():
            if i == BACKGROUND:
                continue
            mask = frame.ids == i
            annotation = {
                "id": 1 + self._annotations,
                "image_id": image_id,
                "category_id": self._category_ids[self._categories[i]],
                "instance_id": i,
                "segmentation": {"size": [height, width], "counts": counts[i]},
                "area": int(mask.sum()),
                "bbox": box,
                "iscrowd": 0,
                "score": float(frame.confidence[mask].mean(dtype=np.float64)),
            }
            self._file.write((",\n" if self._annotations else "\n") + json.dumps(annotation))
            self._annotations += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._file as file:
            if kind is None:
                categories = [{"id": number, "name": name} for name, number in self._category_ids.items()]
                file.write(f'],\n"images": {json.dumps(self._images)},\n"categories": {json.dumps(categories)}}}\n')


class PanopticFiles:
    """Writes `panoptic.json` and one PNG per view in `panoptic/`, COCO's panoptic format.

    A pixel's RGB is its segment, R + 256 G + 65536 B. An instance's segment is its id, the same in every view.
    Background is the segment `BACKGROUND_SEGMENT`, of the only stuff category; unlabelled pixels are void (0).
    A context manager; the files are complete after it.

    Args:
        folder: gets both.
        categories: name of the category of every id that may come.
    """

    def __init__(self, folder: Path, categories: Mapping[int, str]) -> None:
        self._folder = folder
        self._categories = categories
        self._category_ids = {name: 1 + place for place, name in enumerate(sorted(set(categories.values())))}
        self._stuff_id = 1 + len(self._category_ids)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def __enter__(self) -> "PanopticFiles":
        return self

    def add(self, frame: Frame) -> None:
        """Adds a view and writes its PNG."""
        image_id = 1 + len(self._images)
        self._images.append(_image(image_id, frame))
        segments = np.select([frame.ids < 0, frame.ids == BACKGROUND], [0, BACKGROUND_SEGMENT], frame.ids)
        path = self._folder / "panoptic" / f"{frame.view.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((segments[..., None] >> np.array([0, 8, 16]) & 0xFF).astype(np.uint8)).save(path)
        infos = []
        for i, box in bounding_boxes(frame.ids).items():
            background = i == BACKGROUND
            category_id = self._stuff_id if background else self._category_ids[self._categories[i]]
            infos.append(
                {
                    "id": BACKGROUND_SEGMENT if background else i,
                    "category_id": category_id,
                    "area": int((frame.ids == i).sum()),
                    "bbox": box,
                    "iscrowd": 0,
                }
            )
        self._annotations.append({"image_id": image_id, "file_name": f"{frame.view.name}.png", "segments_info": infos})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        things = [
            {"id": number, "name": name, "supercategory": name, "isthing": 1}
            for name, number in self._category_ids.items()
        ]
        stuff = {"id": self._stuff_id, "name": BACKGROUND_CATEGORY, "supercategory": BACKGROUND_CATEGORY, "isthing": 0}
        content = {
            "info": _INFO,
            "licenses": [],
            "images": self._images,
            "annotations": self._annotations,
            "categories": [*things, stuff],
        }
        (self._folder / "panoptic.json").write_text(json.dumps(content), encoding="utf-8")


_INFO = {"description": "Instance masks rendered by instance-nerfacto"}


def _image(image_id: int, frame: Frame) -> dict[str, Any]:
    height, width = frame.ids.shape
    return {"id": image_id, "file_name": frame.view.image_name, "width": width, "height": height}

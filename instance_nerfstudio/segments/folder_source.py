"""Masks that another program made: one file per photo, named like it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.masks.instance_masks import (
    BACKGROUND,
    UNLABELLED,
    find_instance_masks,
    read_instance_mask,
    resize_labels,
)
from instance_nerfstudio.masks.instances_json import INSTANCES_FILE, read_instances_json
from instance_nerfstudio.segments.class_table import ClassTable
from instance_nerfstudio.segments.mask_source import Result
from instance_nerfstudio.segments.photos import Photo
from instance_nerfstudio.segments.segments_folder import SourceInfo
from instance_nerfstudio.segments.settings import FlattenConfig
from instance_nerfstudio.segments.view_segments import ViewSegments

OBJECT = "object"


class FolderSource:
    """Reads masks: PNG of 8 or 16 bits, `.npy`, `.hdf5`, of the photo's size or of another with the same aspect.

    For `images/left/x.jpg` that is `left/x.png` or `x.png`, as for a scene's own masks. What else is known:

    * `instances.json` in the folder (id, category, score) says that ids are the same in all views.
    * `x.json` beside `x.png`, a list of `{"id", "category" or "category_id", "score", "isthing"}` as detectron2's
      `segments_info`: classes of the segments. Pixels of 0 have no opinion then; background classes become background.

    Args:
        masks: the folder.
        table: what classes are called here; its `names` are what `category_id` counts.
        config: `min_score` and `min_area` hold here too; smaller segments and less sure ones have no opinion.
        settings: what else the result depends on.

    Raises:
        InputError: no such folder, or a damaged `instances.json`.
    """

    sequential = False

    def __init__(self, masks: Path | None, table: ClassTable, config: FlattenConfig, settings: dict[str, Any]) -> None:
        if masks is None:
            raise InputError("--source folder: needs --masks FOLDER")
        if not masks.is_dir():
            raise InputError(f"{masks}: no such folder; check --masks")
        self._folder, self._table, self._config = masks, table, config
        described = masks / INSTANCES_FILE
        self._instances = {i.id: i for i in read_instances_json(described)} if described.is_file() else None
        self.info = SourceInfo("folder", "1", str(masks.absolute()), settings, tracks=self._instances is not None)

    def segment(self, photos: Sequence[Photo], done: Sequence[ViewSegments]) -> Iterator[Result]:
        """As `MaskSource` says; a photo without a file has None."""
        # As a scene of its own, so that masks named in the photos' transforms.json, often the truth, are not taken.
        files = find_instance_masks([photo.path for photo in photos], self._folder, self._folder)
        for place in range(len(done), len(photos)):
            file = files[place]
            yield place, None if file is None else self._read(photos[place], file)

    def _read(self, photo: Photo, file: Path) -> ViewSegments:
        ids = resize_labels(read_instance_mask(file), *photo.size(), source=file).copy()
        infos = self._infos(file)
        if infos is not None:
            ids[ids == BACKGROUND] = UNLABELLED
        numbers, areas = np.unique(ids[ids > 0], return_counts=True)
        result = ids.copy()
        rows: dict[int, tuple[str, float]] = {}
        for number, area in zip(numbers.tolist(), areas.tolist(), strict=True):
            category, score = self._class(number, infos, file)
            if category is None:
                result[ids == number] = BACKGROUND
            elif score < self._config.min_score or area < self._config.min_area * ids.size:
                result[ids == number] = UNLABELLED
            else:
                row = number if self.info.tracks else len(rows) + 1
                result[ids == number] = row
                rows[row] = (category, score)
        listed = [rows.get(row, ("", 0.0)) for row in range(1, max(rows, default=0) + 1)]
        return ViewSegments(result, tuple(name for name, _ in listed), np.array([s for _, s in listed], np.float32))

    def _class(self, number: int, infos: dict[int, dict[str, Any]] | None, file: Path) -> tuple[str | None, float]:
        """Category and score of a segment; None for background."""
        if infos is None:  # categories of instances.json are the user's own
            known = (self._instances or {}).get(number)
            return (OBJECT, 1.0) if known is None else (known.category, min(max(known.score, 0.0), 1.0))
        if number not in infos:
            raise InputError(f"{file}: has segment {number}, which {file.stem}.json does not list; write both again")
        label = infos[number].get("category", infos[number].get("category_id", OBJECT))
        if isinstance(label, int):
            names = self._table.names
            label = names[label] if 0 <= label < len(names) else f"class {label}"
        score = float(infos[number].get("score", 1.0))
        return None if self._table.is_background(str(label)) else self._table.category(str(label)), score

    def _infos(self, file: Path) -> dict[int, dict[str, Any]] | None:
        """What the JSON file beside a mask says of its segments."""
        path = file.with_suffix(".json")
        if not path.is_file() or path.name == INSTANCES_FILE:
            return None
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))
            infos = {int(info["id"]): info for info in listed}
            if not all(0 <= float(info.get("score", 1.0)) <= 1 for info in infos.values()):
                raise ValueError("a score lies outside [0, 1]")
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f'{path}: is no list of {{"id", "category_id"}} ({reason}); correct or delete it'
            ) from error
        return infos

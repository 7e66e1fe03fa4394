"""Writes a folder of segments photo by photo, so that a run that was killed goes on where it was."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath

import numpy as np

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.masks.instance_masks import MAX_ID, write_instance_mask
from instance_nerfstudio.segments.photos import Photo
from instance_nerfstudio.segments.segments_folder import (
    SEGMENTS_FILE,
    ImageRecord,
    SegmentRecord,
    SegmentsFolder,
    SourceInfo,
    read_segments,
    to_json,
)
from instance_nerfstudio.segments.view_segments import ViewSegments
from rcnn.safe_files import write_json

# A kill costs the photos of so many seconds: records of hundreds of photos are not written anew after each.
SECONDS_BETWEEN_RECORDS = 1.0


class SegmentsWriter:
    """A context manager; when it ends, also by an error, `segments.json` names what is there.

    Args:
        path: the folder, made when missing.
        info: where the segments come from.
        replace: whether segments that were made in another way are deleted.

    Raises:
        InputError: the folder holds other files, or segments that were made in another way and shall be kept.
    """

    def __init__(self, path: Path, info: SourceInfo, replace: bool = False) -> None:
        self._path, self._info = Path(path), info
        self._records: dict[str, ImageRecord] = {}
        self._written = 0.0
        if self._path.exists() and not self._path.is_dir():
            raise InputError(f"{path}: is a file; choose another folder for segments")
        if (self._path / SEGMENTS_FILE).is_file():
            self._records = self._earlier(replace)
        elif self._path.is_dir() and any(not entry.name.startswith(".") for entry in self._path.iterdir()):
            # Photos, perhaps, which PNGs of the same names would take the place of.
            raise InputError(f"{path}: holds other files and no {SEGMENTS_FILE}; choose another folder for segments")

    def __enter__(self) -> SegmentsWriter:
        self._write_records()
        return self

    def __exit__(self, *_: object) -> None:
        self._write_records()

    def done(self, photo: Photo) -> ViewSegments | None:
        """The segments of a photo, if they are there, whole, and of the photo as it is now."""
        record = self._records.get(photo.name)
        if record is None or (record.height, record.width) != photo.size() or record.sha256 != photo.sha256():
            return None
        try:
            return self.folder().read(record)
        except InputError:
            return None

    def add(self, photo: Photo, view: ViewSegments, skipped: bool = False) -> None:
        """Writes the segments of one photo. Segments without a pixel are left out, and the others renumbered.

        With `tracks` numbers stay as they are.

        Raises:
            InputError: they are of another size than the photo, or not what `ViewSegments` promises.
        """
        ids, kept = self._checked(photo, view)
        if not self._info.tracks:
            numbers = np.zeros(len(view.categories) + 2, np.int32)  # the last stands for -1
            numbers[-1] = -1
            numbers[kept] = np.arange(1, len(kept) + 1)
            ids = numbers[ids]
        final = kept if self._info.tracks else range(1, len(kept) + 1)
        segments = tuple(
            SegmentRecord(int(number), view.categories[s - 1], round(float(view.scores[s - 1]), 6))
            for number, s in zip(final, kept, strict=True)
        )
        file = self._file(photo)
        write_instance_mask(self._path / file, ids)
        self._records[photo.name] = ImageRecord(file, *photo.size(), photo.sha256(), segments, skipped)
        if time.monotonic() - self._written > SECONDS_BETWEEN_RECORDS:
            self._write_records()

    def folder(self) -> SegmentsFolder:
        """What is there now."""
        return SegmentsFolder(self._path, self._info, dict(self._records))

    def _checked(self, photo: Photo, view: ViewSegments) -> tuple[np.ndarray, np.ndarray]:
        """The ids, and which segments have pixels."""
        ids, size, count = np.asarray(view.ids), photo.size(), len(view.categories)
        problem = ""
        if ids.dtype.kind not in "iu":
            problem = f"ids of type {ids.dtype}"
        elif ids.shape != size:
            shape = "x".join(str(side) for side in reversed(ids.shape))
            problem = f"segments of {shape} for a photo of {size[1]}x{size[0]}"
        elif len(view.scores) != count or count > MAX_ID:
            problem = f"{count} categories and {len(view.scores)} scores"
        elif ids.min() < -1 or ids.max() > count:
            problem = f"ids {ids.min()}..{ids.max()} for {count} segments"
        elif not all(0 <= score <= 1 for score in view.scores):  # refuses NaN too
            problem = "scores outside [0, 1]"
        if problem:
            raise InputError(f"{photo.path}: {self._info.source} gave {problem}; use another source or other weights")
        present = np.unique(ids)
        return ids.astype(np.int32), present[present > 0]

    def _file(self, photo: Photo) -> str:
        """The PNG of a photo: its name with the suffix `.png`, or after its own suffix where two differ in it alone."""
        earlier = self._records.get(photo.name)
        if earlier is not None:
            return earlier.file
        taken = {record.file for record in self._records.values()}
        name = PurePosixPath(photo.name)
        candidates = (name.with_suffix(".png").as_posix(), *(f"{photo.name}{'_' * n}.png" for n in range(len(taken))))
        return next(file for file in candidates if file not in taken)

    def _earlier(self, replace: bool) -> dict[str, ImageRecord]:
        """Records that are there already; none where they are replaced."""
        try:
            found = read_segments(self._path)
        except InputError:
            if not replace:
                raise
            return {}
        # As JSON gives them back: lists for tuples.
        if json.dumps(to_json(found.info, {})) == json.dumps(to_json(self._info, {})):
            return dict(found.records)
        if not replace:
            raise InputError(
                f"{self._path}: holds segments of {found.info.source} ({found.info.model}) made with other settings; "
                "choose another folder or add --replace"
            )
        (self._path / SEGMENTS_FILE).unlink()
        for record in found.records.values():
            with suppress(OSError):
                (self._path / record.file).unlink()
        return {}

    def _write_records(self) -> None:
        write_json(self._path / SEGMENTS_FILE, to_json(self._info, dict(sorted(self._records.items()))))
        self._written = time.monotonic()

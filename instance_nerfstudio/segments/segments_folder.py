"""Segments of all photos of a scene on disk: `segments.json` and one 16-bit PNG per photo, and how to read them.

`segments.json` says where the segments come from, and of every photo, by its path below the folder that all photos
share: the PNG's name, the photo's size and SHA-256, and id, category and score of each segment. With `tracks`, ids are
the same in all views; otherwise a view's ids are 1..S.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.masks.instance_masks import MAX_ID, read_instance_mask
from instance_nerfstudio.segments.photos import Photo
from instance_nerfstudio.segments.view_segments import ViewSegments
from rcnn.safe_files import read_json

SEGMENTS_FILE = "segments.json"
FORMAT_VERSION = 1
_AGAIN = "run `instance-nerf segment` again"


@dataclass(frozen=True)
class SegmentRecord:
    """What is known of one segment of a photo."""

    id: int
    """The value in the PNG."""
    category: str
    score: float
    """In [0, 1]."""


@dataclass(frozen=True)
class ImageRecord:
    """What `segments.json` says of one photo."""

    file: str
    """The PNG, relative to the folder of segments."""
    height: int
    width: int
    sha256: str
    """Of the photo's file."""
    segments: tuple[SegmentRecord, ...]
    skipped: bool = False
    """Whether the source had nothing for this photo: no pixel has an opinion."""


@dataclass(frozen=True)
class SourceInfo:
    """Where segments come from. Two folders with the same `SourceInfo` hold the same segments of a photo."""

    source: str
    """Name of the mask source, e.g. `transformers`."""
    version: str
    """Of the package that it uses."""
    model: str
    """Name or file of its weights."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that the result depends on, as JSON holds it."""
    tracks: bool = False
    """Whether ids are the same in all views."""


@dataclass(frozen=True)
class SegmentsFolder:
    """Segments of a scene's photos. Made by `read_segments`."""

    path: Path
    info: SourceInfo
    records: Mapping[str, ImageRecord]
    """By the photo's name: its path relative to the folder that all photos share, with suffix."""

    @property
    def tracks(self) -> bool:
        """Whether ids are the same in all views."""
        return self.info.tracks

    @property
    def count(self) -> int:
        """Segments of all views together."""
        return sum(len(record.segments) for record in self.records.values())

    def is_skipped(self, photo: Path) -> bool:
        """Whether the source had nothing for a photo. Raises as `view` does."""
        return self._record(Path(photo))[1].skipped

    def view(self, photo: Path) -> ViewSegments:
        """The segments of one photo, at its size. With `tracks`, ids that it does not show have score 0, category "".

        Args:
            photo: path of the file that was segmented, or of a copy of it below a folder of the same name.

        Raises:
            InputError: it was not segmented, has changed since, or its PNG is missing, damaged or of another size.
        """
        return self.read(self._record(Path(photo))[1])

    def read(self, record: ImageRecord) -> ViewSegments:
        """The segments that a record stands for. Raises InputError: its PNG is missing, damaged, or of another size."""
        file = self.path / record.file
        if not file.is_file():
            raise InputError(f"{file}: is missing; {_AGAIN}")
        try:
            ids = read_instance_mask(file)
        except InputError as error:
            raise InputError(f"{str(error).rpartition(';')[0]}; {_AGAIN}") from error
        if ids.shape != (record.height, record.width):
            height, width = ids.shape
            raise InputError(f"{file}: is {width}x{height}, its photo {record.width}x{record.height}; {_AGAIN}")
        known = {segment.id: segment for segment in record.segments}
        unknown = np.setdiff1d(ids, [-1, 0, *known])
        if len(unknown):
            raise InputError(f"{file}: has segment {unknown[0]}, which {SEGMENTS_FILE} does not know; {_AGAIN}")
        rows = [known.get(number) for number in range(1, max(known, default=0) + 1)]
        categories = tuple("" if row is None else row.category for row in rows)
        return ViewSegments(ids, categories, np.array([0.0 if row is None else row.score for row in rows], np.float32))

    def _record(self, path: Path) -> tuple[str, ImageRecord]:
        """The record whose name is the end of a path, the longest such; names are compared part by part."""
        tails = [PurePosixPath(*path.parts[start:]).as_posix() for start in range(len(path.parts))]
        named = [(name, self.records[name]) for name in tails if name in self.records]
        if not named:
            raise InputError(f"{path}: has no segments in {self.path}; {_AGAIN}")
        digest = Photo(path, path.name).sha256()
        same = [(name, record) for name, record in named if record.sha256 == digest]
        if not same:
            raise InputError(f"{path}: has changed since its segments in {self.path} were made; {_AGAIN}")
        return same[0]


def read_segments(path: Path) -> SegmentsFolder:
    """The segments in a folder; PNGs are read one by one later.

    Raises:
        InputError: no `segments.json` there, or one that is damaged or of another version.
    """
    path = Path(path)
    file = path / SEGMENTS_FILE
    if not file.is_file():
        raise InputError(f"{file}: no such file; {_AGAIN}")
    try:
        content = read_json(file)
    except InputError as error:
        raise InputError(f"{str(error).rpartition(';')[0]}; delete {path} and {_AGAIN}") from error
    if content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version")
        raise InputError(f"{file}: has format version {found}, not {FORMAT_VERSION}; delete {path} and {_AGAIN}")
    try:
        info = SourceInfo(
            _text(content["source"]),
            _text(content["version"]),
            _text(content["model"]),
            dict(content["settings"]),
            _flag(content["tracks"]),
        )
        records = {_text(entry["photo"]): _parse(entry) for entry in content["photos"]}
        if len(records) < len(content["photos"]):
            raise ValueError("a photo occurs twice")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"{file}: is damaged ({reason}); delete {path} and {_AGAIN}") from error
    return SegmentsFolder(path, info, records)


def to_json(info: SourceInfo, records: Mapping[str, ImageRecord]) -> dict[str, Any]:
    """What `segments.json` holds."""
    return {
        "format_version": FORMAT_VERSION,
        "source": info.source,
        "version": info.version,
        "model": info.model,
        "settings": info.settings,
        "tracks": info.tracks,
        "photos": [
            {
                "photo": name,
                "file": record.file,
                "size": [record.height, record.width],
                "sha256": record.sha256,
                "skipped": record.skipped,
                "segments": [{"id": s.id, "category": s.category, "score": s.score} for s in record.segments],
            }
            for name, record in records.items()
        ],
    }


def _parse(entry: Any) -> ImageRecord:
    file, (height, width) = PurePosixPath(_text(entry["file"])), entry["size"]
    if file.is_absolute() or ".." in file.parts or file.suffix != ".png":
        raise ValueError(f"{file} is no PNG in this folder")
    if not all(isinstance(side, int) and side > 0 for side in (height, width)):
        raise ValueError(f"{file} has size {entry['size']}")
    digest = _text(entry["sha256"])
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"{file} has sha256 {digest!r}")
    segments = tuple(_segment(segment) for segment in entry["segments"])
    _check_ids([segment.id for segment in segments])
    return ImageRecord(file.as_posix(), height, width, digest, segments, _flag(entry["skipped"]))


def _segment(entry: Any) -> SegmentRecord:
    number, score = entry["id"], float(entry["score"])
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MAX_ID:
        raise ValueError(f"{number!r} is no id of a segment")
    if not (math.isfinite(score) and 0 <= score <= 1):
        raise ValueError(f"score {entry['score']!r} of segment {number} lies outside [0, 1]")
    return SegmentRecord(number, _text(entry["category"]), score)


def _check_ids(ids: Sequence[int]) -> None:
    if len(set(ids)) < len(ids):
        raise ValueError("a segment occurs twice in a photo")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value

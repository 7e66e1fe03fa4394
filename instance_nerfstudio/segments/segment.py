"""Segments of all photos of a scene, from a mask source of one's choice, on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import Progress

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.item_progress import item_progress
from instance_nerfstudio.masks.instance_masks import UNLABELLED
from instance_nerfstudio.segments.class_table import ClassTable, load_class_table
from instance_nerfstudio.segments.photos import Photo, name_photos
from instance_nerfstudio.segments.segments_folder import SegmentsFolder
from instance_nerfstudio.segments.segments_writer import SegmentsWriter
from instance_nerfstudio.segments.settings import SegmentConfig
from instance_nerfstudio.segments.view_segments import ViewSegments

if TYPE_CHECKING:
    import torch

    from instance_nerfstudio.segments.mask_source import MaskSource


def segment_images(
    images: Sequence[Path],
    out: Path,
    config: SegmentConfig | None = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> SegmentsFolder:
    """Segments photos that are not segmented yet; a run that was killed goes on where it was.

    Args:
        images: the photos; with `sam2` in the order of the camera's path.
        out: folder for the segments.
        config: the mask source and its options.
        device: torch device; the first GPU, else the CPU, when None.
        progress: gets a task; a progress bar of its own is shown when None.

    Returns:
        The segments of these photos, and of others that were segmented before.

    Raises:
        InputError: a package, weights or a photo is missing or damaged; the source gave something else than segments
            of the photo's size; `out` holds segments of another kind; it cannot be written.
    """
    config = config or SegmentConfig()
    photos = name_photos(images)
    source = make_source(config, device)
    again = config.source == "folder"  # its files may have changed, and are read in no time
    try:
        with SegmentsWriter(out, source.info, config.replace) as writer:
            if progress is not None:
                _segment_missing(photos, source, writer, again, progress)
            else:
                with item_progress() as bar:
                    _segment_missing(photos, source, writer, again, bar)
    except OSError as error:
        file, reason = error.filename or out, error.strerror or error
        raise InputError(f"{file}: cannot be written ({reason}); make room or choose another folder") from error
    return writer.folder()


def make_source(config: SegmentConfig, device: str | torch.device | None = None) -> MaskSource:
    """The mask source that a config names.

    Raises:
        InputError: a package or weights are missing or damaged, or the device is not there.
    """
    table = load_class_table(config.classes)
    settings: dict[str, Any] = {"classes": config.classes, **asdict(config.flatten)}
    if config.source == "folder":
        from instance_nerfstudio.segments.folder_source import FolderSource

        return FolderSource(config.masks, table, config.flatten, settings)
    place = _find_device(device)
    if config.source == "sam2":
        from instance_nerfstudio.segments.sam2_source import Sam2Source

        tracking = config.tracking
        seeds = None
        if tracking.seeds != "grid":
            seeds = _single_photo_source(tracking.seeds, tracking.seed_weights, config, place, table, settings)
        settings = {**settings, **asdict(tracking)}
        return Sam2Source(config.weights, tracking, seeds, place, table, config.flatten, settings)
    return _single_photo_source(config.source, config.weights, config, place, table, settings)


def _single_photo_source(
    name: str,
    weights: str | None,
    config: SegmentConfig,
    device: torch.device,
    table: ClassTable,
    settings: dict[str, Any],
) -> MaskSource:
    if name == "transformers":
        from instance_nerfstudio.segments.transformers_source import TransformersSource

        return TransformersSource(weights, config.task, device, table, config.flatten, settings)
    if name == "torchvision":
        from instance_nerfstudio.segments.torchvision_source import TorchvisionSource

        return TorchvisionSource(weights, device, table, config.flatten, settings)
    from instance_nerfstudio.segments.detectron2_source import Detectron2Source

    return Detectron2Source(weights, config.detectron2_config, device, table, config.flatten, settings)


def _segment_missing(
    photos: Sequence[Photo], source: MaskSource, writer: SegmentsWriter, again: bool, progress: Progress
) -> None:
    task = progress.add_task("Segments", total=len(photos))
    done = [None if again else writer.done(photo) for photo in photos]
    missing = [place for place, view in enumerate(done) if view is None]
    progress.update(task, completed=len(photos) - len(missing))
    if not missing:
        return
    if source.sequential:
        # What comes after a gap depends on what was in it.
        earlier = [view for view in done[: missing[0]] if view is not None]
        chosen = list(photos)
        progress.update(task, completed=len(earlier))
    else:
        earlier, chosen = [], [photos[place] for place in missing]
    finished = len(photos) - len(missing) if not source.sequential else 0
    for place, view in source.segment(chosen, earlier):
        photo = chosen[place]
        nothing = ViewSegments(np.full(photo.size(), UNLABELLED, np.int32), (), np.zeros(0, np.float32))
        writer.add(photo, nothing if view is None else view, skipped=view is None)
        progress.update(task, completed=place + 1 + finished)


def _find_device(device: str | torch.device | None) -> torch.device:
    import torch

    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise InputError(f"--device {device}: no such device; use e.g. cuda:0, or cpu") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {device}: this machine has {torch.cuda.device_count()} CUDA device(s); use cpu")
    return found

"""How well a field fits the segments of views that it has not learnt from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rich.progress import Progress

from instance_nerfstudio.export.views import dataset_views, photos_root
from instance_nerfstudio.lift.refine import HeldOutAgreement
from instance_nerfstudio.masks.instance_masks import resize_labels
from instance_nerfstudio.segments.segments_folder import SegmentsFolder


def held_out_agreement(pipeline: Any, segments: SegmentsFolder, progress: Progress) -> float | None:
    """Panoptic quality with the segments of the held-out views, each view for itself; None without any.

    Args:
        pipeline: with a trained instance head, in evaluation mode.
        segments: of all views.
        progress: gets a task.
    """
    datamanager, agreement = pipeline.datamanager, HeldOutAgreement()
    if not len(datamanager.eval_dataset):
        return None
    root = photos_root(datamanager)
    views = dataset_views(datamanager, pipeline.model.camera_optimizer, "eval")
    for view in progress.track(views, description="Held-out views"):
        photo = root / view.image_name
        if segments.is_skipped(photo):
            continue
        found = segments.view(photo)
        outputs = pipeline.model.render(view.camera.to(pipeline.device))
        ids = outputs["instance_ids"][..., 0].cpu().numpy().astype(np.int32)
        agreement.add(resize_labels(ids, *found.ids.shape, source=photo), found)
    value = agreement.value()
    return round(value, 4) if math.isfinite(value) else None

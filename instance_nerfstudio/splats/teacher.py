"""From a NeRF to splats: what Gaussians take from a trained field of the same scene."""

import gc
from dataclasses import dataclass
from pathlib import Path

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from instance_nerfstudio.edits.edits_file import EditsStore
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.atomic_folder import atomic_folder
from instance_nerfstudio.export.export_masks import ExportMasks
from instance_nerfstudio.export.instance_files import write_point_cloud
from instance_nerfstudio.instance_model import InstanceModel
from instance_nerfstudio.load_run import load_run
from instance_nerfstudio.masks.instances_json import MASKS_FOLDER
from instance_nerfstudio.splats.start_points import surface_points
from instance_nerfstudio.splats.teacher_views import render_teacher_views

POINTS_FILE, VIEWS_FOLDER = "points.ply", "views"
_POINTS = 100_000


@dataclass(frozen=True)
class Lesson:
    """What a field teaches."""

    points: Path
    """Its surfaces, as a PLY in the world frame."""
    masks: Path | None
    """Its instance masks of the training views; None of a field without instances, or where none are wanted."""
    views: Path | None
    """Pictures of it from between the photos, with its instances; None where none are wanted."""


def learn_from(load_config: Path, folder: Path, with_masks: bool, views: int = 0) -> Lesson:
    """Renders the training views of a field into a folder, or takes what a run that is gone on with has there.

    The field's names and merges hold; what is hidden there is shown.

    Args:
        load_config: config.yml of a NeRF.
        folder: gets `points.ply`, `instance_masks/` and `views/`.
        with_masks: whether the field's instances are wanted.
        views: pictures from between the photos.

    Raises:
        InputError: no run there, or not of a NeRF.
    """
    points, masks = folder / POINTS_FILE, folder / MASKS_FOLDER
    if not points.is_file():
        pipeline = load_run(load_config)
        CONSOLE.print(f"Rendering the training views of {load_config} …")
        model = pipeline.model
        if not hasattr(model, "camera_optimizer") or not hasattr(model, "field"):
            raise InputError(f"{load_config}: is not a run of nerfacto or instance-nerfacto, which splats learn from")
        with atomic_folder(folder) as partial:
            if with_masks and isinstance(model, InstanceModel) and model.options.use_instances:
                shown = model.edits_store.current().with_everything_shown()
                model.edits_store = EditsStore(None, model.identity, shown)
                ExportMasks(load_config, folder, cameras="train").export(pipeline, partial)
            if views:
                (partial / VIEWS_FOLDER).mkdir()
                render_teacher_views(pipeline, partial / VIEWS_FOLDER, views, with_masks)
            cloud = (values.numpy() for values in surface_points(pipeline, _POINTS))
            write_point_cloud(partial / POINTS_FILE, *cloud)
        del pipeline, model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    between = folder / VIEWS_FOLDER
    return Lesson(points, masks if masks.is_dir() else None, between if between.is_dir() else None)

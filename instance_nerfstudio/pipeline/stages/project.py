"""`project`: the 3D instances as every view sees them, through the field's own weights."""

from __future__ import annotations

from functools import partial
from typing import Any

from instance_nerfstudio.pipeline.options import SceneOptions
from instance_nerfstudio.pipeline.stage import Stage, StageContext
from instance_nerfstudio.pipeline.stages.density import GRID_FILE
from instance_nerfstudio.pipeline.stages.detect import instances_file
from instance_nerfstudio.pipeline.stages.radiance import radiance_config

PROJECTIONS_FILE = "projections.npz"
VIEWS_FILE = "views.json"


def project_stage(options: SceneOptions) -> Stage:
    """Renders the instances into all views, held-out ones too."""
    return Stage(
        name="project",
        run=partial(_project, options),
        after=("radiance", "density", "detect"),
        options={"projection_side": options.project.projection_side},
        products=(PROJECTIONS_FILE, VIEWS_FILE),
    )


def _project(options: SceneOptions, context: StageContext) -> dict[str, Any]:
    from instance_nerfstudio.export.density_field import scene_from_world
    from instance_nerfstudio.export.views import dataset_views, photos_root
    from instance_nerfstudio.lift.project import ProjectionConfig, project_instances
    from instance_nerfstudio.lift.view_projection import write_projections
    from instance_nerfstudio.pipeline.instance_voxels import instance_grid
    from instance_nerfstudio.pipeline.open_field import open_field
    from instance_nerfstudio.pipeline.view_list import NamedView, write_views

    grid = instance_grid(instances_file(context), context.output("density") / GRID_FILE)
    pipeline = open_field(radiance_config(context), options.data)
    datamanager, model = pipeline.datamanager, pipeline.model
    views = dataset_views(datamanager, model.camera_optimizer, "all")
    training = {view.name for view in dataset_views(datamanager, model.camera_optimizer, "train")}
    outputs = datamanager.train_dataparser_outputs
    task = context.progress.add_task("Projecting", total=len(views))
    projections = project_instances(
        model,
        [view.camera for view in views],
        scene_from_world(outputs.dataparser_transform, outputs.dataparser_scale),
        grid,
        ProjectionConfig(longest_side=options.project.projection_side),
        lambda share: context.progress.advance(task, share * len(views)),
    )
    write_projections(
        context.work / PROJECTIONS_FILE, {view.name: part for view, part in zip(views, projections, strict=True)}
    )
    root = photos_root(datamanager)
    named = [NamedView(view.name, root / view.image_name, view.name not in training) for view in views]
    write_views(context.work / VIEWS_FILE, named, options.data)
    seen = int(sum((part.visible > 0).sum() for part in projections))
    return {
        "views": len(views),
        "held_out": sum(view.held_out for view in named),
        "summary": f"{grid.count} instances in {len(views)} views" + (f", {seen} times seen" if grid.count else ""),
    }

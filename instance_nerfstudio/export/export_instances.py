"""`ns-export instances`: every object of a trained field by itself, as mesh, points, box and picture."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.atomic_folder import atomic_folder
from instance_nerfstudio.export.density_field import scene_from_world
from instance_nerfstudio.export.instance_files import (
    MESHES_FOLDER,
    POINTS_FOLDER,
    THUMBNAILS_FOLDER,
    file_stem,
    write_mesh,
    write_points,
    write_thumbnail,
)
from instance_nerfstudio.export.instance_mesh import InstanceMeshConfig, instance_mesh, surface_points
from instance_nerfstudio.export.instance_survey import InstanceSurvey, survey_instances
from instance_nerfstudio.load_run import load_run
from instance_nerfstudio.masks.instances_json import INSTANCES_FILE, InstanceInfo, write_instances_json
from instance_nerfstudio.splats.instance_splatfacto import InstanceSplatfactoModel
from instance_nerfstudio.splats.model_splats import model_splats
from instance_nerfstudio.splats.splat_instances import SPLATS_FILE, SPLATS_FOLDER, write_splat_instances

# All that an export can leave in its folder, and so all that --overwrite may delete.
INSTANCES_ENTRIES = (
    MESHES_FOLDER,
    POINTS_FOLDER,
    THUMBNAILS_FOLDER,
    SPLATS_FOLDER,
    SPLATS_FILE,
    INSTANCES_FILE,
)


@dataclass
class ExportInstances:
    """Export the objects of a trained instance-nerfacto or instance-splatfacto one by one.

    Of a NeRF, each instance gets a coloured mesh of its own density (`meshes/`, GLB and PLY) and points on it
    (`points/`, PLY); of splats, its Gaussians (`splats/`, PLY), beside all of them with their `instance_id` in
    `splats.ply`. Both get a picture of it alone (`thumbnails/`, PNG). `instances.json` describes them: category, score,
    box, files. Everything is in the world frame of the data; the edits of the run are applied, and hidden instances are
    left out.
    """

    load_config: Path
    """Path to the config YAML file of the trained run."""
    output_dir: Path
    """Folder to create. It appears when everything is exported, and not at all otherwise."""
    ids: tuple[int, ...] = ()
    """Instances to export; all that are shown when not given."""
    resolution: int = 96
    """Voxels along the longest side of an instance's box, from which its mesh is made; 512 at most."""
    num_points: int = 20000
    """Points on each mesh."""
    clean_up: bool = True
    """Of splats: take away Gaussians of an instance that lie apart from it, where masks leaked."""
    antialiased_viewer: bool = False
    """Of splats: write them as they were trained, for a viewer that antialiases like Mip-Splatting. Others would draw
    thin Gaussians too thick."""
    thumbnail_size: int = 512
    """Pixels of the longer side of the view from which a thumbnail is cut."""
    survey_size: int = 160
    """Pixels of the longer side of the training views in which the instances are looked for."""
    max_views: int = 200
    """Training views that are looked at, evenly chosen when there are more."""
    eval_num_rays_per_chunk: int | None = None
    """Rays rendered at once, if not as configured for the run: fewer need less memory."""
    overwrite: bool = False
    """Replace an earlier export in the output folder, once the new one is complete."""

    def main(self) -> None:
        """Loads the run and exports it.

        Raises:
            InputError: the run, the options or the output folder are unusable.
        """
        for option, value, least, most in (
            ("resolution", self.resolution, 8, 512),
            ("num-points", self.num_points, 1, 10**7),
            ("thumbnail-size", self.thumbnail_size, 16, 4096),
            ("survey-size", self.survey_size, 16, 1024),
            ("max-views", self.max_views, 1, 10**5),
        ):
            if not least <= value <= most:
                raise InputError(f"--{option} {value}: must lie between {least} and {most}")
        with atomic_folder(self.output_dir, self.overwrite, INSTANCES_ENTRIES) as folder:
            pipeline = load_run(self.load_config, self.eval_num_rays_per_chunk)
            columns = (TextColumn("{task.description:>20}"), BarColumn(bar_width=50), TimeElapsedColumn())
            with Progress(*columns, console=CONSOLE) as progress:
                infos, solid = self.export(pipeline, folder, progress)
        if solid < len(infos):
            CONSOLE.print(f"[yellow]{len(infos) - solid} of the instances are nowhere solid, and have no files.")
        CONSOLE.print(f"[bold green]:white_check_mark: {solid} instances: {self.output_dir}", soft_wrap=True)

    def export(self, pipeline: Any, folder: Path, progress: Progress) -> tuple[list[InstanceInfo], int]:
        """Writes the instances into an existing, empty folder.

        Args:
            pipeline: a trained instance pipeline, in evaluation mode.
            folder: gets all files.
            progress: gets two tasks.

        Returns:
            What `instances.json` says, and how many of them have a mesh or Gaussians.

        Raises:
            InputError: the pipeline has no instance field, or not the ids that are asked for.
        """
        model, datamanager = pipeline.model, pipeline.datamanager
        if not hasattr(model, "instance_head") or not model.config.use_instances:
            raise InputError(
                f"{self.load_config}: has no instances; train with ns-train instance-nerfacto or instance-splatfacto"
            )
        self._wanted(pipeline)  # not after minutes
        looking = progress.add_task("Looking for objects", total=None)
        survey = survey_instances(
            model,
            datamanager.train_dataset.cameras,
            self.survey_size,
            self.max_views,
            lambda done, views: progress.update(looking, completed=done, total=views),
        )
        if model.scene_survey is not None:
            model.scene_survey.use(survey)
        wanted = self._wanted(pipeline, survey)
        task = progress.add_task("Objects", total=max(1, len(wanted)))
        infos, files = [], {}
        for info, written in self.export_each(pipeline, folder, survey, wanted):
            infos.append(info)
            files[str(info.id)] = written
            progress.update(task, advance=1)
        write_instances_json(folder / INSTANCES_FILE, infos, files=files)
        return infos, count_solid(files)

    def export_each(
        self,
        pipeline: Any,
        folder: Path,
        survey: InstanceSurvey,
        wanted: Sequence[InstanceInfo],
        lock: AbstractContextManager | None = None,
    ) -> Iterator[tuple[InstanceInfo, dict[str, str]]]:
        """Writes the files of one instance after another; yields each, with a box where splats tell one that the
        survey does not, and their paths in `folder`.

        Args:
            pipeline: in evaluation mode.
            folder: gets the files.
            survey: of the training views.
            wanted: the instances, after the edits of the run.
            lock: held while something is made of the model, where other threads render too.
        """
        lock = lock or nullcontext()
        edits, splats = pipeline.model.edits_store.current(), None
        if isinstance(pipeline.model, InstanceSplatfactoModel):
            with lock:
                gathered = model_splats(pipeline, describe_run(pipeline), self.clean_up, self.antialiased_viewer)
            splats = write_splat_instances(folder, gathered, wanted)
            boxes = {info.id: info.box_world for info in gathered.infos}
            wanted = [replace(info, box_world=info.box_world or boxes.get(info.id)) for info in wanted]
        for info in wanted:
            surface = survey.surface(edits.parts(info.id))
            with lock:
                files = (
                    self._write_mesh(pipeline, folder, survey, info, surface)
                    if splats is None
                    else splats[str(info.id)]
                )
                files = files | self._write_thumbnail(pipeline, folder, survey, info, surface)
            yield info, files

    def _write_mesh(
        self, pipeline: Any, folder: Path, survey: InstanceSurvey, info: InstanceInfo, surface: Tensor
    ) -> dict[str, str]:
        model, outputs = pipeline.model, pipeline.datamanager.train_dataparser_outputs
        edits = model.edits_store.current()
        mesh = instance_mesh(
            model,
            edits.merge_ids(model.instance_head.instance_ids) == info.id,
            surface,
            survey.views,
            scene_from_world(outputs.dataparser_transform, outputs.dataparser_scale),
            InstanceMeshConfig(resolution=self.resolution),
        )
        if mesh is None:
            return {}
        points = surface_points(mesh, self.num_points)
        return write_mesh(folder, file_stem(info.id), mesh) | write_points(folder, file_stem(info.id), *points)

    def _write_thumbnail(
        self, pipeline: Any, folder: Path, survey: InstanceSurvey, info: InstanceInfo, surface: Tensor
    ) -> dict[str, str]:
        edits = pipeline.model.edits_store.current()
        best = survey.best_view(edits.parts(info.id))
        if best is None:
            return {}
        camera = deepcopy(survey.views.cameras[best : best + 1]).to("cpu")
        return write_thumbnail(
            folder, file_stem(info.id), pipeline.model, camera, info.id, edits, self.thumbnail_size, surface
        )

    def _wanted(self, pipeline: Any, survey: InstanceSurvey | None = None) -> list[InstanceInfo]:
        edits = pipeline.model.edits_store.current()
        infos = edits.describe(describe_run(pipeline, survey))
        if unknown := sorted(set(self.ids) - {info.id for info in infos}):
            raise InputError(f"--ids {unknown[0]}: the run has no such instance, or it was merged into another")
        return [info for info in infos if (info.id in self.ids if self.ids else edits.shows(info.id))]


def describe_run(pipeline: Any, survey: InstanceSurvey | None = None) -> list[InstanceInfo]:
    """The instances of a run by id, before any edit: what the scene's `instances.json` and the survey say of them.

    Without a survey, instances that the scene doesn't describe have no box and the score 1.
    """
    outputs = pipeline.datamanager.train_dataparser_outputs
    ids = sorted(pipeline.model.identity().instance_ids)
    known = {info.id: info for info in pipeline.datamanager.instances}
    infos = [known.get(i, InstanceInfo(i)) for i in ids]
    if survey is None:
        return infos
    to_scene = scene_from_world(outputs.dataparser_transform, outputs.dataparser_scale)
    return survey.describe(infos, known, np.linalg.inv(to_scene))


def count_solid(files: Mapping[str, Mapping[str, str]]) -> int:
    """How many instances have a mesh or Gaussians among their files."""
    return sum("glb" in written or "splats" in written for written in files.values())

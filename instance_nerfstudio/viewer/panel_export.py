"""What the panel exports, by the code of `ns-export`: masks of the view, and selected instances."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import Any

from nerfstudio.cameras.cameras import Cameras

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.atomic_folder import atomic_folder
from instance_nerfstudio.export.export_instances import ExportInstances
from instance_nerfstudio.export.export_masks import frame_of
from instance_nerfstudio.export.instance_survey import InstanceSurvey
from instance_nerfstudio.export.views import View
from instance_nerfstudio.export.writers import ImageFolders
from instance_nerfstudio.masks.instances_json import INSTANCES_FILE, InstanceInfo, write_instances_json

EXPORTS_FOLDER = "viewer_exports"


def export_view(
    run: Path, pipeline: Any, camera: Cameras, infos: Sequence[InstanceInfo], lock: AbstractContextManager
) -> Path:
    """Writes ids, colours and overlay of one view, and the instances in it; returns the new folder.

    Args:
        run: folder of the run, which gets the folder `viewer_exports`.
        pipeline: an instance pipeline in evaluation mode.
        camera: one camera of shape (1,) in the scene frame.
        infos: the run's instances after its edits.
        lock: held while the model renders.
    """
    model = pipeline.model
    with lock:
        outputs = model.render(camera.to(model.device))
        edits = model.edits_store.current()
    folder = _next_folder(run, "view")
    frame = frame_of(View("view", "view.png", camera.to("cpu")), outputs, edits)
    with atomic_folder(folder) as partial:
        with ImageFolders(partial) as writer:
            writer.add(frame)
        seen = set(frame.ids.ravel().tolist())
        write_instances_json(partial / INSTANCES_FILE, [info for info in infos if info.id in seen])
    return folder


def export_selection(
    run: Path,
    pipeline: Any,
    survey: InstanceSurvey,
    infos: Sequence[InstanceInfo],
    lock: AbstractContextManager,
    report: Callable[[str], object],
) -> tuple[Path, int]:
    """Writes meshes, points and pictures of instances as `ns-export instances` does.

    Args:
        run: folder of the run.
        pipeline: an instance pipeline in evaluation mode.
        survey: of its training views.
        infos: the instances to export.
        lock: held while one of them is made.
        report: takes what is being done.

    Returns:
        The new folder, and how many of the instances have a mesh.

    Raises:
        InputError: nothing to export.
    """
    if not infos:
        raise InputError("nothing is selected; click an object first")
    folder = _next_folder(run, "instances")
    exporter = ExportInstances(run / "config.yml", folder)
    files: dict[str, dict[str, str]] = {}
    with atomic_folder(folder) as partial:
        for number, info in enumerate(infos, 1):
            report(f"Exporting {number} of {len(infos)} …")
            with lock:
                files[str(info.id)] = exporter.export_one(pipeline, partial, survey, info)
        write_instances_json(partial / INSTANCES_FILE, infos, files=files)
    return folder, sum("glb" in written for written in files.values())


def _next_folder(run: Path, kind: str) -> Path:
    folders = (run / EXPORTS_FOLDER / f"{kind}_{number:03d}" for number in count(1))
    return next(folder for folder in folders if not folder.exists())

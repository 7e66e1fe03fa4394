"""What the panel exports, by the code of `ns-export`: masks of the view, and selected instances."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer.viewer_elements import ViewerControl

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.atomic_folder import atomic_folder
from instance_nerfstudio.export.export_instances import ExportInstances, count_solid
from instance_nerfstudio.export.export_masks import frame_of
from instance_nerfstudio.export.instance_survey import InstanceSurvey
from instance_nerfstudio.export.views import View
from instance_nerfstudio.export.writers import ImageFolders
from instance_nerfstudio.masks.instances_json import INSTANCES_FILE, InstanceInfo, write_instances_json

EXPORTS_FOLDER = "viewer_exports"


class PanelExports:
    """The panel's exports, one at a time.

    Args:
        control: of the viewer.
        run: folder of the run.
        pipeline: an instance pipeline in evaluation mode.
        survey: looks at the scene from its training views, or did so.
        lock: held while the model renders.
        say: takes messages.
    """

    def __init__(
        self,
        control: ViewerControl,
        run: Path,
        pipeline: Any,
        survey: Callable[[], InstanceSurvey],
        lock: AbstractContextManager,
        say: Callable[[str], None],
    ) -> None:
        self._control, self._run, self._pipeline, self._survey = control, run, pipeline, survey
        self._render_lock, self._say = lock, say
        self._lock = threading.Lock()  # held by the export that runs

    def export_view(self, browser: int | None, infos: Sequence[InstanceInfo]) -> None:
        """Masks of what a browser shows.

        Args:
            browser: its number.
            infos: the run's instances after its edits.

        Raises:
            InputError: no such browser, or an export is running.
        """
        viewer = self._control.viewer
        longest = int(viewer.control_panel.max_res)
        client = viewer.viser_server.get_clients().get(browser or 0)
        aspect = 1.0 if client is None else float(client.camera.aspect)
        height, width = (round(longest / aspect), longest) if aspect > 1 else (longest, round(longest * aspect))
        camera = self._control.get_camera(height, width, browser)
        if camera is None:
            raise InputError("There is no browser whose view could be exported.")
        with self._alone():
            folder = export_view(self._run, self._pipeline, camera, infos, self._render_lock)
        self._say(f"Masks of this view: {folder}")

    def export_selection(self, selected: Sequence[int], infos: Sequence[InstanceInfo]) -> None:
        """The files of the selected of all instances.

        Raises:
            InputError: an export is running.
        """
        chosen = [info for info in infos if info.id in selected]
        with self._alone():
            folder, solid = export_selection(
                self._run, self._pipeline, self._survey(), chosen, self._render_lock, self._say
            )
        self._say(f"{solid} of {len(chosen)} instances: {folder}")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise InputError("An export is running; wait for its end.")
        try:
            yield
        finally:
            self._lock.release()


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
    """Writes the files of instances as `ns-export instances` does.

    Args:
        run: folder of the run.
        pipeline: an instance pipeline in evaluation mode.
        survey: of its training views.
        infos: the instances to export.
        lock: held while one of them is made.
        report: takes what is being done.

    Returns:
        The new folder, and how many of the instances have a mesh or Gaussians.

    Raises:
        InputError: nothing to export.
    """
    if not infos:
        raise InputError("nothing is selected; click an object first")
    folder = _next_folder(run, "instances")
    exporter = ExportInstances(run / "config.yml", folder)
    files: dict[str, dict[str, str]] = {}
    with atomic_folder(folder) as partial:
        exported = []
        for info, written in exporter.export_each(pipeline, partial, survey, infos, lock):
            exported.append(info)
            files[str(info.id)] = written
            report(f"Exported {len(exported)} of {len(infos)} …")
        write_instances_json(partial / INSTANCES_FILE, exported, files=files)
    return folder, count_solid(files)


def _next_folder(run: Path, kind: str) -> Path:
    folders = (run / EXPORTS_FOLDER / f"{kind}_{number:03d}" for number in count(1))
    return next(folder for folder in folders if not folder.exists())

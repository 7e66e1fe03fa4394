"""The panel "Instances": what its widgets do to the run's edits and to what the viewer shows.

Callbacks run in threads of viser's, several at once when several browsers are open. Rendering happens in a thread per
browser, under the viewer's lock, which `pick` and the exports take too. No exception leaves a callback or a render.
"""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer_elements import ViewerClick, ViewerControl
from torch import Tensor

from instance_nerfstudio.edits.instance_edits import Action, Edit
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.viewer.painting import PaintStyle, paint
from instance_nerfstudio.viewer.selection import (
    InstanceRow,
    Selection,
    filter_rows,
    page_of,
    plain,
    rows_as_markdown,
)

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

    from instance_nerfstudio.export.instance_survey import InstanceSurvey
    from instance_nerfstudio.instance_model import InstanceModel
    from instance_nerfstudio.viewer.panel_gui import PanelGui

_LOCAL = ("127.0.0.1", "localhost", "::1")
# What the survey of the training views looks at when the viewer starts: enough for boxes and scores of a list.
_SURVEY_SIZE, _SURVEY_VIEWS = 96, 48


class InstancePanel(ViewerControl):
    """nerfstudio's viewer finds it as an attribute of the model, and calls `_setup` once its own widgets are there.

    Args:
        model: the model that the viewer shows.
    """

    viewer: "Viewer"
    _gui: "PanelGui"

    def __init__(self, model: "InstanceModel") -> None:
        self._model = model
        self.live = False
        """Whether a viewer shows the model; without one, commands render through the model itself."""
        self._selection = Selection()
        self._style = PaintStyle()
        self._rows: list[InstanceRow] = []
        self._page = 0
        self._survey: InstanceSurvey | None = None
        self._armed = self._exporting = False
        # Guards the widgets and the selection; never taken while the viewer's lock is waited for.
        self._lock = threading.RLock()

    def outputs(self, camera: Cameras, obb_box: OrientedBox | None) -> dict[str, Tensor]:
        """What the viewer shows of a camera: the model's outputs, painted as the panel is set."""
        return self._frames.safely(lambda: paint(self._frames.render(camera, obb_box), self._style), camera)

    def _setup(self, viewer: "Viewer") -> None:
        super()._setup(viewer)
        try:
            self._start()
        except Exception as error:  # the viewer is of use without the panel
            CONSOLE.print(f"[yellow]The panel Instances can't be shown: {_first_line(error)}", soft_wrap=True)

    def _start(self) -> None:
        from instance_nerfstudio.export.density_field import scene_from_world
        from instance_nerfstudio.export.export_instances import describe_run
        from instance_nerfstudio.viewer.frames import Frames
        from instance_nerfstudio.viewer.panel_gui import PanelActions, PanelGui, message_gui
        from instance_nerfstudio.viewer.wireframes import BoxLayer, detector_boxes

        host = self.viewer.config.websocket_host
        if host not in _LOCAL:
            CONSOLE.print(
                f"[bold yellow]The viewer listens on {host}: everyone who can reach this machine can see and edit this "
                "run; there is no login.",
                soft_wrap=True,
            )
        self._pipeline: Any = self.viewer.pipeline
        self._run = self.viewer.log_filename.parent
        self._render_lock = self.viewer.train_lock or threading.Lock()
        self._frames = Frames(self._model, self._say)
        self._frames.keeps = self.viewer.trainer is None
        order = self.viewer.stats_markdown.order + 0.5  # above the tabs, whose first one is long
        ids = [i for i in self._model.instance_head.instance_ids.tolist() if i > 0]
        if not (ids and self._model.options.use_instances):
            message_gui(self.viser_server, order, "This run has no instances: it was trained without masks.")
            self.live = True
            return
        problem = ""
        try:
            self._model.edits_store.current()
        except InputError as error:
            problem = str(error)
            self._model.edits_store.ignore_file()
            CONSOLE.print(f"[yellow]Going on without edits: {problem}", soft_wrap=True)
        outputs = self._pipeline.datamanager.train_dataparser_outputs
        to_scene = scene_from_world(outputs.dataparser_transform, outputs.dataparser_scale)
        self._box_layer = BoxLayer(self.viser_server, "/instance_boxes", to_scene)
        self._detection_layer = BoxLayer(self.viser_server, "/detector_boxes", to_scene)
        self._described = describe_run(self._pipeline)
        self._detections = detector_boxes(self._model.options.instance_voxels)
        guarded = {
            name: partial(self._guarded, getattr(self, f"_{name}")) for name in PanelActions.__dataclass_fields__
        }
        self._gui = PanelGui(self.viser_server, order, PanelActions(**guarded), self._detections is not None)
        self._refresh()
        self._say(f"Without edits: {problem}" if problem else "Select an object by a click or in the list.")
        self.live = True
        if self.viewer.trainer is None:
            threading.Thread(target=self._guarded, args=(self._look_around, None), daemon=True).start()

    def _guarded(self, action: Callable[[Any], object], argument: Any) -> None:
        """Runs what a widget asks for; whatever goes wrong becomes a message."""
        try:
            action(argument)
        except Exception as error:
            self._say(_first_line(error))
            if not isinstance(error, InputError):
                CONSOLE.print(f"[yellow]Panel Instances: {type(error).__name__}: {_first_line(error)}", soft_wrap=True)

    def _say(self, message: str) -> None:
        if hasattr(self, "_gui"):
            self._gui.message.content = plain(message)

    # Selecting.

    def _pick(self, _: int | None) -> None:
        with self._lock:
            if self._armed:
                return
            self._armed = True
        self.register_pointer_cb("click", self._clicked, self._disarmed)
        self._say("Click an object in the picture.")

    def _clicked(self, click: ViewerClick) -> None:
        self.unregister_pointer_cb()  # the next drag turns the camera again
        self._guarded(self._pick_at, click)

    def _disarmed(self) -> None:
        self._armed = False

    def _pick_at(self, click: ViewerClick) -> None:
        from instance_nerfstudio.viewer.picking import pick

        # Weights that rest need no lock, which a browser's whole frame may hold.
        with self._render_lock if self.viewer.trainer is not None else nullcontext():
            picked = pick(self._model, click.origin, click.direction)
        if picked.instance is None:
            self._say("There is nothing at this place.")
        elif picked.instance == 0:
            self._say("This is background, no instance.")
        else:
            self._select(picked.instance, self._gui.add.value)
            self._say(f"Instance {picked.instance}, confidence {picked.confidence:.2f}")

    def _select(self, instance: int, add: bool) -> None:
        with self._lock:
            self._selection.pick(instance, add)
            info = next(row.info for row in self._rows if row.info.id == instance)
            self._gui.name.value, self._gui.category.value = info.name, info.category
        self._refresh()
        self._repaint(None)

    def _choose(self, _: int | None) -> None:
        from instance_nerfstudio.viewer.panel_gui import NOTHING

        chosen = self._gui.chooser.value
        if chosen != NOTHING:
            # Later: viser tells the other browsers of the choice once this returns, and theirs would be the last word.
            threading.Timer(0.1, lambda: setattr(self._gui.chooser, "value", NOTHING)).start()
            self._select(int(chosen.split()[0]), self._gui.add.value)

    def _clear(self, _: int | None) -> None:
        self._selection.ids = ()
        self._refresh()
        self._repaint(None)

    # Edits.

    def _selected(self, least: int = 1) -> tuple[int, ...]:
        ids = self._selection.ids
        if len(ids) < least:
            raise InputError("Select an object first." if least == 1 else "Select two objects or more.")
        return ids

    def _edit(self, action: Action, ids: tuple[int, ...], value: Any = None) -> None:
        self._model.edits_store.apply(Edit(action, ids, value))
        self._edited(action in ("hide", "show", "isolate", "show_all", "merge"))

    def _edited(self, renders: bool) -> None:
        self._refresh()
        if renders:
            self._rerender("move")
        else:
            self._repaint(None)

    def _isolate(self, _: int | None) -> None:
        self._edit("isolate", self._selected())
        self._say("Isolated: everything else is taken away.")

    def _hide(self, _: int | None) -> None:
        self._edit("hide", self._selected())
        self._say("Hidden. What no photo showed behind stays empty.")

    def _show(self, _: int | None) -> None:
        self._edit("show", self._selected())
        self._say("Shown again.")

    def _show_all(self, _: int | None) -> None:
        self._edit("show_all", ())
        self._say("Everything is shown.")

    def _hide_all(self, _: int | None) -> None:
        self._edit("hide", tuple(row.info.id for row in self._rows))
        self._say("All instances are hidden.")

    def _rename(self, _: int | None) -> None:
        first, *_others = self._selected()
        self._edit("rename", (first,), self._gui.name.value)
        self._say(f"Instance {first} is renamed.")

    def _categorize(self, _: int | None) -> None:
        self._edit("categorize", self._selected(), self._gui.category.value)
        self._say("The category is set.")

    def _recolour(self, _: int | None) -> None:
        red, green, blue = (int(c) for c in self._gui.colour.value)
        self._edit("recolour", self._selected(), (red, green, blue))
        self._say("The colour is set.")

    def _merge(self, _: int | None) -> None:
        ids = self._selected(2)
        self._edit("merge", ids)
        self._say(f"Merged into instance {ids[0]}.")

    def _undo(self, _: int | None) -> None:
        undone = self._model.edits_store.undo()
        self._edited(True)
        self._say("There is nothing to undo." if undone is None else f"Undone: {undone.action.replace('_', ' ')}.")

    # The list.

    def _filter(self, _: int | None) -> None:
        self._page = 0
        self._refresh()

    def _turn_page(self, step: int) -> None:
        self._page += step
        self._refresh()

    def _refresh(self) -> None:
        """Brings rows, details and colours up to date with the edits and the selection."""
        from instance_nerfstudio.viewer.panel_gui import NOTHING

        with self._lock:
            edits = self._model.edits_store.current()
            infos = edits.describe(self._described)
            self._rows = [InstanceRow(info, edits.shows(info.id)) for info in infos]
            self._selection.keep({info.id for info in infos})
            selected = self._selection.ids
            # What is isolated is told from the rest without a frame around it.
            framed = () if edits.isolated else tuple(i for i in selected if edits.shows(i))
            self._style = replace(self._style, infos=tuple(infos), selected=framed)
            rows = filter_rows(self._rows, self._gui.filter.value)
            shown, self._page, pages = page_of(rows, self._page)
            title = f"{len(rows)} instances, page {self._page + 1} of {pages}"
            self._gui.table.content = f"{title}\n\n{rows_as_markdown(shown, selected)}"
            self._gui.chooser.options = (NOTHING, *(row.title for row in shown))
            chosen = [row for row in self._rows if row.info.id in selected]
            chosen.sort(key=lambda row: selected.index(row.info.id))
            text = f"**{len(selected)} selected**"
            if chosen:
                text += f"\n\n{rows_as_markdown(chosen[:5], selected)}"
            self._gui.details.content = text if len(chosen) <= 5 else f"{text}\n\nand {len(chosen) - 5} more"
        self._boxes(None)

    def _look_around(self, _: None) -> None:
        """Boxes and scores of instances that the scene doesn't describe, from small pictures of the training views."""
        from instance_nerfstudio.export.export_instances import describe_run

        if all(info.box_world is not None for info in self._described):
            return
        self._survey = self._make_survey()
        self._described = describe_run(self._pipeline, self._survey)
        self._refresh()

    def _make_survey(self) -> "InstanceSurvey":
        from instance_nerfstudio.export.instance_survey import survey_instances

        cameras = self._pipeline.datamanager.train_dataset.cameras
        return survey_instances(self._model, cameras, _SURVEY_SIZE, _SURVEY_VIEWS, lambda _: None, self._render_lock)

    # The picture.

    def _repaint(self, _: int | None) -> None:
        """Shows the same frames in other colours: at full resolution at once, where they are there."""
        self._style = replace(self._style, colour_by=self._gui.colour_by.value, opacity=float(self._gui.opacity.value))
        self._rerender("step")

    def _rerender(self, action: Any) -> None:
        from nerfstudio.viewer.render_state_machine import RenderAction

        if not self.viewer.ready:
            return
        for number, client in self.viser_server.get_clients().items():
            try:  # a browser may be gone by now, or not have said yet where its camera is
                machine = self.viewer.render_statemachines[number]
                machine.action(RenderAction(action, self.viewer.get_camera_state(client)))
            except (KeyError, AssertionError):
                continue

    def _boxes(self, _: int | None) -> None:
        from instance_nerfstudio.viewer.wireframes import instance_boxes

        if self._gui.boxes.value:
            self._box_layer.show(*instance_boxes([row.info for row in self._rows if row.shown]))
        else:
            self._box_layer.hide()
        if self._detections is not None and self._gui.detections.value:
            self._detection_layer.show(*self._detections)
        else:
            self._detection_layer.hide()

    # Exports.

    def _export_view(self, browser: int | None) -> None:
        from instance_nerfstudio.viewer.panel_export import export_view

        longest = int(self.viewer.control_panel.max_res)
        client = self.viser_server.get_clients().get(browser or 0)
        aspect = 1.0 if client is None else float(client.camera.aspect)
        height, width = (round(longest / aspect), longest) if aspect > 1 else (longest, round(longest * aspect))
        camera = self.get_camera(height, width, browser)
        if camera is None:
            raise InputError("There is no browser whose view could be exported.")
        infos = [row.info for row in self._rows]
        folder = self._exports(lambda: export_view(self._run, self._pipeline, camera, infos, self._render_lock))
        self._say(f"Masks of this view: {folder}")

    def _export_selection(self, _: int | None) -> None:
        from instance_nerfstudio.viewer.panel_export import export_selection

        selected = self._selected()
        infos = [row.info for row in self._rows if row.info.id in selected]

        def export() -> tuple[Path, int]:
            if self._survey is None:
                self._say("Looking for the objects in the training views …")
                self._survey = self._make_survey()
            return export_selection(self._run, self._pipeline, self._survey, infos, self._render_lock, self._say)

        folder, meshes = self._exports(export)
        self._say(f"{meshes} meshes of {len(infos)} instances: {folder}")

    def _exports(self, export: Callable[[], Any]) -> Any:
        with self._lock:
            if self._exporting:
                raise InputError("An export is running; wait for its end.")
            self._exporting = True
        try:
            return export()
        finally:
            self._exporting = False


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]

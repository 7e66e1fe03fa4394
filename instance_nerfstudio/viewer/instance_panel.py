"""The panel "Instances": its parts, and how they work together.

Callbacks run in threads of viser's, several at once when several browsers are open. Rendering happens in a thread per
browser, under the viewer's lock, which `pick` and the exports take too. No exception leaves a callback or a render.
"""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer_elements import ViewerControl
from torch import Tensor

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.viewer.selection import plain

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
        self._survey: InstanceSurvey | None = None
        self._said = self._looking = ""
        # Guards the widgets and the selection; never taken while the viewer's lock is waited for.
        self._lock = threading.RLock()

    def outputs(self, camera: Cameras, obb_box: OrientedBox | None) -> dict[str, Tensor]:
        """What the viewer shows of a camera: the model's outputs, painted as the panel is set."""
        return self._picture.outputs(camera, obb_box)

    def _setup(self, viewer: "Viewer") -> None:
        super()._setup(viewer)
        try:
            self._start()
        except Exception as error:  # the viewer is of use without the panel
            CONSOLE.print(f"[yellow]The panel Instances can't be shown: {_first_line(error)}", soft_wrap=True)

    def _start(self) -> None:
        from instance_nerfstudio.viewer.panel_gui import message_gui
        from instance_nerfstudio.viewer.picture import Picture

        host = self.viewer.config.websocket_host
        if host not in _LOCAL:
            CONSOLE.print(
                f"[bold yellow]The viewer listens on {host}: everyone who can reach this machine can see and edit this "
                "run; there is no login.",
                soft_wrap=True,
            )
        self._pipeline: Any = self.viewer.pipeline
        self._render_lock = self.viewer.train_lock or threading.Lock()
        self._picture = Picture(self.viewer, self._model, self._say)
        order = self.viewer.stats_markdown.order + 0.5  # above the tabs, whose first one is long
        if not (self._model.identity().instance_ids and self._model.options.use_instances):
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
        self._build(order)
        self._refresh()
        self._say(f"Without edits: {problem}" if problem else "Select an object by a click or in the list.")
        self.live = True
        if self.viewer.trainer is None:
            threading.Thread(target=self._guarded, args=(self._look_around, None), daemon=True).start()

    def _build(self, order: float) -> None:
        """Makes the widgets, and the parts that they work on."""
        from instance_nerfstudio.export.density_field import scene_from_world
        from instance_nerfstudio.export.export_instances import describe_run
        from instance_nerfstudio.viewer.click_selection import ClickSelection
        from instance_nerfstudio.viewer.instance_list import InstanceList
        from instance_nerfstudio.viewer.panel_edits import PanelEdits
        from instance_nerfstudio.viewer.panel_export import PanelExports
        from instance_nerfstudio.viewer.panel_gui import PanelActions, PanelGui
        from instance_nerfstudio.viewer.wireframes import SceneBoxes, detector_boxes

        model, store = self._model, self._model.edits_store
        outputs = self._pipeline.datamanager.train_dataparser_outputs
        to_scene = scene_from_world(outputs.dataparser_transform, outputs.dataparser_scale)
        detections = detector_boxes(model.options.instance_voxels)
        widgets = PanelActions(**{name: partial(self._act, name) for name in PanelActions.__dataclass_fields__})
        gui = self._gui = PanelGui(self.viser_server, order, widgets, detections is not None)
        if model.scene_survey is not None:
            model.scene_survey.watch = self._say_how_far

        described = describe_run(self._pipeline)
        instances = self._list = InstanceList(gui, store, described, self._lock, self._selected, self._refresh)
        # Weights that rest need no lock, which a browser's whole frame may hold.
        lock = self._render_lock if self.viewer.trainer is not None else nullcontext()
        clicks = self._clicks = ClickSelection(
            self, model, lock, lambda instance: instances.select(instance, gui.add.value), self._say, self._guarded
        )
        edits = PanelEdits(gui, store, instances, self._edited, self._say)
        self._boxes = SceneBoxes(self.viser_server, to_scene, detections)
        run = self.viewer.log_filename.parent
        exports = PanelExports(self, run, self._pipeline, self._look_at_scene, self._render_lock, self._say)
        self._actions = PanelActions(
            pick=clicks.arm,
            choose=instances.choose,
            clear=instances.clear,
            filter=instances.filter,
            turn_page=instances.turn_page,
            repaint=lambda _: self._repaint(),
            boxes=lambda _: self._draw_boxes(),
            isolate=edits.isolate,
            hide=edits.hide,
            show=edits.show,
            show_all=edits.show_all,
            hide_all=edits.hide_all,
            rename=edits.rename,
            categorize=edits.categorize,
            recolour=edits.recolour,
            merge=edits.merge,
            undo=edits.undo,
            export_view=lambda browser: exports.export_view(browser, instances.infos),
            export_selection=lambda _: exports.export_selection(edits.selected(), instances.infos),
        )

    def _act(self, name: str, argument: Any) -> None:
        """What a widget asks for."""
        self._guarded(lambda asked: getattr(self._actions, name)(asked), argument)

    def _guarded(self, action: Callable[[Any], object], argument: Any) -> None:
        """Calls an action; whatever goes wrong becomes a message."""
        try:
            action(argument)
        except Exception as error:
            self._say(_first_line(error))
            if not isinstance(error, InputError):
                CONSOLE.print(f"[yellow]Panel Instances: {type(error).__name__}: {_first_line(error)}", soft_wrap=True)

    def _say(self, message: str) -> None:
        with self._lock:
            self._said = message
            self._show_message()

    def _say_how_far(self, done: int, views: int) -> None:
        """Says what frames wait for while the training views are looked at, below what was said before."""
        with self._lock:
            self._looking = f"Looking at {views} training views, once ({done} of {views}) …" if views else ""
            self._show_message()

    def _show_message(self) -> None:
        if hasattr(self, "_gui"):
            self._gui.message.content = "\n\n".join(plain(text) for text in (self._said, self._looking) if text)

    def _selected(self) -> None:
        self._refresh()
        self._repaint()

    def _edited(self, renders: bool) -> None:
        self._refresh()
        if renders:
            self._picture.render()
        else:
            self._repaint()

    def _refresh(self) -> None:
        """Brings list, colours and boxes up to date with the edits and the selection."""
        with self._lock:
            edits = self._list.refresh()
            # What is isolated is told from the rest without a frame around it.
            selected = () if edits.isolated else self._list.selection.ids
            framed = tuple(i for i in selected if edits.shows(i))
            self._picture.set_style(infos=tuple(self._list.infos), selected=framed)
        self._draw_boxes()

    def _repaint(self) -> None:
        self._picture.set_style(colour_by=self._gui.colour_by.value, opacity=float(self._gui.opacity.value))
        self._picture.paint()

    def _draw_boxes(self) -> None:
        self._boxes.draw(self._list.shown if self._gui.boxes.value else (), self._gui.detections.value)

    def _look_around(self, _: None) -> None:
        """Boxes and scores of instances that the scene doesn't describe, from small pictures of the training views."""
        from instance_nerfstudio.export.export_instances import describe_run

        if all(info.box_world is not None for info in self._list.described):
            return
        self._list.described = describe_run(self._pipeline, self._look_at_scene())
        self._refresh()

    def _look_at_scene(self) -> "InstanceSurvey":
        """The survey; made when it is first asked for."""
        from instance_nerfstudio.export.instance_survey import survey_instances

        if self._survey is None:
            if self._model.scene_survey is not None:
                return self._model.scene_survey.get()
            cameras = self._pipeline.datamanager.train_dataset.cameras
            try:
                self._survey = survey_instances(
                    self._model, cameras, _SURVEY_SIZE, _SURVEY_VIEWS, self._say_how_far, self._render_lock
                )
            finally:
                self._say_how_far(0, 0)
        return self._survey


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]

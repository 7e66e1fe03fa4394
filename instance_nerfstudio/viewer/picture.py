"""The picture that browsers show of a model: rendered, painted as the panel is set, and asked for anew."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.viewer.render_state_machine import RenderAction
from torch import Tensor

from instance_nerfstudio.viewer.frames import Frames
from instance_nerfstudio.viewer.painting import PaintStyle, paint

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

    from instance_nerfstudio.instance_model import InstanceModel


class Picture:
    """Renders for all browsers of a viewer.

    Args:
        viewer: nerfstudio's.
        model: the model that it shows.
        report: takes the message of a failure.
    """

    def __init__(self, viewer: "Viewer", model: "InstanceModel", report: Callable[[str], None]) -> None:
        self._viewer = viewer
        self.frames = Frames(model, report)
        self.frames.keeps = viewer.trainer is None
        self.style = PaintStyle()

    def outputs(self, camera: Cameras, obb_box: OrientedBox | None) -> dict[str, Tensor]:
        """The model's outputs of a camera in the style; black pictures where it fails."""
        return self.frames.safely(lambda: paint(self.frames.render(camera, obb_box), self.style), camera)

    def set_style(self, **changes: Any) -> None:
        """Changes fields of the style, for the pictures to come."""
        self.style = replace(self.style, **changes)

    def paint(self) -> None:
        """Shows the same frames in the style: at full resolution at once, where they are there."""
        self._ask("step")

    def render(self) -> None:
        """Shows frames that have changed: small ones first."""
        self._ask("move")

    def _ask(self, action: Any) -> None:
        if not self._viewer.ready:
            return
        for number, client in self._viewer.viser_server.get_clients().items():
            try:  # a browser may be gone by now, or not have said yet where its camera is
                machine = self._viewer.render_statemachines[number]
                machine.action(RenderAction(action, self._viewer.get_camera_state(client)))
            except (KeyError, AssertionError):
                continue

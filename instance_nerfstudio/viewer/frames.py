"""What the viewer shows of a model: frames that are kept while the camera rests, and never an exception."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException
from torch import Tensor

from instance_nerfstudio.edits.instance_edits import InstanceEdits

if TYPE_CHECKING:
    from instance_nerfstudio.instance_model import InstanceModel

# Low and high resolution of a few browsers.
_KEPT = 6


class Frames:
    """Renders cameras for the viewer.

    Painting the selection anew needs no rays: the last frames are kept as long as camera, edits and weights are what
    they were. An exception would end nerfstudio's render thread and freeze the view of that browser for good, so it
    becomes a message and an empty picture.

    Args:
        model: the model.
        report: takes the message of a failure.
    """

    def __init__(self, model: "InstanceModel", report: Callable[[str], None]) -> None:
        self._model = model
        self._report = report
        self._frames: OrderedDict[Hashable, tuple[InstanceEdits, dict[str, Tensor]]] = OrderedDict()
        self._lock = threading.Lock()
        self._names: dict[str, int] = {"rgb": 3}
        self.keeps = True
        """Off while weights change."""

    def render(self, camera: Cameras, obb_box: OrientedBox | None) -> dict[str, Tensor]:
        """All outputs of `InstanceModel.render`."""
        edits = self._model.edits_store.current()
        key = _key(camera, obb_box)
        if self.keeps:
            with self._lock:
                kept = self._frames.get(key)
            if kept is not None and kept[0] == edits:
                return kept[1]
        outputs = self._model.render(camera, obb_box)
        if self.keeps:
            with self._lock:
                self._frames[key] = (edits, outputs)
                self._frames.move_to_end(key)
                while len(self._frames) > _KEPT:
                    self._frames.popitem(last=False)
        return outputs

    def safely(self, make: Callable[[], dict[str, Tensor]], camera: Cameras) -> dict[str, Tensor]:
        """What `make` returns; black pictures under the last names where it fails."""
        try:
            outputs = make()
            self._names = {name: output.shape[-1] for name, output in outputs.items()}
            return outputs
        except IOChangeException:
            raise
        except Exception as error:
            message = (str(error) or type(error).__name__).splitlines()[0]
            CONSOLE.print(f"[yellow]The viewer can't show this view: {message}", soft_wrap=True)
            self._report(message)
            height, width = int(camera.height.flatten()[0]), int(camera.width.flatten()[0])
            return {name: torch.zeros(height, width, channels) for name, channels in self._names.items()}


def _key(camera: Cameras, obb_box: OrientedBox | None) -> Hashable:
    numbers = [camera.camera_to_worlds, camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height]
    numbers += [camera.camera_type]
    if obb_box is not None:
        numbers += [obb_box.R, obb_box.T, obb_box.S]
    return tuple(tuple(part.flatten().tolist()) for part in numbers)

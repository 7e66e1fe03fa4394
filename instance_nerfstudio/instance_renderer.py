"""What the viewer's panel, the survey and the exports ask of a model: pictures of cameras, nothing of its inside."""

from typing import Any, Protocol

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from torch import Tensor

from instance_nerfstudio.edits.edits_file import EditsStore, RunIdentity
from instance_nerfstudio.edits.instance_edits import InstanceEdits


class InstanceRenderer(Protocol):
    """A trained model whose pictures know instances, whether it marches rays or rasterizes."""

    edits_store: EditsStore
    """The edits of the run."""

    @property
    def device(self) -> torch.device:
        """Where it renders."""
        ...

    @property
    def config(self) -> Any:
        """With `use_instances`."""
        ...

    @property
    def camera_optimizer(self) -> CameraOptimizer:
        """What was learnt of the training cameras."""
        ...

    def identity(self) -> RunIdentity:
        """With the ids of the run's instances, without background, before any merge."""
        ...

    def render(
        self, camera: Cameras, obb_box: OrientedBox | None = None, edits: InstanceEdits | None = None
    ) -> dict[str, Tensor]:
        """Outputs (height, width, channels) of one camera in the scene frame, without gradients.

        `rgb`; `depth`, the distance along each pixel's ray (not along the camera's axis); `accumulation`, the opacity;
        and, with instances, `instance_ids` (int32, after the merges; 0 background), `instance_confidence`, `instances`
        and `instances_overlay`.

        Args:
            camera: of shape (1,), of any size, on the model's device.
            obb_box: renders what is inside alone.
            edits: these instead of those of the run.
        """
        ...

"""What models with instances have in common: the edits of the run, rendering with them, pictures and metrics of ids."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.base_model import Model
from nerfstudio.utils import colormaps
from torch import Tensor

from instance_nerfstudio.edits.edits_file import EditsStore, RunIdentity
from instance_nerfstudio.edits.instance_edits import ClassEdits, InstanceEdits
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.evaluation.metrics import view_metrics
from instance_nerfstudio.image_metrics import UnavailableLPIPS
from instance_nerfstudio.instance_classifier import InstanceClassifier
from instance_nerfstudio.viewer.instance_panel import InstancePanel
from rcnn.instance_palette import overlay

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import TrainerConfig

    from instance_nerfstudio.edits.seen_matter import SeenMatter
    from instance_nerfstudio.export.scene_survey import SceneSurvey

NO_EDITS = InstanceEdits()


@dataclass
class InstanceOptions:
    """Options of every model with instances, beside those of the model that it extends."""

    use_instances: bool = True
    """Train instances; off leaves the plain model."""
    instance_start_step: int = 2000
    """Step from which instances train: before it, geometry is too vague to hang labels on."""
    use_instance_loss: bool = True
    """Whether the cross-entropy over labelled pixels is on."""
    instance_loss_mult: float = 1.0
    """Weight of the cross-entropy."""
    instance_voxels: Path | None = None
    """Detector output (.npz, world units): its boxes are shown in the viewer, and a NeRF's field learns its masks."""
    overlay_opacity: float = 0.5
    """Opacity of the instance colours over the photo in `instances_overlay`."""
    hidden_instances: tuple[int, ...] = ()
    """Ids whose matter is not rendered, beside those that the edits of the run hide."""
    isolated_instances: tuple[int, ...] = ()
    """Ids whose matter alone is rendered, unless the edits of the run say otherwise; empty for all."""


class InstanceModel(Model):
    """To be put before nerfstudio's model class that a method extends.

    Outputs of a camera, beside that model's: `instances` (palette colour), `instances_overlay` (the same over the
    photo) and `instance_confidence` (calibrated probability of the most likely instance). `render` adds `instance_ids`.
    """

    lpips: Any
    camera_optimizer: CameraOptimizer
    instance_head: InstanceClassifier
    edits_store: EditsStore
    """The edits of this run; the pipeline knows where they are."""

    def add_instance_state(self, options: InstanceOptions) -> None:
        """To be called when the model and its `instance_head` are built."""
        self.options = options
        self.instances_active = False
        self.scene_survey: SceneSurvey | None = None  # what training views saw, where the weights rest
        self.run_name, self._rendering = "", threading.local()
        start = InstanceEdits(
            hidden=frozenset(options.hidden_instances), isolated=frozenset(options.isolated_instances)
        )
        self.edits_store = EditsStore(None, self.identity, start)
        self.instance_panel = InstancePanel(self)  # nerfstudio's viewer looks for it among the attributes
        self.keep_logits = False  # evaluation keeps what it takes to compute logits only where they are asked for

    @property
    def class_edits(self) -> ClassEdits | None:
        """What is edited in the picture that this thread renders: the viewer has a thread per browser."""
        return getattr(self._rendering, "class_edits", None)

    def identity(self) -> RunIdentity:
        """What the file with the run's edits must be of."""
        return RunIdentity(self.run_name, tuple(i for i in self.instance_head.instance_ids.tolist() if i > 0))

    @property
    def frozen(self) -> bool:
        """Whether all but the instances comes from another run and stays as it is."""
        return False

    def check_ids(self, config: "TrainerConfig", remedy: str) -> None:
        """Whether the head knows the ids of the masks.

        Raises:
            InputError: it does not, as it comes from the run that `config` goes on from.
        """
        known = set(self.instance_head.instance_ids.tolist())
        unknown = set(self.kwargs["metadata"]["instance_ids"].tolist()) - known
        if self.options.use_instances and unknown:
            raise InputError(
                f"{config.load_dir or config.load_checkpoint}: its instance head does not know the ids "
                f"{sorted(unknown)[:10]} of the masks; {remedy}"
            )

    def labelled_logits(
        self, rays: RayBundle | Cameras, batch: dict[str, Any]
    ) -> tuple[Float[Tensor, "rays classes"], Int[Tensor, " rays"]]:
        """Logits of the rays or the picture of a batch, and the places of their labels among the classes.

        To be asked of a model with `keep_logits`, in evaluation mode.
        """
        return self(rays)["instance_logits"], self.instance_targets(batch)

    def instance_targets(self, batch: dict[str, Any]) -> Int[Tensor, "*rays"]:
        """Logit index of each ray's label, -1 without one; kept in the batch, as metrics and losses both ask."""
        if "instance_targets" not in batch:
            batch["instance_targets"] = self.instance_head.targets(batch["instances"][..., 0].to(self.device))
        return batch["instance_targets"]

    def seen_matter(self, edits: InstanceEdits) -> "SeenMatter | None":
        """What training views saw of what the edits leave, where that is known."""
        return None

    @contextmanager
    def edited(self, edits: InstanceEdits | None = None) -> Iterator[InstanceEdits]:
        """While open, what the model renders is edited, and it is in evaluation mode.

        Args:
            edits: these instead of those of the run.

        Raises:
            InputError: the file with the edits is unusable.
        """
        edits = self.edits_store.current() if edits is None else edits
        training = self.training
        if training:
            self.eval()
        if edits != NO_EDITS:
            seen = self.seen_matter(edits) if edits.hides_something else None
            self._rendering.class_edits = ClassEdits.of(edits, self.instance_head.instance_ids, seen)
        try:
            yield edits
        finally:
            self._rendering.class_edits = None
            if training:
                self.train()

    @torch.no_grad()
    def render(
        self, camera: Cameras, obb_box: OrientedBox | None = None, edits: InstanceEdits | None = None
    ) -> dict[str, Tensor]:
        """All outputs of one camera, with `instance_ids` int32 (H, W, 1), which `get_outputs_for_camera` leaves out.

        `depth` (H, W, 1) is the distance along each ray. The edits of the run are applied, or those that are given.
        """
        with self.edited(edits):
            return self.painted(super().get_outputs_for_camera(camera, obb_box))

    def painted(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds the pictures of the ids, coloured at once: a colour takes fifty launches, whatever the pixels."""
        if "instance_ids" in outputs:
            ids = outputs["instance_ids"][..., 0]
            edits = NO_EDITS if self.class_edits is None else self.class_edits.edits
            outputs["instances"] = edits.colour(ids)
            outputs["instances_overlay"] = overlay(
                outputs["rgb"], ids, self.options.overlay_opacity, colours=outputs["instances"]
            )
        return outputs

    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        # An integer output would stop nerfstudio's viewer: it has no colormap for it.
        panel = self.instance_panel
        outputs = panel.outputs(camera, obb_box) if panel.live else self.render(camera, obb_box)
        outputs.pop("instance_ids", None)
        return {"rgb": outputs["rgb"], **outputs}  # the viewer opens with the first

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        if isinstance(self.lpips, UnavailableLPIPS):
            del metrics["lpips"]
        if "instance_ids" not in outputs:
            return metrics, images
        edits = self.edits_store.current()
        truth = edits.merge_ids(batch["instances"][..., 0].to(outputs["instance_ids"]))
        predicted = outputs["instance_ids"][..., 0]
        metrics |= view_metrics(predicted, truth)
        wrong = ((predicted != truth) & (truth >= 0))[..., None].float()
        error = torch.cat([wrong, torch.zeros_like(wrong), torch.zeros_like(wrong)], dim=-1)
        images["instances"] = torch.cat([edits.colour(truth), outputs["instances"], error], dim=1)
        images["instance_confidence"] = colormaps.apply_colormap(outputs["instance_confidence"])
        return metrics, images


def render_unedited(model: Model, camera: Cameras) -> dict[str, Tensor]:
    """What a model, with instances or without, sees from a camera of shape (1,): all instances as they were found."""
    camera = camera.to(model.device)
    if isinstance(model, InstanceModel):
        return model.render(camera, edits=NO_EDITS)
    return model.get_outputs_for_camera(camera)

"""`instance-nerfacto`: nerfacto with an instance head that never changes the radiance field."""

import math
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.data.scene_box import OrientedBox, SceneBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.model_components.losses import (
    distortion_loss,
)
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from nerfstudio.utils import colormaps
from torch import Tensor
from torch.nn import Parameter

from instance_nerfstudio.compat import UnavailableLPIPS, lpips_without_download
from instance_nerfstudio.edits.edits_file import EditsStore, RunIdentity
from instance_nerfstudio.edits.hidden_matter import hits_nothing
from instance_nerfstudio.edits.instance_edits import ClassEdits, InstanceEdits
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.evaluation.metrics import view_metrics
from instance_nerfstudio.frozen_field.radiance_checkpoint import check_parameter_layout, is_resumed, load_radiance
from instance_nerfstudio.fused_mlp import use_fused_mlps
from instance_nerfstudio.fused_proposals import proposals_fit
from instance_nerfstudio.hash_grids.hash_grid import use_hash_grids
from instance_nerfstudio.hash_grids.implementation import (
    Implementation,
    WantedImplementation,
    choose_implementation,
    in_nerfstudios_terms,
)
from instance_nerfstudio.instance_head import InstanceHeadConfig
from instance_nerfstudio.instance_objective import instance_losses
from instance_nerfstudio.instance_outputs import instance_outputs
from instance_nerfstudio.instance_pixel_sampler import InstancePixelSampler
from instance_nerfstudio.instance_voxels import InstanceVoxels
from instance_nerfstudio.memory_chunks import in_chunks
from instance_nerfstudio.radiance_outputs import radiance_outputs
from instance_nerfstudio.side_stream import SideStream
from instance_nerfstudio.viewer.instance_panel import InstancePanel
from rcnn.instance_palette import overlay

_NO_EDITS = InstanceEdits()


@dataclass
class InstanceNerfactoModelConfig(NerfactoModelConfig):
    """nerfacto's options plus those of the instance head."""

    _target: type = field(default_factory=lambda: InstanceNerfactoModel)
    """Target class to instantiate."""
    implementation: WantedImplementation = "auto"  # type: ignore[assignment]
    """Hash grids and MLPs by tiny-cuda-nn, in Triton and torch, or in torch; `auto`: the first of them that works."""
    instance_head: InstanceHeadConfig = field(default_factory=InstanceHeadConfig)
    """Size of the instance head."""
    use_instances: bool = True
    """Train the instance head; off leaves plain nerfacto."""
    instance_start_step: int = 2000
    """Step from which the instance head trains: before it, geometry is too vague to hang labels on."""
    radiance_checkpoint: Path | None = None
    """A trained nerfacto run (its folder, config.yml or .ckpt) to keep frozen while only the instance head trains."""
    instance_samples_per_ray: int = 16
    """Samples of a ray that the head sees in training, drawn by their weights; 0 takes all. Rendering uses all."""
    use_instance_loss: bool = True
    """Whether the cross-entropy over labelled pixels is on."""
    instance_loss_mult: float = 1.0
    """Weight of the cross-entropy."""
    use_label_regularization: bool = False
    """Whether neighbouring pixels without a depth edge between them are drawn to the same label."""
    label_regularization_mult: float = 0.001
    """Weight of the label regularization."""
    label_regularization_depth_edge: float = 0.03
    """Relative depth step between neighbouring pixels that counts as an edge."""
    instance_voxels: Path | None = None
    """Detector output (.npz, world units) whose 3D masks supervise the instance field directly."""
    use_voxel_loss: bool = True
    """Whether the cross-entropy over the voxels of `instance_voxels` is on."""
    voxel_loss_mult: float = 0.1
    """Weight of the voxel cross-entropy."""
    voxels_per_batch: int = 2048
    """Voxels drawn per iteration."""
    overlay_opacity: float = 0.5
    """Opacity of the instance colours over the photo in `instances_overlay`."""
    hidden_instances: tuple[int, ...] = ()
    """Ids whose matter is not rendered, beside those that the edits of the run hide."""
    isolated_instances: tuple[int, ...] = ()
    """Ids whose matter alone is rendered, unless the edits of the run say otherwise; empty for all."""


class InstanceNerfactoModel(NerfactoModel):
    """nerfacto (Tancik et al. 2023) with the instance field of Instance-NeRF (Liu et al. 2023).

    Volume rendering weights and geometry features reach the head detached, so RGB trains as in nerfacto.

    Outputs of a camera, beside nerfacto's: `instances` (palette colour), `instances_overlay` (the same over the photo)
    and `instance_confidence` (calibrated probability of the most likely instance). `render` adds `instance_ids`.
    """

    config: InstanceNerfactoModelConfig
    edits_store: EditsStore
    """The edits of this run; the pipeline knows where they are."""

    def populate_modules(self) -> None:
        device = self.kwargs.get("device", "cpu")
        self.implementation: Implementation = choose_implementation(self.config.implementation, device)
        with lpips_without_download(), in_nerfstudios_terms(self.config, self.implementation):
            super().populate_modules()
        metadata = self.kwargs["metadata"]
        self.instance_head = self.config.instance_head.setup(
            geometry_dim=self.field.geo_feat_dim,
            instance_ids=metadata.get("instance_ids", torch.zeros(1, dtype=torch.int32)),
            implementation=self.implementation,
        )
        self.world_to_scene = (metadata["dataparser_transform"], metadata["dataparser_scale"])
        self.voxels: InstanceVoxels | None = None
        self.instances_active = False
        self.side_stream: SideStream | None = None  # where the head trains, if not in line with the field
        self.run_name, self._rendering = "", threading.local()
        start = InstanceEdits(
            hidden=frozenset(self.config.hidden_instances), isolated=frozenset(self.config.isolated_instances)
        )
        self.edits_store = EditsStore(None, self.identity, start)
        self.instance_panel = InstancePanel(self)  # nerfstudio's viewer looks for it among the attributes
        self.keep_logits = False  # evaluation keeps `instance_logits` only where they are asked for: K floats per ray
        use_hash_grids(
            self,
            input_gradients=self.config.camera_optimizer.mode != "off" or self.config.predict_normals,
            fused=self.implementation == "triton",
        )
        if self.implementation == "triton":
            use_fused_mlps(self)
        self.fused_proposals = self.implementation == "triton" and proposals_fit(self)
        if self.frozen:
            has_loss = self.config.use_instance_loss or self.config.instance_voxels is not None
            if not (self.config.use_instances and has_loss):
                raise InputError("--pipeline.model.radiance-checkpoint: every instance loss is off, so nothing trains")
            for module in (self.field, self.proposal_networks, self.camera_optimizer):
                module.requires_grad_(False)

    @property
    def class_edits(self) -> ClassEdits | None:
        """What is edited in the picture that this thread renders: the viewer has a thread per browser."""
        return getattr(self._rendering, "class_edits", None)

    def identity(self) -> RunIdentity:
        """What the file with the run's edits must be of."""
        return RunIdentity(self.run_name, tuple(i for i in self.instance_head.instance_ids.tolist() if i > 0))

    @property
    def frozen(self) -> bool:
        """Whether the radiance field comes from another run and stays as it is."""
        return self.config.radiance_checkpoint is not None

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        groups = {} if self.frozen else super().get_param_groups()
        if self.config.use_instances:
            groups["instance_head"] = list(self.instance_head.parameters())
        return groups

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        # nerfstudio asks for callbacks once, in training only, after it has read the checkpoint to resume from.
        pipeline, trainer = training_callback_attributes.pipeline, training_callback_attributes.trainer
        assert pipeline is not None
        assert trainer is not None
        if self.config.implementation == "auto" and trainer.local_rank == 0:
            # A checkpoint is read by what wrote it, also where another implementation works by then.
            self.config.implementation = self.implementation
            trainer.config.save_config()
        if self.config.radiance_checkpoint is not None and not is_resumed(trainer.config):
            load_radiance(self, self.config.radiance_checkpoint)
        known = set(self.instance_head.instance_ids.tolist())
        unknown = set(self.kwargs["metadata"]["instance_ids"].tolist()) - known
        if self.config.use_instances and unknown:
            raise InputError(
                f"{trainer.config.load_dir or trainer.config.load_checkpoint}: its instance head does not know the ids "
                f"{sorted(unknown)[:10]} of the masks; train a new head on it with "
                "--pipeline.model.radiance-checkpoint"
            )
        if self.config.use_instances and self.config.use_voxel_loss and self.config.instance_voxels is not None:
            self.voxels = InstanceVoxels(self.config.instance_voxels, *self.world_to_scene).to(self.device)

        sampler = cast(InstancePixelSampler, pipeline.datamanager.train_pixel_sampler)

        def activate_instances(step: int) -> None:
            start = 0 if self.frozen else self.config.instance_start_step
            self.instances_active = self.config.use_instances and step >= start
            sampler.use_patches = self.instances_active and self.config.use_label_regularization
            sampler.use_boundaries = self.config.use_instances

        callbacks = [TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], activate_instances)]
        # A frozen field's proposals are trained: annealing them anew would flatten the samples.
        return callbacks if self.frozen else callbacks + super().get_training_callbacks(training_callback_attributes)

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:
        if self.training:
            self.camera_optimizer.apply_to_raybundle(ray_bundle)
        with torch.no_grad() if self.frozen else nullcontext():
            outputs, ray_samples, weights, geometry = radiance_outputs(self, ray_bundle)
        if self.config.use_instances and (self.instances_active or not self.training):
            with self._aside(ray_samples, weights, geometry):
                outputs |= instance_outputs(self, ray_samples, weights, geometry)
        whole = outputs.pop("whole_accumulation", None)
        if whole is not None and "instance_ids" in outputs:
            nothing = hits_nothing(outputs["accumulation"], whole)
            outputs["instance_ids"] = outputs["instance_ids"].masked_fill(nothing, 0)
        return outputs

    def _aside(self, *inputs: Any) -> AbstractContextManager[None]:
        """Where the head, which never changes the field, works beside it; see `SideStream`."""
        return nullcontext() if self.side_stream is None else self.side_stream.aside(*inputs)

    @torch.no_grad()
    def field_samples(
        self, ray_bundle: RayBundle
    ) -> tuple[Float[Tensor, "rays samples 3"], Float[Tensor, "rays samples features"], Float[Tensor, "rays samples"]]:
        """What the instance head is given of each ray: normalised positions, geometry features and weights."""
        if self.training:
            self.camera_optimizer.apply_to_raybundle(ray_bundle)
        if self.collider is not None:
            ray_bundle = self.collider(ray_bundle)
        ray_samples: RaySamples
        ray_samples, _, _ = self.proposal_sampler(ray_bundle, density_fns=self.density_fns)
        density, geometry = self.field.get_density(ray_samples)
        positions = self.normalized_positions(ray_samples.frustums.get_positions())
        return positions, geometry, ray_samples.get_weights(density)[..., 0]

    def normalized_positions(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Scene positions in the unit cube in which nerfacto's field lives; those outside become 0, as there."""
        if self.field.spatial_distortion is not None:
            positions = (self.field.spatial_distortion(positions) + 2.0) / 4.0
        else:
            positions = SceneBox.get_normalized_positions(positions, self.field.aabb)
        inside = ((positions > 0.0) & (positions < 1.0)).all(dim=-1, keepdim=True)
        return positions * inside

    def instance_logits_at(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points classes"]:
        """Logits of points in the scene frame, as if each were an opaque surface."""
        positions = self.normalized_positions(points)
        with torch.no_grad():
            geometry = self.field.mlp_base(positions)[..., 1:]
        return self.instance_head.classify(self.instance_head(positions, geometry))

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        metrics: dict[str, Tensor] = {}
        if "rgb" in outputs:
            # The formula, not torchmetrics' module: its bookkeeping costs more than a millisecond per iteration.
            truth = self.renderer_rgb.blend_background(batch["image"].to(self.device))
            metrics["psnr"] = -10 * torch.log10((outputs["rgb"].detach() - truth).square().mean())
        if "weights_list" in outputs and not self.frozen:
            # Quadratic in the samples; nerfacto wants it even where it counts for nothing.
            metrics["distortion"] = (
                distortion_loss(outputs["weights_list"], outputs["ray_samples_list"])
                if self.config.distortion_loss_mult
                else torch.zeros((), device=self.device)
            )
        self.camera_optimizer.get_metrics_dict(metrics)
        if "instance_logits" in outputs:
            with self._aside(batch):
                targets = self.instance_targets(batch)
                labelled = targets >= 0
                hits = (outputs["instance_logits"].argmax(-1) == targets) & labelled
                metrics["instance_accuracy"] = hits.sum() / labelled.sum().clamp(min=1)
        return metrics

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        losses = {} if "rgb" not in outputs or self.frozen else super().get_loss_dict(outputs, batch, metrics_dict)
        if "instance_logits" in outputs:
            with self._aside(batch):
                losses |= instance_losses(self, outputs, batch)
        return losses

    def instance_targets(self, batch: dict[str, Any]) -> Int[Tensor, " rays"]:
        """Logit index of each ray's label, -1 without one; kept in the batch, as metrics and losses both ask."""
        if "instance_targets" not in batch:
            batch["instance_targets"] = self.instance_head.targets(batch["instances"][..., 0].to(self.device))
        return batch["instance_targets"]

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
        if edits != _NO_EDITS:
            self._rendering.class_edits = ClassEdits.of(edits, self.instance_head.instance_ids)
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

        The edits of the run are applied, or those that are given.
        """
        with self.edited(edits):
            return super().get_outputs_for_camera(camera, obb_box)

    @torch.no_grad()
    def get_outputs_for_camera_ray_bundle(self, camera_ray_bundle: RayBundle) -> dict[str, Tensor]:
        # As nerfstudio's, but pictures that do not fit into memory go on in smaller chunks, and so do all that follow.
        parts: dict[str, list[Tensor]] = defaultdict(list)

        def march(start: int, end: int) -> None:
            rays = camera_ray_bundle.get_row_major_sliced_ray_bundle(start, end).to(self.device)
            for name, output in self(rays).items():
                if isinstance(output, Tensor):
                    parts[name].append(output.to(camera_ray_bundle.directions.device))

        height, width = camera_ray_bundle.origins.shape[:2]
        # Equal chunks: a small last one takes as many launches as a large one.
        pieces = math.ceil(height * width / self.config.eval_num_rays_per_chunk)
        chunk = math.ceil(height * width / pieces)
        fitted = in_chunks(march, height * width, chunk, "lower --pipeline.model.eval-num-rays-per-chunk")
        if fitted < chunk:
            self.config.eval_num_rays_per_chunk = fitted
        outputs = {name: torch.cat(values).view(height, width, -1) for name, values in parts.items()}
        if "instance_ids" in outputs:  # coloured at once: a colour takes fifty launches, however many pixels it has
            ids = outputs["instance_ids"][..., 0]
            edits = _NO_EDITS if self.class_edits is None else self.class_edits.edits
            outputs["instances"] = edits.colour(ids)
            outputs["instances_overlay"] = overlay(
                outputs["rgb"], ids, self.config.overlay_opacity, colours=outputs["instances"]
            )
        return outputs

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        # nerfstudio would go on with untrained weights, without a word.
        check_parameter_layout(state_dict, self.state_dict(), "the checkpoint")
        return super().load_state_dict(state_dict, *args, **kwargs)

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

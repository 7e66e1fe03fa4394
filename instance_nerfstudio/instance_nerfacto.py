"""`instance-nerfacto`: nerfacto with an instance head that never changes the radiance field."""

import math
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.model_components.losses import (
    distortion_loss,
)
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from torch import Tensor
from torch.nn import Parameter

from instance_nerfstudio.edits.hidden_matter import hits_nothing
from instance_nerfstudio.edits.instance_edits import InstanceEdits
from instance_nerfstudio.errors import InputError
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
from instance_nerfstudio.image_metrics import light_image_metrics
from instance_nerfstudio.instance_head import InstanceHead, InstanceHeadConfig
from instance_nerfstudio.instance_model import InstanceModel, InstanceOptions
from instance_nerfstudio.instance_objective import instance_losses
from instance_nerfstudio.instance_outputs import instance_outputs
from instance_nerfstudio.instance_pixel_sampler import InstancePixelSampler
from instance_nerfstudio.instance_voxels import InstanceVoxels
from instance_nerfstudio.memory_chunks import in_chunks
from instance_nerfstudio.radiance_outputs import radiance_outputs
from instance_nerfstudio.side_stream import SideStream

if TYPE_CHECKING:
    from instance_nerfstudio.edits.seen_matter import SeenMatter


@dataclass
class InstanceNerfactoModelConfig(InstanceOptions, NerfactoModelConfig):
    """nerfacto's options plus those of the instance head."""

    _target: type = field(default_factory=lambda: InstanceNerfactoModel)
    """Target class to instantiate."""
    implementation: WantedImplementation = "auto"  # type: ignore[assignment]
    """Hash grids and MLPs by tiny-cuda-nn, in Triton and torch, or in torch; `auto`: the first of them that works."""
    instance_head: InstanceHeadConfig = field(default_factory=InstanceHeadConfig)
    """Size of the instance head."""
    radiance_checkpoint: Path | None = None
    """A trained nerfacto run (its folder, config.yml or .ckpt) to keep frozen while only the instance head trains."""
    instance_samples_per_ray: int = 16
    """Samples of a ray that the head sees in training, drawn by their weights; 0 takes all. Rendering uses all."""
    use_label_regularization: bool = False
    """Whether neighbouring pixels without a depth edge between them are drawn to the same label."""
    label_regularization_mult: float = 0.001
    """Weight of the label regularization."""
    label_regularization_depth_edge: float = 0.03
    """Relative depth step between neighbouring pixels that counts as an edge."""
    use_voxel_loss: bool = True
    """Whether the cross-entropy over the voxels of `instance_voxels` is on."""
    voxel_loss_mult: float = 0.1
    """Weight of the voxel cross-entropy."""
    voxels_per_batch: int = 2048
    """Voxels drawn per iteration."""


class InstanceNerfactoModel(InstanceModel, NerfactoModel):
    """nerfacto (Tancik et al. 2023) with the instance field of Instance-NeRF (Liu et al. 2023).

    Volume rendering weights and geometry features reach the head detached, so RGB trains as in nerfacto.
    """

    config: InstanceNerfactoModelConfig
    instance_head: InstanceHead

    def populate_modules(self) -> None:
        device = self.kwargs.get("device", "cpu")
        self.implementation: Implementation = choose_implementation(self.config.implementation, device)
        with light_image_metrics(), in_nerfstudios_terms(self.config, self.implementation):
            super().populate_modules()
        metadata = self.kwargs["metadata"]
        self.instance_head = self.config.instance_head.setup(
            geometry_dim=self.field.geo_feat_dim,
            instance_ids=metadata.get("instance_ids", torch.zeros(1, dtype=torch.int32)),
            implementation=self.implementation,
        )
        self.world_to_scene = (metadata["dataparser_transform"], metadata["dataparser_scale"])
        self.voxels: InstanceVoxels | None = None
        self.side_stream: SideStream | None = None  # where the head trains, if not in line with the field
        self.add_instance_state(self.config)
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
    def frozen(self) -> bool:
        return self.config.radiance_checkpoint is not None

    def seen_matter(self, edits: InstanceEdits) -> "SeenMatter | None":
        if self.scene_survey is None:
            return None
        ids = self.instance_head.instance_ids
        return self.scene_survey.matter(edits.hides(ids.tolist()), ids, self.normalized_positions)

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
        self.check_ids(trainer.config, "train a new head on it with --pipeline.model.radiance-checkpoint")
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
            truth = self.renderer_rgb.blend_background(batch["image"].to(self.device))
            metrics["psnr"] = self.psnr(outputs["rgb"].detach(), truth)
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
        return {name: torch.cat(values).view(height, width, -1) for name, values in parts.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        # nerfstudio would go on with untrained weights, without a word.
        check_parameter_layout(state_dict, self.state_dict(), "the checkpoint")
        return super().load_state_dict(state_dict, *args, **kwargs)

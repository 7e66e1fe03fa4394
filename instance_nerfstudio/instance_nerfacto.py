"""`instance-nerfacto`: nerfacto with an instance head that never changes the radiance field."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.data.scene_box import OrientedBox, SceneBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.model_components.losses import (
    distortion_loss,
    orientation_loss,
    pred_normal_loss,
    scale_gradients_by_distance_squared,
)
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from nerfstudio.utils import colormaps
from torch import Tensor
from torch.nn import Parameter

from instance_nerfstudio.compat import UnavailableLPIPS, lpips_without_download
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.evaluation.metrics import view_metrics
from instance_nerfstudio.hash_grid import use_hash_grids
from instance_nerfstudio.instance_head import InstanceHeadConfig
from instance_nerfstudio.instance_pixel_sampler import InstancePixelSampler
from instance_nerfstudio.instance_voxels import InstanceVoxels
from instance_nerfstudio.losses import instance_cross_entropy, label_regularization
from instance_nerfstudio.masks.palette import colour_instances, overlay
from instance_nerfstudio.radiance_checkpoint import is_resumed, load_radiance


@dataclass
class InstanceNerfactoModelConfig(NerfactoModelConfig):
    """nerfacto's options plus those of the instance head."""

    _target: type = field(default_factory=lambda: InstanceNerfactoModel)
    """Target class to instantiate."""
    instance_head: InstanceHeadConfig = field(default_factory=InstanceHeadConfig)
    """Size of the instance head."""
    use_instances: bool = True
    """Train the instance head; off leaves plain nerfacto."""
    instance_start_step: int = 2000
    """Step from which the instance head trains: before it, geometry is too vague to hang labels on."""
    radiance_checkpoint: Path | None = None
    """A trained nerfacto run (its folder, config.yml or .ckpt) to keep frozen while only the instance head trains."""
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


class InstanceNerfactoModel(NerfactoModel):
    """nerfacto (Tancik et al. 2023) with the instance field of Instance-NeRF (Liu et al. 2023).

    Volume rendering weights and geometry features reach the head detached, so RGB trains as in nerfacto.

    Outputs per ray, beside nerfacto's: `instances` (palette colour), `instances_overlay` (the same over the photo) and
    `instance_confidence` (calibrated probability of the most likely instance). `render` adds `instance_ids`.
    """

    config: InstanceNerfactoModelConfig

    def populate_modules(self) -> None:
        with lpips_without_download():
            super().populate_modules()
        metadata = self.kwargs["metadata"]
        self.instance_head = self.config.instance_head.setup(
            geometry_dim=self.field.geo_feat_dim,
            instance_ids=metadata.get("instance_ids", torch.zeros(1, dtype=torch.int32)),
            implementation=self.config.implementation,
        )
        self.world_to_scene = (metadata["dataparser_transform"], metadata["dataparser_scale"])
        self.voxels: InstanceVoxels | None = None
        self.instances_active = False
        self.keep_logits = False  # evaluation keeps `instance_logits` only where they are asked for: K floats per ray
        use_hash_grids(self, input_gradients=self.config.camera_optimizer.mode != "off" or self.config.predict_normals)
        if self.frozen:
            has_loss = self.config.use_instance_loss or self.config.instance_voxels is not None
            if not (self.config.use_instances and has_loss):
                raise InputError("--pipeline.model.radiance-checkpoint: every instance loss is off, so nothing trains")
            for module in (self.field, self.proposal_networks, self.camera_optimizer):
                module.requires_grad_(False)

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
        # nerfacto's own `get_outputs`, in its order, with the geometry feature kept for the head. Training leaves out
        # the depth pictures, which no loss reads; over a frozen field it leaves out colour too.
        if self.training:
            self.camera_optimizer.apply_to_raybundle(ray_bundle)
        with torch.no_grad() if self.frozen else nullcontext():
            ray_samples: RaySamples
            ray_samples, weights_list, ray_samples_list = self.proposal_sampler(
                ray_bundle, density_fns=self.density_fns
            )
            with_normals = self.config.predict_normals and not self.frozen
            with torch.enable_grad() if with_normals else nullcontext():
                density, geometry = self.field.get_density(ray_samples)
            if self.config.use_gradient_scaling:
                density = scale_gradients_by_distance_squared({FieldHeadNames.DENSITY: density}, ray_samples)[
                    FieldHeadNames.DENSITY
                ]
            weights = ray_samples.get_weights(density)
            weights_list.append(weights)
            ray_samples_list.append(ray_samples)
            outputs: dict[str, Any] = {
                "accumulation": self.renderer_accumulation(weights=weights),
                "expected_depth": self.renderer_expected_depth(weights=weights, ray_samples=ray_samples),
            }
            if not (self.frozen and self.training):
                outputs |= self._colour_outputs(ray_bundle, ray_samples, geometry, weights, with_normals)
            if self.training:
                outputs["weights_list"] = weights_list
                outputs["ray_samples_list"] = ray_samples_list
            else:
                outputs["depth"] = self.renderer_depth(weights=weights, ray_samples=ray_samples)
                for i in range(self.config.num_proposal_iterations):
                    outputs[f"prop_depth_{i}"] = self.renderer_depth(
                        weights=weights_list[i], ray_samples=ray_samples_list[i]
                    )
        if self.config.use_instances and (self.instances_active or not self.training):
            outputs |= self._instance_outputs(ray_samples, weights, geometry, outputs)
        return outputs

    def _colour_outputs(
        self,
        ray_bundle: RayBundle,
        ray_samples: RaySamples,
        geometry: Float[Tensor, "rays samples features"],
        weights: Float[Tensor, "rays samples 1"],
        with_normals: bool,
    ) -> dict[str, Tensor]:
        """nerfacto's colour and, with `predict_normals`, its normals and their losses."""
        field_outputs = self.field.get_outputs(ray_samples, density_embedding=geometry)
        if with_normals:
            with torch.enable_grad():
                field_outputs[FieldHeadNames.NORMALS] = self.field.get_normals()
        if self.config.use_gradient_scaling:
            field_outputs = scale_gradients_by_distance_squared(field_outputs, ray_samples)
        outputs = {"rgb": self.renderer_rgb(rgb=field_outputs[FieldHeadNames.RGB], weights=weights)}
        if with_normals:
            normals, predicted = field_outputs[FieldHeadNames.NORMALS], field_outputs[FieldHeadNames.PRED_NORMALS]
            outputs["normals"] = self.normals_shader(self.renderer_normals(normals=normals, weights=weights))
            outputs["pred_normals"] = self.normals_shader(self.renderer_normals(normals=predicted, weights=weights))
            if self.training:
                detached = weights.detach()
                outputs["rendered_orientation_loss"] = orientation_loss(detached, normals, ray_bundle.directions)
                outputs["rendered_pred_normal_loss"] = pred_normal_loss(detached, normals.detach(), predicted)
        return outputs

    def _instance_outputs(
        self,
        ray_samples: RaySamples,
        weights: Float[Tensor, "rays samples 1"],
        geometry: Float[Tensor, "rays samples features"],
        outputs: dict[str, Any],
    ) -> dict[str, Tensor]:
        """Logits in training; ids, confidences and pictures in evaluation."""
        positions = self._normalized_positions(ray_samples.frustums.get_positions().detach())
        hidden = self.instance_head(positions, geometry.detach())
        features = (weights.detach() * hidden).sum(dim=-2)
        if self.training:
            return {"instance_logits": self.instance_head.classify(features)}
        ids, confidence = self.instance_head.predict(features)
        logits = {"instance_logits": self.instance_head.classify(features)} if self.keep_logits else {}
        return logits | {
            "instances": colour_instances(ids[..., 0]),
            "instances_overlay": overlay(outputs["rgb"], ids[..., 0], self.config.overlay_opacity),
            "instance_confidence": confidence,
            "instance_ids": ids,
        }

    def _normalized_positions(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Scene positions in the unit cube in which nerfacto's field lives; those outside become 0, as there."""
        if self.field.spatial_distortion is not None:
            positions = (self.field.spatial_distortion(positions) + 2.0) / 4.0
        else:
            positions = SceneBox.get_normalized_positions(positions, self.field.aabb)
        inside = ((positions > 0.0) & (positions < 1.0)).all(dim=-1, keepdim=True)
        return positions * inside

    def instance_logits_at(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points classes"]:
        """Logits of points in the scene frame, as if each were an opaque surface."""
        positions = self._normalized_positions(points)
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
            metrics["distortion"] = distortion_loss(outputs["weights_list"], outputs["ray_samples_list"])
        self.camera_optimizer.get_metrics_dict(metrics)
        if "instance_logits" in outputs:
            targets = self.instance_targets(batch)
            labelled = targets >= 0
            hits = (outputs["instance_logits"].argmax(-1) == targets) & labelled
            metrics["instance_accuracy"] = hits.sum() / labelled.sum().clamp(min=1)
        return metrics

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        losses = {} if "rgb" not in outputs or self.frozen else super().get_loss_dict(outputs, batch, metrics_dict)
        if "instance_logits" not in outputs:
            return losses
        logits = outputs["instance_logits"]
        if self.config.use_instance_loss:
            losses["instance_loss"] = self.config.instance_loss_mult * instance_cross_entropy(
                logits, self.instance_targets(batch)
            )
        if self.config.use_label_regularization and batch.get("patch_rays", 0):
            size = batch["patch_size"]
            patches = (-1, size, size)
            losses["label_regularization"] = self.config.label_regularization_mult * label_regularization(
                logits[: batch["patch_rays"]].view(*patches, logits.shape[-1]),
                outputs["expected_depth"][: batch["patch_rays"]].view(patches),
                self.config.label_regularization_depth_edge,
            )
        if self.voxels is not None:
            points, labels = self.voxels.sample(self.config.voxels_per_batch)
            losses["voxel_loss"] = self.config.voxel_loss_mult * instance_cross_entropy(
                self.instance_logits_at(points), self.instance_head.targets(labels)
            )
        return losses

    def instance_targets(self, batch: dict[str, Any]) -> Int[Tensor, " rays"]:
        """Logit index of each ray's label, -1 without one."""
        return self.instance_head.targets(batch["instances"][..., 0].to(self.device))

    @torch.no_grad()
    def render(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """All outputs of one camera, with `instance_ids` int32 (H, W, 1), which `get_outputs_for_camera` leaves out."""
        training = self.training
        self.eval()
        try:
            return super().get_outputs_for_camera(camera, obb_box)
        finally:
            self.train(training)

    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        # An integer output would stop nerfstudio's viewer: it has no colormap for it.
        outputs = self.render(camera, obb_box)
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
        truth = batch["instances"][..., 0].to(outputs["instance_ids"])
        predicted = outputs["instance_ids"][..., 0]
        metrics |= view_metrics(predicted, truth)
        wrong = ((predicted != truth) & (truth >= 0))[..., None].float()
        error = torch.cat([wrong, torch.zeros_like(wrong), torch.zeros_like(wrong)], dim=-1)
        images["instances"] = torch.cat([colour_instances(truth), outputs["instances"], error], dim=1)
        images["instance_confidence"] = colormaps.apply_colormap(outputs["instance_confidence"])
        return metrics, images

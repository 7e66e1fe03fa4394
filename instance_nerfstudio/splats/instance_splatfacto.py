"""`instance-splatfacto`: Gaussian splats that know which object they belong to."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int32, Shaped
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.model_components.lib_bilagrid import total_variation_loss
from nerfstudio.models.splatfacto import RGB2SH, SplatfactoModel, SplatfactoModelConfig
from nerfstudio.utils.misc import step_check
from torch import Tensor
from torch.nn import Parameter

from instance_nerfstudio.edits.instance_edits import InstanceEdits
from instance_nerfstudio.image_metrics import light_image_metrics
from instance_nerfstudio.instance_classifier import InstanceClassifier
from instance_nerfstudio.instance_model import InstanceModel, InstanceOptions
from instance_nerfstudio.losses import instance_cross_entropy
from instance_nerfstudio.splats.densification import Densification
from instance_nerfstudio.splats.gaussians import Gaussians
from instance_nerfstudio.splats.lens import has_lens, pinhole_view, through_lens
from instance_nerfstudio.splats.photo_loss import depth_loss, photo_loss
from instance_nerfstudio.splats.pinhole import VIEW, PinholeView, ray_lengths, view_matrix
from instance_nerfstudio.splats.rasterize import Picture, Rasterizer, rasterize

# Of a picture from which Gaussians were taken away, what is less opaque than this is no surface: its id is background.
_SURFACE = 0.5
# Pixels of a held-out picture that its confidences are calibrated on.
_CALIBRATION_PIXELS = 1 << 13


@dataclass
class InstanceSplatfactoModelConfig(InstanceOptions, SplatfactoModelConfig):
    """splatfacto's options plus those of the instances."""

    _target: type = field(default_factory=lambda: InstanceSplatfactoModel)
    """Target class to instantiate."""
    instance_start_step: int = 3000
    """Step from which instances train; Gaussians that are born later inherit their parent's feature."""
    instance_feature_dim: int = 16
    """Width of the feature of a Gaussian; 16 is one pass of the rasterizer, which takes 32 at most at a time."""
    instance_pixels: int = 1 << 16
    """Pixels of a photo that are classified in an iteration, drawn at random where it has more."""
    depth_loss_mult: float = 0.2
    """Weight of the depths that a teacher's views have; 0 leaves them out."""
    rasterizer: Rasterizer = "gsplat"
    """`gsplat` needs a CUDA GPU; `reference` is plain torch: for tiny scenes on any machine, and slow."""


class InstanceSplatfactoModel(InstanceModel, SplatfactoModel):
    """splatfacto (Kerbl et al. 2023, as nerfstudio trains it) with a feature per Gaussian, blended like its colour.

    One linear layer classifies the blended features. Geometry and opacity reach them detached, so colours train as in
    splatfacto. A Gaussian that no view has labelled keeps the feature zero: it abstains.
    """

    config: InstanceSplatfactoModelConfig
    info: dict[str, Any]

    def populate_modules(self) -> None:
        seed = self.seed_points
        if seed is not None:  # splatfacto would put their colours on a GPU
            self.seed_points = (seed[0], seed[1][:0])
        with light_image_metrics():
            super().populate_modules()
        self.seed_points = seed
        self.strategy = Densification.of(self.strategy)
        if seed is not None and not self.config.random_init and len(seed[1]):
            rgb = seed[1].float() / 255
            dc = RGB2SH(rgb) if self.config.sh_degree > 0 else torch.logit(rgb, eps=1e-10)
            self.gauss_params["features_dc"] = Parameter(dc)
        width = self.config.instance_feature_dim
        ids = self.kwargs["metadata"].get("instance_ids", torch.zeros(1, dtype=torch.int32))
        self.instance_head = InstanceClassifier(width, ids)
        # Zero features and zero weights would never leave zero.
        torch.nn.init.normal_(self.instance_head.classifier.weight, std=width**-0.5)
        if self.config.use_instances:
            self.gauss_params["instance_features"] = Parameter(torch.zeros(self.num_points, width))
        self._training_views: dict[tuple[int, int], PinholeView] = {}
        self._steps_per_log = 1
        self.add_instance_state(self.config)

    @property
    def instance_features(self) -> Float[Tensor, "gaussians features"]:
        """What is blended and classified."""
        return self.gauss_params["instance_features"]

    @property
    def gaussians(self) -> Gaussians:
        """Geometry and opacity, activated."""
        opacities = torch.sigmoid(self.opacities).squeeze(-1)
        return Gaussians(self.means, self.quats, torch.exp(self.scales), opacities)

    @torch.no_grad()
    def gaussian_ids(self, edits: InstanceEdits | None = None) -> Int32[Tensor, " gaussians"]:
        """Instance of each Gaussian by itself, after the merges of `edits`; -1 where it abstains."""
        classes = self._gaussian_classes()
        ids = self.instance_head.instance_ids[classes.clamp(min=0)]
        if edits is not None:
            ids = edits.merge_ids(ids)
        return torch.where(classes >= 0, ids, -1).to(torch.int32)

    def _gaussian_classes(self) -> Int[Tensor, " gaussians"]:
        """Place of each Gaussian's most likely class; -1 where it abstains."""
        likely = self.instance_head.most_likely(self.instance_features)
        return torch.where((self.instance_features != 0).any(dim=-1), likely, -1)

    def get_gaussian_param_groups(self) -> dict[str, list[Parameter]]:
        groups = super().get_gaussian_param_groups()
        if self.config.use_instances:
            groups["instance_features"] = [self.gauss_params["instance_features"]]
        return groups

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        groups = super().get_param_groups()
        if self.config.use_instances:
            groups["instance_head"] = list(self.instance_head.parameters())
        return groups

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        trainer = training_callback_attributes.trainer
        assert trainer is not None
        self.check_ids(trainer.config, "train anew on this scene")
        self._steps_per_log = trainer.config.logging.steps_per_log

        def activate_instances(step: int) -> None:
            self.instances_active = self.config.use_instances and step >= self.config.instance_start_step

        activate = TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], activate_instances)
        return [activate, *super().get_training_callbacks(training_callback_attributes)]

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:
        # In the order of splatfacto's, whose rasterization can't be extended from outside.
        pose = None
        if self.training and self.camera_optimizer.config.mode != "off":
            pose = self.camera_optimizer.apply_to_camera(camera.to(self.device))
        kept = None if self.training else self._kept()
        if kept is not None and not bool(kept.any()):
            return self._nothing(camera)
        picture = self.picture(camera, pose, kept)
        height, width = self.last_size
        if self.training:
            self.info = picture.info
            self.strategy.step_pre_backward(
                self.gauss_params, self.optimizers, self.strategy_state, self.step, self.info
            )
        background = self._get_background_color()
        rgb = torch.clamp(picture.colours + (1 - picture.accumulation) * background, 0.0, 1.0)
        photo = (camera.metadata or {}).get("cam_idx")
        if self.config.use_bilateral_grid and self.training and photo is not None:
            rgb = self._apply_bilateral_grid(rgb[None], photo, height, width).squeeze(0)
        depth = picture.depth
        if depth is not None:
            depth = torch.where(picture.accumulation > 0, depth, depth.detach().max())
        outputs: dict[str, Any] = {
            "rgb": rgb,
            "depth": depth,
            "accumulation": picture.accumulation,
            "background": background if self.training else background.expand(height, width, 3),
        }
        if self.config.use_instances and (self.instances_active or not self.training):
            outputs |= self._instance_outputs(picture, kept)
        return outputs

    def picture(
        self,
        camera: Cameras,
        pose: Float[Tensor, "1 3 4"] | None = None,
        kept: Bool[Tensor, " gaussians"] | None = None,
    ) -> Picture:
        """The Gaussians from a camera, before a background and the bilateral grid.

        Args:
            camera: one, of shape (1,); training renders it at the resolution that splatfacto's schedule has come to.
            pose: in the place of the camera's own, which training moves.
            kept: Gaussians to draw; None for all.
        """
        view = self._view(camera, pose)
        self.last_size = (view.height, view.width)
        colours, sh_degree = torch.cat([self.features_dc[:, None], self.features_rest], dim=1), None
        if self.config.sh_degree > 0:
            sh_degree = min(self.step // self.config.sh_degree_interval, self.config.sh_degree)
        else:
            colours = torch.sigmoid(colours).squeeze(1)
        gaussians = self.gaussians
        if kept is not None:
            gaussians, colours = gaussians.select(kept), colours[kept]
        return rasterize(
            gaussians,
            colours,
            view.viewmat,
            view.intrinsics,
            view.width,
            view.height,
            sh_degree=sh_degree,
            depth=self._wants_depth(camera),
            absgrad=self.strategy.absgrad,
            antialiased=self.config.rasterize_mode == "antialiased",
            rasterizer=self.config.rasterizer,
        )

    def _wants_depth(self, camera: Cameras) -> bool:
        """In training depths cost time; only a teacher's views, which are no photos, need them."""
        if not self.training or self.config.output_depth_during_training:
            return True
        metadata = camera.metadata or {}
        return self.config.depth_loss_mult > 0 and VIEW in metadata and "cam_idx" not in metadata

    def _view(self, camera: Cameras, pose: Float[Tensor, "1 3 4"] | None) -> PinholeView:
        """Of a training view it is kept on the GPU: each number sent there makes the host wait."""
        factor = self._get_downscale_factor()
        number = (camera.metadata or {}).get(VIEW) if self.training else None
        view = self._training_views.get((number, factor)) if number is not None else None
        if view is None:
            view = PinholeView.of(camera, factor, self.device)
            if number is not None:
                self._training_views[number, factor] = view
        return view if pose is None else replace(view, viewmat=view_matrix(pose[0]))

    def _instance_outputs(self, picture: Picture, kept: Bool[Tensor, " gaussians"] | None) -> dict[str, Tensor]:
        """Blended features in training, and where they are asked for; otherwise what they say."""
        features = self.instance_features if kept is None else self.instance_features[kept]
        blended = picture.composite(features)
        if self.training:
            return {"instance_features": blended}
        edits = self.class_edits
        ids, confidence = self.instance_head.predict(
            blended.flatten(0, 1), edits and edits.groups, edits and edits.shown
        )
        ids, confidence = (each.view(*blended.shape[:2], 1) for each in (ids, confidence))
        if edits is not None and edits.shown is not None:
            ids = ids.masked_fill(picture.accumulation < _SURFACE, 0)
        kept_features = {"instance_features": blended} if self.keep_logits else {}
        return kept_features | {"instance_ids": ids, "instance_confidence": confidence}

    def _kept(self) -> Bool[Tensor, " gaussians"] | None:
        """Gaussians inside the crop box whose instance is shown, whole ones; None for all. Those that abstain are
        background."""
        kept = None
        if self.crop_box is not None:
            kept = self.crop_box.within(self.means).squeeze()
        edits = self.class_edits
        if edits is not None and edits.shown is not None and self.config.use_instances:
            shown = edits.shown[self._gaussian_classes().clamp(min=0)]
            kept = shown if kept is None else kept & shown
        return kept

    def _nothing(self, camera: Cameras) -> dict[str, Any]:
        height, width = int(camera.height.item()), int(camera.width.item())
        outputs: dict[str, Any] = self.get_empty_outputs(width, height, self.background_color.to(self.device))
        outputs["background"] = outputs["rgb"]
        if self.config.use_instances:
            empty = outputs["accumulation"]
            outputs |= {"instance_ids": torch.zeros_like(empty, dtype=torch.int32), "instance_confidence": empty + 1}
        return outputs

    @torch.no_grad()
    def render(
        self, camera: Cameras, obb_box: OrientedBox | None = None, edits: InstanceEdits | None = None
    ) -> dict[str, Tensor]:
        # Photos are undistorted for training; the cameras they were taken with are not.
        pinhole, places = pinhole_view(camera) if has_lens(camera) else (camera, None)
        outputs = super().render(pinhole, obb_box, edits)
        outputs["depth"] = outputs["depth"] * ray_lengths(pinhole).to(self.device)
        return outputs if places is None else through_lens(outputs, places)

    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        # nerfstudio takes splatfacto's depth as the distance from the image plane.
        outputs = super().get_outputs_for_camera(camera, obb_box)
        return outputs | {"depth": outputs["depth"] / ray_lengths(camera).to(outputs["depth"])}

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        if self.training and not step_check(self.step, self._steps_per_log, run_at_zero=True):
            return {}  # nobody would see them
        metrics = super().get_metrics_dict(outputs, batch)
        if "instance_features" in outputs:
            logits, targets = self._drawn_pixels(outputs, batch)
            labelled = targets >= 0
            hits = (logits.argmax(-1) == targets) & labelled
            metrics["instance_accuracy"] = hits.sum() / labelled.sum().clamp(min=1)
        return metrics

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        # splatfacto's, which sends two constants to the GPU each time, and waits.
        photo = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        picture = outputs["rgb"]
        if "mask" in batch:
            mask = self._downscale_if_required(batch["mask"]).to(self.device)
            photo, picture = photo * mask, picture * mask
        losses = {"main_loss": photo_loss(picture, photo, self.config.ssim_lambda)}
        if self.config.use_scale_regularization and self.step % 10 == 0:
            lengths = self.scales.amax(dim=-1) - self.scales.amin(dim=-1)  # logarithms
            losses["scale_reg"] = 0.1 * (lengths.exp() - self.config.max_gauss_ratio).clamp(min=0).mean()
        if self.training:
            self.camera_optimizer.get_loss_dict(losses)
            if self.config.use_bilateral_grid:
                losses["tv_loss"] = 10 * total_variation_loss(self.bil_grids.grids)
        if self.training and "teacher_depth" in batch and self.config.depth_loss_mult > 0:
            depth = outputs["depth"]
            target = self._at_training_size(batch["teacher_depth"], depth)
            losses["depth_loss"] = self.config.depth_loss_mult * depth_loss(depth, target)
        if "instance_features" in outputs and self.config.use_instance_loss:
            logits, targets = self._drawn_pixels(outputs, batch)
            losses["instance_loss"] = self.config.instance_loss_mult * instance_cross_entropy(logits, targets)
        return losses

    def labelled_logits(
        self, rays: Any, batch: dict[str, Any]
    ) -> tuple[Float[Tensor, "rays classes"], Int[Tensor, " rays"]]:
        features, targets = self._labelled_features(self(rays), batch)
        drawn = torch.randperm(len(targets), device=targets.device)[:_CALIBRATION_PIXELS]
        return self.instance_head.classify(features[drawn]), targets[drawn]

    def _drawn_pixels(
        self, outputs: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[Float[Tensor, "pixels classes"], Int[Tensor, " pixels"]]:
        """Logits and targets of random pixels; kept in the outputs, as metrics and losses both ask."""
        if "instance_pixels" not in outputs:
            features, targets = self._labelled_features(outputs, batch)
            if len(targets) > self.config.instance_pixels:  # some twice, which is cheaper than to shuffle all
                drawn = torch.randint(len(targets), (self.config.instance_pixels,), device=targets.device)
                features, targets = features[drawn], targets[drawn]
            outputs["instance_pixels"] = self.instance_head.classify(features), targets
        return outputs["instance_pixels"]

    def _labelled_features(
        self, outputs: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[Float[Tensor, "pixels features"], Int[Tensor, " pixels"]]:
        """Blended features of all pixels, and their targets."""
        features = outputs["instance_features"]
        return features.flatten(0, 1), self._at_training_size(self.instance_targets(batch), features).flatten()

    def _at_training_size(self, values: Shaped[Tensor, "H W *rest"], picture: Tensor) -> Shaped[Tensor, "h w *rest"]:
        """What the pixels have that a picture of this size has, early in training, when it is smaller."""
        factor = self._get_downscale_factor()
        height, width = picture.shape[:2]
        return values[factor // 2 :: factor, factor // 2 :: factor][:height, :width]

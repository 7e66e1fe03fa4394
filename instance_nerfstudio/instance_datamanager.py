"""Data manager that finds the instance masks of any nerfstudio scene and checks the scene before training."""

from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.pixel_samplers import PixelSamplerConfig

from instance_nerfstudio.instance_dataset import InstanceDataset
from instance_nerfstudio.instance_pixel_sampler import InstancePixelSampler, InstancePixelSamplerConfig
from instance_nerfstudio.labelled_scene import LabelledScene, MaskOptions
from instance_nerfstudio.resident_pixels import ResidentPixels, resident_pixels


@dataclass
class InstanceDataManagerConfig(MaskOptions, VanillaDataManagerConfig):
    """nerfstudio's data manager plus instance masks."""

    _target: type = field(default_factory=lambda: InstanceDataManager)
    """Target class to instantiate."""
    pixel_sampler: PixelSamplerConfig = field(default_factory=InstancePixelSamplerConfig)
    """Samples pixels, and patches for the label regularization."""
    resident_bytes: int = 8 << 30
    """GPU memory that training images, labels and ray directions may take; what does not fit stays on the host, whose
    sampling is slower."""


class InstanceDataManager(LabelledScene, VanillaDataManager[InstanceDataset]):
    """Reads a scene through any nerfstudio dataparser, with one instance map per image where there is one."""

    config: InstanceDataManagerConfig
    _resident: ResidentPixels | None = None
    _tried_resident: bool = False

    def setup_eval(self) -> None:
        super().setup_eval()
        # Held-out rays stand for the pictures they are drawn from: calibration and evaluation losses rely on it.
        if isinstance(self.eval_pixel_sampler, InstancePixelSampler):
            self.eval_pixel_sampler.use_boundaries = False

    def resident_pixels(self) -> ResidentPixels | None:
        """The training pixels on the GPU; None on a CPU, if they don't fit, or are drawn in ways of their own."""
        if self._tried_resident:
            return self._resident
        self._tried_resident = True
        device, sampler = torch.device(self.device), self.train_pixel_sampler
        if (
            device.type == "cuda"
            and isinstance(sampler, InstancePixelSampler)
            and not sampler.config.is_equirectangular
            and sampler.config.fisheye_crop_radius is None
            and self.train_image_dataloader.cached_collated_batch is not None
            and self.train_image_dataloader.cache_all_images
        ):
            self._resident = resident_pixels(
                self.train_image_dataloader.cached_collated_batch,
                self.train_dataset.cameras,
                sampler.config.boundary_radius,
                min(self.config.resident_bytes, torch.cuda.mem_get_info(device)[0] // 2),
                device,
            )
        return self._resident

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Any]]:
        resident, sampler = self.resident_pixels(), self.train_pixel_sampler
        if resident is None or not isinstance(sampler, InstancePixelSampler) or sampler.use_patches:
            return super().next_train(step)
        self.train_count += 1
        fraction = sampler.config.boundary_fraction if sampler.use_boundaries else 0.0
        return resident.sample(sampler.num_rays_per_batch, fraction)

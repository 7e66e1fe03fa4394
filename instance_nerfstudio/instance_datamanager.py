"""Data manager that finds the instance masks of any nerfstudio scene and checks the scene before training."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.pixel_samplers import PixelSamplerConfig

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.instance_dataset import InstanceDataset
from instance_nerfstudio.instance_pixel_sampler import InstancePixelSampler, InstancePixelSamplerConfig
from instance_nerfstudio.masks.instance_masks import (
    InstanceInfo,
    find_instance_masks,
    find_instances_json,
    read_instances_json,
)
from instance_nerfstudio.resident_pixels import ResidentPixels, resident_pixels


@dataclass
class InstanceDataManagerConfig(VanillaDataManagerConfig):
    """nerfstudio's data manager plus instance masks."""

    _target: type = field(default_factory=lambda: InstanceDataManager)
    """Target class to instantiate."""
    pixel_sampler: PixelSamplerConfig = field(default_factory=InstancePixelSamplerConfig)
    """Samples pixels, and patches for the label regularization."""
    masks_dir: Path | None = None
    """Folder of the instance masks; by default `instance_masks/` in the scene."""
    require_masks: bool = True
    """Whether training on a scene without any mask is an error; never with `--pipeline.model.use-instances False`."""
    resident_bytes: int = 8 << 30
    """GPU memory that training images, labels and ray directions may take; what does not fit stays on the host, whose
    sampling is slower."""


class InstanceDataManager(VanillaDataManager[InstanceDataset]):
    """Reads a scene through any nerfstudio dataparser, with one instance map per image where there is one.

    Attributes:
        instances: what the scene's `instances.json` says of its instances; empty without one.

    Raises:
        InputError: the scene or its masks are unusable; the message names the file and the remedy.
    """

    config: InstanceDataManagerConfig
    instances: list[InstanceInfo]
    _resident: ResidentPixels | None = None
    _tried_resident: bool = False

    def __init__(self, config: InstanceDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        data = config.data or getattr(config.dataparser, "data", None)
        if data is not None:
            check_scene(Path(data), needs_transforms=isinstance(config.dataparser, NerfstudioDataParserConfig))
        super().__init__(config, *args, **kwargs)

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

    def create_train_dataset(self) -> InstanceDataset:
        outputs = self.train_dataparser_outputs
        if len(outputs.image_filenames) < 2:
            raise InputError(
                f"{self.config.data}: {len(outputs.image_filenames)} training view(s); "
                "a field needs at least 2, and 20 or more to be useful"
            )
        dataset = self._create_dataset(outputs)
        path = find_instances_json(Path(self.get_datapath()), self.config.masks_dir)
        self.instances = read_instances_json(path) if path is not None else []
        ids = {info.id for info in self.instances}
        labelled = self.config.require_masks or any(dataset.mask_paths)
        if self.test_mode == "val" and labelled:  # training: later commands take the ids from the checkpoint
            ids |= set(dataset.scan_instance_ids())
        dataset.metadata["instance_ids"] = torch.tensor([0, *sorted(ids)], dtype=torch.int32)
        return dataset

    def create_eval_dataset(self) -> InstanceDataset:
        return self._create_dataset(self.dataparser.get_dataparser_outputs(split=self.test_split))

    def _create_dataset(self, outputs: DataparserOutputs) -> InstanceDataset:
        if not torch.isfinite(outputs.cameras.camera_to_worlds).all():
            raise InputError(f"{self.config.data}: a camera pose is not finite; remove or repair that frame")
        # Only training can't do without masks. Held-out views may have none.
        training = self.test_mode == "val" and outputs is self.train_dataparser_outputs
        required = training and self.config.require_masks
        paths = find_instance_masks(outputs.image_filenames, Path(self.get_datapath()), self.config.masks_dir, required)
        return InstanceDataset(outputs, self.config.camera_res_scale_factor, paths)


def check_scene(data: Path, needs_transforms: bool) -> None:
    """Finds what nerfstudio's dataparser would answer with a traceback, or not at all."""
    if not data.exists():
        raise InputError(f"{data}: no such folder; give the scene with --data")
    transforms = data if data.suffix == ".json" else data / "transforms.json"
    if not transforms.is_file():
        if needs_transforms:
            raise InputError(f"{transforms}: no such file; make one with ns-process-data, or name another dataparser")
        return
    try:
        frames = json.loads(transforms.read_text())["frames"]
        poses = [(Path(frame["file_path"]), frame["transform_matrix"]) for frame in frames]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{transforms}: not a nerfstudio transforms.json ({error!r}); make one with ns-process-data"
        ) from error
    if len(poses) < 2:
        raise InputError(f"{transforms}: {len(poses)} view(s); a field needs at least 2, and 20 or more to be useful")
    for name, pose in poses:
        rows = pose if isinstance(pose, list) and all(isinstance(row, list) for row in pose) else []
        numbers = [x for row in rows for x in row]
        if len(rows) not in (3, 4) or any(len(row) != 4 for row in rows):
            raise InputError(f"{transforms}: the pose of {name} is not a 4x4 matrix; repair or remove that frame")
        if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
            raise InputError(f"{transforms}: the pose of {name} is not finite; repair or remove that frame")

"""A nerfstudio dataset that yields instance labels beside each image."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int32
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.masks.instance_masks import UNLABELLED, read_instance_mask, resize_labels


class InstanceDataset(InputDataset):
    """Adds `instances`, int32 (H, W, 1): -1 unlabelled, 0 background, else the instance id.

    Labels are fitted to the image that nerfstudio loaded, by nearest neighbour: it may have switched to `images_2/`,
    or scaled again by `camera_res_scale_factor`.

    Args:
        dataparser_outputs: images and cameras.
        scale_factor: nerfstudio's scale of images and cameras.
        mask_paths: one mask file or None (unlabelled) per image; None means no labels at all.
    """

    exclude_batch_keys_from_device = [*InputDataset.exclude_batch_keys_from_device, "instances"]  # noqa: RUF012

    def __init__(
        self,
        dataparser_outputs: DataparserOutputs,
        scale_factor: float = 1.0,
        mask_paths: Sequence[Path | None] | None = None,
    ) -> None:
        super().__init__(dataparser_outputs, scale_factor)
        self.mask_paths = list(mask_paths) if mask_paths is not None else [None] * len(self.image_filenames)
        # The model turns world units (detector boxes and voxels) into the scene's frame with these.
        self.metadata["dataparser_transform"] = dataparser_outputs.dataparser_transform
        self.metadata["dataparser_scale"] = dataparser_outputs.dataparser_scale

    def get_metadata(self, data: dict) -> dict:
        height, width = data["image"].shape[:2]
        return {"instances": torch.from_numpy(self.labels(data["image_idx"], height, width))[..., None]}

    def labels(self, image_idx: int, height: int, width: int) -> Int32[np.ndarray, "height width"]:
        """Instance ids of one image at the given size."""
        path = self.mask_paths[image_idx]
        if path is None:
            return np.full((height, width), UNLABELLED, dtype=np.int32)
        return resize_labels(read_instance_mask(path), height, width, path)

    def scan_instance_ids(self) -> list[int]:
        """Reads every mask once and returns the instance ids (> 0) in them, ascending.

        Raises:
            InputError: a mask can't be read, has the wrong size, or none holds an instance.
        """
        sizes = torch.cat([self.cameras.height, self.cameras.width], dim=-1).tolist()

        def read(index: int) -> np.ndarray:
            return np.unique(self.labels(index, *(int(side) for side in sizes[index])))

        with ThreadPoolExecutor() as pool:
            found = list(pool.map(read, [i for i, path in enumerate(self.mask_paths) if path is not None]))
        ids = sorted({int(i) for unique in found for i in unique if i > 0})
        if not ids:
            example = next((path for path in self.mask_paths if path is not None), None)
            if example is None:
                raise InputError(
                    f"{self.image_filenames[0]}: neither this nor another training image has a mask; put masks named "
                    "like the images into instance_masks/, or name their folder with --pipeline.datamanager.masks-dir"
                )
            raise InputError(
                f"{example.parent}: the masks of all {len(found)} training images hold background only; "
                "ids 1..65534 mark instances"
            )
        return ids

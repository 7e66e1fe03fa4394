"""A scene's photos with its instance masks, as every data manager of this package reads and checks them."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nerfstudio.data.datamanagers.base_datamanager import DataManager
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.instance_dataset import InstanceDataset
from instance_nerfstudio.masks.instance_masks import (
    InstanceInfo,
    find_instance_masks,
    find_instances_json,
    read_instances_json,
)


@dataclass
class MaskOptions:
    """Where masks are, beside the options of the data manager that reads them."""

    masks_dir: Path | None = None
    """Folder of the instance masks; by default `instance_masks/` in the scene."""
    require_masks: bool = True
    """Whether training on a scene without any mask is an error; never with `--pipeline.model.use-instances False`."""


class LabelledScene(DataManager):
    """To be put before nerfstudio's data manager class that is extended.

    Attributes:
        instances: what the scene's `instances.json` says of its instances; empty without one.

    Raises:
        InputError: the scene or its masks are unusable; the message names the file and the remedy.
    """

    config: Any
    instances: list[InstanceInfo]
    test_mode: str
    test_split: str
    dataparser: Any
    train_dataparser_outputs: DataparserOutputs

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        data = config.data or getattr(config.dataparser, "data", None)
        if data is not None:
            check_scene(Path(data), needs_transforms=isinstance(config.dataparser, NerfstudioDataParserConfig))
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]

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

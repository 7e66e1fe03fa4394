"""A scene of two balls, small enough to train on in seconds, and a method small enough for it."""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from instance_nerfstudio.masks.instance_masks import write_instance_mask
from instance_nerfstudio.masks.instances_json import InstanceInfo, write_instances_json

# What imports nerfstudio is imported when used: most tests below this folder do without.
if TYPE_CHECKING:
    from instance_nerfstudio.instance_trainer import InstanceTrainerConfig

WIDTH, HEIGHT, FOCAL = 32, 24, 30.0
IDS = (1, 300)
CENTRES = np.array([[-0.45, 0.0, 0.0], [0.5, 0.1, 0.1]])
RADII = np.array([0.45, 0.4])
COLOURS = np.array([[70, 80, 90], [230, 40, 30], [30, 60, 220]], dtype=np.uint8)
ANGLES = (0.0, 1.1, 2.2, 3.3, 0.0, 2.2)
BALL_COLOURS = [[0.9, 0.9, 0.9], [0.8, 0.1, 0.1], [0.1, 0.2, 0.9]]
HELD_OUT_VIEWS = 2  # the last ones; they repeat poses, because so short a training does not generalise


def camera_pose(angle: float) -> np.ndarray:
    """Camera to world, OpenGL convention, on a ring around the spheres and looking at their middle."""
    centre = np.array([2.2 * np.sin(angle), -2.2 * np.cos(angle), 0.9])
    back = centre / np.linalg.norm(centre)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, centre], axis=1)
    return pose


def cast(pose: np.ndarray, width: int, height: int, focal: float) -> np.ndarray:
    """Which sphere each pixel shows: 0 none, else its number from 1."""
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    camera = np.stack([(column - width / 2) / focal, (height / 2 - row) / focal, -np.ones_like(row)], axis=-1)
    direction = camera @ pose[:3, :3].T
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    offset = pose[:3, 3] - CENTRES
    along = direction @ offset.T  # [height, width, spheres]
    root = along**2 - (offset**2).sum(1) + RADII**2
    distance = np.where(root > 0, -along - np.sqrt(root.clip(0)), np.inf)
    return np.where(np.isfinite(distance.min(-1)), 1 + distance.argmin(-1), 0)


def write_scene(
    folder: Path,
    ids: Sequence[int] = IDS,
    sizes: Sequence[tuple[int, int]] = ((WIDTH, HEIGHT),) * len(ANGLES),
    angles: Sequence[float] = ANGLES,
) -> Path:
    """Photos, masks, `instances.json` and `transforms.json` of the spheres.

    `sizes` are (width, height) per view, `angles` its place on the ring.
    """
    (folder / "images").mkdir(parents=True)
    frames = []
    for view, (width, height) in enumerate(sizes):
        pose, focal = camera_pose(angles[view]), FOCAL * width / WIDTH
        shown = cast(pose, width, height, focal)
        Image.fromarray(COLOURS[shown]).save(folder / "images" / f"{view}.png")
        write_instance_mask(folder / "instance_masks" / f"{view}.png", np.array([0, *ids])[shown])
        intrinsics = {"w": width, "h": height, "cx": width / 2, "cy": height / 2, "fl_x": focal, "fl_y": focal}
        frames.append({"file_path": f"images/{view}.png", "transform_matrix": pose.tolist(), **intrinsics})
    names = [frame["file_path"] for frame in frames]
    split = {"train": names[:-HELD_OUT_VIEWS], "val": names[-HELD_OUT_VIEWS:], "test": names[-HELD_OUT_VIEWS:]}
    meta = {"frames": frames, **{f"{part}_filenames": listed for part, listed in split.items()}}
    (folder / "transforms.json").write_text(json.dumps(meta))
    infos = [InstanceInfo(i, category) for i, category in zip(ids, ("ball", "globe"), strict=True)]
    write_instances_json(folder / "instances.json", infos)
    return folder


def shrunken_config(scene: Path, output: Path, **model: Any) -> "InstanceTrainerConfig":
    """`instance-nerfacto-cpu`, smaller still; `model` are options of the model."""
    from instance_nerfstudio.instance_head import InstanceHeadConfig
    from instance_nerfstudio.method_config import instance_nerfacto_cpu

    config: Any = deepcopy(instance_nerfacto_cpu.config)
    config.data = config.pipeline.datamanager.data = scene
    config.output_dir = output
    config.max_num_iterations = 60
    config.steps_per_save = config.steps_per_eval_batch = config.steps_per_eval_image = 0
    config.steps_per_eval_all_images = 0
    config.pipeline.calibration_batches = 2
    config.pipeline.datamanager.train_num_rays_per_batch = 256
    config.pipeline.datamanager.eval_num_rays_per_batch = 256
    for group in config.optimizers.values():
        group["optimizer"].lr, group["scheduler"].lr_final = 5e-2, 1e-2
    options = {
        "average_init_density": 1.0,
        "proposal_weights_anneal_max_num_iters": 30,  # ends within the run: checkpoints do not hold it
        "use_gradient_scaling": False,
        "use_label_regularization": True,
        "use_appearance_embedding": True,
        "distortion_loss_mult": 0.002,
        "instance_start_step": 20,
        "num_levels": 4,
        "max_res": 64,
        "log2_hashmap_size": 12,
        "hidden_dim": 16,
        "hidden_dim_color": 16,
        "num_nerf_samples_per_ray": 12,
        "num_proposal_samples_per_ray": (24,),
        "proposal_net_args_list": [
            {"hidden_dim": 8, "log2_hashmap_size": 10, "num_levels": 3, "max_res": 32, "use_linear": False}
        ],
        "appearance_embed_dim": 4,
        "eval_num_rays_per_chunk": 500,  # an image takes two chunks
        "instance_head": InstanceHeadConfig(num_levels=4, max_res=64, log2_hashmap_size=10, hidden_dim=16),
    }
    config.pipeline.model = replace(config.pipeline.model, **{**options, **model})
    return config


def train(config: Any) -> Any:
    """Trains a configuration of one of the methods; the trainer, its pipeline in evaluation mode."""
    from rich.progress import Progress

    from instance_nerfstudio.training import train_quietly

    with Progress(disable=True) as progress:
        return train_quietly(config, progress)[0]

"""`instance-splatfacto` on the scene of two balls, small enough to train in seconds without a GPU."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ball_scene import CENTRES, COLOURS, RADII

POINTS_PER_BALL = 250


def write_start_points(path: Path) -> Path:
    """Points on the balls in their colours, in the world frame."""
    import trimesh

    random = np.random.default_rng(0)
    directions = random.normal(size=(2, POINTS_PER_BALL, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    points = CENTRES[:, None] + RADII[:, None, None] * directions
    colours = np.repeat(COLOURS[1:], POINTS_PER_BALL, axis=0)
    trimesh.PointCloud(points.reshape(-1, 3), colors=colours).export(path)
    return path


def small_splats(scene: Path, output: Path, **model: Any) -> Any:
    """The method's configuration on a CPU; `model` are options of the model."""
    from instance_nerfstudio.method_config import instance_splatfacto

    config: Any = deepcopy(instance_splatfacto.config)
    config.data = config.pipeline.datamanager.data = scene
    config.output_dir = output
    config.machine.device_type = "cpu"
    config.max_num_iterations = 80
    config.steps_per_save = config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.pipeline.calibration_batches = 2
    config.pipeline.datamanager.start_points = write_start_points(output.parent / f"{output.name}.ply")
    for name in ("instance_features", "instance_head"):
        config.optimizers[name]["optimizer"].lr = 5e-2
    options = {
        "rasterizer": "reference",
        "background_color": "white",
        "num_downscales": 0,
        "warmup_length": 40,
        "refine_every": 20,
        "densify_grad_thresh": 0.002,
        "instance_start_step": 10,
        "sh_degree": 1,
        "sh_degree_interval": 20,
    }
    config.pipeline.model = replace(config.pipeline.model, **{**options, **model})
    return config

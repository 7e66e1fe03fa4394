"""A small scene whose own masks, renumbered in every view, are the segments of an oracle, and a whole run of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from instance_nerfstudio.masks.instance_masks import read_instance_mask, write_instance_mask
from instance_nerfstudio.pipeline.options import (
    DensityOptions,
    DetectOptions,
    ExportOptions,
    MatchOptions,
    RadianceOptions,
    RefineOptions,
    SceneOptions,
    TrainOptions,
)
from instance_nerfstudio.pipeline.run_scene import run_scene

VIEWS = 24
ROOM_BOX = [[-1.2, -1.2, -0.8], [1.2, 1.2, 0.8]]
SPHERES = ((np.array([-0.45, 0.0, 0.0]), 0.45), (np.array([0.5, 0.1, 0.1]), 0.4))
SKIPPED = "3"
"""The view that the oracle has nothing for. Others begin like it, or it like them: 1, 10, 2, 21, ..."""


@pytest.fixture(scope="session")
def spheres(write_scene: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> SceneOptions:
    """The scene, its oracle, a detector's instances, and options for a small field. Only to be read."""
    folder = tmp_path_factory.mktemp("spheres")
    angles = np.random.default_rng(0).permutation(np.linspace(0, 2 * np.pi, VIEWS, endpoint=False))
    scene = write_scene(folder / "scene", sizes=((32, 24),) * VIEWS, angles=angles.tolist())
    meta = json.loads((scene / "transforms.json").read_text())
    for frame in meta["frames"]:  # the truth: to be scored against, and for nothing else
        frame["instance_mask_path"] = frame["file_path"].replace("images", "instance_masks")
    (scene / "transforms.json").write_text(json.dumps({**meta, "room_bbox": ROOM_BOX}))
    options = SceneOptions(
        data=scene,
        radiance=RadianceOptions(radiance_iterations=400, method="instance-nerfacto-cpu"),
        density=DensityOptions(resolution=24),
        detect=DetectOptions(instances=_write_instances(folder / "instances.npz")),
        match=MatchOptions("hungarian"),
        train=TrainOptions(iterations=200),
        refine=RefineOptions(refine_rounds=1),
        export=ExportOptions(cameras="eval"),
    )
    return replace(options, segment=replace(options.segment, source="folder", masks=_oracle(scene, folder / "masks")))


def _oracle(scene: Path, folder: Path) -> Path:
    """The scene's masks with ids that mean nothing beyond a view."""
    for place, path in enumerate(sorted((scene / "instance_masks").glob("*.png"))):
        ids = read_instance_mask(path)
        numbers = np.unique(ids[ids > 0])
        renumbered = np.zeros_like(ids)
        for number, name in zip(numbers, np.random.default_rng(place).permutation(len(numbers)), strict=True):
            renumbered[ids == number] = 1 + name
        if path.stem != SKIPPED:
            write_instance_mask(folder / path.name, renumbered)
    return folder


def _write_instances(path: Path) -> Path:
    """The spheres as a detector's instances."""
    import torch

    from rcnn.data import GridFrame
    from rcnn.instances import SceneInstances, VoxelMasks, write_instances

    low, shape, edge = np.array(ROOM_BOX[0]), (24, 24, 16), 0.1
    centres = low + (np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) + 0.5) * edge
    masks = np.stack([np.linalg.norm(centres - centre, axis=-1) < radius + edge for centre, radius in SPHERES])
    corners = [np.concatenate([c - r - edge - low, c + r + edge - low]) / edge for c, r in SPHERES]
    instances = SceneInstances(
        torch.tensor(np.array(corners), dtype=torch.float32),
        torch.tensor([0.9, 0.8]),
        torch.tensor([0, 1], dtype=torch.int32),
        VoxelMasks.of(torch.from_numpy(masks)),
        ("ball", "globe"),
    )
    write_instances(path, instances, GridFrame(low, np.full(3, edge), np.eye(4)))
    return path


@pytest.fixture(scope="session")
def small_method(make_config: Callable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`instance-nerfacto-cpu` trains in seconds; in one thread, for several have nothing to share in so small a one."""
    import torch
    from nerfstudio.plugins.types import MethodSpecification

    from instance_nerfstudio import method_config

    config = make_config(
        Path("scene"), tmp_path_factory.mktemp("unused"), use_label_regularization=False,
        use_appearance_embedding=False, average_init_density=0.01, use_gradient_scaling=True,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method_config, "instance_nerfacto_cpu", MethodSpecification(config, "smaller still"))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def whole_run(spheres: SceneOptions, small_method: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the scene, all stages done. Only to be read."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_scene(spheres, folder, Console(quiet=True))
    return folder

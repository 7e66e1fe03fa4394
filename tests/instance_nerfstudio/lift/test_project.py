"""Instances rendered with a field's weights, on boxes whose density is a formula."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.model_components.ray_samplers import UniformSampler
from nerfstudio.model_components.renderers import DepthRenderer

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.density_field import scene_from_world
from instance_nerfstudio.lift.instance_grid import InstanceGrid
from instance_nerfstudio.lift.project import ProjectionConfig, project_instances
from instance_nerfstudio.lift.view_projection import read_projections, write_projections
from rcnn.data.sample import GridFrame
from rcnn.instances import SceneInstances, VoxelMasks

# World units: a cube, a larger one behind it (seen along +y), and a plate that is no instance in front of both.
CUBES = [((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5)), ((-1.0, 1.5, -1.0), (1.0, 2.5, 1.0))]
BOX = np.array([[-2.0, -2.0, -2.0], [2.0, 4.0, 2.0]])
SHAPE = (40, 60, 40)
TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def to_scene() -> np.ndarray:
    """World -> scene: turned, half as large, moved."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = 0.5 * TURN, (0.1, -0.2, 0.05)
    return matrix


def model(sigma: float = 400.0, boxes: Any = CUBES, device: str = "cpu") -> Any:
    """What `project_instances` needs of nerfacto, with the density of boxes."""
    inverse = torch.tensor(np.linalg.inv(to_scene()), dtype=torch.float32, device=device)
    corners = torch.tensor(boxes, dtype=torch.float32, device=device)

    def density(samples: Any) -> tuple[torch.Tensor, None]:
        world = samples.frustums.get_positions() @ inverse[:3, :3].T + inverse[:3, 3]
        inside = ((world[..., None, :] > corners[:, 0]) & (world[..., None, :] < corners[:, 1])).all(-1).any(-1)
        return sigma * inside[..., None].float(), None

    sampler = UniformSampler(num_samples=512, train_stratified=False)

    def sample(rays: Any, density_fns: Any) -> tuple[Any, None, None]:
        rays.nears, rays.fars = torch.zeros_like(rays.origins[:, :1]), torch.full_like(rays.origins[:, :1], 4.0)
        return sampler(rays), None, None

    return SimpleNamespace(
        device=torch.device(device),
        collider=None,
        density_fns=None,
        proposal_sampler=sample,
        field=SimpleNamespace(get_density=density),
        renderer_depth=DepthRenderer("median"),
    )


def camera(position: tuple[float, float, float], target: tuple[float, float, float], size: int = 48) -> Cameras:
    """Looks from one point of the world to another, z up."""
    back = np.array(position) - np.array(target)
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.stack([right, np.cross(back, right), back, np.array(position)], 1)
    pose[:, :3] = TURN @ pose[:, :3]
    pose[:, 3] = to_scene()[:3, :3] @ pose[:, 3] + to_scene()[:3, 3]
    return Cameras(torch.tensor(pose)[None].float(), float(size), float(size), size / 2, size / 2, size, size)


def grid(boxes: Any = CUBES) -> InstanceGrid:
    ids = np.zeros(SHAPE, np.int32)
    edge = (BOX[1] - BOX[0]) / SHAPE
    for number, corners in enumerate(boxes, 1):
        low, high = (np.round((np.array(corner) - BOX[0]) / edge).astype(int) for corner in corners)
        ids[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = number
    return InstanceGrid(ids, BOX[0], BOX[1], ("box",) * len(boxes), np.ones(len(boxes), np.float32))


FRONT = camera((0.0, -3.0, 0.0), (0.0, 0.0, 0.0))
SIDE = camera((3.0, 0.5, 0.0), (0.0, 0.5, 0.0))


def test_masks_and_what_is_hidden() -> None:
    front, side = project_instances(model(), [FRONT, SIDE], to_scene(), grid())
    # The front cube's face is 2.5 away and 1 wide, with a focal length of 48 pixels: 19.2 pixels square.
    assert front.size == (48, 48)
    masks = front.dense()
    assert masks.dtype == np.float16
    assert math.sqrt((masks[0] > 0.5).sum()) == pytest.approx(19.2, abs=0.9)
    # Where the front cube is, the one behind it has nothing; around it, its face 4.5 away is 21.3 pixels square.
    assert masks[1][masks[0] > 0.99].max() < 0.011
    assert math.sqrt(((masks[0] > 0.5) | (masks[1] > 0.5)).sum()) == pytest.approx(21.3, abs=0.9)
    assert masks.astype(np.float32).sum(0).max() <= 1.001
    ids = front.ids()
    assert (ids[24, 24], ids[24, 13], ids[0, 0]) == (1, 2, 0)
    # From the side both are whole.
    assert side.visible[1] > 0.4
    assert front.visible[1] < 0.35
    assert front.visible[0] > 0.3


def test_voxels_are_where_rays_end() -> None:
    truth = grid()
    (front,) = project_instances(model(), [FRONT], to_scene(), truth)
    hit = front.voxels >= 0
    assert hit.sum() == pytest.approx(21.3**2, rel=0.1)
    owners = truth.ids.ravel()[front.voxels[hit]]
    # Of rays that end within a voxel of a face, a few round into the air before it.
    assert (owners == front.ids()[hit]).mean() > 0.95
    place = np.stack(np.unravel_index(front.voxels[24, 24], SHAPE))
    assert BOX[0][1] + (place[1] + 0.5) * 0.1 == pytest.approx(-0.5, abs=0.1)


def test_light_that_passes_through_is_shared() -> None:
    """A thin front cube takes 1 - exp(-sigma * length) of the light, the rest is of the one behind it."""
    sigma_world = 1.0
    thin = model(sigma=sigma_world / 0.5)  # densities are per scene unit, which is 2 world units
    (front,) = project_instances(thin, [FRONT], to_scene(), grid())
    centre = front.dense()[:, 24, 24].astype(float)
    first = 1 - math.exp(-1.0)
    assert centre == pytest.approx([first, math.exp(-1.0) * first], abs=0.02)


def test_borders_are_finer_than_voxels() -> None:
    """Voxels of half a unit that stick out of the cube add nothing: where the field is empty there is no light."""
    coarse = np.zeros((8, 12, 8), np.int32)
    coarse[2:6, 2:6, 2:6] = 1
    wide = InstanceGrid(coarse, BOX[0], BOX[1], ("box",), np.ones(1, np.float32))
    (front,) = project_instances(model(boxes=CUBES[:1]), [FRONT], to_scene(), wide)
    assert math.sqrt((front.dense()[0] > 0.5).sum()) == pytest.approx(19.2, abs=0.9)


def test_an_occluder_that_is_no_instance() -> None:
    plate = ((-1.5, -1.2, -1.5), (0.0, -1.0, 1.5))
    (front,) = project_instances(model(boxes=[*CUBES, plate]), [FRONT], to_scene(), grid())
    masks = front.dense()
    assert masks[:, :, :23].max() == 0
    assert (masks[0] > 0.5).sum() == pytest.approx(19.2**2 / 2, rel=0.1)


def test_chunks_sizes_and_no_instances() -> None:
    whole = project_instances(model(), [FRONT, SIDE], to_scene(), grid())
    steps: list[float] = []
    parts = project_instances(
        model(), [FRONT, SIDE], to_scene(), grid(), ProjectionConfig(rays_per_chunk=77), steps.append
    )
    for a, b in zip(whole, parts, strict=True):
        assert np.array_equal(a.voxels, b.voxels)
        assert np.allclose(a.weights.toarray(), b.weights.toarray(), atol=1e-6)
        assert np.array_equal(a.visible, b.visible)
    assert sum(steps) == pytest.approx(1)
    (small,) = project_instances(model(), [FRONT], to_scene(), grid(), ProjectionConfig(longest_side=24))
    assert small.size == small.voxels.shape == (24, 24)
    nothing = InstanceGrid.empty(BOX[0], BOX[1], SHAPE)
    (bare,) = project_instances(model(), [FRONT], to_scene(), nothing)
    assert (bare.dense().shape, bare.visible.shape) == ((0, 48, 48), (0,))
    assert not bare.ids().any()
    assert np.array_equal(bare.voxels, whole[0].voxels)
    assert project_instances(model(), [], to_scene(), nothing) == []


def test_nerfactos_own_weights(make_pipeline: Any) -> None:
    """An instance that fills space gets all light that the method itself renders, and rays end at its median depth."""
    pipeline = make_pipeline(test_mode="inference").eval()
    outputs = pipeline.datamanager.train_dataparser_outputs
    matrix = scene_from_world(outputs.dataparser_transform, outputs.dataparser_scale)
    everywhere = InstanceGrid(
        np.ones((2, 2, 2), np.int32), np.full(3, -1e4), np.full(3, 1e4), ("all",), np.ones(1, np.float32)
    )
    cameras = pipeline.datamanager.train_dataset.cameras
    views = project_instances(pipeline.model, [cameras[i : i + 1] for i in range(2)], matrix, everywhere)
    for i, view in enumerate(views):
        rendered = pipeline.model.render(cameras[i : i + 1].to(pipeline.device))
        share = view.weights.toarray().reshape(view.size)
        assert np.abs(share - rendered["accumulation"][..., 0].numpy()).max() < 0.003
        assert (view.voxels >= 0).sum() == (rendered["accumulation"] > 0.5).sum()


def test_grid_out_of_a_detectors_instances() -> None:
    dense = torch.zeros(3, 4, 4, 4, dtype=torch.bool)
    dense[0, :2], dense[1, 1:3], dense[2, 3] = True, True, True
    found = SceneInstances(
        torch.zeros(3, 6), torch.tensor([0.9, 0.95, 0.3]), torch.tensor([1, 0, 1], dtype=torch.int32),
        VoxelMasks.of(dense), ("chair", "sofa"),
    )  # fmt: skip
    frame = GridFrame(np.array([1.0, 0.0, 0.0]), np.full(3, 0.5), np.eye(4))
    result = InstanceGrid.of(found, frame)
    assert result.categories == ("sofa", "chair")
    assert result.ids[:, 0, 0].tolist() == [1, 2, 2, 0]
    assert result.bbox_max.tolist() == [3.0, 2.0, 2.0]
    assert result.voxels_of(np.array([[1.1, 0.1, 0.6], [0.9, 0.1, 0.1], [2.9, 1.9, 1.9]])).tolist() == [1, -1, 63]
    with pytest.raises(ValueError, match="same instances"):
        InstanceGrid(result.ids, result.bbox_min, result.bbox_max, ("sofa",), np.ones(1, np.float32))


def test_file(tmp_path: Path) -> None:
    views = project_instances(model(), [FRONT, SIDE], to_scene(), grid(), ProjectionConfig(longest_side=20))
    path = tmp_path / "projections.npz"
    write_projections(path, {"a/1": views[0], "10": views[1]})
    read = read_projections(path)
    assert list(read) == ["a/1", "10"]
    for before, after in zip(views, read.values(), strict=True):
        assert after.size == before.size
        assert np.abs(before.weights.toarray() - after.weights.toarray()).max() < 0.51 / 255
        assert np.array_equal(before.voxels, after.voxels)
        assert np.array_equal(before.visible, after.visible)
        assert np.array_equal(before.ids(), after.ids())
    write_projections(path, {})
    assert read_projections(path) == {}
    bare = project_instances(model(), [FRONT], to_scene(), InstanceGrid.empty(BOX[0], BOX[1], SHAPE))
    write_projections(path, {"x": bare[0]})
    assert np.array_equal(read_projections(path)["x"].voxels, bare[0].voxels)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="projections"):
        read_projections(path)


def test_unknown_cameras() -> None:
    stereo = camera((0.0, -3.0, 0.0), (0.0, 0.0, 0.0))
    stereo.camera_type[:] = CameraType.OMNIDIRECTIONALSTEREO_L.value
    with pytest.raises(InputError, match="not perspective"):
        project_instances(model(), [stereo], to_scene(), grid())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees() -> None:
    here = project_instances(model(), [FRONT, SIDE], to_scene(), grid())
    there = project_instances(model(device="cuda"), [FRONT, SIDE], to_scene(), grid())
    for a, b in zip(here, there, strict=True):
        assert np.abs(a.weights.toarray() - b.weights.toarray()).mean() < 1e-3
        assert (a.voxels == b.voxels).mean() > 0.99

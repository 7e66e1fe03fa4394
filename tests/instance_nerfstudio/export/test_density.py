"""`ns-export density` on a field whose content is known: real frames, contraction and cameras, analytic density."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from rich.progress import Progress

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.density import ExportDensity, density_grid
from instance_nerfstudio.export.density_box import robust_box, scene_bbox
from instance_nerfstudio.export.density_field import DensitySamplingConfig, grid_shape, sample_density_grid
from instance_nerfstudio.export.density_visibility import DepthMaps, project, render_depth_maps
from instance_nerfstudio.method_config import instance_nerfacto
from rcnn.grids import read_density_grid
from rcnn.grids.published import read_published_grid

# In world units. The cameras of the scene stand on a ring of radius 2.2: the second block lies outside of it, and
# so in the contracted part of the scene.
BLOCKS = np.array([[[-0.5, -0.6, -0.4], [0.3, 0.2, 0.5]], [[-1.0, 3.0, -0.7], [1.3, 3.6, 0.8]]])
SIGMA = 40.0
BOX = np.array([[-2.0, -2.5, -1.5], [2.0, 4.0, 1.5]])
APPLIED = [[0.0, 0.0, 1.0, 0.1], [1.0, 0.0, 0.0, -0.2], [0.0, 1.0, 0.0, 0.3]]


class AnalyticField(torch.nn.Module):
    """In place of the field's MLP: takes nerfacto's normalised, contracted positions and undoes both by formula."""

    def __init__(self, world_from_scene: np.ndarray, scale: float, initial: float) -> None:
        super().__init__()
        self.matrix = torch.tensor(world_from_scene, dtype=torch.float64)
        self.log_density = float(np.log(SIGMA / scale / initial))

    def forward(self, normalized: torch.Tensor) -> torch.Tensor:
        contracted = normalized.double() * 4 - 2
        norm = contracted.abs().max(dim=-1, keepdim=True).values
        scene = torch.where(norm > 1, contracted / norm / (2 - norm).clamp(min=1e-9), contracted)
        world = scene @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        blocks = torch.tensor(BLOCKS)
        inside = ((world[:, None] > blocks[:, 0]) & (world[:, None] < blocks[:, 1])).all(-1).any(-1)
        output = torch.zeros(len(normalized), 16)
        output[:, 0] = torch.where(inside, self.log_density, -30.0)
        return output


class DirectionColour(torch.nn.Module):
    """In place of the field's colour MLP: colours that depend on the encoded direction alone."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(inputs[:, 1:4])


@pytest.fixture
def pipeline(scene: Path, make_pipeline: Any, edit_transforms: Any) -> Any:
    """An untrained instance-nerfacto with the analytic field, of a scene that was turned when it was processed."""
    edit_transforms(scene, lambda meta: meta.update(applied_transform=APPLIED))
    samples = {"num_proposal_samples_per_ray": (256,), "num_nerf_samples_per_ray": 64}
    pipeline = make_pipeline(scene, "inference", use_instances=False, **samples).eval()
    model, outputs = pipeline.model, pipeline.datamanager.train_dataparser_outputs
    to_scene = np.eye(4)
    to_scene[:3] = outputs.dataparser_transform.double() * outputs.dataparser_scale
    field = AnalyticField(np.linalg.inv(to_scene), outputs.dataparser_scale, model.field.average_init_density)
    model.field.mlp_base = field
    # proposals look for the same blocks: an untrained network would find nothing
    model.density_fns = [lambda points: model.field.density_fn(points)]
    model.field.mlp_head = DirectionColour()
    return pipeline


CONFIG = DensitySamplingConfig(resolution=52, depth_size=32, points_per_chunk=1 << 15)


def _grid(pipeline: Any, **options: Any) -> Any:
    with Progress(disable=True) as progress:
        return density_grid(pipeline, CONFIG, progress, **options)[0]


def test_known_blocks_are_found_within_a_voxel(pipeline: Any) -> None:
    # the box of the analytic world, in which the cameras are where the data put them before processing
    grid = _grid(pipeline, bbox=BOX)
    assert grid.resolution == (32, 52, 24)
    edge = 6.5 / 52
    np.testing.assert_allclose(grid.voxel_size, edge)
    density = grid.rgbsigma[..., 3].astype(np.float32)
    for low, high in BLOCKS:
        window = tuple(
            slice(max(0, int(a) - 3), int(b) + 4)
            for a, b in zip(grid.world_to_voxels(low), grid.world_to_voxels(high), strict=True)
        )
        filled = np.argwhere(density[window] > SIGMA / 2) + [part.start for part in window]
        np.testing.assert_allclose(grid.voxels_to_world(filled.min(0)), low, atol=edge)
        np.testing.assert_allclose(grid.voxels_to_world(filled.max(0) + 1), high, atol=edge)
        middle = tuple(np.floor(grid.world_to_voxels((low + high) / 2)).astype(int))
        assert density[middle] == pytest.approx(SIGMA, rel=0.01)  # per world unit, not per scene unit
        # the volume is right on average, not only to the nearest voxel
        assert density[window].sum() / SIGMA * edge**3 == pytest.approx(np.prod(high - low), rel=0.05)


def test_frame_leads_back_to_the_world(pipeline: Any) -> None:
    grid = _grid(pipeline, bbox=BOX)
    cameras = pipeline.datamanager.train_dataset.cameras.camera_to_worlds[:, :, 3].double().numpy()
    world = cameras @ grid.world_from_scene[:3, :3].T + grid.world_from_scene[:3, 3]
    meta = json.loads((pipeline.datamanager.config.data / "transforms.json").read_text())
    saved = np.array([frame["transform_matrix"] for frame in meta["frames"]])[: len(world), :3, 3]
    applied = np.array(APPLIED)
    np.testing.assert_allclose(world @ applied[:, :3].T + applied[:, 3], saved, atol=1e-5)


def test_what_is_behind_a_surface_is_not_seen_and_has_no_colour(pipeline: Any) -> None:
    grid = _grid(pipeline, bbox=BOX)
    middle = tuple(np.floor(grid.world_to_voxels(BLOCKS[0].mean(0))).astype(int))
    assert not grid.seen[middle]
    assert (grid.rgbsigma[middle][:3] == 0).all()
    alpha = grid.alpha()
    assert (grid.rgbsigma[grid.seen & (alpha > 0.5)][:, :3] > 0).all()
    assert (grid.rgbsigma[alpha < 1e-3][:, :3] == 0).all()
    # a camera's own surroundings are seen by others, corners that no camera looks at are not
    assert 0.1 < grid.seen.mean() < 0.95


def test_colour_is_the_mean_over_the_views(pipeline: Any) -> None:
    grid, model = _grid(pipeline, bbox=BOX), pipeline.model
    top = np.array([-0.1, 0.15, 0.05])  # all cameras look down on it: the data's z is the world's y
    voxel = np.floor(grid.world_to_voxels(top)).astype(int)
    scene = torch.tensor(np.linalg.inv(grid.world_from_scene) @ [*grid.voxels_to_world(voxel + 0.5), 1.0])[:3].float()
    cameras = pipeline.datamanager.train_dataset.cameras.camera_to_worlds[:, :, 3]
    directions = torch.nn.functional.normalize(scene - cameras, dim=-1)
    encoded = model.field.direction_encoding((directions + 1) / 2)
    expected = torch.sigmoid(encoded[:, 1:4]).mean(0).detach().numpy()
    assert grid.seen[tuple(voxel)]
    # to the accuracy with which any place in the voxel stands for its densest
    np.testing.assert_allclose(grid.rgbsigma[tuple(voxel)][:3], expected, atol=0.01)


def test_chunks_do_not_change_the_grid(pipeline: Any) -> None:
    def grid(points: int) -> Any:
        config = DensitySamplingConfig(resolution=12, depth_size=32, points_per_chunk=points)
        with Progress(disable=True) as progress:
            return density_grid(pipeline, config, progress, bbox=BOX)[0]

    one, many = grid(1 << 20), grid(500)
    np.testing.assert_allclose(one.rgbsigma, many.rgbsigma, atol=1e-3)
    np.testing.assert_array_equal(one.seen, many.seen)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_largest_grid_takes_less_than_4_gb(scene: Path, closed_network: None) -> None:
    config: Any = deepcopy(instance_nerfacto.config)
    config.pipeline.datamanager.data = scene
    config.pipeline.model.use_instances = False
    pipeline = config.pipeline.setup(device="cuda", test_mode="inference").eval()
    torch.cuda.reset_peak_memory_stats()
    cameras = pipeline.datamanager.train_dataset.cameras[torch.arange(200) % 4]  # a scene of 200 views
    sampling = DensitySamplingConfig(resolution=256)
    views = render_depth_maps(pipeline.model, cameras, sampling.depth_size, sampling.rays_per_chunk, lambda _: None)
    box = np.array([[-1.0] * 3, [1.0] * 3])
    grid = sample_density_grid(pipeline.model, views, np.eye(4), box, sampling, lambda _: None)
    assert grid.resolution == (256, 256, 256)
    assert torch.cuda.max_memory_allocated() < 4e9


def test_a_box_with_nothing_in_it_is_refused(pipeline: Any) -> None:
    with pytest.raises(InputError, match="contains nothing"):
        _grid(pipeline, bbox=np.array([[5.0, 5, 5], [6, 6, 6]]))
    other = SimpleNamespace(model=object(), datamanager=None)
    with pytest.raises(InputError, match="instance-nerfacto"):
        _grid(other)


def test_box_from_the_data_and_from_surfaces(scene: Path, edit_transforms: Any, tmp_path: Path) -> None:
    nothing = torch.zeros(2, 8, 8)
    cameras = Cameras(torch.eye(4)[None, :3].repeat(2, 1, 1), 8.0, 8.0, 4.0, 4.0, 8, 8)
    views = DepthMaps(cameras, nothing + 2.0, nothing + 1.0)
    frame = np.diag([2.0, 2, 2, 1])
    # a wall at depth 2 before both cameras, from -1 to 1: between -2 and 2 in a world twice as large
    box, source = scene_bbox(tmp_path / "nowhere", views, frame, 0.1)
    assert "surfaces" in source
    assert box[0, 0] == pytest.approx(-1.75, abs=0.3)
    assert box[1, 1] == pytest.approx(1.75, abs=0.3)
    with pytest.raises(InputError, match="no surface"):
        scene_bbox(None, DepthMaps(cameras, nothing, nothing), frame, 0.1)

    room = [[-1.0, 0, 0.5], [2, 3, 4]]
    edit_transforms(scene, lambda meta: meta.update(room_bbox=room, applied_transform=APPLIED))
    box, source = scene_bbox(scene, views, frame, 0.1)
    assert "room_bbox" in source
    applied = np.array(APPLIED)
    np.testing.assert_allclose(box @ applied[:, :3].T + applied[:, 3], room)
    edit_transforms(scene, lambda meta: meta.update(room_bbox=[[1, 1, 1], [0, 2, 2]]))
    with pytest.raises(InputError, match="room_bbox"):
        scene_bbox(scene, views, frame, 0.1)

    import trimesh

    points = np.random.default_rng(0).uniform(-1, 1, (2000, 3))
    points[:5] = 100
    trimesh.PointCloud(points).export(scene / "sparse_pc.ply")
    edit_transforms(scene, lambda meta: (meta.pop("room_bbox"), meta.pop("applied_transform")))
    box, source = scene_bbox(scene, views, frame, 0.1)
    assert "sparse_pc.ply" in source
    np.testing.assert_allclose(box, [[-1.05] * 3, [1.05] * 3], atol=0.05)
    np.testing.assert_allclose(box, robust_box(points), atol=1e-5)


@pytest.mark.parametrize("kind", [CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.EQUIRECTANGULAR])
@pytest.mark.parametrize("distorted", [False, True])
def test_projection_undoes_the_cameras_rays(kind: CameraType, distorted: bool) -> None:
    width, height, focal = (64, 32, 32.0) if kind == CameraType.EQUIRECTANGULAR else (48, 40, 30.0)
    pose = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    pose = torch.cat([pose * torch.linalg.det(pose), torch.tensor([[0.3], [-0.2], [0.5]])], dim=1)
    distortion = torch.tensor([[-0.05, 0.01, 0.0, 0.0, 0.002, -0.001]]) if distorted else None
    cameras = Cameras(
        pose[None], focal, focal, width / 2, height / 2, width, height, distortion_params=distortion, camera_type=kind
    )
    rays = cameras.generate_rays(camera_indices=0)
    points = (rays.origins + rays.directions * 2.5).reshape(-1, 3)
    rows, columns, distance, inside = project(cameras, points)
    wanted = (
        torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1).reshape(-1, 2) + 0.5
    )
    tolerance = 0.05 if distorted else 1e-2
    assert inside[0].float().mean() > 0.99
    torch.testing.assert_close(torch.stack([rows[0], columns[0]], -1), wanted, atol=tolerance, rtol=0)
    torch.testing.assert_close(distance[0], torch.full_like(distance[0], 2.5))
    if kind == CameraType.PERSPECTIVE:
        assert not project(cameras, 2 * cameras.camera_to_worlds[:, :, 3] - points)[3].any()  # behind


def test_shape_of_cubes() -> None:
    assert grid_shape(np.array([5.31, 3.63, 2.88]), 160)[0] == (160, 110, 87)
    assert grid_shape(np.array([1.0, 1e-6, 1.0]), 10)[0] == (10, 1, 10)


def test_command_writes_grid_and_picture(
    pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run" / "config.yml"
    config.parent.mkdir()
    config.touch()
    monkeypatch.setattr("instance_nerfstudio.export.density.load_run", lambda _: pipeline)
    options = {"resolution": 20, "bbox": tuple(BOX.ravel())}
    ExportDensity(config, tmp_path / "out" / "a.npz", **options).main()  # type: ignore[arg-type]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.npz", "a.png"]
    grid = read_density_grid(tmp_path / "out" / "a.npz")
    assert (grid.density_kind, grid.resolution[1]) == ("sigma", 20)
    assert grid.seen is not None
    with pytest.raises(InputError, match="--overwrite"):
        ExportDensity(config, tmp_path / "out" / "a.npz").main()
    ExportDensity(config, tmp_path / "b.npz", format="nerf-rpn", **options).main()  # type: ignore[arg-type]
    published = read_published_grid(tmp_path / "b.npz", "general")
    np.testing.assert_allclose(published.alpha(), np.where(grid.seen, grid.alpha(), 0), atol=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": Path("a.npy")}, ".npz"),
        ({"resolution": 257}, "--resolution 257"),
        ({"samples_per_axis": 0}, "--samples-per-axis"),
        ({"bbox": (0.0, 0.0, 0.0, 1.0, 0.0, 1.0)}, "--bbox"),
        ({}, "no checkpoint"),
    ],
)
def test_unusable_options_are_one_line(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    config = tmp_path / "config.yml"
    config.touch()
    with pytest.raises(InputError) as caught:
        replace(ExportDensity(config, tmp_path / "a.npz"), **options).main()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)

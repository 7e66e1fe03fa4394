import json
from typing import Any

import numpy as np
import pytest
import trimesh

from rcnn.data.sample import GridFrame
from rcnn.errors import InputError
from rcnn.visualization import SceneContents, SceneFilesConfig, write_scene_glb, write_scene_plys
from rcnn.visualization.box_frames import box_frames
from rcnn.visualization.colours import TRUTH, score_colours
from rcnn.visualization.voxel_surface import voxel_surface

FRAME = GridFrame(np.array([-1.0, 2.0, 0.5]), np.array([0.1, 0.1, 0.1]), np.eye(4))


def read(path) -> Any:
    return trimesh.load(path, process=False)


def one_voxel():
    features = np.zeros((4, 5, 6, 7), np.float32)
    features[:, 1, 2, 3] = (1.0, 0.5, 0.25, 0.9)
    return features


def test_a_voxel_has_six_faces_outwards():
    faces = voxel_surface(one_voxel(), None, 0.5, 100)
    mesh = trimesh.Trimesh(faces.vertices, faces.triangles)
    assert len(faces.triangles) == 12
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(1)  # negative if faces were turned inwards
    assert mesh.bounds.tolist() == [[1, 2, 3], [2, 3, 4]]
    assert (faces.colours == [255, 128, 64]).all()


def test_walls_have_inner_faces_only():
    features = np.zeros((4, 6, 6, 6), np.float32)
    features[3] = 1
    features[3, 1:-1, 1:-1, 1:-1] = 0
    faces = voxel_surface(features, None, 0.5, 10_000)
    assert len(faces.triangles) == 2 * 6 * 16
    mesh = trimesh.Trimesh(faces.vertices, faces.triangles)
    assert mesh.bounds.tolist() == [[1, 1, 1], [5, 5, 5]]
    assert mesh.volume == pytest.approx(-64)  # they face inwards


def test_what_was_not_seen_is_neither_drawn_nor_free():
    features = one_voxel()
    seen = np.ones(features.shape[1:], bool)
    seen[1, 2, 4] = False
    assert len(voxel_surface(features, seen, 0.5, 100).triangles) == 10
    seen[1, 2, 3] = False
    assert len(voxel_surface(features, seen, 0.5, 100).triangles) == 0


def test_many_faces_are_merged():
    rng = np.random.default_rng(0)
    features = rng.random((4, 21, 16, 11)).astype(np.float32)
    features[3] = features[3] > 0.97
    fine = voxel_surface(features, None, 0.5, 10**6)
    limit = len(fine.triangles) // 4
    coarse = voxel_surface(features, None, 0.5, limit)
    assert 0 < len(coarse.triangles) // 2 <= limit
    low, high = coarse.vertices.min(0), coarse.vertices.max(0)
    assert (low <= fine.vertices.min(0)).all()
    assert (high >= fine.vertices.max(0)).all()
    assert set(np.unique(coarse.vertices % 2)) == {0}

    merged = np.zeros((4, 4, 4, 4), np.float32)
    merged[:, 0, 0, 0] = (1.0, 0.0, 0.0, 1.0)
    merged[:, 1, 1, 1] = (0.0, 1.0, 0.0, 1.0)
    colours = voxel_surface(merged, None, 0.5, 5).colours
    assert len(colours)
    assert np.abs(colours.astype(int) - [128, 128, 0]).max() <= 1  # of the two that are opaque


@pytest.mark.parametrize("yaw", [None, 0.3])
def test_frames_lie_around_the_edges_of_boxes(yaw):
    box = [2.0, 3, 1, 6, 5, 4] if yaw is None else [4.0, 4, 2.5, 4, 2, 3, yaw]
    frame = box_frames(np.array([box]), np.array([[1, 2, 3]], np.uint8), 0.2)
    assert len(frame.triangles) == 12 * 12
    mesh = trimesh.Trimesh(frame.vertices.astype(np.float64), frame.triangles, process=False)
    # Twelve closed bars that face outwards.
    assert mesh.volume == pytest.approx(4 * 0.04 * (4.2 + 2.2 + 3.2), rel=1e-5)
    offsets = frame.vertices - np.array([4, 4, 2.5])
    turn = -(yaw or 0)
    x = np.cos(turn) * offsets[:, 0] - np.sin(turn) * offsets[:, 1]
    y = np.sin(turn) * offsets[:, 0] + np.cos(turn) * offsets[:, 1]
    beyond = np.abs(np.abs(np.stack([x, y, offsets[:, 2]], 1)) - np.array([2, 1, 1.5]))
    assert beyond == pytest.approx(0.1, abs=1e-5)


def scene():
    heat = np.zeros((5, 6, 7), np.float32)
    heat[1, 2, 3], heat[4, 5, 6], heat[0, 0, 0] = 0.9, 0.6, 0.1
    return SceneContents.of(
        one_voxel(),
        truth=np.array([[1.5, 2.5, 3.5, 1, 1, 1, 0.2]]),
        boxes=np.array([[1, 2, 3, 2, 3, 4], [0, 0, 0, 3, 3, 3]]),
        scores=np.array([0.8, 0.01]),
        heatmap=heat,
    )


def test_plys_are_in_world_units(tmp_path):
    files = write_scene_plys(tmp_path, scene(), FRAME)
    assert [path.name for path in files] == ["grid.ply", "truth.ply", "detections.ply", "heatmap.ply"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in files)
    grid, truth, detections, heat = (read(path) for path in files)
    assert grid.bounds == pytest.approx(np.array([[-0.9, 2.2, 0.8], [-0.8, 2.3, 0.9]]), abs=1e-5)
    assert (grid.visual.vertex_colors[:, :3] == [255, 128, 64]).all()
    assert (truth.visual.vertex_colors[:, :3] == TRUTH).all()
    assert truth.bounds.mean(0) == pytest.approx([-0.85, 2.25, 0.85], abs=1e-5)
    assert len(detections.faces) == 144  # the weak one is left out
    assert (detections.visual.vertex_colors[:, :3] == score_colours(np.array(0.8))).all()
    assert sorted(heat.vertices.round(4).tolist()) == [[-0.85, 2.25, 0.85], [-0.55, 2.55, 1.15]]


def test_points_of_highest_objectness_remain(tmp_path):
    write_scene_plys(tmp_path, scene(), FRAME, SceneFilesConfig(max_points=1))
    points = read(tmp_path / "heatmap.ply")
    assert points.vertices.round(4).tolist() == [[-0.85, 2.25, 0.85]]
    assert points.visual.vertex_colors[0, :3].tolist() == score_colours(np.array(0.9)).tolist()


def test_glb_holds_all_parts_with_y_up_and_linear_colours(tmp_path):
    path = tmp_path / "scene.glb"
    write_scene_glb(path, scene(), FRAME)
    loaded = read(path)
    assert isinstance(loaded, trimesh.Scene)
    assert set(loaded.geometry) == {"grid", "truth", "detections", "heatmap"}
    assert loaded.geometry["grid"].bounds == pytest.approx(np.array([[-0.9, 2.2, 0.8], [-0.8, 2.3, 0.9]]), abs=1e-5)
    transform, _ = loaded.graph["grid"]
    assert transform @ [1, 2, 3, 1] == pytest.approx([1, 3, -2, 1])
    assert loaded.geometry["grid"].visual.vertex_attributes["color"][0].tolist() == [255, 55, 13, 255]

    data = path.read_bytes()
    tree = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    assert tree["extensionsUsed"] == ["KHR_materials_unlit"]
    assert {p["material"] for mesh in tree["meshes"] for p in mesh["primitives"]} == {0}
    assert len(tree["materials"]) == 1


def test_parts_without_anything_are_left_out(tmp_path):
    none = np.zeros((0, 6), np.float32)
    empty = SceneContents.of(np.zeros((4, 3, 3, 3)), truth=none, boxes=none, scores=np.zeros(0))
    assert write_scene_plys(tmp_path, empty, FRAME) == []
    with pytest.raises(InputError, match="nothing to show"):
        write_scene_glb(tmp_path / "scene.glb", empty, FRAME)
    assert list(tmp_path.iterdir()) == []

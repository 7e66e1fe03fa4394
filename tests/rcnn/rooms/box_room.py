"""A room on disk that needs no renderer: a box with one solid cube and one thin board, cameras all around."""

import json
from pathlib import Path

import cv2
import numpy as np

SIZE = np.array([2.0, 1.6, 1.2])
CUBE = np.array([[0.8, 0.6, 0.0], [1.3, 1.1, 0.5]])
BOARD = np.array([[0.25, 0.3, 0.62], [0.6, 0.9, 0.63]])
# sRGB of the shell, the cube and the board.
COLOURS = np.array([[180, 180, 170], [200, 60, 40], [40, 90, 200]], np.uint8)
WIDTH, HEIGHT, FOCAL = 64, 48, 40.0
RESOLUTION = 40


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(right, forward), -forward, eye], axis=1)
    return pose


def _crossing(origin: np.ndarray, rays: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths at which rays enter and leave a box."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = (box[:, None] - origin) / rays
    return ends.min(0).max(1), ends.max(0).min(1)


def write_box_room(folder: Path, seed: int = 0) -> Path:
    """Writes the files of `nerf-rcnn rooms make` that fusing needs; the seed moves the cameras."""
    rng = np.random.default_rng(seed)
    for name in ("images", "depth"):
        (folder / name).mkdir(parents=True)
    i, j = np.meshgrid(np.arange(WIDTH) + 0.5 - WIDTH / 2, np.arange(HEIGHT) + 0.5 - HEIGHT / 2)
    local = np.stack([i / FOCAL, -j / FOCAL, -np.ones_like(i)], -1).reshape(-1, 3)  # z-depth 1
    frames = []
    for number in range(24):
        angle = 2 * np.pi * number / 24
        eye = SIZE / 2 + [0.85 * np.cos(angle), 0.65 * np.sin(angle), rng.uniform(-0.2, 0.45)]
        pose = look_at(eye, SIZE / 2 + rng.uniform(-0.3, 0.3, 3) * [1, 1, 1.2])
        rays = local @ pose[:3, :3].T
        depth, what = _crossing(eye, rays, np.stack([np.zeros(3), SIZE]))[1], np.zeros(len(rays), int)
        for thing, box in enumerate((CUBE, BOARD), start=1):
            enter, leave = _crossing(eye, rays, box)
            hit = (enter < leave) & (enter > 0) & (enter < depth)
            depth[hit], what[hit] = enter[hit], thing
        picture = COLOURS[what].reshape(HEIGHT, WIDTH, 3)[..., ::-1]
        cv2.imwrite(str(folder / "images" / f"{number:04d}.png"), picture)
        cv2.imwrite(
            str(folder / "depth" / f"{number:04d}.png"), np.rint(1000 * depth).reshape(HEIGHT, WIDTH).astype("u2")
        )
        frames.append({
            "file_path": f"images/{number:04d}.png", "depth_file_path": f"depth/{number:04d}.png",
            "transform_matrix": pose.tolist(),
        })  # fmt: skip
    bbox = [[0.0, 0.0, 0.0], SIZE.tolist()]
    names = [frame["file_path"] for frame in frames]
    camera = {"w": WIDTH, "h": HEIGHT, "fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2}
    content = {**camera, "room_bbox": bbox, "train_filenames": names, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    rows = [
        {"id": k, "category": name, "aabb": box.ravel().tolist(),
         "obb": [*box.mean(0).tolist(), *(box[1] - box[0]).tolist(), 0.0]}
        for k, (name, box) in enumerate((("cabinet", CUBE), ("shelf", BOARD)), start=1)
    ]  # fmt: skip
    (folder / "instances.json").write_text(json.dumps({"seed": [0, seed], "room_bbox": bbox, "instances": rows}))
    edge = SIZE.max() / RESOLUTION
    shape = np.ceil(SIZE / edge - 1e-6).astype(int)
    instances = np.zeros(shape, np.int32)
    centres = (np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) + 0.5) * edge
    instances[((centres > CUBE[0]) & (centres < CUBE[1])).all(-1)] = 1
    touched = ((centres > BOARD[0] - edge / 2) & (centres < BOARD[1] + edge / 2)).all(-1)
    instances[touched & (np.abs(centres[..., 2] - 0.625) < edge / 2)] = 2
    np.savez_compressed(folder / "gt_voxels.npz", instances=instances, bbox_min=np.zeros(3), bbox_max=shape * edge)
    return folder

"""A tiny scene, two spheres cast analytically, and the CPU method shrunk until it trains in seconds."""

import json
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from instance_nerfstudio.masks.instance_masks import write_instance_mask
from instance_nerfstudio.masks.instances_json import InstanceInfo, write_instances_json

# What imports nerfstudio is imported when used: most tests below this folder do without.
if TYPE_CHECKING:
    from instance_nerfstudio.instance_pipeline import InstancePipeline
    from instance_nerfstudio.instance_trainer import InstanceTrainer, InstanceTrainerConfig

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


def train(config: "InstanceTrainerConfig") -> "InstanceTrainer":
    from rich.progress import Progress

    from instance_nerfstudio.training import train_quietly

    with Progress(disable=True) as progress:
        return train_quietly(config, progress)[0]


# A checkpoint as nerfstudio's schedulers leave it, read before and after the plugin is imported.
FRESH_PROCESS = """
import json, pickle, sys
import numpy as np, torch
def load(content):
    torch.save(content, sys.argv[1])
    try:
        return repr(torch.load(sys.argv[1], weights_only=True))
    except pickle.UnpicklingError:
        return "refused"
class Other: pass
before = load(np.float64(0.25))
import instance_nerfstudio.method_config
after = load(np.float64(0.25))
print(json.dumps({"before": before, "after": after, "other": load(Other()), "modules": list(sys.modules)}))
"""


@pytest.fixture(scope="session")
def fresh_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process finds that imports the entry points and nothing else of nerfstudio."""
    path = tmp_path_factory.mktemp("fresh") / "a.ckpt"
    command = [sys.executable, "-W", "ignore", "-c", FRESH_PROCESS, str(path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture
def put_balls(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`put_balls(model, centres, radii, ids)`: an analytic field of opaque balls in the scene frame, known exactly.

    Ball k has the colour `BALL_COLOURS[k]` and the most likely class `ids[k]`; what lies outside is empty background.
    """
    import torch

    def put(model: Any, centres: Any, radii: Any, ids: Sequence[int] = IDS, density: float = 500.0) -> None:
        centres, radii = torch.as_tensor(centres).float(), torch.as_tensor(radii).float()
        log_density = float(np.log(density / model.field.average_init_density))
        colours = torch.tensor(BALL_COLOURS)
        places = torch.tensor([0, *(model.instance_head.instance_ids.tolist().index(i) for i in ids)])

        class Balls(torch.nn.Module):
            def forward(self, normalized: Any) -> Any:
                contracted = normalized * 4 - 2
                norm = contracted.abs().max(dim=-1, keepdim=True).values
                scene = torch.where(norm > 1, contracted / norm / (2 - norm).clamp(min=1e-9), contracted)
                inside = (scene[:, None] - centres).norm(dim=-1) < radii
                ball = torch.where(inside.any(dim=-1), inside.float().argmax(dim=-1) + 1, 0)
                output = torch.zeros(len(normalized), 16)
                output[:, 0] = torch.where(ball > 0, log_density, -30.0)
                output[:, 1] = ball  # the first geometry feature
                return output

        def classes(positions: Any, geometry: Any) -> Any:
            return torch.nn.functional.one_hot(places[geometry[..., 0].round().long()], 16).float()

        model.field.mlp_base = Balls()
        model.density_fns = [lambda points: model.field.density_fn(points)]  # an untrained network would find nothing
        monkeypatch.setattr(model.field.mlp_head, "forward", lambda inputs: colours[inputs[:, 16].round().long()])
        monkeypatch.setattr(model.instance_head, "forward", classes)
        model.instance_head.classifier.weight.data = 20 * torch.eye(len(model.instance_head.instance_ids), 16)

    return put


@pytest.fixture(scope="session", name="write_scene")
def _write_scene() -> Callable[..., Path]:
    return write_scene


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A scene of one's own, to be spoilt."""
    return write_scene(tmp_path / "scene")


@pytest.fixture(scope="session")
def shared_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scene, only to be read."""
    return write_scene(tmp_path_factory.mktemp("shared") / "scene")


@pytest.fixture
def edit_transforms() -> Callable[[Path, Callable[[dict], object]], None]:
    """Lets a function change a scene's `transforms.json` in place."""

    def edit(scene: Path, change: Callable[[dict], object]) -> None:
        path = scene / "transforms.json"
        meta = json.loads(path.read_text())
        change(meta)
        path.write_text(json.dumps(meta))

    return edit


@pytest.fixture(scope="session")
def closed_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No weights of LPIPS in the cache and none to be had, so that no test depends on either."""

    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("closed network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        patch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity.__init__", refuse)
        yield


@pytest.fixture(scope="session")
def make_config(closed_network: None) -> Callable[..., "InstanceTrainerConfig"]:
    """`make_config(scene, output, **model_options)`."""
    return shrunken_config


@pytest.fixture
def make_pipeline(closed_network: None, shared_scene: Path, tmp_path: Path) -> Callable[..., "InstancePipeline"]:
    """`make_pipeline(scene=..., test_mode=..., **model_options)`: untrained, always from the same seed."""

    def make(scene: Path = shared_scene, test_mode: str = "val", **model: Any) -> "InstancePipeline":
        import torch

        torch.manual_seed(0)
        return shrunken_config(scene, tmp_path, **model).pipeline.setup(device="cpu", test_mode=test_mode)

    return make


@pytest.fixture(name="train")
def _train(closed_network: None) -> Callable[["InstanceTrainerConfig"], "InstanceTrainer"]:
    """Trains a configuration and returns the trainer, its pipeline in evaluation mode."""
    return train


@pytest.fixture(scope="session")
def trained_once(
    closed_network: None, shared_scene: Path, tmp_path_factory: pytest.TempPathFactory
) -> "InstanceTrainer":
    return train(shrunken_config(shared_scene, tmp_path_factory.mktemp("trained")))


@pytest.fixture
def trained(trained_once: "InstanceTrainer", monkeypatch: pytest.MonkeyPatch) -> Iterator["InstanceTrainer"]:
    """A trainer after 60 iterations on the shared scene. What a test does to its weights is undone."""
    model = trained_once.pipeline.model
    weights = deepcopy(model.state_dict())
    yield trained_once
    model.load_state_dict(weights)
    model.zero_grad()
    trained_once.pipeline.eval()

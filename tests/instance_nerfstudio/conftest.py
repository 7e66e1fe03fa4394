"""Fixtures around a tiny scene, two spheres cast analytically, and the CPU method shrunk until it trains in seconds."""

import json
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ball_scene import BALL_COLOURS, IDS, shrunken_config, train, write_scene

# What imports nerfstudio is imported when used: most tests below this folder do without.
if TYPE_CHECKING:
    from instance_nerfstudio.instance_pipeline import InstancePipeline
    from instance_nerfstudio.instance_trainer import InstanceTrainer, InstanceTrainerConfig


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

    Ball k has the colour `BALL_COLOURS[k]` (a third one is green) and the most likely class `ids[k]`; what lies outside
    is empty background.
    """
    import torch

    def put(model: Any, centres: Any, radii: Any, ids: Sequence[int] = IDS, density: float = 500.0) -> None:
        centres, radii = torch.as_tensor(centres).float(), torch.as_tensor(radii).float()
        log_density = float(np.log(density / model.field.average_init_density))
        colours = torch.tensor([*BALL_COLOURS, [0.1, 0.8, 0.2]])
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

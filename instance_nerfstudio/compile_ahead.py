"""Compiles the Triton kernels of a run before it launches the first of them.

Triton compiles a kernel when it is first launched: tens of seconds on a machine whose cache is empty. But shapes and
types are known as soon as the model's options are: the model is rehearsed on tensors without memory, and what it would
launch is compiled while photos are read.
"""

from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox

from instance_nerfstudio.compile_threads import compile_in_threads
from instance_nerfstudio.hash_grids.implementation import choose_implementation
from instance_nerfstudio.hushed_console import hushed_console
from instance_nerfstudio.kernel_launch import Launch, noted_launches
from instance_nerfstudio.known_kernels import known_launches

if TYPE_CHECKING:
    from instance_nerfstudio.instance_nerfacto import InstanceNerfactoModel, InstanceNerfactoModelConfig

_RAYS = 1024

_done: set[tuple[str, torch.device]] = set()


def compile_ahead(config: "InstanceNerfactoModelConfig", device: torch.device) -> "list[Future[None]]":
    """Starts to compile what training and rendering with `config` launch; returns at once.

    A launch that comes before its kernel is ready waits for it. Nothing is done on a CPU, without Triton, and if
    `config` was here before; whatever fails is left to the first launch.

    Returns:
        One for each kernel, done when it is compiled.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return []
    if device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    key = repr(replace(config, instance_start_step=0)), device
    if key in _done:
        return []
    _done.add(key)
    try:
        return compile_in_threads(expected_launches(config, device), device)
    except Exception:  # whatever a model of unforeseen options can raise: if it matters, training will say so
        return []


def expected_launches(config: "InstanceNerfactoModelConfig", device: torch.device) -> list[Launch]:
    """What training and rendering with `config` will launch on `device`: nothing where Triton is not chosen."""
    from instance_nerfstudio.model_options import instance_nerfacto_model

    with hushed_console():  # the model that trains says the same
        if choose_implementation(config.implementation, device) != "triton":
            return []
    default = instance_nerfacto_model()
    known = replace(config, instance_start_step=default.instance_start_step) == default
    return known_launches() if known else rehearsed_launches(config, device)


def rehearsed_launches(config: "InstanceNerfactoModelConfig", device: torch.device) -> list[Launch]:
    """What the Triton kernels of a model with `config` are launched with; nothing runs, no random number is drawn."""
    with hushed_console(), torch.device("meta"), noted_launches() as launches:
        _practise(_throwaway_model(replace(config, implementation="triton"), device))
    return launches


def _throwaway_model(config: "InstanceNerfactoModelConfig", device: torch.device) -> "InstanceNerfactoModel":
    """An untrained model as the trainer builds it, for a scene of one photo."""
    model: Any = config.setup(
        scene_box=SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])),
        num_train_data=1,
        metadata={"dataparser_transform": torch.eye(4)[:3], "dataparser_scale": 1.0},
        device=device,
    )
    model.instances_active = model.config.use_instances
    return model


def _practise(model: "InstanceNerfactoModel") -> None:
    """Two iterations without a step of the optimizers, one with resting proposal networks, and rays of a picture."""
    poses = torch.eye(4)[:3].repeat(_RAYS, 1, 1)
    batch = {"image": torch.rand(_RAYS, 3), "instances": torch.zeros(_RAYS, 1, dtype=torch.int32)}

    def rays() -> RayBundle:
        return RayBundle(
            origins=poses[:, :, 3],  # as the datamanager gives them
            directions=torch.nn.functional.normalize(torch.randn(_RAYS, 3), dim=-1),
            pixel_area=torch.ones(_RAYS, 1),
            camera_indices=torch.zeros(_RAYS, 1, dtype=torch.long),
        )

    for _ in range(2):
        bundle = rays()
        outputs = model(bundle)
        losses = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
        torch.stack(list(losses.values())).sum().backward()
        model.proposal_sampler._step = 10  # the proposal networks rest in the second round
    model.eval()
    with torch.no_grad():
        model(rays())

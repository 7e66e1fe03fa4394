"""Rendering with chunks of rays as CUDA graphs: launching four hundred kernels takes longer than they run."""

from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.model_components import renderers
from torch import Tensor

from instance_nerfstudio.cuda_graph import RecordedStep

if TYPE_CHECKING:
    from instance_nerfstudio.instance_nerfacto import InstanceNerfactoModel

# Lengths of chunks that are kept recorded: a picture has two at most, and recordings keep their memory.
_MOST = 2
# Share of the GPU's memory that must be free for a new one.
_FREE = 0.5


class RecordedRendering:
    """Calls the model on rays, in evaluation and without gradients; rays as many as before replay what was recorded.

    Recordings follow the weights, which training changes in place. Whatever else could change what they hold, from the
    viewer's background to another checkpoint, drops them.
    """

    def __init__(self, model: "InstanceNerfactoModel") -> None:
        self.model = model
        self._state: Any = None
        self._recordings: dict[int, tuple[list[Tensor], RecordedStep, dict[str, Tensor]]] = {}

    def __call__(self, rays: RayBundle) -> dict[str, Tensor]:
        """Outputs of the model that are tensors; they are the caller's."""
        state = self._read_state(rays)
        if state is None:
            return {name: output for name, output in self.model(rays).items() if isinstance(output, Tensor)}
        if state != self._state:
            self._recordings.clear()
            self._state = state
        if len(rays) not in self._recordings:
            free, total = torch.cuda.mem_get_info(rays.origins.device)
            if len(self._recordings) >= _MOST:
                self._recordings.clear()
            elif free < _FREE * total:
                return {name: output for name, output in self.model(rays).items() if isinstance(output, Tensor)}
            self._recordings[len(rays)] = self._record(rays)
        inputs, step, outputs = self._recordings[len(rays)]
        for still, given in zip(inputs, _tensors(rays), strict=True):
            still.copy_(given)
        try:
            step()
        except torch.cuda.OutOfMemoryError:
            self._recordings.clear()
            raise
        return {name: output.clone() for name, output in outputs.items()}

    def _record(self, rays: RayBundle) -> tuple[list[Tensor], RecordedStep, dict[str, Tensor]]:
        inputs, names = [tensor.clone() for tensor in _tensors(rays)], list(rays.metadata)
        outputs: dict[str, Tensor] = {}

        def step() -> None:
            origins, directions, area, cameras, *rest = inputs
            metadata = dict(zip(names, rest, strict=True))
            bundle = RayBundle(origins, directions, area, camera_indices=cameras, metadata=metadata)
            with origins.device:
                for name, output in self.model(bundle).items():
                    if isinstance(output, Tensor):
                        outputs.setdefault(name, torch.empty_like(output)).copy_(output)

        return inputs, RecordedStep(step, rays.origins.device, what="Rendering"), outputs

    def _read_state(self, rays: RayBundle) -> Any:
        """Everything but weights and rays that a recording depends on; None where nothing can be recorded."""
        model, sampler = self.model, self.model.proposal_sampler
        plain = rays.nears is None and rays.fars is None and rays.times is None and rays.camera_indices is not None
        if not (model.fused_proposals and rays.origins.is_cuda and plain) or model.training or torch.is_grad_enabled():
            return None
        if renderers.BACKGROUND_COLOR_OVERRIDE is not None or model.config.predict_normals:
            return None
        anneal = sampler._anneal
        return (
            model.keep_logits,
            id(anneal) if isinstance(anneal, Tensor) else float(anneal),
            tuple(rays.metadata),
            [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())],
        )


def _tensors(rays: RayBundle) -> list[Tensor]:
    assert rays.camera_indices is not None
    return [rays.origins, rays.directions, rays.pixel_area, rays.camera_indices, *rays.metadata.values()]

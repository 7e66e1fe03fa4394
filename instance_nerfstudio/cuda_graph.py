"""A training step recorded once as a CUDA graph and replayed: one launch per step instead of hundreds."""

from collections.abc import Callable
from typing import Any

import torch
from nerfstudio.utils.rich_utils import CONSOLE

# Triton compiles, cuBLAS takes its workspace and Adam its moments in the first steps; none of that may be recorded.
_EAGER_STEPS = 3


class RecordedStep:
    """Calls `step` eagerly at first, then records it and replays the recording; on the CPU it stays eager.

    Every call is one real step: recording executes nothing, and its replay follows at once. `step` must read and write
    the same tensors each time, draw random numbers from torch's default generator, and wait for nothing on the host.
    Gradients must be None when it starts, or be made so by it, so that the recording owns them.

    Args:
        step: the step; returns nothing, its results stand in tensors that it fills.
        device: where its tensors lie.
        pool: memory to share with recordings that are never replayed while this one's results are still needed; see
            `torch.cuda.graph_pool_handle`.
    """

    def __init__(self, step: Callable[[], None], device: torch.device, pool: Any = None) -> None:
        self.step = step
        self.device = device
        self.pool = pool
        self.graph: torch.cuda.CUDAGraph | None = None
        self.eager = device.type != "cuda"
        self._calls = 0
        self._stream = None if self.eager else torch.cuda.Stream(device)

    def __call__(self) -> None:
        self._calls += 1
        if self.eager:
            self.step()
        elif self._calls <= _EAGER_STEPS:
            # What autograd sets up on the default stream could not be recorded on another.
            assert self._stream is not None
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self._stream):
                self.step()
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
        else:
            if self.graph is None and not self._record():
                self.step()
                return
            assert self.graph is not None
            self.graph.replay()

    def _record(self) -> bool:
        graph = torch.cuda.CUDAGraph()
        index = self.device.index if self.device.index is not None else torch.cuda.current_device()
        generator = torch.cuda.default_generators[index]
        random_state = generator.get_state()
        try:
            # Viewer and data loader may use the device from their own threads meanwhile.
            with torch.cuda.graph(graph, pool=self.pool, stream=self._stream, capture_error_mode="thread_local"):
                self.step()
        except RuntimeError as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            CONSOLE.print(f"The training step can't be recorded as a CUDA graph ({reason}); it runs unrecorded.")
            self.eager = True
            torch.cuda.synchronize(self.device)
            # A recording that breaks off leaves the default generator waiting for its end for ever.
            fresh = torch.Generator(self.device)
            fresh.set_state(random_state)
            generator.graphsafe_set_state(fresh.graphsafe_get_state())
            return False
        self.graph = graph
        return True


def make_recordable(optimizer: torch.optim.Optimizer, device: torch.device) -> bool:
    """Lets `optimizer` step inside a CUDA graph: learning rates as tensors, fused where it can be.

    What it saves stays what it would have saved without, so that checkpoints move between machines, and what it loads
    is made recordable again. nerfstudio's schedulers fill the tensors in place. On the CPU nothing changes.

    Returns:
        Whether the optimizer can be recorded.
    """
    if device.type != "cuda" or "capturable" not in optimizer.defaults:
        return False

    def prepare(*_: Any) -> None:
        for group in optimizer.param_groups:
            group["capturable"] = True
            if "fused" in group:
                group["fused"], group["foreach"] = True, False
            for name in ("lr", "initial_lr"):
                if name in group:
                    group[name] = float(group[name])
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=device)
        for state in optimizer.state.values():
            if "step" in state:
                state["step"] = torch.as_tensor(state["step"], dtype=torch.float32, device=device)

    original = [{key: group.get(key) for key in ("capturable", "fused", "foreach")} for group in optimizer.param_groups]

    def restore(_: Any, saved: dict[str, Any]) -> None:
        for group, options in zip(saved["param_groups"], original, strict=True):
            group |= {key: value for key, value in options.items() if key in group}
            group["lr"] = float(group["lr"])

    prepare()
    # The first steps run unrecorded on purpose; torch would warn of it.
    optimizer._warned_capturable_if_run_uncaptured = True  # type: ignore[attr-defined]
    optimizer.register_load_state_dict_post_hook(prepare)
    optimizer.register_state_dict_post_hook(restore)
    return True

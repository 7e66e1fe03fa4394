"""Reads the radiance field of another run, to keep it frozen under a new instance head."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from nerfstudio.utils.rich_utils import CONSOLE

from instance_nerfstudio.errors import InputError

# The trainer takes seconds to load, and no model needs it.
if TYPE_CHECKING:
    from nerfstudio.engine.trainer import TrainerConfig

_PARTS = ("field", "proposal_networks", "camera_optimizer")


def is_resumed(config: "TrainerConfig") -> bool:
    """Whether a training continues an earlier run, which then brings its radiance field along."""
    return config.load_dir is not None or config.load_checkpoint is not None


def adopt_radiance_options(config: NerfactoModelConfig, run: Path) -> None:
    """Sets the options in which nerfacto's runs usually differ from ours, as far as the run tells them.

    Those are the appearance embedding, the camera optimizer, the hash grid of the field, and the initial density, which
    scales all densities and stands in the run's config.yml alone. Sizes of the MLPs stay: they must be given alike.

    Raises:
        InputError: no readable checkpoint there.
    """
    checkpoint = find_checkpoint(run)
    state = read_state(checkpoint)
    appearance = state.get("_model.field.embedding_appearance.embedding.weight")
    config.use_appearance_embedding = appearance is not None
    if appearance is not None:
        config.appearance_embed_dim = appearance.shape[1]
    if "_model.camera_optimizer.pose_adjustment" not in state:
        config.camera_optimizer = replace(config.camera_optimizer, mode="off")
    elif config.camera_optimizer.mode == "off":
        config.camera_optimizer = replace(config.camera_optimizer, mode="SO3xR3")
    for name in ("num_levels", "max_res", "log2_hashmap_size"):
        if f"_model.field.{name}" in state:
            setattr(config, name, int(state[f"_model.field.{name}"]))
    if config.implementation == "auto":  # type: ignore[comparison-overlap]  ours, not nerfstudio's
        fast = "triton" if torch.cuda.is_available() else "torch"
        config.implementation = "tcnn" if _is_tcnn_layout(state) else fast  # type: ignore[assignment]
    # The file is YAML that constructs Python objects: it is searched, not loaded.
    text = checkpoint.parent.parent / "config.yml"
    found = re.search(r"^\s*average_init_density: ([-+.\deE]+)$", text.read_text(), re.M) if text.is_file() else None
    if found:
        config.average_init_density = float(found[1])


def load_radiance(model: NerfactoModel, run: Path) -> None:
    """Copies field, proposal networks and camera corrections of a `nerfacto` or `instance-nerfacto` run into `model`.

    Args:
        model: model of the same sizes; its metadata holds the scene's `dataparser_transform` and `dataparser_scale`.
        run: the run's folder, its config.yml, or a .ckpt in it.

    Raises:
        InputError: no checkpoint there, other sizes, or a run whose scene frame differs.
    """
    checkpoint = find_checkpoint(run)
    _check_same_frame(model, checkpoint)
    state = read_state(checkpoint)
    check_parameter_layout(state, model.state_dict(), str(checkpoint))
    for part in _PARTS:
        prefix = f"_model.{part}."
        own = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        try:
            getattr(model, part).load_state_dict(own)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"{checkpoint}: its {part} does not fit; give the same --pipeline.model options and data as that run "
                f"had ({reason})"
            ) from error
    CONSOLE.print(f"Radiance field from {checkpoint}, frozen.")


def check_parameter_layout(state: Mapping[str, object], own: Mapping[str, object], source: str) -> None:
    """Refuses parameters of tiny-cuda-nn for a model without it, and the reverse.

    tiny-cuda-nn keeps each module in one flat tensor, for a grid that is dense on coarse levels, half a cell off, and
    padded: there is no exact conversion. torch and Triton share theirs.

    Raises:
        InputError: the layouts differ.
    """
    theirs, ours = _is_tcnn_layout(state), _is_tcnn_layout(own)
    if theirs and not ours:
        raise InputError(
            f"{source}: holds parameters of tiny-cuda-nn, which nothing else can read; open it where that works, "
            "with --pipeline.model.implementation tcnn (`implementation: tcnn` in config.yml), or train it again"
        )
    if ours and not theirs:
        raise InputError(
            f"{source}: was trained without tiny-cuda-nn; open it with --pipeline.model.implementation triton "
            "(`implementation: triton` in config.yml)"
        )


def _is_tcnn_layout(state: Mapping[str, object]) -> bool:
    return any(key.endswith(".params") for key in state)


def find_checkpoint(run: Path) -> Path:
    """Latest checkpoint of a run, given by its folder, its config.yml, or the file itself.

    Raises:
        InputError: none there, or no such config.yml.
    """
    if run.suffix == ".ckpt" and run.is_file():
        return run
    if run.suffix == ".yml" and not run.is_file():
        raise InputError(f"{run}: no such file; give the config.yml of a run")
    folder = run.parent if run.suffix == ".yml" else run
    found = sorted(folder.glob("step-*.ckpt")) or sorted(folder.glob("nerfstudio_models/step-*.ckpt"))
    if not found:
        raise InputError(f"{run}: no checkpoint there; give a run folder that holds nerfstudio_models/step-*.ckpt")
    return found[-1]


def read_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    try:
        # Mapped, not read: only what is used comes from the disk, and a file of gigabytes opens at once.
        return dict(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["pipeline"])
    except Exception as error:  # a damaged file can raise nearly anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{checkpoint}: not a readable nerfstudio checkpoint ({reason}); name another run or train it again"
        ) from error


def _check_same_frame(model: NerfactoModel, checkpoint: Path) -> None:
    """A field is meaningless in another scene frame: other data, or other options of the dataparser."""
    path = checkpoint.parent.parent / "dataparser_transforms.json"
    if not path.is_file():
        return
    metadata = model.kwargs["metadata"]
    transform, scale = metadata["dataparser_transform"], metadata["dataparser_scale"]
    try:
        theirs = json.loads(path.read_text())
        their_transform, their_scale = torch.tensor(theirs["transform"], dtype=torch.float32), float(theirs["scale"])
        same = torch.allclose(their_transform, transform.cpu().float(), atol=1e-4)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: damaged ({error!r}); name another run or train it again") from error
    if not same or abs(their_scale - scale) > 1e-4 * abs(scale):
        raise InputError(f"{path}: that run placed the scene differently; use its data and its dataparser options")

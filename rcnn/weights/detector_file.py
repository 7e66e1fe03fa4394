"""`NAME.safetensors` holds a detector's weights, `NAME.json` its config, data and scores."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcnn.backbones import ResNetConfig, SwinConfig, VGGConfig
from rcnn.boxes import AnchorConfig, MatchingConfig
from rcnn.errors import InputError
from rcnn.roi_heads import (
    BoxHeadConfig,
    DetectionConfig,
    MaskHeadConfig,
    NeRFRCNN,
    NeRFRCNNConfig,
    RoIHeadsConfig,
    RoILossConfig,
    RoIPoolingConfig,
)
from rcnn.rpn import (
    AnchorHeadConfig,
    AnchorLossConfig,
    FCOSHeadConfig,
    FCOSLossConfig,
    LocationAssignmentConfig,
    NeRFRPN,
    NeRFRPNConfig,
    ProposalConfig,
)
from rcnn.safe_files import read_json, write_atomically
from rcnn.weights.config_json import config_from_json, config_to_json

FORMAT_VERSION = 1
SHIPPED = Path(__file__).with_name("rooms.safetensors")
"""The NeRF-RCNN that comes with this package."""
CONFIGS = (
    NeRFRPNConfig, ResNetConfig, VGGConfig, SwinConfig, AnchorHeadConfig, AnchorConfig, AnchorLossConfig,
    MatchingConfig, FCOSHeadConfig, FCOSLossConfig, LocationAssignmentConfig, ProposalConfig, NeRFRCNNConfig,
    RoIHeadsConfig, RoIPoolingConfig, BoxHeadConfig, MaskHeadConfig, RoILossConfig, DetectionConfig,
)  # fmt: skip
"""What a detector's config is made of."""


@dataclass(frozen=True)
class DetectorNotes:
    """What is known about a detector's weights."""

    config: NeRFRPNConfig | NeRFRCNNConfig
    """Builds the network that the weights fit."""
    data: dict[str, Any] = field(default_factory=dict)
    """What it was trained on."""
    training: dict[str, Any] = field(default_factory=dict)
    """How it was trained."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Scores, by name."""

    @property
    def rpn(self) -> NeRFRPNConfig:
        """Of the detector itself, or of its region proposals."""
        return self.config.rpn if isinstance(self.config, NeRFRCNNConfig) else self.config


def save_detector(
    path: Path, weights: dict[str, Tensor], notes: DetectorNotes, dtype: torch.dtype | None = None
) -> None:
    """Writes weights and notes, each as a whole.

    Args:
        path: ends in `.safetensors`; the notes go beside it, with the ending `.json`.
        weights: state dict of a `NeRFRPN` or `NeRFRCNN`, of any device.
        notes: about it.
        dtype: of floating point weights in the file; their own when None.
    """
    from safetensors.torch import save

    content = {
        "format_version": FORMAT_VERSION,
        "config": config_to_json(notes.config),
        "data": notes.data,
        "training": notes.training,
        "metrics": notes.metrics,
    }
    text = json.dumps(content, indent=1, allow_nan=False)
    path = _checked(path)
    # contiguous in the plain layout: the file knows no channels_last
    plain = {
        name: weight.detach().cpu().to(dtype if weight.is_floating_point() else None).contiguous()
        for name, weight in weights.items()
    }
    write_atomically(path, save(plain))
    write_atomically(path.with_suffix(".json"), (text + "\n").encode())


def read_notes(path: Path) -> DetectorNotes:
    """The notes beside a file of weights.

    Raises:
        InputError: they are missing, damaged, or of another version.
    """
    notes = _checked(path).with_suffix(".json")
    if not notes.exists() and path.exists():
        raise InputError(f"{path}: {notes.name} is not beside it; copy both files")
    content = read_json(notes)
    if content.get("format_version") != FORMAT_VERSION:
        version = content.get("format_version")
        raise InputError(f"{notes}: has format version {version}, not {FORMAT_VERSION}; use the version that wrote it")
    try:
        config = config_from_json(content.get("config"), CONFIGS)
    except ValueError as error:
        raise InputError(f"{notes}: {error}; use the version that wrote it") from error
    if not isinstance(config, NeRFRPNConfig | NeRFRCNNConfig):
        raise InputError(f"{notes}: holds no NeRFRPNConfig or NeRFRCNNConfig; give the weights of a detector")
    parts = {name: content.get(name) or {} for name in ("data", "training", "metrics")}
    if not all(isinstance(part, dict) for part in parts.values()):
        raise InputError(f"{notes}: data, training and metrics must be objects; copy the file again")
    return DetectorNotes(config, **parts)


def load_detector(path: Path, device: torch.device | str = "cpu") -> tuple[NeRFRPN | NeRFRCNN, DetectorNotes]:
    """The detector that a file holds, ready to be used.

    Raises:
        InputError: a file is missing or damaged, or the weights are of another architecture than the notes say.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    notes = read_notes(path)
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; check the path") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is no whole safetensors file ({_line(error)}); copy it again") from error
    model = NeRFRCNN(notes.config) if isinstance(notes.config, NeRFRCNNConfig) else NeRFRPN(notes.config)
    problem = difference(weights, model.state_dict())
    if problem:
        notes_path = path.with_suffix(".json")
        raise InputError(f"{path}: holds another architecture than {notes_path.name} says ({problem})")
    model.load_state_dict(weights)
    return model.to(device).eval(), notes


def load_instance_detector(
    path: Path | None = None, device: torch.device | str = "cpu"
) -> tuple[NeRFRCNN, DetectorNotes]:
    """:func:`load_detector`, for a NeRF-RCNN; the one that comes with this package when `path` is None.

    Raises:
        InputError: as there, or the file holds a NeRF-RPN.
    """
    if path is None and not SHIPPED.exists():
        raise InputError(f"{SHIPPED}: this version comes without weights; train some with nerf-rcnn train")
    model, notes = load_detector(path or SHIPPED, device)
    if not isinstance(model, NeRFRCNN):
        raise InputError(f"{path}: holds a NeRF-RPN, which finds boxes alone; give the weights of a NeRF-RCNN")
    return model, notes


_CLASS_LAYERS = ("heads.box.logits", "heads.box.deltas", "heads.mask.logits")


def initialize(model: NeRFRPN | NeRFRCNN, path: Path) -> list[str]:
    """Begins with the weights of another detector: all that have the same name and shape.

    Args:
        model: takes them; a NeRF-RCNN takes a NeRF-RPN's for its proposals.
        path: of a NeRF-RPN or NeRF-RCNN.

    Returns:
        Names of the model's weights that stay as they are.

    Raises:
        InputError: a file is missing or damaged, or the region proposals are of another architecture.
    """
    other, _ = load_detector(path)
    weights = other.state_dict()
    if isinstance(model, NeRFRCNN) and isinstance(other, NeRFRPN):
        weights = {f"rpn.{name}": weight for name, weight in weights.items()}
    elif isinstance(model, NeRFRCNN) and model.config.categories != getattr(other.config, "categories", ()):
        # The same shape would mean other classes.
        weights = {name: w for name, w in weights.items() if not name.startswith(_CLASS_LAYERS)}
    wanted = model.state_dict()
    fitting = {name: w for name, w in weights.items() if name in wanted and wanted[name].shape == w.shape}
    left = sorted(wanted.keys() - fitting.keys())
    if left and (isinstance(model, NeRFRPN) or left[-1].startswith("rpn.")):
        raise InputError(f"{path}: is of another architecture ({left[0]} does not fit); choose other weights")
    model.load_state_dict(fitting, strict=False)
    return left


def difference(weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """How weights differ in names and shapes from those wanted, in a few words; empty when they fit."""
    missing, spare = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    if missing or spare:
        named = [f"{name} is missing" for name in missing[:1]] + [f"{name} is not known" for name in spare[:1]]
        more = len(missing) + len(spare) - len(named)
        return " and ".join(named) + (f", and {more} more" if more else "")
    for name, weight in wanted.items():
        if weights[name].shape != weight.shape:
            return f"{name} is {list(weights[name].shape)} instead of {list(weight.shape)}"
    return ""


def _checked(path: Path) -> Path:
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: detectors end in .safetensors; published .pt files are converted first")
    return path


def _line(error: Exception) -> str:
    return " ".join(str(error).split())

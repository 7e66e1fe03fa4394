"""`NAME.safetensors` holds a detector's weights, `NAME.json` its config, data and scores."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcnn.backbones import ResNetConfig, SwinConfig, VGGConfig
from rcnn.boxes import AnchorConfig, AnchorMatchingConfig
from rcnn.errors import InputError
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
CONFIGS = (
    NeRFRPNConfig, ResNetConfig, VGGConfig, SwinConfig, AnchorHeadConfig, AnchorConfig, AnchorLossConfig,
    AnchorMatchingConfig, FCOSHeadConfig, FCOSLossConfig, LocationAssignmentConfig, ProposalConfig,
)  # fmt: skip
"""What a detector's config is made of."""


@dataclass(frozen=True)
class DetectorNotes:
    """What is known about a detector's weights."""

    config: NeRFRPNConfig
    """Builds the network that the weights fit."""
    data: dict[str, Any] = field(default_factory=dict)
    """What it was trained on."""
    training: dict[str, Any] = field(default_factory=dict)
    """How it was trained."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Scores, by name."""


def save_detector(path: Path, weights: dict[str, Tensor], notes: DetectorNotes) -> None:
    """Writes weights and notes, each as a whole.

    Args:
        path: ends in `.safetensors`; the notes go beside it, with the ending `.json`.
        weights: state dict of a `NeRFRPN`, of any device.
        notes: about it.
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
    plain = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
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
    if not isinstance(config, NeRFRPNConfig):
        raise InputError(f"{notes}: holds no NeRFRPNConfig; give the weights of a NeRF-RPN")
    parts = {name: content.get(name) or {} for name in ("data", "training", "metrics")}
    if not all(isinstance(part, dict) for part in parts.values()):
        raise InputError(f"{notes}: data, training and metrics must be objects; copy the file again")
    return DetectorNotes(config, **parts)


def load_detector(path: Path, device: torch.device | str = "cpu") -> tuple[NeRFRPN, DetectorNotes]:
    """The detector that a file holds, ready to propose.

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
    model = NeRFRPN(notes.config)
    problem = difference(weights, model.state_dict())
    if problem:
        notes_path = path.with_suffix(".json")
        raise InputError(f"{path}: holds another architecture than {notes_path.name} says ({problem})")
    model.load_state_dict(weights)
    return model.to(device).eval(), notes


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

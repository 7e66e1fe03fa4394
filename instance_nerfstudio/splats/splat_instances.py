"""The instances of splats as files: one PLY of everything with the instance of each Gaussian, and one per instance."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from instance_nerfstudio.edits.instance_edits import InstanceEdits
from instance_nerfstudio.export.instance_files import file_stem
from instance_nerfstudio.masks.instances_json import InstanceInfo
from instance_nerfstudio.splats.splat_matter import SplatMatter
from instance_nerfstudio.splats.splat_parameters import SplatParameters
from instance_nerfstudio.splats.splat_ply import write_splat_ply
from instance_nerfstudio.splats.stray_gaussians import StrayGaussiansConfig, stray_gaussians

SPLATS_FILE, SPLATS_FOLDER = "splats.ply", "splats"


@dataclass(frozen=True)
class SplatInstancesConfig:
    """How Gaussians become instances."""

    clean_up: bool = True
    """Take stray Gaussians away from their instances. They stay in the scene, and belong to nobody."""
    strays: StrayGaussiansConfig = field(default_factory=StrayGaussiansConfig)
    """What a stray is. They never count for boxes."""
    outside_box: float = 0.005
    """Share of an instance's matter that may lie over each side of its box."""


@dataclass(frozen=True)
class SplatInstances:
    """Gaussians that can be drawn, and what they belong to after all edits."""

    splats: SplatParameters
    """In the world frame."""
    ids: Int[Tensor, " gaussians"]
    """-1 nobody's, 0 background, else the instance; int32, on the device of the splats."""
    infos: list[InstanceInfo]
    """By id."""
    edits: InstanceEdits


def gather_splat_instances(
    splats: SplatParameters,
    ids: Int[Tensor, " gaussians"],
    infos: Sequence[InstanceInfo],
    edits: InstanceEdits,
    config: SplatInstancesConfig,
) -> SplatInstances:
    """Cleans up the instances, gives boxes to those that have none, and applies the user's edits.

    Each instance is cleaned before it is merged with others: its parts are what the user says they are. A box lies
    around nearly all of the instance's matter (see `SplatMatter.robust_bounds`); instances without Gaussians get none.

    Args:
        splats: in the world frame.
        ids: instance of each, before any merge; -1 abstains, 0 background.
        infos: the instances before any merge.
        edits: those of the run.
        config: options.
    """
    drawn = splats.finite() & splats.visible()
    splats, ids = splats.select(drawn), ids.to(drawn.device)[drawn].int()
    cleaned = torch.where(stray_gaussians(splats, ids, config.strays), -1, ids)
    infos = edits.describe(_with_boxes(splats, cleaned, infos, config.outside_box))
    return SplatInstances(splats, edits.merge_ids(cleaned if config.clean_up else ids), infos, edits)


def write_splat_instances(
    folder: Path, instances: SplatInstances, wanted: Sequence[InstanceInfo]
) -> dict[str, dict[str, str]]:
    """Writes `splats.ply`, with everything that is shown or wanted, and `splats/NAME.ply` of each wanted instance.

    Args:
        folder: gets the files.
        instances: as gathered.
        wanted: the instances to write, which may be hidden ones.

    Returns:
        The files of each instance by its id, as paths in `folder`; none for an instance without Gaussians.
    """
    splats, ids = instances.splats, instances.ids
    asked = {info.id for info in wanted}
    present = [i for i in ids.unique().tolist() if i in asked or instances.edits.shows(i)]
    shown = torch.isin(ids, torch.tensor(present, dtype=ids.dtype, device=ids.device))
    write_splat_ply(folder / SPLATS_FILE, splats.select(shown), ids[shown])
    files: dict[str, dict[str, str]] = {}
    for info in wanted:
        own = (ids == info.id).nonzero()[:, 0]
        files[str(info.id)] = {}
        if len(own):
            path = f"{SPLATS_FOLDER}/{file_stem(info.id)}.ply"
            write_splat_ply(folder / path, splats.select(own), ids[own])
            files[str(info.id)] = {"splats": path}
    return files


def _with_boxes(
    splats: SplatParameters, ids: Int[Tensor, " gaussians"], infos: Sequence[InstanceInfo], outside: float
) -> list[InstanceInfo]:
    described = []
    for info in infos:
        if info.box_world is None and len(own := (ids == info.id).nonzero()[:, 0]):
            bounds = SplatMatter.of(splats.select(own)).robust_bounds(outside)
            info = replace(info, box_world=tuple(np.ravel(bounds).tolist()))
        described.append(info)
    return described

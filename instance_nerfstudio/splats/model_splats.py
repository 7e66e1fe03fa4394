"""The Gaussians of a trained run, in the world and with their instances."""

from collections.abc import Sequence
from typing import Any

from instance_nerfstudio.masks.instances_json import InstanceInfo
from instance_nerfstudio.splats.classic_splats import classic_splats
from instance_nerfstudio.splats.splat_instances import SplatInstances, SplatInstancesConfig, gather_splat_instances
from instance_nerfstudio.splats.splat_parameters import SplatParameters
from instance_nerfstudio.splats.world_splats import splats_to_world


def model_splats(
    pipeline: Any, infos: Sequence[InstanceInfo], clean_up: bool, antialiased_viewer: bool
) -> SplatInstances:
    """Those of an `instance-splatfacto` pipeline after the edits of its run.

    Args:
        pipeline: in evaluation mode.
        infos: its instances before any merge.
        clean_up: whether stray Gaussians are taken away from their instances.
        antialiased_viewer: whether they stay as they were trained; otherwise they suit any viewer.
    """
    model, outputs = pipeline.model, pipeline.datamanager.train_dataparser_outputs
    splats = (
        SplatParameters.of(model.gauss_params)
        if antialiased_viewer
        else classic_splats(model, pipeline.datamanager.train_dataset.cameras)
    )
    world = splats_to_world(splats, outputs.dataparser_transform, outputs.dataparser_scale)
    config = SplatInstancesConfig(clean_up=clean_up)
    return gather_splat_instances(world, model.gaussian_ids(), infos, model.edits_store.current(), config)

"""Instances for finished splats without training: each Gaussian's votes in the masks of the training views."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from rich.progress import Progress
from torch import Tensor
from torch.nn import Parameter

from instance_nerfstudio.evaluation.metrics import InstanceMetrics
from instance_nerfstudio.instance_classifier import InstanceClassifier
from instance_nerfstudio.splats.assign import assign_classes
from instance_nerfstudio.splats.class_codes import class_codes
from instance_nerfstudio.splats.instance_splatfacto import InstanceSplatfactoModel
from instance_nerfstudio.splats.rasterize import CHANNELS_AT_ONCE
from instance_nerfstudio.splats.splat_pipeline import SplatPipeline
from instance_nerfstudio.splats.votes import view_votes

# A Gaussian whose weights over all labelled pixels sum to less than this part of one pixel was hardly seen.
_LEAST_WEIGHT = 1e-2


@dataclass(frozen=True)
class Lifted:
    """What takes the place of trained features and of the layer that classifies them."""

    classes: Int[Tensor, " gaussians"]
    """Place of each Gaussian's class; -1 where it abstains."""
    features: Float[Tensor, "gaussians features"]
    """The code of that class; zero where it abstains."""
    codes: Float[Tensor, "classes features"]
    """Weights of the classifier."""

    def put_into(self, model: InstanceSplatfactoModel) -> None:
        """Gives the model these features and a classifier of them."""
        head = InstanceClassifier(self.codes.shape[1], model.instance_head.instance_ids.cpu()).to(model.device)
        head.classifier.weight.data = self.codes.clone()
        model.instance_head = head
        model.gauss_params["instance_features"] = Parameter(self.features.clone())
        model.config.instance_feature_dim = self.codes.shape[1]


@torch.no_grad()
def lift(pipeline: SplatPipeline, progress: Progress) -> Lifted:
    """One pass over the training views, then the best class of each Gaussian (FlashSplat, Shen et al., ECCV 2024).

    Args:
        pipeline: its masks are those that vote.
        progress: gets a task.
    """
    model, datamanager = pipeline.model, pipeline.datamanager
    classes = len(model.instance_head.instance_ids)
    votes = torch.zeros(model.num_points, classes, device=model.device)
    photos = datamanager.cached_train
    cameras = datamanager.train_dataset.cameras.to(model.device)
    for index, photo in enumerate(progress.track(photos, description="Voting")):
        targets = model.instance_head.targets(photo["instances"][..., 0].to(model.device))
        if bool((targets >= 0).any()):
            camera = cameras[index : index + 1]
            camera.metadata = {"cam_idx": index}
            view_votes(model.picture(camera), targets, classes, out=votes)
    assigned = assign_classes(votes, least_weight=_LEAST_WEIGHT)
    codes = class_codes(classes, min(classes, CHANNELS_AT_ONCE)).to(model.device)
    features = codes[assigned.clamp(min=0)] * (assigned >= 0)[:, None]
    return Lifted(assigned, features, codes)


@contextmanager
def lifted_instead(model: InstanceSplatfactoModel, lifted: Lifted) -> Iterator[None]:
    """While open, the model has the lifted instances in the place of its own."""
    head, features = model.instance_head, model.gauss_params["instance_features"]
    width = model.config.instance_feature_dim
    lifted.put_into(model)
    try:
        yield
    finally:
        model.instance_head, model.gauss_params["instance_features"] = head, features
        model.config.instance_feature_dim = width


@torch.no_grad()
def held_out_miou(pipeline: SplatPipeline) -> float | None:
    """Mean instance IoU over the held-out views, as evaluations report it; None where they have no masks."""
    model, scene = pipeline.model, InstanceMetrics()
    edits = model.edits_store.current().with_everything_shown()
    for camera, batch in pipeline.datamanager.fixed_indices_eval_dataloader:
        ids = model.render(camera, edits=edits)["instance_ids"][..., 0]
        scene.update(ids, edits.merge_ids(batch["instances"][..., 0].to(ids)))
    value = scene.compute()["instance_miou"]
    return value if math.isfinite(value) else None

"""Which instance a composited feature belongs to: a linear layer over the ids of a scene, calibrated."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

# Rows of logits that inference holds at once: 2^26 floats are 256 MB, whatever the number of instances.
_MAX_LOGITS = 1 << 26


class InstanceClassifier(nn.Module):
    """Linear classification of features (Instance-NeRF, Liu et al. 2023, section 3.3) into K+1 instances.

    It commutes with volume rendering: Σ w_i (W f_i) = W (Σ w_i f_i), so features are composited and classified once
    per ray, which makes the cost per sample, or per Gaussian, independent of K.

    Instance ids may be any integers in 0..65534; the buffer `instance_ids` holds the id of every logit and travels
    with the checkpoint, and loading a checkpoint with other ids resizes the classifier to it.

    Args:
        feature_dim: width of the features.
        instance_ids: ids that occur in the masks, ascending, with background 0 first.
    """

    instance_ids: Int[Tensor, " classes"]
    temperature: Float[Tensor, ""]

    def __init__(self, feature_dim: int, instance_ids: Int[Tensor, " classes"]) -> None:
        super().__init__()
        # No bias, as in the paper's network: a ray that hits nothing has zero logits and is background. Zero weights
        # make an untrained head answer background too.
        self.classifier = nn.Linear(feature_dim, len(instance_ids), bias=False)
        nn.init.zeros_(self.classifier.weight)
        self.register_buffer("instance_ids", instance_ids.to(torch.int32))
        self.register_buffer("temperature", torch.ones(()))

    def classify(self, features: Float[Tensor, "rays hidden"]) -> Float[Tensor, "rays classes"]:
        """Logits of composited features."""
        return self.classifier(features).float()

    @torch.no_grad()
    def predict(
        self,
        features: Float[Tensor, "rays hidden"],
        groups: Int[Tensor, " classes"] | None = None,
        shown: Bool[Tensor, " classes"] | None = None,
    ) -> tuple[Int[Tensor, "rays 1"], Float[Tensor, "rays 1"]]:
        """Ids (int32) and calibrated confidences (Guo et al. 2017) of composited features, memory-bounded in K.

        Classes of one group (`groups` holds the place of the one that stands for all) are one class: the most likely
        class names the group, whose probabilities are summed. Groups don't compete as sums, or empty rays, on which all
        classes are alike, would belong to the largest. Classes that are not `shown` are no answer, save background.
        """
        rows = max(1, _MAX_LOGITS // len(self.instance_ids))
        ids, confidences = [], []
        for chunk in features.split(rows):
            logits = self.classify(chunk) / self.temperature
            if shown is not None:
                logits[:, 1:] = logits[:, 1:].masked_fill(~shown[1:], -torch.inf)
            probabilities = F.softmax(logits, dim=-1)
            confidence, index = probabilities.max(dim=-1, keepdim=True)
            if groups is not None:
                index = groups[index]
                confidence = torch.zeros_like(probabilities).index_add_(1, groups, probabilities).gather(1, index)
            ids.append(self.instance_ids[index])
            confidences.append(confidence)
        return torch.cat(ids), torch.cat(confidences)

    @torch.no_grad()
    def most_likely(self, features: Float[Tensor, "*batch hidden"]) -> Int[Tensor, "*batch"]:
        """Place of the most likely class of each feature, memory-bounded in K."""
        rows = max(1, _MAX_LOGITS // len(self.instance_ids))
        flat = features.reshape(-1, features.shape[-1])
        return torch.cat([self.classify(part).argmax(dim=-1) for part in flat.split(rows)]).view(features.shape[:-1])

    def targets(self, labels: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """Logit index of each id; -1 for unlabelled pixels and for ids that the head does not know."""
        labels = labels.to(self.instance_ids)
        index = torch.searchsorted(self.instance_ids, labels.contiguous()).clamp(max=len(self.instance_ids) - 1)
        return torch.where(self.instance_ids[index] == labels, index, -1)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # The head is built from the masks that are there, before the checkpoint is read: they may have changed, or be
        # gone at `ns-viewer`. The checkpoint decides. `.data` keeps the parameter that the optimiser knows.
        ids = state_dict.get(prefix + "instance_ids")
        if ids is not None and len(ids) != len(self.instance_ids):
            weight = self.classifier.weight
            weight.data = weight.new_zeros(len(ids), weight.shape[1])
            self.classifier.out_features = len(ids)
            self.instance_ids = self.instance_ids.new_zeros(len(ids))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)  # type: ignore[arg-type]

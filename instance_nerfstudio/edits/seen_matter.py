"""What the training views say about matter: which instance it can belong to, and whether any of them saw it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from instance_nerfstudio.export.density_visibility import DepthMaps
from instance_nerfstudio.export.instance_survey import InstanceSurvey, robust_bounds

# A view sees what is behind the depth of its ray by this share of it: views agree to a few percent.
_BEHIND = 0.1
# Where the ray ends on what is taken away, it sees what is before that by this share alone: the rest was hidden by it.
_BEFORE = 0.02
# Of the diagonal of the box around an instance's seen surface, on every side: the unseen parts are within.
_MARGIN = 0.12
# Pairs of views and points that are projected at once.
_PAIRS = 1 << 23
# Cells along each side of the field's own cube; what is seen of one is found out once.
_CELLS = 256


class SeenMatter:
    """Knowledge of the training views for one state of the edits.

    Args:
        survey: of the training views.
        boxes: corners of the box, in the scene frame, that holds the matter of each class; see `class_boxes`.
        hidden: ids, before any merge, whose matter is taken away.
        normalized: positions in the unit cube in which the field lives.
    """

    def __init__(
        self,
        survey: InstanceSurvey,
        boxes: Float[Tensor, "classes 2 3"],
        hidden: Sequence[int],
        normalized: Callable[[Tensor], Tensor],
    ) -> None:
        taken = torch.isin(survey.ids, torch.tensor(hidden, dtype=survey.ids.dtype, device=survey.ids.device))
        reach = survey.views.depth * torch.where(taken, 1 - _BEFORE, 1 + _BEHIND)
        self._views = DepthMaps(survey.views.cameras, reach, survey.views.accumulation)
        self._boxes, self._normalized = boxes, normalized
        self._known = torch.zeros(_CELLS**3, dtype=torch.uint8, device=boxes.device)  # 0 no, 1 unseen, 2 seen

    def holds(self, points: Float[Tensor, "*batch 3"], places: Int[Tensor, "*batch"]) -> Bool[Tensor, "*batch"]:
        """Whether points lie where the matter of their classes can be. Single samples have stray labels anywhere."""
        low, high = self._boxes.unbind(1)
        return ((points >= low[places]) & (points <= high[places])).all(dim=-1)

    def sees(self, points: Float[Tensor, "points 3"]) -> Bool[Tensor, " points"]:
        """Whether any training view saw the places of points; those of one cell are one place."""
        x, y, z = (self._normalized(points) * _CELLS).long().clamp(0, _CELLS - 1).unbind(-1)
        cells = (x * _CELLS + y) * _CELLS + z
        new = (self._known[cells] == 0).nonzero()[:, 0]
        if len(new):
            found, inverse = cells[new].unique(return_inverse=True)
            places = torch.empty(len(found), 3, device=points.device).index_copy_(0, inverse, points[new])
            chunk = max(1, _PAIRS // max(1, len(self._views.depth)))
            seen = [self._views.sees(part, 0.0).any(dim=0) for part in places.split(chunk)]
            self._known[found] = 1 + torch.cat(seen).to(torch.uint8)
        return self._known[cells] == 2


def class_boxes(survey: InstanceSurvey, instance_ids: Int[Tensor, " classes"]) -> Float[Tensor, "classes 2 3"]:
    """Box around what is seen of each class before any merge, with a margin; without end where nothing is, or for 0."""
    return torch.stack([_box(survey, i) for i in instance_ids.tolist()]).to(survey.views.depth)


def _box(survey: InstanceSurvey, instance: int) -> Float[Tensor, "2 3"]:
    surface = survey.surface((instance,)) if instance > 0 else survey.views.positions[:0]
    if not len(surface):
        return torch.tensor([[-torch.inf] * 3, [torch.inf] * 3])
    low, high = robust_bounds(surface.double().cpu().numpy())
    margin = _MARGIN * float(np.linalg.norm(high - low))
    return torch.tensor(np.stack([low - margin, high + margin]), dtype=torch.float32)

"""A matcher that pairs segments and detected instances one to one, view by view."""

from __future__ import annotations

from collections.abc import Sequence

from instance_nerfstudio.lift.assign_segments import (
    AssignmentConfig,
    abstain_where_missed,
    assign_segments,
    classes_agree,
)
from instance_nerfstudio.lift.instance_grid import InstanceGrid
from instance_nerfstudio.lift.matching import Matching, at_size_of, check_views, describe, name_segments
from instance_nerfstudio.lift.view_projection import ViewProjection
from instance_nerfstudio.masks.instance_masks import resize_labels
from instance_nerfstudio.segments.view_segments import ViewSegments


def match_hungarian(
    segments: Sequence[ViewSegments],
    projections: Sequence[ViewProjection],
    grid: InstanceGrid,
    config: AssignmentConfig | None = None,
) -> Matching:
    """Each instance takes one segment of a view at most, so that their overlaps are best in sum.

    Further segments that lie in an instance are parts of it; segments of several instances abstain, and so do pixels of
    instances of which the segmenter missed everything. Objects that the detector missed stay without an id.

    Args:
        segments: of each view.
        projections: the instances in the same views.
        grid: the instances.
        config: when a segment is of an instance.

    Raises:
        ValueError: views or instances that do not fit together.
        InputError: segments of another shape than their view.
    """
    check_views(segments, projections, grid)
    assigned, maps = [], []
    for found, projection in zip(segments, projections, strict=True):
        agree = classes_agree(found.categories, grid.categories)
        ids = at_size_of(found, projection)
        assignment = assign_segments(ids, len(found.categories), projection.weights, agree, config)
        assigned.append(assignment.instances)
        height, width = found.ids.shape
        expected = resize_labels(projection.ids(), height, width)
        maps.append(abstain_where_missed(name_segments(found.ids, assignment.instances), expected))
    return Matching(maps, describe(segments, assigned, grid))

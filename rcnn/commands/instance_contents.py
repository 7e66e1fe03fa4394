"""What the pictures of instances show."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rcnn.data import GridSample
    from rcnn.instances import SceneInstances
    from rcnn.visualization import SceneContents


def instance_contents(scene: GridSample, found: SceneInstances) -> SceneContents:
    """A scene with the instances found in it, both on the CPU."""
    from rcnn.instances import instance_map
    from rcnn.visualization import SceneContents

    return SceneContents.of(
        scene.features, truth=scene.boxes, boxes=found.boxes, scores=found.scores, names=found.names,
        instances=instance_map(found.masks, found.scores),
    )  # fmt: skip

"""What is behind a hidden ball: matter that a training view saw stays, what none saw is empty."""

from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from instance_nerfstudio.edits.instance_edits import Edit, InstanceEdits
from instance_nerfstudio.export.scene_survey import SceneSurvey
from instance_nerfstudio.viewer.picking import camera_along

NEAR, FAR = 1, 300
# The third ball, of no instance, is in the shadow of the first for all that look down.
CENTRES = torch.tensor([[0.0, 0.0, 0.4], [0.55, 0.0, -0.5], [0.0, 0.0, 0.0]])
RADII = torch.tensor([0.2, 0.3, 0.12])
GREEN = torch.tensor([0.1, 0.8, 0.2])
HIDE_NEAR = InstanceEdits().after(Edit("hide", (NEAR,)), (NEAR, FAR))


def _cameras(*places: tuple[float, float, float], width: int = 64, height: int = 48) -> Cameras:
    """Cameras that look at the middle of the scene."""
    poses = [camera_along(place, tuple(-c for c in place)).camera_to_worlds for place in places]
    return Cameras(torch.cat(poses), 55.0, 55.0, width / 2, height / 2, width=width, height=height)


ABOVE = ((0.0, 0.0, 1.3), (0.1, 0.0, 1.3), (0.0, -0.1, 1.3))
# From here the upper half of the third ball is seen past the first one.
ASKEW = tuple((0.9 * x, 0.9 * y, 0.55) for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)))


@pytest.fixture
def balls(make_pipeline: Any, put_balls: Any) -> Any:
    pipeline = make_pipeline(test_mode="inference", num_proposal_samples_per_ray=(256,), num_nerf_samples_per_ray=128)
    model = pipeline.eval().model
    put_balls(model, CENTRES, RADII, (NEAR, FAR, 0))
    return model


def _middle(outputs: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    height, width = outputs[name].shape[:2]
    return outputs[name][height // 2 - 1 : height // 2 + 1, width // 2 - 1 : width // 2 + 1].float().mean(dim=(0, 1))


def test_what_no_view_saw_is_empty(balls: Any) -> None:
    camera = _cameras(ABOVE[0])
    balls.scene_survey = None
    assert torch.allclose(_middle(balls.render(camera, edits=HIDE_NEAR), "rgb"), GREEN, atol=0.05)
    balls.scene_survey = SceneSurvey(balls, _cameras(*ABOVE))
    without = balls.render(camera, edits=HIDE_NEAR)
    assert (_middle(without, "rgb") < 0.02).all()
    assert float(_middle(without, "accumulation")) < 0.02
    assert float(_middle(without, "instance_ids")) == 0
    whole = balls.render(camera)
    far = (whole["instance_ids"] == FAR)[..., 0]
    assert far.sum() > 50
    assert torch.equal(without["rgb"][far], whole["rgb"][far])  # what hides nothing stays


def test_what_other_views_saw_stays(balls: Any) -> None:
    camera = _cameras(ABOVE[0])
    balls.scene_survey = None
    everything = (abs(balls.render(camera, edits=HIDE_NEAR)["rgb"] - GREEN) < 0.1).all(dim=-1)
    assert everything.sum() > 50
    balls.scene_survey = SceneSurvey(balls, _cameras(*ABOVE, *ASKEW))
    green = (abs(balls.render(camera, edits=HIDE_NEAR)["rgb"] - GREEN) < 0.1).all(dim=-1)
    assert green[everything].float().mean() > 0.8


def test_cells_remember_what_was_seen(balls: Any) -> None:
    survey = SceneSurvey(balls, _cameras(*ABOVE))
    matter = survey.matter((NEAR,), balls.instance_head.instance_ids, balls.normalized_positions)
    assert survey.matter((NEAR,), balls.instance_head.instance_ids, balls.normalized_positions) is matter
    front, inside, behind = torch.tensor([[[0.0, 0.0, z]] for z in (0.9, 0.4, 0.0)])
    beside = torch.tensor([[0.5, 0.0, -0.2]])  # on the far ball
    points = torch.cat([front, inside, behind, beside])
    expected = [True, False, False, True]
    assert matter.sees(points).tolist() == expected
    assert matter.sees(points).tolist() == expected
    assert matter.sees(points[:0]).tolist() == []
    shows_near = survey.matter((FAR,), balls.instance_head.instance_ids, balls.normalized_positions)
    assert shows_near.sees(inside - torch.tensor([0.0, 0.0, -0.19])).tolist() == [True]  # just behind its surface


def test_stray_labels_are_not_the_instance(balls: Any, put_balls: Any) -> None:
    centres = torch.tensor([[0.0, 0.0, 0.4], [0.55, 0.0, -0.5], [-0.6, 0.0, -0.2]])
    put_balls(balls, centres, torch.tensor([0.2, 0.3, 0.06]), (NEAR, FAR, NEAR))
    camera = _cameras(ABOVE[0])
    whole = balls.render(camera)
    stray = (abs(whole["rgb"] - GREEN) < 0.1).all(-1)
    assert stray.sum() > 2
    balls.scene_survey = SceneSurvey(balls, _cameras(*ABOVE))
    kept = balls.render(camera, edits=HIDE_NEAR)["rgb"]
    assert torch.allclose(kept[stray], whole["rgb"][stray], atol=0.02)
    alone = balls.render(camera, edits=InstanceEdits().after(Edit("isolate", (NEAR,)), (NEAR, FAR)))["rgb"]
    assert (alone[stray] < 0.02).all()
    assert (_middle({"rgb": alone}, "rgb") - _middle(whole, "rgb")).abs().max() < 0.05

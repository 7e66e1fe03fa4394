"""Looks: files, the densities and colours of grids made with them, and measuring them back."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from box_room import CUBE, write_box_room

from rcnn.errors import InputError
from rcnn.grids.grid_truth import room_truth
from rcnn.rooms.measure_look import measure_grid, pool_looks
from rcnn.rooms.radiance_look import (
    CLEAN,
    DISTANCES,
    LEVELS,
    RadianceLook,
    default_look,
    look_to_json,
    normal_scores,
    radiance_grid,
    read_look,
)
from rcnn.rooms.seen_space import SeenSpace, see_space


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[SeenSpace, np.ndarray]:
    room = write_box_room(tmp_path_factory.mktemp("look") / "room")
    space = see_space(room, 80)
    truth = room_truth(room, space.empty_grid()).instances
    assert truth is not None
    return space, truth > 0


def _look() -> RadianceLook:
    """Densities that grow towards surfaces and with the quantile, less inside of furniture."""
    height = np.exp(-0.5 * (np.array(DISTANCES) / 1.5) ** 2)
    spread = np.exp(np.linspace(-2, 2, len(LEVELS)))
    outside = np.outer(0.05 + 40 * height, spread)
    rows = tuple(tuple(row) for row in np.concatenate([outside, 0.5 * outside]).tolist())
    return replace(
        default_look(), density=rows, noise_length=(0.08, 0.05, 0.08), noise_smooth=(0.6, 0.6, 0.6),
        clarity=((0.0, 0.0, 0.0), (0.3, 0.0, 0.0)), colour_bleeding=0.4, colour_noise=0.05, source="test",
    )  # fmt: skip


def test_files_of_looks(tmp_path: Path):
    look = default_look()
    path = tmp_path / "look.json"
    path.write_text(look_to_json(look))
    assert read_look(path) == look
    content = json.loads(path.read_text())
    for change, match in (
        ({"format_version": 2}, "format 2, not 1"),
        ({"density": content["density"][1:]}, "density must have"),
        ({"density": [row[::-1] for row in content["density"]]}, "ascending"),
        ({"colour_noise": 2}, r"must lie in \[0, 1\]"),
        ({"seen": None}, "NoneType"),
        ({"levels": [0.5]}, "other distances or levels"),
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(InputError, match=rf"look.json: is no look \(.*{match}.*measure-look"):
            read_look(path)


def test_clean_grids_are_surfaces_alone(scene: tuple[SeenSpace, np.ndarray]):
    space, furniture = scene
    grid = radiance_grid(space, furniture, CLEAN, (0,))
    alpha = grid.alpha()
    assert grid.seen is not None
    assert np.array_equal(grid.seen, space.seen)
    assert (alpha[space.distance < -1] == 0).all()
    assert (alpha[(space.distance >= 0) & (space.distance <= 1)] > 0.99).all()
    assert (alpha[space.distance > 3] == 0).all()
    cut = np.round(CUBE / space.edge).astype(int)
    face = alpha[cut[0, 0] + 2 : cut[1, 0] - 2, cut[0, 1] + 2 : cut[1, 1] - 2, cut[1, 2] - 1]
    assert (face > 0.9).mean() > 0.95, "the top of the cube"
    assert (grid.rgbsigma[..., :3][(alpha < 1e-3) | ~space.seen] == 0).all()


def test_densities_have_the_quantiles_of_the_look(scene: tuple[SeenSpace, np.ndarray]):
    space, furniture = scene
    look = replace(_look(), clarity=((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)))  # else distances with few views differ
    grids = [radiance_grid(space, furniture, look, (seed,)) for seed in range(3)]
    assert not np.array_equal(grids[0].rgbsigma, grids[1].rgbsigma)
    assert np.array_equal(grids[0].rgbsigma, radiance_grid(space, furniture, look, (0,)).rgbsigma)
    sigma = np.stack([grid.rgbsigma[..., 3] for grid in grids]).astype(float)
    for row, distance in enumerate(DISTANCES):
        at = (np.abs(space.distance - distance) < 0.1) & ~furniture
        if at.sum() < 300:
            continue
        found = np.quantile(sigma[:, at], [0.15, 0.5, 0.85])
        wanted = np.array(look.density[row])[[LEVELS.index(level) for level in (0.15, 0.5, 0.85)]]
        assert np.allclose(np.log(found), np.log(wanted), atol=0.35), distance


def test_what_was_put_in_is_measured(scene: tuple[SeenSpace, np.ndarray]):
    space, furniture = scene
    look = _look()
    rooms = [measure_grid(radiance_grid(space, furniture, look, (seed,)), space, furniture) for seed in range(4)]
    found = pool_looks(rooms, "test")
    middle = LEVELS.index(0.5)
    for row in range(len(DISTANCES)):
        if min(len(room.samples[row]) for room in rooms) >= 1000:
            wanted = np.array(look.density[row])[middle]
            assert abs(np.log(found.density[row][middle] / wanted)) < 0.4, DISTANCES[row]
    assert 0.5 < found.noise_length[0] / look.noise_length[0] < 2
    assert found.clarity[1][0] == pytest.approx(0.3, abs=0.12)
    assert found.clarity[1][1] == pytest.approx(0.0, abs=0.12)
    assert found.colour_noise == pytest.approx(0.05, rel=0.4)
    again = measure_grid(radiance_grid(space, furniture, found, (9,)), space, furniture)
    assert abs(np.log(np.median(again.samples[0]) / look.density[0][middle])) < 0.5


def test_normal_scores():
    scores = normal_scores(np.array([5.0, 1.0, 3.0, 3.0]))
    assert scores[2] == scores[3]
    assert scores[1] < scores[2] < scores[0]
    assert abs(normal_scores(np.random.default_rng(0).random(1000)).std() - 1) < 0.02

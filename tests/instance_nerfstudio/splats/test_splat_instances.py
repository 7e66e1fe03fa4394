"""The files of the instances of splats."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from some_splats import flat_splats, joined

from instance_nerfstudio.edits.instance_edits import Edit, InstanceEdits
from instance_nerfstudio.export.atomic_folder import atomic_folder
from instance_nerfstudio.masks.instances_json import InstanceInfo, read_instances_json, write_instances_json
from instance_nerfstudio.splats.splat_instances import (
    SplatInstances,
    SplatInstancesConfig,
    gather_splat_instances,
    write_splat_instances,
)
from instance_nerfstudio.splats.splat_parameters import SplatParameters
from instance_nerfstudio.splats.splat_ply import read_splat_ply

SIZE = 0.02
INFOS = [InstanceInfo(1, "table"), InstanceInfo(2, "cup"), InstanceInfo(5, "pin"), InstanceInfo(9, "lost")]


def _block(low: tuple[float, float, float], high: tuple[float, float, float], count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, (count, 3))


_STRAYS = [[x, y, 0.0] for x in (-2.8, -1.8, 2.0, 2.8) for y in (-2.8, -1.5, 2.8)]
# 400 Gaussians of the floor, 1000 of a table with 12 strays, 300 of a cup, one of a pin, 2 abstaining, none of 9.
PARTS = {
    0: _block((-3, -3, 0), (3, 3, 0), 400),
    1: np.concatenate([_block((0, 0, 1), (1, 2, 1.5), 1000), _STRAYS]),
    2: _block((0.4, 0.4, 1.6), (0.5, 0.5, 1.8), 300),
    5: np.array([[-1.0, -1.0, 0.5]]),
    -1: np.array([[0.0, 0.0, -2.0], [0.0, 0.0, -3.0]]),
}


@pytest.fixture
def splats() -> SplatParameters:
    return flat_splats(np.concatenate(list(PARTS.values())), SIZE)


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.cat([torch.full((len(part),), i, dtype=torch.int32) for i, part in PARTS.items()])


def _edits(*steps: Edit) -> InstanceEdits:
    edits = InstanceEdits()
    for step in steps:
        edits = edits.after(step, [info.id for info in INFOS])
    return edits


def _gather(
    splats: SplatParameters, ids: torch.Tensor, edits: InstanceEdits | None = None, clean_up: bool = True
) -> SplatInstances:
    return gather_splat_instances(splats, ids, INFOS, edits or InstanceEdits(), SplatInstancesConfig(clean_up=clean_up))


def _read_ids(path: Path) -> list[int]:
    read = read_splat_ply(path)[1]
    assert read is not None
    return read.tolist()


def _counts(path: Path) -> dict[int, int]:
    values, counts = np.unique(_read_ids(path), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def test_files(splats: SplatParameters, ids: torch.Tensor, tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as folder:
        gathered = _gather(splats, ids)
        files = write_splat_instances(folder, gathered, gathered.infos)
        write_instances_json(folder / "instances.json", gathered.infos, files=files)
    out = tmp_path / "out"
    assert files == {
        "1": {"splats": "splats/00001.ply"},
        "2": {"splats": "splats/00002.ply"},
        "5": {"splats": "splats/00005.ply"},
        "9": {},
    }
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.*")} == {
        "splats.ply",
        "instances.json",
        *(listed["splats"] for listed in files.values() if listed),
    }
    # What strayed is nobody's, and still there.
    assert _counts(out / "splats.ply") == {-1: 14, 0: 400, 1: 1000, 2: 300, 5: 1}
    assert _counts(out / "splats/00001.ply") == {1: 1000}
    assert torch.equal(read_splat_ply(out / "splats.ply")[0].means, splats.means)
    assert torch.equal(read_splat_ply(out / "splats/00002.ply")[0].means, splats.means[ids == 2])
    assert [info.category for info in read_instances_json(out / "instances.json")] == ["table", "cup", "pin", "lost"]


def test_without_clean_up(splats: SplatParameters, ids: torch.Tensor, tmp_path: Path) -> None:
    gathered = _gather(splats, ids, clean_up=False)
    write_splat_instances(tmp_path, gathered, gathered.infos)
    assert _counts(tmp_path / "splats.ply") == {-1: 2, 0: 400, 1: 1012, 2: 300, 5: 1}
    assert _counts(tmp_path / "splats/00001.ply") == {1: 1012}
    assert gathered.infos[0].box_world == _gather(splats, ids).infos[0].box_world


def test_boxes(splats: SplatParameters, ids: torch.Tensor) -> None:
    table, cup, pin, lost = _gather(splats, ids).infos
    assert table.box_world is not None
    assert cup.box_world is not None
    assert pin.box_world is not None
    np.testing.assert_allclose(table.box_world, (0, 0, 1, 1, 2, 1.5), atol=0.03)
    np.testing.assert_allclose(cup.box_world, (0.4, 0.4, 1.6, 0.5, 0.5, 1.8), atol=0.03)
    thin = SIZE * np.exp(-3)
    reach = np.array([SIZE, SIZE, thin])
    np.testing.assert_allclose(pin.box_world, [*(PARTS[5][0] - reach), *(PARTS[5][0] + reach)], atol=1e-6)
    assert lost.box_world is None


def test_a_known_box_stays(splats: SplatParameters, ids: torch.Tensor) -> None:
    known = (0.0, 0.0, 0.0, 9.0, 9.0, 9.0)
    infos = [replace(INFOS[0], box_world=known), *INFOS[1:]]
    gathered = gather_splat_instances(splats, ids, infos, InstanceEdits(), SplatInstancesConfig())
    assert gathered.infos[0].box_world == known
    assert gathered.infos[1].box_world is not None


def test_boxes_hold_the_bare_half_of_an_object() -> None:
    # 2500 Gaussians of 1 cm on one half of a table top, 16 of 15 cm on the other.
    bare = np.stack(np.meshgrid(np.arange(1.1, 2, 0.25), np.arange(0.1, 1, 0.25), [0.0]), axis=-1).reshape(-1, 3)
    splats = joined(flat_splats(_block((0, 0, 0), (1, 1, 0), 2500), 0.01), flat_splats(bare, 0.15))
    ids = torch.ones(len(splats), dtype=torch.int32)
    (info,) = gather_splat_instances(splats, ids, INFOS[:1], InstanceEdits(), SplatInstancesConfig()).infos
    assert info.box_world is not None
    np.testing.assert_allclose(info.box_world, (0, 0, 0, 2, 1, 0), atol=0.1)


def test_merged_instances(splats: SplatParameters, ids: torch.Tensor, tmp_path: Path) -> None:
    gathered = _gather(splats, ids, _edits(Edit("merge", (2, 1, 5)), Edit("rename", (2,), "breakfast")))
    files = write_splat_instances(tmp_path, gathered, gathered.infos)
    assert list(files) == ["2", "9"]
    # The pin is small and apart, yet no stray: the user says that it belongs.
    assert _counts(tmp_path / "splats/00002.ply") == {2: 1301}
    assert _counts(tmp_path / "splats.ply") == {-1: 14, 0: 400, 2: 1301}
    merged = gathered.infos[0]
    assert merged.name == "breakfast"
    assert merged.box_world is not None
    np.testing.assert_allclose(merged.box_world, (-1, -1, 0.5, 1, 2, 1.8), atol=0.03)


def test_hidden_instances_are_left_out_unless_wanted(
    splats: SplatParameters, ids: torch.Tensor, tmp_path: Path
) -> None:
    edits = _edits(Edit("hide", (1,)), Edit("hide", (2,)))
    gathered = _gather(splats, ids, edits)
    files = write_splat_instances(tmp_path, gathered, [info for info in gathered.infos if info.id in (2, 5)])
    assert list(files) == ["2", "5"]
    assert _counts(tmp_path / "splats.ply") == {-1: 14, 0: 400, 2: 300, 5: 1}
    isolated = _gather(splats, ids, _edits(Edit("isolate", (2,))))
    write_splat_instances(tmp_path / "alone", isolated, isolated.infos[1:2])
    assert _counts(tmp_path / "alone" / "splats.ply") == {2: 300}


def test_gaussians_that_cannot_be_drawn(splats: SplatParameters, ids: torch.Tensor, tmp_path: Path) -> None:
    splats.opacities[ids == 5] = -8.0
    splats.means[ids == 2] = float("nan")
    gathered = _gather(splats, ids)
    assert [info.box_world is None for info in gathered.infos] == [False, True, True, True]
    files = write_splat_instances(tmp_path, gathered, gathered.infos)
    assert files == {"1": {"splats": "splats/00001.ply"}, "2": {}, "5": {}, "9": {}}
    assert _counts(tmp_path / "splats.ply") == {-1: 14, 0: 400, 1: 1000}


def test_no_instances(splats: SplatParameters, tmp_path: Path) -> None:
    nobody = torch.zeros(len(splats), dtype=torch.int32)
    gathered = gather_splat_instances(splats, nobody, [], InstanceEdits(), SplatInstancesConfig())
    assert write_splat_instances(tmp_path, gathered, []) == {}
    assert _counts(tmp_path / "splats.ply") == {0: len(splats)}

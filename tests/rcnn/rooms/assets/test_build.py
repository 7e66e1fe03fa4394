"""From libraries to a pack: cleaning, decimation, splits, the command, and what users do wrong."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sh3f import STAIR_BOXES, STAIR_MTL, box_obj, png, row, write_library

from rcnn.rooms.assets import debian
from rcnn.rooms.assets.build import PackConfig, build_pack
from rcnn.rooms.assets.clean import drop_useless_faces, open_column_share, turn_outwards
from rcnn.rooms.assets.command import make_assets
from rcnn.rooms.assets.decimate import decimate
from rcnn.rooms.assets.model import Model, ModelInfo, Surface, face_areas
from rcnn.rooms.assets.pack import FurniturePack, shipped_pack
from rcnn.rooms.assets.split import SPLITS, assign_splits
from rcnn.rooms.assets.sweethome import Library
from rcnn.rooms.mesh import Material, Mesh, join
from rcnn.rooms.shapes import box, sheet, turned

WOOD = Material("wood")


def _as_model(mesh: Mesh) -> Model:
    low, high = mesh.bounds()
    size = np.maximum(high - low, 1e-3)
    info = ModelInfo("T#a", "Thing", "", "t", "CC0-1.0", "", (float(size[0]), float(size[1]), float(size[2])))
    faces = mesh.faces.astype(np.int32)
    zeros = np.zeros(len(faces), np.int32)
    return Model(info, mesh.vertices, faces, 0 * mesh.uv, (Surface((0.5, 0.5, 0.5)),), zeros, zeros > 0)


def _volume(model: Model) -> float:
    corners = model.vertices[model.faces]
    return float(np.einsum("fk,fk->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))) / 6


def test_fronts_are_turned_outwards():
    table = join(
        [box((1.0, 0.6, 0.04), WOOD, (0, 0, 0.72))]
        + [box((0.05, 0.05, 0.7), WOOD, (x, y, 0.35)) for x in (-0.45, 0.45) for y in (-0.25, 0.25)]
    )
    right = _as_model(table)
    rng = np.random.default_rng(1)
    wrong = right.faces.copy()
    for part in range(5):  # whole boxes inside out, and one of them mixed
        chosen = np.arange(len(wrong)) // (len(wrong) // 5) == part
        chosen &= rng.random(len(wrong)) < 0.5 if part == 2 else part % 2 == 0
        wrong[chosen] = wrong[chosen][:, ::-1]
    fixed = turn_outwards(replace(right, faces=wrong))
    assert _volume(fixed) == pytest.approx(_volume(right))
    assert not fixed.two_sided.any()
    assert open_column_share(fixed) == 0.0


def test_sheets_are_two_sided_and_solids_are_not():
    plate = sheet((-0.5, 0, 0.2), (1, 0, 0), (0, 0, 0.8), WOOD)
    crate = box((0.4, 0.4, 0.2), WOOD, (0, 0, 0.1))
    model = turn_outwards(_as_model(join([plate, crate])))
    assert model.two_sided[: len(plate.faces)].mean() > 0.95
    assert not model.two_sided[len(plate.faces) :].any()


def test_what_stands_on_the_floor_is_not_seen_from_below():
    cover = box((0.8, 0.8, 0.5), WOOD, (0, 0, 0.25))
    model = _as_model(cover)
    keep = model.vertices[model.faces][..., 2].max(1) > 1e-6
    bottomless = turn_outwards(replace(model, **_faces(model, keep)))
    assert not bottomless.two_sided.any()
    assert open_column_share(bottomless) == 1.0


def _faces(model: Model, keep: np.ndarray) -> dict:
    names = ("faces", "uv", "surface_of_face", "two_sided")
    return {name: getattr(model, name)[keep] for name in names}


def test_doubled_and_collapsed_faces_go():
    model = _as_model(box((1, 1, 1), WOOD))
    faces = np.concatenate([model.faces, model.faces[:5, ::-1], model.faces[:3, [0, 0, 1]]])
    rows = np.r_[np.arange(len(model.faces)), :5, :3]
    clean = drop_useless_faces(replace(model, **_faces(model, rows) | {"faces": faces}))
    assert len(clean.faces) == len(model.faces)


def test_decimation_keeps_shape_seams_and_borders():
    pytest.importorskip("meshoptimizer")
    ball = turned([(0.3 * np.sin(a), 0.3 - 0.3 * np.cos(a)) for a in np.linspace(0, np.pi, 60)], WOOD, segments=80)
    model = _as_model(ball)
    upper = (model.vertices[model.faces].mean(1)[:, 2] > 0.3).astype(np.int32)
    uv = np.stack([np.arctan2(*model.vertices[model.faces][..., :2].T).T, model.vertices[model.faces][..., 2]], -1)
    jump = np.ptp(uv[..., 0], axis=1) > np.pi  # the seam of a map around the ball
    uv[..., 0] += 2 * np.pi * (jump[:, None] & (uv[..., 0] < 0))
    surfaces = (Surface((1, 0, 0), png()), Surface((0, 1, 0), png(16, 16)))
    model = replace(model, uv=uv, surfaces=surfaces, surface_of_face=upper)
    small = decimate(drop_useless_faces(model), 900)
    assert len(small.faces) <= 1000 < len(model.faces) / 4
    assert _volume(small) == pytest.approx(_volume(model), rel=0.03)
    corners = small.vertices[small.faces]
    # the border between the surfaces stays a level line, and u still follows the angle on both sides of the seam
    assert corners[small.surface_of_face == 1][..., 2].min() == pytest.approx(
        model.vertices[model.faces][upper == 1][..., 2].min(), abs=0.01
    )
    angle = np.arctan2(corners[..., 0], corners[..., 1])
    away = np.hypot(corners[..., 0], corners[..., 1]) > 0.05
    error = (small.uv[..., 0] - angle + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(error[away]).max() < 1e-6
    assert np.ptp(small.uv[..., 0], axis=1).max() <= np.pi


def test_splits_are_disjoint_complete_and_stable():
    category_of = {
        f"{name}#{k}": name for name, count in (("chair", 33), ("tv", 3), ("bin", 2), ("rug", 1)) for k in range(count)
    }
    splits = assign_splits(category_of)
    assert set(splits) == set(category_of)
    counts = Counter((category_of[model_id], split) for model_id, split in splits.items())
    assert all(counts["chair", split] >= 5 for split in SPLITS)
    assert [counts["tv", split] for split in SPLITS] == [1, 1, 1]
    assert [counts["bin", split] for split in SPLITS] == [1, 0, 1]
    assert [counts["rug", split] for split in SPLITS] == [1, 0, 0]
    assert assign_splits(dict(reversed(category_of.items()))) == splits
    # what a smaller pack has decided stays, and families stay together
    first = dict(list(category_of.items())[20:])
    fixed = assign_splits(first)
    again = assign_splits(category_of, [[f"chair#{k}" for k in range(6)]], fixed)
    assert {model_id: again[model_id] for model_id in first} == fixed
    assert len({again[f"chair#{k}"] for k in range(6)}) == 1


STRETCHED = tuple(((x0 * 3, y0, z0), (x1 * 3, y1, z1)) for (x0, y0, z0), (x1, y1, z1) in STAIR_BOXES)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    rows = "".join(row(k, f"T#chair{k}", "Chair", "m/stair.obj", size=(80, 44, 68)) for k in range(3))
    rows += row(3, "T#giant", "Chair", "m/stair.obj", size=(600, 500, 900))
    rows += row(4, "T#glass", "Table", "g/stair.obj", size=(120, 66, 80))
    rows += row(5, "T#stretched", "Table", "s/stair.obj", size=(80, 60, 75))
    rows += row(6, "T#lost", "Table", "gone.obj", size=(120, 66, 80))
    rows += row(7, "T#car", "Racing car", "m/stair.obj")
    entries = {
        "m/stair.obj": box_obj(),
        "m/stair.mtl": STAIR_MTL,
        "m/wood.png": png(),
        "g/stair.obj": box_obj(),
        "g/stair.mtl": STAIR_MTL.replace("d 1", "d 0.2"),
        "s/stair.obj": box_obj(STRETCHED),
    }
    return write_library(tmp_path / "test.sh3f", rows, entries)


def test_build_keeps_the_good_and_says_why_not_the_rest(library: Path, tmp_path: Path):
    pytest.importorskip("meshoptimizer")
    shares: list[float] = []
    report = build_pack([library, library], tmp_path / "a.pack", advance=shares.append)
    assert [info.model_id for info in report.models] == ["T#chair0", "T#chair1", "T#chair2"]
    assert sorted(info.split for info in report.models) == ["test", "train", "val"]
    assert sum(shares) == pytest.approx(1.0)
    reasons = ["is no size of a chair", "transparent", "which is not in it", "stretched"]
    assert len(report.dropped) == 4
    for model_id, reason in zip(("T#giant", "T#glass", "T#lost", "T#stretched"), reasons, strict=True):
        assert reason in report.dropped[model_id]
    model = FurniturePack(tmp_path / "a.pack").load("T#chair0")
    assert model.info.open_columns == 0.0
    assert face_areas(model.vertices, model.faces).min() > 0
    build_pack([library], tmp_path / "b.pack", PackConfig(num_workers=2))
    assert (tmp_path / "a.pack").read_bytes() == (tmp_path / "b.pack").read_bytes()


def test_nothing_left_is_an_error(library: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="none of the libraries"):
        build_pack([library], tmp_path / "a.pack", PackConfig(licences=("MIT",)))
    assert [path.name for path in tmp_path.iterdir()] == ["test.sh3f"]


def test_command_writes_pack_and_attribution(library: Path, tmp_path: Path):
    pytest.importorskip("meshoptimizer")
    out = tmp_path / "new" / "big.pack"
    report = make_assets(out, [library], num_workers=1)
    assert len(FurniturePack(out).models) == len(report.models) == 3
    assert "A. Tester" in out.with_suffix(".md").read_text()


def _cli(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    code = "from rcnn.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=env)


def test_user_errors_are_one_line(tmp_path: Path):
    pytest.importorskip("meshoptimizer")
    result = _cli("rooms", "assets", "--out", str(tmp_path / "a.pack"), "--library", str(tmp_path / "gone.sh3f"))
    assert result.returncode == 1
    assert result.stderr == f"error: {tmp_path / 'gone.sh3f'}: there is no such furniture library\n"
    no_tools = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    result = _cli("rooms", "assets", "--out", str(tmp_path / "a.pack"), env=no_tools)
    assert result.returncode == 1
    assert result.stderr.startswith("error: apt-get is not on this machine: run `nerf-rcnn rooms assets --library")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_does_not_load_the_builder():
    code = (
        "import sys\nsys.argv = ['nerf-rcnn', 'rooms', 'assets', '--help']\nfrom rcnn.cli import main\n"
        "try: main()\nfinally: assert not {'cv2', 'torch', 'scipy', 'embreex'} & set(sys.modules), 'heavy'"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--library" in result.stdout


def test_real_library_rebuilds_the_shipped_models():
    """One model of the real library comes out as it was shipped."""
    pytest.importorskip("meshoptimizer")
    found = debian.installed_libraries() or debian.installed_libraries(debian.default_cache())
    path = next((path for path in found if path.stem == "BlendSwap-CC-0"), None)
    if path is None:
        pytest.skip("the Debian package sweethome3d-furniture is not here")
    from rcnn.rooms.assets.build import prepare_model

    shipped = shipped_pack().load("Blend Swap CC-0#table")
    with Library(path) as library:
        number = next(k for k, entry in enumerate(library.entries) if entry.info.model_id == shipped.info.model_id)
        model = prepare_model(library, number, PackConfig())
    assert isinstance(model, Model)
    assert len(model.faces) == len(shipped.faces)
    np.testing.assert_allclose(
        np.sort(face_areas(model.vertices, model.faces)).sum(),
        face_areas(shipped.vertices, shipped.faces).sum(),
        rtol=1e-3,
    )

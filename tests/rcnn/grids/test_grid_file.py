"""The density grid's file: round trip, memory mapping, and files that are not what they should be."""

import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rcnn.errors import InputError
from rcnn.grids import DensityGrid, read_density_grid, write_density_grid
from rcnn.grids.grid_file import mapped_grid
from rcnn.grids.npz import MAPPED_BYTES, read_npz, write_npz

SHAPE = (64, 48, 50)  # large enough to be mapped


@pytest.fixture(scope="module")
def grid() -> DensityGrid:
    random = np.random.default_rng(0)
    values = random.random((*SHAPE, 4), dtype=np.float32) * 3
    assert values.nbytes / 2 > MAPPED_BYTES
    frame = np.diag([2.0, 2.0, 2.0, 1.0])
    return DensityGrid(
        values, np.array([-1.0, 0, 0]), np.array([3.0, 3, 3.125]), "sigma", "cells", frame, random.random(SHAPE) < 0.5
    )


def _error(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("compress", [True, False])
def test_round_trip(tmp_path: Path, grid: DensityGrid, compress: bool):
    path = tmp_path / "new" / "a.npz"
    write_density_grid(path, grid, compress)
    read = read_density_grid(path)
    assert isinstance(read.rgbsigma, np.memmap) != compress
    assert read.rgbsigma.dtype == np.float16
    np.testing.assert_array_equal(read.rgbsigma, grid.rgbsigma.astype(np.float16))
    for name in ("bbox_min", "bbox_max", "world_from_scene", "seen"):
        np.testing.assert_array_equal(getattr(read, name), getattr(grid, name))
    assert (read.density_kind, read.origin, read.alpha_distance) == ("sigma", "cells", None)
    assert [file.name for file in path.parent.iterdir()] == ["a.npz"]
    with np.load(path, allow_pickle=False) as data:  # as anybody may read it
        assert data["rgbsigma"].shape == (*SHAPE, 4)
        assert str(data["density_kind"]) == "sigma"
        assert data["resolution"].tolist() == list(SHAPE)


def test_the_same_grid_is_the_same_bytes(tmp_path: Path, grid: DensityGrid):
    for name in ("a.npz", "b.npz"):
        write_density_grid(tmp_path / name, grid)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_densities_beyond_half_precision_are_its_largest_and_nan_is_refused(tmp_path: Path, grid: DensityGrid):
    values = grid.rgbsigma[:2, :2, :2].copy()
    values[0, 0, 0, 3] = 1e9
    small = replace(grid, rgbsigma=values, seen=None)
    write_density_grid(tmp_path / "a.npz", small)
    assert read_density_grid(tmp_path / "a.npz").rgbsigma[0, 0, 0, 3] == 65504
    values[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not numbers"):
        write_density_grid(tmp_path / "b.npz", small)
    assert not (tmp_path / "b.npz").exists()


def test_mapping_costs_no_memory_and_copies_are_made_once(tmp_path: Path, grid: DensityGrid):
    packed, plain, cache = tmp_path / "packed.npz", tmp_path / "plain.npz", tmp_path / "cache"
    write_density_grid(packed, grid)
    write_density_grid(plain, grid, compress=False)
    assert isinstance(mapped_grid(plain, cache).rgbsigma, np.memmap)
    assert not cache.exists()
    first = mapped_grid(packed, cache)
    assert isinstance(first.rgbsigma, np.memmap)
    np.testing.assert_array_equal(first.rgb_alpha(), read_density_grid(packed).rgb_alpha())
    (copy,) = cache.iterdir()
    before = copy.stat().st_mtime_ns
    mapped_grid(packed, cache)
    assert copy.stat().st_mtime_ns == before
    write_density_grid(packed, replace(grid, rgbsigma=grid.rgbsigma[:60], seen=None))
    assert mapped_grid(packed, cache).resolution[0] == 60


def test_density_kind_is_never_guessed(tmp_path: Path, grid: DensityGrid):
    path = tmp_path / "a.npz"
    write_density_grid(path, grid)
    assert "--density-kind" in _error(read_density_grid, path, "alpha")
    assert read_density_grid(path, "sigma").density_kind == "sigma"
    silent = {name: array for name, array in read_npz(path).items() if name != "density_kind"}
    write_npz(path, silent)
    assert "--density-kind" in _error(read_density_grid, path)
    assert read_density_grid(path, "alpha").density_kind == "alpha"
    write_npz(path, silent | {"density_kind": np.array("fog")})
    assert "fog" in _error(read_density_grid, path)


def test_files_that_are_no_grid(tmp_path: Path, grid: DensityGrid):
    path = tmp_path / "a.npz"
    assert "no such file" in _error(read_density_grid, path)
    path.write_bytes(b"PK nothing")
    assert "a.npz" in _error(read_density_grid, path)
    write_density_grid(path, grid, compress=False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "a.npz" in _error(read_density_grid, path)
    write_npz(path, {"rgbsigma": np.zeros((2, 2, 2, 4), np.float16)})
    assert "bbox_min" in _error(read_density_grid, path)
    for changed in ({"format_version": np.array(99)}, {"resolution": np.array([1, 2, 3])}, {"bbox_max": np.zeros(3)}):
        write_density_grid(path, grid)
        write_npz(path, read_npz(path) | changed)
        _error(read_density_grid, path)


class Canary:
    def __reduce__(self):
        return Path.mkdir, (Path("canary"),)


def test_pickles_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "a.npz", rgbsigma=np.array([Canary()], dtype=object), bbox_min=np.zeros(3), bbox_max=np.ones(3))
    assert "pickled" in _error(read_density_grid, tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("rgbsigma.npy", pickle.dumps(Canary()))
    _error(read_density_grid, tmp_path / "b.npz")
    assert not (tmp_path / "canary").exists()


def test_a_header_that_asks_for_too_much_is_refused_before_memory_is(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("rgbsigma.npy", "w") as member:
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 20, 64, 4)}
        np.lib.format.write_array_header_1_0(member, header)
    assert "too large" in _error(read_density_grid, tmp_path / "a.npz")

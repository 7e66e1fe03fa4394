"""PLY files of splats, read by trimesh and against nerfstudio's own writer."""

import inspect
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from nerfstudio.models.splatfacto import RGB2SH
from nerfstudio.scripts.exporter import ExportGaussianSplat
from some_splats import some_splats

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.splats.splat_parameters import SplatParameters
from instance_nerfstudio.splats.splat_ply import read_splat_ply, write_splat_ply

IDS = torch.tensor([-1, 0, 1, 70000, 2, 2, 1], dtype=torch.int32)


def _header(path: Path) -> list[str]:
    return path.read_bytes().split(b"end_header\n")[0].decode().splitlines()


def _assert_same(got: SplatParameters, expected: SplatParameters) -> None:
    for name, values in vars(expected).items():
        assert torch.equal(getattr(got, name), values), name


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("with_ids", [True, False])
def test_read_back(tmp_path: Path, degree: int, with_ids: bool) -> None:
    splats, ids = some_splats(7, degree), IDS if with_ids else None
    counts = write_splat_ply(tmp_path / "splats.ply", splats, ids)
    assert (counts.written, counts.not_finite, counts.transparent) == (7, 0, 0)
    read, read_ids = read_splat_ply(tmp_path / "splats.ply")
    _assert_same(read, splats)
    if ids is None:
        assert read_ids is None
    else:
        assert read_ids is not None
        assert read_ids.dtype == torch.int32
        assert torch.equal(read_ids, ids)
    assert [path.name for path in tmp_path.iterdir()] == ["splats.ply"]


def test_trimesh_finds_all_properties(tmp_path: Path) -> None:
    splats = some_splats(7, 3)
    write_splat_ply(tmp_path / "splats.ply", splats, IDS)
    cloud = trimesh.load(tmp_path / "splats.ply", process=False)
    assert isinstance(cloud, trimesh.PointCloud)
    np.testing.assert_array_equal(cloud.vertices, splats.means.numpy())
    data = cloud.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_array_equal(data["instance_id"].ravel(), IDS.numpy())
    np.testing.assert_array_equal(data["rot_3"].ravel(), splats.quats[:, 3])
    np.testing.assert_array_equal(data["scale_1"].ravel(), splats.scales[:, 1])
    np.testing.assert_array_equal(data["opacity"].ravel(), splats.opacities[:, 0])
    # Green of the third basis beyond the constant one: channels first.
    np.testing.assert_array_equal(data["f_rest_17"].ravel(), splats.features_rest[:, 2, 1])


def test_layout_of_nerfstudios_export(tmp_path: Path) -> None:
    splats = some_splats(5, 3)
    # As its `main` gathers them, which needs a model on a GPU.
    columns = OrderedDict((name, splats.means[:, axis].numpy()) for axis, name in enumerate("xyz"))
    columns |= {name: np.zeros(5, np.float32) for name in ("nx", "ny", "nz")}
    columns |= {f"f_dc_{i}": splats.features_dc[:, i].numpy() for i in range(3)}
    rest = splats.features_rest.transpose(1, 2).reshape(5, -1).numpy()
    columns |= {f"f_rest_{i}": rest[:, i] for i in range(45)} | {"opacity": splats.opacities[:, 0].numpy()}
    columns |= {f"scale_{i}": splats.scales[:, i].numpy() for i in range(3)}
    columns |= {f"rot_{i}": splats.quats[:, i].numpy() for i in range(4)}
    assert "shs_rest.transpose(1, 2)" in inspect.getsource(ExportGaussianSplat.main)
    ExportGaussianSplat.write_ply(str(tmp_path / "theirs.ply"), 5, columns)
    write_splat_ply(tmp_path / "ours.ply", splats)
    theirs, ours = (_header(tmp_path / name) for name in ("theirs.ply", "ours.ply"))
    assert [line for line in ours if "Generated" not in line] == [line for line in theirs if "Generated" not in line]
    bodies = [(tmp_path / name).read_bytes().split(b"end_header\n", 1)[1] for name in ("theirs.ply", "ours.ply")]
    assert bodies[0] == bodies[1]
    _assert_same(read_splat_ply(tmp_path / "theirs.ply")[0], splats)
    write_splat_ply(tmp_path / "ours.ply", splats, IDS[:5])
    assert _header(tmp_path / "ours.ply") == [*ours, "property int instance_id"]


def test_gaussians_that_cannot_be_drawn_are_left_out_and_counted(tmp_path: Path) -> None:
    splats = some_splats(7, 1)
    splats.means[0, 1] = float("nan")
    splats.features_rest[2, 0, 2] = float("inf")
    splats.opacities[3] = -6.0
    splats.opacities[2] = -6.0  # counted once
    counts = write_splat_ply(tmp_path / "splats.ply", splats, IDS)
    assert (counts.written, counts.not_finite, counts.transparent) == (4, 2, 1)
    read, ids = read_splat_ply(tmp_path / "splats.ply")
    _assert_same(read, splats.select(torch.tensor([1, 4, 5, 6])))
    assert ids is not None
    assert ids.tolist() == [0, 2, 2, 1]


def test_no_gaussians(tmp_path: Path) -> None:
    write_splat_ply(tmp_path / "splats.ply", some_splats(0, 3), IDS[:0])
    read, ids = read_splat_ply(tmp_path / "splats.ply")
    assert len(read) == 0
    assert read.features_rest.shape == (0, 15, 3)
    assert ids is not None
    assert len(ids) == 0


def test_properties_in_another_order_and_further_ones(tmp_path: Path) -> None:
    splats = some_splats(3, 0)
    path = tmp_path / "splats.ply"
    write_splat_ply(path, splats)
    read = {name: values for name, values in vars(splats).items()}
    names = ["opacity", "z", "y", "x", "rot_0", "rot_1", "rot_2", "rot_3", "scale_0", "scale_1", "scale_2"]
    names += ["f_dc_0", "f_dc_1", "f_dc_2"]
    table = np.zeros(3, [(name, "<f8") for name in names] + [("flag", "u1"), ("instance_id", "<i2")])
    for name in names:
        source = {"o": "opacities", "r": "quats", "s": "scales", "f": "features_dc"}.get(name[0], "means")
        place = "xyz".find(name) if source == "means" else int(name[-1]) if name != "opacity" else 0
        table[name] = read[source][:, place]
    table["instance_id"] = [-1, 5, 0]
    lines = ["ply", "format binary_little_endian 1.0", "obj_info other", "element vertex 3"]
    lines += [f"property double {name}" for name in names] + ["property uchar flag", "property short instance_id"]
    path.write_bytes("\n".join([*lines, "end_header", ""]).encode() + table.tobytes())
    got, ids = read_splat_ply(path)
    _assert_same(got, splats)
    assert ids is not None
    assert ids.tolist() == [-1, 5, 0]


def test_files_that_are_not_splats(tmp_path: Path) -> None:
    path = tmp_path / "good.ply"
    write_splat_ply(path, some_splats(3, 1), IDS[:3])
    good = path.read_bytes()
    id_line = b"property int instance_id"
    for name, data in {
        "empty": b"",
        "other": b"\x89PNG\r\n",
        "header cut": good[:200],
        "body cut": good[:-1],
        "body missing": good.split(b"end_header\n")[0] + b"end_header\n",
        "too long": good + b"\0",
        "huge count": good.replace(b"vertex 3", b"vertex 999999999999999"),
        "negative count": good.replace(b"vertex 3", b"vertex -3"),
        "no count": good.replace(b"vertex 3", b"vertex"),
        "no vertices": good.replace(b"element vertex", b"element faces"),
        "ascii": good.replace(b"binary_little_endian", b"ascii"),
        "big endian": good.replace(b"little", b"big"),
        "list": good.replace(id_line, b"property list uchar int instance_id"),
        "unknown type": good.replace(id_line, b"property half instance_id"),
        "twice": good.replace(id_line, b"property int x"),
        "no opacity": good.replace(b"opacity", b"opaque_"),
        "half a degree": good.replace(b"f_rest_8", b"g_rest_8"),
        "further harmonics": good.replace(id_line, b"property float f_rest_9"),
        "float ids": good.replace(id_line, b"property float instance_id"),
        "negative ids": good.replace(id_line, b"property int instance_id").replace(b"\1\0\0\0", b"\xfe\xff\xff\xff"),
        "no properties": b"ply\nformat binary_little_endian 1.0\nelement vertex 0\nend_header\n",
        "no element": b"ply\nformat binary_little_endian 1.0\nend_header\n",
        "not ascii": b"ply\nformat binary_little_endian 1.0\nelement vertex \xb2\nend_header\n",
        "random": b"ply\n" + np.random.default_rng(0).bytes(1 << 17),
    }.items():
        bad = tmp_path / "bad.ply"
        bad.write_bytes(data)
        with pytest.raises(InputError) as caught:
            read_splat_ply(bad)
        assert str(bad) in str(caught.value), name
        assert "\n" not in str(caught.value), name
    for missing in (tmp_path / "missing.ply", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_splat_ply(missing)


def test_ids_of_other_gaussians(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="7"):
        write_splat_ply(tmp_path / "splats.ply", some_splats(3, 0), IDS)
    assert not any(tmp_path.iterdir())


def test_splats_without_view_dependence_keep_their_colours() -> None:
    splats = some_splats(4, 0)
    params = torch.nn.ParameterDict({name: torch.nn.Parameter(values) for name, values in vars(splats).items()})
    read = SplatParameters.of(params)
    torch.testing.assert_close(read.features_dc, RGB2SH(splats.features_dc.sigmoid()))
    assert not read.means.requires_grad
    params = torch.nn.ParameterDict({n: torch.nn.Parameter(values) for n, values in vars(some_splats(4, 2)).items()})
    assert torch.equal(SplatParameters.of(params).features_dc, params["features_dc"])

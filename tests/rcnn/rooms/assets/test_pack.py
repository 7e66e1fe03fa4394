"""The pack format: what goes in comes out, the same bytes every time, and damage is told in one line."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sh3f import png

from rcnn.rooms.assets.model import Model, ModelInfo, Surface
from rcnn.rooms.assets.pack import MAGIC, FurniturePack, attribution, write_pack
from rcnn.rooms.mesh import Material
from rcnn.rooms.shapes import box, leaf


def _model(model_id: str = "T#a", image: bytes | None = None) -> Model:
    mesh = box((1.2, 0.6, 0.8), Material("wood"), (0, 0, 0.4), radius=0.05)
    surfaces = (Surface((0.2, 0.3, 0.4), opacity=0.9), Surface((0.8, 0.8, 0.8), image))
    surface = (mesh.vertices[mesh.faces].mean(1)[:, 2] > 0.4).astype(np.int32)
    uv = np.where((surface == 1)[:, None, None] & (image is not None), mesh.uv, 0.0)
    info = ModelInfo(model_id, "Box", "box", "t", "CC0-1.0", "A. Tester", (1.2, 0.6, 0.8), 0.0, 0.5, "train", 0.0)
    faces = mesh.faces.astype(np.int32)
    return Model(info, mesh.vertices, faces, uv, surfaces, surface, np.arange(len(faces)) % 7 == 0)


def test_round_trip(tmp_path: Path):
    models = [_model("T#b", png()), _model("T#a")]
    write_pack(tmp_path / "a.pack", models)
    pack = FurniturePack(tmp_path / "a.pack")
    assert [info.model_id for info in pack.models] == ["T#a", "T#b"]
    for model in models:
        back = pack.load(model.info.model_id)
        assert back.info == model.info
        assert back.surfaces == model.surfaces
        order = np.lexsort((model.two_sided, model.surface_of_face))
        np.testing.assert_allclose(back.vertices[back.faces], model.vertices[model.faces[order]], atol=1.2 / 16383)
        np.testing.assert_allclose(back.uv, model.uv[order], atol=2e-4)
        np.testing.assert_array_equal(back.surface_of_face, model.surface_of_face[order])
        np.testing.assert_array_equal(back.two_sided, model.two_sided[order])
    assert pack.of_split("train") == pack.models
    assert pack.of_split("test") == ()


def test_same_models_give_same_bytes(tmp_path: Path):
    models = [_model("T#a", png()), _model("T#b")]
    write_pack(tmp_path / "a.pack", models)
    write_pack(tmp_path / "b.pack", models[::-1])
    assert (tmp_path / "a.pack").read_bytes() == (tmp_path / "b.pack").read_bytes()
    pack = FurniturePack(tmp_path / "a.pack")
    write_pack(tmp_path / "c.pack", [pack.load(info.model_id) for info in pack.models])
    assert (tmp_path / "a.pack").read_bytes() == (tmp_path / "c.pack").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pack", "b.pack", "c.pack"]


def test_a_failed_write_leaves_the_old_pack(tmp_path: Path):
    path = tmp_path / "a.pack"
    write_pack(path, [_model()])
    before = path.read_bytes()
    empty = replace(_model(), faces=np.zeros((0, 3), np.int32), uv=np.zeros((0, 3, 2)))
    empty = replace(empty, surface_of_face=np.zeros(0, np.int32), two_sided=np.zeros(0, bool))
    with pytest.raises(ValueError, match="T#a: 0 triangles"):
        write_pack(path, [empty])
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.pack"]


def _load_all(path: Path) -> None:
    pack = FurniturePack(path)
    for info in pack.models:
        pack.load(info.model_id)


def test_damage_is_one_line_that_names_the_file(tmp_path: Path):
    write_pack(tmp_path / "good.pack", [_model("T#a", png())])
    good = (tmp_path / "good.pack").read_bytes()
    path = tmp_path / "bad.pack"
    rng = np.random.default_rng(0)
    broken = [b"", b"something else", MAGIC, good[:15], good[:40], good[:-1], good[: len(good) // 2]]
    broken.append(good[:8] + struct.pack("<I", 99) + good[12:])
    for position in rng.integers(8, len(good), 60):
        broken.append(good[:position] + bytes([good[position] ^ 0x55]) + good[position + 1 :])
    for content in broken:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.pack") as error:
            _load_all(path)
        assert "\n" not in str(error.value)


def test_a_missing_pack_and_an_unknown_model(tmp_path: Path):
    with pytest.raises(ValueError, match=r"gone\.pack: cannot read"):
        FurniturePack(tmp_path / "gone.pack")
    write_pack(tmp_path / "a.pack", [_model()])
    with pytest.raises(KeyError):
        FurniturePack(tmp_path / "a.pack").load("T#z")


def test_attribution_names_authors_and_licences():
    text = attribution([replace(_model().info, creator="Some|body")])
    assert "| Box | `T#a` | Some/body | t | CC0-1.0 |" in text


def test_leaves_pack_too(tmp_path: Path):
    mesh = leaf(0.4, 0.1, 0.5, Material("leaf"))
    info = replace(_model().info, size=(0.4, 0.1, 0.2))
    zeros = np.zeros(len(mesh.faces), np.int32)
    model = Model(
        info, mesh.vertices, mesh.faces.astype(np.int32), 0 * mesh.uv, (Surface((1, 1, 1)),), zeros, zeros > 0
    )
    write_pack(tmp_path / "a.pack", [model])
    assert len(FurniturePack(tmp_path / "a.pack").load("T#a").faces) == len(mesh.faces)

"""Reading Sweet Home 3D libraries: frames, sizes, materials, and archives that mean harm."""

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from sh3f import STAIR_MTL, box_obj, png, row, write_library

from rcnn.rooms.assets import sweethome
from rcnn.rooms.assets.classes import classify, furniture_classes
from rcnn.rooms.assets.conversion import model_images
from rcnn.rooms.assets.sweethome import Library, parse_properties
from rcnn.rooms.assets.wavefront import parse_mtl, parse_obj

ENTRIES = {"m/stair.obj": box_obj(), "m/stair.mtl": STAIR_MTL, "m/wood.png": png()}


def _load(path: Path, number: int = 0):
    with Library(path) as library:
        return library.load(library.entries[number])


def test_frame_size_and_materials(tmp_path: Path):
    rows = row(1, "T#stair", "Shelves", "/m/stair.obj", elevation=10, dropOnTopElevation=20)
    model, distortion = _load(write_library(tmp_path / "a.sh3f", rows, ENTRIES))
    low, high = model.vertices.min(0), model.vertices.max(0)
    np.testing.assert_allclose(low, [-0.4, -0.2, 0.0], atol=1e-12)
    np.testing.assert_allclose(high, [0.4, 0.2, 0.6], atol=1e-12)
    assert distortion == pytest.approx(1.0)
    # the low step was in front (+z in the file), so nothing in the front half reaches above a third
    assert model.vertices[model.vertices[:, 1] < -0.05][:, 2].max() == pytest.approx(0.2)
    assert model.info.elevation == pytest.approx(0.1)
    assert model.info.top == pytest.approx(0.2)
    assert (model.info.licence, model.info.creator, model.info.library) == ("CC0-1.0", "A. Tester", "a")
    wood, plain = model.surfaces
    assert wood.image is not None
    assert wood.colour == (0.85, 0.85, 0.85), "the black Kd beside a texture means nothing"
    assert plain.image is None
    assert plain.colour == pytest.approx((0.85, 0, 0))
    picture = next(iter(model_images(model).values()))
    assert picture[0, 0].argmax() == 0, "the first row is the top of the picture"
    assert (model.uv[model.surface_of_face == 1] == 0).all()
    assert model.faces.dtype == model.surface_of_face.dtype == np.int32


def test_model_rotation_comes_before_scaling(tmp_path: Path):
    quarter = "0 0 1 0 1 0 -1 0 0"  # about y (up): what was in front (+z) comes to +x
    rows = row(1, "T#stair", "Shelves", "m/stair.obj", size=(40, 80, 60), modelRotation=quarter)
    model, _ = _load(write_library(tmp_path / "a.sh3f", rows, ENTRIES))
    np.testing.assert_allclose(np.ptp(model.vertices, axis=0), [0.4, 0.8, 0.6])
    assert model.vertices[model.vertices[:, 0] > 0.05][:, 2].max() == pytest.approx(0.2)


def test_missing_texture_and_dead_material_library(tmp_path: Path):
    rows = row(1, "T#a", "Chair", "a/a.obj") + row(2, "T#b", "Chair", "b/b.obj") + row(3, "T#c", "Chair", "c/c.obj")
    rows += row(4, "T#d", "Chair", "d/d.obj")
    entries = {
        "a/a.obj": box_obj(),
        "a/stair.mtl": STAIR_MTL.replace("wood.png", "f:/images/wood.jpg"),
        "b/b.obj": box_obj(first_material="flltgrey", header="mtllib gone.mtl"),
        "d/d.obj": box_obj(header="mtllib renamed.mtl"),
        "d/stair.mtl": STAIR_MTL,
        "c/c.obj": box_obj(),
        "c/stair.mtl": STAIR_MTL,
        "c/wood.png": b"\x89PNG\r\n\x1a\n but no picture",
    }
    path = write_library(tmp_path / "a.sh3f", rows, entries)
    dead_texture, _ = _load(path, 0)
    assert dead_texture.surfaces[0].image is None
    assert dead_texture.surfaces[0].colour == (0.0, 0.0, 0.0), "Kd is all there is"
    built_in, _ = _load(path, 1)
    assert built_in.surfaces[0].colour == pytest.approx((0.8235, 0.8235, 0.8235), abs=1e-3)
    broken_texture, _ = _load(path, 2)
    assert broken_texture.surfaces[0].image is None
    renamed, _ = _load(path, 3)
    assert renamed.surfaces[1].colour == pytest.approx((0.85, 0, 0))


@pytest.mark.parametrize("model", ["../../etc/passwd", "m/../../x.obj", "gone.obj"])
def test_paths_out_of_the_archive_lead_nowhere(tmp_path: Path, model: str):
    (tmp_path / "x.obj").write_text(box_obj())
    path = write_library(tmp_path / "a.sh3f", row(1, "T#a", "Chair", model), ENTRIES)
    with pytest.raises(ValueError, match="which is not in it") as error:
        _load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_textures_out_of_the_archive_lead_nowhere(tmp_path: Path):
    (tmp_path / "wood.png").write_bytes(png())
    mtl = STAIR_MTL.replace("wood.png", "../../wood.png")
    entries = {"m/stair.obj": box_obj(), "m/stair.mtl": mtl}
    rows = row(1, "T#a", "Chair", "m/stair.obj")
    path = write_library(tmp_path / "a.sh3f", rows, entries)
    assert _load(path)[0].surfaces[0].image is None
    # what lies beside the model is all that a dead path can mean
    path = write_library(tmp_path / "b.sh3f", rows, entries | {"m/rug.png": png()})
    assert _load(path)[0].surfaces[0].image is not None


def test_wild_texture_coordinates_and_transparent_pictures(tmp_path: Path):
    obj = box_obj().replace("vt 1 1", "vt 3443870976 1")
    clear = cv2.imencode(".png", np.zeros((8, 8, 4), np.uint8))[1].tobytes()
    entries = {"m/stair.obj": obj, "m/stair.mtl": STAIR_MTL, "m/wood.png": clear}
    model, _ = _load(write_library(tmp_path / "a.sh3f", row(1, "T#a", "Chair", "m/stair.obj"), entries))
    assert np.abs(model.uv).max() <= 1
    assert model.surfaces[0].opacity == 0.0


def test_an_entry_that_swells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sweethome, "MAX_ENTRY_BYTES", 2000)
    bomb = {"m/stair.obj": "#" * 100_000}
    path = write_library(tmp_path / "a.sh3f", row(1, "T#a", "Chair", "m/stair.obj"), bomb)
    with pytest.raises(ValueError, match="larger than"):
        _load(path)


def test_a_picture_that_claims_to_be_huge_is_not_decoded():
    claim = png()[:16] + (60000).to_bytes(4, "big") * 2 + png()[24:]
    assert sweethome.shrink_image(claim) is None


@pytest.mark.parametrize("content", [b"", b"no zip at all"])
def test_files_that_are_no_library(tmp_path: Path, content: bytes):
    path = tmp_path / "a.sh3f"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a Sweet Home 3D library") as error:
        Library(path)
    assert str(path) in str(error.value)


def test_a_zip_without_catalogue_and_a_missing_file(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.sh3f", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(ValueError, match="no furniture catalogue"):
        Library(tmp_path / "a.sh3f")
    with pytest.raises(ValueError, match="no such file"):
        Library(tmp_path / "gone.sh3f")


@pytest.mark.parametrize("text", ["v 0 0 0\nf 1 2 3\n", "v 0 0 nan\nf 1 1 1\n", "v a b c\nf 1 1 1\n", "v 0 0 0\n"])
def test_broken_obj_text(text: str):
    with pytest.raises(ValueError, match="broken OBJ") as error:
        parse_obj(text)
    assert "\n" not in str(error.value)


def test_obj_polygons_with_dents_are_cut_without_overlap():
    # an L: its fan from the first corner would cover the notch
    outline = [(0, 0), (3, 0), (3, 1), (1, 1), (1, 3), (0, 3)]
    text = "".join(f"v {x} {y} 0\n" for x, y in outline) + "f -6 -5 -4 -3 -2 -1\nf 1//1 2//1 3//1\n"
    mesh = parse_obj(text)
    corners = mesh.vertices[mesh.faces]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] / 2
    assert (area > 0).all()
    assert area.sum() == pytest.approx(5.0 + 1.5)


def test_mtl_and_properties_dialects():
    material = parse_mtl("newmtl a b\n\tKd 1 1 1\n map_Kd -s 1 1 1 my wood.jpg\t\nd 0.4\n")["a b"]
    assert (material.texture, material.opacity) == ("my wood.jpg", 0.4)
    assert parse_properties("# c\na#1 = x\\u00e9 \\\n  y\n") == {"a#1": "xé y"}


def test_class_rules(tmp_path: Path):
    names = {
        "Bedside table": "nightstand",
        "Bed": "bed",
        "Corner sofa": "sofa",
        "Coffee table": "coffee_table",
        "Round table": "table",
        "Armchair": "armchair",
        "Filled bookcase": "bookshelf",
        "TV stand": "tv_stand",
        "Flat TV": "tv",
        "TV remote control": None,
        "Baby high chair": None,
        "Pool table": None,
    }
    rows = "".join(row(k, f"T#{k}", name, "m/stair.obj") for k, name in enumerate(names))
    rows += row(90, "eTeks#tvUnit", "TV unit", "m/stair.obj") + row(91, "T#door", "Bed", "x", doorOrWindow="true")
    rows += row(92, "T#tree", "Plant", "x").replace("Living room", "Exterior")
    with Library(write_library(tmp_path / "a.sh3f", rows, ENTRIES)) as library:
        found = [classify(entry) for entry in library.entries]
    assert [None if item is None else item.name for item in found] == [*names.values(), None, None, None]


def test_semantic_ids_are_distinct_and_sizes_ordered():
    classes = furniture_classes()
    assert sorted(item.semantic_id for item in classes.values()) == list(range(1, len(classes) + 1))
    for item in classes.values():
        assert all(low < high for low, high in zip(item.min_size, item.max_size, strict=True)), item.name

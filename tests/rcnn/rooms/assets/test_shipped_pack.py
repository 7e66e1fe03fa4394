"""The CC0 pack that comes with the package, and its models as room meshes."""

from collections import Counter
from importlib import resources

import numpy as np
import pytest

from rcnn.rooms.assets import FurniturePack, model_images, model_mesh, shipped_pack
from rcnn.rooms.assets.classes import furniture_classes
from rcnn.rooms.assets.contact_sheet import picture_of
from rcnn.rooms.assets.conversion import subdivide
from rcnn.rooms.piece import place
from rcnn.rooms.textures import paint_textures
from rcnn.rooms.voxels import voxelise

# Models that can be voxelised as solids, all classes in which that matters most.
SOLID = ("Blend Swap CC-0#couch", "Blend Swap CC-0#L_shaped_sofa", "Blend Swap CC-0#table", "Blend Swap CC-0#crate")


@pytest.fixture(scope="module")
def pack() -> FurniturePack:
    return shipped_pack()


def test_size_licence_and_attribution(pack: FurniturePack):
    assert pack.path.stat().st_size <= 5.5e6
    assert {info.licence for info in pack.models} == {"CC0-1.0"}
    text = resources.files("rcnn.rooms.assets").joinpath("ATTRIBUTION.md").read_text(encoding="utf-8")
    for info in pack.models:
        assert info.model_id in text
        assert info.creator


def test_rooms_can_be_furnished(pack: FurniturePack):
    counts = Counter(info.category for info in pack.models)
    assert len(pack.models) >= 50
    for category in ("bed", "sofa", "armchair", "chair", "table", "desk", "cabinet", "plant", "bookshelf", "stool"):
        assert counts[category] >= 2, category
    for split in ("train", "val", "test"):
        found = {info.category for info in pack.of_split(split)}
        assert {"bed", "sofa", "armchair", "chair", "table", "plant"} <= found, split
    assert len({info.model_id for info in pack.models}) == len(pack.models)


def test_every_model_is_sane(pack: FurniturePack):
    classes = furniture_classes()
    for info in pack.models:
        model = pack.load(info.model_id)
        assert classes[info.category].fits(info.size), info.model_id
        low, high = model.vertices.min(0), model.vertices.max(0)
        half = np.array(info.size[:2]) / 2
        np.testing.assert_allclose(low, [*-half, 0.0], atol=0.02, err_msg=info.model_id)
        np.testing.assert_allclose(high, [*half, info.size[2]], atol=0.02, err_msg=info.model_id)
        assert 100 <= len(model.faces) <= 8500, info.model_id
        assert 0 <= info.open_columns <= 1
        assert all(0 <= value <= 0.85 for surface in model.surfaces for value in surface.colour)
        for image in model_images(model).values():
            assert max(image.shape[:2]) <= 256
            assert image.mean() > 8, f"{info.model_id}: a black picture"


def test_meshes_for_rooms(pack: FurniturePack):
    for info in pack.models[::12]:
        model = pack.load(info.model_id)
        mesh = model_mesh(model)
        assert len(mesh.faces) <= max(6000, 2.5 * len(model.faces)) + model.two_sided.sum() * 2.5, info.model_id
        np.testing.assert_allclose(np.linalg.norm(mesh.normals[np.unique(mesh.faces)], axis=1), 1, atol=1e-6)
        corners = mesh.vertices[mesh.faces]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        agree = np.einsum("fk,fk->f", normal, mesh.normals[mesh.faces].mean(1)) > 0
        assert agree.mean() > 0.999, info.model_id
        atlas = paint_textures(0).with_images(model_images(model))
        assert {material.texture for material in mesh.materials} <= set(atlas.names)


def test_subdivision_keeps_surface_and_neighbours():
    vertices = np.array([[0, 0, 0], [2, 0, 0], [2, 0.3, 0], [0, 0.3, 0], [0, 0.3, 1.0]], float)
    faces = np.array([[0, 1, 2], [0, 2, 3], [3, 2, 4]])
    uv = vertices[faces][..., :2]
    cut, pieces, cut_uv, source = subdivide(vertices, faces, uv, 0.2)
    corners = cut[pieces]
    edges = np.linalg.norm(corners - corners[:, [1, 2, 0]], axis=2)
    assert edges.max() <= 0.2
    np.testing.assert_allclose(cut_uv, corners[..., :2], atol=1e-12)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    np.testing.assert_allclose(np.bincount(source, area), [0.3, 0.3, 1.0])
    # no vertex lies inside a neighbour's edge: every inner edge has two triangles
    keys = Counter(
        tuple(sorted(edge)) for face in pieces.tolist() for edge in zip(face, face[1:] + face[:1], strict=True)
    )
    rim = sum(np.linalg.norm(cut[a] - cut[b]) for (a, b), count in keys.items() if count == 1)
    assert rim == pytest.approx(2 + 0.3 + 0.3 + 1.0 + np.hypot(2, 1))
    assert max(keys.values()) == 2


def test_image_textures_sample_like_the_picture():
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:20, :, 0], picture[20:, :, 2] = 255, 255
    atlas = paint_textures(0).with_images({"image:a": picture})
    number = np.full(3, atlas.names.index("image:a"))
    uv = np.array([[0.3, 0.25], [0.3, 0.75], [7.3, -0.75]])
    values = atlas.look_up(number, uv, np.full(3, 1e-4, np.float32))
    np.testing.assert_allclose(values, [[1, 0, 0], [0, 0, 1], [1, 0, 0]], atol=1e-3)
    far = atlas.look_up(number, uv, np.full(3, 10.0, np.float32))
    np.testing.assert_allclose(far, [[0.5, 0, 0.5]] * 3, atol=0.03)
    with pytest.raises(ValueError, match="is taken"):
        atlas.with_images({"wood": picture})


def test_solid_and_open_models_fill_voxels(pack: FurniturePack):
    for model_id in (*SOLID, "Blend Swap CC-0#bed1", "Blend Swap CC-0#bed3"):
        model = pack.load(model_id)
        piece = place(model.info.category, model_mesh(model), 1.5, 1.5, 0.0, 0.4)
        grid = voxelise([piece], np.array([3.0, 3.0, 1.5]), 75)
        filled = grid.instances > 0
        z = np.nonzero(filled)[2]
        edge = 0.04
        assert (z.max() + 1) * edge == pytest.approx(model.info.size[2], abs=2 * edge)
        if model.info.category in ("bed", "sofa"):
            # a person lies on something solid: the middle column is filled well below its top
            column = filled[int(1.5 / edge), int(1.5 / edge)]
            top = np.nonzero(column)[0].max()
            assert column[top - 2 : top + 1].all(), model_id


def test_a_model_is_lit_and_shows_its_front(pack: FurniturePack):
    """The open side of a chair faces the camera of the left half; the right half shows the back of its rest."""
    picture = picture_of(pack.load("Blend Swap CC-0#chair2"), 64).astype(float)
    assert picture.shape == (64, 128, 3)
    red = (picture[..., 0] > 1.5 * picture[..., 1]) & (picture[..., 0] > 60)
    assert 200 < red[:52, :64].sum() < 1500, "the cushions, lit"
    assert red[:52, :64].sum() > 1.15 * red[:40, 64:].sum(), "the seat is hidden from behind"

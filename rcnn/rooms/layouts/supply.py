"""Where furniture comes from: models of one split of a pack, and parametric models where a class has few or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from rcnn.errors import InputError
from rcnn.rooms.assets import FurniturePack, model_images, model_mesh
from rcnn.rooms.assets.model import ModelInfo
from rcnn.rooms.colours import random_colour
from rcnn.rooms.layouts.parametric import LIBRARY, NUMBERS, SHAPES, build_parametric
from rcnn.rooms.mesh import Material, Mesh
from rcnn.rooms.palette import Palette

Size = tuple[float, float, float]

# Covers that come in any colour.
UPHOLSTERED = ("sofa", "armchair", "bed", "chair", "stool", "bench")
# Share of parametric models by how many models the pack has.
PARAMETRIC_SHARE = {0: 1.0, 1: 0.65, 2: 0.45, 3: 0.35, 4: 0.3}
FEW_PARAMETRIC = 0.2


class MissingModelError(InputError):
    """A pack has no model of a class for a split, and no parametric model stands in."""


@dataclass(frozen=True)
class Thing:
    """A piece of furniture that has no place yet."""

    category: str
    """Class."""
    mesh: Mesh
    """Own frame: footprint centred, standing on z = 0, front towards -y, metres."""
    asset: str
    """Id of the model."""
    library: str = LIBRARY
    """Furniture library."""
    elevation: float = 0.0
    """Height above the floor at which it hangs."""
    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Pictures that its materials name, (H, W, 3) uint8 sRGB."""

    @property
    def size(self) -> Size:
        """Width, depth and height in metres."""
        low, high = self.mesh.bounds()
        return float(high[0] - low[0]), float(high[1] - low[1]), float(high[2] - low[2])


def anything(size: Size) -> bool:
    """Accepts every size."""
    return True


class FurnitureSupply:
    """Draws furniture of one split; models of other splits cannot be reached through it."""

    def __init__(self, pack: FurniturePack, split: str):
        self.pack, self.split = pack, split
        self.models: dict[str, list[ModelInfo]] = {}
        for info in sorted(pack.of_split(split), key=lambda info: info.model_id):
            self.models.setdefault(info.category, []).append(info)
        if not self.models:
            raise InputError(f"{pack.path}: holds no models of the split {split}; make the pack anew or use another")
        self._load = lru_cache(maxsize=128)(self._read)

    def _read(self, model_id: str) -> tuple[Mesh, dict[str, np.ndarray]]:
        model = self.pack.load(model_id)
        return model_mesh(model), model_images(model)

    def draw(
        self,
        category: str,
        palette: Palette,
        rng: np.random.Generator,
        fits: Callable[[Size], bool] = anything,
        use: str = "",
        own_only: bool = False,
    ) -> Thing:
        """A random model that fits; `use` and `own_only` narrow the choice to parametric models for a purpose.

        Raises MissingModelError when neither the pack nor the parametric models have one.
        """
        models = [] if own_only else [info for info in self.models.get(category, []) if fits(info.size)]
        parametric = any(shape.use == use for shape in SHAPES.get(category, ()))
        share = PARAMETRIC_SHARE.get(len(models), FEW_PARAMETRIC) if parametric else 0.0
        if parametric and rng.random() < share:
            thing = self._parametric(category, palette, rng, fits, use)
            if thing is not None:
                return thing
        if not models:
            raise MissingModelError(
                f"{self.pack.path}: no {category} for the split {self.split} fits; use a pack with more models"
            )
        info = models[rng.integers(len(models))]
        mesh, images = self._load(info.model_id)
        mesh = _repaint(mesh, category, rng)
        return Thing(category, mesh, info.model_id, info.library, info.elevation, images)

    def _parametric(
        self, category: str, palette: Palette, rng: np.random.Generator, fits: Callable[[Size], bool], use: str
    ) -> Thing | None:
        for _ in range(12):
            mesh, asset = build_parametric(category, int(rng.integers(*NUMBERS[self.split])), use, palette)
            thing = Thing(category, mesh, asset)
            if fits(thing.size):
                return thing
        return None


def _repaint(mesh: Mesh, category: str, rng: np.random.Generator) -> Mesh:
    """The mesh in slightly other colours; covers of seats and beds without a picture often in quite another one."""
    area = np.bincount(mesh.material_of_face, _areas(mesh), len(mesh.materials))
    brightness = float(np.exp(rng.normal(0.0, 0.12)))
    hue = np.exp(rng.normal(0.0, 0.05, 3))
    gloss = float(rng.choice([0.0, 0.0, 0.05, 0.15]))
    cover = random_colour(rng, (0.05, 0.6), (0.3, 0.85))
    new_cover = category in UPHOLSTERED and rng.random() < 0.5
    main = int(np.argmax(area))
    materials: list[Material] = []
    for number, material in enumerate(mesh.materials):
        plain = not material.texture.startswith("image:")
        colour = np.array(cover if new_cover and plain and number == main else material.colour) * brightness * hue
        texture = "fabric" if new_cover and plain and number == main else material.texture
        shown = tuple(float(value) for value in np.clip(colour, 0.0, 0.85 if plain else 1.0))
        materials.append(replace(material, texture=texture, colour=shown, gloss=gloss))
    return replace(mesh, materials=tuple(materials))


def _areas(mesh: Mesh) -> np.ndarray:
    corners = mesh.vertices[mesh.faces]
    return np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)

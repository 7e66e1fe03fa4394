"""Parametric models: every class has a thousand of them, told apart by number and divided between the splits.

The number decides shape and details, the palette of a room the colours.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rcnn.rooms.furniture_bedroom import bed, nightstand, table_lamp, wardrobe
from rcnn.rooms.furniture_dining import bench, dining_chair, dining_table, round_table, stool
from rcnn.rooms.furniture_kitchen import counter, refrigerator, sink_counter, stove, wall_cabinet
from rcnn.rooms.furniture_living import (
    arc_lamp,
    armchair,
    bush,
    coffee_table,
    floor_lamp,
    floor_vase,
    low_table,
    pendant,
    plant,
    rug,
    snake_plant,
    sofa,
    television,
    tv_stand,
)
from rcnn.rooms.furniture_storage import (
    ball,
    bin_,
    book_stack,
    bowl,
    chest,
    cube_shelf,
    mug,
    radio,
    speaker,
    storage_box,
    table_vase,
)
from rcnn.rooms.furniture_study import bookshelf, desk, monitor, office_chair
from rcnn.rooms.mesh import Mesh
from rcnn.rooms.palette import Palette

# Half-open ranges of model numbers.
NUMBERS = {"train": (0, 700), "val": (700, 850), "test": (850, 1000)}
LIBRARY = "parametric"


@dataclass(frozen=True)
class Shape:
    """A builder and the sizes it is called with."""

    build: Callable[..., Mesh]
    """Takes a palette, a generator and sizes."""
    sizes: Mapping[str, tuple[float, float]]
    """Ranges of its keyword arguments: metres, or counts when both ends are integers."""
    use: str = ""
    """What a layout asks for when a class has pieces for several purposes."""


SHAPES: dict[str, tuple[Shape, ...]] = {
    "armchair": (Shape(armchair, {"width": (0.76, 0.98)}),),
    "ball": (Shape(ball, {"radius": (0.09, 0.14)}),),
    "bed": (
        Shape(bed, {"width": (1.35, 1.9), "length": (1.98, 2.15)}),
        Shape(bed, {"width": (0.85, 1.05), "length": (1.95, 2.1), "pillows": (1, 1)}),
    ),
    "bench": (Shape(bench, {"width": (0.8, 1.5), "depth": (0.34, 0.42)}),),
    "bin": (Shape(bin_, {"height": (0.26, 0.45)}),),
    "book": (Shape(book_stack, {"count": (2, 6)}),),
    "bookshelf": (
        Shape(bookshelf, {"width": (0.6, 1.2), "height": (1.5, 2.15)}),
        Shape(cube_shelf, {"columns": (1, 4), "rows": (2, 5), "cell": (0.33, 0.4)}),
    ),
    "box": (Shape(storage_box, {"width": (0.28, 0.55), "depth": (0.22, 0.4), "height": (0.16, 0.36)}),),
    "cabinet": (
        Shape(chest, {"width": (0.5, 1.7), "depth": (0.4, 0.5), "height": (0.6, 1.15)}, "chest"),
        Shape(counter, {"width": (0.45, 1.2)}, "counter"),
        Shape(wall_cabinet, {"width": (0.45, 1.2), "height": (0.5, 0.75)}, "wall"),
    ),
    "chair": (
        Shape(dining_chair, {"width": (0.4, 0.5), "height": (0.82, 1.02)}, "dining"),
        Shape(office_chair, {"height": (0.88, 1.02)}, "desk"),
    ),
    "coffee_table": (
        Shape(coffee_table, {"radius": (0.32, 0.48), "height": (0.36, 0.48)}),
        Shape(low_table, {"width": (0.8, 1.35), "depth": (0.45, 0.7), "height": (0.33, 0.48)}),
        Shape(low_table, {"width": (0.42, 0.5), "depth": (0.42, 0.5), "height": (0.42, 0.55)}, "side"),
    ),
    "computer": (Shape(monitor, {"width": (0.48, 0.62)}),),
    "desk": (Shape(desk, {"width": (1.0, 1.6), "height": (0.72, 0.77)}),),
    "electronics": (Shape(radio, {"width": (0.22, 0.4)}),),
    "floor_lamp": (Shape(floor_lamp, {"height": (1.35, 1.75)}), Shape(arc_lamp, {"height": (1.3, 1.75)})),
    "fridge": (Shape(refrigerator, {"width": (0.58, 0.75), "height": (1.4, 1.9)}),),
    "lamp": (Shape(table_lamp, {"height": (0.36, 0.6)}),),
    "nightstand": (Shape(nightstand, {"width": (0.38, 0.52), "height": (0.45, 0.6)}),),
    "oven": (Shape(stove, {}),),
    "pendant_lamp": (Shape(pendant, {"drop": (0.5, 0.9)}),),
    "plant": (
        Shape(plant, {"height": (0.8, 1.4)}),
        Shape(snake_plant, {"height": (0.6, 1.1)}),
        Shape(bush, {"height": (1.0, 1.8)}),
        Shape(snake_plant, {"height": (0.32, 0.5)}),
    ),
    "rug": (Shape(rug, {"width": (1.5, 2.6), "depth": (1.1, 1.8)}),),
    "sink": (Shape(sink_counter, {"width": (0.8, 1.2)}),),
    "sofa": (Shape(sofa, {"width": (1.5, 2.5)}),),
    "speaker": (Shape(speaker, {"height": (0.7, 1.1)}), Shape(speaker, {"height": (0.22, 0.34)}, "small")),
    "stool": (Shape(stool, {"height": (0.42, 0.5)}), Shape(stool, {"height": (0.65, 0.75)}, "high")),
    "table": (
        Shape(dining_table, {"width": (1.1, 2.1), "depth": (0.75, 1.0), "height": (0.73, 0.78)}),
        Shape(dining_table, {"width": (0.7, 0.95), "depth": (0.65, 0.8), "height": (0.73, 0.78)}),
        Shape(round_table, {"radius": (0.42, 0.65), "height": (0.73, 0.77)}),
    ),
    "tableware": (Shape(bowl, {"radius": (0.1, 0.17)}), Shape(mug, {"radius": (0.038, 0.05)})),
    "tv": (Shape(television, {"width": (0.75, 1.3)}),),
    "tv_stand": (Shape(tv_stand, {"width": (1.1, 1.9), "height": (0.38, 0.58)}),),
    "vase": (Shape(table_vase, {"height": (0.18, 0.38)}), Shape(floor_vase, {"height": (0.45, 0.65)}, "floor")),
    "wardrobe": (Shape(wardrobe, {"width": (0.95, 2.0), "height": (1.8, 2.2)}),),
}


def build_parametric(category: str, number: int, use: str, palette: Palette) -> tuple[Mesh, str]:
    """Model `number` of a class for a purpose, in its own frame, and its id."""
    shapes = [shape for shape in SHAPES[category] if shape.use == use]
    rng = np.random.default_rng((zlib.crc32(f"{category}/{use}".encode()), number))
    shape = shapes[rng.integers(len(shapes))]
    sizes = {
        name: int(rng.integers(low, int(high) + 1)) if isinstance(low, int) else float(rng.uniform(low, high))
        for name, (low, high) in shape.sizes.items()
    }
    label = f"{category}/{use}" if use else category
    mesh = shape.build(palette, rng, **sizes)
    mesh = mesh.moved((0.0, 0.0, -float(mesh.bounds()[0, 2])))  # feet of round rods end a little above the floor
    return mesh, f"{LIBRARY}#{label}-{number:03d}"

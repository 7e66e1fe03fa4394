"""Random colour schemes: woods, fabrics, paints, walls and floors that go together more or less."""

from __future__ import annotations

import colorsys

import numpy as np

from rcnn.rooms.mesh import Material, hex_colour
from rcnn.rooms.palette import Palette

WOODS = ("#c89a64", "#d8b486", "#b07f4e", "#9a6b43", "#7c5132", "#5b3a26", "#e2c9a2", "#c8a27a", "#8f8578", "#efe9df")
DARK_WOODS = ("#6e4a30", "#4d3426", "#3d2a20", "#2f2926", "#7d5a3c", "#54493f", "#d9d2c6", "#22211f")
METALS = ("#8d8f92", "#b9b6ae", "#5d5f63", "#a58b5a", "#2c2d30")
FLOORS = (
    # texture, colours, gloss
    ("planks", ("#c4996b", "#a87a50", "#d0ab7e", "#7d5637", "#dcc7a6", "#8e8378"), 0.25),
    ("parquet", ("#b98a58", "#97683f", "#cfa878", "#6d4a30"), 0.30),
    ("tiles", ("#d9d5cc", "#b9b2a6", "#8c8b89", "#c9a98a", "#e8e6e1", "#6f757a"), 0.40),
    ("fabric", ("#a79f94", "#8b8f96", "#b8a58c", "#6f7f78", "#8d6f66"), 0.0),
    ("marble", ("#dcd8d0", "#b7b3ac"), 0.45),
)
WALL_TEXTURES = ("plaster", "plaster", "plaster", "wallpaper", "panelling", "stripes")


def random_colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> tuple:
    """Linear RGB of any hue; saturation and value (of sRGB) lie in the given ranges."""
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return hex_colour(f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}")


def _near(rng: np.random.Generator, codes: tuple[str, ...], texture: str, gloss: float = 0.0) -> Material:
    colour = np.clip(
        np.array(hex_colour(codes[rng.integers(len(codes))])) * (1 + 0.06 * rng.normal(size=3)), 0.01, 0.82
    )
    return Material(texture, (float(colour[0]), float(colour[1]), float(colour[2])), gloss=gloss)


def random_palette(rng: np.random.Generator, wet_room: bool = False) -> Palette:
    """A colour scheme for one room; kitchens (`wet_room`) get floors that can be mopped."""
    floors = FLOORS[:3] if wet_room else FLOORS
    weights = np.array([0.2, 0.1, 0.7]) if wet_room else np.array([0.42, 0.18, 0.14, 0.18, 0.08])
    floor_texture, floor_colours, floor_gloss = floors[rng.choice(len(floors), p=weights)]
    wall = random_colour(rng, (0.02, 0.16), (0.82, 0.96))
    strong = random_colour(rng, (0.2, 0.5), (0.5, 0.85))
    accent_texture = WALL_TEXTURES[rng.integers(len(WALL_TEXTURES))]
    polish = float(rng.choice([0.0, 0.1, 0.3]))
    white = rng.random() < 0.4

    def cloth(texture: str, saturation: tuple[float, float], value: tuple[float, float]) -> Material:
        return Material(texture, random_colour(rng, saturation, value))

    fabric = ("fabric", "fabric", "leather", "plaid", "stripes")
    return Palette(
        wood=_near(rng, WOODS, "wood", polish),
        dark_wood=_near(rng, DARK_WOODS, "wood", polish),
        paint=_near(rng, ("#e9e3d6", "#e3e4e2", "#f0eee8"), "wood", polish)
        if white
        else Material("wood", random_colour(rng, (0.1, 0.5), (0.35, 0.9)), gloss=polish),
        linen=_near(rng, ("#ece6da", "#e6e8ea", "#d9cfc0", "#cfd6d8"), "fabric"),
        blanket=cloth(("plaid", "stripes", "fabric")[rng.integers(3)], (0.2, 0.7), (0.35, 0.85)),
        upholstery=cloth(fabric[rng.integers(len(fabric))], (0.05, 0.6), (0.25, 0.8)),
        accent=cloth(("stripes", "fabric", "plaid")[rng.integers(3)], (0.3, 0.8), (0.4, 0.9)),
        metal=_near(rng, METALS, "paper", 0.5),
        black=_near(rng, ("#26272a", "#33302d", "#1c1d20"), "paper", 0.3),
        wall=Material("plaster", wall),
        accent_wall=Material(accent_texture, strong if rng.random() < 0.6 else wall),
        floor=_near(rng, floor_colours, floor_texture, floor_gloss * float(rng.uniform(0.2, 1.0))),
        trim=_near(rng, ("#efece6", "#e6e1d6", "#cfc6b8"), "wood", 0.15),
    )

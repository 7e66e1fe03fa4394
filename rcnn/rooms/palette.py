"""Colour schemes: which woods, fabrics and paints one room is furnished with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rcnn.rooms.mesh import Material, hex_colour


@dataclass(frozen=True)
class Palette:
    """Materials shared by the pieces of one room."""

    wood: Material
    """Most cabinets and tables."""
    dark_wood: Material
    """Frames, legs and the desk top."""
    paint: Material
    """Painted fronts of wardrobe and TV stand."""
    linen: Material
    """Mattress, pillows and lamp shades."""
    blanket: Material
    """Bed cover."""
    upholstery: Material
    """Armchair."""
    accent: Material
    """Throw pillows, chair seat, vase."""
    metal: Material
    """Lamp stems, handles, chair base."""
    black: Material
    """Screens' frames and casters."""
    wall: Material
    """Three of the walls."""
    accent_wall: Material
    """The patterned wall."""
    floor: Material
    """Floor boards."""
    trim: Material
    """Skirting boards, window frame, door."""


SCHEMES = (
    # wood, dark wood, paint, blanket, upholstery, accent, wall, accent wall, floor
    ("#c89a64", "#6e4a30", "#e9e3d6", "#4f7ca8", "#c7793f", "#b8493c", "#e6ddcc", "#7fa08f", "#c4996b"),
    ("#d8b486", "#4d3426", "#7d9a8c", "#c8873f", "#3f6f7a", "#d9a441", "#e4e2da", "#c79a86", "#a87a50"),
    ("#b07f4e", "#3d2a20", "#dfe3e6", "#8a4f6d", "#7d8a52", "#e0c8a0", "#ddd8d0", "#6f8fae", "#d0ab7e"),
)


def choose_palette(rng: np.random.Generator) -> Palette:
    """One of the schemes with a little variation of every colour."""
    scheme = SCHEMES[rng.integers(len(SCHEMES))]

    def material(texture: str, code: str) -> Material:
        red, green, blue = np.clip(np.array(hex_colour(code)) * (1 + 0.06 * rng.normal(size=3)), 0.01, 0.9)
        return Material(texture, (float(red), float(green), float(blue)))

    wood, dark_wood, paint, blanket, upholstery, accent, wall, accent_wall, floor = scheme
    return Palette(
        wood=material("wood", wood),
        dark_wood=material("wood", dark_wood),
        paint=material("wood", paint),
        linen=material("fabric", "#ece6da"),
        blanket=material("plaid", blanket),
        upholstery=material("fabric", upholstery),
        accent=material("stripes", accent),
        metal=material("paper", "#8d8f92"),
        black=material("paper", "#26272a"),
        wall=material("plaster", wall),
        accent_wall=material("wallpaper", accent_wall),
        floor=material("planks", floor),
        trim=material("wood", "#efece6"),
    )

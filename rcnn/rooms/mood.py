"""The light of a room: time of day, lamps that are on, and how the camera sees it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rcnn.rooms.mesh import Material

DAYLIGHT = np.array([8.2, 9.4, 11.0])
LAMPLIGHT = np.array([11.0, 9.6, 7.6])


@dataclass(frozen=True)
class Mood:
    """Light sources and camera settings of one room."""

    name: str
    """`day`, `overcast`, `golden`, `mixed` or `evening`."""
    window: np.ndarray
    """(3,) radiance of the windows as area lights, linear RGB."""
    view: Material
    """What the windows show."""
    ceiling: np.ndarray
    """(3,) radiance of a ceiling panel of 0.6 square metres; zero where it is off."""
    lamp_glow: float
    """Factor on the light that shades of lamps give off."""
    exposure: float
    """Factor on the automatic exposure."""
    adaptation: float
    """How far white balance removes the colour of the light: 0 to 1."""
    noise: float
    """Standard deviation of sensor noise at mid-grey, as a share of full scale."""
    roughness: float
    """Blur of reflections: tangent of the half angle over which a mirrored light fades out."""


# Share of full lamplight that a part of a room without a window gets by day.
DIM = 0.5

# name, share of rooms, daylight, its tint, lamplight, view
KINDS = (
    ("day", 0.34, 1.0, (1.0, 1.0, 1.0), 0.0, 0.34),
    ("overcast", 0.18, 0.7, (0.93, 1.0, 1.08), 0.35, 0.26),
    ("golden", 0.12, 0.9, (1.45, 1.02, 0.62), 0.15, 0.30),
    ("mixed", 0.20, 0.6, (1.0, 1.0, 1.0), 0.9, 0.24),
    ("evening", 0.16, 0.02, (0.5, 0.7, 1.3), 1.0, 0.1),
)


def with_lamps(mood: Mood) -> Mood:
    """The mood with its ceiling lamps on at least dimly, for rooms that daylight does not reach everywhere."""
    return mood if mood.ceiling.mean() > DIM * LAMPLIGHT.mean() else replace(mood, ceiling=DIM * LAMPLIGHT)


def draw_mood(rng: np.random.Generator) -> Mood:
    """A random mood."""
    name, _, day, tint, lamp, view = KINDS[rng.choice(len(KINDS), p=[kind[1] for kind in KINDS])]
    warmth = np.array([1.0, rng.uniform(0.86, 1.0), rng.uniform(0.62, 0.98)])
    return Mood(
        name=name,
        window=DAYLIGHT * np.array(tint) * day * rng.uniform(0.7, 1.4),
        # at night a pane is dark and mirrors the room
        view=Material(
            "sky", (1.0, 1.0, 1.0) if day > 0.1 else (0.03, 0.04, 0.07), view * float(rng.uniform(0.8, 1.2)), 1.0
        ),
        ceiling=LAMPLIGHT * warmth * lamp * rng.uniform(0.7, 1.3),
        lamp_glow=float(rng.uniform(1.2, 2.5) if lamp >= 0.9 else rng.uniform(0.3, 1.0)),
        exposure=float(np.exp(np.clip(rng.normal(0.08, 0.16), -0.2, 0.35))),
        adaptation=float(rng.uniform(0.55, 0.95)),
        noise=float(rng.choice([0.001, 0.002, 0.004, 0.007])),
        roughness=float(rng.uniform(0.15, 0.4)),
    )

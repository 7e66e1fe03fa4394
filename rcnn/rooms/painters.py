"""Procedural textures: features a radiance field can lock on. Every painter returns one tileable square."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SIZE = 256

# Edge of one tile in metres. Textures not named here are laid over a surface once, with coordinates from 0 to 1.
PERIODS = {
    "plaster": 1.6,
    "wallpaper": 0.8,
    "wood": 1.0,
    "planks": 1.92,
    "fabric": 0.64,
    "plaid": 0.9,
    "stripes": 0.6,
    "speckle": 0.5,
    "paper": 0.3,
    "tiles": 1.2,
    "parquet": 0.96,
    "panelling": 1.2,
    "leather": 0.5,
    "marble": 1.5,
}


def _noise(rng: np.random.Generator, along_u: float, along_v: float) -> np.ndarray:
    """(S, S) tileable Gaussian noise, zero mean, unit variance; correlation lengths as shares of the tile."""
    fv, fu = np.meshgrid(np.fft.fftfreq(SIZE) * SIZE, np.fft.fftfreq(SIZE) * SIZE, indexing="ij")
    spectrum = np.exp(-2 * (np.pi * fu * along_u) ** 2 / 2 - 2 * (np.pi * fv * along_v) ** 2 / 2)
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(SIZE, SIZE))) * spectrum).real
    field -= field.mean()
    return field / field.std()


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """u (columns) and v (rows) of the texel centres in [0, 1)."""
    axis = (np.arange(SIZE) + 0.5) / SIZE
    v, u = np.meshgrid(axis, axis, indexing="ij")
    return u, v


def _grey(value: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(value, 0.02, 1.6)[..., None], 3, axis=-1)


def _plaster(rng: np.random.Generator) -> np.ndarray:
    return _grey(1 + 0.03 * _noise(rng, 0.06, 0.06) + 0.04 * _noise(rng, 0.02, 0.02) + 0.04 * _noise(rng, 0.008, 0.008))


def _wallpaper(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    cell_u, cell_v = (u * 4) % 1 - 0.5, (v * 4 + 0.5 * (np.floor(u * 4) % 2)) % 1 - 0.5
    diamond = np.abs(cell_u) + np.abs(cell_v)
    pattern = 0.16 * (np.abs(diamond - 0.38) < 0.05) - 0.20 * (diamond < 0.13) + 0.08 * (np.abs(diamond - 0.25) < 0.03)
    return _grey(1 + pattern + 0.03 * _noise(rng, 0.04, 0.04))


def _wood(rng: np.random.Generator) -> np.ndarray:
    _, v = _grid()
    ring = np.sin(2 * np.pi * (8 * v + 0.9 * _noise(rng, 0.12, 0.06)))
    grain = 1 + 0.10 * ring + 0.10 * _noise(rng, 0.12, 0.006) + 0.08 * _noise(rng, 0.2, 0.03)
    return _grey(grain) * (1 + 0.03 * _noise(rng, 0.1, 0.05)[..., None] * np.array([1.0, 0.2, -0.8]))


def _planks(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    rows = 16
    row = np.floor(v * rows).astype(int)
    joint = (u + rng.random(rows)[row]) % 1  # two boards per row and tile
    board = row * 2 + (joint > 0.5)
    tone = 0.82 + 0.36 * rng.random(2 * rows)[board]
    hue = 0.05 * rng.normal(size=(2 * rows, 3))[board]
    along = np.minimum(joint % 0.5, 0.5 - joint % 0.5)
    across = np.abs((v * rows) % 1 - 0.5)
    gap = np.where((across > 0.47) | (along < 0.003), 0.45, 1.0)
    grain = 1 + 0.10 * _noise(rng, 0.08, 0.004) + 0.06 * np.sin(2 * np.pi * (24 * v + 0.5 * _noise(rng, 0.08, 0.05)))
    return _grey(tone * grain * gap) * (1 + hue)


def _fabric(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    weave = np.sin(2 * np.pi * 32 * u) * np.sin(2 * np.pi * 32 * v)
    return _grey(1 + 0.08 * weave + 0.08 * _noise(rng, 0.03, 0.03) + 0.08 * _noise(rng, 0.008, 0.008))


def _plaid(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    value = np.full((SIZE, SIZE), 1.0)
    for axis in (u, v):
        value -= 0.28 * (np.abs(axis % (1 / 3) - 1 / 6) < 0.05)
        value += 0.25 * (np.abs(axis % (1 / 3)) < 0.012)
    tint = 1 + 0.22 * (np.abs(u % (1 / 3) - 1 / 6) < 0.05)[..., None] * np.array([1.0, 0.1, -0.6])
    return _grey(value + 0.05 * _noise(rng, 0.01, 0.01)) * tint


def _stripes(rng: np.random.Generator) -> np.ndarray:
    _, v = _grid()
    bands = np.where((v * 6) % 1 < 0.5, 1.12, 0.72) + 0.2 * (np.abs((v * 6) % 1 - 0.75) < 0.07)
    return _grey(bands + 0.06 * _noise(rng, 0.01, 0.01))


def _speckle(rng: np.random.Generator) -> np.ndarray:
    return _grey(1 - 0.3 * (_noise(rng, 0.01, 0.01) > 1.4) + 0.06 * _noise(rng, 0.05, 0.05))


def _paper(rng: np.random.Generator) -> np.ndarray:
    return _grey(1 + 0.05 * _noise(rng, 0.03, 0.08) + 0.05 * _noise(rng, 0.3, 0.01))


def _picture_hills(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    image = np.stack([0.55 + 0.35 * v, 0.50 + 0.22 * v, 0.62 - 0.15 * v], -1)
    image[(u - 0.68) ** 2 + (v - 0.27) ** 2 < 0.011] = (0.95, 0.75, 0.35)
    colours = ((0.30, 0.36, 0.50), (0.18, 0.30, 0.36), (0.10, 0.22, 0.18), (0.05, 0.11, 0.08))
    for k, colour in enumerate(colours):
        ridge = 0.45 + 0.13 * k
        for harmonic in range(1, 5):
            ridge = ridge + 0.07 / harmonic * np.sin(2 * np.pi * (harmonic * u + rng.random()))
        image[v > ridge] = colour
    return image


def _picture_shapes(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    image = np.full((SIZE, SIZE, 3), (0.80, 0.74, 0.62))
    palette = ((0.55, 0.10, 0.06), (0.05, 0.16, 0.30), (0.75, 0.45, 0.08), (0.06, 0.06, 0.06), (0.10, 0.35, 0.30))
    for k in range(11):
        cu, cv, size = 0.12 + 0.76 * rng.random(), 0.12 + 0.76 * rng.random(), 0.05 + 0.13 * rng.random()
        if k % 3:
            inside = (u - cu) ** 2 + (v - cv) ** 2 < size**2
        else:
            inside = (np.abs(u - cu) < 1.6 * size) & (np.abs(v - cv) < 0.35 * size)
        image[inside] = palette[k % len(palette)]
    return image


def _picture_waves(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    phase = v * 7 + 0.35 * np.sin(2 * np.pi * u * 1.5) + 0.25 * _noise(rng, 0.15, 0.15)
    palette = np.array([(0.04, 0.18, 0.28), (0.10, 0.40, 0.45), (0.75, 0.72, 0.60), (0.80, 0.35, 0.20)])
    return palette[np.floor(phase).astype(int) % len(palette)]


def _rug(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    edge = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v))
    cu, cv = (u * 6) % 1 - 0.5, (v * 4) % 1 - 0.5
    diamond = np.abs(cu) + np.abs(cv)
    image = np.full((SIZE, SIZE, 3), (0.34, 0.07, 0.06))
    image[diamond < 0.42] = (0.62, 0.50, 0.34)
    image[diamond < 0.30] = (0.07, 0.13, 0.24)
    image[diamond < 0.14] = (0.66, 0.36, 0.12)
    image[edge < 0.10] = (0.07, 0.13, 0.24)
    image[(edge < 0.10) & (((u + v) * 20) % 1 < 0.5) & (edge > 0.05)] = (0.62, 0.50, 0.34)
    image[edge < 0.025] = (0.62, 0.50, 0.34)
    return image * (1 + 0.10 * _noise(rng, 0.006, 0.006) + 0.06 * _noise(rng, 0.05, 0.05))[..., None].clip(0.4, 1.5)


def _screen(rng: np.random.Generator) -> np.ndarray:
    image = _picture_hills(rng) * np.array([0.7, 1.0, 1.2])
    u, v = _grid()
    image[(v > 0.80) & (v < 0.92) & (u > 0.06) & (u < 0.55)] = (0.75, 0.12, 0.06)
    image[(v > 0.84) & (v < 0.88) & (u > 0.09) & (u < 0.50) & ((u * 40) % 1 < 0.7)] = (0.95, 0.95, 0.95)
    return image


def _desktop(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    image = np.stack([0.06 + 0.10 * u, 0.12 + 0.18 * v, 0.35 + 0.20 * u], -1)
    image[(u > 0.08) & (u < 0.60) & (v > 0.12) & (v < 0.80)] = (0.90, 0.90, 0.88)
    text = (u > 0.12) & (u < 0.18 + 0.36 * rng.random(SIZE)[(np.floor(v * 18) * 13).astype(int) % SIZE])
    image[text & (v > 0.24) & (v < 0.76) & ((v * 18) % 1 < 0.45)] = (0.12, 0.12, 0.16)
    image[(u > 0.08) & (u < 0.60) & (v > 0.12) & (v < 0.19)] = (0.85, 0.40, 0.10)
    image[(u > 0.66) & (u < 0.93) & (v > 0.20) & (v < 0.65)] = (0.12, 0.55, 0.35)
    image[v > 0.93] = (0.03, 0.03, 0.05)
    return image


def _sky(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    image = np.stack([0.62 + 0.3 * v, 0.78 + 0.16 * v, 1.0 + 0 * v], -1)
    cloud = np.clip(_noise(rng, 0.10, 0.04), 0, 1.5)[..., None] * np.clip(0.7 - v, 0, 1)[..., None]
    image += cloud * (1.15 - image)
    ridge = 0.72 + 0.05 * np.sin(2 * np.pi * u) + 0.03 * np.sin(2 * np.pi * 3 * u + 1) + 0.02 * _noise(rng, 0.03, 0.03)
    image[v > ridge] = (0.32, 0.46, 0.28)
    image[v > ridge + 0.12] = (0.24, 0.36, 0.18)
    return image


def _leaf(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    across = np.abs(v - 0.5) * 2
    veins = 0.15 * (((u - 0.25 * across) * 14) % 1 < 0.25)
    value = 0.85 + 0.25 * u + veins - 0.2 * across + 0.45 * (across < 0.10)
    return _grey(value + 0.05 * _noise(rng, 0.03, 0.03))


def _tiles(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    count = 4
    tone = (0.92 + 0.12 * rng.random((count, count)))[np.floor(v * count).astype(int), np.floor(u * count).astype(int)]
    rim = np.minimum(*(np.minimum(axis * count % 1, 1 - axis * count % 1) for axis in (u, v)))
    return _grey(np.where(rim < 0.025, 0.62, tone) + 0.03 * _noise(rng, 0.03, 0.03) + 0.03 * _noise(rng, 0.008, 0.02))


def _parquet(rng: np.random.Generator) -> np.ndarray:
    """Squares of five staves each, turned by a right angle from square to square."""
    u, v = _grid()
    squares, staves = 4, 5
    row, column = np.floor(v * squares).astype(int), np.floor(u * squares).astype(int)
    upright = (row + column) % 2 == 0
    across, along = np.where(upright, u, v) * squares % 1 * staves, np.where(upright, v, u) * squares % 1
    stave = (row * squares + column) * staves + np.floor(across).astype(int)
    tone = 0.8 + 0.35 * rng.random(squares * squares * staves)[stave]
    gap = np.where((np.abs(across % 1 - 0.5) > 0.46) | (np.abs(along - 0.5) > 0.49), 0.6, 1.0)
    grain = np.where(upright, _noise(rng, 0.004, 0.06), _noise(rng, 0.06, 0.004))
    return _grey(tone * gap * (1 + 0.08 * grain)) * (1 + 0.04 * rng.normal(size=(squares * squares * staves, 3))[stave])


def _panelling(rng: np.random.Generator) -> np.ndarray:
    """Upright boards, for walls."""
    u, _ = _grid()
    boards = 10
    tone = 0.94 + 0.10 * rng.random(boards)[np.floor(u * boards).astype(int)]
    groove = np.where(np.abs(u * boards % 1 - 0.5) > 0.46, 0.6, 1.0)
    return _grey(tone * groove + 0.04 * _noise(rng, 0.004, 0.1))


def _leather(rng: np.random.Generator) -> np.ndarray:
    return _grey(1 + 0.10 * _noise(rng, 0.05, 0.05) - 0.12 * np.abs(_noise(rng, 0.012, 0.012)))


def _marble(rng: np.random.Generator) -> np.ndarray:
    vein = np.exp(-12 * np.abs(_noise(rng, 0.10, 0.10) + 0.5 * _noise(rng, 0.03, 0.03)))
    return _grey(1 - 0.35 * vein + 0.03 * _noise(rng, 0.05, 0.05))


PAINTERS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "plaster": _plaster,
    "wallpaper": _wallpaper,
    "wood": _wood,
    "planks": _planks,
    "fabric": _fabric,
    "plaid": _plaid,
    "stripes": _stripes,
    "speckle": _speckle,
    "paper": _paper,
    "picture_hills": _picture_hills,
    "picture_shapes": _picture_shapes,
    "picture_waves": _picture_waves,
    "rug": _rug,
    "screen": _screen,
    "desktop": _desktop,
    "sky": _sky,
    "leaf": _leaf,
    "tiles": _tiles,
    "parquet": _parquet,
    "panelling": _panelling,
    "leather": _leather,
    "marble": _marble,
}

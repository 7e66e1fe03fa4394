"""Building a pack: read the libraries, choose, clean, decimate, split, write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rcnn.rooms.assets.classes import classify, families
from rcnn.rooms.assets.clean import drop_useless_faces, open_column_share, turn_outwards
from rcnn.rooms.assets.decimate import decimate
from rcnn.rooms.assets.model import Model, ModelInfo, face_areas
from rcnn.rooms.assets.pack import write_pack
from rcnn.rooms.assets.split import assign_splits
from rcnn.rooms.assets.sweethome import Library
from rcnn.worker_pool import worker_pool

# A mesh whose proportions differ this much from the catalogue's was catalogued wrongly.
MAX_DISTORTION = 1.35
# Rooms show everything opaque: models with more glass than this share of their surface would look wrong.
MAX_GLASS_SHARE = 0.15
GLASS_OPACITY = 0.5
# Things smaller than this (metres) get fewer triangles: no view shows them large.
SMALL = 0.6


@dataclass(frozen=True)
class PackConfig:
    """What goes into a pack."""

    max_faces: int = 8000
    """Triangles of a model, about."""
    max_faces_small: int = 3000
    """Triangles of a model shorter than 0.6 m along every axis, about."""
    licences: tuple[str, ...] = ()
    """SPDX names that are let in; all when empty."""
    model_ids: tuple[str, ...] = ()
    """Only these models; all when empty."""
    num_workers: int = 1
    """Processes that clean and decimate. Does not change the result."""


@dataclass
class BuildReport:
    """What became of the catalogue's rows."""

    models: list[ModelInfo] = field(default_factory=list)
    """The models that were packed."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Why a model of a class that rooms want was left out, by model id."""

    def counts(self) -> Counter[str]:
        """Number of packed models by class."""
        return Counter(info.category for info in self.models)


def build_pack(
    libraries: Sequence[Path],
    output: Path,
    config: PackConfig = PackConfig(),
    fixed_splits: Mapping[str, str] | None = None,
    advance: Callable[[float], object] = lambda share: None,
) -> BuildReport:
    """Writes a pack of all models of the libraries that rooms can use.

    `fixed_splits` are splits by model id that another pack has decided. `advance` is called with shares of the work
    that add up to 1. The file appears only when it is complete. Raises ValueError in one line for a library that
    cannot be read, when no model is left, or when meshoptimizer is missing.
    """
    report = BuildReport()
    jobs = [(path, chosen, config) for path in libraries for chosen in _chunks(path, config)]
    total = sum(len(chosen) for _, chosen, _ in jobs)
    if config.num_workers > 1:
        with worker_pool(config.num_workers) as pool:
            futures = [pool.submit(_prepare_chunk, *job) for job in jobs]
            models = _collect((future.result() for future in futures), report, total, advance)
    else:
        models = _collect((_prepare_chunk(*job) for job in jobs), report, total, advance)
    if not models:
        raise ValueError("none of the libraries holds a model that a room can use: check --library")
    category_of = {model.info.model_id: model.info.category for model in models}
    splits = assign_splits(category_of, families(), fixed_splits)
    models = [replace(model, info=replace(model.info, split=splits[model.info.model_id])) for model in models]
    report.models = sorted((model.info for model in models), key=lambda info: info.model_id)
    write_pack(output, models)
    return report


def _chunks(path: Path, config: PackConfig, size: int = 4) -> list[list[int]]:
    """Rows of a library's catalogue that a room may want, a few at a time."""
    with Library(path) as library:
        rows = [
            row
            for row, entry in enumerate(library.entries)
            if classify(entry)
            and (not config.licences or entry.info.licence in config.licences)
            and (not config.model_ids or entry.info.model_id in config.model_ids)
        ]
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _prepare_chunk(path: Path, rows: Collection[int], config: PackConfig) -> list[tuple[str, Model | str]]:
    with Library(path) as library:
        return [(library.entries[row].info.model_id, prepare_model(library, row, config)) for row in rows]


def _collect(
    results: Iterable[list[tuple[str, Model | str]]],
    report: BuildReport,
    total: int,
    advance: Callable[[float], object],
) -> list[Model]:
    models: dict[str, Model] = {}
    for chunk in results:
        for model_id, result in chunk:
            if isinstance(result, str):
                report.dropped[model_id] = result
            else:
                models.setdefault(model_id, result)  # the same library given twice
        advance(len(chunk) / total)
    return list(models.values())


def prepare_model(library: Library, row: int, config: PackConfig) -> Model | str:
    """The cleaned, decimated model of a catalogue row, or the reason why rooms cannot use it."""
    entry = library.entries[row]
    category = classify(entry)
    if category is None:
        return "no class wants it"
    if not category.fits(entry.info.size):
        return f"{' x '.join(f'{edge:.2f}' for edge in entry.info.size)} m is no size of a {category.name}"
    try:
        model, distortion = library.load(entry)
    except ValueError as error:
        return str(error)
    if distortion > MAX_DISTORTION:
        return f"the mesh is stretched {distortion:.2f} times to the size in the catalogue"
    area = face_areas(model.vertices, model.faces)
    glass = np.array([surface.opacity < GLASS_OPACITY for surface in model.surfaces])[model.surface_of_face]
    if area[glass].sum() > MAX_GLASS_SHARE * area.sum():
        return f"{100 * area[glass].sum() / area.sum():.0f} % of it is transparent"
    limit = config.max_faces_small if max(entry.info.size) < SMALL else config.max_faces
    model = decimate(drop_useless_faces(model), limit)
    if len(model.faces) > 2 * limit:
        return f"{len(model.faces)} triangles are left after decimation"
    model = turn_outwards(_settle(model))
    info = replace(model.info, category=category.name, open_columns=round(open_column_share(model), 4))
    return replace(model, info=info)


def _settle(model: Model) -> Model:
    """Centred and standing on the floor again, with its size as it is: decimation may take the outermost leaves."""
    low, high = model.vertices.min(0), model.vertices.max(0)
    offset = np.array([*(low + high)[:2] / 2, low[2]])
    size = tuple(round(float(edge), 6) for edge in high - low)
    info = replace(model.info, size=(size[0], size[1], size[2]))
    return replace(model, info=info, vertices=model.vertices - offset)
